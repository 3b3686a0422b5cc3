"""Neighbour lists that compiled code makes again while sites move; right for every cell, linear in the number of sites.

The host chooses the shapes once (`allocate`): bins at least as wide as the radius where the cell allows it, otherwise
one bin and as many images as the radius reaches over. `search` looks through the bins around every point, in cells
narrower than the radius, skewed, left-handed, long and thin, and periodic in any subset of directions. Whatever does
not fit sets `overflow`; the host then discards what came of it, allocates again, and repeats.
"""

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from alchemjax.system.neighbours import find_pairs
from alchemjax.system.structure import Structure
from alchemjax.system.topology import Layout, Rule, Topology, best_shape, heard, pairs_of_blocks, rows_of

SLACK = 0.03  # linear compression of the cell that a grid has room for
SPARE = 1.03  # rows of edges, and points of a bin, that there is room for, for each one that is needed
RATTLE = 0.1  # A; shapes have room for sites displaced at random by so much along every axis
ROUNDING = 1e-5  # relative, of distances compared with the width of bins


class Grid(NamedTuple):
    """Shapes of a neighbour list; hashable, static under jit."""

    radius: float  # A, cutoff plus skin
    pbc: tuple[bool, bool, bool]
    bins: tuple[int, int, int]
    reach: tuple[int, int, int]  # how many bins away neighbours may be
    room: int  # points in a bin
    shapes: tuple[tuple[int, int], ...]  # (rows, width) of every block of edges


class Neighbours(NamedTuple):
    """Points within the radius of each other, in rows of one receiver; r = x[sender] - x[receiver] + shift . cell."""

    sender: tuple[Int[Array, "rows width"], ...]  # for every block of edges; number of points where there is none
    receiver: tuple[Int[Array, "rows"], ...]
    shift: tuple[Int[Array, "rows width 3"], ...]  # whole lattice vectors
    positions: Float[Array, "sites 3"]  # Cartesian [A], where the list was made
    cell: Float[Array, "3 3"]
    overflow: Bool[Array, ""]


def allocate(rule: Rule, layout: Layout, structures: list[Structure], radius: float, *, spare: float = SPARE) -> Grid:
    """Shapes with room for each of these structures while its sites move about; cells must be invertible."""
    pbc = tuple(map(bool, structures[0].pbc))
    heights = np.array([1 / np.linalg.norm(np.linalg.inv(s.cell), axis=0) for s in structures])
    inside = [s._replace(positions=wrap(pbc, s.positions, s.cell, np)[0]) for s in structures]
    extents = np.array([np.ptp(s.positions @ np.linalg.inv(s.cell), axis=0) for s in inside]) * heights
    least = (1 + SLACK + spare / SPARE - 1) * radius
    periodic = np.maximum(1, (heights.min(0) / least).astype(int))
    bins = _fewer(np.where(pbc, periodic, 1 + (extents.max(0) / radius).astype(int)), 27 + 8 * rule.points)
    reach = np.where(pbc, np.ceil(least * bins / heights.min(0)).astype(int), np.minimum(1, bins - 1))
    shapes = _shapes(rule, layout, inside, radius, spare)
    grid = Grid(float(radius), pbc, tuple(bins.tolist()), tuple(reach.tolist()), 1, shapes)
    most = 1
    for s, height in zip(inside, heights, strict=True):
        where = _bin_of(grid, s.positions[layout.site[:-1]] @ np.linalg.inv(s.cell), height, np)
        most = max(most, np.unique(where, axis=0, return_counts=True)[1].max())
    return grid._replace(room=min(rule.points, int(np.ceil(spare * 1.2 * most)) + 1))


