"""Cluster expansions of other programs have the energies of the alchemical Hamiltonian."""

import sys
import warnings

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pair_potential import CUBE, A, lennard_jones, mixed_argon, relaxed_mixed_argon, wurtzite

import alchemjax as aj
from alchemjax.system.supercell import make_supercell
from alchemjax.tasks.alloy import Alloy, site_energies
from alchemjax.tasks.lattice import random_states
from alchemjax.tasks.states import VACANCY

pytestmark = pytest.mark.usefixtures("quick_loops")


def left_handed():
    """With vacancies."""
    atoms = bulk("Ar", "fcc", A)
    atoms.set_cell(atoms.cell[[1, 0, 2]])
    return aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[0.3, 0.5])


def partly_mixed():
    atoms = bulk("ArKr", "wurtzite", a=5.4, c=8.9, u=0.37)
    return aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[0.3, 0.7])


@pytest.fixture(scope="module")
def potential():
    return lennard_jones(krypton=(2.0, 1.5), embedding=0.3)


@pytest.fixture(scope="module")
def relaxed_argon(potential):
    system = relaxed_mixed_argon(potential)
    alloy = aj.alloy(potential, system, supercell=CUBE)
    return system, alloy._replace(pair_strain=None)  # all arrangements of one composition strain alike


def decorated(alloy, system, states) -> Atoms:
    """Atoms of an arrangement, with X for vacancies."""
    shape, mixed = states.shape[:3], dict(zip(alloy.site.tolist(), range(len(alloy.site)), strict=True))
    symbols = dict(zip(system.sites.node_site.tolist(), system.sites.node_species, strict=True))
    held, positions = [], []
    for cell in np.ndindex(*shape):
        for site, place in enumerate(alloy.structure.positions):
            state = alloy.species[states[*cell, mixed[site]]] if site in mixed else symbols[site]
            held.append("X" if state == VACANCY else state)
            positions.append(place + np.array(cell) @ alloy.structure.cell)
    return Atoms(held, positions, cell=np.diag(shape) @ alloy.structure.cell, pbc=True)


def by_icet(alloy, system, states, **options):
    pytest.importorskip("icet")
    with warnings.catch_warnings(action="ignore"):  # its own
        found = aj.to_icet(alloy, system, **options)
        atoms = [decorated(alloy, system, one) for one in states]
        return [found.predict(one) * len(one) for one in atoms]


def by_smol(alloy, system, states, **options):
    pytest.importorskip("smol")
    from pymatgen.io.ase import AseAtomsAdaptor

    with warnings.catch_warnings(action="ignore"):  # its own
        found = aj.to_smol(alloy, system, **options)
        present = [one[one.numbers != 0] for one in (decorated(alloy, system, s) for s in states)]
        matrix = np.diag(states[0].shape[:3])
        return [found.predict(AseAtomsAdaptor.get_structure(one), scmatrix=matrix) for one in present]


def arrangements(alloy, model, number=4):
    """Random ones, and one of a single species."""
    states = [np.asarray(random_states(model, alloy.weights, jax.random.key(k))) for k in range(number)]
    return [*states, np.broadcast_to(alloy.allowed.argmax(1), states[0].shape)]


@pytest.mark.parametrize("by", [by_icet, by_smol])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (mixed_argon, (3, 3, 3)),
        (lambda: mixed_argon(cubic=True), (2, 2, 2)),
        (left_handed, (3, 3, 3)),
        (wurtzite, (2, 2, 1)),
        (partly_mixed, (2, 2, 1)),
    ],
    ids=["fcc", "cubic cell", "vacancies", "two sublattices", "partly mixed"],
)
def test_every_arrangement_has_the_energy_of_the_lattice_model(potential, by, make, shape):
    system = make()
    alloy = aj.alloy(potential, system, relaxed=False, supercell=list(shape))
    model = aj.lattice_model(alloy, shape)
    states = arrangements(alloy, model)
    expected = [float(aj.total_energy(model, one)) for one in states]
    assert np.ptp(expected[:4]) > 1e-3
    np.testing.assert_allclose(by(alloy, system, states), expected, atol=1e-9)


@pytest.mark.parametrize("by", [by_icet, by_smol])
def test_relaxed_arrangements_have_the_energy_of_the_lattice_model_at_the_mean_composition(relaxed_argon, by):
    system, alloy = relaxed_argon
    shape = (1, 5, 5)
    model = aj.lattice_model(alloy, shape)
    states = arrangements(alloy, model)
    expected = [float(aj.total_energy(model, one)) for one in states]
    found = by(alloy, system, states)
    assert np.ptp(expected[:4]) > 1e-3
    np.testing.assert_allclose(found[:4], expected[:4], atol=1e-9)
    assert abs(found[4] - expected[4]) > 1e-3  # the box strains as a whole
    rigid = aj.lattice_model(alloy, shape, relaxed=False)
    expected = [float(aj.total_energy(rigid, one)) for one in states]
    np.testing.assert_allclose(by(alloy, system, states, relaxed=False), expected, atol=1e-9)


