"""One and two sites of a random alloy in given states, and the atoms around them, against explicit relaxations."""

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pair_potential import CUBE, TIGHT, lennard_jones, mixed_argon

import alchemjax as aj
from alchemjax.calculate import with_fluctuations
from alchemjax.tasks import clusters
from alchemjax.tasks.alloy import alloy, doubts, own_pair, random_energy
from alchemjax.tasks.crystal import make_crystal, pair_orbits
from alchemjax.tasks.hessian import STRAINS, VOIGT, by_strains, by_two_strains, make_hessian
from alchemjax.tasks.lattice import box_strain, total_energy
from alchemjax.tasks.ordering import lattice_model
from alchemjax.tasks.response import make_response
from alchemjax.tasks.states import mixed_states
from alchemjax.tasks.validate import explicit_system

pytestmark = pytest.mark.usefixtures("quick_loops")


def elastic(potential, large, weights):
    """Second derivatives by strain, as the alloy has them, of atoms that only strain."""
    columns = []
    for strain in STRAINS:
        ends = []
        for amount in (clusters.STRETCH, -clusters.STRETCH):
            turn = np.eye(3) + amount * strain
            structure = large.structure._replace(
                positions=large.structure.positions @ turn, cell=large.structure.cell @ turn
            )
            out = aj.calculate(potential, large._replace(structure=structure), weights)
            virial = np.linalg.inv(turn) @ (abs(np.linalg.det(structure.cell)) * np.asarray(out.stress))
            ends.append(by_strains(virial))
        columns.append((ends[0] - ends[1]) / (2 * clusters.STRETCH))
    both = np.stack(columns, axis=-1)
    return ((both + both.T) / 2)[np.triu_indices(6)]


# --- single sites -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [0, 1])
def test_one_site_and_the_atoms_around_it_are_exact(argon, relaxed_argon, state):
    shape = (3, 3, 3)
    found = alloy(argon, relaxed_argon, supercell=list(shape), exact_pairs=False)
    large = explicit_system(relaxed_argon, found, shape)
    mean = np.tile(relaxed_argon.weights, 27)
    space = abs(np.linalg.det(large.structure.cell))
    tensor = lambda out: space * np.asarray(out.stress)
    alone = [mean.copy() for _ in range(2)]
    for k, weights in enumerate(alone):
        weights[:2] = np.eye(2)[k]
    rigid = [aj.calculate(argon, large, weights) for weights in alone]
    end = aj.relax(argon, large, alone[state], force_tolerance=1e-7, max_steps=3000)
    assert end.converged
    moved = end.structure.positions - large.structure.positions
    mean_force = sum(w * np.asarray(one.forces) for w, one in zip(found.weights[0], rigid, strict=True))
    gained = float(end.output.energy - rigid[state].energy) + (mean_force * moved).sum()  # others balance the mean
    assert abs((mean_force * moved).sum()) > 1e-8
    assert found.relaxation[0, state] == pytest.approx(gained, abs=1e-9) and gained < -1e-5
    second = found.pair_relaxation[0, 0, 0, state, state] / 2
    assert abs(found.relaxation[0, state] / second - 1) > 0.03  # higher orders matter
    balanced = sum(w * tensor(one) for w, one in zip(found.weights[0], rigid, strict=True))
    expected = tensor(end.output) - balanced
    force = found.strain_force[0, state] + found.own_strain[0, state, :6]
    np.testing.assert_allclose(force[VOIGT], expected, atol=1e-6)
    assert np.abs(found.own_strain[0, state, :6]).max() > 1e-5
    relaxed = large._replace(structure=end.structure)
    stiffer = elastic(argon, relaxed, alone[state]) - elastic(argon, large, mean)
    np.testing.assert_allclose(found.own_strain[0, state, 6:], stiffer, atol=1e-5)
    assert np.abs(stiffer).max() > 0.01


