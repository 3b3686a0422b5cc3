"""Relaxation: what it finds, what it reports, and that it never trusts a stale neighbour list."""

import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import alchemjax as aj
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.structure import make_structure, volume
from alchemjax.tasks import relax as relax_module
from alchemjax.tasks.fire import initial_state, outran
from alchemjax.tasks.freedom import make_freedom
from alchemjax.tasks.relax import relax_batch


@pytest.fixture(scope="module")
def potential():
    return aj.load("sevennet-0")


def nacl(a=5.7, **mix):
    atoms = bulk("NaCl", "rocksalt", a=a)
    return aj.from_atoms(atoms, mix=mix or {"Na": ("Na", "K")})


def rattled(a=5.7, seed=0):
    atoms = bulk("NaCl", "rocksalt", a=a)
    atoms.rattle(0.08, seed=seed)
    shear = np.eye(3) + np.array([[0.02, 0.03, 0], [0.03, -0.03, 0.01], [0, 0.01, 0.0]])
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    return aj.from_atoms(atoms, mix={"Na": ("Na", "K")})


def test_a_sheared_and_a_squeezed_start_relax_to_the_same_cell(potential):
    first = aj.relax(potential, rattled(5.5), [0.5, 0.3], cell=True)
    second = aj.relax(potential, rattled(6.1, seed=3), [0.5, 0.3], cell=True)
    assert first.converged and second.converged
    assert abs(volume(first.structure) / volume(second.structure) - 1) < 1e-3
    lengths = np.linalg.norm(first.structure.cell, axis=1)
    assert np.ptp(lengths) < 3e-3  # rock salt again
    assert first.max_force <= 0.005 and first.max_stress <= 2e-5


def test_the_relaxed_cell_carries_the_pressure_that_was_asked_for(potential):
    pressure = 0.05  # eV/A^3, about 8 GPa
    free = aj.relax(potential, nacl(), [1, 0], cell=True)
    pressed = aj.relax(potential, nacl(), [1, 0], cell=True, pressure=pressure)
    assert np.abs(pressed.output.stress + pressure * np.eye(3)).max() < 2e-5
    assert volume(pressed.structure) < 0.9 * volume(free.structure)


def test_a_relaxation_goes_on_after_the_host_has_looked(potential, monkeypatch):
    monkeypatch.setattr(relax_module, "STEPS_PER_CALL", 4)
    looks = []
    result = aj.relax(
        potential, rattled(5.5), [1, 0], cell=True, on_steps=lambda state: looks.append(int(state.step[0]))
    )
    assert result.converged and max(np.diff(looks)) <= 4 and looks[-1] == result.steps > 12


@pytest.mark.parametrize("steps", [0, 3, 200])
def test_reported_results_are_those_of_the_reported_structure(potential, steps):
    system = rattled(5.3)
    result = aj.relax(potential, system, [0.3, 0.7], cell=True, max_steps=steps)
    assert result.converged == (steps == 200) and result.steps <= steps
    fresh = aj.calculate(potential, system._replace(structure=result.structure), [0.3, 0.7])
    assert abs(fresh.energy - result.output.energy) < 1e-5
    assert np.abs(fresh.forces - result.output.forces).max() < 1e-4
    assert np.abs(fresh.stress - result.output.stress).max() < 1e-6
    assert np.abs(fresh.weights_gradient - result.output.weights_gradient).max() < 1e-4


def test_a_thin_skin_only_means_more_neighbour_lists(potential, monkeypatch):
    thick = aj.relax(potential, rattled(5.2), [1, 0], cell=True)
    made = []
    original = relax_module.topology_of
    monkeypatch.setattr(relax_module, "topology_of", lambda *a, **k: made.append(1) or original(*a, **k))
    monkeypatch.setattr(relax_module, "SKIN", 0.02)
    thin = aj.relax(potential, rattled(5.2), [1, 0], cell=True)
    assert len(made) > 6 and thin.converged
    assert abs(thin.output.energy - thick.output.energy) < 1e-4
    assert abs(volume(thin.structure) / volume(thick.structure) - 1) < 1e-3


