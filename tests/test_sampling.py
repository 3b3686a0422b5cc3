"""Monte Carlo on a lattice: against sums over all arrangements and what is known of the Ising model."""

from functools import lru_cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lattice_models import POTENTIALS, WEIGHTS, J, checkerboard, free_model, ising, random_model

from alchemjax.tasks import sampling
from alchemjax.tasks.averages import Shell, statistics
from alchemjax.tasks.lattice import (
    SOFTEST,
    box_strain,
    checked_model,
    local_fields,
    make_tables,
    random_states,
    total_energy,
)
from alchemjax.tasks.sampling import anneal, sample
from alchemjax.units import KELVIN

pytestmark = pytest.mark.usefixtures("quick_loops")


def explicit(model, states):
    """The energy by a loop over all pairs of sites."""
    strained = 0
    if model.strains:
        x, y, xx, xy, yy = sum_of(model.strains.field, model.strains.pair, states)
        stiffness = model.strains.stiffness + [[xx, xy], [xy, yy]]
        strained = [x, y] @ np.linalg.solve(stiffness, [x, y]) / 2
    return model.energy * np.prod(states.shape[:3]) + sum_of(model.field, model.pair, states) - strained


def sum_of(field, pair, states):
    places = list(np.ndindex(*states.shape))
    total = sum(field[p[3], states[p]] for p in places)
    for i, one in enumerate(places):
        for two in places[:i]:
            apart = tuple((np.array(two[:3]) - one[:3]) % states.shape[:3])
            total = total + pair[(*apart, one[3], two[3], states[one], states[two])]
    return total


# --- energy and bookkeeping -------------------------------------------------------------------------------------------


def test_total_energy_is_the_sum_over_all_pairs(rng):
    model = free_model()
    found = [rng.integers(3, size=(2, 3, 2, 4)) for _ in range(3)]
    expected = [explicit(model, states) for states in found]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose([total_energy(model, states) for states in found], expected, atol=1e-12)


def test_energies_have_the_precision_of_the_model_whatever_jax_has(rng):
    model, states = free_model(), rng.integers(3, size=(2, 3, 2, 4))
    with jax.enable_x64(False):
        found = total_energy(model, states)
    assert found == pytest.approx(explicit(model, states), abs=1e-12)


@pytest.mark.parametrize("move", [sampling._swap, sampling._flip])
def test_local_fields_are_kept_through_many_moves(move):
    model = random_model((2, 3, 2))
    tables = make_tables(checked_model(model))
    moves, states = sampling._moves(model, move), random_states(model, WEIGHTS, jax.random.key(0))
    drawn = sampling._draw(move, moves, jax.random.key(1), 12, 4, jnp.float64)
    channels = jnp.array([1, 0.01, -0.02, 0.03, 0.01, -0.01])
    rows, local = sampling._rows(tables.pair @ channels), lambda states: local_fields(tables, states) @ channels
    run = jax.jit(lambda carry: jax.lax.scan(lambda *a: move(rows, moves, 0.1, *a), carry, drawn))
    fields = local(states)
    (after, kept), accepted = run((states.reshape(-1), fields.reshape(-1, 3)))
    fresh = local(after.reshape(states.shape))
    assert 5 < accepted.sum() < accepted.size
    assert abs(fresh - fields).max() > 0.01
    np.testing.assert_allclose(kept, fresh.reshape(-1, 3), atol=1e-12)


def test_random_states_hold_the_atoms_closest_to_the_weights():
    model = random_model((3, 2, 1))
    one, two = (np.asarray(random_states(model, WEIGHTS, jax.random.key(k))) for k in (0, 1))
    assert (one != two).any()
    for states in (one, two):
        counts = [np.bincount(states[..., on].ravel(), minlength=3).tolist() for on in ([0, 1], [2], [3])]
        assert counts == [[4, 4, 4], [0, 4, 2], [6, 0, 0]]
    uneven = random_states(model, [[0.3, 0.31, 0.39], [0.3, 0.31, 0.39], [0, 0.9, 0.1], [1, 0, 0]], jax.random.key(0))
    assert np.bincount(np.asarray(uneven[..., :2]).ravel()).tolist() == [3, 4, 5]  # of 3.6, 3.72, 4.68
    assert np.bincount(np.asarray(uneven[..., 2]).ravel()).tolist() == [0, 5, 1]  # of 5.4, 0.6