@pytest.mark.parametrize("vacancy", [False, True])
def test_a_cluster_with_one_mixed_site_is_exact(argon, vacancy):
    """Its atoms are pulled: by other species, or towards a place that is empty now and then."""
    a = 3.9
    places = [[0, 0, a * (2 / 3) ** 0.5], [0, 0, 0], [a, 0, 0], [a / 2, a * 0.75**0.5, 0]]
    places[0][:2] = np.mean(places[1:], axis=0)[:2]
    atoms = Atoms("Kr4", places)
    atoms.symbols[0] = "Ar"
    system = aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.3 if vacancy else 0.5])
    kind = {"fluctuations": "site-exact", "supercell": [1, 1, 1]}
    system = system._replace(structure=aj.relax(argon, system, force_tolerance=1e-10, max_steps=5000, **kind).structure)
    found = alloy(argon, system, supercell=[1, 1, 1])
    assert found.at_rest.all() and doubts(found) == []
    for k, weights in enumerate([[1, 0], [0, 1], [0, 0]][: 2 + vacancy]):
        end = aj.relax(argon, system, weights, force_tolerance=1e-10, max_steps=5000)
        energy = found.energy + found.field[0, k] + found.relaxation[0, k]
        assert energy == pytest.approx(float(end.output.energy), abs=1e-10)
        assert found.relaxation[0, k] < -1e-5 or k == 2  # no bond of the other three is strained
    assert random_energy(found) == pytest.approx(found.energy + found.weights[0] @ (found.field + found.relaxation)[0])


def test_vacancies_of_a_crystal_whose_atoms_are_pulled_have_a_relaxed_energy(argon):
    """The structure of the mean composition, as it is without fluctuations: single sites pull its atoms."""
    atoms = bulk("Kr", "hcp", 3.69, c=6.02) * (1, 1, 2)
    atoms.symbols[1] = "Ar"
    atoms.positions[1, 2] += 0.05
    system = aj.from_atoms(atoms, mix={"Kr": ("Ar", "Kr")}, weights=[0.5, 0.4])
    system = system._replace(structure=aj.relax(argon, system, cell=True, **TIGHT).structure)
    found = alloy(argon, system, supercell=np.diag([2, 2, 1]), exact_pairs=False)
    assert found.largest_force > 1e-7
    assert found.at_rest.all() and (found.relaxation[:, -1] < -1e-6).all()
    second = own_pair(found.pair_relaxation) / 2
    assert 0.2 < (found.relaxation / second)[:, -1].min() < 3


