"""Goals, and searches for the composition that is nearest to them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import grouped_sites
from scipy.optimize import linprog

import alchemjax as aj
from alchemjax.tasks import constraints, descent, goals
from alchemjax.tasks.properties import PROPERTIES

# --- goals ------------------------------------------------------------------------------------------------------------


def test_goals_are_read_from_texts_and_tables():
    table = {"a": 5.45, "bulk_modulus": ">=150", "energy": "min", "density": "<= 3"}
    expected = [("a", "=", 5.45), ("bulk_modulus", ">=", 150.0), ("energy", "min", 0.0), ("density", "<=", 3.0)]
    assert list(map(tuple, goals.parse_goals(table))) == expected
    texts = ["a=5.45", "bulk_modulus >= 150", "energy=min", "density<=3"]
    assert list(map(tuple, goals.parse_goals(texts))) == expected
    for wrong, message in {
        "a": "not understood",
        "a=big": "not understood",
        "hardness=3": "'hardness' is no property",
        "a>=min": "not understood",
    }.items():
        with pytest.raises(ValueError, match=message):
            goals.parse_goals(wrong)
    with pytest.raises(ValueError, match="there is no target"):
        goals.parse_goals([])


def test_losses_count_misses_in_tolerances(rng):
    wanted = goals.parse_goals(["a=5", "bulk_modulus>=150", "density<=3", "energy=min", "c<=4"])
    values = np.array([5.002, 149.0, 2.9, -3.0, 4.001])
    units = np.array([PROPERTIES[goal.name].tolerance for goal in wanted])
    jacobian = rng.normal(size=(5, 3)) * units[:, None]
    loss, gradient, curvature = goals.goals_loss(wanted, values, jacobian)
    assert loss == pytest.approx(2 + 2 + 0 - 3000 + 0.5)
    slopes = jacobian / units[:, None]
    np.testing.assert_allclose(gradient, 2 * slopes[0] - 2 * slopes[1] + slopes[3] + slopes[4], rtol=1e-9)
    np.testing.assert_allclose(curvature, sum(np.outer(slopes[k], slopes[k]) for k in (0, 1, 4)), rtol=1e-9)
    missed = goals.misses(wanted, dict(zip([goal.name for goal in wanted], values, strict=True)))
    np.testing.assert_allclose(missed, [2, 2, 0, 0, 1], rtol=1e-6)


@pytest.mark.parametrize("text", ["bulk_modulus>=150", "bulk_modulus<=150", "bulk_modulus=150", "bulk_modulus=max"])
def test_what_is_not_a_number_is_no_success(text):
    loss, *_ = goals.goals_loss(goals.parse_goals(text), np.array([np.nan]), np.full((1, 2), np.nan))
    assert np.isnan(loss)


def test_extremes_count_so_little_that_other_targets_are_hit(rng):
    wanted = goals.parse_goals(["a=5", "energy=min"])
    units = np.array([PROPERTIES[goal.name].tolerance for goal in wanted])
    slopes = np.array([[3.0, -3.0], [40.0, -20.0]])  # in tolerances; what composition may follow is (1, -1)
    sideways = lambda row: row - row.mean()
    share = goals.share_of_extremes(wanted, np.stack([slopes, 0.1 * slopes]) * units[:, None], sideways)
    assert share == pytest.approx(0.1 / (30 / 3))
    lost = np.full((2, 2, 2), np.nan)
    assert goals.share_of_extremes(wanted, lost, sideways) == 1
    assert goals.share_of_extremes(wanted[1:], slopes[None, 1:] * units[1], sideways) == 1
    values = np.array([5.0, -2.0])
    one, other = (goals.goals_loss(wanted, values, slopes * units[:, None], part) for part in (1.0, share))
    assert other[0] == pytest.approx(share * one[0]) and one[0] == pytest.approx(-2000)
    np.testing.assert_allclose(other[1], share * slopes[1])


# --- searches ---------------------------------------------------------------------------------------------------------


def quadratic(weights, least, stiff):
    return float(np.sum(stiff * (weights - least) ** 2)) / 2, stiff * (weights - least)


@pytest.mark.parametrize("entropic", [False, True])
@pytest.mark.parametrize("least", [[0.5, 0.2, 0.2, 0.1], [0.9, 0.6, -0.4, -0.1]])
@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_searches_find_the_least_of_a_steep_valley(entropic, least, share):
    """With and without most of its curvature known."""
    allowed = constraints.make_constraints(grouped_sites(["Li", "Mg", "Al", "Zn"]), np.full(4, 0.25))
    stiff = np.array([3e5, 1e4, 5e4, 1e5])
    known = share * np.diag(stiff)
    search = descent.start(np.full(4, 0.25))
    for _ in range(150):
        loss, gradient = quadratic(search.trial, np.array(least), stiff)
        how = {"allowed": allowed, "tolerance": 1e-6, "entropic": entropic}
        search = descent.advance_by_line_search(search, loss, gradient, known, True, **how)
        if search.done:
            break
    assert search.done == descent.CONVERGED
    others = constraints.random_weights(allowed, 50, np.random.default_rng(0))
    slopes = (others - search.weights) @ search.gradient
    assert slopes.min() > -1e-6 * stiff.max()  # the condition of an optimum on a convex set


@pytest.mark.parametrize("entropic", [False, True])
@pytest.mark.parametrize("bent", [0.0, 1e-3, 1e-2])
@pytest.mark.parametrize("targets", [1, 2, 3])
def test_searches_hit_targets_that_are_nearly_linear(entropic, bent, targets):
    """As the density of a fixed cell is: nothing but round-off is left of the curvature that is not known."""
    allowed = constraints.make_constraints(grouped_sites(["Li", "Mg", "Al", "Zn"]), np.full(4, 0.25))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        slopes, goal = rng.normal(size=(targets, 4)) * 1e3, rng.dirichlet(np.ones(4))
        of = lambda w, slopes=slopes: slopes @ (w + bent * w**2)
        search = descent.start(np.full(4, 0.25))
        while not search.done:
            miss = of(search.trial) - of(goal)
            by = slopes * (1 + 2 * bent * search.trial)
            told = float(miss @ miss) / 2, by.T @ miss, by.T @ by, True
            search = descent.advance_by_line_search(search, *told, allowed=allowed, tolerance=1e-6, entropic=entropic)
        assert search.loss < 1e-3


@pytest.mark.parametrize("seed", range(6))
def test_the_nearest_of_distant_compositions_is_found_in_stiff_metrics(seed):
    """The condition of an optimum on a convex set, by a linear programme."""
    rng = np.random.default_rng(seed)
    for stiff in (1, 1e4, 1e8):
        allowed = constraints.make_constraints(grouped_sites(["Li", "Mg", "Al", "Zn"]), rng.dirichlet(np.ones(4)))
        if seed % 2:
            rows, inside = rng.normal(size=(2, 4)), rng.dirichlet(np.ones(4))
            allowed = allowed._replace(most=rows, at_most=rows @ inside + 0.02)
        valley = rng.normal(size=(4, 1 + seed % 3))
        metric = np.eye(4) + stiff * valley @ valley.T
        away = np.linalg.solve(metric, rng.normal(size=4))
        given = rng.dirichlet(np.ones(4)) + away * descent.FARTHEST / np.abs(away).max()
        near = constraints.nearest(allowed, given, metric=metric)
        slope = metric @ (near - given) / np.abs(metric @ (near - given)).max()
        best = linprog(slope, allowed.most, allowed.at_most, allowed.equal, allowed.equal_to, [(0, 1)] * 4)
        assert constraints.violation(allowed, near) < 1e-9 and slope @ near < best.fun + 1e-6


def test_steep_extremes_beside_a_target_neither_end_a_search_nor_miss_it():
    """Total energies of the elements differ by electron volts; what is aimed at lies between the end members."""
    wanted = goals.parse_goals(["a=3.9", "energy=min"])
    allowed = constraints.make_constraints(grouped_sites(["Li", "Mg", "Al"]), np.full(3, 1 / 3))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        ends = np.stack([3.9 + np.array([-0.1, 0.05, 0.1]), 10 * rng.uniform(size=3)])
        search, share = descent.start(rng.dirichlet(np.ones(3))), None
        while not search.done:
            values, jacobian = ends @ search.trial + 0.01 * search.trial[0] ** 2, ends + 0
            jacobian[:, 0] += 0.02 * search.trial[0]
            if share is None:
                share = goals.share_of_extremes(wanted, jacobian[None], partial(constraints.along, allowed))
            told = *goals.goals_loss(wanted, values, jacobian, share), True
            search = descent.advance_by_line_search(search, *told, allowed=allowed, tolerance=1e-5, entropic=False)
        missed = goals.misses(wanted, {"a": ends[0] @ search.weights + 0.01 * search.weights[0] ** 2, "energy": 0.0})
        assert search.done in (descent.CONVERGED, descent.NOTHING_BETTER) and max(missed) < 1, seed


def test_a_slope_that_is_zero_by_symmetry_is_no_optimum():
    allowed = constraints.make_constraints(grouped_sites(["Li", "Mg"]), np.array([0.5, 0.5]))
    told = (0.0, np.zeros(2), np.zeros((2, 2)), True)
    how = {"tolerance": 1e-4, "entropic": False}
    flat = descent.advance_by_line_search(descent.start(np.array([0.5, 0.5])), *told, allowed=allowed, **how)
    assert flat.done == descent.FLAT
    only = constraints.make_constraints(grouped_sites(["Li", "Mg"]), np.array([0.5, 0.5]), ["Li = 0.5"])
    fixed = descent.advance_by_line_search(descent.start(np.array([0.5, 0.5])), *told, allowed=only, **how)
    assert fixed.done == descent.CONVERGED


@pytest.mark.parametrize(("rate", "ended"), [(1e-9, descent.TOO_SMALL), (0.3, descent.CONVERGED)])
def test_small_steps_of_an_optimiser_are_no_convergence(rate, ended):
    allowed = constraints.make_constraints(grouped_sites(["Li", "Mg"]), np.array([0.5, 0.5]))
    search, how = descent.start(np.array([0.9, 0.1])), {"optimiser": optax.sgd(rate), "sizes": (2,)}
    for _ in range(300):
        loss, gradient = quadratic(search.trial, np.array([0.3, 0.7]), np.full(2, 4.0))
        search = descent.advance_by_optimiser(search, loss, gradient, None, True, allowed, 1e-4, **how)
        if search.done:
            break
    assert search.done == ended
    assert (abs(search.weights[0] - 0.3) < 2e-3) == (ended == descent.CONVERGED)


def test_searches_step_back_from_what_has_no_state():
    allowed = constraints.make_constraints(grouped_sites(["Li", "Mg"]), np.array([0.5, 0.5]))
    search, seen = descent.start(np.array([0.5, 0.5])), []
    for _ in range(200):
        known = search.trial[0] < 0.55
        seen.append(search.trial[0])
        how = {"allowed": allowed, "tolerance": 1e-4, "entropic": False}
        flat = np.zeros((2, 2))
        search = descent.advance_by_line_search(search, -search.trial[0], np.array([-1.0, 0.0]), flat, known, **how)
        if search.done:
            break
    assert max(seen) > 0.55 and search.weights[0] == pytest.approx(0.55, abs=2e-3)
    assert search.done == "compositions next to it have no relaxed state"
    lost = descent.advance_by_line_search(descent.start(np.array([0.5, 0.5])), np.nan, np.zeros(2), flat, False, **how)
    assert lost.done == "the first composition has no relaxed state"


def test_exponentiated_gradient_is_an_optimiser_that_keeps_sums():
    sizes, weights = (3, 2), jnp.array([0.2, 0.3, 0.4, 0.5, 0.5])
    gradient = jnp.array([1.0, -1.0, 0.5, 2.0, 2.0])
    optimiser = optax.chain(optax.clip(10.0), aj.exponentiated_gradient(0.1, sizes))
    step = jax.jit(jax.vmap(lambda w, g: optimiser.update(g, optimiser.init(w), w)[0]))
    moved = weights + step(weights[None], gradient[None])[0]
    scaled = np.asarray(weights) * np.exp(-0.1 * np.asarray(gradient))
    expected = np.concatenate([0.9 * scaled[:3] / scaled[:3].sum(), scaled[3:] / scaled[3:].sum()])
    np.testing.assert_allclose(moved, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="needs the weights"):
        aj.exponentiated_gradient(0.1, sizes).update(gradient, optax.EmptyState())
