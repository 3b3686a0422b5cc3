"""Orderings that are found by gradient, against all arrangements."""

import itertools

import numpy as np
import pytest
from ase.build import bulk, make_supercell
from pair_potential import A, lennard_jones

import alchemjax as aj
from alchemjax.tasks.validate import explicit_system, one_hot


@pytest.fixture(scope="module")
def potential():
    """Neighbours of unlike species repel each other less."""
    return lennard_jones(embedding=0.02, krypton=(1.2, 1.0))


def crystal(shares, species=("Ar", "Kr"), cells=(2, 1, 1)):
    atoms = make_supercell(bulk("Ar", "fcc", 1.02 * A, cubic=True), np.diag(cells))
    return aj.from_atoms(atoms, mix={"Ar": species}, groups="site", weights=np.tile(shares, len(atoms)))


def arrangements(sites, counts):
    """All ways to put species, as states of sites; -1 is an empty site."""
    kinds = np.repeat(np.arange(len(counts)), counts).tolist() + [-1] * (sites - sum(counts))
    return np.array(sorted(set(itertools.permutations(kinds))))


@pytest.mark.parametrize(("shares", "counts"), [((0.5, 0.5), (4, 4)), ((0.75, 0.25), (6, 2)), ((0.5, 0.375), (4, 3))])
def test_orderings_are_the_lowest_of_all_arrangements(potential, shares, counts):
    system = crystal(shares)
    found = aj.order(potential, system, first=300.0, last=0.01, steps=150, starts=6)
    states = arrangements(8, counts)
    rows = np.array([[float(s == k) for s in row for k in range(2)] for row in states])
    every = aj.sweep(potential, system, rows, relax="none").energy
    # what differs by next-nearest neighbours alone is almost degenerate
    near = every.min() + 1e-3 * np.ptp(every)
    assert found.energy[0] <= near and np.ptp(every) > 1e-3 and np.mean(every < near) < 0.5
    assert (np.diff(found.energy) >= 0).all()
    if sum(counts) == 8:  # sites have chosen, and rounding has not; vacancies stay between sites
        assert np.median(found.disorder) < 0.05
    assert set(found.found) == set(range(len(found.energy))) and len(found.found) == 6
    for weights, energy in zip(found.weights, found.energy, strict=True):
        assert np.isin(weights, (0, 1)).all()
        assert tuple(weights.reshape(8, 2).sum(0)) == counts
        assert float(aj.calculate(potential, system, weights).energy) == pytest.approx(energy, abs=1e-9)


def test_the_disordered_state_is_the_mean_field_with_its_entropy(potential):
    """Far above all interactions the first steps forget how the symmetry was broken."""
    system = crystal([0.5, 0.5])
    found = aj.order(potential, system, first=1e5, last=0.9e5, steps=30, starts=2)
    mean = float(aj.calculate(potential, system).energy)
    entropy = -8 * 8.617330337217213e-5 * np.log(0.5)
    expected = mean - found.temperatures[-1] * entropy
    np.testing.assert_allclose(found.free_energy[:, -1], expected, rtol=1e-6)
    np.testing.assert_allclose(found.disorder, 1, atol=1e-4)


def test_ground_states_of_the_hamiltonian_are_found_too(potential):
    cube = aj.from_atoms(bulk("Ar", "fcc", 1.02 * A, cubic=True), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    alloy = aj.alloy(potential, cube, relaxed=False, supercell=[3, 3, 3])
    states, lowest = aj.ground_state(aj.lattice_model(alloy, (2, 1, 1)), alloy.weights)
    large = explicit_system(cube, alloy, (2, 1, 1))
    predicted = float(aj.calculate(potential, large, one_hot(large, alloy, states)).energy)
    found = aj.order(potential, large, np.tile([0.5, 0.5], 8), first=300.0, last=0.01, steps=150, starts=6)
    assert found.energy[0] == pytest.approx(predicted, abs=1e-5)  # two are degenerate but for next-nearest neighbours
    assert predicted == pytest.approx(float(lowest), abs=3e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": np.tile([0.6, 0.4], 8)}, "8 sites hold 4.8 Ar, 3.2 Kr, 0 vacancies; order needs whole atoms"),
        ({"starts": 0}, "starts = 0 must be a whole number"),
        ({"steps": 0}, "steps = 0 must be a whole number"),
        ({"first": -1.0}, "first = -1.0 K must be a positive number"),
    ],
)
def test_what_cannot_order_is_refused(potential, options, message):
    with pytest.raises(ValueError, match=message):
        aj.order(potential, crystal([0.5, 0.5]), **options)


def test_sites_that_share_weights_cannot_order(potential):
    shared = aj.from_atoms(bulk("Ar", "fcc", A, cubic=True), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    with pytest.raises(ValueError, match="group 'Ar' has several sites, which cannot order"):
        aj.order(potential, shared)
    with pytest.raises(ValueError, match="no site is mixed"):
        aj.order(potential, aj.from_atoms(bulk("Ar", "fcc", A)))
    paired = aj.from_atoms(bulk("Ar", "fcc", A), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5], coupling="paired")
    with pytest.raises(ValueError, match="the coupling is 'paired'"):
        aj.order(potential, paired)