def test_atoms_that_leave_their_sites_are_told_and_taken_to_second_order(argon, relaxed_argon, monkeypatch):
    monkeypatch.setattr(clusters, "FAR", 0.5)
    monkeypatch.setattr(clusters, "SMALL", 0.0)
    found = alloy(argon, relaxed_argon, supercell=CUBE, exact_pairs=False)
    assert not found.at_rest.any()
    second = own_pair(found.pair_relaxation) / 2
    np.testing.assert_allclose(found.relaxation, second, rtol=0.2)
    (sentence,) = doubts(found)
    assert "around Ar, Kr atoms do not come to rest near their sites" in sentence


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_two_sites_and_the_atoms_around_them_are_exact(argon, relaxed_argon):
    """Neighbours, of which one is Ar and one Kr, or both are Kr."""
    shape = (3, 3, 3)
    found = alloy(argon, relaxed_argon, supercell=list(shape))
    second = alloy(argon, relaxed_argon, supercell=list(shape), exact_pairs=False)
    large = explicit_system(relaxed_argon, found, shape)
    mean = np.tile(relaxed_argon.weights, 27)
    tensor = lambda out: abs(np.linalg.det(large.structure.cell)) * np.asarray(out.stress)

    def with_species(held):
        weights = mean.copy().reshape(-1, 2)
        for site, k in held.items():
            weights[site] = np.eye(2)[k]
        return weights.ravel()

    places = {tuple(c % 3): n for n, c in enumerate(np.array(list(np.ndindex(shape))))}
    away = found.supercell.shift[1:2] % 3
    other = places[tuple(away[0])]
    rigid = {k: [aj.calculate(argon, large, with_species({site: k})) for site in (0, other)] for k in (0, 1)}
    at_mean = aj.calculate(argon, large, mean)
    chance = dict(enumerate(found.weights[0]))
    pulls = sum(chance[k] * (np.asarray(one.forces) - at_mean.forces) for k in (0, 1) for one in rigid[k])
    balanced = sum(chance[k] * (tensor(rigid[k][0]) - tensor(at_mean)) for k in (0, 1))
    for k, l in ((0, 1), (1, 1)):
        held = with_species({0: k, other: l})
        start = aj.calculate(argon, large, held)
        end = aj.relax(argon, large, held, force_tolerance=1e-7, max_steps=3000)
        assert end.converged
        moved = end.structure.positions - large.structure.positions
        gained = float(end.output.energy - start.energy) + (pulls * moved).sum()  # others balance the mean
        energy = float(start.energy - at_mean.energy)
        assert found.pair[0, 1, 0, k, l] == pytest.approx(energy - found.field[0, k] - found.field[0, l], abs=1e-10)
        more = gained - found.relaxation[0, k] - found.relaxation[0, l]
        assert found.pair_relaxation[0, 1, 0, k, l] == pytest.approx(more, abs=1e-8)
        assert abs(more / second.pair_relaxation[0, 1, 0, k, l] - 1) > 0.03  # higher orders matter
        single = found.strain_force[0] + found.own_strain[0, :, :6]
        expected = tensor(end.output) - tensor(at_mean) - 2 * balanced - (single[k] + single[l])[VOIGT]
        np.testing.assert_allclose(found.pair_strain[0, 1, 0, k, l, :6][VOIGT], expected, atol=1e-6)
        assert np.abs(expected).max() > 1e-4
        relaxed = large._replace(structure=end.structure)
        stiffer = elastic(argon, relaxed, held) - elastic(argon, large, mean)
        stiffer = stiffer - (found.own_strain[0, k] + found.own_strain[0, l])[6:]
        np.testing.assert_allclose(found.pair_strain[0, 1, 0, k, l, 6:], stiffer, atol=1e-5)
        assert np.abs(stiffer).max() > 1e-3


def test_atoms_follow_strain_as_they_do_in_the_mean_crystal(argon, monkeypatch):
    """Two sites that strain displaces: the stiffness along what follows is that of atoms at rest."""
    monkeypatch.setattr(clusters, "STRETCH", 1e-3)
    atoms = bulk("Kr", "hcp", 3.9, c=6.5)
    system = aj.from_atoms(atoms, mix={0: ("Ar", "Kr")}, weights=[0.5, 0.5])
    system = system._replace(structure=aj.relax(argon, system, cell=True, **TIGHT).structure)
    fluctuations = with_fluctuations(argon, system, "site-exact", [2, 2, 1]).fluctuations
    states = mixed_states(system, system.weights)
    crystal = make_crystal(system, fluctuations, system.weights)
    hessian = make_hessian(argon, crystal, fluctuations)
    response = make_response(crystal, states, hessian)
    medium = clusters.make_medium(argon, crystal, states, response)
    got, expected = by_two_strains(medium.elastic), crystal.cells * response.stiffness[np.triu_indices(6)]
    np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())
    rigid = hessian.strain_strain[np.triu_indices(6)]
    assert np.abs(rigid - expected).max() > 0.03 * np.abs(expected).max()

    # around a site in a state, what follows is not at rest: second differences of the energy along the same way
    singles = clusters.single_sites(medium, fluctuations)
    site, state, large = int(states.site[0]), 1, crystal.system
    held = large.weights.copy()
    held[crystal.site == site] = np.eye(2)[state]

    def energy(weights, moved, strain, amount):
        turn = np.eye(3) + amount * STRAINS[strain]
        positions = large.structure.positions + moved + amount * response.following[..., strain]
        structure = large.structure._replace(positions=positions @ turn, cell=large.structure.cell @ turn)
        return float(aj.calculate(argon, large._replace(structure=structure), weights).energy)

    h = clusters.STRETCH
    for strain in range(6):
        of = lambda *at, k=strain: (energy(*at, k, h) + energy(*at, k, -h) - 2 * energy(*at, k, 0)) / h**2
        stiffer = of(held, singles.moved[0, state]) - of(large.weights, 0)
        got = np.einsum("abcd,ab,cd->", singles.elastic[0, state], STRAINS[strain], STRAINS[strain])
        assert got == pytest.approx(stiffer, abs=1e-4)


