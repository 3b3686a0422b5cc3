"""Neighbour lists of compiled code: the pairs that ASE finds, in every kind of cell, while sites walk."""

from collections import Counter
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from conftest import CUTOFF, random_structure, random_weights, standard_sites

from alchemjax.calculate import derivatives, topology_of
from alchemjax.system import lists
from alchemjax.system.sites import Group, make_sites
from alchemjax.system.structure import Structure
from alchemjax.system.system import make_system
from alchemjax.system.topology import COUPLINGS, make_layout

RADIUS = 3.0
ROWS = {"Na": 0, "K": 1, "Li": 2, "Cl": 3, "O": 4}
CASES = 25  # for every kind of cell


def skewed(rng):
    return np.diag(rng.uniform(3, 9, 3)) + rng.uniform(-2, 2, (3, 3))


KINDS = {
    # cell, number of sites, periodic directions
    "skewed": (skewed, 9, (True, True, True)),
    "left-handed": (lambda rng: skewed(rng)[[1, 0, 2]], 7, (True, True, True)),
    "one site, many images": (lambda rng: np.eye(3) * 1.9 + rng.uniform(-0.3, 0.3, (3, 3)), 1, (True, True, True)),
    "wide": (lambda rng: np.diag([13.0, 14, 15]) + rng.uniform(-1, 1, (3, 3)), 40, (True, True, True)),
    "needle": (lambda rng: np.diag([2.2, 2.1, 31.0]) + rng.uniform(-0.5, 0.5, (3, 3)), 12, (True, True, True)),
    "plate": (lambda rng: np.diag([21.0, 19, 1.7]) + rng.uniform(-0.5, 0.5, (3, 3)), 25, (True, True, True)),
    "slab": (lambda rng: np.diag([4.1, 5.0, 20]) + rng.uniform(-0.5, 0.5, (3, 3)), 14, (True, True, False)),
    "chain": (lambda rng: np.diag([15.0, 3.3, 12]) + rng.uniform(-0.5, 0.5, (3, 3)), 10, (False, True, False)),
    "cluster": (lambda rng: np.diag([3.0, 4, 5]) + rng.uniform(-1, 1, (3, 3)), 20, (False, False, False)),
}


def site_layout(count):
    return make_layout(make_sites(["Na"] * count), ROWS, "independent")


@lru_cache(maxsize=64)
def compiled(grid, rule):
    def run(layout, positions, cell):
        wrapped, away = lists.wrap(grid.pbc, positions, cell)
        return lists.search(grid, rule, layout, wrapped, cell), away

    return jax.jit(run)


def roomy(grid, sites):
    """Room for any positions of so few sites: only the search is looked at."""
    images = np.prod([2 * m + 1 for m in grid.reach])
    return grid._replace(room=sites, shapes=((sites * int(np.ceil(sites * images / 8)), 8),))


def found(neighbours, points):
    """(receiver, sender, shift) of every entry."""
    sender, receiver = np.asarray(neighbours.sender[0]), np.asarray(neighbours.receiver[0])
    used = sender < points
    assert (receiver[used.any(1)] < points).all()
    i = np.broadcast_to(receiver[:, None], sender.shape)[used]
    return Counter(
        zip(i.tolist(), sender[used].tolist(), map(tuple, np.asarray(neighbours.shift[0])[used].tolist()), strict=True)
    )


