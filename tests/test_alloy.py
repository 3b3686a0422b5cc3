"""The alchemical Hamiltonian: exact where the energy is quadratic, else against finite differences and relaxations."""

from functools import partial

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry import minkowski_reduce
from lattice_models import simple_cubic
from pair_potential import CUBE, TIGHT, A, lennard_jones, mixed_argon, wurtzite

import alchemjax as aj
from alchemjax.calculate import with_fluctuations
from alchemjax.system.fluctuations import make_fluctuations
from alchemjax.tasks.alloy import (
    Alloy,
    alloy,
    doubts,
    long_waves,
    mean_square_displacements,
    pair_energies,
    random_energy,
    strain_by_displacements,
    strain_forces,
)
from alchemjax.tasks.crystal import make_crystal
from alchemjax.tasks.hessian import make_hessian
from alchemjax.tasks.lattice import box_strain, random_states, symmetric_index, total_energy
from alchemjax.tasks.ordering import concentration_waves, interactions, lattice_model, short_range_order, spinodal
from alchemjax.tasks.validate import explicit_system, one_hot, validate

pytestmark = pytest.mark.usefixtures("quick_loops")


@pytest.fixture(scope="module")
def pairs_alone():
    return lennard_jones(krypton=(2.0, 1.5))


def explicit_energies(potential, system, alloy, states, shape):
    large = explicit_system(system, alloy, shape)
    weights = [one_hot(large, alloy, one) for one in states]
    return aj.sweep(potential, large, weights, relax="none").energy


def arrangements(alloy, shape, number=5):
    model = lattice_model(alloy, shape)
    return [np.asarray(random_states(model, alloy.weights, jax.random.key(k))) for k in range(number)]


# --- the energy of arrangements ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "shape"), [(mixed_argon, (3, 3, 3)), (wurtzite, (2, 2, 1))])
def test_energy_of_every_arrangement_is_exact_where_energies_are_quadratic(pairs_alone, make, shape):
    system = make()
    found = alloy(pairs_alone, system, relaxed=False, supercell=list(shape))
    states = arrangements(found, shape)
    states.append(np.zeros_like(states[0]) if make is mixed_argon else states[0])  # far from the mean too
    explicit = explicit_energies(pairs_alone, system, found, states, shape)
    model = lattice_model(found, shape, relaxed=False)
    predicted = [float(total_energy(model, one)) for one in states]
    assert np.ptp(explicit[:5]) > 1e-3
    np.testing.assert_allclose(predicted, explicit, atol=1e-10)


def test_random_alloy_is_that_of_the_fluctuating_energy(small):
    system = aj.from_atoms(bulk("NaCl", "rocksalt", 4.3), mix={"Na": ("Na", "K")}, weights=[0.4, 0.5])
    found = alloy(small, system, relaxed=False, supercell=[2, 2, 2])
    for kind, field in (("site-exact", found.field), ("site", found.second_order)):
        energy = aj.calculate(small, system, fluctuations=kind, supercell=[2, 2, 2]).energy
        assert found.energy + (found.weights * field).sum() == pytest.approx(float(energy), abs=1e-10)
    exact = aj.calculate(small, system, fluctuations="site-exact", supercell=[2, 2, 2])
    strained = abs(np.linalg.det(system.structure.cell)) * np.asarray(exact.stress)
    np.testing.assert_allclose(found.residual[:3], np.diag(strained), atol=1e-9)
    assert found.species == ("Na", "K", "vacancy")
    assert abs(random_energy(found) - found.energy) > 1e-5
    assert abs(found.field - found.second_order).max() > 1e-6


def test_force_that_is_left_is_that_of_the_fluctuating_energy(small):
    atoms = bulk("NaCl", "rocksalt", 4.3)
    atoms.positions[1] += 0.1  # a threefold axis is left, along which sites are free
    system = aj.from_atoms(atoms, mix={"Na": ("Na", "K")}, weights=[0.4, 0.5])
    found = alloy(small, system, relaxed=False, supercell=[2, 2, 2])
    forces = [
        np.linalg.norm(aj.calculate(small, system, fluctuations=kind, **more).forces, axis=1).max()
        for kind, more in (("site-exact", {"supercell": [2, 2, 2]}), ("none", {}))
    ]
    assert found.largest_force == pytest.approx(forces[0], abs=1e-9)
    assert abs(forces[0] - forces[1]) > 1e-3


