"""The energy of a random alloy: against sums over all arrangements, explicit substitutions and finite differences."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.geometry import minkowski_reduce
from conftest import assert_close, moved, random_structure, random_weights, slope, standard_sites, strained, varies
from pair_potential import lennard_jones

import alchemjax as aj
from alchemjax.calculate import derivatives, energy, topology_of, with_fluctuations
from alchemjax.system.sites import Group, make_sites
from alchemjax.system.structure import make_structure
from alchemjax.system.supercell import make_supercell as sites_of_supercell
from alchemjax.system.supercell import repeated, smallest_supercell
from alchemjax.system.symmetry import find_symmetry
from alchemjax.system.system import make_system

KINDS = ("site-exact", "site")
every_kind = pytest.mark.parametrize("kind", KINDS)
DOUBLED = np.diag([2, 2, 2])


@pytest.fixture(params=["small", pytest.param("small_mace", marks=pytest.mark.slow)])
def network(request):
    return request.getfixturevalue(request.param)


def rock_salt(species=("Na", "K"), a=4.3, *, cubic=False):
    return aj.from_atoms(bulk("NaCl", "rocksalt", a, cubic=cubic), mix={"Na": species})


def wurtzite(*, left_handed=False):
    atoms = bulk("MgO", "wurtzite", a=3.4, c=5.3, u=0.36)
    if left_handed:
        atoms.set_cell(atoms.cell[[1, 0, 2]])
        assert np.linalg.det(atoms.cell) < 0
    return aj.from_atoms(atoms, mix={"Mg": ("Mg", "Li"), "O": ("O", "Cl")})


def disordered(rng, **options):
    """No symmetry; two groups, three species on two sites, vacancies everywhere."""
    structure, sites = random_structure(rng, **options), standard_sites()
    return make_system(structure, sites, random_weights(sites, rng))


def evaluated(potential, system, kind="none", supercell=None, **options):
    return derivatives_of(potential, with_fluctuations(potential, system, kind, supercell, **options))


def derivatives_of(potential, system):
    arrays = system.structure.positions, system.structure.cell, system.weights, 0.0
    run = jax.jit(lambda *a: derivatives(potential.node_energies, potential.config, *a))
    out = run(potential.params, topology_of(potential, system), *map(jnp.asarray, arrays))
    return jax.tree.map(np.asarray, out)


# --- what it is -------------------------------------------------------------------------------------------------------


@every_kind
def test_energy_is_the_mean_over_all_arrangements_where_it_is_quadratic_in_every_site(kind):
    potential = lennard_jones(embedding=5.0)
    cell = np.diag([6.4, 6.9, 7.3]) + [[0, 0, 0], [0.7, 0, 0], [-0.5, 1.1, 0]]  # no site sees itself
    structure = make_structure([[0.1, 0, 0], [3.1, 0.8, 0.2], [0.4, 3.3, 0.1], [0, 0.6, 3.4]], cell, True)
    species = [("Ar", "Kr"), ("Kr",), ("Kr", "Ar"), ("Ar", "Kr")]
    sites = make_sites(["Ar"] * 4, tuple(Group(str(s), (s,), names) for s, names in enumerate(species)))
    system = make_system(structure, sites, [0.3, 0.5, 0.8, 0.45, 0.55, 0.0, 0.6])
    chances = [(0.3, 0.5, 0.2), (0.8, 0.2), (0.45, 0.55), (0.0, 0.6, 0.4)]
    ends = [np.eye(len(c))[:, : len(names)] for c, names in zip(chances, species, strict=True)]
    arrangements = list(product(*(range(len(c)) for c in chances)))
    weights = [np.concatenate([end[k] for end, k in zip(ends, ks, strict=True)]) for ks in arrangements]
    chance = [np.prod([c[k] for c, k in zip(chances, ks, strict=True)]) for ks in arrangements]
    mean = np.dot(chance, aj.sweep(potential, system, weights, relax="none").energy)
    found = aj.calculate(potential, system, fluctuations=kind, supercell=[1, 1, 1]).energy
    assert abs(mean - aj.calculate(potential, system).energy) > 1e-3
    assert found == pytest.approx(mean, abs=1e-12)


@every_kind
def test_a_molecule_needs_no_cell(kind):
    potential, places = lennard_jones(embedding=5.0), [[0.1, 0, 0], [3.1, 0.8, 0.2], [0.4, 3.3, 0.1]]
    sites = make_sites(["Ar"] * 3, (Group("a", (0, 1), ("Ar", "Kr")),))
    alone = make_system(make_structure(places), sites, [0.3, 0.6])
    boxed = make_system(make_structure(places, 30 * np.eye(3), True), sites, [0.3, 0.6])
    one, two = (aj.calculate(potential, system, fluctuations=kind) for system in (alone, boxed))
    assert one.energy == pytest.approx(float(two.energy), abs=1e-12)
    assert abs(one.energy - aj.calculate(potential, alone).energy) > 1e-4
    np.testing.assert_allclose(one.forces, two.forces, atol=1e-12)
    assert one.stress is None


def explicit(potential, system, weights):
    """Energies of the doubled cell: as function of the weights of its first mixed site, all others at the mean."""
    atoms = make_supercell(bulk("NaCl", "rocksalt", 4.3), DOUBLED)
    own = np.flatnonzero(atoms.numbers == 11)
    groups = [
        {"sites": part.tolist(), "species": ["Na", "K"], "name": str(k)} for k, part in enumerate((own[:1], own[1:]))
    ]
    large = aj.from_atoms(atoms, groups=groups, weights=np.tile(weights, 2))
    return lambda first: float(aj.calculate(potential, large, [*first, *weights]).energy)


def test_every_species_in_turn_is_the_explicit_substitution(network):
    system, weights = rock_salt(), np.array([0.5, 0.3])
    of = explicit(network, system, weights)
    changes = [of(end) - of(weights) for end in ([1, 0], [0, 1], [0, 0])]
    assert varies(*changes, by=1e-5)
    found = aj.calculate(network, system, weights, fluctuations="site-exact", supercell=[2, 2, 2]).energy
    expected = of(weights) / 8 + np.dot([0.5, 0.3, 0.2], changes)
    assert found == pytest.approx(expected, abs=1e-9)


def test_second_order_is_the_trace_of_covariance_and_hessian(network):
    system, weights = rock_salt(), np.array([0.5, 0.3])
    of, h = explicit(network, system, weights), 0.02

    def second(direction):
        f = lambda t: of(weights + t * h * np.array(direction))
        return (-f(2) + 16 * f(1) - 30 * f(0) + 16 * f(-1) - f(-2)) / (12 * h**2)

    one, other, both = second([1, 0]), second([0, 1]), second([1, 1])
    hessian = np.array([[one, (both - one - other) / 2], [(both - one - other) / 2, other]])
    covariance = np.diag(weights) - np.outer(weights, weights)
    term = np.trace(covariance @ hessian) / 2
    found = aj.calculate(network, system, weights, fluctuations="site", supercell=[2, 2, 2]).energy
    assert abs(term) > 1e-5
    assert found - of(weights) / 8 == pytest.approx(term, abs=1e-4 * abs(term) + 1e-8)


# --- identities -------------------------------------------------------------------------------------------------------


@every_kind
def test_pure_ends_have_no_correction(small, rng, kind):
    system = disordered(rng)._replace(weights=np.array([0, 1, 0, 1.0, 0]))
    assert_close(evaluated(small, system, kind, [1, 1, 1]), evaluated(small, system))
    mixed = system._replace(weights=np.array([0.3, 0.7, 0, 0.5, 0]))
    assert varies(evaluated(small, mixed, kind, [1, 1, 1]).energy, evaluated(small, mixed).energy, by=1e-5)


@every_kind
def test_order_of_species_and_a_species_of_weight_0_do_not_count(small, kind):
    one = aj.calculate(small, rock_salt(), [0.6, 0.3], fluctuations=kind, supercell=[2, 2, 2])
    two = aj.calculate(small, rock_salt(("K", "Na")), [0.3, 0.6], fluctuations=kind, supercell=[2, 2, 2])
    more = aj.calculate(small, rock_salt(("K", "Li", "Na")), [0.3, 0, 0.6], fluctuations=kind, supercell=[2, 2, 2])
    for other, order in ((two, [1, 0]), (more, [2, 0])):
        assert other.energy == pytest.approx(one.energy, abs=1e-10)
        np.testing.assert_allclose(other.stress, one.stress, atol=1e-10)
        np.testing.assert_allclose(other.weights_gradient[order], one.weights_gradient, atol=1e-9)


@pytest.mark.parametrize("kind, left_handed", [("site-exact", False), ("site", True)])
def test_equivalent_sites_are_represented_by_one(small, kind, left_handed):
    system = wurtzite(left_handed=left_handed)
    system = system._replace(weights=np.array([0.6, 0.3, 0.7, 0.3]))
    few = with_fluctuations(small, system, kind, [2, 2, 1])
    every = with_fluctuations(small, system, kind, [2, 2, 1], symmetric=False)
    assert len(few.fluctuations.variants.rotation) == 12
    assert len(set(every.fluctuations.variants.site)) == 2 * len(set(few.fluctuations.variants.site)) == 4
    one, two = derivatives_of(small, few), derivatives_of(small, every)
    assert abs(two.positions).max() > 1e-3
    assert_close(one, two, ("energy", "site_energies", "positions", "strain", "weights"), 1e-10)


@every_kind
def test_cells_of_one_crystal_agree_in_one_supercell(small, kind):
    conventional = rock_salt(cubic=True)._replace(weights=np.array([0.4, 0.6]))
    primitive = rock_salt()._replace(weights=np.array([0.4, 0.6]))
    cube = np.round(conventional.structure.cell @ np.linalg.inv(primitive.structure.cell)).astype(int)
    one = evaluated(small, conventional, kind, [1, 1, 1])
    two = evaluated(small, primitive, kind, cube)
    assert one.energy == pytest.approx(4 * two.energy, abs=1e-10)
    np.testing.assert_allclose(one.strain, 4 * two.strain, atol=1e-10)
    mean = evaluated(small, conventional)
    assert abs(one.energy - mean.energy) > 1e-4


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, left_handed", [("site-exact", False), ("site", True)])
def test_first_derivatives_are_finite_differences(network, rng, kind, left_handed):
    system = with_fluctuations(network, disordered(rng, left_handed=left_handed), kind, [1, 1, 1])
    structure, weights = system.structure, system.weights
    out = derivatives_of(network, system)
    topology = topology_of(network, system, skin=0.5)
    run = jax.jit(lambda *a: energy(network.node_energies, network.config, network.params, topology, *a)[0])
    of = lambda structure, weights: float(run(structure.positions, structure.cell, jnp.asarray(weights), jnp.zeros(())))
    for _ in range(2):
        step = rng.normal(size=structure.positions.shape)
        found = slope(lambda h, d=step: of(moved(structure, h * d), weights), h=5e-5)
        assert found == pytest.approx(np.sum(out.positions * step), abs=1e-6)
        step = rng.normal(size=(3, 3))
        step = step + step.T
        found = slope(lambda h, d=step: of(strained(structure, h * d), weights), h=5e-5)
        assert found == pytest.approx(np.sum(out.strain * step), abs=1e-6)
        step = rng.normal(size=len(weights))
        found = slope(lambda h, d=step: of(structure, weights + h * d), h=5e-5)
        assert found == pytest.approx(out.weights @ step, abs=1e-6)


@every_kind
def test_composition_gradient_goes_through_jit_vmap_and_grad(small, kind):
    system = rock_salt()
    path = np.array([[0.2, 0.8], [0.5, 0.4]])
    options = {"fluctuations": kind, "supercell": [2, 2, 2]}
    of = lambda w: aj.calculate(small, system, w, **options).energy
    both, slopes = jax.jit(jax.vmap(jax.value_and_grad(of)))(jnp.asarray(path))
    bent = jax.jacfwd(lambda w: aj.calculate(small, system, w, **options).weights_gradient)(jnp.asarray(path[1]))
    for weights, total, gradient in zip(path, both, slopes, strict=True):
        out = aj.calculate(small, system, weights, **options)
        assert total == pytest.approx(out.energy, abs=1e-10)
        np.testing.assert_allclose(gradient, out.weights_gradient, atol=1e-10)
    step = np.array([1.0, -1.0])
    gradients = lambda h: np.asarray(aj.calculate(small, system, path[1] + h * step, **options).weights_gradient)
    np.testing.assert_allclose(bent @ step, slope(gradients, 1e-3), atol=1e-6)


# --- every way to it --------------------------------------------------------------------------------------------------


@every_kind
def test_relaxation_sweep_and_calculator_have_the_energy_of_calculate(small, kind):
    system, options = wurtzite(), {"fluctuations": kind, "supercell": [1, 1, 1]}
    weights = [0.6, 0.4, 0.7, 0.3]
    relaxed = aj.relax(small, system, weights, cell=True, max_steps=4, **options)
    same = system._replace(structure=relaxed.structure)
    expected = aj.calculate(small, same, weights, **options)
    assert varies(expected.energy, aj.calculate(small, same, weights).energy, by=1e-5)
    table = aj.sweep(small, system, [weights], relax="cell", max_steps=4, **options)
    atoms = aj.to_atoms(same)
    atoms.calc = aj.Calculator(small, system, weights, **options)
    assert relaxed.output.energy == pytest.approx(expected.energy, abs=1e-9)
    assert table.energy[0] == pytest.approx(expected.energy, abs=1e-9)
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-9)
    np.testing.assert_allclose(relaxed.output.forces, expected.forces, atol=1e-9)
    np.testing.assert_allclose(table.stress[0], expected.stress, atol=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-9)
    atoms.rattle(0.05)
    bent = same._replace(structure=same.structure._replace(positions=atoms.positions))
    expected = aj.calculate(small, bent, weights, **options)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-9)
    points = aj.sweep(small, bent, [weights, weights], relax="none", **options)
    assert points.energy[1] == pytest.approx(expected.energy, abs=1e-9)


def test_what_may_leave_its_symmetry_is_relaxed_without(small):
    system, options = wurtzite(), {"fluctuations": "site-exact", "supercell": [1, 1, 1], "max_steps": 0}
    weights = [0.6, 0.4, 0.7, 0.3]
    free = aj.relax(small, system, weights, cell=True, **options)
    bound = aj.relax(small, system, weights, cell=(1, 0, 0, 0, 0, 0), fixed_sites=[0], **options)
    assert len(free.fluctuations.variants.rotation) == 12 and len(bound.fluctuations.variants.rotation) == 1
    assert bound.output.energy == pytest.approx(free.output.energy, abs=1e-9)


def test_float32_is_near_float64():
    system = aj.from_atoms(bulk("ArKr", "rocksalt", 7.6), mix={"Ar": ("Ar", "Kr")})
    potentials = [lennard_jones(dtype, embedding=5.0) for dtype in ("float32", "float64")]
    options = {"fluctuations": "site", "supercell": [2, 2, 2]}
    one, two = (aj.calculate(potential, system, [0.5, 0.5], **options) for potential in potentials)
    assert one.energy.dtype == np.float32
    assert one.energy == pytest.approx(two.energy, abs=1e-6)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"fluctuations": "all"}, "'all' is not understood; use none, site, site-exact"),
        ({"supercell": 10.0}, "no effect unless"),
        ({"fluctuations": "site", "supercell": -1.0}, "between 0 and 100 A"),
        ({"fluctuations": "site", "supercell": np.nan}, "between 0 and 100 A"),
        ({"fluctuations": "site", "supercell": [2, 2]}, "three or 3 x 3 whole numbers"),
        ({"fluctuations": "site", "supercell": [2.5, 2, 2]}, "three or 3 x 3 whole numbers"),
        ({"fluctuations": "site", "supercell": "big"}, "three or 3 x 3 whole numbers"),
        ({"fluctuations": "site", "supercell": [0, 1, 1]}, "spans no volume; give positive whole numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(small, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        aj.calculate(small, rock_salt(), [0.5, 0.5], **options)


def test_other_couplings_and_ordinary_atoms(small):
    paired = aj.from_atoms(bulk("NaCl", "rocksalt", 4.3), mix={"Na": ("Na", "K")}, coupling="paired")
    with pytest.raises(ValueError, match="coupling is 'paired'; use coupling 'independent'"):
        aj.calculate(small, paired, [0.5, 0.5], fluctuations="site")
    with pytest.raises(ValueError, match="fluctuations and supercell belong to a system"):
        aj.Calculator(small, fluctuations="site")
    plain = aj.from_atoms(bulk("NaCl", "rocksalt", 4.3))
    assert aj.calculate(small, plain, fluctuations="site").energy == aj.calculate(small, plain).energy


# --- supercells and symmetry ------------------------------------------------------------------------------------------


def shortest(cell):
    return np.linalg.norm(minkowski_reduce(cell)[0], axis=1).min()


def test_supercell_is_the_smallest_that_keeps_images_apart(rng):
    for distance in (3.0, 5.0, 7.5):
        structure = random_structure(rng)
        matrix = smallest_supercell(structure, distance, np.eye(3, dtype=int)[None])
        size = round(abs(np.linalg.det(matrix)))
        assert shortest(matrix @ structure.cell) >= distance - 1e-9
        for other in rng.integers(-3, 4, (1000, 3, 3)):
            if 0.5 < abs(np.linalg.det(other)) < size - 0.5:
                assert shortest(other @ structure.cell) < distance
        assert size > 1 or distance == 3.0


def test_supercell_has_the_rotations_of_the_crystal_where_it_costs_little():
    system = rock_salt(a=5.6)
    rotations = find_symmetry(system.structure, np.array([0, 1])).rotation
    matrix = smallest_supercell(system.structure, 10.0, rotations)
    turned = matrix @ rotations.transpose(0, 2, 1) @ np.linalg.inv(matrix)
    np.testing.assert_allclose(turned, np.round(turned), atol=1e-9)
    assert round(abs(np.linalg.det(matrix))) == 27
    free = smallest_supercell(system.structure, 10.0, rotations[:1])
    assert round(abs(np.linalg.det(free))) < 27


def test_a_slab_is_repeated_in_its_plane_only():
    cell = [[3.0, 0, 0], [0.5, 3.1, 0], [0.3, 0.2, 20]]
    structure = make_structure([[0, 0, 5], [1.4, 1.5, 6]], cell, [True, True, False])
    matrix = smallest_supercell(structure, 9.0, np.eye(3, dtype=int)[None])
    assert (matrix[2] == [0, 0, 1]).all() and (matrix[:, 2] == [0, 0, 1]).all()
    assert shortest((matrix @ cell) * [1, 1, 10]) >= 9.0


def test_sites_of_a_supercell_fill_it_once(rng):
    structure = random_structure(rng)
    matrix = np.array([[2, 1, 0], [-1, 2, 1], [0, 1, -2]])
    supercell = sites_of_supercell(matrix, 4)
    large = repeated(structure, supercell)
    size = round(abs(np.linalg.det(matrix)))
    assert size > 5 and len(large.positions) == 4 * size
    fractional = large.positions @ np.linalg.inv(large.cell)
    apart = fractional[:, None] - fractional[None]
    distance = np.linalg.norm((apart - np.round(apart)) @ large.cell, axis=-1)
    assert distance[~np.eye(len(distance), dtype=bool)].min() > 0.5
    assert (supercell.origin[:4] == np.arange(4)).all() and not supercell.shift[:4].any(), "the cell comes first"


@pytest.mark.parametrize("system, order", [(rock_salt(), 48), (rock_salt(cubic=True), 192), (wurtzite(), 12)])
def test_operations_take_sites_to_equivalent_ones(system, order):
    structure = system.structure
    kinds = np.array([{"Na": 0, "Cl": 1, "Mg": 2, "O": 3}[s] for s in aj.to_atoms(system).symbols])
    symmetry = find_symmetry(structure, kinds)
    assert len(symmetry.rotation) == order
    fractional = structure.positions @ np.linalg.inv(structure.cell)
    for rotation, translation, image in zip(*symmetry[:3], strict=True):
        away = fractional @ rotation.T + translation - fractional[image]
        np.testing.assert_allclose(away, np.round(away), atol=1e-6)
        assert (kinds[image] == kinds).all()
    assert len(set(symmetry.first)) == 2
    assert len(find_symmetry(structure, np.arange(len(kinds))).rotation) < order or order == 48


def test_without_three_periods_there_is_the_identity_alone(rng):
    structure = random_structure(rng)._replace(pbc=np.array([True, True, False]))
    assert len(find_symmetry(structure, np.zeros(4, int)).rotation) == 1


def test_vacancies_without_a_chance_count_by_their_energies_alone(small):
    """The quick way of calculate has the same numbers as the traced one, which is right to any order."""
    for weights in ([0.6, 0.4], [0.6, 0.3]):
        quick = aj.calculate(small, rock_salt(), weights, fluctuations="site-exact", supercell=[2, 2, 2])
        run = lambda w: aj.calculate(small, rock_salt(), w, fluctuations="site-exact", supercell=[2, 2, 2])
        traced = jax.jit(run)(jnp.array(weights))
        for name in ("energy", "site_energies", "forces", "stress", "weights_gradient"):
            np.testing.assert_allclose(getattr(quick, name), getattr(traced, name), atol=1e-10)
    bare = jax.grad(lambda w: run(w).energy)(jnp.array([0.6, 0.4]))
    np.testing.assert_allclose(bare, run(np.array([0.6, 0.4])).weights_gradient, atol=1e-10)