def of_ase(positions, cell, pbc, away, radius=RADIUS):
    """The same of the wrapped positions, by ASE."""
    atoms = Atoms(numbers=[11] * len(positions), positions=positions - away @ cell, cell=cell, pbc=pbc)
    i, j, shift = neighbor_list("ijS", atoms, radius)
    return Counter(zip(i.tolist(), j.tolist(), map(tuple, shift.tolist()), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_those_of_ase(kind, rng):
    make_cell, sites, pbc = KINDS[kind]
    rule, layout = site_layout(sites)
    numbers = []
    for _ in range(3):
        cell = make_cell(rng)
        here = Structure(rng.uniform(-1.5, 1.5, (sites, 3)) @ cell, cell, np.array(pbc))
        grid = None
        for _ in range(CASES // 3):
            strained = cell @ (np.eye(3) + rng.uniform(0, 0.1, (3, 3)))
            positions = rng.uniform(-1.5, 1.5, (sites, 3)) @ strained
            if grid is None:
                grid = roomy(lists.allocate(rule, layout, [here], RADIUS), sites)
            neighbours, away = compiled(grid, rule)(layout, positions, strained)
            heights = 1 / np.linalg.norm(np.linalg.inv(strained), axis=0)
            if (np.array(grid.reach) * heights / grid.bins < RADIUS)[list(pbc)].any():
                assert neighbours.overflow, "a cell that is too narrow for the grid must be noticed"
                continue
            assert not neighbours.overflow
            expected = of_ase(positions, strained, pbc, np.asarray(away))
            assert found(neighbours, sites) == expected
            numbers.append(expected.total())
    assert len(numbers) > CASES // 2 and len(set(numbers)) > 3 and max(numbers) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_in_float32_are_those_of_ase_but_for_rounding(kind, rng):
    make_cell, sites, pbc = KINDS[kind]
    rule, layout = site_layout(sites)
    cell = make_cell(rng)
    grid = roomy(lists.allocate(rule, layout, [Structure(np.zeros((sites, 3)), cell, np.array(pbc))], RADIUS), sites)
    for _ in range(CASES):
        positions = (rng.uniform(-1.5, 1.5, (sites, 3)) @ cell).astype("float32")
        neighbours, away = compiled(grid, rule)(layout, positions, cell.astype("float32"))
        assert neighbours.positions.dtype == "float32" and not neighbours.overflow
        pairs, images = found(neighbours, sites), np.asarray(away)
        fewer, more = (of_ase(positions, cell, pbc, images, RADIUS + rounding) for rounding in (-2e-5, 2e-5))
        assert fewer <= pairs <= more
        assert max(pairs.values(), default=1) == 1 and more.total() - fewer.total() < 10


def test_a_pair_at_the_edge_of_a_bin_is_found():
    cell = np.eye(3) * 2.0001 * RADIUS * (1 + lists.SLACK)
    rule, layout = site_layout(2)
    here = Structure(np.array([[0.0, 0, 0], [RADIUS - 1e-9, 0, 0]]), cell, np.ones(3, bool))
    grid = lists.allocate(rule, layout, [here], RADIUS)
    assert grid.bins == (2, 2, 2)
    for offset in np.linspace(0, cell[0, 0], 37):
        positions = here.positions + [offset, 0, 0]
        neighbours, away = compiled(grid, rule)(layout, positions, cell)
        assert found(neighbours, 2) == of_ase(positions, cell, here.pbc, np.asarray(away))


@pytest.mark.parametrize("kind", ["skewed", "slab", "needle"])
def test_lists_made_again_only_when_stale_miss_no_pair_of_walking_sites(kind, rng):
    make_cell, sites, pbc = KINDS[kind]
    cutoff, skin = 2.6, 0.4
    cell, start = make_cell(rng), rng.uniform(0, 1, (sites, 3))
    rule, layout = site_layout(sites)
    grid = roomy(
        lists.allocate(rule, layout, [Structure(start @ cell, cell * 0.85, np.array(pbc))], cutoff + skin),
        sites,
    )
    search, listed, rebuilt = compiled(grid, rule), None, 0
    positions, drift = start @ cell, rng.normal(size=(1, 3)) * 0.04
    for _ in range(150):
        strain = np.eye(3) + rng.normal(size=(3, 3)) * 0.001
        cell, positions = cell @ strain, (positions + rng.normal(size=positions.shape) * 0.02 + drift) @ strain
        if listed is not None:
            since = np.linalg.solve(np.asarray(listed.cell), cell)
            stale = bool(lists.is_stale(cutoff, skin, listed.positions, jnp.asarray(positions), jnp.asarray(since)))
        if listed is None or stale:
            listed, away = search(layout, positions, cell)
            positions, rebuilt = positions - np.asarray(away) @ cell, rebuilt + 1
            assert not listed.overflow
        near = Counter()
        for (i, j, shift), count in found(listed, sites).items():
            if np.linalg.norm(positions[j] - positions[i] + np.array(shift) @ cell) < cutoff:
                near[i, j, shift] += count
        i, j, shift = neighbor_list(
            "ijS", Atoms(numbers=[11] * sites, positions=positions, cell=cell, pbc=pbc), cutoff - 1e-9
        )
        assert near == Counter(zip(i.tolist(), j.tolist(), map(tuple, shift.tolist()), strict=True))
    assert 3 < rebuilt < 150


def test_what_does_not_fit_sets_overflow(rng):
    cell = np.eye(3) * 7.0
    rule, layout = site_layout(20)
    spread = Structure(
        np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)[:20] * 7 / 3, cell, np.ones(3, bool)
    )
    grid = lists.allocate(rule, layout, [spread], RADIUS)
    search = lambda grid, positions, cell=cell: bool(compiled(grid, rule)(layout, positions, cell)[0].overflow)
    assert not search(grid, spread.positions)
    crowded = spread.positions * 0.35
    assert search(grid, crowded), "a bin, or rows of edges, are too full"
    assert search(grid._replace(room=20), crowded), "rows are too full"
    assert search(grid._replace(shapes=((400, 20),)), crowded), "a bin is too full"
    assert not search(grid._replace(room=20, shapes=((400, 20),)), crowded)
    assert not search(grid, spread.positions * 0.975, cell * 0.975)
    assert search(grid._replace(room=20, shapes=((400, 20),)), spread.positions * 0.8, cell * 0.8), (
        "bins are too narrow"
    )


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("name", ["small", "small_mace"])
def test_energies_are_those_of_lists_made_on_the_host(name, coupling, rng, request):
    potential = request.getfixturevalue(name)
    structure, sites = random_structure(rng, left_handed=True), standard_sites()
    system = make_system(structure, sites, random_weights(sites, rng), coupling)
    rows = {s: potential.species.index(s) for s in set(sites.node_species)}
    rule, layout = make_layout(sites, rows, coupling, per_node=potential.per_node)
    grid = lists.allocate(rule, layout, [structure], CUTOFF + 0.3)
    alpha = {"independent": 0.0, "correlated": 0.2}.get(coupling, 1.0)
    of = partial(derivatives, potential.node_energies, potential.config, potential.params)

    def listed(layout, positions, cell):
        wrapped, _ = lists.wrap(grid.pbc, positions, cell)
        neighbours = lists.search(grid, rule, layout, wrapped, cell)
        return of(lists.topology(rule, layout, neighbours), wrapped, cell, system.weights, alpha), neighbours.overflow

    arrays = jnp.asarray(structure.positions), jnp.asarray(structure.cell)
    out, overflow = jax.jit(listed)(layout, *arrays)
    assert not overflow
    expected = jax.jit(of)(topology_of(potential, system), *arrays, system.weights, alpha)
    assert np.abs(expected.positions).max() > 0.01
    for a, b in zip(out, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_pairs_of_each_block_are_counted_once(rng):
    structure = random_structure(rng)
    sites = make_sites(["Na"] * 4, (Group("a", (0, 1), ("Na", "K")), Group("b", (3,), ("Na", "Li"))))
    rule, layout = make_layout(sites, ROWS, "paired")
    grid = lists.allocate(rule, layout, [structure], RADIUS)
    neighbours, _ = compiled(grid, rule)(layout, structure.positions, structure.cell)
    both = [int((np.asarray(sender) < 4).sum()) for sender in neighbours.sender]
    assert min(both) > 0 and sum(both) == len(
        neighbor_list("i", Atoms("Na4", structure.positions, cell=structure.cell, pbc=True), RADIUS)
    )