def test_a_small_arrangement_relaxes_as_the_hamiltonian_says(argon, relaxed_argon, argon_alloy):
    """Positions alone and with the cell: second difference of relaxed energies along a change of weights."""
    shape, step = (4, 4, 4), 0.02
    found = alloy(argon, relaxed_argon, supercell=list(shape), exact_pairs=False)
    large = explicit_system(relaxed_argon, found, shape)
    direction = np.random.default_rng(0).normal(size=64)
    mean = np.tile(relaxed_argon.weights, 64)
    change = np.stack([direction, -direction], -1).ravel() * step
    tight = {"force_tolerance": 1e-7, "stress_tolerance": 1e-10, "max_steps": 3000}
    of = lambda sign, **free: aj.relax(argon, large, mean + sign * change, **tight, **free)
    for cell in (False, True):
        energies = [of(sign, cell=cell) for sign in (-1, 0, 1)]
        assert all(one.converged for one in energies)
        low, middle, high = (float(one.output.energy) for one in energies)
        second = (low + high - 2 * middle) / step**2
        rigid = [float(aj.calculate(argon, large, mean + sign * change).energy) for sign in (-1, 0, 1)]
        unrelaxed = (rigid[0] + rigid[2] - 2 * rigid[1]) / step**2
        assert second < unrelaxed - 1e-3
        gained = quadratic(found, direction, strain=cell) - unrelaxed
        assert gained == pytest.approx(second - unrelaxed, rel=0.02)  # of the third and fourth order in the step
    # a box of this very size has these interactions
    found = alloy(argon, relaxed_argon, supercell=list(shape))
    box = lattice_model(found, shape)
    lookup = [tuple(s % 4) for s in found.supercell.shift]
    order = [lookup.index(place) for place in np.ndindex(shape)]
    raw = pair_energies(found)[0, order, 0] - long_waves(found)[:, 0, 0].mean(0) / 64
    np.testing.assert_allclose(box.pair[:, :, :, 0, 0].reshape(64, 2, 2)[1:], raw[1:], atol=1e-12)
    raw = strain_forces(found)[1][0, order, 0]
    np.testing.assert_allclose(box.strains.pair[:, :, :, 0, 0].reshape(64, 2, 2, 27)[1:], raw[1:], atol=1e-12)
    np.testing.assert_allclose(box.strains.stiffness, 64 * found.stiffness)


def quadratic(found: Alloy, direction, *, strain: bool) -> float:
    """d Heff d for a change of the weights of Ar on every site, Kr taking its place."""
    energy = found.pair + found.pair_relaxation
    vector = lambda v: v[..., 0, 0] - v[..., 0, 1] - v[..., 1, 0] + v[..., 1, 1]
    by_distance = vector(energy)[0, :, 0]
    total = 0.0
    shift = found.supercell.shift
    lookup = {tuple(s % 4): k for k, s in enumerate(shift)}
    places = np.array(np.meshgrid(*[np.arange(4)] * 3, indexing="ij")).reshape(3, -1).T
    own = np.array([lookup[tuple(p)] for p in places])
    order = np.argsort(own)
    places = places[order]  # cells in the order of the box
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            total += direction[i] * direction[j] * by_distance[lookup[tuple((b - a) % 4)]]
    if strain:
        force = (found.strain_force[0, 0] - found.strain_force[0, 1]) * direction.sum()
        total -= force @ np.linalg.inv(64 * found.stiffness) @ force
    return total


# --- second derivatives -----------------------------------------------------------------------------------------------


def without_symmetry(system, supercell):
    return make_fluctuations(system.structure, system.sites, "site-exact", supercell, symmetric=False)


