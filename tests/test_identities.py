"""Identities that every coupling must satisfy, on small networks with random parameters, in float64.

`tiny` and `tiny_modal` share one layout of sites and arrays with head room (conftest), so that each is compiled once
per coupling.
"""

from dataclasses import replace
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    COUPLINGS,
    CUTOFF,
    PUBLISHED,
    SPECIES,
    assert_close,
    evaluate,
    moved,
    random_structure,
    random_weights,
    slope,
    standard_sites,
    strained,
    topology,
    varies,
)
from jax import jit

from alchemjax.calculate import batch_derivatives, calculate, derivatives, topology_of
from alchemjax.calculate import energy as total_energy
from alchemjax.model import convolution, nequix, sevennet
from alchemjax.system.sites import Group, make_sites, num_weights
from alchemjax.system.structure import make_structure
from alchemjax.system.system import make_system
from alchemjax.system.topology import best_shape, block_shapes, rows_at_once

EVERY_FAMILY = ["tiny_modal", "natural", "tiny_mace", "tiny_mace_pairs"]
EVERY_COUPLING = [*COUPLINGS, PUBLISHED]


@pytest.fixture(params=[*EVERY_FAMILY, pytest.param("tiny", marks=pytest.mark.slow)])
def network(request):
    return request.getfixturevalue(request.param)


def combined(couplings, general, names=("network", "coupling", "alpha")):
    """All couplings with one network of either kind of graph, one coupling with the others: their codes are apart."""
    rows = [(name, *c) for name in ("tiny_modal", "tiny_mace_pairs") for c in couplings]
    rows += [(name, *c) for name in ("natural", "tiny_mace", "tiny") for c in general]
    return pytest.mark.parametrize(names, rows, indirect=["network"])


every_combination = combined(EVERY_COUPLING, [COUPLINGS[2]])


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(params=["small", *slow("small_mace")])
def quick(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["tiny_modal", *slow(*EVERY_FAMILY[1:])])
def family(request):
    """As `network`, for layouts of sites of their own, which are compiled for themselves."""
    return request.getfixturevalue(request.param)


# --- pure ends --------------------------------------------------------------------------------------------------------


@every_combination
def test_one_hot_weights_give_the_ordinary_structure(network, rng, coupling, alpha):
    structure, sites = random_structure(rng), standard_sites()
    a, b = sites.groups
    if coupling == "published":  # wrong where groups are neighbours
        b = b._replace(species=("Cl",))
        sites = make_sites(["Na", "Na", "Cl", "O"], (a,))
    energies = []
    for i, j in product(range(3), range(len(b.species))):
        weights = (np.eye(3)[i].tolist() + np.eye(2)[j].tolist())[: num_weights(sites)]
        mixed = evaluate(network, structure, sites, coupling, weights, alpha)
        symbols = [a.species[i], a.species[i], b.species[j], "O"]
        plain = evaluate(network, structure, make_sites(symbols), "independent", [])
        assert_close(mixed, plain)
        energies.append(plain.energy)
    assert varies(*energies, by=1e-2)


@every_combination
def test_energy_is_continuous_where_weights_become_one_hot(network, rng, coupling, alpha):
    structure, sites = random_structure(rng), standard_sites()
    end, inside = np.array([0, 1, 0, 1, 0.0]), random_weights(sites, rng)
    energy = lambda x: float(evaluate(network, structure, sites, coupling, (1 - x) * end + x * inside, alpha).energy)
    assert abs(energy(0.5) - energy(0)) > 0.01
    for x in (1e-3, 1e-5, 1e-7):
        assert 1e-2 * x < abs(energy(x) - energy(0)) < 300 * x


@pytest.mark.parametrize("coupling", ["independent", "paired"])
def test_sites_of_their_own_groups_give_every_ordering(family, rng, coupling):
    structure = random_structure(rng)
    groups = tuple(Group(str(s), (s,), ("Na", "K")) for s in range(4))
    sites = make_sites(["Na"] * 4, groups)
    energies = []
    for ordering in ([0, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0]):
        weights = np.eye(2)[ordering].ravel()
        mixed, _ = evaluate(family, structure, sites, coupling, weights, only_energy=True)
        plain = evaluate(family, structure, make_sites([("Na", "K")[k] for k in ordering]), "independent", [])
        assert mixed == pytest.approx(plain.energy, abs=1e-9)
        energies.append(mixed)
    assert varies(*energies)