@pytest.mark.parametrize("vacancy", [False, True])
def test_a_cluster_with_two_mixed_sites_is_exact(argon, vacancy):
    """Every arrangement, at rest; the two sites are neighbours, one in the middle."""
    golden = (1 + 5**0.5) / 2
    corners = [np.roll([0, a, b * golden], k) for k in range(3) for a, b in product((-1, 1), repeat=2)]
    places = np.array([[0, 0, 0], *corners]) * 1.95
    system = aj.from_atoms(Atoms("Ar2Kr11", places), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.3 if vacancy else 0.5])
    kind = {"fluctuations": "site-exact", "supercell": [1, 1, 1]}
    still = aj.relax(argon, system, force_tolerance=1e-10, max_steps=5000, **kind)
    system = system._replace(structure=still.structure)
    found = alloy(argon, system, supercell=[1, 1, 1])
    assert found.at_rest.all() and found.pair_at_rest.all()
    model, mean = lattice_model(found, (1, 1, 1)), 0.0
    large = explicit_system(system, found, (1, 1, 1))
    species = [[1, 0], [0, 1], [0, 0]][: 2 + vacancy]
    chances = [*system.weights, 1 - system.weights.sum()]
    for one, two in product(range(2 + vacancy), repeat=2):
        end = aj.relax(argon, large, [*species[one], *species[two]], force_tolerance=1e-10, max_steps=5000)
        energy = float(total_energy(model, np.array([[[[one, two]]]])))
        assert energy == pytest.approx(float(end.output.energy), abs=1e-9)
        mean += chances[one] * chances[two] * energy
    assert random_energy(found) == pytest.approx(mean, abs=1e-12)
    single = found.energy + (found.weights * (found.field + found.relaxation)).sum()
    assert abs(mean - single) > 1e-7


def test_pairs_of_a_quadratic_energy_are_its_second_derivatives():
    pairs_alone = lennard_jones(krypton=(2.0, 1.5))
    one, two = (alloy(pairs_alone, mixed_argon(), supercell=CUBE, relaxed=False, exact_pairs=e) for e in (True, False))
    assert np.abs(two.pair).max() > 1e-4
    np.testing.assert_allclose(one.pair, two.pair, atol=1e-10)
    assert one.pair_at_rest.all() and two.pair_at_rest is None


def test_pairs_make_the_random_alloy_that_of_explicit_arrangements(argon, relaxed_argon):
    """Mean over many arrangements of independent sites, on ideal sites: pairs are nearly all that is lacking."""
    shape = (3, 3, 3)
    found = alloy(argon, relaxed_argon, supercell=list(shape), relaxed=False)
    large = explicit_system(relaxed_argon, found, shape)
    rng = np.random.default_rng(0)
    states = (rng.random((300, 27)) > found.weights[0, 0]).astype(int)
    energies = aj.sweep(argon, large, np.eye(2)[states].reshape(300, -1), relax="none").energy
    model = lattice_model(found, shape, relaxed=False)
    predicted = np.array([float(total_energy(model, own.reshape(*shape, 1))) for own in states])
    assert abs(energies - predicted).max() < 0.1 * np.ptp(energies)