@pytest.mark.parametrize("name", ["rock salt", "wurtzite", "left-handed"])
def test_symmetry_gives_the_rows_of_equivalent_sites(small, name):
    if name == "rock salt":
        system, supercell = aj.from_atoms(bulk("NaCl", "rocksalt", 4.6, cubic=True), mix={"Na": ("Na", "K")}), [1, 1, 1]
    else:
        atoms = bulk("NaCl", "wurtzite", a=3.6, c=5.6, u=0.36)
        if name == "left-handed":
            atoms.set_cell(atoms.cell[[1, 0, 2]])
        system, supercell = aj.from_atoms(atoms, mix={"Na": ("Na", "K", "Li")}), [2, 2, 1]
    weights = np.array([0.5, 0.3, 0.1][: len(system.weights)])
    both = []
    for fluctuations in (
        with_fluctuations(small, system, "site-exact", supercell).fluctuations,
        without_symmetry(system, supercell),
    ):
        rows = []
        crystal = make_crystal(system, fluctuations, weights)
        both.append(make_hessian(small, crystal, fluctuations, lambda done, total, rows=rows: rows.append(total)))
        both.append(rows[-1])
    with_it, few, without, many = both
    assert few < many
    assert all(np.abs(two).max() > 1e-4 for two in (without.weights_weights, without.positions_positions))
    for one, two in zip(with_it, without, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-9 * np.abs(two).max() + 1e-11)


def test_rows_are_finite_differences_of_gradients(small, rng):
    atoms = bulk("NaCl", "wurtzite", a=3.6, c=5.6, u=0.36)
    atoms.rattle(0.05, seed=2)
    system = aj.from_atoms(atoms, mix={"Na": ("Na", "K", "Li")})
    fluctuations = with_fluctuations(small, system, "site-exact", [2, 1, 1]).fluctuations
    crystal = make_crystal(system, fluctuations, np.array([0.5, 0.3, 0.1]))
    hessian = make_hessian(small, crystal, fluctuations)
    large, h = crystal.system, 1e-4

    def gradients(weights=0.0, positions=0.0):
        moved = large._replace(structure=large.structure._replace(positions=large.structure.positions + positions))
        out = aj.calculate(small, moved, large.weights + weights)
        volume = abs(np.linalg.det(large.structure.cell))
        return out.weights_gradient, -out.forces, out.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] * volume

    along = lambda **change: [
        (a - b) / (2 * h)
        for a, b in zip(
            gradients(**{k: h * v for k, v in change.items()}),
            gradients(**{k: -h * v for k, v in change.items()}),
            strict=True,
        )
    ]
    unit = np.zeros(len(large.weights))
    unit[4] = 1
    for found, right in zip(
        (hessian.weights_weights[4], hessian.weights_positions[4], hessian.weights_strain[4]),
        along(weights=unit),
        strict=True,
    ):
        np.testing.assert_allclose(found, right, atol=2e-6)
    shifted = np.zeros_like(large.structure.positions)
    shifted[2, 1] = 1
    ww, uu, ue = along(positions=shifted)
    np.testing.assert_allclose(hessian.positions_positions[2, 1], uu, atol=2e-6)
    np.testing.assert_allclose(hessian.positions_strain[2, 1], ue, atol=2e-6)
    assert np.abs(ww).max() > 1e-4