def _fewer(bins: np.ndarray, most: int) -> np.ndarray:
    """Numbers of wider bins, at most so many in all: empty space would fill the memory."""
    while bins.prod() > most:
        bins = np.where(np.arange(3) == bins.argmax(), (bins + 1) // 2, bins)
    return bins


def _shapes(rule: Rule, layout: Layout, structures: list[Structure], radius: float, spare: float):
    """(rows, width) of every block, from the numbers of neighbours of sites as they are and displaced at random."""
    rng = np.random.default_rng(0)
    counts: list[list[np.ndarray]] = [[] for _ in range(rule.blocks)]
    for structure in structures:
        sites = len(structure.positions)
        for size in [0.0] + [RATTLE] * (2 + 64 // sites):
            moved = structure.positions + size * rng.normal(size=(sites, 3))
            pairs = find_pairs(structure._replace(positions=moved), radius, minimum=0.0)
            for own, chosen in zip(counts, pairs_of_blocks(rule, layout, pairs), strict=True):
                own.append(np.unique(chosen.receiver, return_counts=True)[1])
    return tuple(best_shape(several, spare, extra=1) for several in counts)


def no_list(grid: Grid, rule: Rule, sites: int, dtype: str) -> Neighbours:
    """What stands for the list before there is one: stale wherever sites are."""
    return Neighbours(
        sender=tuple(np.full(shape, rule.points, np.int32) for shape in grid.shapes),
        receiver=tuple(np.full(rows, rule.points, np.int32) for rows, _ in grid.shapes),
        shift=tuple(np.zeros((*shape, 3), np.int32) for shape in grid.shapes),
        positions=np.full((sites, 3), np.nan, dtype),
        cell=np.full((3, 3), np.nan, dtype),
        overflow=np.zeros((), bool),
    )


def search(grid: Grid, rule: Rule, layout: Layout, positions, cell) -> Neighbours:
    """All pairs within the radius; traced. Sites must lie in the cell along its periodic directions (`wrap`)."""
    inverse = jnp.linalg.inv(cell)
    heights = 1 / jnp.sqrt(jnp.sum(inverse**2, axis=0))
    x = positions[layout.site[:-1]]
    where = _bin_of(grid, x @ inverse, heights)
    table, crowded = _table(grid, where)
    widths = jnp.where(jnp.asarray(grid.pbc), heights / jnp.asarray(grid.bins), jnp.inf)
    narrow = (jnp.asarray(grid.reach) * widths < grid.radius * (1 + ROUNDING)).any()

    number, shift, there = _around(grid, where)
    sender = jnp.where(there[..., None], table[number], rule.points).reshape(rule.points, -1)
    column = lambda of: jnp.repeat(of, grid.room, axis=1)
    vectors = x.at[sender].get(mode="fill", fill_value=jnp.inf) - x[:, None]
    vectors = vectors + column(jnp.einsum("pds,sx->pdx", shift.astype(x.dtype), cell))
    site = layout.site[sender]
    itself = (site == layout.site[:-1, None]) & column((shift == 0).all(-1))
    near = (jnp.sum(vectors**2, axis=-1) <= grid.radius**2) & ~itself

    receiver = jnp.arange(rule.points)[:, None]
    parts = [
        _rows(near & mask, sender, shift, grid, shape, rule.points)
        for mask, shape in zip(heard(rule, layout, sender, receiver), grid.shapes, strict=True)
    ]
    senders, receivers, shifts, full = zip(*parts, strict=True)
    overflow = crowded | narrow | jnp.stack(full).any()
    senders, receivers, shifts = jax.tree.map(lambda a: a.astype(jnp.int32), (senders, receivers, shifts))
    return Neighbours(senders, receivers, shifts, positions, cell, overflow)


def topology(rule: Rule, layout: Layout, neighbours: Neighbours) -> Topology:
    """The graph's index arrays; traced."""
    lists = zip(neighbours.sender, neighbours.receiver, neighbours.shift, strict=True)
    return layout.rest._replace(blocks=tuple(rows_of(rule, layout, k, *rows) for k, rows in enumerate(lists)))


def wrap(pbc, positions, cell, xp=jnp):
    """(positions in the cell along its periodic directions, whole lattice vectors that were taken off)."""
    away = xp.where(xp.asarray(pbc)[None], xp.floor(positions @ xp.linalg.inv(cell)), 0)
    return positions - away @ cell, away.astype(xp.int32)


def is_stale(cutoff: float, skin, then, now, since) -> Bool[Array, ""]:
    """Could a pair that is not in the list be within the cutoff? `since` is the deformation of the cell; traced.

    A vector longer than cutoff + skin when the list was made is now at least (cutoff + skin) s - 2 u long, with s the
    smallest stretch of the homogeneous deformation since then and u the largest displacement beside it.
    """
    identity = jnp.eye(3, dtype=now.dtype)
    stretch = 1 - jnp.sqrt(jnp.sum((since - identity) ** 2))
    beside = jnp.sqrt(jnp.max(jnp.sum((now - then @ since) ** 2, axis=-1)))
    return ~((cutoff + skin) * stretch - 2 * beside >= cutoff)  # NaN is stale


def renewed(grid: Grid, rule: Rule, layout: Layout, cutoff: float, listed: Neighbours, positions, cell):
    """(positions in the images that the list is of, list), made again only where it is stale; traced."""
    since = jnp.linalg.solve(listed.cell, cell)
    turns = jnp.round((positions - listed.positions) @ jnp.linalg.inv(cell))  # a cell that is much changed is stale
    nearest = positions - jnp.where(jnp.asarray(grid.pbc)[None], turns, 0) @ cell

    def again(_):
        inside, _ = wrap(grid.pbc, positions, cell)
        return inside, search(grid, rule, layout, inside, cell)

    stale = is_stale(cutoff, grid.radius - cutoff, listed.positions, nearest, since)
    return lax.cond(stale, again, lambda _: (nearest, listed), None)


def _bin_of(grid: Grid, fractional, heights, xp=jnp):
    """Bin [points, 3] of fractional coordinates; along directions without periodicity the last bin has no end."""
    pbc, bins = xp.asarray(grid.pbc), xp.asarray(grid.bins)
    low = xp.where(pbc, 0.0, xp.min(fractional, axis=0))
    per_bin = xp.where(pbc, 1 / bins, grid.radius * (1 + ROUNDING) / heights)
    number = xp.floor((fractional - low[None]) / per_bin[None])
    return xp.clip(xp.nan_to_num(number), 0, bins[None] - 1).astype(int)


def _table(grid: Grid, where):
    """Points of every bin, number of points where there is none, and whether some bin is too full."""
    points, bins = len(where), int(np.prod(grid.bins))
    number = _number(grid, where)
    order = jnp.argsort(number)
    count = jax.ops.segment_sum(jnp.ones(points, int), number, bins)
    rank = jnp.arange(points) - (jnp.cumsum(count) - count)[number[order]]
    slot = jnp.where(rank < grid.room, number[order] * grid.room + rank, bins * grid.room)
    table = jnp.full(bins * grid.room, points).at[slot].set(order, mode="drop")
    return table.reshape(bins, grid.room), (count > grid.room).any()


def _number(grid: Grid, where):
    return (where[..., 0] * grid.bins[1] + where[..., 1]) * grid.bins[2] + where[..., 2]


def _around(grid: Grid, where):
    """Number and lattice shift of the bins around every point, and whether there is such a bin."""
    away = np.array(list(product(*(range(-m, m + 1) for m in grid.reach))))[None]
    bins, pbc = np.array(grid.bins)[None, None], np.array(grid.pbc)[None, None]
    at = where[:, None, :] + away
    shift = jnp.where(pbc, at // bins, 0)
    inside = ((at - shift * bins >= 0) & (at - shift * bins < bins)).all(-1)
    return _number(grid, jnp.clip(at - shift * bins, 0, bins - 1)), shift, inside


def _rows(near, sender, shift, grid: Grid, shape: tuple[int, int], points: int):
    """The candidates that are near, in rows of equal width; and whether there are more than fit."""
    rows, width = shape
    running = jnp.cumsum(near, axis=1)
    rows_each = -(-running[:, -1] // width)
    ends = jnp.cumsum(rows_each)
    row = jnp.arange(rows)
    receiver = jnp.searchsorted(ends, row, side="right")  # number of points where there is none
    own = jnp.minimum(receiver, points - 1)
    wanted = (row - (ends - rows_each)[own])[:, None] * width + jnp.arange(width)[None] + 1
    found = (wanted <= running[own, -1][:, None]) & (receiver < points)[:, None]
    place = jax.vmap(lambda own, wanted: jnp.searchsorted(running[own], wanted))(own, wanted)
    place = jnp.minimum(place, near.shape[1] - 1)
    chosen = jnp.where(found, sender[own[:, None], place], points)
    shifts = jnp.where(found[..., None], shift[own[:, None], place // grid.room], 0)
    return chosen, receiver, shifts, ends[-1] > rows
