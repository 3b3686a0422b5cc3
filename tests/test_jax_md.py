"""The pair of functions for jax-md: its derivatives, simulations and minimisers see the energies of `calculate`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from conftest import random_structure, random_weights, standard_sites
from pair_potential import lennard_jones

import alchemjax as aj
from alchemjax.system.structure import make_structure
from alchemjax.system.system import make_system
from alchemjax.system.topology import COUPLINGS
from alchemjax.units import FS, KELVIN


@pytest.fixture(autouse=True)
def as_jax_md_wants_it():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def potential():
    return lennard_jones()


def argon(rng, pbc=True, mixed=True):
    """A strained and rattled cell that is narrower than the cutoff."""
    atoms = bulk("Ar", "fcc", 5.3, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(size=(4, 3)) * 0.1
    atoms.pbc = pbc
    return aj.from_atoms(atoms, **({"mix": {"Ar": ("Ar", "Kr")}, "weights": [0.7, 0.3]} if mixed else {}))


@pytest.mark.parametrize("pbc", [True, (True, True, False), (False, True, False)])
def test_energy_forces_stress_and_composition_gradient_are_those_of_calculate(pbc, potential, rng):
    from jax_md import quantity

    system = argon(rng, pbc)
    neighbour_fn, energy_fn = aj.jax_md(potential, system)
    position, box = jnp.asarray(neighbour_fn.position), jnp.asarray(neighbour_fn.box)
    neighbours = neighbour_fn.allocate(position)
    out = aj.calculate(potential, system)
    assert np.abs(out.forces).max() > 1e-3 and np.abs(out.stress).max() > 1e-4
    energy, minus_forces = jax.jit(jax.value_and_grad(energy_fn))(position, neighbours)
    np.testing.assert_allclose(energy, out.energy, atol=1e-12)
    np.testing.assert_allclose(-minus_forces, out.forces, atol=1e-12)
    np.testing.assert_allclose(-quantity.stress(energy_fn, position, box, neighbor=neighbours), out.stress, atol=1e-12)
    pressure = quantity.pressure(energy_fn, position, box, neighbor=neighbours)
    np.testing.assert_allclose(pressure, -np.trace(out.stress) / 3, atol=1e-12)
    slope = jax.grad(lambda w: energy_fn(position, neighbours, weights=w))(jnp.asarray(system.weights))
    np.testing.assert_allclose(slope, out.weights_gradient, atol=1e-12)


@pytest.mark.parametrize(("name", "coupling"), [*(("small", c) for c in COUPLINGS), ("small_mace", "correlated")])
def test_every_coupling_and_kind_of_network(name, coupling, rng, request):
    network, sites = request.getfixturevalue(name), standard_sites()
    system = make_system(random_structure(rng), sites, random_weights(sites, rng), coupling)
    alpha = 0.1 if coupling == "correlated" else None
    neighbour_fn, energy_fn = aj.jax_md(network, system, alpha=alpha)
    neighbours = neighbour_fn.allocate(neighbour_fn.position)
    expected = aj.calculate(network, system, alpha=alpha).energy
    np.testing.assert_allclose(jax.jit(energy_fn)(neighbour_fn.position, neighbours), expected, atol=1e-9)


def test_the_three_routes_to_the_stress_agree_with_finite_differences(potential, rng):
    from ase.stress import voigt_6_to_full_3x3_stress
    from jax_md import quantity

    system = argon(rng)
    structure = system.structure
    neighbour_fn, energy_fn = aj.jax_md(potential, system)
    neighbours = neighbour_fn.allocate(neighbour_fn.position)
    atoms = aj.to_atoms(system)
    atoms.calc = aj.Calculator(potential, system)
    difference, h = np.zeros((3, 3)), 1e-5
    for a in range(3):
        for b in range(3):
            strained = []
            for sign in (1, -1):
                deformation = np.eye(3)
                deformation[a, b] += sign * h / 2
                deformation[b, a] += sign * h / 2
                moved = make_structure(structure.positions @ deformation, structure.cell @ deformation, True)
                strained.append(float(aj.calculate(potential, system._replace(structure=moved)).energy))
            difference[a, b] = (strained[0] - strained[1]) / (2 * h) / np.linalg.det(structure.cell)
    assert np.abs(difference).max() > 1e-4
    stress = -quantity.stress(energy_fn, neighbour_fn.position, jnp.asarray(neighbour_fn.box), neighbor=neighbours)
    for found in (
        aj.calculate(potential, system).stress,
        stress,
        voigt_6_to_full_3x3_stress(atoms.get_stress()),
        jax.grad(lambda e: energy_fn(neighbour_fn.position, neighbours, perturbation=jnp.eye(3) + (e + e.T) / 2))(
            jnp.zeros((3, 3))
        )
        / np.linalg.det(structure.cell),
    ):
        np.testing.assert_allclose(found, difference, atol=1e-9)


def test_any_image_of_a_site_and_a_moving_box_give_the_same_energy(potential, rng):
    system = argon(rng)
    neighbour_fn, energy_fn = aj.jax_md(potential, system)
    start, box = jnp.asarray(neighbour_fn.position), jnp.asarray(neighbour_fn.box)
    neighbours, update, energy_of = neighbour_fn.allocate(start), jax.jit(neighbour_fn.update), jax.jit(energy_fn)
    position = start
    for _ in range(12):
        box = box @ (jnp.eye(3) + jnp.asarray(rng.normal(size=(3, 3))) * 0.002)
        position = position + jnp.asarray(rng.normal(size=(4, 3))) * 0.01
        images = position + jnp.asarray(rng.integers(-3, 4, (4, 3)))
        neighbours = update(images, neighbours, box=box)
        assert not neighbours.did_buffer_overflow
        moved = make_structure(np.asarray(position) @ np.asarray(box).T, np.asarray(box).T, True)
        expected = aj.calculate(potential, system._replace(structure=moved)).energy
        wrapped = images - jnp.floor(images)
        for now in (position, images, wrapped):  # the list need not have seen these images
            np.testing.assert_allclose(energy_of(now, neighbours, box=box), expected, atol=1e-11)
        np.testing.assert_allclose(neighbours.box, box)
    assert np.abs(box - neighbour_fn.box).max() > 0.02


def test_list_is_kept_until_stale_and_overflow_stays_set(potential, rng):
    system = argon(rng)
    neighbour_fn, _ = aj.jax_md(potential, system, dr_threshold=0.5)
    position = jnp.asarray(neighbour_fn.position)
    neighbours = neighbour_fn.allocate(position)
    kept = neighbours.update(position + 0.01)
    np.testing.assert_array_equal(kept.reference_position, neighbours.reference_position)
    made = neighbours.update(position.at[0].add(0.1))
    assert np.abs(made.reference_position - neighbours.reference_position).max() > 0.05
    crushed = made.update(position, box=made.box * 0.7)
    assert crushed.did_buffer_overflow and not made.did_buffer_overflow
    assert crushed.update(position, box=made.box).did_buffer_overflow, "until it is allocated again"
    assert not neighbour_fn.allocate(position, box=np.asarray(made.box) * 0.7).did_buffer_overflow
    larger = neighbour_fn.allocate(position, extra_capacity=7)
    assert larger.grid.shapes[0][0] == neighbours.grid.shapes[0][0] + 7


def test_idx_and_shifts_are_the_pairs(potential, rng):
    from ase.neighborlist import neighbor_list

    system = argon(rng)
    neighbour_fn, _ = aj.jax_md(potential, system, dr_threshold=0.3)
    neighbours = neighbour_fn.allocate(neighbour_fn.position)
    receivers, senders = neighbours.idx
    used = np.asarray(senders) < 4
    assert (np.asarray(receivers)[used] < 4).all() and (np.asarray(receivers)[~used] == 4).all()
    structure = system.structure
    inside = np.asarray(neighbours.reference_position) @ structure.cell
    i, j, shift = neighbor_list("ijS", Atoms("Ar4", inside, cell=structure.cell, pbc=True), potential.cutoff + 0.3)
    ours = zip(*(np.asarray(a)[used].tolist() for a in (receivers, senders)), strict=True)
    shifts = map(tuple, np.asarray(neighbours.shifts)[used].tolist())
    assert sorted(zip(ours, shifts, strict=True)) == sorted(
        zip(zip(i.tolist(), j.tolist(), strict=True), map(tuple, shift.tolist()), strict=True)
    )


def test_weights_and_boxes_do_not_retrace(potential, rng):
    system, traces = argon(rng), []

    def counted(*arguments):
        traces.append(1)
        return potential.node_energies(*arguments)

    neighbour_fn, energy_fn = aj.jax_md(potential._replace(node_energies=counted), system)
    neighbours = neighbour_fn.allocate(neighbour_fn.position)
    run = jax.jit(energy_fn)
    energies = [
        float(run(neighbour_fn.position, neighbours, weights=jnp.array([x, 1 - x]), box=jnp.eye(3) * (5.3 + x)))
        for x in (0.1, 0.5, 0.9)
    ]
    assert len(traces) == 1 and len(set(energies)) == 3


@pytest.mark.parametrize("ensemble", ["nvt_langevin", "nvt_nose_hoover", "npt_nose_hoover"])
def test_simulations_of_jax_md_run_at_a_moving_composition(ensemble, potential, rng):
    from jax_md import simulate

    system = argon(rng)
    neighbour_fn, energy_fn = aj.jax_md(potential, system, dr_threshold=0.4)
    position, kT = jnp.asarray(neighbour_fn.position), KELVIN * 30
    neighbours = neighbour_fn.allocate(position, extra_capacity=20)
    start, end = jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5])
    npt = ensemble.startswith("npt")
    with jax.numpy_dtype_promotion("standard"):
        build = getattr(simulate, ensemble)
        init, step = build(energy_fn, neighbour_fn.shift, 2 * FS, *([0.0] if npt else []), kT)
        extra = {"box": jnp.asarray(neighbour_fn.box)} if npt else {}
        masses = neighbour_fn.masses(start)
        state = init(jax.random.key(0), position, mass=masses, neighbor=neighbours, weights=start, **extra)

        def body(carry, part):
            state, neighbours = carry
            weights = (1 - part) * start + part * end
            state = state.set(mass=neighbour_fn.masses(weights))
            box = {"box": simulate.npt_box(state)} if npt else {}
            neighbours = neighbour_fn.update(state.position, neighbours, **box)
            state = step(state, neighbor=neighbours, weights=weights)
            return (state, neighbours), simulate.temperature(state)

        run = jax.jit(lambda carry: jax.lax.scan(body, carry, jnp.linspace(0, 1, 100)))
        (state, neighbours), temperature = run((state, neighbours))
    assert not neighbours.did_buffer_overflow and np.isfinite(temperature).all()
    np.testing.assert_allclose(state.mass, neighbour_fn.masses(end))
    box = np.asarray(simulate.npt_box(state) if npt else neighbour_fn.box)
    moved = make_structure(np.asarray(state.position) @ box.T, box.T, True)
    expected = aj.calculate(potential, system._replace(structure=moved), np.asarray(end)).energy
    neighbours = neighbour_fn.update(state.position, neighbours, box=jnp.asarray(box))
    np.testing.assert_allclose(energy_fn(state.position, neighbours, weights=end), expected, atol=1e-11)


def test_minimiser_of_positions_and_box_finds_what_relax_finds(potential, rng):
    from jax_md import minimize

    system = argon(rng)
    neighbour_fn, energy_fn = aj.jax_md(potential, system, dr_threshold=0.4)
    position, box = jnp.asarray(neighbour_fn.position), jnp.asarray(neighbour_fn.box)
    neighbours = neighbour_fn.allocate(position, extra_capacity=20)
    with jax.numpy_dtype_promotion("standard"):
        init, step = minimize.fire_descent_box(energy_fn, neighbour_fn.shift, dt_start=0.05, dt_max=0.2)

        def body(_, carry):
            state, neighbours = carry
            neighbours = neighbour_fn.update(state.position, neighbours, box=state.box)
            return step(state, neighbor=neighbours), neighbours

        run = jax.jit(lambda carry: jax.lax.fori_loop(0, 400, body, carry))
        state, neighbours = run((init(position, box, neighbor=neighbours), neighbours))
    relaxed = aj.relax(potential, system, cell=True, force_tolerance=1e-5, stress_tolerance=1e-7)
    energy = energy_fn(state.position, neighbours, box=state.box)
    assert float(aj.calculate(potential, system).energy) - float(energy) > 1e-3
    np.testing.assert_allclose(energy, relaxed.output.energy, atol=1e-5)


def test_elastic_moduli_of_a_cubic_crystal(potential):
    from jax_md import elasticity

    relaxed = aj.relax(potential, aj.from_atoms(bulk("Ar", "fcc", 5.3, cubic=True)), cell=True, stress_tolerance=1e-8)
    system = aj.from_atoms(Atoms("Ar4", relaxed.structure.positions, cell=relaxed.structure.cell, pbc=True))
    neighbour_fn, energy_fn = aj.jax_md(potential, system)
    position, box = jnp.asarray(neighbour_fn.position), jnp.asarray(neighbour_fn.box)
    neighbours = neighbour_fn.allocate(position)
    with jax.numpy_dtype_promotion("standard"):
        moduli = np.asarray(jax.jit(elasticity.athermal_moduli(energy_fn))(position, box, neighbor=neighbours))
    h, stress = 1e-4, []
    for sign in (1, -1):
        strained = np.diag([1 + sign * h, 1, 1])
        moved = make_structure(system.structure.positions @ strained, system.structure.cell @ strained, True)
        stress.append(aj.calculate(potential, system._replace(structure=moved)).stress)
    slope = (stress[0] - stress[1]) / (2 * h)
    np.testing.assert_allclose([moduli[0, 0, 0, 0], moduli[1, 1, 0, 0]], [slope[0, 0], slope[1, 1]], rtol=1e-3)
    np.testing.assert_allclose(moduli[0, 1, 0, 1], moduli[0, 0, 1, 1], rtol=1e-2)  # Cauchy: pair forces only


def test_vmap_over_weights_and_over_positions(potential, rng):
    system = argon(rng)
    neighbour_fn, energy_fn = aj.jax_md(potential, system)
    position = jnp.asarray(neighbour_fn.position)
    neighbours = neighbour_fn.allocate(position)
    weights = jnp.array([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]])
    energies = jax.jit(jax.vmap(lambda w: energy_fn(position, neighbours, weights=w)))(weights)
    np.testing.assert_allclose(energies, [aj.calculate(potential, system, w).energy for w in np.asarray(weights)])
    many = position + 0.03 * jnp.asarray(rng.normal(size=(3, 4, 3)))
    update, energy = jax.jit(neighbour_fn.update), jax.jit(energy_fn)
    lists = jax.jit(jax.vmap(neighbour_fn.update, in_axes=(0, None)))(many, neighbours)
    energies = jax.jit(jax.vmap(energy_fn))(many, lists)
    single = [energy(p, update(p, neighbours)) for p in many]
    np.testing.assert_allclose(energies, single)
    assert np.ptp(energies) > 1e-4


def test_second_derivatives_in_positions_and_weights(potential, rng):
    system = argon(rng)
    neighbour_fn, energy_fn = aj.jax_md(potential, system)
    position = jnp.asarray(neighbour_fn.position)
    neighbours = neighbour_fn.allocate(position)
    hessian = jax.jit(jax.hessian(energy_fn))(position, neighbours)
    h, forces = 1e-5, []
    for sign in (1, -1):
        moved = system.structure.positions.copy()
        moved[1, 2] += sign * h
        structure = make_structure(moved, system.structure.cell, True)
        forces.append(aj.calculate(potential, system._replace(structure=structure)).forces)
    np.testing.assert_allclose(hessian[1, 2], -(forces[0] - forces[1]) / (2 * h), atol=1e-7)
    assert np.abs(hessian).max() > 0.01


def test_masses_and_shift(potential, rng):
    system = argon(rng, (True, True, False))
    neighbour_fn, _ = aj.jax_md(potential, system)
    np.testing.assert_allclose(neighbour_fn.masses([0.5, 0.5]), np.full((4, 1), (39.948 + 83.798) / 2))
    away = np.array([[10.0, -7.0, 9.0]] * 4)
    moved = neighbour_fn.shift(jnp.asarray(neighbour_fn.position), jnp.asarray(away))
    raw = neighbour_fn.position + away @ np.linalg.inv(neighbour_fn.box.T)
    np.testing.assert_allclose(moved[:, :2], raw[:, :2] % 1.0, atol=1e-12)
    np.testing.assert_allclose(moved[:, 2], raw[:, 2], atol=1e-12)
    assert raw[:, 2].max() > 1


def test_wrong_input_is_one_sentence(potential, rng):
    system = argon(rng)
    neighbour_fn, _ = aj.jax_md(potential, system)
    with pytest.raises(ValueError, match="these are the Cartesian positions"):
        neighbour_fn.allocate(system.structure.positions)
    with pytest.raises(ValueError, match=r"positions have shape \(3, 3\); this system has 4 sites"):
        neighbour_fn.allocate(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="sites 0 and 1 are 0 A apart"):
        neighbour_fn.allocate(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="allocate looks at values"):
        jax.jit(neighbour_fn.allocate)(neighbour_fn.position)
    with pytest.raises(ValueError, match="dr_threshold = -1"):
        aj.jax_md(potential, system, dr_threshold=-1)
    with pytest.raises(ValueError, match="has no volume"):
        aj.jax_md(potential, system, box=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="64-bit mode"), jax.enable_x64(False):
        aj.jax_md(potential, system)