@pytest.mark.parametrize("dtype, kind", [("float64", "canonical"), ("float32", "semi-grand")])
def test_chains_report_the_energy_and_the_composition_of_their_states(dtype, kind):
    model = random_model(dtype=dtype)
    potentials = None if kind == "canonical" else POTENTIALS
    found = sample(model, [200, 400], WEIGHTS, kind=kind, chemical_potentials=potentials, sweeps=16, seeds=3)
    assert found.correlations.dtype == dtype
    for t, s in np.ndindex(2, 3):
        states = found.states[t, s]
        counts = np.stack([np.bincount(states[..., c].ravel(), minlength=3) for c in range(4)]) / 3
        work = 0 if potentials is None else np.sum(counts @ potentials)
        assert found.energy[t, s, -1] == pytest.approx(explicit(model, states) / 3, abs=1e-6)
        assert found.grand[t, s, -1] == pytest.approx(found.energy[t, s, -1] - work, abs=1e-6)
        np.testing.assert_allclose(found.composition[t, s, -1], [counts[:2].mean(0), counts[2], counts[3]], atol=1e-6)
    assert len(np.unique(found.energy)) > 5
    assert (np.ptp(found.composition, axis=(0, 1, 2)).max() < 1e-12) == (kind == "canonical")
    assert (found.states[..., 3] == 0).all() and (found.states[..., 2] > 0).all()
    probabilities = found.correlations.sum((-1, -2))
    np.testing.assert_allclose(probabilities, 1, atol=1e-5)


def test_seeds_reproduce_and_differ():
    of = lambda seed, seeds=2: sample(random_model(), [200, 400], WEIGHTS, sweeps=16, seeds=seeds, seed=seed)
    one, again, other = of(1), of(1), of(2)
    np.testing.assert_array_equal(one.energy, again.energy)
    assert (one.energy != other.energy).any(-1).all()
    assert (one.energy[:, 0] != one.energy[:, 1]).any()


def test_sweeps_are_the_same_in_parts_and_end_where_they_are_told_to(monkeypatch):
    run = lambda equilibration=12, **options: sample(
        random_model(), [300, 900], WEIGHTS, sweeps=64, equilibration=equilibration, seeds=2, **options
    )
    calls, whole = [], run()
    monkeypatch.setattr(sampling, "AT_ONCE", 5 * whole.states.size)  # calls of 5 do not divide 76; 16 of 5 are made
    parts = run(on_sweeps=lambda *done: calls.append(done))
    assert calls == [(done, 80) for done in range(5, 81, 5)]
    whole = run(equilibration=16)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)

    for sites in (10, 10**5, 2 * 10**5, 10**7):
        calls, at_once = sampling._calls(2504, sites)
        assert 2504 <= calls * at_once < 2504 + calls
        assert at_once == 1 or at_once * sites <= sampling.AT_ONCE

    def stop(done, number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_sweeps=stop)


def test_new_numbers_of_one_shape_are_not_compiled_again():
    of = lambda seed, *heats, **options: sample(
        random_model(seed=seed), heats, WEIGHTS, sweeps=16, seeds=2, seed=seed, **options
    )
    of(1, 200, 400)
    compiled = sampling._run._cache_size()
    of(2, 300, 700)
    assert sampling._run._cache_size() == compiled
    of(2, 300, 700, exchange=False)
    assert sampling._run._cache_size() == compiled + 1


# --- against all arrangements -----------------------------------------------------------------------------------------


