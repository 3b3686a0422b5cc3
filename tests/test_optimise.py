"""Properties of relaxed materials, their slopes, and optimised compositions against grids."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ase import Atoms
from ase.build import bulk
from pair_potential import A, lennard_jones
from scipy.interpolate import make_interp_spline

import alchemjax as aj
from alchemjax.tasks.properties import PROPERTIES, facts_of, properties_of
from alchemjax.units import EV_PER_A3_IN_GPA


@pytest.fixture(scope="module")
def potential():
    """Krypton is larger, and everything feels more than pairs."""
    return lennard_jones(embedding=0.02, krypton=(1.15, 1.0))


@pytest.fixture(scope="module")
def argon():
    return aj.from_atoms(bulk("Ar", "fcc", 1.025 * A), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])


OPTIONS = {"cell": "hydrostatic"}
PLAIN = [name for name, one in PROPERTIES.items() if not one.elastic]


@pytest.mark.parametrize(("coupling", "alpha"), [("independent", None), ("correlated", 0.2), ("paired", None)])
def test_every_property_has_the_slope_of_finite_differences(potential, coupling, alpha):
    """Of a crystal without symmetry, by its composition."""
    atoms = bulk("Ar", "fcc", 1.01 * A)
    atoms.set_cell(atoms.cell.array @ [[1.02, 0.01, 0], [0.01, 0.99, 0.02], [0, 0.02, 1]], scale_atoms=True)
    system = aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[0.6, 0.4], coupling=coupling)
    free = {"cell": [1, 1, 0, 1, 0, 1], "fixed_axes": (), "positions": True}
    facts = facts_of(potential, system, PROPERTIES, alpha=alpha)
    plain = [name for name, one in PROPERTIES.items() if not one.elastic]
    elastic = [name for name, one in PROPERTIES.items() if one.elastic]

    def numbers(names, state, w):
        return jnp.stack(list(properties_of(facts, names, state(w)).values()))

    for names, state in (
        (plain, lambda w: aj.relaxed(potential, system, w, alpha=alpha, **free)),
        (elastic, lambda w: aj.elasticity(potential, system, w, alpha=alpha)),
    ):
        of = partial(numbers, names, state)
        weights, along, step = jnp.array([0.6, 0.4]), jnp.array([1.0, -1.0]), 1e-4
        found = jax.jvp(of, (weights,), (along,))[1]
        expected = (of(weights + step * along) - of(weights - step * along)) / (2 * step)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.1


def test_values_are_those_of_other_programs(potential, argon):
    found = aj.optimise(potential, argon, "a=1", evaluations=1, starts=1, properties=PLAIN, cell=True)
    relaxed = aj.relax(potential, argon, cell=True, force_tolerance=1e-6, stress_tolerance=1e-9)
    ends = [float(aj.relax(potential, argon, w, cell=True).output.energy) for w in np.eye(2)]
    atoms = aj.to_atoms(argon._replace(structure=relaxed.structure))
    stress = -relaxed.output.stress.trace() / 3 * EV_PER_A3_IN_GPA
    mass = 0.5 * 39.948 + 0.5 * 83.798
    expected = dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), atoms.cell.cellpar(), strict=True))
    expected |= {"volume": atoms.get_volume(), "density": mass * 1.66053906660 / atoms.get_volume()}
    energy = float(relaxed.output.energy)
    expected |= {"energy": energy, "mixing_energy": energy - sum(ends) / 2, "pressure": stress}
    for name, value in expected.items():
        assert found.values[name] == pytest.approx(value, abs=2e-6), name
    assert found.values["mixing_energy"] > 5e-4


@pytest.mark.parametrize("optimiser", ["projected", "mirror"])
def test_optima_are_those_of_a_grid(potential, argon, optimiser):
    rows = np.array([[1 - x, x] for x in np.linspace(0, 1, 11)])
    table = aj.sweep(potential, argon, rows, cell="hydrostatic", force_tolerance=1e-6, stress_tolerance=1e-9)
    lengths = np.linalg.norm(table.cell[:, 0], axis=1)
    wanted = float(np.interp(0.37, rows[:, 1], lengths))
    found = aj.optimise(potential, argon, {"a": wanted}, starts=3, optimiser=optimiser, **OPTIONS)
    spline = make_interp_spline(rows[:, 1], lengths)
    assert spline(found.weights[1]) == pytest.approx(wanted, abs=1e-4)
    assert found.reached and found.converged and len(found.path) < 15
    assert np.ptp(found.ends[:, 1]) < 2e-3  # whatever the start
    np.testing.assert_allclose(np.linalg.norm(found.structure.cell[0]), found.values["a"], rtol=1e-12)


def test_bounds_that_hold_at_the_start_are_hit(potential, argon):
    found = aj.optimise(potential, argon, {"volume": ">=1"}, starts=1, **OPTIONS)
    assert found.reached and found.converged and len(found.path) == 1 and "all targets are hit" in found.message


def test_what_cannot_be_reached_is_said_with_the_closest(potential, argon):
    conditions = ["Kr <= 0.8"]
    found = aj.optimise(potential, argon, {"a": 9.0}, starts=2, conditions=conditions, **OPTIONS)
    np.testing.assert_allclose(found.weights, [0.2, 0.8], atol=1e-6)
    assert found.reached is False and found.converged
    assert found.message.startswith("a = 9 A is not reached, the closest is 3.8")
    least = aj.optimise(potential, argon, {"density": "max"}, starts=2, conditions=conditions, **OPTIONS)
    np.testing.assert_allclose(least.weights, [0.2, 0.8], atol=1e-6)
    assert least.reached is None and least.converged


def test_states_far_from_the_given_structure_are_found(potential):
    """The list of neighbours is made again until it holds."""
    near, far = (
        aj.from_atoms(bulk("Ar", "fcc", stretch * A), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
        for stretch in (1.02, 1.16)
    )
    assert not aj.relaxed(potential, far, **OPTIONS).listed
    options = {"start": [0.5, 0.5], "starts": 1, "evaluations": 3, **OPTIONS}
    one, two = (aj.optimise(potential, system, {"a": 3.8}, **options) for system in (near, far))
    np.testing.assert_allclose(two.weights, one.weights, atol=1e-5)
    assert two.values["a"] == pytest.approx(one.values["a"], abs=1e-6)


def size_loss(state):
    return 1e6 * (jnp.linalg.norm(state.cell[0]) - 3.75) ** 2


@pytest.mark.parametrize(
    ("optimiser", "parameters"), [(optax.adam(0.1), "softmax"), (aj.exponentiated_gradient(2e-5, [2]), "weights")]
)
def test_optimisers_of_optax_and_functions_of_the_user(potential, argon, optimiser, parameters):
    options = {"start": [0.5, 0.5], "starts": 1, "evaluations": 100, "tolerance": 1e-3, **OPTIONS}
    expected = aj.optimise(potential, argon, size_loss, **options)
    found = aj.optimise(potential, argon, size_loss, optimiser=optimiser, parameters=parameters, **options)
    assert expected.loss < 0.01
    np.testing.assert_allclose(found.weights, expected.weights, atol=5e-3)
    assert found.reached is None and len(expected.path) < len(found.path) < 100


@pytest.mark.parametrize(
    ("optimiser", "parameters"), [(optax.adam(0.3), "softmax"), (aj.exponentiated_gradient(1e-4, [2]), "weights")]
)
def test_optimisers_of_optax_leave_pure_starts(potential, argon, optimiser, parameters):
    options = {"start": [1.0, 0.0], "starts": 1, "evaluations": 100, "tolerance": 1e-4, **OPTIONS}
    found = aj.optimise(potential, argon, {"a": 3.75}, optimiser=optimiser, parameters=parameters, **options)
    assert found.reached


def test_functions_of_the_user_may_change_what_they_look_at(potential, argon):
    wanted = [3.75]

    def loss(state):
        return 1e6 * (jnp.linalg.norm(state.cell[0]) - wanted[0]) ** 2

    for wanted[0] in (3.75, 3.80):
        found = aj.optimise(potential, argon, loss, start=[0.5, 0.5], starts=1, **OPTIONS)
        assert np.linalg.norm(found.structure.cell[0]) == pytest.approx(wanted[0], abs=1e-4)


def test_interrupted_searches_continue_as_they_would_have(potential, argon):
    kept = []

    def stop(number, evaluation, searches):
        assert number == len(kept)
        kept.append(evaluation)
        if len(kept) == 2:
            raise KeyboardInterrupt

    options = {"starts": 2, "properties": ["volume"], **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        aj.optimise(potential, argon, {"a": 3.75}, on_evaluation=stop, **options)
    whole = aj.optimise(potential, argon, {"a": 3.75}, **options)
    other = kept[1]._replace(weights=kept[1].weights[:, ::-1])  # of another search, or machine: it is done again
    for recorded, known in ((kept[:2], 2), ([kept[0], other], 1)):
        new = []
        told = lambda number, *others, new=new: new.append(number)
        again = aj.optimise(potential, argon, {"a": 3.75}, recorded=recorded, on_evaluation=told, **options)
        assert new == list(range(known, len(whole.path))) and len(new) > 0
        for one, two in zip(again.path, whole.path, strict=True):
            for a, b in zip(one, two, strict=True):
                np.testing.assert_array_equal(a, b)


def test_searches_start_where_they_are_told_to(potential, argon):
    options = {"evaluations": 1, **OPTIONS}
    first = lambda **given: aj.optimise(potential, argon, {"a": 3.75}, **given, **options).path[0].weights
    named = [{"Ar": 0.3, "Kr": 0.7}, {"Ar": 0.9, "Kr": 0.1}]
    np.testing.assert_allclose(first(start=named), [[0.3, 0.7], [0.9, 0.1]], atol=1e-9)
    three = first(start=named[0], starts=3)
    np.testing.assert_allclose(three[0], [0.3, 0.7], atol=1e-9)
    assert len(three) == 3 and np.abs(three[1:] - three[0]).max(1).min() > 1e-3


@pytest.mark.parametrize("optimiser", ["projected", "mirror"])
def test_vacancies_that_are_named_are_optimised_too(potential, optimiser):
    system = aj.from_atoms(bulk("Ar", "fcc", 1.025 * A), mix={"Ar": ("Ar", "Kr")}, weights=[0.6, 0.4])
    options = {"conditions": ["vacancy <= 0.2", "Kr = 0.4"], "starts": 1, "optimiser": optimiser, **OPTIONS}
    density = aj.optimise(potential, system, {"density": 1.0}, evaluations=1, **options).values["density"]
    found = aj.optimise(potential, system, {"density": 0.95 * density}, **options)
    assert found.reached and found.weights[1] == pytest.approx(0.4, abs=1e-6)
    assert 0.8 <= found.weights.sum() < 0.99
    lowest = aj.optimise(potential, system, {"density": "min"}, **options)
    np.testing.assert_allclose(lowest.weights, [0.4, 0.4], atol=1e-3)


def test_groups_keep_their_own_sums_and_share_a_target(potential):
    """Sites of one crystal in two groups; the energy decides between compositions of one size."""
    groups = [{"sites": [0], "species": ["Ar", "Kr"], "name": "one"}, {"sites": [1, 2, 3], "species": ["Kr", "Ar"]}]
    system = aj.from_atoms(bulk("Ar", "fcc", 1.025 * A, cubic=True), groups=groups, weights=[0.5, 0.4, 0.3, 0.7])
    found = aj.optimise(potential, system, {"a": 5.35}, starts=2, conditions=["one:Kr <= 0.3"], **OPTIONS)
    assert found.reached
    for weights in found.ends:
        np.testing.assert_allclose([weights[:2].sum(), weights[2:].sum()], [0.9, 1.0], atol=1e-9)
        assert weights[1] < 0.3 + 1e-9
    relaxed = aj.relax(potential, system, found.weights, force_tolerance=1e-6, stress_tolerance=1e-9, **OPTIONS)
    assert np.linalg.norm(relaxed.structure.cell[0]) == pytest.approx(found.values["a"], abs=1e-6)


def test_random_alloys_are_aimed_at_with_their_own_energy(potential, argon):
    options = {"fluctuations": "site-exact", "supercell": [2, 2, 2], **OPTIONS}
    found = aj.optimise(potential, argon, {"a": 3.75}, starts=1, **options)
    relaxed = aj.relax(potential, argon, found.weights, force_tolerance=1e-6, stress_tolerance=1e-9, **options)
    assert found.reached and found.energy == pytest.approx(float(relaxed.output.energy), abs=1e-6)
    assert found.energy != pytest.approx(float(aj.relax(potential, argon, found.weights, **OPTIONS).output.energy))


def test_molecules_have_energies_to_aim_at(potential):
    atoms = Atoms("Ar3", [[0, 0, 0], [3.8, 0, 0], [1.9, 3.3, 0]])
    system = aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    found = aj.optimise(potential, system, "energy=min", starts=1, cell=False)
    np.testing.assert_allclose(found.weights, [0, 1], atol=1e-6)
    with pytest.raises(ValueError, match="need a cell with a volume"):
        aj.optimise(potential, system, "density=1", starts=1, cell=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "mixing_energy=min", "conditions": "vacancy<=0.3"}, "a mixing energy needs full sites"),
        ({"conditions": "vacancy<=0.3", "optimiser": optax.adam(0.1)}, "logits keep the sums"),
        ({"optimiser": "newton"}, "optimiser = 'newton' is not understood"),
        ({"parameters": "z", "optimiser": optax.adam(0.1)}, "parameters = 'z' is not understood"),
        ({"starts": 0}, "starts = 0 must be a whole number, at least 1"),
        ({"start": []}, "start holds no composition"),
        ({"start": [[0.5, 0.5]] * 3, "starts": 2}, "starts = 2, but start has 3 compositions"),
        ({"start": [0.7, 0.7]}, "may sum to at most 1"),
        ({"evaluations": 0}, "evaluations = 0 must be"),
        ({"tolerance": 0.0}, "tolerance = 0.0 must be"),
        ({"properties": ["hardness"]}, "'hardness' is no property"),
        ({"target": {"c11": 3}, "cell": "hydrostatic"}, "relaxed in positions and cell"),
        ({"conditions": ["Kr >= 2"]}, "no composition fulfils"),
        ({"max_steps": 0}, "no start has a relaxed state"),
    ],
)
def test_wrong_options_are_refused(potential, argon, options, message):
    with pytest.raises(ValueError, match=message):
        aj.optimise(potential, argon, **({"target": {"a": 3.75}, "cell": True} | options))


def test_slabs_have_no_elastic_constants(potential):
    slab = bulk("Ar", "fcc", A, cubic=True)
    slab.pbc = (True, True, False)
    system = aj.from_atoms(slab, mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    with pytest.raises(ValueError, match="periodic in all three directions"):
        aj.optimise(potential, system, {"c11": 3})


def test_ordinary_crystals_have_no_composition_to_optimise(potential):
    with pytest.raises(ValueError, match="no site is mixed"):
        aj.optimise(potential, aj.from_atoms(bulk("Ar", "fcc", A)), {"a": 3.7})
