"""The ASE calculator says what `calculate` says, keeps its neighbour list while it holds, and compiles once."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.stress import full_3x3_to_voigt_6_stress
from conftest import evaluate, varies
from pair_potential import lennard_jones

import alchemjax as aj

ARGON = lennard_jones()
MIX = {"Ar": ("Ar", "Kr"), 1: ("Kr",)}
WEIGHTS = {"Ar": {"Ar": 0.5, "Kr": 0.375}, "1": {"Kr": 0.75}}
COUPLINGS = [("independent", None), ("correlated", -0.1), ("published", None)]
ROOM = {"independent": [(8, 60)]} | dict.fromkeys(("paired", "correlated", "published"), [(8, 60), (8, 60)])


def crystal(a=5.4, *, seed=3):
    """Four atoms, one of them krypton, near the sites of a face-centred cubic crystal."""
    atoms = bulk("Ar", cubic=True, a=a)
    atoms.symbols[1] = "Kr"
    atoms.rattle(0.05, seed=seed)
    return atoms


def counted(potential=ARGON):
    """The potential, and a list that grows whenever its network is traced."""
    traces = []

    def node_energies(*arguments):
        traces.append(1)
        return potential.node_energies(*arguments)

    return potential._replace(node_energies=node_energies), traces


def listed_at(calculator):
    """Where the neighbour list was made."""
    return np.asarray(calculator._kept.neighbours.positions)


def room(calculator):
    """Number of edges that there are arrays for."""
    return sum(rows * width for rows, width in calculator._kept.grid.shapes)


def assert_agrees(atoms, out, rtol=1e-12):
    """The calculator of `atoms` says what `calculate` says."""
    np.testing.assert_allclose(atoms.get_potential_energy(), out.energy, rtol=rtol)
    np.testing.assert_allclose(atoms.get_potential_energies(), out.site_energies, rtol=rtol, atol=1e-13)
    np.testing.assert_allclose(atoms.get_forces(), out.forces, rtol=rtol, atol=1e-13)
    assert np.abs(atoms.get_forces()).max() > 1e-3
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    if out.stress is not None:
        np.testing.assert_allclose(atoms.get_stress(voigt=False), out.stress, rtol=rtol, atol=1e-14)


def assert_agrees_with_host_lists(atoms, system=None, weights=(), alpha=None):
    """As `assert_agrees`, without compiling for every number of edges."""
    of_symbols = aj.from_atoms(atoms)
    system = of_symbols if system is None else system._replace(structure=of_symbols.structure)
    shapes = ROOM[system.coupling]
    out = evaluate(ARGON, system.structure, system.sites, system.coupling, list(weights), alpha, shapes=shapes)
    np.testing.assert_allclose(atoms.get_potential_energy(), out.energy, rtol=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), -out.positions, rtol=1e-12, atol=1e-13)
    if abs(np.linalg.det(atoms.cell[:])) > 0:
        expected = full_3x3_to_voigt_6_stress(out.strain / atoms.get_volume())
        np.testing.assert_allclose(atoms.get_stress(), expected, rtol=1e-12, atol=1e-14)


# --- the same numbers -------------------------------------------------------------------------------------------------


def test_ordinary_atoms_agree_with_calculate():
    atoms = crystal()
    atoms.set_cell(atoms.cell[:] + 0.1 * np.arange(9).reshape(3, 3) / 9, scale_atoms=True)
    atoms.calc = aj.Calculator(ARGON)
    out = aj.calculate(ARGON, aj.from_atoms(atoms))
    assert_agrees(atoms, out)
    assert "weights_gradient" not in atoms.calc.results
    assert varies(*out.stress[np.triu_indices(3, 1)], 0, by=1e-5)  # Voigt's order matters


@pytest.mark.parametrize("coupling, alpha", COUPLINGS)
def test_mixture_agrees_with_calculate_at_the_positions_and_cell_of_the_atoms(coupling, alpha):
    system = aj.from_atoms(crystal(), MIX, coupling=coupling)
    atoms = aj.to_atoms(system)
    atoms.rattle(0.1, seed=5)
    atoms.set_cell(atoms.cell[:] * 1.03, scale_atoms=True)
    moved = system._replace(structure=aj.from_atoms(atoms, coupling=coupling).structure)
    atoms.calc = aj.Calculator(ARGON, system, WEIGHTS, alpha)
    out = aj.calculate(ARGON, moved, WEIGHTS, alpha)
    assert_agrees(atoms, out)
    np.testing.assert_allclose(atoms.calc.results["weights_gradient"], out.weights_gradient, rtol=1e-12)
    assert varies(out.energy, atoms.calc.get_potential_energy(crystal()))


@pytest.mark.slow
def test_a_potential_with_edges_between_nodes_agrees_with_calculate(small_mace):
    atoms = bulk("NaCl", "rocksalt", a=5.0)
    atoms.rattle(0.05, seed=2)
    system = aj.from_atoms(atoms, {"Na": ("Na", "K")}, coupling="correlated", weights=[0.5, 0.25])
    atoms.calc = aj.Calculator(small_mace, system, alpha=0.2)
    assert_agrees(atoms, aj.calculate(small_mace, system, alpha=0.2), rtol=1e-9)


def test_weights_default_to_those_of_the_system_and_symbols_do_not_count():
    atoms, other = crystal(), crystal()
    other.symbols[:] = "Kr"
    energies = [aj.Calculator(ARGON).get_potential_energy(one) for one in (atoms, other)]
    assert varies(*energies)
    system = aj.from_atoms(atoms, {"Ar": ("Ar", "Kr")}, weights=[0.0, 1.0])
    for one in (atoms, other):
        np.testing.assert_allclose(aj.Calculator(ARGON, system).get_potential_energy(one), energies[1], rtol=1e-12)


def test_float32_results_are_float64_arrays_near_those_of_float64():
    atoms, other = crystal(), crystal()
    atoms.calc, other.calc = aj.Calculator(lennard_jones("float32")), aj.Calculator(ARGON)
    for _ in range(3):
        assert atoms.get_forces().dtype == atoms.get_stress().dtype == np.float64
        assert isinstance(atoms.get_potential_energy(), float)
        np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), atol=1e-5)
        assert np.abs(atoms.get_forces() - other.get_forces()).max() > 0
        for one in (atoms, other):
            one.positions[0] += 0.05
            one.positions += one.cell[0] * 1000


def test_stress_of_a_left_handed_cell_is_that_of_the_right_handed_one():
    atoms = crystal()
    atoms.set_cell(atoms.cell[:] + 0.3 * np.eye(3)[[1, 2, 0]], scale_atoms=True)
    swapped = atoms.copy()
    swapped.set_cell(atoms.cell[[1, 0, 2]])
    assert np.linalg.det(swapped.cell[:]) < 0 < np.linalg.det(atoms.cell[:])
    calculator = aj.Calculator(ARGON)
    stress = [calculator.get_stress(one) for one in (atoms, swapped)]
    np.testing.assert_allclose(*stress, rtol=1e-9, atol=1e-12)
    assert stress[0][0] != 0


@pytest.mark.parametrize("flat", [False, True], ids=["molecule", "slab"])
def test_stress_is_not_implemented_without_a_volume(flat):
    atoms = fcc111("Ar", (2, 2, 2), a=5.4) if flat else Atoms("Ar4", 4 * np.eye(4)[:, :3])
    if flat:
        assert not atoms.cell[2].any() and atoms.pbc.tolist() == [True, True, False]
    atoms.rattle(0.1, seed=1)
    atoms.calc = aj.Calculator(ARGON)
    assert_agrees_with_host_lists(atoms)
    assert np.abs(atoms.get_forces()).max() > 1e-3
    with pytest.raises(PropertyNotImplementedError, match="stress"):
        atoms.get_stress()


def test_partly_periodic_atoms_in_a_whole_cell_have_a_stress():
    atoms = crystal()
    atoms.pbc = (True, True, False)
    atoms.calc = aj.Calculator(ARGON)
    assert_agrees_with_host_lists(atoms)
    assert np.abs(atoms.get_stress()).max() > 1e-4


def test_stress_is_the_derivative_of_the_energy_by_strain():
    atoms, h = crystal(), 5e-4
    atoms.set_cell(atoms.cell[:] + 0.3 * np.eye(3)[[1, 2, 0]], scale_atoms=True)
    calculator = aj.Calculator(ARGON)
    stress = calculator.get_stress(atoms)
    stencil = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    for k, (x, y) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        slope = 0.0
        for steps, factor in stencil.items():
            strain = np.zeros((3, 3))
            strain[x, y] += steps * h / 2
            strain[y, x] += steps * h / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
            slope += factor / h * calculator.get_potential_energy(strained)
        assert abs(slope / atoms.get_volume() - stress[k]) < 1e-9
        assert abs(stress[k]) > 1e-5


# --- lists that are kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, coupling, alpha",
    [("crystal", None, None), ("crystal", "correlated", 0.2), ("slab", "paired", None), ("molecule", None, None)],
)
def test_a_walk_is_compiled_once_and_its_lists_are_made_now_and_then(kind, coupling, alpha, rng):
    potential, traces = counted()
    atoms = crystal()
    if kind == "molecule":
        atoms = Atoms(atoms.symbols, atoms.positions)
    elif kind == "slab":
        atoms.pbc, atoms.cell[2] = (True, True, False), 0
    system = coupling and aj.from_atoms(atoms, {"Ar": ("Ar", "Kr")}, coupling=coupling)
    weights = [0.5, 0.25] if coupling else []
    calculator = atoms.calc = aj.Calculator(potential, system, weights or None, alpha)
    numbers, made, steps = [], [], 24
    for _ in range(steps):
        atoms.positions += rng.normal(size=(4, 3)) * 0.02
        turns = rng.integers(-2, 3, (4, 3)) * atoms.pbc
        atoms.positions += turns @ atoms.cell[:]
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + 0.002 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(size=3) * (1 - atoms.pbc)  # where nothing is periodic, only differences count
        if rng.random() < 0.3:
            atoms.wrap()
        assert_agrees_with_host_lists(atoms, system, weights, alpha)
        numbers.append(atoms.get_potential_energy())
        made.append(listed_at(calculator).tobytes())
    assert len(traces) == 1
    assert np.ptp(numbers) > 1e-4
    assert 2 < len(set(made)) < steps / 2


def test_a_list_is_kept_until_atoms_have_moved_half_the_skin():
    atoms = crystal()
    atoms.calc = calculator = aj.Calculator(ARGON)
    atoms.get_forces()
    first = listed_at(calculator)
    for move, kept in [(0.09, True), (0.02, False), (0.0, True)]:
        atoms.positions[2, 1] += move
        atoms.get_forces()
        assert np.array_equal(listed_at(calculator), first) == kept
        assert_agrees_with_host_lists(atoms)
        first = listed_at(calculator)


def test_a_list_is_kept_when_atoms_cross_the_border_of_the_cell():
    atoms = bulk("Ar", cubic=True, a=5.4)
    atoms.positions += 0.01
    atoms.calc = calculator = aj.Calculator(ARGON)
    atoms.get_forces()
    first = listed_at(calculator)
    atoms.positions -= 0.02
    atoms.positions[0, 0] -= 0.03
    atoms.wrap()
    assert atoms.positions.max() > 5.3 and first.max() < 5.3
    assert_agrees_with_host_lists(atoms)
    assert np.array_equal(listed_at(calculator), first)


def test_what_crowds_gets_larger_arrays_that_the_next_calculator_starts_with():
    potential, traces = counted()
    calculator, atoms = aj.Calculator(potential), crystal(7.0)
    atoms.calc = calculator
    atoms.get_forces()
    sparse = room(calculator)
    atoms.set_cell(np.eye(3) * 4.6, scale_atoms=True)
    assert_agrees_with_host_lists(atoms)
    dense = room(calculator)
    assert len(traces) == 2 and dense > 2 * sparse
    atoms.set_cell(np.eye(3) * 7.0, scale_atoms=True)  # there is room enough
    assert_agrees_with_host_lists(atoms)
    assert len(traces) == 2 and room(calculator) == dense
    other = crystal(4.6, seed=8)
    other.calc = aj.Calculator(potential)
    assert_agrees_with_host_lists(other)
    assert len(traces) == 2 and room(other.calc) == dense
    wide = crystal(7.0, seed=8)
    wide.calc = aj.Calculator(potential)
    assert_agrees_with_host_lists(wide)
    assert room(wide.calc) < dense / 2  # does not drag along what it does not need


def test_calculators_that_crowd_one_after_another_go_over_to_the_same_arrays():
    potential, traces = counted()
    images = [crystal(6.0, seed=seed) for seed in range(3)]
    for atoms in images:
        atoms.calc = aj.Calculator(potential)
        atoms.get_forces()
    assert len(traces) == 1
    for atoms in images:
        atoms.set_cell(np.eye(3) * 5.0, scale_atoms=True)
        assert_agrees_with_host_lists(atoms)
    assert len(traces) == 2


def test_fragments_far_from_each_other_take_little_memory():
    apart = np.repeat([[0, 0, 0], [4000, 3000, 0], [0, 4000, 4000]], 2, axis=0) + [[0, 0, 0], [3.6, 0, 0]] * 3
    atoms = Atoms("ArKr" * 3, apart)
    atoms.calc = calculator = aj.Calculator(ARGON)
    energies = atoms.get_potential_energies()
    np.testing.assert_allclose(energies, np.tile(energies[:2], 3), rtol=1e-9)
    assert varies(*energies[:2], energies[0] + 0.01)
    assert np.prod(calculator._kept.grid.bins) < 100


def test_a_cell_that_changes_by_some_per_cent_compiles_nothing():
    potential, traces = counted()
    atoms = crystal(5.3)
    atoms.calc = aj.Calculator(potential)
    energies = []
    for scale in np.linspace(0.985, 1.06, 12)[[2, *range(12)]]:
        atoms.set_cell(np.eye(3) * 5.3 * scale, scale_atoms=True)
        energies.append(atoms.get_potential_energy())
        assert_agrees_with_host_lists(atoms)
    assert len(traces) == 1 and np.ptp(energies) > 0.01


def test_symbols_that_change_are_followed_without_compiling():
    potential, traces = counted()
    atoms = crystal()
    atoms.calc = aj.Calculator(potential)
    energies = []
    for site in (0, 1, 2):
        atoms.symbols = ["Kr" if k == site else "Ar" for k in range(4)]
        energies.append(atoms.get_potential_energy())
        assert_agrees_with_host_lists(atoms)
    assert varies(*energies, by=1e-6) and len(traces) == 1
    atoms.calc.get_potential_energy(crystal()[:2])
    two = crystal()[:2]
    two.calc = atoms.calc
    assert_agrees_with_host_lists(two)


def test_results_are_not_stale_after_atoms_cell_symbols_or_periodicity_changed():
    atoms = crystal()
    atoms.calc = aj.Calculator(ARGON)
    energies = [atoms.get_potential_energy()]
    atoms.positions[0, 0] += 0.1
    energies.append(atoms.get_potential_energy())
    atoms.symbols[0] = "Kr"
    energies.append(atoms.get_potential_energy())
    atoms.set_cell(atoms.cell[:] * 1.01)
    energies.append(atoms.get_potential_energy())
    for periodic in (False, True):
        atoms.pbc = periodic
        assert_agrees_with_host_lists(atoms)
        energies.append(atoms.get_potential_energy())
    assert varies(*energies[:-1]) and np.isclose(energies[-1], energies[-3], rtol=1e-12)
    results = atoms.calc.results
    atoms.set_initial_magnetic_moments(np.ones(4))
    atoms.get_potential_energy()
    assert atoms.calc.results is results  # magnetic moments do not enter


# --- errors -----------------------------------------------------------------------------------------------------------


def test_wrong_compositions_are_refused_when_the_calculator_is_made():
    system = aj.from_atoms(crystal(), {"Ar": ("Ar", "Kr")})
    for arguments, sentence in [
        ((None, [0.5]), "weights and alpha belong to a system"),
        ((None, None, 0.5), "weights and alpha belong to a system"),
        ((system, [0.5]), "weights have shape"),
        ((system, [0.7, 0.7]), "sum to 1.4"),
        ((system, None, 0.5), "alpha = 0.5 was given with coupling 'independent'"),
        ((system._replace(coupling="correlated"),), "needs alpha"),
        ((aj.from_atoms(crystal(), {"Ar": ("Ar", "Xe")}),), "species 'Xe' is not in lennard-jones"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            aj.Calculator(ARGON, *arguments)


def test_unsuitable_atoms_are_refused_and_the_calculator_stays_usable():
    system = aj.from_atoms(crystal(), {"Ar": ("Ar", "Kr")})
    calculator, plain = aj.Calculator(ARGON, system), aj.Calculator(ARGON)
    with pytest.raises(ValueError, match="3 atoms were given for a system of 4 sites; make a new system"):
        calculator.get_potential_energy(crystal()[:3])
    mixed = aj.to_atoms(system, weights=[0.5, 0.5])
    mixed.positions += 0.01  # ASE takes no notice of occupancies alone
    sentence = r"these atoms have partial occupancies; pass system=alchemjax.from_atoms\(atoms\)"
    atoms = crystal()
    for _ in range(2):
        with pytest.raises(ValueError, match=sentence):
            plain.get_potential_energy(mixed)
        with pytest.raises(ValueError, match="species 'Au' is not in lennard-jones"):
            plain.get_forces(bulk("Au", cubic=True))
        close = crystal()
        close.positions[1] = close.positions[0] + 0.01 + close.cell[0]
        for one in (calculator, plain):
            close.calc = one
            with pytest.raises(ValueError, match="sites 0 and 1 are 0.0173 A apart .image"):
                close.get_forces()
            atoms.calc = one
            assert_agrees_with_host_lists(atoms)


def test_atoms_all_in_one_place_are_refused_before_arrays_are_made_for_them():
    atoms = crystal()
    atoms.calc = calculator = aj.Calculator(ARGON)
    atoms.get_forces()
    before = room(calculator)
    atoms.set_cell(atoms.cell[:] * 0.01, scale_atoms=True)
    with pytest.raises(ValueError, match="sites must be at least 0.1 A apart"):
        atoms.get_forces()
    assert room(calculator) == before


# --- in ASE -----------------------------------------------------------------------------------------------------------


def test_results_are_written_with_the_atoms(tmp_path):
    system = aj.from_atoms(crystal(), {"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    atoms = aj.to_atoms(system)
    atoms.calc = aj.Calculator(ARGON, system)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    ase.io.write(tmp_path / "a.xyz", atoms)
    back = ase.io.read(tmp_path / "a.xyz")
    np.testing.assert_allclose(back.get_forces(), forces, atol=1e-7)
    np.testing.assert_allclose(back.get_stress(), stress, rtol=1e-5, atol=1e-8)
    assert aj.from_atoms(back).sites.groups == system.sites.groups


@pytest.mark.parametrize("optimiser, cell", [(FIRE, False), (BFGS, False), (BFGS, True)])
def test_optimisers_of_ase_and_relax_find_the_same_minimum(optimiser, cell):
    atoms = crystal(5.2)
    atoms.positions[2] += 0.1
    system = aj.from_atoms(atoms, {"Ar": ("Ar", "Kr")}, coupling="paired", weights=[0.5, 0.25])
    done = aj.relax(ARGON, system, cell=cell, force_tolerance=1e-4, stress_tolerance=1e-6)
    assert done.converged
    atoms.calc = aj.Calculator(ARGON, system)
    assert atoms.get_potential_energy() > done.output.energy + 1e-3
    with optimiser(FrechetCellFilter(atoms) if cell else atoms, logfile=None) as run:
        assert run.run(fmax=5e-4, steps=500)
    np.testing.assert_allclose(atoms.get_potential_energy(), done.output.energy, rtol=1e-5)
    np.testing.assert_allclose(atoms.get_volume(), abs(np.linalg.det(done.structure.cell)), rtol=1e-3)
    assert (np.abs(atoms.get_stress()).max() < 2e-5) == cell


def test_an_elastic_band_of_many_images_is_compiled_once_and_finds_the_saddle_point():
    potential, traces = counted()
    first = bulk("Ar", cubic=True, a=5.3).repeat(2)
    moving = int(np.argmin(np.linalg.norm(first.positions - [2.65, 2.65, 0], axis=1)))
    last = first.copy()
    last.positions[moving] = first.positions[0]  # a neighbour hops into the vacancy
    first, last = (atoms[[k for k in range(32) if k]] for atoms in (first, last))
    barriers = []
    for shared in (False, True):
        images = [first.copy() for _ in range(4)] + [last.copy()]  # an odd number: one is in the middle
        one = aj.Calculator(potential)
        for image in images:
            image.calc = one if shared else aj.Calculator(potential)
        band = NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=shared)
        band.interpolate(mic=True)
        with FIRE(band, logfile=None) as run:
            assert run.run(fmax=0.003, steps=300)
        energies = np.array([image.get_potential_energy() for image in images])
        np.testing.assert_allclose(energies, energies[::-1], atol=1e-3)  # forth and back are the same
        assert np.argmax(energies) == 2 and np.abs(images[2].get_forces()).max() < 0.003
        barriers.append(energies[2] - energies[0])
    np.testing.assert_allclose(*barriers, rtol=1e-3)
    assert barriers[0] > 0.02
    assert len(traces) == 1


def test_force_constants_of_displaced_supercells_are_symmetric_and_compiled_once():
    potential, traces = counted()
    supercell = bulk("Ar", a=5.3).repeat(2)
    size, h = 3 * len(supercell), 0.01
    constants = np.zeros((size, size))
    for k in range(size):
        for sign in (1, -1):
            moved = supercell.copy()
            moved.positions.reshape(-1)[k] += sign * h
            moved.calc = aj.Calculator(potential)  # one for every supercell
            constants[k] -= sign * moved.get_forces().reshape(-1) / (2 * h)
    assert len(traces) == 1
    assert np.abs(constants).max() > 0.05  # eV/A^2
    np.testing.assert_allclose(constants, constants.T, atol=1e-9)
    blocks = constants.reshape(len(supercell), 3, len(supercell), 3)
    np.testing.assert_allclose(blocks.sum(axis=2), 0, atol=1e-12)
    np.testing.assert_allclose(blocks.sum(axis=0), 0, atol=1e-12)
    assert (np.linalg.eigvalsh(constants)[3:] > 0.01).all()  # three translations, and no soft mode


def test_molecular_mixture_relaxes_with_an_ase_optimiser():
    atoms = Atoms("Ar2", [(0, 0, 0), (0, 0, 4.5)])
    system = aj.from_atoms(atoms, {0: ("Ar", "Kr")}, weights=[0.5, 0.5])
    atoms.calc = aj.Calculator(ARGON, system)
    before = atoms.get_potential_energy()
    with BFGS(atoms, logfile=None) as optimiser:
        assert optimiser.run(fmax=1e-4, steps=200)
    assert atoms.get_potential_energy() < before - 1e-3
    assert_agrees_with_host_lists(atoms, system, [0.5, 0.5])


@pytest.mark.slow
def test_rock_salt_relaxes_to_no_stress_with_its_cell():
    atoms = bulk("NaCl", "rocksalt", a=5.5)
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + 0.02 * np.eye(3)[[1, 0, 2]]), scale_atoms=True)
    atoms.calc = aj.Calculator(aj.load("sevennet-0", dtype="float64"))
    assert np.abs(atoms.get_stress()).max() > 1e-2
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimiser:
        assert optimiser.run(fmax=1e-4, steps=100)
    assert np.abs(atoms.get_stress()).max() < 1e-5
    lengths = atoms.cell.lengths() * np.sqrt(2)
    np.testing.assert_allclose(lengths, lengths.mean(), rtol=1e-3)
    assert 5.6 < lengths.mean() < 5.75  # PBE: 5.70