@lru_cache
def enumerated(kind):
    """States [arrangements, cells, sites], energies minus sum mu N, and what strain adds to -ln of their chances."""
    model = random_model()
    choices = [np.flatnonzero(model.allowed[c]) for _ in range(3) for c in range(4)]
    states = np.array(list(product(*choices))).reshape(-1, 3, 4)
    if kind == "canonical":
        first = np.stack([(states[..., :2] == k).sum((1, 2)) for k in range(3)], axis=1)
        states = states[(first == 2).all(1) & ((states[..., 2] == 1).sum(1) == 2)]
    flat = states.reshape(len(states), 12)

    def over_sites(field, pair):
        total = sum(field[i % 4, flat[:, i]] for i in range(12))
        for i, j in product(range(12), range(12)):
            apart = (j // 4 - i // 4) % 3
            total = total + pair[apart, 0, 0, i % 4, j % 4, flat[:, i], flat[:, j]] / 2
        return total

    energy = 3 * model.energy + over_sites(model.field, model.pair)
    x, y, xx, xy, yy = over_sites(model.strains.field, model.strains.pair).T
    force, more = np.stack([x, y], axis=-1), np.array([[xx, xy], [xy, yy]]).transpose(2, 0, 1)
    stiffness = model.strains.stiffness + more
    strained = (force * np.linalg.solve(stiffness, force[..., None])[..., 0]).sum(-1) / 2
    softest = np.linalg.eigvals(np.linalg.solve(model.strains.stiffness, stiffness)).real.min()
    assert strained.std() > 0.005 and SOFTEST < softest < 0.7
    energy, space = energy - strained, np.log(np.linalg.det(stiffness)) / 2
    if kind == "semi-grand":
        energy = energy - np.array(POTENTIALS)[flat].sum(1)
    return states, energy, space


def exact(kind, temperature, pairs):
    """Mean energy minus sum mu N and heat capacity per cell, and alpha for every pair (R, c, c')."""
    states, energy, space = enumerated(kind)
    chance = np.exp(-(energy - energy.min()) / (KELVIN * temperature) - space)
    chance /= chance.sum()
    mean = chance @ energy
    capacity = (chance @ energy**2 - mean**2) / (KELVIN * temperature) ** 2 / 3
    present = np.eye(3)[states]
    weights = np.einsum("a,arck->ck", chance, present) / 3
    weights[:2] = weights[:2].mean(0)
    orders = []
    for r, c, d in pairs:
        both = np.einsum("a,ark,arl->kl", chance, present[:, :, c], np.roll(present, -r, 1)[:, :, d]) / 3
        product_ = weights[c][:, None] * weights[d]
        orders.append(1 - both / np.where(product_ > 0, product_, np.nan))
    return mean / 3, capacity, np.array(orders)


HEATS = [300.0, 600.0, 1200.0]
PAIRS = [(r, c, d) for r, c, d in product(range(3), range(3), range(3)) if (r, c) != (0, d)]


@pytest.mark.parametrize(("kind", "exchange"), [("canonical", True), ("canonical", False), ("semi-grand", True)])
def test_averages_are_sums_over_all_arrangements(kind, exchange):
    potentials = None if kind == "canonical" else POTENTIALS
    found = sample(
        random_model(),
        HEATS,
        WEIGHTS,
        kind=kind,
        chemical_potentials=potentials,
        sweeps=6000,
        seeds=6,
        exchange=exchange,
        every=3,
    )
    sublattice = random_model().sublattice
    single = [Shell(0.0, (sublattice[c], sublattice[d]), np.array([[r, 0, 0, c, d]])) for r, c, d in PAIRS]
    got = statistics(found._replace(energy=found.grand), single)
    energy, capacity, orders = map(np.array, zip(*(exact(kind, t, PAIRS) for t in HEATS), strict=True))
    assert np.ptp(energy) > 0.01 and np.ptp(capacity) > 0.1 and np.nanmax(abs(orders)) > 0.3
    off = np.concatenate(
        [(got.energy - energy) / got.energy_error, (got.heat_capacity - capacity) / got.heat_capacity_error]
    )
    assert abs(off).max() < 4
    assert (got.energy_error < 1e-3).all() and (got.heat_capacity_error < 0.1 * capacity.max()).all()
    np.testing.assert_array_equal(np.isnan(got.warren_cowley), np.isnan(orders))
    known = (got.warren_cowley_error > 1e-9) & (
        orders < 0.9
    )  # too few of rare pairs are seen for a normal distribution
    rare = ~known & np.isfinite(orders)  # the errors of what was hardly ever seen are small by chance
    assert (abs(got.warren_cowley - orders)[rare] < 0.01 + 4 * got.warren_cowley_error[rare]).all()
    off = (got.warren_cowley - orders)[known] / got.warren_cowley_error[known]
    assert known.sum() > 200 and abs(off).max() < 5  # of some hundred numbers
    assert 0.7 < np.sqrt(np.mean(off**2)) < 1.4  # the errors are neither too small nor too large
    assert (found.exchanged > 0.2).all() if exchange else found.exchanged is None


# --- annealing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 6, 6), (4, 4, 4)])
def test_annealing_finds_the_checkerboard(shape):
    model = ising(shape, -1)
    states, energy = anneal(model, [[0.5, 0.5]], sweeps=200, chains=8)
    bonds = {(1, 6, 6): 72, (4, 4, 4): 192}[shape]
    assert energy == pytest.approx(-J * bonds)
    pattern = checkerboard(shape)
    assert (states == pattern).all() or (states == 1 - pattern).all()
    assert energy == pytest.approx(explicit(model, states))


def test_annealing_is_the_same_in_parts(monkeypatch):
    cool = lambda: anneal(random_model(), WEIGHTS, sweeps=40, chains=3)
    states, energy = cool()
    monkeypatch.setattr(sampling, "AT_ONCE", 8 * 3 * states.size)
    again, other = cool()
    np.testing.assert_array_equal(states, again)
    assert energy == other


def test_annealing_keeps_the_best_of_a_chain_that_leaves_it():
    states, energy = anneal(random_model(), WEIGHTS, hot=3000, cold=3000, sweeps=300, chains=4)
    assert energy == pytest.approx(enumerated("canonical")[1].min())
    assert energy == pytest.approx(explicit(random_model(), states))


# --- errors -----------------------------------------------------------------------------------------------------------


def changed(**fields):
    return random_model()._replace(**fields)


def crooked():
    pair = random_model().pair.copy()
    pair[1, 0, 0, 0, 1, 0, 0] += 0.1
    return changed(pair=pair)


@pytest.mark.parametrize(
    "model, options, message",
    [
        (None, {"temperatures": [300, 200]}, "must be positive and increasing"),
        (None, {"temperatures": [0.0]}, "must be positive and increasing"),
        (None, {"temperatures": []}, r"temperatures \[\] must be positive and increasing; give at least one in K"),
        (None, {"temperatures": "hot"}, "temperatures hot must be positive"),
        (None, {"kind": "grand"}, "kind = 'grand' is not understood; use 'canonical' or 'semi-grand'"),
        (None, {"kind": "semi-grand"}, "semi-grand sampling needs chemical_potentials"),
        (None, {"chemical_potentials": [0, 0, 0]}, "canonical sampling has no chemical_potentials"),
        (
            None,
            {"kind": "semi-grand", "chemical_potentials": [0, 0]},
            "finite numbers, .states. or .sites, states., not",
        ),
        (None, {"sweeps": 3}, "sweeps = 3 must be a whole number, at least 8"),
        (None, {"seeds": 0}, "seeds = 0 must be a whole number, at least 1"),
        (None, {"every": 0}, "every = 0 must be a whole number, at least 1"),
        (None, {"weights": None}, "give either weights .* or states"),
        (None, {"states": np.zeros((3, 1, 1, 4), int)}, "give either weights .* or states"),
        (None, {"weights": WEIGHTS[:2]}, r"weights is of shape \(2, 3\); the model needs \(4, 3\)"),
        (None, {"weights": WEIGHTS * 0.9}, "add up to 1 on every site"),
        (None, {"weights": WEIGHTS[[0, 1, 3, 3]]}, "be 0 where states are not allowed"),
        (None, {"weights": None, "states": np.zeros((1, 1, 1, 4), int)}, "states is of shape"),
        (None, {"weights": None, "states": np.full((3, 1, 1, 4), 3)}, "whole numbers from 0 to 2"),
        (None, {"weights": None, "states": np.zeros((3, 1, 1, 4), int)}, "does not allow there"),
        (changed(sublattice=np.array([0, 0, 1, 3])), {}, r"numbers \[0, 1, 3\]; use 0, 1, ... without gaps"),
        (changed(sublattice=np.array([0, 0, 0, 1])), {}, "must allow the same states"),
        (changed(allowed=np.eye(4, 3, dtype=bool)), {}, "must allow the same states"),
        (changed(allowed=np.array([[1, 0, 0]] * 4, bool)), {"weights": [[1, 0, 0]] * 4}, "nothing can move"),
        (changed(pair=random_model().pair[..., :2]), {}, "pair is of shape"),
        (changed(pair=random_model().pair.astype(int)), {}, "type int64; use float32 or float64"),
        (changed(field=np.full((4, 3), np.nan)), {}, "not finite; forbid states by `allowed` instead"),
        (crooked(), {}, "symmetrise it"),
    ],
)
def test_wrong_arguments_get_a_sentence(model, options, message):
    options = {"temperatures": [300.0], "weights": WEIGHTS} | options
    with pytest.raises(ValueError, match=message):
        sample(model or random_model(), **options)


@pytest.mark.parametrize("function", [total_energy, box_strain])
def test_states_that_do_not_fit_the_model_have_no_energy(function):
    model = random_model()
    states = np.asarray(random_states(model, WEIGHTS, jax.random.key(0)))
    for wrong, message in (
        (states[..., :3], r"states is of shape \(3, 1, 1, 3\); the model needs \(3, 1, 1, 4\)"),
        (np.tile(states, (2, 1, 1, 1)), "states is of shape"),
        (states + 3, "whole numbers from 0 to 2"),
        (states - 3, "whole numbers from 0 to 2"),
        (np.zeros_like(states), "does not allow there"),
    ):
        with pytest.raises(ValueError, match=message):
            function(model, wrong)


def test_wrong_cooling_gets_a_sentence():
    with pytest.raises(ValueError, match="give hot >= cold > 0"):
        anneal(random_model(), WEIGHTS, hot=10, cold=20)