@pytest.mark.parametrize("name", ["face-centred", "hexagonal"])
def test_strain_of_interactions_is_their_slope(argon, relaxed_argon, name):
    """The hexagonal crystal has vacancies, and two sites that move against each other under strain."""
    if name == "face-centred":
        system, matrix = relaxed_argon, CUBE
    else:
        atoms = bulk("Ar", "hcp", 3.69, c=6.02)
        atoms.positions += 0.5  # away from where positions are wrapped
        system, matrix = aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.4]), np.diag([2, 2, 2])
        system = system._replace(structure=aj.relax(argon, system, cell=True, **TIGHT).structure)
    found = alloy(argon, system, supercell=matrix)
    h, shear = 3e-4, np.array([[0.6, 0.1, 0], [0.1, -0.5, 0.3], [0, 0.3, 0.4]])
    amounts = [0.6, -0.5, 0.4, 0.6, 0, 0.2]

    def strained(sign):
        structure = system.structure
        turn = np.eye(3) + sign * h * shear
        moved = structure._replace(positions=structure.positions @ turn, cell=structure.cell @ turn)
        moved = aj.relax(argon, system._replace(structure=moved), **TIGHT)
        assert moved.converged
        return alloy(argon, system._replace(structure=moved.structure), supercell=matrix)

    low, high = strained(-1), strained(1)
    whole = [one.pair + one.pair_relaxation for one in (low, high)]
    slope = (whole[1] - whole[0]) / (2 * h)
    assert np.abs(slope).max() > 1e-3
    slope[np.arange(len(slope)), 0, np.arange(len(slope))] = 0  # a site and its own images
    # forces that other sites balance change with strain; that is of fourth order
    np.testing.assert_allclose(found.pair_strain[..., :6] @ amounts, slope, atol=3e-6)
    slope = ((high.relaxation - low.relaxation) * found.weights).sum(1) / (2 * h)
    assert np.abs(slope).max() > 1e-4
    own = (found.own_strain[..., :6] * found.weights[..., None]).sum(1)
    np.testing.assert_allclose(own @ amounts, slope, atol=3e-7)


def test_symmetry_gives_all_of_the_alloy(argon, monkeypatch):
    """Three sites that are turned into each other by thirds, which no mirror does in this supercell."""
    atoms = bulk("Kr", "fcc", A, cubic=True)
    atoms.symbols[0] = "Ar"
    system = aj.from_atoms(atoms, mix={"Kr": ("Ar", "Kr")}, weights=[0.3, 0.7])
    system = system._replace(structure=aj.relax(argon, system, cell=True, **TIGHT).structure)
    matrix = [[2, 1, 0], [0, 2, 1], [1, 0, 2]]
    found = alloy(argon, system, supercell=matrix)
    monkeypatch.setattr("alchemjax.tasks.alloy.with_fluctuations", partial(with_fluctuations, symmetric=False))
    plain = alloy(argon, system, supercell=matrix)
    for name in Alloy._fields[7:]:
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), atol=1e-7, err_msg=name)
    assert np.abs(found.pair_strain).max() > 1e-3


def test_without_exact_pairs_the_box_strains_harmonically(argon, relaxed_argon, argon_alloy):
    found = alloy(argon, relaxed_argon, supercell=CUBE, exact_pairs=False)
    np.testing.assert_allclose(pair_energies(found), pair_energies(argon_alloy), rtol=0.2, atol=1e-6)
    strains = lattice_model(found, (2, 2, 2)).strains
    first = found.strain_force + found.own_strain[..., :6] + found.residual
    np.testing.assert_allclose(strains.field[..., :6], first, atol=1e-12)
    np.testing.assert_allclose(strains.field[..., 6:], found.own_strain[..., 6:], atol=1e-12)
    assert not strains.pair.any()
    np.testing.assert_allclose(
        strain_by_displacements(found), strain_by_displacements(argon_alloy), rtol=0.1, atol=1e-12
    )
    with pytest.raises(ValueError, match="relaxed=True, periodic in every direction"):
        strain_by_displacements(alloy(argon, relaxed_argon, supercell=CUBE, relaxed=False))


def test_forces_and_energies_that_are_not_quadratic_give_doubts(argon, argon_alloy):
    assert doubts(argon_alloy) == []
    (sentence,) = doubts(argon_alloy._replace(largest_force=0.2))
    assert "0.2 eV/A" in sentence
    assert doubts(argon_alloy._replace(largest_force=0.2, displacement=None)) == []
    pressed = alloy(argon, mixed_argon(a=A + 0.05), supercell=CUBE, exact_pairs=False)
    assert any("on its sites, would strain by" in sentence for sentence in doubts(pressed))
    apart = np.arange(argon_alloy.pair.shape[1])[:, None, None, None] > 0
    (sentence,) = doubts(argon_alloy._replace(pair=argon_alloy.pair + 0.04 / apart.sum() * apart))
    assert "two sites at a time change the energy of the random alloy by +20.0 meV" in sentence
    second = argon_alloy._replace(pair_at_rest=None)
    (sentence,) = doubts(second._replace(field=argon_alloy.second_order + 0.02))
    assert "one site at a time, the second order misses +20.0 meV" in sentence
    (sentence,) = doubts(second._replace(relaxation=argon_alloy.relaxation - 0.02))
    assert "displacements of second order miss -20.0 meV" in sentence