def test_one_group_for_many_sites_is_one_group_per_site_with_equal_weights(family, rng):
    structure, shared = random_structure(rng), standard_sites()
    a, b = shared.groups
    own = make_sites(["Na", "Na", "Cl", "O"], (a._replace(sites=(0,)), a._replace(name="c", sites=(1,)), b))
    weights = random_weights(shared, rng)
    one = evaluate(family, structure, shared, "independent", weights)
    two = evaluate(family, structure, own, "independent", [*weights[:3], *weights])
    assert_close(one, two)
    np.testing.assert_allclose(one.weights[:3], two.weights[:3] + two.weights[3:6], atol=1e-9)
    assert varies(*two.weights)


# --- nodes that make no difference ------------------------------------------------------------------------------------


@every_combination
def test_a_node_of_weight_0_and_a_site_of_weight_0_are_not_there(network, rng, coupling, alpha):
    structure, full = random_structure(rng), standard_sites()
    weights = np.array([0.5, 0.3, 0, 0, 0])  # no Li, and nothing on site 2
    with_all = evaluate(network, structure, full, coupling, weights, alpha)
    filled = evaluate(network, structure, full, coupling, [0.5, 0.3, 0.1, 0.4, 0.3], alpha)
    assert varies(with_all.energy, filled.energy)
    if coupling != "published":  # there site 2 sees no site of the other group
        assert abs(filled.positions[2]).max() > 1e-4
    less = make_sites(["Na", "Na", "O"], (full.groups[0]._replace(species=("Na", "K")),))
    removed = structure._replace(positions=structure.positions[[0, 1, 3]])
    energy, energies = evaluate(network, removed, less, coupling, [0.5, 0.3], alpha, only_energy=True)
    assert energy == pytest.approx(with_all.energy, abs=1e-9)
    np.testing.assert_allclose(with_all.site_energies, np.insert(energies, 2, 0), atol=1e-9)
    assert not with_all.positions[2].any()


@every_combination
def test_splitting_a_species_over_two_nodes_changes_nothing(network, rng, coupling, alpha):
    structure, whole = random_structure(rng), standard_sites()
    a, b = whole.groups
    split = whole._replace(  # make_sites refuses a species that is listed twice
        groups=(a._replace(species=("Na", "Na", "Li")), b._replace(species=("Cl", "Cl"))),
        node_species=("Na", "Na", "Li") * 2 + ("Cl", "Cl", "O"),
    )
    parts, sums = [0.2, 0.35, 0.3, 0.15, 0.6], [0.55, 0, 0.3, 0.75, 0]
    one = evaluate(network, structure, split, coupling, parts, alpha)
    two = evaluate(network, structure, whole, coupling, sums, alpha)
    assert_close(one, two)
    other = evaluate(network, structure, whole, coupling, parts, alpha)
    assert varies(one.energy, other.energy)
    if coupling == "independent":
        np.testing.assert_allclose(one.weights, two.weights[[0, 0, 2, 3, 3]], atol=1e-9)


# --- couplings among each other ---------------------------------------------------------------------------------------


def test_correlated_runs_from_independent_at_0_to_paired_at_1(network, rng):
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    names = ("energy", "site_energies", "positions", "strain", "weights")
    correlated = [evaluate(network, structure, sites, "correlated", weights, x) for x in (0.0, 0.5, 1.0)]
    assert varies(*(out.energy for out in correlated), by=1e-5)
    assert_close(correlated[0], evaluate(network, structure, sites, "independent", weights), names)
    assert_close(correlated[2], evaluate(network, structure, sites, "paired", weights), names)


def test_if_all_sites_are_one_paired_group_the_energy_is_the_weighted_sum_of_pure_crystals(family, rng):
    structure = random_structure(rng)
    sites = make_sites(["Na"] * 4, (Group("all", (0, 1, 2, 3), ("Na", "Cl")),))
    pure = [float(evaluate(family, structure, make_sites([s] * 4), "independent", []).energy) for s in ("Na", "Cl")]
    assert varies(*pure)
    for coupling, weights in product(("paired", "published"), ([1, 0], [0, 1], [0.3, 0.7], [0.2, 0.1])):
        energy, _ = evaluate(family, structure, sites, coupling, weights, only_energy=True)
        assert energy == pytest.approx(np.dot(weights, pure), abs=1e-9)
    ends = np.array([[0.9, 0, 0.1, 0.2, 0.8], [0.1, 0.8, 0.1, 0.9, 0.1]])
    path = [ends[0], ends.mean(0), ends[1]]
    bend = [evaluate(family, structure, standard_sites(), "independent", w).energy for w in path]
    assert abs(bend[0] - 2 * bend[1] + bend[2]) > 1e-3, "otherwise the energy is not linear"


