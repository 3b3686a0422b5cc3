"""Transitions by free energies: against the exact sums of lattices in which all sites see each other."""

import sys
from functools import lru_cache
from math import lgamma

import numpy as np
import pytest
from lattice_models import J, checkerboard, free_model, ising

from alchemjax.tasks import transition
from alchemjax.tasks.averages import Shell, Statistics, long_range_order
from alchemjax.tasks.lattice import LatticeModel, Strains, checked_model, smaller, total_energy
from alchemjax.tasks.sampling import BLOCKS, Samples, anneal, ground_state
from alchemjax.tasks.transition import order_disorder
from alchemjax.units import KELVIN

pytestmark = pytest.mark.usefixtures("quick_loops")
CELLS = 64
COUPLING = 0.1  # eV
WEIGHTS = np.tile([2 / 3, 1 / 3], (3, 1))
ORDERED = np.broadcast_to([1, 0, 0], (4, 4, 4, 3))
SHELL = Shell(1.0, (0, 0), np.array([[0, 0, 0, 0, 1]]))
METASTABLE = 230, 330  # K: as far as the disordered and the ordered lattice wait
LAYERED = 0.0  # K: below, chains from random arrangements have another order
LAYERS = np.zeros((4, 4, 4, 3), int)  # the atoms of which gather in every fourth layer
LAYERS[0] = 1
LAYERS[2, :, :, 0] = 1


def one_of_three() -> LatticeModel:
    """A third of the atoms gathers on one of three kinds of sites, because that strains the lattice.

    E/cell = -2 - COUPLING/2 cells^-4 (sum over kinds c of n_c (n_c - 1))^2
    """
    pair = np.zeros((4, 4, 4, 3, 3, 2, 2))
    for c in range(3):
        pair[..., c, c, 1, 1] = 2
        pair[0, 0, 0, c, c] = 0
    strains = Strains(np.zeros((3, 2, 1)), pair[..., None], np.array([[CELLS**3 / COUPLING]]))
    layers = np.zeros_like(pair)  # waves along x differ by next to nothing
    layers[1, 0, 0, range(3), range(3), 1, 1] = layers[-1, 0, 0, range(3), range(3), 1, 1] = -1e-9
    return LatticeModel(np.array(-2.0), np.zeros((3, 2)), layers, np.ones((3, 2), bool), np.zeros(3, int), strains)


@lru_cache
def levels():
    """n of all arrangements, their energies per cell and ln of their number."""
    choose = lambda k: lgamma(CELLS + 1) - lgamma(k + 1) - lgamma(CELLS - k + 1)
    n = np.array([(a, b, CELLS - a - b) for a in range(CELLS + 1) for b in range(CELLS + 1 - a)])
    energy = -2 - COUPLING / 2 / CELLS**4 * (n * (n - 1.0)).sum(1) ** 2
    return n, energy, np.array([sum(map(choose, row)) for row in n.tolist()])


def exactly(temperature, *, ordered: bool):
    """ln Z, and the chances of the levels, of one of the two lattices."""
    n, energy, number = levels()
    here = n[:, 0] > 0.66 * CELLS if ordered else (n <= 0.66 * CELLS).all(1)
    terms = np.where(here, number - CELLS * (energy + 2) / (KELVIN * temperature), -np.inf)
    partition = np.logaddexp.reduce(terms)
    return partition, np.exp(terms - partition)


def correlations_of(states, number=2) -> np.ndarray:
    """P of an arrangement of so many states."""
    waves = np.fft.fftn(np.eye(number)[states], axes=(0, 1, 2))
    both = np.einsum("xyzck,xyzdl->xyzcdkl", waves.conj(), waves)
    return np.fft.ifftn(both, axes=(0, 1, 2)).real / states[..., 0].size


def disordered_correlations() -> np.ndarray:
    pairs = np.broadcast_to(np.outer(WEIGHTS[0], WEIGHTS[0]), (4, 4, 4, 3, 3, 2, 2)).copy()
    pairs[0, 0, 0, range(3), range(3)] = np.diag(WEIGHTS[0])
    return pairs


