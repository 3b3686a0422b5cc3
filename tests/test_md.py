"""Molecular dynamics: integrators converge with the time step, runs can be continued, errors are loud."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.data import atomic_masses, chemical_symbols
from conftest import ROOT
from pair_potential import lennard_jones

import alchemjax as aj
from alchemjax.system.lists import SPARE, allocate
from alchemjax.system.masses import ATOMIC_MASSES, node_masses
from alchemjax.system.structure import make_structure
from alchemjax.tasks import md as module
from alchemjax.tasks.dynamics import Knots, _at, _exponential
from alchemjax.tasks.md import BlewUp, md, recorded, run_chunks
from alchemjax.tasks.md_plan import make_plan, masses_of
from alchemjax.units import FS, KELVIN

GPA = 1 / 160.21766208


def argon(*arguments, every=10, **options):
    """md of a soft crystal whose atoms move far; ten samples to a chunk, so that tests share compiled programs."""
    return md(*arguments, **{"skin": 0.8, "every": every, "chunk": 10 * every} | options)


@pytest.fixture(scope="module")
def potential():
    return lennard_jones()


@pytest.fixture(scope="module")
def crystal():
    """Eight sites of argon, cubic and narrower than the cutoff, half of each species by weight."""
    atoms = bulk("Ar", "fcc", 5.3, cubic=True).repeat((2, 1, 1))
    return aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])


# --- integrators ------------------------------------------------------------------------------------------------------

SCHEMES = {
    "NVE": {"thermostat": None},
    "Nose-Hoover": {"thermostat": "nose-hoover"},
    "Langevin": {"thermostat": "langevin"},
    "CSVR": {"thermostat": "csvr"},
    "Langevin, hydrostatic": {"thermostat": "langevin", "cell": "hydrostatic"},
    "CSVR, all strains": {"thermostat": "csvr", "cell": True},
    "Nose-Hoover, lengths": {"thermostat": "nose-hoover", "cell": (1, 1, 1, 0, 0, 0)},
}
SLOW_CELL = {"barostat_time": 2000.0, "bulk_modulus": 1.5 * GPA}
BAROSTAT = SLOW_CELL | {"pressure": 0.02 * GPA}


@pytest.mark.parametrize("name", SCHEMES)
def test_conserved_energy_converges_with_the_time_step(name, potential, crystal):
    options = SCHEMES[name] | (BAROSTAT if "cell" in SCHEMES[name] else {})
    options |= {"thermostat_time": 200.0} if options["thermostat"] else {}
    wander = []
    for timestep in (12.0, 6.0, 3.0):
        steps = int(1200 / timestep)
        out = argon(
            potential, crystal, steps=steps, timestep=timestep, temperature=25.0, every=1, replicas=8, **options
        )
        wander.append(np.mean(np.ptp(out.conserved, axis=0)))
        assert np.ptp(out.energy, axis=0).min() > 20 * wander[-1], "the energy itself must vary much more"
    order = np.log2(np.array(wander[:-1]) / wander[1:])
    # second order; a barostat's noise makes single steps err by dt^(3/2), and the sum wanders as its square root
    low, high = (0.9, 2.3) if "cell" in options else (1.7, 2.3)
    assert ((order > low) & (order < high)).all(), (wander, order)


def test_NVE_is_velocity_Verlet_of_jax_md(potential, crystal):
    from jax_md import simulate

    velocities = np.random.default_rng(1).normal(size=(8, 3)) * 1e-3
    velocities -= velocities.mean(0)  # equal masses
    out = argon(potential, crystal, steps=50, timestep=5.0, thermostat=None, velocities=velocities, every=50)
    neighbour_fn, energy_fn = aj.jax_md(potential, crystal)
    position, mass = jnp.asarray(neighbour_fn.position), neighbour_fn.masses()
    neighbours = neighbour_fn.allocate(position)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        init, step = simulate.nve(energy_fn, neighbour_fn.shift, dt=np.float64(5 * FS))
        state = init(jax.random.key(0), position, 1.0, mass=mass, neighbor=neighbours)
        state = state.set(momentum=jnp.asarray(velocities / FS) * mass)

        def body(carry, _):
            state, neighbours = carry
            neighbours = neighbour_fn.update(state.position, neighbours)
            return (step(state, neighbor=neighbours), neighbours), None

        (state, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=50))((state, neighbours))
    difference = state.position @ neighbour_fn.box.T - out.positions[-1]
    turns = np.rint(difference @ np.linalg.inv(neighbour_fn.box.T))
    assert np.abs(out.positions[-1] - crystal.structure.positions).max() > 0.1
    # jax-md rounds the time step to float32, 5e-8 of it
    np.testing.assert_allclose(difference - turns @ neighbour_fn.box.T, 0, atol=1e-6)
    np.testing.assert_allclose(state.momentum / mass * FS, out.velocities[-1], atol=1e-8)


def test_forces_energies_and_stress_are_those_of_calculate(potential, crystal):
    out = argon(potential, crystal, steps=30, timestep=5.0, temperature=40.0, cell=True, every=10, **BAROSTAT)
    masses = np.full(8, (ATOMIC_MASSES["Ar"] + ATOMIC_MASSES["Kr"]) / 2)
    for k in range(len(out.time)):
        system = crystal._replace(structure=make_structure(out.positions[k], out.cell[k], True))
        expected = aj.calculate(potential, system)
        kinetic = np.einsum("s,sx,sy->xy", masses, out.velocities[k] / FS, out.velocities[k] / FS)
        np.testing.assert_allclose(out.energy[k], expected.energy, atol=1e-12)
        np.testing.assert_allclose(out.forces[k], expected.forces, atol=1e-12)
        np.testing.assert_allclose(out.stress[k], expected.stress - kinetic / out.volume[k], atol=1e-12)
        np.testing.assert_allclose(out.volume[k], np.linalg.det(out.cell[k]))
        np.testing.assert_allclose(out.kinetic[k], np.trace(kinetic) / 2)
        np.testing.assert_allclose(out.temperature[k], np.trace(kinetic) / (21 * KELVIN))
        np.testing.assert_allclose(out.weights_gradient[k], expected.weights_gradient, atol=1e-12)
    assert out.volume[-1] != out.volume[0] and np.abs(kinetic).max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"cell": True}, {"thermostat": "csvr"}, {"thermostat": "nose-hoover"}])
def test_the_centre_of_mass_stays_at_rest(options, potential, crystal):
    out = argon(potential, crystal, steps=20, timestep=5.0, every=20, **options)
    momentum = out.velocities.sum(1)  # equal masses
    assert np.abs(out.velocities[-1] - out.velocities[0]).max() > 1e-4
    np.testing.assert_allclose(momentum, 0, atol=1e-15)


def test_exponential_of_a_strain_is_that_of_scipy():
    from jax.scipy.linalg import expm

    strain = np.random.default_rng(0).normal(size=(3, 3)) * 0.1
    np.testing.assert_allclose(_exponential(jnp.asarray(strain)), expm(strain), atol=1e-14)


def test_fixed_axes_and_directions_without_periodicity_keep_their_lattice_vectors(potential):
    atoms = bulk("Ar", "fcc", 5.3, cubic=True).repeat((2, 1, 1))
    atoms.cell[2] = [0, 0, 20]
    atoms.pbc = (True, True, False)
    slab = aj.from_atoms(atoms)
    out = argon(potential, slab, steps=50, timestep=5.0, cell=True, fixed_axes=[1], **BAROSTAT | {"pressure": 0.0})
    assert np.ptp(out.cell[:, 0, 0]) > 1e-3 and np.ptp(out.volume) > 0.1
    np.testing.assert_allclose(out.cell[:, 1:], np.broadcast_to(atoms.cell[1:], (len(out.time), 2, 3)), atol=1e-12)


def test_a_molecule_and_a_cell_without_volume_have_no_pressure(potential):
    from ase import Atoms

    pair = aj.from_atoms(Atoms("Ar2", [[0, 0, 0], [3.8, 0, 0]]))
    out = md(potential, pair, steps=20, timestep=5.0, temperature=10.0, thermostat=None)
    assert np.isnan(out.pressure).all() and np.isnan(out.volume).all() and np.isfinite(out.conserved).all()
    assert (out.cell == 0).all() and np.ptp(out.energy) > 1e-7


# --- what is imposed --------------------------------------------------------------------------------------------------


def test_knots_are_linear_in_between_constant_outside_and_jump_where_doubled():
    knots = Knots(jnp.array([10, 20, 20, 40, 40]), jnp.array([1.0, 3.0, 5.0, 5.5, 9.0]))
    got = [float(_at(knots, jnp.asarray(step))) for step in (-1, 0, 10, 15, 19, 20, 30, 40, 99)]
    np.testing.assert_allclose(got, [1, 1, 1, 2, 2.8, 5, 5.25, 9, 9])
    assert float(_at(Knots(jnp.array([0]), jnp.array([7.0])), jnp.asarray(3))) == 7


@pytest.mark.parametrize("thermostat", [None, "langevin"])
def test_a_jump_at_the_start_has_happened_when_the_run_starts(thermostat, potential, crystal):
    weights, temperature = [(0, [1, 0]), (0.3, [0, 1]), (100, [0, 1])], [(0, 10.0), (0, 60.0), (50, 60.0)]
    options = {"steps": 10, "timestep": 1.0, "thermostat": thermostat}
    jumped = argon(potential, crystal, weights, temperature=temperature if thermostat else 60.0, **options)
    plain = argon(potential, crystal, [0, 1], temperature=60.0, **options)
    for name in ("temperature", "positions", "velocities", "conserved", "work"):
        np.testing.assert_allclose(getattr(jumped, name), getattr(plain, name), atol=1e-12)


def test_temperature_follows_its_schedule(potential, crystal):
    ramp = [(0.0, 10.0), (1000.0, 60.0), (1000.0, 20.0)]
    out = argon(
        potential, crystal, steps=800, timestep=5.0, temperature=ramp, thermostat_time=20.0, replicas=16, every=5
    )
    expected = np.where(out.time < 1000, 10 + 0.05 * out.time, 20)
    np.testing.assert_allclose(out.target_temperature[:, 0], expected)
    mean = out.temperature.mean(1)
    for begin, end in ((500, 1000), (1500, 4000)):
        part = (out.time >= begin) & (out.time < end)
        assert abs(mean[part].mean() / expected[part].mean() - 1) < 0.1


@pytest.mark.parametrize("coupling", ["independent", "correlated", "published"])
def test_a_moving_composition_does_the_work_that_changes_the_conserved_energy(coupling, potential, crystal):
    path = [(0.0, [1.0, 0.0]), (500.0, [0.2, 0.8])]
    alpha = [(0.0, 0.0), (250.0, 0.9), (500.0, 0.3)] if coupling == "correlated" else None
    unlike = potential.params | {"charge": jnp.array([[1.0, 1.0], [1.6, 1.6]])}
    potential, crystal = potential._replace(params=unlike), crystal._replace(coupling=coupling)
    start = argon(potential, crystal, path, steps=0, alpha=alpha)
    wander = []
    for timestep in (10.0, 5.0, 2.5):
        out = argon(
            potential, crystal, path, steps=int(500 / timestep), timestep=timestep, thermostat=None, every=1,
            velocities=start.velocities[0], alpha=alpha,
        )  # fmt: skip
        wander.append(np.ptp(out.conserved))
        np.testing.assert_allclose(out.weights[:, 1], 0.8 * out.time / 500, atol=1e-12)
    total = out.energy + out.kinetic
    assert abs(total[-1] - total[0]) > 0.5 and abs(out.work[-1] - (total[-1] - total[0])) < 1e-3
    assert (np.array(wander[:-1]) / wander[1:] > 3).all(), "second order in the time step"
    work_of_alpha = np.trapezoid(out.alpha_gradient, out.alpha)
    assert (abs(work_of_alpha) > 50 * wander[-1]) == (coupling == "correlated")


def _momentum_flux(system, out):
    """Of the last sample, momenta about the centre of mass [eV/A^3]."""
    masses = masses_of(system, out.weights[-1], node_masses(system.sites))[:, None]
    own = (out.velocities[-1] - (masses * out.velocities[-1]).sum(0) / masses.sum()) / FS
    return (masses * own).T @ own / out.volume[-1]


@pytest.mark.parametrize("kind", ["site", "site-exact"])
def test_a_random_alloy_moves_as_its_own_energy_says_while_its_composition_changes(kind):
    potential = lennard_jones(embedding=2.0, krypton=(1.6, 1.6))
    system = aj.from_atoms(bulk("Ar", "fcc", 5.6) * 2, mix={"Ar": ("Ar", "Kr")}, weights=[1.0, 0.0])
    path, wander = [(0.0, [1.0, 0.0]), (200.0, [0.2, 0.8])], []
    options = {"fluctuations": kind, "thermostat": None, "every": 1, "temperature": 60.0}
    start = argon(potential, system, path, steps=0, **options)
    for timestep in (10.0, 5.0):
        steps = int(200 / timestep)
        out = argon(potential, system, path, steps=steps, timestep=timestep, velocities=start.velocities[0], **options)
        wander.append(np.ptp(out.conserved))
    assert abs(out.work[-1]) > 300 * wander[-1] and wander[0] > 3 * wander[1]
    here = system._replace(structure=make_structure(out.positions[-1], out.cell[-1], True))
    mean = aj.calculate(potential, here, out.weights[-1])
    expected = aj.calculate(potential, here, out.weights[-1], fluctuations=kind, supercell=(1, 1, 1))
    assert abs(expected.energy - mean.energy) > 1e-3
    np.testing.assert_allclose(out.energy[-1], expected.energy, atol=1e-12)
    np.testing.assert_allclose(out.weights_gradient[-1], expected.weights_gradient, atol=1e-11)
    np.testing.assert_allclose(out.forces[-1], expected.forces, atol=1e-11)  # without symmetry nothing is averaged
    np.testing.assert_allclose(out.stress[-1] + _momentum_flux(system, out), expected.stress, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [
        {"thermostat": "nose-hoover", "temperature": [(0.0, 20.0), (400.0, 60.0)]},
        {"cell": "hydrostatic", "temperature": [(0.0, 20.0), (400.0, 60.0)], **SLOW_CELL},
        {"cell": "hydrostatic", "pressure": [(0.0, 0.0), (400.0, 0.1 * GPA)], **SLOW_CELL},
    ],
)
def test_targets_that_move_do_not_change_the_conserved_energy(options, potential, crystal):
    out = argon(potential, crystal, steps=160, timestep=2.5, every=20, **options)
    pressure = np.nan_to_num(out.target_pressure)  # NaN without a barostat
    target = pressure * out.volume + out.target_temperature * KELVIN
    assert np.ptp(target) > 0.003 and np.ptp(out.conserved) < 0.0015


def test_temperature_and_pressure_are_those_about_the_centre_of_mass(potential, crystal):
    velocities = 1e-3 * np.random.default_rng(0).normal(size=(8, 3))
    velocities -= velocities.mean(0)
    options = {"steps": 20, "timestep": 4.0, "thermostat": None}
    still, moving = (argon(potential, crystal, velocities=velocities + drift, **options) for drift in (0, [0.01, 0, 0]))
    np.testing.assert_allclose(moving.temperature, still.temperature)
    np.testing.assert_allclose(moving.stress, still.stress, atol=1e-12)
    assert moving.kinetic[0] > 10 * still.kinetic[0]
    assert np.isnan(still.target_temperature).all() and np.isnan(still.target_pressure).all(), "there are no targets"


def test_given_velocities_lose_the_motion_of_the_centre_of_mass_to_a_thermostat(potential, crystal):
    velocities = np.random.default_rng(0).normal(size=(8, 3)) * 1e-3 + 0.01
    out = argon(potential, crystal, steps=0, velocities=velocities)
    np.testing.assert_allclose(out.velocities[0], velocities - velocities.mean(0), atol=1e-15)
    assert argon(potential, crystal, steps=0, velocities=velocities, thermostat=None).velocities[0].mean() > 0.009


def test_replicas_may_have_one_knot_each(potential, crystal):
    replicas = [{"temperature": [(0, 30.0)]}, {"temperature": [(10, 40.0)]}]
    plan = make_plan(potential, crystal, steps=1, replicas=replicas)
    np.testing.assert_allclose(plan.protocol.temperature.value, [[30 * KELVIN], [40 * KELVIN]])


def test_masses_are_means_of_the_species_and_momenta_are_kept_when_they_change(potential, crystal):
    jump = [(0.0, [1.0, 0.0]), (5.0, [1.0, 0.0]), (5.0, [0.0, 1.0])]
    out = argon(potential, crystal, jump, steps=2, timestep=5.0, thermostat=None, every=1)
    light, heavy = ATOMIC_MASSES["Ar"], ATOMIC_MASSES["Kr"]
    momenta = out.velocities * np.array([light, heavy, heavy])[:, None, None] / FS
    change = momenta[1] - momenta[0]
    np.testing.assert_allclose(change, (out.forces[0] + out.forces[1]) / 2 * 5 * FS, atol=1e-12)
    half = aj.from_atoms(bulk("Ar", cubic=True), mix={"Ar": ("Ar", "Kr")}, weights=[0.1, 0.3])
    vacant = aj.from_atoms(bulk("Ar", cubic=True), mix={"Ar": ("Ar", "Kr")}, weights=[0.0, 0.0])
    masses = lambda system: module.masses_of(system, system.weights, np.array([light, heavy] * 4))
    np.testing.assert_allclose(masses(half), 0.25 * light + 0.75 * heavy)
    np.testing.assert_allclose(masses(vacant), (light + heavy) / 2)


def test_atomic_masses_are_those_of_ase():
    assert ATOMIC_MASSES == dict(zip(chemical_symbols[1:], atomic_masses[1:], strict=True))


# --- runs taken apart and put together --------------------------------------------------------------------------------


def test_a_run_continued_from_any_chunk_is_the_same_to_the_last_bit(potential, crystal):
    options = {"steps": 60, "timestep": 8.0, "cell": True, "every": 5, "chunk": 20, "skin": 0.3, "replicas": 2}
    plan = make_plan(potential, crystal, **options, **BAROSTAT)
    chunks = list(run_chunks(potential, plan))
    assert len(chunks) == 4 and [int(c.state.step[0]) for c in chunks] == [15, 35, 55, 60]
    state = jax.tree.map(np.asarray, chunks[1].state)
    again = list(run_chunks(potential, plan, state, chunks[1].grid))
    assert len(again) == 2
    for a, b in zip(again, chunks[2:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, a.samples, b.samples)
        jax.tree.map(np.testing.assert_array_equal, a.state, b.state)


def test_replicas_are_single_runs(potential, crystal):
    replicas = [{"seed": 3}, {"seed": 3, "temperature": 50.0}, {"weights": [0.0, 1.0], "seed": 4}]
    options = {"steps": 30, "timestep": 5.0, "every": 10}
    together = argon(potential, crystal, replicas=replicas, **options)
    assert together.energy.shape == (4, 3) and len(set(together.energy[-1])) == 3
    for k, own in enumerate(replicas):
        alone = argon(potential, crystal, **options | own)
        np.testing.assert_allclose(together.positions[:, k], alone.positions, atol=1e-10)
        np.testing.assert_allclose(together.conserved[:, k], alone.conserved, atol=1e-10)
    both = argon(potential, crystal, replicas=2, seed=3, **options)
    np.testing.assert_allclose(both.energy[:, 0], together.energy[:, 0], atol=1e-10)
    next_seed = argon(potential, crystal, replicas=2, seed=4, **options)
    ends = np.concatenate([both.energy[-1], next_seed.energy[-1]])
    assert np.abs(np.subtract.outer(ends, ends))[np.triu_indices(4, 1)].min() > 1e-7, "every run is another one"


def test_a_list_that_overflows_is_enlarged_and_the_chunk_repeated(potential, crystal, monkeypatch):
    options = {"steps": 200, "timestep": 8.0, "temperature": 60.0, "every": 20, "skin": 0.3}
    expected = md(potential, crystal, **options)
    made = []

    def tight(rule, layout, structures, radius, *, spare=0.5):
        grid = allocate(rule, layout, structures, radius, spare=max(spare, SPARE))
        made.append(grid)
        if len(made) == 1:  # not even what is there at the start
            return grid._replace(shapes=tuple((rows // 2, width) for rows, width in grid.shapes))
        return grid

    monkeypatch.setattr(module, "allocate", tight)
    out = md(potential, crystal, **options)
    assert len(made) > 1
    np.testing.assert_allclose(out.energy[:5], expected.energy[:5], atol=1e-9)
    np.testing.assert_array_equal(out.time, expected.time)


def test_a_list_of_one_replica_that_overflows_is_enlarged_for_all(potential, crystal, monkeypatch):
    velocities = 0.005 * np.random.default_rng(0).normal(size=(8, 3))  # A/fs
    velocities = np.stack([np.zeros((8, 3)), velocities - velocities.mean(0)])  # only the second replica moves
    options = {"steps": 100, "timestep": 8.0, "every": 20, "skin": 0.3, "thermostat": None, "replicas": 2}
    options |= {"velocities": velocities}
    expected = md(potential, crystal, **options)
    made = []

    def tight(rule, layout, structures, radius, *, spare=1.0):
        made.append(len(structures))
        return allocate(rule, layout, structures, radius, spare=spare)

    monkeypatch.setattr(module, "allocate", tight)
    monkeypatch.setattr("alchemjax.system.lists.RATTLE", 1e-3)  # room for what is there at the start only
    out = md(potential, crystal, **options)
    assert made[0] == 1 and set(made[1:]) == {2}, "made again, with room for both replicas"
    np.testing.assert_allclose(out.positions, expected.positions, atol=1e-6)
    assert np.ptp(out.positions[:, 0], axis=0).max() < 1e-6 < 0.1 < np.ptp(out.positions[:, 1], axis=0).max()


def test_lists_follow_a_cell_that_shrinks(potential):
    """Images far away along z come near although no site moves much: all of them are near z = 0."""
    from ase import Atoms

    cell = np.diag([5.2, 5.2, 6.5])
    system = aj.from_atoms(Atoms("Ar2", scaled_positions=[[0, 0, 0.1], [0.5, 0.5, 0.1]], cell=cell, pbc=True))
    out = argon(
        potential, system, steps=200, timestep=5.0, temperature=1e-4, cell=(0, 0, 1, 0, 0, 0), pressure=0.2 * GPA,
        bulk_modulus=1.5 * GPA, barostat_time=200.0, skin=0.3,
    )  # fmt: skip
    assert out.cell[-1, 2, 2] < 5.5 < 6.3 < out.cell[0, 2, 2], "from outside the radius to inside the cutoff"
    for positions, cell, energy in zip(out.positions, out.cell, out.energy, strict=True):
        here = make_structure(positions, cell, system.structure.pbc)
        np.testing.assert_allclose(aj.calculate(potential, system._replace(structure=here)).energy, energy, atol=1e-8)


def test_positions_run_through_the_boundaries(potential, crystal):
    velocities = np.broadcast_to([0.02, -0.01, 0.0], (8, 3))  # A/fs: everything moves together
    moved = crystal._replace(structure=crystal.structure._replace(positions=crystal.structure.positions + 100.0))
    out = md(potential, moved, steps=400, timestep=5.0, thermostat=None, velocities=velocities, every=100)
    way = out.positions - moved.structure.positions
    np.testing.assert_allclose(way, out.time[:, None, None] * velocities, atol=1e-8)
    np.testing.assert_allclose(out.energy, out.energy[0], atol=1e-10)


def test_float32_and_float64_agree_at_first(crystal):
    options = {"steps": 20, "timestep": 5.0, "thermostat": None}
    single, double = (argon(lennard_jones(dtype), crystal, **options) for dtype in ("float32", "float64"))
    np.testing.assert_allclose(single.positions, double.positions, atol=2e-4)
    np.testing.assert_allclose(single.conserved, double.conserved, atol=1e-4)
    assert np.abs(double.positions[-1] - double.positions[0]).max() > 0.05


DEVICES = """
import sys
sys.path.insert(0, "tests")
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from ase.build import bulk
import alchemjax as aj
from alchemjax.tasks.seeds import seed_of
from pair_potential import lennard_jones
system = aj.from_atoms(bulk("Ar", "fcc", 5.3, cubic=True))
options = {"steps": 20, "timestep": 5.0, "cell": True}
out = aj.md(lennard_jones(), system, replicas=4, **options)
one = aj.md(lennard_jones(), system, seed=seed_of(0, 1, 3), **options)
assert jax.device_count() == 2
np.testing.assert_allclose(out.positions[:, 3], one.positions, atol=1e-10)
print("same")
"""


@pytest.mark.slow
def test_replicas_are_spread_over_devices():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DEVICES], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout == "same\n", done.stderr


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_time_step_that_is_too_long_ends_with_a_sentence(potential, crystal):
    with pytest.raises(
        BlewUp, match=r"went wrong at step \d+ .*: an atom moved .* A in one step of 300 fs; take a small"
    ):
        argon(potential, crystal, steps=1000, timestep=300.0, temperature=300.0)


def test_numbers_that_are_not_finite_end_with_a_sentence(potential, crystal):
    broken = potential._replace(params=potential.params | {"charge": jnp.array([[jnp.nan, 1.0], [1.0, 1.0]])})
    with pytest.raises(BlewUp, match="step 0 .*numbers are not finite"):
        md(broken, crystal, steps=10)


WRONG = {
    "steps = -1 must be a whole number, at least 0": {"steps": -1},
    "timestep = 0 must be a positive number": {"timestep": 0},
    "every = 0 must be": {"every": 0},
    "seed = -1 must be a whole number, at least 0": {"seed": -1},
    "seed = 1.5 must be": {"replicas": [{"seed": 1.5}]},
    "thermostat 'andersen' is unknown; allowed are langevin, nose-hoover, csvr": {"thermostat": "andersen"},
    "a moving cell needs a thermostat": {"thermostat": None, "cell": True},
    "pressure = 1.0 has no effect unless the cell moves": {"pressure": 1.0},
    "barostat_time = 9.0 has no effect unless the cell moves": {"barostat_time": 9.0},
    "bulk_modulus = 1.0 has no effect unless the cell moves": {"bulk_modulus": 1.0},
    "thermostat_time = 9.0 has no effect without a thermostat": {"thermostat": None, "thermostat_time": 9.0},
    "thermostat_time = 0 must be a positive number": {"thermostat_time": 0},
    "temperature = -3 K must be positive": {"temperature": -3},
    "temperature = 0 K must be positive": {"temperature": 0, "thermostat": "csvr"},
    "temperature = 'hot' is not understood": {"temperature": "hot"},
    r"times of temperature are \[5.0, 1.0\] fs": {"temperature": [(5, 1), (1, 1)]},
    "replicas = 0 must be at least 1": {"replicas": 0},
    "a replica has no 'colour'": {"replicas": [{"colour": 1}]},
    "the replicas have different times for temperature": {
        "replicas": [{"temperature": [(0, 1), (9, 2)]}, {"temperature": [(0, 1), (8, 2)]}]
    },
    "velocities have shape": {"velocities": np.zeros((7, 3))},
    r"velocities have shape \(2, 8, 3\)": {"velocities": np.zeros((2, 8, 3)), "replicas": 3},
    "fixed_axes = ": {"fixed_axes": [0]},
    "a schedule of the temperature needs a thermostat": {"thermostat": None, "temperature": [(0, 1), (1, 2)]},
    "steps = 3000000000 is too large": {"steps": 3_000_000_000},
    r"the time 1e\+10 fs of temperature": {"temperature": [(0, 1), (1e10, 2)]},
    "weights of group 'Ar' sum to 1.5": {"weights": [1.0, 0.5]},
    "fluctuations = 'some' is not understood": {"fluctuations": "some"},
    "sites fluctuate together with their images, which are nearer than the cutoff, 6 A": {"fluctuations": "site"},
    "alpha = 0.1 was given with coupling 'independent'": {"alpha": 0.1},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_input_is_one_sentence(sentence, potential, crystal):
    with pytest.raises(ValueError, match=sentence):
        make_plan(potential, crystal, **{"steps": 10} | WRONG[sentence])


def test_one_site_is_refused_and_so_is_a_moving_cell_of_a_molecule(potential):
    with pytest.raises(ValueError, match="one site alone has no motion"):
        make_plan(potential, aj.from_atoms(bulk("Ar")), steps=1)
    from ase import Atoms

    with pytest.raises(ValueError, match="without periodic directions"):
        make_plan(potential, aj.from_atoms(Atoms("Ar2", [[0, 0, 0], [4, 0, 0]])), steps=1, cell=True)


def test_alpha_that_becomes_impossible_along_the_run_is_refused(potential, crystal):
    system = crystal._replace(coupling="correlated")
    path = [(0.0, [0.5, 0.5]), (10.0, [0.95, 0.05])]
    make_plan(potential, system, path, steps=1, alpha=-0.04)
    with pytest.raises(ValueError, match="alpha = -0.3 makes a probability negative"):
        make_plan(potential, system, path, steps=1, alpha=-0.3)


def test_recorded_keeps_the_axes_of_replicas(potential, crystal):
    plan = make_plan(potential, crystal, steps=10, replicas=3)
    chunk = next(run_chunks(potential, plan))
    assert recorded(plan, chunk.samples).positions.shape == (2, 3, 8, 3)
