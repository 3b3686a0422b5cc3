"""The host border of `calculate`: what it accepts, refuses and lets through to JAX's transformations."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from ase.build import bulk

import alchemjax as aj


@pytest.fixture(scope="module")
def potential(work):
    return aj.load(work / "model")


def salt(**options):
    return aj.from_atoms(bulk("NaCl", "rocksalt", a=5.7), mix={"Na": ("Na", "K")}, **options)


def test_gradient_and_batch_through_calculate_are_the_reported_ones(potential):
    system, w = salt(), jnp.array([0.7, 0.3], jnp.float32)
    out = aj.calculate(potential, system, w)
    energy = lambda w: aj.calculate(potential, system, w).energy
    np.testing.assert_allclose(jax.grad(energy)(w), out.weights_gradient, rtol=1e-5)
    as_dict = lambda x: aj.calculate(potential, system, {"Na": {"Na": 1 - x, "K": x}}).energy
    slope = out.weights_gradient[1] - out.weights_gradient[0]
    assert abs(slope) > 0.1
    np.testing.assert_allclose(jax.grad(as_dict)(jnp.float32(0.3)), slope, rtol=1e-4)
    np.testing.assert_allclose(jax.vmap(energy)(jnp.stack([w, w[::-1]]))[0], out.energy, rtol=1e-6)


def test_traced_arguments_are_checked_as_far_as_their_values_are_not_needed(potential):
    energy = lambda system, alpha=None: lambda w: aj.calculate(potential, system, w, alpha).energy
    for wrong in (jnp.ones(1), jnp.ones(3), jnp.ones((2, 2))):
        with pytest.raises(ValueError, match="this system takes 2 numbers"):
            jax.eval_shape(energy(salt()), wrong)
    with pytest.raises(ValueError, match="use coupling 'correlated'"):
        jax.eval_shape(energy(salt(coupling="paired"), 0.0), jnp.ones(2))
    with pytest.raises(ValueError, match="needs alpha"):
        jax.eval_shape(energy(salt(coupling="correlated")), jnp.ones(2))
    with pytest.raises(ValueError, match="makes a probability negative"):
        jax.eval_shape(energy(salt(coupling="correlated"), 1.5), jnp.ones(2))


def test_a_float64_potential_under_a_transformation_asks_for_the_64_bit_mode(potential):
    double = aj.load("sevennet-0", dtype="float64")
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        jax.eval_shape(lambda w: aj.calculate(double, salt(), w).energy, jnp.ones(2))


@pytest.mark.parametrize(
    ("weights", "alpha", "lowest"),
    [([0.5, 0.5], -1.0, -1.0), ([0.2, 0.8], -0.25, -0.25), ([0.45, 0.45], -1 / 9, -1 / 9), ([1.0, 0.0], 0.0, 0.0)],
)
def test_alpha_may_go_down_to_where_a_probability_vanishes(potential, weights, alpha, lowest):
    system = salt(coupling="correlated")
    assert np.isfinite(aj.calculate(potential, system, weights, alpha).energy)
    with pytest.raises(ValueError, match="makes a probability negative"):
        aj.calculate(potential, system, weights, lowest - 0.01)


def test_rounding_errors_of_the_weights_do_not_reach_the_energy(potential):
    system = salt(coupling="correlated")
    exact = aj.calculate(potential, system, [1, 0], 0.0)
    rounded = aj.calculate(potential, system, [1 + 1e-7, -1e-7], 0.0)
    assert exact.energy == rounded.energy


def test_a_rigid_shift_does_not_cost_precision(potential):
    atoms = bulk("NaCl", "rocksalt", a=5.7, cubic=True)
    here = aj.calculate(potential, aj.from_atoms(atoms))
    atoms.positions += [9876.5, -4321.0, 10000.25]
    there = aj.calculate(potential, aj.from_atoms(atoms))
    assert np.abs(there.forces).max() < 1e-4 and abs(here.energy - there.energy) < 1e-4


def test_one_group_takes_its_species_without_its_name(potential):
    system = salt()
    energy = lambda weights: aj.calculate(potential, system, weights).energy
    assert energy({"Na": 0.25, "K": 0.75}) == energy({"Na": {"Na": 0.25, "K": 0.75}}) != energy([0.75, 0.25])


@pytest.fixture
def unchecked():
    """As a user has it: without the checks of annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