@pytest.fixture
def exact_chains(monkeypatch):
    """Chains of independent arrangements of one lattice, or of the other where the first does not wait any more."""

    def sample(model, temperatures, *, weights=None, states=None, sweeps, seed, on_sweeps=None, **options):
        assert options["seeds"] == 1 and not options["exchange"]
        if on_sweeps is not None:
            on_sweeps(sweeps, sweeps)
        rng, energies = np.random.default_rng(seed), levels()[1]
        length = BLOCKS * -(-sweeps // BLOCKS)
        waits = lambda at: at < METASTABLE[1] if weights is None else at < METASTABLE[0]
        chances = [exactly(at, ordered=waits(at))[1] for at in temperatures]
        energy = np.stack([rng.choice(energies, size=(1, length), p=chance) for chance in chances])
        shape = len(temperatures), 1
        composition = np.broadcast_to([2 / 3, 1 / 3], (*shape, length, 1, 2))
        cold = [weights is not None and at < LAYERED for at in temperatures]
        finals = [ORDERED if weights is None else LAYERS for _ in temperatures]
        pairs = [
            correlations_of(one) if weights is None or layered else disordered_correlations()
            for one, layered in zip(finals, cold, strict=True)
        ]
        pairs = np.stack([np.broadcast_to(one, (1, BLOCKS, *one.shape)) for one in pairs])
        final = np.stack(finals)[:, None]
        moved = np.full(len(temperatures), 0.5)
        return Samples(temperatures, energy, energy, composition, pairs, final, np.zeros(3, int), moved, None)

    monkeypatch.setattr(transition, "sample", sample)


def found_between(first, last, **options):
    heats = np.linspace(first, last, 6)
    return order_disorder(one_of_three(), WEIGHTS, heats, shells=[SHELL], ordered=ORDERED, sweeps=2000, **options)


def test_free_energies_cross_where_they_do_exactly(exact_chains):
    runs = []
    found = found_between(245, 320, on_sweeps=lambda *done: runs.append(done))
    assert runs == [(2000 * number, 16000) for number in range(1, 9)]
    heats = np.linspace(268, 277, 10)
    both = [[exactly(at, ordered=ordered)[0] for at in heats] for ordered in (True, False)]
    crossing = np.interp(0, both[1] - np.array(both[0]), heats)
    assert found.kind == "first order" and not found.at_edge and found.missed == 0
    assert 0 < found.error < 1
    assert found.temperature == pytest.approx(crossing, abs=4 * found.error)
    energies = [exactly(crossing, ordered=ordered)[1] @ levels()[1] for ordered in (True, False)]
    assert found.latent_heat == pytest.approx(energies[1] - energies[0], rel=0.02)
    expected = [
        KELVIN * at / CELLS * (exactly(at, ordered=False)[0] - exactly(at, ordered=True)[0])
        for at in found.temperatures
    ]
    assert np.abs((found.free_energy - expected) / found.free_energy_error).max() < 4
    assert found.free_energy_error.max() < 3e-4


def test_equilibrium_is_that_of_the_stable_branch(exact_chains):
    found = found_between(245, 320)
    assert found.stable.tolist() == (found.temperatures < found.temperature).tolist()
    assert 0 < found.stable.sum() < 6
    for at, stable, energy, error in zip(
        found.temperatures, found.stable, found.equilibrium.energy, found.equilibrium.energy_error, strict=True
    ):
        assert energy == pytest.approx(exactly(at, ordered=stable)[1] @ levels()[1], abs=5 * error)
    alpha = [branch.warren_cowley[0, 0, 0, 1] for branch in (found.ordered, found.random)]
    assert alpha[0] != alpha[1]
    assert found.equilibrium.warren_cowley[:, 0, 0, 1] == pytest.approx(np.where(found.stable, *alpha))


@pytest.mark.parametrize("around", [transition.AROUND, (2.0, 6.0, 12)])  # the second is too hot
def test_temperatures_are_chosen_about_the_one_at_which_order_is_lost(exact_chains, monkeypatch, around):
    monkeypatch.setattr(transition, "AROUND", around)
    found = order_disorder(one_of_three(), WEIGHTS, ordered=ORDERED, sweeps=2000)
    assert found.temperatures[0] < 250 and METASTABLE[1] < found.temperatures[-1] < 500
    assert found.kind == "first order"
    assert found.temperature == pytest.approx(found_between(245, 320).temperature, abs=4 * found.error)


@pytest.mark.parametrize("ends", [(215, 320), (245, 340), (200, 340)])
def test_a_branch_that_waits_at_one_of_two_temperatures_is_enough(exact_chains, monkeypatch, ends):
    monkeypatch.setattr(sys.modules[__name__], "METASTABLE", (270, 330) if ends[1] < 330 else (230, 300))
    found = found_between(*ends)
    assert found.kind == "first order"
    assert found.temperature == pytest.approx(found_between(245, 320).temperature, abs=2)


@pytest.mark.parametrize(("ends", "kind"), [((235, 262), "ordered throughout"), ((292, 325), "disordered throughout")])
def test_a_transition_elsewhere_is_said_to_be_elsewhere(exact_chains, ends, kind):
    found = found_between(*ends)
    assert found.kind == kind and np.isnan([found.temperature, found.error]).all()
    assert found.stable.all() if kind == "ordered throughout" else not found.stable.any()
    assert found.another is None


def test_a_stable_branch_that_is_ordered_otherwise_is_not_called_disordered(exact_chains, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "LAYERED", 310)
    found = found_between(292, 325)
    assert found.kind == "smooth" and not found.stable.any()
    np.testing.assert_array_equal(found.another, LAYERS)
    np.testing.assert_allclose(found.equilibrium.energy, found.random.energy)
    between = found_between(245, 320)
    assert between.kind == "first order"
    np.testing.assert_array_equal(between.another, LAYERS)
    monkeypatch.setattr(sys.modules[__name__], "LAYERED", 260)  # less stable than the ordered arrangement there
    assert found_between(245, 320).another is None


def samples_of(pairs: list) -> Samples:
    """One chain at every temperature with these correlations."""
    cells, kinds = np.shape(pairs[0])[3], np.shape(pairs[0])[5]
    pairs = np.stack([np.broadcast_to(one, (1, BLOCKS, *one.shape)) for one in pairs])
    none, number = np.zeros((len(pairs), 1, BLOCKS)), np.zeros(cells, int)
    return Samples(
        np.arange(float(len(pairs))), none, none, np.zeros((*none.shape, 1, kinds)), pairs, none, number, none, None
    )


def test_long_range_order_counts_the_waves():
    """Atoms in one of three kinds of sites, layers of period four, and none."""
    samples = samples_of([correlations_of(ORDERED), correlations_of(LAYERS), disordered_correlations()])
    one, layers, random = long_range_order(samples)[:, 0]
    assert one == pytest.approx(1) and random == pytest.approx(1 / (3 * CELLS))
    change = LAYERS.reshape(4, -1, 3)[:, 0] - 1 / 3
    parts = (np.abs(np.fft.fft(change, axis=0)) ** 2).sum(1)
    assert layers == pytest.approx((parts**2).sum() / parts.sum() ** 2) and layers < 0.6
    preferred = long_range_order(samples, [0, 1, 1])[0, 0]  # sites that are not alike by themselves
    assert preferred == 0


def of_many_states(*arrangements, states=2):
    """Correlations of each with the random one as the hottest."""
    found = [correlations_of(one, states) for one in arrangements]
    share, sites = np.bincount(arrangements[0].ravel()) / arrangements[0].size, range(arrangements[0].shape[3])
    random = np.broadcast_to(np.outer(share, share), found[0].shape).copy()
    random[0, 0, 0, sites, sites] = np.diag(share)
    return samples_of([*found, random])


def test_equivalent_waves_are_one_order_in_small_and_large_cells():
    """Stripes of the square lattice along x and along y; the checkerboard is another order."""
    x, y = np.indices((4, 4))
    for cell in (1, 2):
        shape = 4 // cell, 4 // cell, cell, cell
        fold = lambda a, shape=shape: np.moveaxis(a.reshape(shape[0], shape[2], shape[1], shape[3]), 2, 1).reshape(
            1, shape[0], shape[1], -1
        )
        along, across, board = (fold(a % 2) for a in (x, y, x + y))
        pair = np.zeros((1, *shape[:2], cell**2, cell**2, 2, 2))
        for steps, energy in (((1, 0), 0.01), ((0, 1), 0.01), ((1, 1), 0.03), ((1, 3), 0.03)):
            for sign in (1, -1):
                for i, j in np.ndindex(cell, cell):
                    to = np.array([i, j]) + sign * np.array(steps)
                    where = 0, *(to // cell % shape[0]), i * cell + j, to[0] % cell * cell + to[1] % cell
                    pair[where] += energy * np.array([[1, -1], [-1, 1]])
        model = LatticeModel(
            np.array(0.0), np.zeros((cell**2, 2)), pair, np.ones((cell**2, 2), bool), np.zeros(cell**2, int)
        )
        has, differs = transition._long_range_order(model, of_many_states(across, board), of_many_states(along))
        assert has.ravel().tolist() == [True, True, False] and differs.ravel().tolist() == [False, True, False]


def test_a_mode_that_turns_is_the_same_order():
    """Three states on lines of a square, one of which gathers on every second line: all of it, and in part."""
    strong, weak = (0, 1, 0, 1, 0, 2, 0, 2, 0, 1, 0, 2), (0, 1, 0, 1, 0, 2, 0, 2, 0, 1, 2, 0)
    along, partly = (np.tile(lines, (12, 1)).T[..., None, None] for lines in (strong, weak))
    pair = np.zeros((12, 12, 1, 1, 1, 3, 3))
    pair[[1, 1, -1, -1], [1, -1, 1, -1]] = -np.array([[0, 0.05, 0], [0.05, 0, 0], [0, 0, 0]])
    model = LatticeModel(np.array(0.0), np.zeros((1, 3)), pair, np.ones((1, 3), bool), np.zeros(1, int))
    chains = of_many_states(along, partly, np.swapaxes(partly, 0, 1), states=3)
    has, differs = transition._long_range_order(model, chains, of_many_states(along, states=3))
    assert has.ravel().tolist() == [True, True, True, False] and not differs.any()


def test_what_sites_prefer_by_themselves_is_no_order():
    share = np.array([[0.5, 0.5], [1.0, 0.0]])
    apart = np.broadcast_to(np.einsum("ck,dl->cdkl", share, share), (6, 6, 6, 2, 2, 2, 2)).copy()
    apart[0, 0, 0, range(2), range(2)] = share[:, :, None] * np.eye(2)
    layers = np.zeros((6, 6, 6, 2), int)
    layers[::2, :, :, 0] = 1
    random = of_many_states(layers).correlations[1, 0, 0]
    for preferred, expected in ((0.0, True), (0.3, False)):
        field = np.array([[0, 0], [0, preferred]])
        model = LatticeModel(np.array(0.0), field, 0 * random, np.ones((2, 2), bool), np.zeros(2, int))
        has, _ = transition._long_range_order(model, samples_of([apart, random]), of_many_states(layers))
        assert has[0, 0] == expected


def test_free_energies_of_two_levels_begin_at_the_ends():
    """The coldest and the hottest temperature are not all but 0 and infinite here: what lies beyond them counts."""
    gap, least = 0.05, -2.0
    inverse = np.linspace(0.1, 4, 40)[::-1] / gap
    chance = 1 / (1 + np.exp(inverse * gap))
    none = np.zeros(len(inverse))
    capacity = inverse**2 * gap**2 * chance * (1 - chance)
    found = Statistics(1 / (KELVIN * inverse), least + gap * chance, none, capacity, none, none, none, none)
    exact = inverse * least - np.log1p(np.exp(-inverse * gap))
    from_order, error = transition._from_order(found, least)
    np.testing.assert_allclose(from_order, exact, atol=3e-4)
    assert error.max() < 1e-4
    from_random, _ = transition._from_random(found, least, np.log(2))
    np.testing.assert_allclose(from_random, exact, atol=3e-3)


def test_domains_are_no_branch():
    flat = {"temperatures": np.arange(3.0), "heat_capacity": np.zeros(3)}
    energies = lambda *values: Statistics(*[None] * 8)._replace(energy=np.array(values), **flat)
    ordered, apart, gap = energies(-10.0, -9.9, -9.8), np.array([True, False, False]), np.array([-50.0, 20, 20])
    both_live = lambda disordered, order: transition._both_live(
        disordered, order, apart, apart, gap, np.ones(3), 5.0
    ).tolist()
    assert both_live(energies(-8.0, -9.9, -9.8), ordered) == [False, False]  # left in domains at the first temperature
    assert both_live(energies(-8.0, -7.9, -7.8), energies(-10.0, -7.9, -7.8)) == [True, False]  # order melts


def test_one_chain_that_waits_in_order_shows_that_it_is_metastable(rng):
    disordered = Statistics(*[None] * 8)._replace(energy=np.zeros(3), energy_error=np.full(3, 0.02))
    energy = 0.1 * rng.normal(size=(3, 4, 10 * BLOCKS))
    energy[0, 1] -= 1  # one chain stays, one leaves half way, none
    energy[1, 2, : 5 * BLOCKS] -= 1
    np.testing.assert_array_equal(transition._one_waits(disordered, energy), [True, False, False])
    gap, apart = np.array([-3.0, 2.0, 9.0]), np.array([True, False, False])
    flat = disordered._replace(temperatures=np.arange(3.0), heat_capacity=np.zeros(3))
    live = lambda waits: transition._both_live(flat, flat, apart, waits, gap, np.full(3, 0.1), 1.0).tolist()
    assert live(apart) == [False, False]
    assert live(np.array([True, True, False])) == [True, False]


def test_the_chains_are_those_of_this_lattice():
    n, energy, _ = levels()
    for row in (0, 700, len(n) // 2):
        states = np.zeros((CELLS, 3), int)
        for c, count in enumerate(n[row]):
            states[:count, c] = 1
        assert float(total_energy(one_of_three(), states.reshape(4, 4, 4, 3))) / CELLS == pytest.approx(energy[row])


def test_without_hysteresis_both_paths_give_one_free_energy_and_the_maximum_of_the_heat_capacity():
    model, start = ising((1, 4, 4), -1), checkerboard((1, 4, 4))
    found = order_disorder(model, [[0.5, 0.5]], ordered=start, sweeps=2000, seeds=2, equilibration=100)
    heats = found.temperatures
    assert heats[0] < found.temperature < heats[-1] < 2 * heats[0] and not found.at_edge
    assert found.kind == "smooth" and found.stable.all() and found.latent_heat == 0
    same = KELVIN * heats * np.log(2) / 16  # the ordered path begins with one of two checkerboards
    assert np.abs((found.free_energy - same) / found.free_energy_error).max() < 4
    assert 2 < found.temperature * KELVIN / J < 3
    assert found.random.energy == pytest.approx(found.ordered.energy, abs=5 * found.random.energy_error.max())


@pytest.fixture(scope="module")
def small_square(quick_loops):
    """The antiferromagnet of 4 x 4 sites; `in_domains` changes what comes from random arrangements."""

    def found(in_domains):
        with pytest.MonkeyPatch.context() as patch:
            right = transition.sample

            def sample(model, temperatures, **options):
                samples = right(model, temperatures, **options)
                return in_domains(samples, temperatures) if "weights" in options else samples

            patch.setattr(transition, "sample", sample)
            heats, settings = np.linspace(1.2, 3.2, 6) * J / KELVIN, {"sweeps": 1000, "seeds": 2, "equilibration": 100}
            start = checkerboard((1, 4, 4))
            return order_disorder(ising((1, 4, 4), -1), [[0.5, 0.5]], heats, ordered=start, **settings)

    return found


@pytest.mark.parametrize(("left", "hottest"), [(0.1, 1.4), (0.2, 2.3), (1.0, 2.3)])
def test_random_chains_left_in_domains_are_no_branch(small_square, left, hottest):
    """By `left` J per site, below `hottest` J/k. One of two ordered arrangements seems less stable than all."""
    energy = lambda samples, at: samples.energy + left * J * (KELVIN * at < hottest * J)[:, None, None]
    found = small_square(lambda samples, at: samples._replace(energy=energy(samples, at)))
    assert found.random.energy[0] - found.ordered.energy[0] == pytest.approx(left * J, abs=0.03 * J)
    assert found.kind == "smooth"


def test_an_error_contains_what_chains_left_in_domains_change(small_square, monkeypatch):
    ends = {4: (300.0, 3.0, False), 2: (304.0, 1.0, False)}  # of all chains, and of those from order
    monkeypatch.setattr(transition, "_largest", lambda samples: ends[samples.energy.shape[1]])
    found = small_square(
        lambda samples, at: samples._replace(energy=samples.energy + 0.1 * J * (at < 200)[:, None, None])
    )
    assert (found.kind, found.temperature, found.error) == ("smooth", 300, 5)


def test_a_start_that_is_not_the_ordered_arrangement_is_noticed():
    wrong = np.indices((1, 4, 4)).sum(0)[..., None] // 2 % 2
    found = order_disorder(
        ising((1, 4, 4), -1), [[0.5, 0.5]], [100, 200], ordered=wrong, sweeps=40, seeds=1, equilibration=0
    )
    lost = (total_energy(ising((1, 4, 4), -1), wrong) - -2 * J * 16) / 16
    assert found.missed == pytest.approx(float(lost), rel=1e-9)
    assert found.kind == "smooth" and np.isnan(found.temperature)  # two temperatures show no maximum


def test_a_smaller_box_is_worth_its_share_of_the_energy(rng):
    model = checked_model(free_model((4, 2, 6)))
    parts = np.array([2, 1, 3])
    small = smaller(model, parts)
    states = rng.integers(3, size=(2, 2, 2, 4))
    whole = total_energy(model, np.tile(states, (*parts, 1)))
    assert total_energy(small, states) * 6 == pytest.approx(float(whole), rel=1e-12)


def test_ground_state_of_a_large_box_is_found_in_small_ones():
    model = ising((2, 8, 8), -1)
    quick = {"sweeps": 12, "chains": 2}
    states, energy = ground_state(model, [[0.5, 0.5]], **quick)
    assert energy == pytest.approx(float(total_energy(model, checkerboard((2, 8, 8)))))
    assert energy == pytest.approx(float(total_energy(model, states)))
    assert anneal(model, [[0.5, 0.5]], **quick)[1] > energy + J


def test_smaller_boxes_hold_the_composition():
    states, _ = ground_state(ising((1, 6, 6), -1), [[35 / 36, 1 / 36]], sweeps=20, chains=1)
    assert states.sum() == 1


def test_an_ordered_arrangement_of_another_composition_and_a_box_of_one_are_refused():
    few = np.zeros((1, 4, 4, 1), int)
    few[0, 0, 0] = 1
    with pytest.raises(ValueError, match=r"holds \[\[15, 1\]\] atoms of each state by sublattice"):
        order_disorder(ising((1, 4, 4), -1), [[0.5, 0.5]], ordered=few)
    with pytest.raises(ValueError, match="has one arrangement only"):
        order_disorder(ising((1, 4, 4), -1), [[1.0, 0.0]], ordered=0 * few)