def test_random_alloy_on_its_sites_has_the_energy_of_single_sites_and_of_pairs(small):
    """Two sublattices, one with vacancies; all pairs of the supercell see each other."""
    atoms = bulk("NaCl", "rocksalt", 3.6)
    system = aj.from_atoms(atoms, mix={"Na": ("Na", "K"), "Cl": ("Cl", "O")}, weights=[0.4, 0.5, 0.8, 0.2])
    matrix = [1, 1, 2]
    found = alloy(small, system, relaxed=False, supercell=matrix)
    single = float(aj.calculate(small, system, fluctuations="site-exact", supercell=matrix).energy)
    pairs = aj.pair_fluctuations(small, system, supercell=matrix)
    assert abs(pairs) > 1e-5
    assert random_energy(found, relaxed=False) == pytest.approx(single + pairs, abs=1e-10)


def test_a_box_smaller_than_the_supercell_repeats_its_arrangement(argon, relaxed_argon):
    found = alloy(argon, relaxed_argon, supercell=[4, 4, 4])
    states = np.random.default_rng(1).integers(0, 2, (2, 2, 2, 1))
    small_box, large_box = lattice_model(found, (2, 2, 2)), lattice_model(found, (4, 4, 4))
    one, whole = float(total_energy(small_box, states)), float(total_energy(large_box, np.tile(states, (2, 2, 2, 1))))
    assert whole == pytest.approx(8 * one, abs=1e-10)
    np.testing.assert_allclose(box_strain(small_box, states), box_strain(large_box, np.tile(states, (2, 2, 2, 1))))


