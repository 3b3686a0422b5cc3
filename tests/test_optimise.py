"""Optimised compositions: goals, allowed compositions, searches, and optima against grids."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ase import Atoms
from ase.build import bulk
from pair_potential import A, lennard_jones
from scipy.interpolate import make_interp_spline
from scipy.optimize import linprog

import alchemjax as aj
from alchemjax.system.sites import Group, make_sites
from alchemjax.tasks import constraints, descent, goals
from alchemjax.tasks.properties import PROPERTIES, facts_of, properties_of
from alchemjax.units import EV_PER_A3_IN_GPA


@pytest.fixture(scope="module")
def potential():
    """Krypton is larger, and everything feels more than pairs."""
    return lennard_jones(embedding=0.02, krypton=(1.15, 1.0))


@pytest.fixture(scope="module")
def argon():
    return aj.from_atoms(bulk("Ar", "fcc", 1.025 * A), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])


OPTIONS = {"cell": "hydrostatic"}
PLAIN = [name for name, one in PROPERTIES.items() if not one.elastic]


def salt(*species, counts=(1,)):
    groups, site = [], 0
    for k, (held, number) in enumerate(zip(species, counts, strict=True)):
        groups.append(Group(f"g{k}", tuple(range(site, site + number)), tuple(held)))
        site += number
    return make_sites(["H"] * site + ["O"], tuple(groups))


# --- allowed compositions ---------------------------------------------------------------------------------------------


def test_conditions_are_read_as_they_are_written():
    sites = salt(["Li", "Mg", "Al"], ["Mg", "Zn"], counts=(1, 3))
    weights = np.array([0.2, 0.3, 0.4, 0.5, 0.5])
    texts = ["2*Li + 3Al - g0:Mg = 0.5", "Mg <= 0.4", "-Zn>=-.9"]
    found = constraints.make_constraints(sites, weights, texts)
    np.testing.assert_allclose(found.equal, [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [2, -1, 3, 0, 0]])
    np.testing.assert_allclose(found.equal_to, [0.9, 1.0, 0.5])  # a group keeps its sum, with its vacancies
    np.testing.assert_allclose(found.most, [[0, 0.25, 0, 0.75, 0], [0, 0, 0, 0, 1]])  # means over sites
    np.testing.assert_allclose(found.at_most, [0.4, 0.9])


def test_vacancies_that_are_named_may_change():
    sites, weights = salt(["Li", "Mg"]), np.array([0.2, 0.6])
    found = constraints.make_constraints(sites, weights, ["vacancy <= 0.3"], {"Li": 1, "Mg": 2, "O": -1.5})
    np.testing.assert_allclose(found.equal, [[1, 2]])
    np.testing.assert_allclose(found.equal_to, [1.5])  # charge of the ordinary atoms
    np.testing.assert_allclose(found.most @ weights - found.at_most, [-0.2, -0.1])
    near = constraints.nearest(found, np.array([1.0, 1.0]))
    np.testing.assert_allclose(near, [0.5, 0.5], atol=1e-9)


@pytest.mark.parametrize("entropic", [False, True])
def test_nearest_compositions_are_allowed_and_nearest(entropic, rng):
    sites = salt(["Li", "Mg", "Al", "Zn"])
    allowed = constraints.make_constraints(sites, np.full(4, 0.25), ["Zn <= 0.3", "Li + 2*Mg + 3*Al = 1.7"])
    given = np.array([0.9, 0.4, 0.05, 0.7])
    bent, about = 1e3 * np.outer(*[[1, -1, 2, 0.5]] * 2), np.array([0.3, 0.3, 0.2, 0.2])
    if entropic:
        near = constraints.nearest_by_entropy(allowed, given, bent, about)
        distance = lambda w: np.sum(w * np.log(w / given) - w) + (w - about) @ bent @ (w - about) / 2
    else:
        near, distance = constraints.nearest(allowed, given), lambda w: np.sum((w - given) ** 2)
    assert constraints.violation(allowed, near) < 1e-9
    others = constraints.random_weights(allowed, 40, rng)
    assert max(constraints.violation(allowed, one) for one in others) < 1e-9
    others = near + 0.01 * (others - near)  # the problem is convex
    assert all(distance(near) < distance(one) + 1e-12 for one in others)
    assert np.ptp(others, axis=0).min() > 1e-4


@pytest.mark.parametrize(
    ("texts", "charges", "message"),
    [
        (["Li < 0.5"], None, "'Li < 0.5' is not understood"),
        (["Li Mg = 0.5"], None, "is not understood"),
        (["Li = a"], None, "is not understood"),
        (["Zr = 0.5"], None, "'Zr = 0.5' is not understood; .* of Li, Mg, vacancy"),
        (["Li >= 0.6", "Mg >= 0.7"], None, "no composition fulfils all conditions .* comes closest"),
        ([], {"Li": 1, "O": -2}, "charges of Mg are missing"),
        ([], {"Li": 1, "Mg": 2, "O": -2, "K": 1}, "charges name K"),
        ([], {"Li": 1, "Mg": 2, "O": -4}, "charges that add up to nothing.; g0:Li = 0, g0:Mg = 1 comes closest"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(texts, charges, message):
    with pytest.raises(ValueError, match=message):
        constraints.make_constraints(salt(["Li", "Mg"]), np.array([0.5, 0.5]), texts, charges)


def test_conditions_that_follow_from_others_change_nothing():
    sites = salt(["Na", "K"])
    once = constraints.make_constraints(sites, np.array([0.5, 0.5]), ["K = 0.3"])
    twice = constraints.make_constraints(
        sites, np.array([0.5, 0.5]), ["K = 0.3", "Na = 0.7", "2 Na + 2K = 2"], {"Na": 1, "K": 1, "O": -1}
    )
    assert len(twice.equal) == 2
    for allowed in (once, twice):
        given = np.array([0.9, 0.8])
        near = constraints.nearest(allowed, given), constraints.nearest_by_entropy(allowed, given, np.eye(2), given)
        np.testing.assert_allclose(near, [[0.7, 0.3]] * 2, atol=1e-9)


def test_names_of_groups_may_hold_anything():
    group = Group("Ce/Zr", (0,), ("Ce", "Zr")), Group("0,1", (1,), ("C", "Ca"))
    sites = make_sites(["H", "H"], group)
    found = constraints.make_constraints(sites, np.full(4, 0.5), ["Ce/Zr:Zr - 0,1:Ca - C <= 0.25", "2*Ca-Ce<=1"])
    np.testing.assert_allclose(found.most, [[0, 1, -1, -1], [-1, 0, 0, 2]])


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
    allowed = constraints.make_constraints(salt(["Li", "Mg", "Al", "Zn"]), np.full(4, 0.25))
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
    allowed = constraints.make_constraints(salt(["Li", "Mg", "Al", "Zn"]), np.full(4, 0.25))
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
        allowed = constraints.make_constraints(salt(["Li", "Mg", "Al", "Zn"]), rng.dirichlet(np.ones(4)))
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
    allowed = constraints.make_constraints(salt(["Li", "Mg", "Al"]), np.full(3, 1 / 3))
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
    allowed = constraints.make_constraints(salt(["Li", "Mg"]), np.array([0.5, 0.5]))
    told = (0.0, np.zeros(2), np.zeros((2, 2)), True)
    how = {"tolerance": 1e-4, "entropic": False}
    flat = descent.advance_by_line_search(descent.start(np.array([0.5, 0.5])), *told, allowed=allowed, **how)
    assert flat.done == descent.FLAT
    only = constraints.make_constraints(salt(["Li", "Mg"]), np.array([0.5, 0.5]), ["Li = 0.5"])
    fixed = descent.advance_by_line_search(descent.start(np.array([0.5, 0.5])), *told, allowed=only, **how)
    assert fixed.done == descent.CONVERGED


@pytest.mark.parametrize(("rate", "ended"), [(1e-9, descent.TOO_SMALL), (0.3, descent.CONVERGED)])
def test_small_steps_of_an_optimiser_are_no_convergence(rate, ended):
    allowed = constraints.make_constraints(salt(["Li", "Mg"]), np.array([0.5, 0.5]))
    search, how = descent.start(np.array([0.9, 0.1])), {"optimiser": optax.sgd(rate), "sizes": (2,)}
    for _ in range(300):
        loss, gradient = quadratic(search.trial, np.array([0.3, 0.7]), np.full(2, 4.0))
        search = descent.advance_by_optimiser(search, loss, gradient, None, True, allowed, 1e-4, **how)
        if search.done:
            break
    assert search.done == ended
    assert (abs(search.weights[0] - 0.3) < 2e-3) == (ended == descent.CONVERGED)


def test_searches_step_back_from_what_has_no_state():
    allowed = constraints.make_constraints(salt(["Li", "Mg"]), np.array([0.5, 0.5]))
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


# --- properties and optima --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("coupling", "alpha"), [("independent", None), ("correlated", 0.2), ("paired", None)])
def test_every_property_has_the_slope_of_finite_differences(potential, coupling, alpha):
    """Of a crystal without symmetry, by its composition."""
    atoms = bulk("Ar", "fcc", 1.01 * A)
    atoms.set_cell(atoms.cell.array @ [[1.02, 0.01, 0], [0.01, 0.99, 0.02], [0, 0.02, 1]], scale_atoms=True)
    system = aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[0.6, 0.4], coupling=coupling)
    free = {"cell": [1, 1, 0, 1, 0, 1], "fixed_axes": (), "positions": True}
    facts = facts_of(potential, system, PROPERTIES, alpha=alpha)
    plain = [name for name, one in PROPERTIES.items() if not one.elastic]
    elastic = [name for name, one in PROPERTIES.items() if one.elastic]

    def numbers(names, state, w):
        return jnp.stack(list(properties_of(facts, names, state(w)).values()))

    for names, state in (
        (plain, lambda w: aj.relaxed(potential, system, w, alpha=alpha, **free)),
        (elastic, lambda w: aj.elasticity(potential, system, w, alpha=alpha)),
    ):
        of = partial(numbers, names, state)
        weights, along, step = jnp.array([0.6, 0.4]), jnp.array([1.0, -1.0]), 1e-4
        found = jax.jvp(of, (weights,), (along,))[1]
        expected = (of(weights + step * along) - of(weights - step * along)) / (2 * step)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.1


def test_values_are_those_of_other_programs(potential, argon):
    found = aj.optimise(potential, argon, "a=1", evaluations=1, starts=1, properties=PLAIN, cell=True)
    relaxed = aj.relax(potential, argon, cell=True, force_tolerance=1e-6, stress_tolerance=1e-9)
    ends = [float(aj.relax(potential, argon, w, cell=True).output.energy) for w in np.eye(2)]
    atoms = aj.to_atoms(argon._replace(structure=relaxed.structure))
    stress = -relaxed.output.stress.trace() / 3 * EV_PER_A3_IN_GPA
    mass = 0.5 * 39.948 + 0.5 * 83.798
    expected = dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), atoms.cell.cellpar(), strict=True))
    expected |= {"volume": atoms.get_volume(), "density": mass * 1.66053906660 / atoms.get_volume()}
    energy = float(relaxed.output.energy)
    expected |= {"energy": energy, "mixing_energy": energy - sum(ends) / 2, "pressure": stress}
    for name, value in expected.items():
        assert found.values[name] == pytest.approx(value, abs=2e-6), name
    assert found.values["mixing_energy"] > 5e-4


@pytest.mark.parametrize("optimiser", ["projected", "mirror"])
def test_optima_are_those_of_a_grid(potential, argon, optimiser):
    rows = np.array([[1 - x, x] for x in np.linspace(0, 1, 11)])
    table = aj.sweep(potential, argon, rows, cell="hydrostatic", force_tolerance=1e-6, stress_tolerance=1e-9)
    lengths = np.linalg.norm(table.cell[:, 0], axis=1)
    wanted = float(np.interp(0.37, rows[:, 1], lengths))
    found = aj.optimise(potential, argon, {"a": wanted}, starts=3, optimiser=optimiser, **OPTIONS)
    spline = make_interp_spline(rows[:, 1], lengths)
    assert spline(found.weights[1]) == pytest.approx(wanted, abs=1e-4)
    assert found.reached and found.converged and len(found.path) < 15
    assert np.ptp(found.ends[:, 1]) < 2e-3  # whatever the start
    np.testing.assert_allclose(np.linalg.norm(found.structure.cell[0]), found.values["a"], rtol=1e-12)


def test_bounds_that_hold_at_the_start_are_hit(potential, argon):
    found = aj.optimise(potential, argon, {"volume": ">=1"}, starts=1, **OPTIONS)
    assert found.reached and found.converged and len(found.path) == 1 and "all targets are hit" in found.message


def test_what_cannot_be_reached_is_said_with_the_closest(potential, argon):
    conditions = ["Kr <= 0.8"]
    found = aj.optimise(potential, argon, {"a": 9.0}, starts=2, conditions=conditions, **OPTIONS)
    np.testing.assert_allclose(found.weights, [0.2, 0.8], atol=1e-6)
    assert found.reached is False and found.converged
    assert found.message.startswith("a = 9 A is not reached, the closest is 3.8")
    least = aj.optimise(potential, argon, {"density": "max"}, starts=2, conditions=conditions, **OPTIONS)
    np.testing.assert_allclose(least.weights, [0.2, 0.8], atol=1e-6)
    assert least.reached is None and least.converged


def test_states_far_from_the_given_structure_are_found(potential):
    """The list of neighbours is made again until it holds."""
    near, far = (
        aj.from_atoms(bulk("Ar", "fcc", stretch * A), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
        for stretch in (1.02, 1.16)
    )
    assert not aj.relaxed(potential, far, **OPTIONS).listed
    options = {"start": [0.5, 0.5], "starts": 1, "evaluations": 3, **OPTIONS}
    one, two = (aj.optimise(potential, system, {"a": 3.8}, **options) for system in (near, far))
    np.testing.assert_allclose(two.weights, one.weights, atol=1e-5)
    assert two.values["a"] == pytest.approx(one.values["a"], abs=1e-6)


def size_loss(state):
    return 1e6 * (jnp.linalg.norm(state.cell[0]) - 3.75) ** 2


@pytest.mark.parametrize(
    ("optimiser", "parameters"), [(optax.adam(0.1), "softmax"), (aj.exponentiated_gradient(2e-5, [2]), "weights")]
)
def test_optimisers_of_optax_and_functions_of_the_user(potential, argon, optimiser, parameters):
    options = {"start": [0.5, 0.5], "starts": 1, "evaluations": 100, "tolerance": 1e-3, **OPTIONS}
    expected = aj.optimise(potential, argon, size_loss, **options)
    found = aj.optimise(potential, argon, size_loss, optimiser=optimiser, parameters=parameters, **options)
    assert expected.loss < 0.01
    np.testing.assert_allclose(found.weights, expected.weights, atol=5e-3)
    assert found.reached is None and len(expected.path) < len(found.path) < 100


@pytest.mark.parametrize(
    ("optimiser", "parameters"), [(optax.adam(0.3), "softmax"), (aj.exponentiated_gradient(1e-4, [2]), "weights")]
)
def test_optimisers_of_optax_leave_pure_starts(potential, argon, optimiser, parameters):
    options = {"start": [1.0, 0.0], "starts": 1, "evaluations": 100, "tolerance": 1e-4, **OPTIONS}
    found = aj.optimise(potential, argon, {"a": 3.75}, optimiser=optimiser, parameters=parameters, **options)
    assert found.reached


def test_functions_of_the_user_may_change_what_they_look_at(potential, argon):
    wanted = [3.75]

    def loss(state):
        return 1e6 * (jnp.linalg.norm(state.cell[0]) - wanted[0]) ** 2

    for wanted[0] in (3.75, 3.80):
        found = aj.optimise(potential, argon, loss, start=[0.5, 0.5], starts=1, **OPTIONS)
        assert np.linalg.norm(found.structure.cell[0]) == pytest.approx(wanted[0], abs=1e-4)


def test_interrupted_searches_continue_as_they_would_have(potential, argon):
    kept = []

    def stop(number, evaluation, searches):
        assert number == len(kept)
        kept.append(evaluation)
        if len(kept) == 2:
            raise KeyboardInterrupt

    options = {"starts": 2, "properties": ["volume"], **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        aj.optimise(potential, argon, {"a": 3.75}, on_evaluation=stop, **options)
    whole = aj.optimise(potential, argon, {"a": 3.75}, **options)
    other = kept[1]._replace(weights=kept[1].weights[:, ::-1])  # of another search, or machine: it is done again
    for recorded, known in ((kept[:2], 2), ([kept[0], other], 1)):
        new = []
        told = lambda number, *others, new=new: new.append(number)
        again = aj.optimise(potential, argon, {"a": 3.75}, recorded=recorded, on_evaluation=told, **options)
        assert new == list(range(known, len(whole.path))) and len(new) > 0
        for one, two in zip(again.path, whole.path, strict=True):
            for a, b in zip(one, two, strict=True):
                np.testing.assert_array_equal(a, b)


def test_searches_start_where_they_are_told_to(potential, argon):
    options = {"evaluations": 1, **OPTIONS}
    first = lambda **given: aj.optimise(potential, argon, {"a": 3.75}, **given, **options).path[0].weights
    named = [{"Ar": 0.3, "Kr": 0.7}, {"Ar": 0.9, "Kr": 0.1}]
    np.testing.assert_allclose(first(start=named), [[0.3, 0.7], [0.9, 0.1]], atol=1e-9)
    three = first(start=named[0], starts=3)
    np.testing.assert_allclose(three[0], [0.3, 0.7], atol=1e-9)
    assert len(three) == 3 and np.abs(three[1:] - three[0]).max(1).min() > 1e-3


@pytest.mark.parametrize("optimiser", ["projected", "mirror"])
def test_vacancies_that_are_named_are_optimised_too(potential, optimiser):
    system = aj.from_atoms(bulk("Ar", "fcc", 1.025 * A), mix={"Ar": ("Ar", "Kr")}, weights=[0.6, 0.4])
    options = {"conditions": ["vacancy <= 0.2", "Kr = 0.4"], "starts": 1, "optimiser": optimiser, **OPTIONS}
    density = aj.optimise(potential, system, {"density": 1.0}, evaluations=1, **options).values["density"]
    found = aj.optimise(potential, system, {"density": 0.95 * density}, **options)
    assert found.reached and found.weights[1] == pytest.approx(0.4, abs=1e-6)
    assert 0.8 <= found.weights.sum() < 0.99
    lowest = aj.optimise(potential, system, {"density": "min"}, **options)
    np.testing.assert_allclose(lowest.weights, [0.4, 0.4], atol=1e-3)


def test_groups_keep_their_own_sums_and_share_a_target(potential):
    """Sites of one crystal in two groups; the energy decides between compositions of one size."""
    groups = [{"sites": [0], "species": ["Ar", "Kr"], "name": "one"}, {"sites": [1, 2, 3], "species": ["Kr", "Ar"]}]
    system = aj.from_atoms(bulk("Ar", "fcc", 1.025 * A, cubic=True), groups=groups, weights=[0.5, 0.4, 0.3, 0.7])
    found = aj.optimise(potential, system, {"a": 5.35}, starts=2, conditions=["one:Kr <= 0.3"], **OPTIONS)
    assert found.reached
    for weights in found.ends:
        np.testing.assert_allclose([weights[:2].sum(), weights[2:].sum()], [0.9, 1.0], atol=1e-9)
        assert weights[1] < 0.3 + 1e-9
    relaxed = aj.relax(potential, system, found.weights, force_tolerance=1e-6, stress_tolerance=1e-9, **OPTIONS)
    assert np.linalg.norm(relaxed.structure.cell[0]) == pytest.approx(found.values["a"], abs=1e-6)


def test_random_alloys_are_aimed_at_with_their_own_energy(potential, argon):
    options = {"fluctuations": "site-exact", "supercell": [2, 2, 2], **OPTIONS}
    found = aj.optimise(potential, argon, {"a": 3.75}, starts=1, **options)
    relaxed = aj.relax(potential, argon, found.weights, force_tolerance=1e-6, stress_tolerance=1e-9, **options)
    assert found.reached and found.energy == pytest.approx(float(relaxed.output.energy), abs=1e-6)
    assert found.energy != pytest.approx(float(aj.relax(potential, argon, found.weights, **OPTIONS).output.energy))


def test_molecules_have_energies_to_aim_at(potential):
    atoms = Atoms("Ar3", [[0, 0, 0], [3.8, 0, 0], [1.9, 3.3, 0]])
    system = aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    found = aj.optimise(potential, system, "energy=min", starts=1, cell=False)
    np.testing.assert_allclose(found.weights, [0, 1], atol=1e-6)
    with pytest.raises(ValueError, match="need a cell with a volume"):
        aj.optimise(potential, system, "density=1", starts=1, cell=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "mixing_energy=min", "conditions": "vacancy<=0.3"}, "a mixing energy needs full sites"),
        ({"conditions": "vacancy<=0.3", "optimiser": optax.adam(0.1)}, "logits keep the sums"),
        ({"optimiser": "newton"}, "optimiser = 'newton' is not understood"),
        ({"parameters": "z", "optimiser": optax.adam(0.1)}, "parameters = 'z' is not understood"),
        ({"starts": 0}, "starts = 0 must be a whole number, at least 1"),
        ({"start": []}, "start holds no composition"),
        ({"start": [[0.5, 0.5]] * 3, "starts": 2}, "starts = 2, but start has 3 compositions"),
        ({"start": [0.7, 0.7]}, "may sum to at most 1"),
        ({"evaluations": 0}, "evaluations = 0 must be"),
        ({"tolerance": 0.0}, "tolerance = 0.0 must be"),
        ({"properties": ["hardness"]}, "'hardness' is no property"),
        ({"target": {"c11": 3}, "cell": "hydrostatic"}, "relaxed in positions and cell"),
        ({"conditions": ["Kr >= 2"]}, "no composition fulfils"),
        ({"max_steps": 0}, "no start has a relaxed state"),
    ],
)
def test_wrong_options_are_refused(potential, argon, options, message):
    with pytest.raises(ValueError, match=message):
        aj.optimise(potential, argon, **({"target": {"a": 3.75}, "cell": True} | options))


def test_slabs_have_no_elastic_constants(potential):
    slab = bulk("Ar", "fcc", A, cubic=True)
    slab.pbc = (True, True, False)
    system = aj.from_atoms(slab, mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    with pytest.raises(ValueError, match="periodic in all three directions"):
        aj.optimise(potential, system, {"c11": 3})


def test_ordinary_crystals_have_no_composition_to_optimise(potential):
    with pytest.raises(ValueError, match="no site is mixed"):
        aj.optimise(potential, aj.from_atoms(bulk("Ar", "fcc", A)), {"a": 3.7})
