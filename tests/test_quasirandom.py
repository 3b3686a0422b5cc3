"""Special quasirandom structures are closer to a random alloy than a random arrangement is."""

import sys

import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list
from pair_potential import lennard_jones, wurtzite

import alchemjax as aj
from alchemjax.tasks.lattice import random_states
from alchemjax.tasks.quasirandom import quasirandom_states
from alchemjax.tasks.validate import validate

pytestmark = pytest.mark.usefixtures("quick_loops")


@pytest.fixture(scope="module")
def potential():
    return lennard_jones(krypton=(1.5, 1.3))


@pytest.fixture(scope="module")
def two_sublattices(potential):
    system = wurtzite()
    return system, aj.alloy(potential, system, relaxed=False, supercell=[2, 2, 1])


def mismatch(alloy, states):
    """Of the number of equal pairs of the twelve neighbours on every sublattice from that of the random alloy."""
    shape, equal = states.shape[:3], {0: [], 1: []}
    start = np.array(list(np.ndindex(shape)))
    for shell in aj.shells(alloy.structure.cell, alloy.structure.positions[alloy.site], alloy.sublattice, shape, 6.0):
        if shell.sublattices[0] == shell.sublattices[1]:
            there = (start[:, None] + shell.pairs[:, :3]) % shape
            one, two = states[*start.T][:, shell.pairs[:, 3]], states[*np.moveaxis(there, -1, 0), shell.pairs[:, 4]]
            equal[shell.sublattices[0]].append(one == two)
    means = [np.concatenate(equal[which], axis=1).mean() for which in (0, 1)]
    assert all(np.concatenate(equal[which], axis=1).shape == (18, 24) for which in (0, 1))
    shares = [np.bincount(states[..., alloy.sublattice == which].ravel()) / 36 for which in (0, 1)]
    return np.abs(np.array(means) - [(share**2).sum() for share in shares]).max()


def test_its_pairs_are_as_frequent_as_in_the_random_alloy(two_sublattices):
    pytest.importorskip("sqsgenerator")
    _, alloy = two_sublattices
    model = aj.lattice_model(alloy, (3, 3, 2))
    drawn = [np.asarray(random_states(model, alloy.weights, jax.random.key(k))) for k in range(20)]
    lattice = alloy.structure, alloy.site, alloy.sublattice
    found = quasirandom_states(*lattice, drawn[0])
    np.testing.assert_array_equal(found, quasirandom_states(*lattice, drawn[0]))
    for which in (0, 1):
        on = alloy.sublattice == which
        np.testing.assert_array_equal(np.sort(found[..., on], axis=None), np.sort(drawn[0][..., on], axis=None))
    assert mismatch(alloy, found) < 0.2 * np.median([mismatch(alloy, one) for one in drawn])


def test_validation_says_which_arrangement_it_is(potential, two_sublattices):
    pytest.importorskip("sqsgenerator")
    system, alloy = two_sublattices
    options = {"shape": (2, 2, 1), "random": 2, "ground_state": False}
    found = validate(potential, system, alloy, **options)
    assert found.kinds == ("random", "random", "SQS")
    assert len(found.states) == len(found.rigid) == 3
    assert validate(potential, system, alloy, sqs=False, **options).kinds == ("random", "random")
    alone = validate(potential, system, alloy, sqs=True, shape=(2, 2, 1), random=0, ground_state=False)
    assert alone.kinds == ("SQS",)


def test_without_the_package_it_gets_a_sentence(monkeypatch, potential, two_sublattices):
    monkeypatch.setitem(sys.modules, "sqsgenerator", None)
    system, alloy = two_sublattices
    with pytest.raises(ImportError, match="needs sqsgenerator; run: pip install sqsgenerator"):
        validate(potential, system, alloy, shape=(2, 2, 1), sqs=True)


def test_supercells_of_a_composition_may_be_quasirandom():
    pytest.importorskip("sqsgenerator")
    system = aj.from_atoms(bulk("Ar", "fcc", 5.3), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])

    def like(atoms):
        """Nearest neighbours of the same kind; 6 of 12 in the random alloy."""
        first, second = neighbor_list("ij", atoms, 4.0)
        assert len(first) == 12 * len(atoms)
        return np.mean(atoms.numbers[first] == atoms.numbers[second])

    quasirandom, random = (aj.decorate(system, number=4, cells=(4, 4, 4), method=m) for m in ("sqs", "random"))
    assert all(sorted(atoms.symbols) == ["Ar"] * 32 + ["Kr"] * 32 for atoms in quasirandom)
    far = [max(abs(like(atoms) - 0.5) for atoms in several) for several in (quasirandom, random)]
    assert far[0] < 0.02 < far[1]