def test_known_pairs_are_not_evaluated_again(argon, relaxed_argon, monkeypatch):
    known = {}
    whole = alloy(argon, relaxed_argon, supercell=[2, 2, 2], known_pairs=known)
    for number in list(known)[:6]:
        del known[number]
    right, evaluated = clusters._beyond_singles, []
    count = lambda *arguments: evaluated.append(len(arguments[-1])) or right(*arguments)
    monkeypatch.setattr(clusters, "_beyond_singles", count)
    again = alloy(argon, relaxed_argon, supercell=[2, 2, 2], known_pairs=known)
    assert evaluated and sum(evaluated) <= 8
    for name in ("pair", "pair_relaxation", "pair_strain", "pair_at_rest"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_round_off_of_single_precision_adds_up_as_it_is_told(relaxed_argon):
    """By the energies of pairs, in float32 and in float64."""
    both = [lennard_jones(krypton=(1.5, 1.3), embedding=0.5, dtype=dtype) for dtype in ("float32", "float64")]
    low, high = (alloy(one, relaxed_argon, supercell=CUBE) for one in both)
    assert abs(random_energy(low) - random_energy(high)) < 4 * low.round_off
    assert low.round_off > 1e6 * high.round_off and low.round_off < 1e-3
    sums = [(one.own_strain[0, 0, :6], one.pair_strain[..., :6].sum((1, 2))) for one in (low, high)]
    for got, expected in zip(*sums, strict=True):  # atoms at rest: what is left of forces would add up too
        np.testing.assert_allclose(got, expected, atol=1e-4)
    (sentence,) = doubts(low._replace(round_off=0.002))
    assert "may add up to +2.0 meV per site; take float64" in sentence


@pytest.mark.parametrize("name", ["primitive", "perovskite"])
def test_orbits_hold_every_pair_in_both_directions(small, name):
    if name == "primitive":
        system, matrix = aj.from_atoms(bulk("NaCl", "rocksalt", 4.6), mix={"Na": ("Na", "K")}), [3, 3, 3]
    else:
        places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
        atoms = Atoms("MgLiO3", scaled_positions=places, cell=np.eye(3) * 3.4, pbc=True)
        system, matrix = aj.from_atoms(atoms, mix={"O": ("O", "Cl")}), [2, 2, 1]
    chosen = with_fluctuations(small, system, "site-exact", matrix).fluctuations
    crystal = make_crystal(system, chosen, np.array([0.5, 0.5]))
    mixed = [s for s in range(len(system.structure.positions)) if s in system.sites.groups[0].sites]
    orbits = pair_orbits(crystal, chosen, mixed)
    every = [pair for orbit in orbits for pair in {pair for pair, _, _ in orbit.members}]
    there = np.flatnonzero(np.isin(crystal.supercell.origin, mixed)).tolist()
    assert sorted(every) == sorted((i, j) for i, j in product(mixed, there) if i != j)
    assert len(orbits) < len(every) / 4
    positions, cell = crystal.system.structure.positions, crystal.system.structure.cell
    for orbit in orbits:
        lengths = [nearest(positions[j] - positions[i], cell) for (i, j), _, _ in orbit.members]
        assert np.ptp(lengths) < 1e-9
        assert orbit.exchanges == any(pair == orbit.pair for pair, _, exchanged in orbit.members if exchanged)
    assert any(orbit.exchanges for orbit in orbits)


def nearest(apart, cell):
    return min(np.linalg.norm(apart + np.array(n) @ cell) for n in product((-1, 0, 1), repeat=3))


def test_pairs_around_which_atoms_leave_their_sites_are_of_second_order(argon, relaxed_argon, monkeypatch):
    """Single sites come to rest, pairs do not."""
    second = alloy(argon, relaxed_argon, supercell=CUBE, exact_pairs=False)
    to_rest = clusters._come_to_rest
    never = lambda *a: (*to_rest(*a)[:3], np.zeros(len(a[1]), bool)) if len(a) == 5 else to_rest(*a)
    monkeypatch.setattr(clusters, "_come_to_rest", never)
    found = alloy(argon, relaxed_argon, supercell=CUBE)
    assert found.at_rest.all() and not found.pair_at_rest[:, 1:].any()
    np.testing.assert_allclose(found.pair_relaxation, second.pair_relaxation, atol=1e-12)
    assert not found.pair_strain.any()
    (sentence,) = doubts(found)
    assert "around 0.97 of all pairs atoms do not come to rest" in sentence


def test_a_pair_that_leaves_its_sites_in_one_state_is_of_second_order_in_all(argon, relaxed_argon, monkeypatch):
    """Also where its numbers are none: second-order interactions are zero in the mean, one of several is not."""
    second = alloy(argon, relaxed_argon, supercell=CUBE, exact_pairs=False)
    to_rest = clusters._come_to_rest

    def lost(medium, weights, on_sites, balance, near=None):
        end, gained, moved, rest = to_rest(medium, weights, on_sites, balance, near)
        if near is not None:
            kr = (weights.reshape(len(weights), -1, 2)[:, :, 1] == 1).sum(1) == 2
            gained, rest = np.where(kr, np.nan, gained), rest & ~kr
            strain = np.where(kr[:, None, None], np.nan, end.gradient.strain)
            end = end._replace(gradient=end.gradient._replace(strain=strain))
        return end, gained, moved, rest

    monkeypatch.setattr(clusters, "_come_to_rest", lost)
    found = alloy(argon, relaxed_argon, supercell=CUBE)
    assert not found.pair_at_rest[:, 1:].any()
    np.testing.assert_allclose(found.pair_relaxation, second.pair_relaxation, atol=1e-12)
    assert not found.pair_strain.any() and np.isfinite(random_energy(found))


def test_all_sites_of_a_molecule_may_be_empty(argon):
    system = aj.from_atoms(Atoms("Ar2", [[0, 0, 0], [3.9, 0, 0]]), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.3])
    system = system._replace(structure=aj.relax(argon, system, force_tolerance=1e-10).structure)
    found = alloy(argon, system, supercell=[1, 1, 1])
    model = lattice_model(found, (1, 1, 1))
    assert float(total_energy(model, np.full((1, 1, 1, 2), 2))) == pytest.approx(0, abs=1e-9)


def test_atoms_that_approach_more_than_the_list_knows_are_far(argon, relaxed_argon, monkeypatch):
    monkeypatch.setattr(clusters, "SKIN", 1e-3)
    found = alloy(argon, relaxed_argon, supercell=CUBE, exact_pairs=False)
    assert not found.at_rest.any()