@combined([*EVERY_COUPLING, ("correlated", -0.2)], [COUPLINGS[2]])
@pytest.mark.parametrize("left_handed", [False, True])
def test_mixing_before_convolving_is_the_sum_over_all_pairs_of_nodes(network, rng, coupling, alpha, left_handed):
    structure, sites = random_structure(rng, left_handed=left_handed), standard_sites()
    weights = random_weights(sites, rng)
    assert (topology(network, structure, sites, coupling).blocks[-1].shift != 0).any()
    if network.config.per_node:
        pytest.skip("this network sees pairs of nodes only")
    mixed = evaluate(network, structure, sites, coupling, weights, alpha)
    pairwise = evaluate(network, structure, sites, coupling, weights, alpha, per_node=True)
    names = ("energy", "site_energies", "positions", "strain", "weights")
    if coupling in ("independent", "correlated"):  # the others have no alpha to derive by
        names += ("alpha",)
    assert_close(mixed, pairwise, names)
    other = evaluate(network, structure, sites, coupling, weights[[1, 0, 2, 4, 3]], alpha)
    assert varies(mixed.energy, other.energy)


def test_the_config_says_whether_the_graph_is_between_sites_or_between_nodes(
    tiny_modal, natural, tiny_mace, tiny_mace_pairs
):
    structure, sites = (
        make_structure(np.diag([0, 2.0, 2.0])[:2]),
        make_sites(["Na", "O"], (Group("a", (0,), ("Na", "K")),)),
    )
    for potential in (tiny_modal, natural, tiny_mace, tiny_mace_pairs):
        blocks = topology_of(potential, make_system(structure, sites, [0.4, 0.6])).blocks
        assert [block.weight is not None for block in blocks] == [potential is tiny_mace_pairs]
        assert blocks[0].used.sum() == (4 if potential is tiny_mace_pairs else 2)


# --- symmetries of space ----------------------------------------------------------------------------------------------


@every_combination
def test_numbering_the_sites_differently_permutes_the_forces(network, rng, coupling, alpha):
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    one = evaluate(network, structure, sites, coupling, weights, alpha)
    order = np.array([2, 3, 1, 0])  # site k of the new numbering is site order[k] of the old one
    groups = tuple(g._replace(sites=tuple(np.flatnonzero(np.isin(order, g.sites)).tolist())) for g in sites.groups)
    again = make_sites(np.array(["Na", "Na", "Cl", "O"])[order], groups)
    two = evaluate(network, structure._replace(positions=structure.positions[order]), again, coupling, weights, alpha)
    assert_close(one, two, ("energy", "strain", "weights", "alpha"))
    np.testing.assert_allclose(one.positions[order], two.positions, atol=1e-9)
    np.testing.assert_allclose(one.site_energies[order], two.site_energies, atol=1e-9)
    exchanged = structure._replace(positions=structure.positions[order])
    assert varies(one.energy, evaluate(network, exchanged, sites, coupling, weights, alpha).energy)


def random_rotation(rng):
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return q * np.linalg.det(q)


def rotated(structure, rotation):
    return structure._replace(positions=structure.positions @ rotation, cell=structure.cell @ rotation)


@every_combination
def test_rotation_turns_forces_and_stress_and_leaves_the_energy(network, rng, coupling, alpha):
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    one = evaluate(network, structure, sites, coupling, weights, alpha)
    turn = random_rotation(rng)
    two = evaluate(network, rotated(structure, turn), sites, coupling, weights, alpha)
    assert_close(one, two, ("energy", "site_energies", "weights", "alpha"))
    np.testing.assert_allclose(one.positions @ turn, two.positions, atol=1e-9)
    np.testing.assert_allclose(turn.T @ one.strain @ turn, two.strain, atol=1e-9)
    assert abs(one.positions - two.positions).max() > 1e-2 and abs(one.strain - two.strain).max() > 1e-2
    mirrored = evaluate(network, rotated(structure, -turn), sites, coupling, weights, alpha)
    if not isinstance(network.config, sevennet.Config):
        assert_close(one, mirrored, ("energy", "site_energies", "weights", "alpha"))
    elif len(network.config.multiplicities) > 3:  # fewer: no odd path
        assert varies(one.energy, mirrored.energy, by=1e-6), "SevenNet is not symmetric under reflection"