def test_strain_by_displacements_lowers_the_energy(argon_alloy):
    strain = strain_by_displacements(argon_alloy)
    force = np.einsum("mk,mke->e", argon_alloy.weights, strain_forces(argon_alloy)[0])
    more = np.einsum("mk,mke->e", argon_alloy.weights, strain_forces(argon_alloy)[0])[6:][symmetric_index(6)]
    stiffness = argon_alloy.stiffness + more
    assert np.abs(more).max() > 1e-3 * np.abs(stiffness).max()
    pressure = force[:3].sum() / stiffness[:3, :3].sum()
    assert abs(pressure) > 1e-5
    np.testing.assert_allclose(strain, -pressure * np.eye(3), atol=1e-9)
    at_rest = argon_alloy._replace(own_strain=0 * argon_alloy.own_strain, pair_strain=None, residual=None)
    gained = random_energy(at_rest) - random_energy(argon_alloy)
    assert gained == pytest.approx(1.5 * force[:3].mean() * pressure)


def test_the_cell_where_an_alloy_is_made_hardly_counts(argon, relaxed_argon, argon_alloy):
    """Lattice constant and energy of the random alloy, from a cell that is not at rest, and from there again."""
    large, found, energies = relaxed_argon, [], []
    large = large._replace(structure=large.structure._replace(cell=1.004 * large.structure.cell))
    for _ in range(3):
        away = alloy(argon, large, supercell=CUBE)
        turn = np.eye(3) + strain_by_displacements(away)
        large = large._replace(structure=large.structure._replace(cell=large.structure.cell @ turn))
        found.append(np.cbrt(4 * np.linalg.det(large.structure.cell)))
        energies.append(random_energy(away))
    assert abs(found[0] - found[2]) < 0.1 * abs(
        1.004 * np.cbrt(4 * np.linalg.det(relaxed_argon.structure.cell)) - found[2]
    )
    assert found[1] == pytest.approx(found[2], abs=1e-4)
    at_rest = np.cbrt(
        4 * np.linalg.det(relaxed_argon.structure.cell @ (np.eye(3) + strain_by_displacements(argon_alloy)))
    )
    assert at_rest == pytest.approx(found[2], abs=2e-3)
    assert energies[1] == pytest.approx(energies[2], abs=1e-6)
    assert random_energy(argon_alloy) == pytest.approx(energies[2], abs=2e-5)


def test_a_larger_cell_of_the_same_crystal_has_the_same_alloy(argon, argon_alloy, relaxed_argon):
    cubic = mixed_argon(cubic=True, a=np.linalg.norm(relaxed_argon.structure.cell[0]) * 2**0.5)
    other = alloy(argon, cubic, supercell=[2, 2, 2])
    assert random_energy(other) == pytest.approx(4 * random_energy(argon_alloy), abs=1e-9)
    np.testing.assert_allclose(other.stiffness, 4 * argon_alloy.stiffness, atol=1e-8)
    squares = [mean_square_displacements(one) for one in (argon_alloy, other)]
    assert squares[0][0, 0, 0] > 1e-5
    np.testing.assert_allclose(squares[1], np.repeat(squares[0], 4, 0), atol=1e-10)
    shells = [shells_of(interactions(one)) for one in (argon_alloy, other)]
    assert shells[0].keys() == shells[1].keys()
    for distance, (number, energy) in shells[0].items():
        assert shells[1][distance] == (4 * number, pytest.approx(energy, abs=1e-10))


def shells_of(given):
    energy = given.energy[:, 0, 0] - given.energy[:, 0, 1] - given.energy[:, 1, 0] + given.energy[:, 1, 1]
    rounded = np.round(given.distance, 3)
    return {d: ((rounded == d).sum(), energy[rounded == d].sum() / (rounded == d).sum()) for d in np.unique(rounded)}


