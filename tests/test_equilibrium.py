"""The relaxed state and its elastic constants: values against `relax`, derivatives against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pair_potential import A, lennard_jones

import alchemjax as aj
from alchemjax.tasks import equilibrium
from alchemjax.tasks.elasticity import moduli
from alchemjax.tasks.hessian import STRAINS

TIGHT = {"force_tolerance": 1e-9, "stress_tolerance": 1e-11, "max_steps": 5000}
WEIGHTS = np.concatenate([[0.97 * x, 0.97 * (1 - x)] for x in (0.9, 0.3, 0.5, 0.2)])
STEP = 1e-4


@pytest.fixture(scope="module")
def potential():
    """Krypton is larger, and everything feels more than pairs."""
    return lennard_jones(embedding=0.02, krypton=(1.15, 1.0))


@pytest.fixture(scope="module")
def argon():
    """Four sites of different composition in a cell without symmetry."""
    atoms = bulk("Ar", "fcc", 1.025 * A, cubic=True)
    atoms.rattle(0.05, seed=1)
    return aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, groups="site", weights=WEIGHTS)


def slopes(function, x, step=STEP):
    """Central differences by every component."""
    differences = [(function(x + step * d) - function(x - step * d)) / (2 * step) for d in np.eye(len(x))]
    return np.stack(differences, -1)


def numbers(state):
    """All that is to be differentiated, in one array."""
    return jnp.concatenate([state.positions.ravel(), state.cell.ravel(), state.energy[None]])


# --- the state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "free",
    [
        {"cell": True},
        {"cell": True, "pressure": 1e-3},
        {"cell": [1, 1, 0, 0, 0, 1], "fixed_sites": [2]},
        {"cell": False, "positions": True},
    ],
)
def test_state_is_that_of_relax(potential, argon, free):
    state, expected = aj.relaxed(potential, argon, **free), aj.relax(potential, argon, **free, **TIGHT)
    assert state.converged and expected.converged
    np.testing.assert_allclose(state.cell, expected.structure.cell, atol=1e-7)
    np.testing.assert_allclose(state.positions, expected.structure.positions, atol=1e-6)
    assert float(state.energy) == pytest.approx(float(expected.output.energy), abs=1e-10)
    np.testing.assert_allclose(state.stress, expected.output.stress, atol=1e-9)
    assert state.max_force < 1e-7 and state.max_stress < 1e-9
    assert np.abs(state.positions - argon.structure.positions).max() > 0.01


def test_sites_come_back_in_the_image_in_which_they_were_given(potential, argon):
    structure = argon.structure
    moved = structure._replace(positions=structure.positions + [[1], [0], [-2], [3]] @ structure.cell[:1])
    near, far = (aj.relaxed(potential, argon._replace(structure=s), cell=True) for s in (structure, moved))
    np.testing.assert_allclose(far.positions - near.positions, [[1], [0], [-2], [3]] @ near.cell[:1], atol=1e-7)


def test_a_state_that_is_not_at_rest_says_so_and_has_no_derivatives(potential, argon):
    volume = lambda w, system=argon, **options: jnp.linalg.det(
        aj.relaxed(potential, system, w, cell=True, **options).cell
    )
    weights = jnp.asarray(WEIGHTS)
    assert np.isfinite(jax.grad(volume)(weights)).all()
    assert not aj.relaxed(potential, argon, WEIGHTS, cell=True, max_steps=1).converged
    assert np.isnan(jax.grad(volume)(weights, max_steps=1)).all()
    wide = argon.structure._replace(positions=1.2 * argon.structure.positions, cell=1.2 * argon.structure.cell)
    far = argon._replace(structure=wide)
    assert aj.relax(potential, far, cell=True).converged and not aj.relaxed(potential, far, cell=True).converged
    assert np.isnan(jax.grad(volume)(weights, far)).all()


# --- derivatives ------------------------------------------------------------------------------------------------------


def test_slopes_by_composition_and_short_range_order_are_finite_differences(potential, argon):
    system = argon._replace(coupling="correlated")
    of = lambda x: numbers(aj.relaxed(potential, system, x[:-1], alpha=x[-1], cell=True))
    x = np.append(WEIGHTS, 0.1)
    expected = slopes(of, x)
    backwards, forwards = jax.jacrev(of)(jnp.asarray(x)), jax.jacfwd(of)(jnp.asarray(x))
    np.testing.assert_allclose(backwards, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(forwards, backwards, atol=1e-9)
    assert (np.abs(expected[:-1]).max(0) > 1e-4).all()


@pytest.mark.parametrize(
    "free",
    [{"cell": True, "fixed_sites": [0, 2]}, {"cell": True, "positions": False}, {"cell": False, "positions": False}],
)
def test_slopes_backwards_are_those_forwards_where_sites_are_fixed(potential, argon, free):
    """Forces on fixed sites are not zero, and those come backwards."""
    of = lambda w: numbers(aj.relaxed(potential, argon, w, **free))
    back, forwards = jax.jacrev(of)(WEIGHTS), jax.jacfwd(of)(WEIGHTS)
    assert np.abs(aj.relaxed(potential, argon, **free).forces).max() > 1e-3
    assert np.abs(forwards[-1]).max() > 1e-3
    np.testing.assert_allclose(back, forwards, atol=1e-7)
    np.testing.assert_allclose(back, slopes(of, WEIGHTS), atol=2e-5)


def test_second_derivatives_are_finite_differences_of_first_ones(potential, argon):
    of = lambda w: jnp.linalg.det(aj.relaxed(potential, argon, w, cell=True).cell)
    weights, slope = jnp.asarray(WEIGHTS), jax.grad(of)
    along = np.random.default_rng(0).normal(size=8)
    second = jax.jvp(slope, (weights,), (jnp.asarray(along),))[1]
    expected = (slope(weights + STEP * along) - slope(weights - STEP * along)) / (2 * STEP)
    np.testing.assert_allclose(second, expected, rtol=1e-5)
    assert np.abs(expected).max() > 0.1


def test_one_program_serves_all_compositions(potential, argon, monkeypatch):
    traced, slope = [], equilibrium._slope
    equilibrium._compiled.cache_clear()
    monkeypatch.setattr(equilibrium, "_slope", lambda *given: traced.append(1) or slope(*given))
    volume = lambda w: jnp.linalg.det(aj.relaxed(potential, argon, w, cell=True).cell)
    together = jax.jit(jax.vmap(jax.value_and_grad(volume)))
    batch = jnp.asarray(WEIGHTS * np.tile([[1, 1], [0.7, 1], [1, 0.6]], 4))
    values, gradients = together(batch)
    times = len(traced)
    together(0.99 * batch)
    assert 0 < times == len(traced)
    for one, value, gradient in zip(batch, values, gradients, strict=True):
        assert float(volume(one)) == pytest.approx(float(value), rel=1e-9)
        np.testing.assert_allclose(jax.grad(volume)(one), gradient, rtol=1e-6)
    assert np.ptp(values) > 0.1


def test_molecules_have_derivatives_of_their_shape_alone(potential):
    atoms = Atoms("Ar3", [[0, 0, 0], [3.7, 0.3, 0], [1.6, 3.2, 0.4]])
    system = aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, groups="site", weights=WEIGHTS[:6])
    places = lambda w: aj.relaxed(potential, system, w).positions
    sides = lambda w: jnp.linalg.norm(places(w) - jnp.roll(places(w), 1, axis=0), axis=1)
    weights = jnp.asarray(WEIGHTS[:6])
    np.testing.assert_allclose(jax.jacrev(sides)(weights), slopes(sides, WEIGHTS[:6]), rtol=1e-4, atol=1e-6)
    moved = jax.jacfwd(places)(weights)
    np.testing.assert_allclose(moved.sum(0), 0, atol=1e-9)  # no translation, and no rotation
    apart = np.asarray(places(weights)) - np.asarray(places(weights)).mean(0)
    np.testing.assert_allclose(np.cross(apart[..., None], moved, axis=1).sum(0), 0, atol=1e-8)
    assert np.abs(moved).max() > 1e-3


def test_random_alloys_relax_and_differentiate_with_their_own_energy(potential):
    system = aj.from_atoms(bulk("Ar", "hcp", 3.7, c=6.05), mix={"Ar": ("Ar", "Kr")}, weights=[0.6, 0.4])
    options = {"cell": True, "fluctuations": "site-exact", "supercell": [2, 2, 1]}
    expected = aj.relax(potential, system, **options, **TIGHT)
    state = aj.relaxed(potential, system, **options)
    np.testing.assert_allclose(state.cell, expected.structure.cell, atol=3e-7)
    c = lambda w: aj.relaxed(potential, system, jnp.stack([w[0], 0.98 - w[0]]), **options).cell[2, 2]
    x = np.array([0.6])
    assert jax.grad(c)(jnp.asarray(x))[0] == pytest.approx(slopes(c, x)[0], rel=1e-4)
    mean = aj.relaxed(potential, system, cell=True)
    assert abs(mean.cell[2, 2] - state.cell[2, 2]) > 3e-6


# --- elastic constants ------------------------------------------------------------------------------------------------


def hexagonal():
    """Two sites of different composition, which move when the cell is strained."""
    atoms = bulk("Ar", "hcp", 3.7, c=6.05)
    return aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, groups="site", weights=[0.8, 0.15, 0.3, 0.6])


@pytest.mark.parametrize("pressure", [0.0, 2e-3])
def test_elastic_constants_are_stresses_of_finite_strains(potential, pressure):
    system = hexagonal()
    found = aj.elasticity(potential, system, pressure=pressure)
    structure = system.structure._replace(positions=found.state.positions, cell=found.state.cell)
    assert found.state.converged
    voigt = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    relaxed, clamped = np.zeros((2, 6, 6))
    for k, strain in enumerate(STRAINS):
        stresses = []
        for sign in (1, -1):
            stretch = np.eye(3) + sign * STEP * strain
            there = structure._replace(positions=structure.positions @ stretch, cell=structure.cell @ stretch)
            there = system._replace(structure=there)
            outputs = aj.relax(potential, there, **TIGHT).output, aj.calculate(potential, there)
            stresses.append([[out.stress[ij] for ij in voigt] for out in outputs])
        relaxed[:, k], clamped[:, k] = np.subtract(*np.array(stresses)) / (2 * STEP)
    np.testing.assert_allclose(found.tensor, relaxed, atol=1e-5 * relaxed.max())
    np.testing.assert_allclose(found.clamped, clamped, atol=1e-5 * relaxed.max())
    assert np.abs(relaxed - clamped).max() > 0.01 * relaxed.max()


def test_bulk_modulus_has_its_slope_by_composition_and_is_that_of_the_volume(potential):
    system, weights = hexagonal(), np.array([0.8, 0.15, 0.3, 0.6])
    modulus = lambda w: aj.elasticity(potential, system, w).bulk_reuss
    np.testing.assert_allclose(jax.grad(modulus)(jnp.asarray(weights)), slopes(modulus, weights), rtol=1e-4)
    volumes = [np.linalg.det(aj.relaxed(potential, system, cell=True, pressure=p).cell) for p in (1e-5, -1e-5)]
    assert -2e-5 / np.log(volumes[0] / volumes[1]) == pytest.approx(float(modulus(weights)), rel=1e-4)


def test_moduli_of_an_isotropic_body_are_those_of_lame():
    bulk_modulus, shear = 1.3, 0.7
    lame = bulk_modulus - 2 * shear / 3
    tensor = np.diag([2 * shear] * 3 + [shear] * 3)
    tensor[:3, :3] += lame
    young, poisson = 9 * bulk_modulus * shear / (3 * bulk_modulus + shear), lame / (2 * (lame + shear))
    np.testing.assert_allclose(moduli(tensor), [*[bulk_modulus] * 3, *[shear] * 3, young, poisson], rtol=1e-12)


def test_elastic_constants_need_a_crystal(potential):
    slab = bulk("Ar", "fcc", A)
    slab.pbc = (True, True, False)
    with pytest.raises(ValueError, match="periodic in all three directions"):
        aj.elasticity(potential, aj.from_atoms(slab))
