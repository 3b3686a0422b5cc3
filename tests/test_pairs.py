"""What fluctuations of two sites at a time add to the energy of a random alloy."""

from itertools import combinations, product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pair_potential import lennard_jones

import alchemjax as aj
from alchemjax.calculate import with_fluctuations
from alchemjax.system.neighbours import find_pairs
from alchemjax.tasks.crystal import make_crystal


def molecule(weights=(0.3, 0.6), groups="shared"):
    """Two mixed sites that see each other, two ordinary ones, no symmetry."""
    atoms = Atoms("NaNaClO", [(0, 0, 0), (1.7, 0.2, 0), (0.7, 1.5, 0.2), (0.8, -0.4, 1.4)])
    return aj.from_atoms(atoms, mix={"Na": ("Na", "K")}, weights=list(weights), groups=groups)


def test_with_two_mixed_sites_the_series_is_exact(small):
    """One site at a time and both at once are all there is: four, or with vacancies nine, arrangements."""
    for weights in ([0.3, 0.7], [0.3, 0.6]):
        system = molecule(weights)
        chances = dict(zip([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)], [*weights, 1 - sum(weights)], strict=True))
        apart = molecule([*weights, *weights], "site")
        exact = sum(
            chances[one] * chances[two] * float(aj.calculate(small, apart, [*one, *two]).energy)
            for one, two in product(chances, chances)
        )
        one_at_a_time = float(aj.calculate(small, system, fluctuations="site-exact").energy)
        pairs = aj.pair_fluctuations(small, system)
        assert abs(pairs) > 1e-5
        assert one_at_a_time + pairs == pytest.approx(exact, abs=1e-11)


def rock_salt():
    """Two mixed sublattices, one with vacancies."""
    atoms = bulk("NaCl", "rocksalt", 3.6)
    return aj.from_atoms(atoms, mix={"Na": ("Na", "K"), "Cl": ("Cl", "O")}, weights=[0.4, 0.5, 0.8, 0.2])


def perovskite():
    """Three equivalent mixed sites, which are not in a supercell that lacks rotations."""
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    atoms = Atoms("MgLiO3", scaled_positions=places, cell=np.eye(3) * 3.4, pbc=True)
    return aj.from_atoms(atoms, mix={"O": ("O", "Cl")}, weights=[0.6, 0.4])


@pytest.mark.parametrize(("make", "matrix"), [(rock_salt, [2, 2, 3]), (perovskite, [2, 2, 1])])
def test_symmetry_saves_work_and_changes_nothing(small, make, matrix):
    """All pairs of the supercell, one after the other."""
    system = make()
    weights = system.weights
    chosen = with_fluctuations(small, system, "site-exact", matrix).fluctuations
    crystal = make_crystal(system, chosen, weights)
    large, mean = crystal.system, crystal.system.weights
    held = [np.flatnonzero(crystal.site == site) for site in range(len(crystal.supercell.origin))]
    near = find_pairs(large.structure, small.cutoff)
    near = {(i, j) for i, j in zip(near.receiver.tolist(), near.sender.tolist(), strict=True) if i < j}
    assert len(near) < len(list(combinations(range(len(held)), 2)))
    rows, factors = [], []

    def add(factor, *chosen):
        own = mean.copy()
        for site, k in chosen:
            own[held[site]] = np.eye(3)[k][:2]  # two species, then the vacancy
        rows.append(own)
        factors.append(factor)

    for i, j in sorted(pair for pair in near if all(len(held[site]) for site in pair)):
        states = [[*enumerate([*mean[held[site]], 1 - mean[held[site]].sum()])] for site in (i, j)]
        for (k, chance), (l, other) in product(*states):
            factor = chance * other
            if factor > 1e-9:
                add(factor, (i, k), (j, l))
                add(-factor, (i, k))
                add(-factor, (j, l))
                add(factor)
    different, which = np.unique(rows, axis=0, return_inverse=True)
    energies = aj.sweep(small, large, different, relax="none").energy
    total = factors @ energies[which.ravel()]
    found = aj.pair_fluctuations(small, system, supercell=matrix)
    assert abs(found) > 1e-5
    assert found == pytest.approx(total / crystal.cells, abs=1e-10)


def test_nothing_is_lacking_where_one_site_at_a_time_is_exact():
    potential = lennard_jones(krypton=(1.5, 1.3), embedding=0.5)
    system = aj.from_atoms(bulk("Ar", "fcc", 5.3), mix={"Ar": ("Ar", "Kr")}, weights=[0.4, 0.6])
    assert aj.pair_fluctuations(potential, system) == pytest.approx(0, abs=1e-10)


def test_nothing_fluctuates_in_a_pure_crystal(small):
    system = molecule()
    assert aj.pair_fluctuations(small, system, [1, 0]) == 0
    assert aj.pair_fluctuations(small, aj.from_atoms(aj.to_atoms(system, weights=[1, 0]))) == 0
    with pytest.raises(ValueError, match="may not be negative"):
        aj.pair_fluctuations(small, system, [1.5, -0.5])