@pytest.mark.parametrize("by", [by_icet, by_smol])
def test_a_cutoff_leaves_out_pairs_and_keeps_the_random_alloy(relaxed_argon, by):
    system, alloy = relaxed_argon
    near = 4.5  # A: twelve neighbours
    given = aj.interactions(alloy)
    kept = given.distance < near
    assert kept.sum() == 12 and len(kept) > 12
    states = arrangements(alloy, aj.lattice_model(alloy, (3, 3, 3)))
    shift = np.stack(np.meshgrid(*[range(3)] * 3, indexing="ij"), -1)
    field, expected = site_energies(alloy, relaxed=True)[0], []
    at_mean = aj.random_energy(alloy) - alloy.weights[0] @ field
    assert at_mean < alloy.energy - 1e-7  # it strains
    for one in states:
        here = one[..., 0]
        energy = 27 * at_mean + field[here].sum()
        for cell, pair in zip(given.cell[kept], given.energy[kept], strict=True):
            there = here[tuple(np.moveaxis((shift + cell) % 3, -1, 0))]
            energy += pair[here, there].sum() / 2
        expected.append(energy)
    np.testing.assert_allclose(by(alloy, system, states, cutoff=near), expected, atol=1e-9)


@pytest.mark.parametrize("by", [by_icet, by_smol])
def test_three_species_and_a_lattice_without_inversion(by):
    """Any symmetric interactions of neighbours, by hand, of which the two ends differ."""
    rng = np.random.default_rng(0)
    weights = np.array([[0.5, 0.2, 0.3], [0.1, 0.3, 0.6]])
    structure = aj.from_atoms(bulk("ArKr", "zincblende", 5.0)).structure
    side = 3
    supercell = make_supercell(side * np.eye(3, dtype=int), 2)
    pair = np.zeros((2, side**3, 2, 3, 3))
    states = ("Ar", "Kr", "Xe"), weights, np.ones((2, 3), bool)
    energies = 0.5, *[rng.normal(size=(2, 3))] * 2, pair, 0.0
    empty = Alloy(structure, np.arange(2), np.arange(2), *states, supercell, *energies)
    given = aj.interactions(empty)
    cells = {tuple(cell % side): number for number, cell in enumerate(supercell.shift[::2])}
    values = rng.normal(size=(3, 3))
    for first, second, cell, distance in zip(*given[:4], strict=True):
        if distance < 2.3:
            pair[first, cells[tuple(cell % side)], second] = values if first == 0 else values.T
    alloy = empty._replace(allowed=np.array([[True, True, True], [True, True, True]]), pair=pair)
    with pytest.raises(ValueError, match="sites 0 and 1 differ by their mean weights alone"):
        by(alloy, aj.from_atoms(bulk("ArKr", "zincblende", 5.0)), [])
    # of which one holds fewer states
    alloy = alloy._replace(weights=np.array([[0.5, 0.2, 0.3], [0.4, 0.6, 0]]))
    alloy = alloy._replace(allowed=alloy.weights > 0, field=np.where(alloy.weights > 0, alloy.field, 0))
    model = aj.lattice_model(alloy, (3, 2, 2))
    states = arrangements(alloy, model)
    expected = [float(aj.total_energy(model, one)) for one in states]
    np.testing.assert_allclose(by(alloy, aj.from_atoms(bulk("ArKr", "zincblende", 5.0)), states), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("export", "module", "name"), [(aj.to_icet, "icet", "icet"), (aj.to_smol, "smol.cofe", "smol")]
)
def test_a_missing_package_gets_a_sentence(monkeypatch, relaxed_argon, export, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"needs {name}, which cannot be imported; run: pip install {name}"):
        export(relaxed_argon[1])


def test_wrong_inputs_get_a_sentence(potential, relaxed_argon):
    pytest.importorskip("icet")
    system, alloy = relaxed_argon
    with pytest.raises(ValueError, match="cutoff = -1 A must be positive"):
        aj.to_icet(alloy, cutoff=-1)
    with pytest.raises(ValueError, match="the system has 4 sites, the alloy 1"):
        aj.to_icet(alloy, mixed_argon(cubic=True))
    with pytest.raises(ValueError, match="periodic in every direction"):
        aj.to_icet(alloy._replace(structure=alloy.structure._replace(pbc=np.array([True, True, False]))))
    partly = aj.alloy(potential, partly_mixed(), relaxed=False, supercell=[1, 1, 1])
    with pytest.raises(ValueError, match="2 sites are not mixed: give the system"):
        aj.to_icet(partly)