def test_order_of_species_does_not_count(argon, argon_alloy, relaxed_argon):
    swapped = mixed_argon(("Kr", "Ar"), (0.6, 0.4))._replace(structure=relaxed_argon.structure)
    other = alloy(argon, swapped, supercell=CUBE)
    np.testing.assert_allclose(pair_energies(other)[..., ::-1, ::-1], pair_energies(argon_alloy), atol=1e-10)
    np.testing.assert_allclose(other.field[:, ::-1], argon_alloy.field, atol=1e-10)


def test_displacements_do_not_depend_on_the_supercell(argon, relaxed_argon, argon_alloy):
    large = alloy(argon, relaxed_argon, supercell=[5, 5, 5])
    small_cell, large_cell = (mean_square_displacements(one)[0, 0, 0] for one in (argon_alloy, large))
    assert small_cell == pytest.approx(large_cell, rel=0.15)  # the longest waves of 32 cells are hardly elastic
    assert random_energy(large) == pytest.approx(random_energy(argon_alloy), abs=2e-5)


def test_one_cell_alone_has_no_displacements(argon, relaxed_argon):
    found = alloy(argon, relaxed_argon, supercell=[1, 1, 1], exact_pairs=False)
    assert found.softest == np.inf
    assert (found.displacement == 0).all()
    assert any("from its own images, nearer than the cutoff of 6 A" in sentence for sentence in doubts(found))


def test_linear_molecules_keep_their_vibration(argon):
    """A molecule turns about two axes only where its atoms are on one line."""
    atoms = Atoms("Ar2", [[0, 0, 0], [1, 2, 3]])
    atoms.set_distance(0, 1, 3.8)
    system = aj.from_atoms(atoms, groups=[{"sites": [1], "species": ["Ar", "Kr"]}], weights=[0.5, 0.5])
    system = system._replace(structure=aj.relax(argon, system, **TIGHT).structure)
    found, energies = alloy(argon, system), []
    for weights in ([1.0, 0.0], [0.0, 1.0]):
        end = aj.relax(argon, system, weights, **TIGHT)
        energies.append(float(end.output.energy))
        distance = np.linalg.norm(np.subtract(*end.structure.positions))
        places = system.structure.positions + found.displacement[0, int(weights[1])]
        assert np.linalg.norm(np.subtract(*places)) == pytest.approx(distance, abs=0.01)
    assert np.isfinite(found.softest)
    assert random_energy(found) == pytest.approx(np.mean(energies), abs=1e-4)


def test_nearest_images_are_found_in_skew_supercells(pairs_alone):
    system, skew = mixed_argon(), np.array([[1, 0, 46], [0, 2, 31], [0, 0, 56]])
    found = alloy(pairs_alone, system, relaxed=False, supercell=skew)
    given, cell = interactions(found), skew @ system.structure.cell
    reduced = minkowski_reduce(cell)[0]
    around = np.array(list(np.ndindex(7, 7, 7))) - 3
    apart = given.cell @ system.structure.cell
    nearest = np.linalg.norm(apart[:, None] + (around @ reduced)[None], axis=-1).min(1)
    np.testing.assert_allclose(given.distance, nearest, atol=1e-9)
    np.testing.assert_allclose(given.energy.sum(0), pair_energies(found)[0, 1:, 0].sum(0), atol=1e-12)


def test_interactions_are_zero_on_average_over_either_site(argon_alloy):
    energy = pair_energies(argon_alloy)
    assert np.abs(energy).max() > 1e-5
    np.testing.assert_allclose(energy @ argon_alloy.weights[0], 0, atol=1e-12)


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_a_periodic_arrangement_has_the_same_energy_in_a_larger_box(argon_alloy):
    small_box, large_box = lattice_model(argon_alloy, (2, 2, 1)), lattice_model(argon_alloy, (4, 4, 3))
    states = np.array([0, 1, 1, 0]).reshape(2, 2, 1, 1)
    one, two = float(total_energy(small_box, states)), float(total_energy(large_box, np.tile(states, (2, 2, 3, 1))))
    assert two == pytest.approx(12 * one, abs=1e-10)
    assert abs(one - 4 * argon_alloy.energy) > 1e-4
    strain = box_strain(small_box, states)
    np.testing.assert_allclose(box_strain(large_box, np.tile(states, (2, 2, 3, 1))), strain, atol=1e-12)
    amounts = strain[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] * [1, 1, 1, 2, 2, 2]
    linear = small_box._replace(energy=np.zeros(()), strains=None)
    terms = [
        linear._replace(field=small_box.strains.field[..., k], pair=small_box.strains.pair[..., k]) for k in range(6)
    ]
    gained = np.array([float(total_energy(term, states)) for term in terms]) @ amounts / 2
    assert one - float(total_energy(small_box._replace(strains=None), states)) == pytest.approx(gained, abs=1e-10)
    assert gained < -1e-5
    assert not box_strain(small_box._replace(strains=None), states).any()