def test_rotation_leaves_the_energy_with_l_up_to_3(tiny_l3, rng):
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    energy = lambda s: float(evaluate(tiny_l3, s, sites, "independent", weights, only_energy=True)[0])
    turn = random_rotation(rng)
    assert energy(rotated(structure, turn)) == pytest.approx(energy(structure), abs=1e-9)
    assert varies(
        energy(structure), energy(rotated(structure, -turn)), energy(strained(structure, 0.1 * turn)), by=1e-5
    )


@every_combination
def test_translation_and_other_images_of_sites_change_nothing(network, rng, coupling, alpha):
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    names = ("energy", "site_energies", "positions", "strain", "weights", "alpha")
    one = evaluate(network, structure, sites, coupling, weights, alpha)
    assert_close(one, evaluate(network, moved(structure, [0.7, -11.3, 5.1]), sites, coupling, weights, alpha), names)
    images = rng.integers(-3, 4, (4, 3)) @ structure.cell
    assert_close(one, evaluate(network, moved(structure, images), sites, coupling, weights, alpha), names)
    one_site = np.array([[0.02, 0.03, -0.01], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert varies(
        one.energy, evaluate(network, moved(structure, one_site), sites, coupling, weights, alpha).energy, by=1e-5
    )


@every_combination
def test_energy_of_a_supercell_is_that_of_its_cells(network, rng, coupling, alpha):
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    one = evaluate(network, structure, sites, coupling, weights, alpha)
    groups = tuple(g._replace(sites=(*g.sites, *(s + 4 for s in g.sites))) for g in sites.groups)
    shapes = [(64, 4), (48, 4)][: 1 if coupling == "independent" else 2]
    shapes = [(192, 4)] if network.config.per_node else shapes
    twice = make_sites(["Na", "Na", "Cl", "O"] * 2, groups)
    for axis in range(3):
        cell = structure.cell.copy()
        cell[axis] *= 2
        positions = np.concatenate([structure.positions, structure.positions + structure.cell[axis]])
        double = make_structure(positions, cell, True)
        energy, energies = evaluate(network, double, twice, coupling, weights, alpha, only_energy=True, shapes=shapes)
        assert energy == pytest.approx(2 * one.energy, abs=1e-9)
        np.testing.assert_allclose(energies, np.tile(one.site_energies, 2), atol=1e-9)
    assert varies(*one.site_energies, by=1e-5)


def order_at_cutoff(network):
    """Power with which messages vanish; number and distance [A] of points that show it; what counts as nought there."""
    if isinstance(network.config, nequix.Config):  # its Bessel functions vanish, too
        return 4, 7, 4e-3, 5e-2
    return (2 if getattr(network.config, "cutoff_function", None) == ("xplor", 2.6) else 3), 5, 1e-3, 1e-2


@every_combination
@pytest.mark.parametrize("traveller", [1, 3])
def test_energy_vanishes_smoothly_with_the_cutoff_function_when_a_site_leaves(network, rng, coupling, alpha, traveller):
    sites = standard_sites()
    weights = random_weights(sites, rng)
    places = np.array([[0, 0, 0], [-1.6, 0.3, 0], [-0.4, 1.9, 0.2]])
    direction = np.array([0.96, 0.0, -0.28])

    def at(distance):
        positions = np.insert(places[[0, 1, 2]], traveller, distance * direction, axis=0)
        return evaluate(network, make_structure(positions), sites, coupling, weights, alpha)

    outside = at(CUTOFF + 1e-3)
    assert_close(outside, at(CUTOFF + 0.5))
    assert abs(outside.positions[traveller]).max() == 0
    assert abs(at(CUTOFF - 0.3).energy - outside.energy) > 1e-5
    order, points, step, nought = order_at_cutoff(network)
    inside = [at(CUTOFF - k * step) for k in range(1, points + 1)]
    gain = [float(out.energy - outside.energy) for out in inside]
    pull = [float(out.positions[traveller] @ direction) for out in inside]
    for values, lowest in ((gain, order), (pull, order - 1)):  # sum_k c_k h^k through the points, in units of h
        coefficients = np.linalg.solve(np.vander(range(1, points + 1), increasing=True), values)
        assert abs(coefficients[:lowest]).max() < nought * abs(coefficients[lowest:]).max()


def test_pairs_listed_beyond_the_cutoff_change_nothing(network, rng):
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    more = [topology(network, structure, sites, "correlated", skin=s).blocks[0].used.sum() for s in (0.0, 0.5)]
    assert more[0] < more[1]
    outs = [evaluate(network, structure, sites, "correlated", weights, 0.2, skin=skin) for skin in (0.0, 0.5)]
    assert_close(*outs, ("energy", "site_energies", "positions", "strain", "weights", "alpha"))


# --- derivatives ------------------------------------------------------------------------------------------------------


@combined(
    [(*c, hand) for c in (COUPLINGS[0], COUPLINGS[2]) for hand in (False, True)]
    + [(*COUPLINGS[1], False), (*PUBLISHED, True)],
    [(*COUPLINGS[2], hand) for hand in (False, True)],
    ("network", "coupling", "alpha", "left_handed"),
)
def test_first_derivatives_are_finite_differences(network, rng, coupling, alpha, left_handed):
    structure, sites = random_structure(rng, left_handed=left_handed), standard_sites()
    assert (np.linalg.det(structure.cell) < 0) == left_handed
    weights = random_weights(sites, rng)

    def energy(structure=structure, weights=weights, alpha=alpha):
        return float(evaluate(network, structure, sites, coupling, weights, alpha).energy)

    out = evaluate(network, structure, sites, coupling, weights, alpha)
    close = partial(np.testing.assert_allclose, rtol=0, atol=2e-7)
    close(out.weights, [slope(lambda h, e=e: energy(weights=weights + h * e)) for e in np.eye(5)])
    units = np.eye(12).reshape(12, 4, 3)
    close(out.positions.ravel(), [slope(lambda h, e=e: energy(moved(structure, h * e))) for e in units])
    units = [(np.outer(a, b) + np.outer(b, a)) / 2 for a, b in product(np.eye(3), repeat=2)]
    close(out.strain.ravel(), [slope(lambda h, e=e: energy(strained(structure, h * e))) for e in units])
    assert varies(*out.weights) and abs(out.positions).min() > 1e-5 and abs(out.strain).min() > 1e-5
    if coupling == "correlated":
        close(out.alpha, slope(lambda h: energy(alpha=alpha + h)))
        assert abs(out.alpha) > 1e-4


def test_stress_is_per_volume_with_the_same_sign_in_left_handed_cells(small, rng):
    structure, sites = random_structure(rng, left_handed=True), standard_sites()
    assert np.linalg.det(structure.cell) < 0
    weights = random_weights(sites, rng)
    energy = lambda s: float(evaluate(small, s, sites, "independent", weights, only_energy=True)[0])
    out = calculate(small, make_system(structure, sites, weights))
    stretch = [slope(lambda h, e=e: energy(strained(structure, h * np.diag(e)))) for e in np.eye(3)]
    np.testing.assert_allclose(np.diag(out.stress), stretch / abs(np.linalg.det(structure.cell)), atol=1e-8)
    pull = [slope(lambda h, e=e: energy(moved(structure, h * np.outer([0, 1, 0, 0], e)))) for e in np.eye(3)]
    np.testing.assert_allclose(out.forces[1], np.negative(pull), atol=1e-7)
    np.testing.assert_allclose(out.forces.sum(0), 0, atol=1e-9)
    assert abs(out.stress).min() > 1e-5 and abs(out.forces[1]).min() > 1e-4


@pytest.fixture(scope="module", params=["small", "small_natural", *slow("small_mace")])
def flat(request):
    """Energy of one vector (positions, strain, weights, alpha) and the parameters; a point, directions, parameters."""
    potential = request.getfixturevalue(request.param)
    rng = np.random.default_rng(5)
    structure, sites = random_structure(rng), standard_sites()
    arrays, cell = topology(potential, structure, sites, "correlated"), jnp.asarray(structure.cell)

    def energy(z, params=potential.params):
        positions, strain, weights = z[:12].reshape(4, 3), z[12:21].reshape(3, 3), z[21:26]
        args = potential.node_energies, potential.config, params, arrays, positions, cell, weights, z[26], strain
        return total_energy(*args)[0]

    z = jnp.asarray(np.concatenate([structure.positions.ravel(), np.zeros(9), random_weights(sites, rng), [0.3]]))
    directions = jnp.asarray(rng.normal(size=(3, 27)) * np.repeat([0.3, 0.1, 0.3], [12, 9, 6]))
    return energy, z, directions, potential.params


@pytest.fixture(scope="module")
def second(flat):
    """Hessian times vector, forward over reverse."""
    return jit(lambda z, v: jax.jvp(jax.grad(flat[0]), (z,), (v,))[1])


@pytest.mark.parametrize("flat", ["small", "small_natural", *slow("small_mace")], indirect=True)
def test_second_derivatives_are_finite_differences_of_first_ones(flat, second):
    energy, z, (_, v, _), _ = flat
    gradient = jit(jax.grad(energy))
    expected = slope(lambda h: gradient(z + h * v), h=1e-3)
    assert abs(expected).min() > 1e-4
    np.testing.assert_allclose(second(z, v), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("flat", ["small", "small_mace"], indirect=True)
def test_hessian_is_symmetric_and_the_same_in_every_order_of_modes(flat, second):
    energy, z, (_, v, _), _ = flat
    hessian = jit(jax.jacfwd(jax.jacrev(energy)))(z)
    assert (abs(hessian).max(1) > 1e-4).all()
    np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=1e-9)
    np.testing.assert_allclose(hessian @ v, second(z, v), rtol=0, atol=1e-9)
    for other in (jax.jacrev(jax.jacfwd(energy)), jax.jacfwd(jax.jacfwd(energy))):
        np.testing.assert_allclose(jit(other)(z), hessian, rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def second_and_third(flat):
    """Second derivatives along one direction, third ones along two."""
    energy, _, (_, v, w), _ = flat
    return jit(lambda z: jax.jvp(lambda z: jax.jvp(jax.grad(energy), (z,), (v,))[1], (z,), (w,)))


@pytest.mark.slow
def test_third_derivatives_are_finite_differences_of_second_ones(flat, second, second_and_third):
    _, z, (_, v, w), _ = flat
    _, third = second_and_third(z)
    expected = slope(lambda h: second(z + h * w, v), h=1e-3)
    np.testing.assert_allclose(third, expected, rtol=1e-6, atol=1e-6)
    assert abs(third).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("flat", ["small", "small_mace"], indirect=True)
def test_second_and_third_derivatives_of_a_batch_of_compositions_are_those_of_its_members(flat, rng, second_and_third):
    _, z, _, _ = flat
    at = lambda weights: z.at[21:26].set(weights)
    weights = jnp.asarray([random_weights(standard_sites(), rng) for _ in range(convolution.LARGE_BATCH)])
    batch = jit(jax.vmap(lambda weights: second_and_third(at(weights))))(weights)
    for k in (0, len(weights) - 1):
        for several, one in zip(batch, second_and_third(at(weights[k])), strict=True):
            np.testing.assert_allclose(several[k], one, rtol=1e-9, atol=1e-9)
            assert abs(several[k] - several[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("flat", ["small", "small_mace"], indirect=True)
def test_derivatives_by_parameters_alone_and_with_positions_are_finite_differences(flat, rng):
    energy, z, (u, _, _), params = flat
    towards = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    along = lambda h, k: energy(z + h * u, jax.tree.map(lambda p, d: p + k * d, params, towards))
    value, gradient = jit(along), jit(jax.grad(along, (0, 1)))
    first = [float(g) for g in gradient(0.0, 0.0)]
    assert first[1] == pytest.approx(slope(lambda k: float(value(0.0, k))), rel=1e-6)
    both = jit(lambda: jax.jvp(along, (0.0, 0.0), (1.0, 1.0))[1])()
    assert float(both) == pytest.approx(sum(first), abs=1e-9)
    mixed = jit(jax.grad(jax.grad(along, 0), 1))(0.0, 0.0)
    assert float(mixed) == pytest.approx(slope(lambda k: float(gradient(0.0, k)[0])), rel=1e-6)
    assert min(abs(first[0]), abs(first[1]), abs(mixed)) > 1e-3


def test_every_parameter_of_a_model_with_modalities_moves_the_energy(tiny_modal, rng):
    structure, sites = random_structure(rng), standard_sites()
    arrays = topology(tiny_modal, structure, sites, "independent")
    args = jnp.asarray(structure.positions), jnp.asarray(structure.cell), jnp.asarray(random_weights(sites, rng))
    energy = lambda params: total_energy(
        tiny_modal.node_energies, tiny_modal.config, params, arrays, *args, jnp.zeros(())
    )[0]
    gradients = jit(jax.grad(energy))(tiny_modal.params)
    absent = SPECIES.index("Mg")
    for path, g in jax.tree.leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        if "modality" in name or "shift" in name:  # the model was asked for the second modality
            assert not g[0].any(), name
            g = g[1]
        if any(word in name for word in ("embedding", "scale", "shift")):
            assert not g[absent].any(), name
            g = np.delete(g, absent, axis=0)
        assert (g != 0).all(), name


# --- batches, padding, precision --------------------------------------------------------------------------------------


def test_vmap_over_compositions_is_a_loop_over_them(quick, rng):
    structure, sites = random_structure(rng), standard_sites()
    weights = np.stack([random_weights(sites, rng) for _ in range(3)])
    fixed = jnp.asarray(structure.positions), jnp.asarray(structure.cell)
    run = partial(derivatives, quick.node_energies, quick.config, quick.params)
    batched = jit(jax.vmap(run, (None, None, None, 0, 0)))
    for coupling, alphas in {"independent": [0.0] * 3, "correlated": [-0.02, 0.3, 0.8], "published": [1.0] * 3}.items():
        arrays = topology(quick, structure, sites, coupling)
        batch = batched(arrays, *fixed, jnp.asarray(weights), jnp.asarray(alphas))
        assert varies(*batch.energy)
        for k in range(3):
            alone = evaluate(quick, structure, sites, coupling, weights[k], alphas[k])
            assert_close(jax.tree.map(lambda a, k=k: a[k], batch), alone, alone._fields)


def test_a_batch_of_geometries_as_one_large_structure_is_a_loop_over_them(quick, rng):
    sites = standard_sites()
    structures = [random_structure(rng, left_handed=k == 1) for k in range(3)]
    weights, alphas = [random_weights(sites, rng) for _ in range(3)], [-0.02, 0.3, 0.8]
    arrays = [topology(quick, structure, sites, "correlated") for structure in structures]
    stack = lambda values: jax.tree.map(lambda *a: jnp.stack([jnp.asarray(x) for x in a]), *values)
    positions, cells = stack([s.positions for s in structures]), stack([s.cell for s in structures])
    run = jit(partial(batch_derivatives, quick.node_energies, quick.config))
    batch = run(quick.params, stack(arrays), positions, cells, stack(weights), stack(alphas))
    assert varies(*batch.energy)
    for k in range(3):
        alone = evaluate(quick, structures[k], sites, "correlated", weights[k], alphas[k])
        assert_close(jax.tree.map(lambda a, k=k: a[k], batch), alone, alone._fields)


def test_padding_splitting_rows_and_chunks_change_nothing(quick, rng, monkeypatch):
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    bare = evaluate(quick, structure, sites, "correlated", weights, 0.3, shapes=None)
    shapes = block_shapes(topology(quick, structure, sites, "correlated", shapes=None))
    roomy = [(rows + 5, width + 2) for rows, width in shapes]
    assert_close(bare, evaluate(quick, structure, sites, "correlated", weights, 0.3, shapes=roomy), bare._fields)
    monkeypatch.setattr("alchemjax.system.topology.EDGES_AT_ONCE", 60)
    in_chunks = quick._replace(config=replace(quick.config, batch=3))
    narrow = [(rows * width + 7, 1) for rows, width in shapes]  # chunks of 20 and, with three worlds, 6 rows
    out = evaluate(in_chunks, structure, sites, "correlated", weights, 0.3, shapes=narrow)
    assert_close(bare, out, bare._fields)


def test_rows_of_the_best_shape_fill_their_chunks(rng):
    """Other rows would be copied with all their kernels."""
    for number in (1, 8, 69, 216, 1000):
        samples = [rng.integers(10, 60, size=number) for _ in range(3)]
        for spare, extra in ((1.0, 0), (1.03, 1)):
            rows, width = best_shape(samples, spare, extra)
            assert rows % rows_at_once(rows, width) == 0
            assert rows_at_once(rows, width) * width <= max(448, width)
            assert rows >= max(np.ceil(counts / width).sum() for counts in samples)
    assert best_shape([np.zeros(0, int)]) == (1, 1)


def test_arrays_that_are_too_small_are_refused(small, rng):
    structure, sites = random_structure(rng), standard_sites()
    with pytest.raises(ValueError, match=r"the graph needs \d+ rows of 4 edges; 2 were provided"):
        topology(small, structure, sites, "independent", shapes=[(2, 4)])


def sum_of_probabilities(params, config, graph):
    """A network that compiles at once: E0 times the weight of all that a node may hear from."""
    heard = jax.ops.segment_sum(graph.mix_weight, graph.mix_source, len(graph.source_node))
    return params["shift"][graph.node_species] * heard.at[graph.node_targets[:, -1]].get(mode="fill", fill_value=1)


def test_all_compositions_of_one_shape_are_traced_once(small, rng):
    traces = []

    def node_energies(*args):
        traces.append(1)
        return sum_of_probabilities(*args)

    counting = small._replace(node_energies=node_energies)
    structure, sites = random_structure(rng), standard_sites()
    system = make_system(structure, sites, random_weights(sites, rng), "correlated")
    outs = [calculate(counting, system, random_weights(sites, rng), x) for x in (0.0, 0.1, 0.2)]
    assert varies(*(out.energy for out in outs)) and all(out.alpha_gradient for out in outs)
    assert len(traces) == 1
    fewer = system._replace(structure=structure._replace(cell=4 * structure.cell))
    calculate(counting, fewer, system.weights, 0.1)
    assert len(traces) == 2, "another shape is traced again"


def test_calculate_takes_paired_for_alpha_1_and_gives_alpha_gradients_for_correlated_only(small, rng):
    quick = small._replace(node_energies=sum_of_probabilities)
    structure, sites = random_structure(rng), standard_sites()
    system = make_system(structure, sites, random_weights(sites, rng), "correlated")
    none, half, full = (calculate(quick, system, alpha=x) for x in (0.0, 0.5, 1.0))
    paired = calculate(quick, system._replace(coupling="paired"))
    assert varies(none.energy, half.energy, full.energy)
    assert paired.energy == pytest.approx(full.energy, abs=1e-9)
    np.testing.assert_allclose(paired.weights_gradient, full.weights_gradient, atol=1e-9)
    assert paired.alpha_gradient is None and half.alpha_gradient == pytest.approx(full.energy - none.energy, abs=1e-9)


def equations(jaxpr):
    """All equations, those of inner functions included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("coupling", ["independent", "correlated"])
def test_a_float32_potential_computes_nothing_in_float64(quick, rng, coupling):
    structure, sites = random_structure(rng), standard_sites()
    cast = lambda a: jnp.asarray(a, "float32")
    args = jax.tree.map(cast, (structure.positions, structure.cell, random_weights(sites, rng), 0.1))
    arrays = topology(quick, structure, sites, coupling)
    run = partial(derivatives, quick.node_energies, quick.config)
    params = jax.tree.map(cast, quick.params)
    traced = jax.make_jaxpr(run)(params, arrays, *args)
    assert {str(a.dtype) for a in traced.out_avals} == {"float32"}
    wide = [e for e in equations(traced.jaxpr) for v in e.outvars if str(v.aval.dtype) in ("float64", "complex128")]
    assert not wide, wide[0]
    double = jax.make_jaxpr(run)(quick.params, arrays, *jax.tree.map(lambda a: a.astype("float64"), args))
    assert any(str(v.aval.dtype) == "float64" for e in equations(double.jaxpr) for v in e.outvars)


BATCH = 19  # a size that nothing else has


def batched_operations(potential, structure, sites, coupling, *, gradient, over):
    """Equations with BATCH among the sizes of a result, when `over` is vmapped."""
    arrays = topology(potential, structure, sites, coupling)
    function = derivatives if gradient else total_energy
    run = partial(function, potential.node_energies, potential.config, potential.params, arrays)
    weights = jnp.ones((BATCH, num_weights(sites))) / 4
    positions = jnp.broadcast_to(jnp.asarray(structure.positions), (BATCH, 4, 3))
    cell, alpha = jnp.asarray(structure.cell), jnp.asarray(0.2)
    if over == "weights":
        traced = jax.make_jaxpr(jax.vmap(run, (None, None, 0, None)))(positions[0], cell, weights, alpha)
    else:
        traced = jax.make_jaxpr(jax.vmap(run, (0, None, None, None)))(positions, cell, weights[0], alpha)
    return [e for e in equations(traced.jaxpr) if any(BATCH in v.aval.shape for v in e.outvars)]


@pytest.mark.parametrize("coupling, chunk, gradient", [("independent", 448, False), ("correlated", 16, True)])
def test_a_batch_of_compositions_computes_geometry_once(tiny, rng, monkeypatch, coupling, gradient, chunk):
    monkeypatch.setattr("alchemjax.system.topology.EDGES_AT_ONCE", chunk)
    structure, sites = random_structure(rng), standard_sites()
    count = partial(batched_operations, tiny, structure, sites, coupling, gradient=gradient)
    shared, separate = count(over="weights"), count(over="positions")
    hidden = {len(w) for w in tiny.params["layers"]["0"]["radial"].values()} - {4}

    def radial(operations):  # matrix products of the radial network, whose hidden widths no other array has
        products = [e for e in operations if e.primitive.name == "dot_general"]
        return [e for e in products if any(hidden & set(v.aval.shape) for v in (*e.invars, *e.outvars))]

    transcendental = lambda operations: [e for e in operations if e.primitive.name in ("sin", "cos", "sqrt", "rsqrt")]
    assert hidden == {11, 17}
    assert len(radial(separate)) >= 6 and len(transcendental(separate)) >= 2
    assert not radial(shared) and not transcendental(shared)
    assert len(shared) < 0.8 * len(separate)