WRONG = {
    "unknown species": (lambda p, s: aj.calculate(p, s, {"Xe": 1.0}), "holds .*'Na', 'K'.*; weights name .*'Xe'"),
    "flat dict": (lambda p, s: aj.calculate(p, two_groups(), {"Na": 1.0, "Cl": 1.0}), "give {species: weight}"),
    "complex": (lambda p, s: aj.calculate(p, s, [1j, 0]), r"weights are \[1j, 0\]; give real numbers"),
    "text": (lambda p, s: aj.calculate(p, s, ["0.5", "0.5"]), "give real numbers"),
    "ragged": (lambda p, s: aj.calculate(p, s, [[0.5], 0.5]), "give real numbers"),
    "swapped": (
        lambda p, s: aj.calculate(s, p),
        "System was given where a Potential is needed; make one with alchemjax.load",
    ),
    "name": (lambda p, s: aj.calculate("sevennet-0", s), "str was given where a Potential is needed"),
    "atoms": (
        lambda p, s: aj.relax(p, bulk("Fe")),
        "Atoms was given where a System is needed; make one with .*from_atoms",
    ),
    "swept atoms": (lambda p, s: aj.sweep(p, bulk("Fe"), [[1, 0]]), "Atoms was given where a System is needed"),
    "calculator": (lambda p, s: aj.Calculator("sevennet-0"), "str was given where a Potential is needed"),
    "calculator of atoms": (lambda p, s: aj.Calculator(p, bulk("Fe")), "Atoms was given where a System is needed"),
    "no model": (lambda p, s: aj.load(None), "None is neither a name nor a path"),
    "model 3": (lambda p, s: aj.load(3), "3 is neither a name nor a path"),
    "dtype": (lambda p, s: aj.load("sevennet-0", dtype=int), "dtype 'int64' is not supported"),
    "no dtype": (lambda p, s: aj.load("sevennet-0", dtype=None), "dtype 'None' is not supported"),
    "groups 3": (lambda p, s: aj.from_atoms(bulk("Fe"), groups=3), "groups 3 is unknown; allowed are 'shared'"),
    "no groups": (lambda p, s: aj.from_atoms(bulk("Fe"), groups=None), "groups None is unknown"),
    "no mix": (lambda p, s: aj.from_atoms(bulk("Fe"), mix={}), "mix is {}; give a dict like"),
    "truth": (lambda p, s: aj.from_atoms(bulk("Fe"), mix={False: ("Fe",)}), "mix entry False is not understood"),
    "pressure": (lambda p, s: aj.relax(p, s, cell=True, pressure="1"), "pressure = '1' must be a finite number"),
    "no cell": (lambda p, s: aj.relax(p, s, pressure=1.0), "pressure = 1.0 has no effect unless the cell is relaxed"),
    "steps": (lambda p, s: aj.relax(p, s, max_steps=1.5), "max_steps = 1.5 must be a whole number, at least 0"),
    "infinite": (lambda p, s: aj.relax(p, s, max_steps=np.inf), "max_steps = inf must be a whole number"),
    "tolerance": (
        lambda p, s: aj.relax(p, s, stress_tolerance=np.nan),
        "stress_tolerance = nan must be a positive number",
    ),
    "compositions": (lambda p, s: aj.sweep(p, s, None), "compositions = None is no list"),
    "batch": (lambda p, s: aj.sweep(p, s, [[1, 0]], batch=1.5), "batch = 1.5 must be a whole number, at least 1"),
    "option": (
        lambda p, s: aj.sweep(p, s, [[1, 0]], foo=1),
        r"sweep\(\) has no option 'foo'; there are alpha, pressure, cell",
    ),
}


def two_groups():
    return aj.from_atoms(bulk("NaCl", "rocksalt", a=5.7), mix={"Na": ("Na", "K"), "Cl": ("Cl", "F")})


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_gets_one_sentence(potential, unchecked, case):
    call, sentence = WRONG[case]
    with pytest.raises(TypeError if case == "option" else ValueError, match=sentence) as caught:
        call(potential, salt())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float64, np.dtype("f8"), float, jnp.float64, "double"])
def test_a_dtype_may_be_numpys(dtype):
    assert aj.load("sevennet-0", dtype=dtype).dtype == "float64"