def test_no_pair_within_the_cutoff_is_ever_missing_from_a_list_that_is_not_stale(rng):
    structure = make_structure(rng.uniform(0, 6, (4, 3)) * [1, 0.9, 1.1], np.diag([6.0, 5.5, 6.5]), True)
    freedom = make_freedom(structure, cell=True)
    cutoff, skin, fresh, stale = 4.0, 0.6, 0, 0
    listed = {tuple(p) for p in np.column_stack(find_pairs(structure, cutoff + skin)[:2] + (_shifts(structure, 4.6),))}
    state = initial_state(jnp.asarray(structure.positions), 0)
    for _ in range(200):
        moved = state._replace(
            reference=state.reference + rng.normal(size=(4, 3)) * rng.uniform(0, 0.15),
            strain=jnp.asarray(rng.normal(size=6) * rng.uniform(0, 0.05)),
        )
        if outran(cutoff, skin, jnp.asarray(structure.cell), freedom, moved):
            stale += 1
            continue
        fresh += 1
        deformation = np.eye(3) + np.einsum("k,kxy->xy", moved.strain, freedom.strains)
        now = structure._replace(positions=np.asarray(moved.reference) @ deformation, cell=structure.cell @ deformation)
        pairs = {tuple(p) for p in np.column_stack(find_pairs(now, cutoff)[:2] + (_shifts(now, cutoff),))}
        assert pairs <= listed
    assert fresh > 20 and stale > 20


def _shifts(structure, cutoff):
    return find_pairs(structure, cutoff).shift


def test_fixed_sites_and_fixed_axes_stay_and_the_rest_moves(potential):
    system = rattled()
    result = aj.relax(potential, system, [1, 0], cell=True, fixed_sites=[0], fixed_axes=[1])
    fractional = lambda s: s.positions @ np.linalg.inv(s.cell)
    moved = np.abs(fractional(result.structure) - fractional(system.structure)).max(1)
    assert moved[0] < 1e-6 < 1e-3 < moved[1]
    assert np.abs(result.structure.cell[1] - system.structure.cell[1]).max() < 1e-6
    assert np.abs(result.structure.cell - system.structure.cell).max() > 1e-2


def test_hydrostatic_strain_keeps_the_shape_of_the_cell(potential):
    system = rattled(5.2)
    result = aj.relax(potential, system, [1, 0], cell="hydrostatic")
    ratio = np.linalg.solve(system.structure.cell, result.structure.cell)
    assert np.abs(ratio - ratio[0, 0] * np.eye(3)).max() < 1e-6 < 1e-2 < abs(ratio[0, 0] - 1)
    assert abs(np.trace(result.output.stress)) < 1e-4 and result.converged


def test_flags_free_the_named_strains_only(potential):
    system = rattled(5.2)
    result = aj.relax(potential, system, [1, 0], cell=[0, 0, 1, 0, 0, 0], positions=False)
    strain = np.linalg.solve(system.structure.cell, result.structure.cell) - np.eye(3)
    assert abs(strain[2, 2]) > 1e-2
    strain[2, 2] = 0
    assert np.abs(strain).max() < 1e-6
    assert abs(result.output.stress[2, 2]) < 2e-5 < abs(result.output.stress[0, 0])


def test_a_slab_is_never_strained_along_its_normal(rng):
    cell = np.array([[3.0, 0.4, 0.2], [0.3, 3.2, -0.1], [1.0, 0.0, 20.0]])
    structure = make_structure(rng.uniform(0, 3, (2, 3)), cell, [True, True, False])
    normal = np.cross(cell[0], cell[1])
    strains = make_freedom(structure, cell=True).strains
    assert np.abs(strains @ normal).max() < 1e-9
    assert np.abs(strains).sum((1, 2)).astype(bool).sum() == 3
    gram = np.einsum("ixy,jxy->ij", strains, strains)
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-12)


def test_a_batch_relaxes_like_its_members_one_by_one(potential):
    system = rattled()
    weights = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    freedom = make_freedom(system.structure, cell=True)
    limits = relax_module.make_limits(system, freedom, force=0.005, stress=2e-5, steps=300, pressure=0.0)
    state = relax_batch(potential, system, weights, np.zeros(3), freedom, limits)
    for k in range(3):
        alone = aj.relax(potential, system, weights[k], cell=True)
        assert abs(alone.output.energy - state.energy[k]) < 2e-4
        cell = relax_module.structure_of(system.structure, freedom.strains, state, k).cell
        assert abs(np.linalg.det(cell) / np.linalg.det(alone.structure.cell) - 1) < 1e-3