def test_short_range_order_of_all_pairs_has_the_energy_of_the_interactions():
    """P(k, l) = w_k w_l (1 - alpha) + alpha w_k [k = l], in the coupling `correlated` as in the Hamiltonian."""
    pairs_only = lennard_jones(krypton=(1.15, 1.0))
    system = mixed_argon(("Ar", "Kr"), (0.4, 0.6))
    found = alloy(pairs_only, system, relaxed=False, supercell=CUBE)
    apart = found.pair.copy()
    apart[0, 0] = 0  # a site and itself
    expected = np.einsum("k,ckk->", found.weights[0], apart[0, :, 0]) / 2
    out = aj.calculate(pairs_only, system._replace(coupling="correlated"), alpha=0.1)
    assert abs(expected) > 1e-4
    assert float(out.alpha_gradient) == pytest.approx(expected, rel=1e-9)
    mean = float(aj.calculate(pairs_only, system).energy)
    assert float(out.energy) == pytest.approx(mean + 0.1 * expected, rel=1e-12)


# --- wrong inputs -----------------------------------------------------------------------------------------------------


def test_wrong_inputs_get_a_sentence(argon, argon_alloy):
    with pytest.raises(ValueError, match="no site of this system is mixed"):
        alloy(argon, aj.from_atoms(bulk("Ar", "fcc", A)))
    with pytest.raises(ValueError, match="is pure: nothing can be ordered"):
        alloy(argon, mixed_argon(weights=(1, 0)))
    slab = bulk("Ar", "fcc", A, cubic=True) * (1, 1, 2)
    slab.center(vacuum=8.0, axis=2)
    slab = aj.from_atoms(slab, mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    slab = slab._replace(structure=aj.relax(argon, slab, [0.5, 0.5], force_tolerance=1e-6).structure)
    with pytest.raises(ValueError, match="if a direction is vacuum, make it non-periodic"):
        alloy(argon, slab, supercell=[2, 2, 1])
    with pytest.raises(ValueError, match="unstable at the mean composition"):
        alloy(argon, mixed_argon(a=6.6), supercell=CUBE)
    rigid = simple_cubic(0.1)
    with pytest.raises(ValueError, match="knows no displacements"):
        mean_square_displacements(rigid)
    with pytest.raises(ValueError, match="the spinodal needs strain"):
        spinodal(rigid)
    for wrong in (0, np.nan, np.inf):
        with pytest.raises(ValueError, match="must be positive; give one finite number"):
            short_range_order(rigid, wrong)
    for wrong in ([0, 0], [[[0, 0, 0]]], [0, 0, np.nan], [[0, 0, 0], [0]], "x", 0.5):
        with pytest.raises(ValueError, match="no wave vectors; give three finite numbers for each"):
            concentration_waves(rigid, wrong)
    with pytest.raises(ValueError, match="three positive whole numbers"):
        lattice_model(rigid, (0, 1, 1))
    with pytest.raises(ValueError, match="leave nothing to compare"):
        validate(argon, mixed_argon(), argon_alloy, random=0, ground_state=False)
    for wrong, sentence in (
        (np.zeros((2, 2, 2), int), r"shape \(2, 2, 2\); give"),
        (np.full((1, 1, 2, 1), 9), "from 0 to"),
    ):
        with pytest.raises(ValueError, match=sentence):
            validate(argon, mixed_argon(), argon_alloy, arrangements=[wrong])