def test_a_molecule_relaxes_its_positions(potential):
    water = Atoms("OH2", [[0, 0, 0], [1.1, 0, 0], [-0.3, 1.0, 0]])
    result = aj.relax(potential, aj.from_atoms(water))
    assert result.converged and result.output.stress is None
    bonds = np.linalg.norm(result.structure.positions[1:] - result.structure.positions[0], axis=1)
    assert np.abs(bonds - 0.97).max() < 0.03


def test_sites_almost_on_top_of_each_other_end_unconverged_and_sites_on_top_are_refused(potential):
    clash = Atoms("H2", [[0, 0, 0], [0.12, 0, 0]])
    result = aj.relax(potential, aj.from_atoms(clash), max_steps=4)
    assert not result.converged and np.isfinite(result.output.energy)  # four steps are not enough to part them
    fallen = result.structure._replace(positions=result.structure.positions * 0.05)
    with pytest.raises(ValueError, match="apart"):
        aj.relax(potential, aj.from_atoms(Atoms("H2", fallen.positions)))


def test_a_lost_member_stays_lost_and_the_others_go_on(potential, monkeypatch):
    system = aj.from_atoms(Atoms("H2", [[0, 0, 0], [1.6, 0, 0]]), mix={"H": ("H", "C")})
    freedom = make_freedom(system.structure)
    limits = relax_module.make_limits(system, freedom, force=0.005, stress=1.0, steps=200, pressure=0.0)
    calls = []
    original = relax_module.Lists._replace

    def losing(self, k, state):
        calls.append(k)
        return original(self, k, state) and not (k == 0 and calls.count(0) == 2)

    monkeypatch.setattr(relax_module.Lists, "_replace", losing)
    state = relax_batch(potential, system, np.array([[0.9, 0.0], [0.0, 1.0]]), np.zeros(2), freedom, limits)
    assert calls.count(0) == 2
    assert np.isnan(state.energy[0]) and not state.converged[0]
    assert state.converged[1] and np.isfinite(state.energy[1])


def test_a_start_far_too_close_is_pushed_apart(potential):
    close = Atoms("C2", [[0, 0, 0], [0.75, 0, 0]])
    result = aj.relax(potential, aj.from_atoms(close))
    distance = np.linalg.norm(np.subtract(*result.structure.positions))
    assert result.converged and 1.1 < distance < 1.5


def test_sites_come_back_in_the_image_in_which_they_were_given(potential):
    atoms = bulk("NaCl", "rocksalt", a=5.4)
    near = aj.relax(potential, aj.from_atoms(atoms), cell=True)
    atoms.positions += np.array([[40, -30, 20], [-10, 20, 30]]) @ atoms.cell.array
    far = aj.relax(potential, aj.from_atoms(atoms), cell=True)
    assert abs(near.output.energy - far.output.energy) < 1e-5
    moved = (far.structure.positions - near.structure.positions) @ np.linalg.inv(far.structure.cell)
    np.testing.assert_allclose(moved, [[40, -30, 20], [-10, 20, 30]], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "cubic"}, "use True, False, 'hydrostatic' or six flags"),
        ({"cell": [1, 1]}, "six flags"),
        ({"cell": True, "fixed_axes": [3]}, "lattice vectors 0, 1 or 2"),
        ({"cell": True, "fixed_axes": [0, 1, 2]}, "no strain is left free"),
        ({"fixed_sites": [7]}, "site indices from 0 to 1"),
        ({"force_tolerance": 0.0}, "force_tolerance = 0.0 must be a positive number"),
        ({"max_steps": -1}, "max_steps = -1 must be a whole number, at least 0"),
        ({"weights": [0.7, 0.7]}, "may sum to at most 1"),
        ({"alpha": 0.3}, "use coupling 'correlated'"),
    ],
)
def test_a_wrong_request_gets_one_sentence(potential, options, message):
    with pytest.raises(ValueError, match=message) as error:
        aj.relax(potential, nacl(), **options)
    assert "\n" not in str(error.value)


def test_a_cell_without_volume_cannot_be_relaxed(potential):
    water = aj.from_atoms(Atoms("OH2", [[0, 0, 0], [1.0, 0, 0], [-0.3, 1.0, 0]]))
    with pytest.raises(ValueError, match="cannot be relaxed"):
        aj.relax(potential, water, cell=True)
    with pytest.raises(ValueError, match="pressure = 0.1 has no effect unless the cell is relaxed"):
        aj.relax(potential, water, pressure=0.1)
