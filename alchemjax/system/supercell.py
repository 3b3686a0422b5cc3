"""Supercells: which one keeps a site away from its images, and where its sites are."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from alchemjax.system.structure import Structure, completed_cell

MOST_CELLS = 4000
MOST_DISTANCE = 100.0  # A
SYMMETRIC = 1.5  # how many times as large the cell may be that has all rotations of the crystal


class Supercell(NamedTuple):
    """Every site of a supercell is a site of the cell, moved by whole lattice vectors."""

    matrix: Int[np.ndarray, "3 3"]  # supercell = matrix . cell
    origin: Int[np.ndarray, "supersites"]  # site of the cell
    shift: Int[np.ndarray, "supersites 3"]  # whole lattice vectors of the cell


def chosen_matrix(structure: Structure, supercell, rotations) -> Int[np.ndarray, "3 3"]:
    """The supercell that was asked for: by three or 3 x 3 whole numbers, or a distance as in `smallest_supercell`.

    Errors: ValueError for anything else, and for a supercell along a direction without periodicity.
    """
    given = np.asarray(supercell)
    shown = repr(given.tolist())
    if given.dtype.kind in "iuf" and given.ndim == 0:
        if not 0 < given <= MOST_DISTANCE:
            raise ValueError(f"supercell = {shown} A must be a distance between 0 and {MOST_DISTANCE:g} A")
        return smallest_supercell(structure, float(given), rotations)
    if given.dtype.kind not in "iu" or given.shape not in ((3,), (3, 3)):
        raise ValueError(f"supercell = {shown} must be a distance in A, or three or 3 x 3 whole numbers")
    matrix = np.diag(given) if given.ndim == 1 else given
    size, kept = round(abs(np.linalg.det(matrix))), ~structure.pbc
    if not size:
        raise ValueError(f"supercell = {shown} spans no volume; give positive whole numbers, or three independent rows")
    if size > MOST_CELLS:
        raise ValueError(f"supercell = {shown} holds {size} cells; allowed are 1 to {MOST_CELLS}: give smaller numbers")
    if (matrix[kept] != np.eye(3)[kept]).any() or (matrix[:, kept] != np.eye(3)[:, kept]).any():
        raise ValueError(f"supercell = {shown} repeats a direction without periodicity; give 1 there")
    return matrix


def smallest_supercell(
    structure: Structure, distance: float, rotations: Int[np.ndarray, "operations 3 3"]
) -> Int[np.ndarray, "3 3"]:
    """The smallest supercell in which the images of a site are at least so far [A] from it.

    A somewhat larger one is taken if it alone has all the `rotations` (of fractional coordinates, as columns). Errors:
    ValueError where none of a sensible size is found.
    """
    cell, pbc = completed_cell(structure), structure.pbc
    near = lattice_vectors(cell, pbc, distance)
    # balls of this diameter around the images fill at most pi / sqrt(18) of space
    least = distance**3 / np.sqrt(2) / abs(np.linalg.det(cell)) if pbc.all() else 1
    fallback = None
    for cells in range(max(1, int(least)), MOST_CELLS + 1):
        if fallback is not None and cells > SYMMETRIC * fallback[0]:
            break
        candidates = _sublattices(cells, pbc)
        # lattice vectors t that are whole multiples of the supercell's: t . matrix^-1 = t . adjugate / cells
        inverse = adjugate(candidates)
        hit = ((near @ inverse) % cells == 0).all(-1).any(-1) if len(near) else np.zeros(len(candidates), bool)
        fine = np.flatnonzero(~hit)
        for k in fine:
            turned = candidates[k] @ rotations.transpose(0, 2, 1) @ inverse[k]
            if (turned % cells == 0).all():
                return candidates[k]
        if len(fine) and fallback is None:
            fallback = cells, candidates[fine[0]]
    if fallback is None:
        raise ValueError(f"no supercell of up to {MOST_CELLS} cells keeps images {distance:.3g} A apart; ask for less")
    return fallback[1]


def make_supercell(matrix: Int[np.ndarray, "3 3"], sites: int) -> Supercell:
    """The sites, ordered by cell and then as in the cell, which comes first."""
    size = round(abs(np.linalg.det(matrix)))
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T @ matrix
    ranges = [np.arange(low, high + 1) for low, high in zip(corners.min(0), corners.max(0), strict=True)]
    shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    inside = shifts @ adjugate(matrix)
    shifts = shifts[((inside >= 0) & (inside < size)).all(-1)]
    shifts = shifts[np.argsort(shifts.any(-1), kind="stable")]
    return Supercell(matrix, np.tile(np.arange(sites), size), np.repeat(shifts, sites, axis=0))


def adjugate(matrix: Int[np.ndarray, "*batch 3 3"]) -> Int[np.ndarray, "*batch 3 3"]:
    """Inverse times the number of cells, in whole numbers."""
    return np.round(np.linalg.inv(matrix) * np.abs(np.linalg.det(matrix))[..., None, None]).astype(int)


def numbering(supercell: Supercell, sites: int) -> Callable:
    """A function of whole lattice vectors [..., 3]: which cell of the supercell, of so many sites each, is there."""
    size, inverse = len(supercell.origin) // sites, adjugate(supercell.matrix)
    place = lambda shifts: np.ravel_multi_index(tuple(np.moveaxis((shifts @ inverse) % size, -1, 0)), (size,) * 3)
    keys = place(supercell.shift[::sites])
    order = np.argsort(keys)
    ranked = np.sort(keys)
    return lambda shifts: order[np.searchsorted(ranked, place(shifts))]


def repeated(structure: Structure, supercell: Supercell) -> Structure:
    """The structure in its supercell."""
    positions = structure.positions[supercell.origin] + supercell.shift @ structure.cell
    return structure._replace(positions=positions, cell=supercell.matrix @ structure.cell)


def nearest_image(structure: Structure, distance: float) -> float:
    """How far a site is from its nearest image [A]; infinite where that is no nearer than the distance."""
    cell = completed_cell(structure)
    vectors = lattice_vectors(cell, structure.pbc, distance)
    return float(np.linalg.norm(vectors @ cell, axis=1).min()) if len(vectors) else np.inf


def lattice_vectors(cell, pbc, distance: float) -> np.ndarray:
    """Whole lattice vectors along periodic directions shorter than the distance, one of each pair +-t, without 0."""
    most = np.ceil(distance * np.linalg.norm(np.linalg.inv(cell), axis=0)).astype(int) * pbc
    ranges = [np.arange(-m, m + 1) for m in most]
    vectors = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    vectors = vectors[len(vectors) // 2 + 1 :]
    return vectors[np.linalg.norm(vectors @ cell, axis=1) < distance * (1 - 1e-9)]


def _sublattices(cells: int, pbc) -> Int[np.ndarray, "lattices 3 3"]:
    """All sublattices of so many cells, as matrices in Hermite normal form; 1 along directions without periodicity."""
    found = []
    for a in _divisors(cells):
        for b in _divisors(cells // a):
            c = cells // a // b
            if ((np.array([a, b, c]) > 1) & ~pbc).any():
                continue
            # without a period along one of two vectors the other has no multiples of it
            ranges = (b if pbc[0] & pbc[1] else 1, c if pbc[0] & pbc[2] else 1, c if pbc[1] & pbc[2] else 1)
            p, q, r = np.indices(ranges).reshape(3, -1)
            matrix = np.zeros((len(p), 3, 3), int)
            matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = a, b, c
            matrix[:, 0, 1], matrix[:, 0, 2], matrix[:, 1, 2] = p, q, r
            found.append(matrix)
    return np.concatenate(found) if found else np.zeros((0, 3, 3), int)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def box_for(structure: Structure, per_cell, least: int, most: int, *, even: bool = False) -> tuple[int, ...]:
    """Cells along every vector: so many sites, `per_cell` in whole numbers, and as nearly a cube as can be.

    With `even`, even numbers of cells, which ordered arrangements fit into.
    """
    lengths, free = np.linalg.norm(structure.cell, axis=1), structure.pbc
    sites, step = len(structure.positions), 2 if even else 1
    if not free.any():
        return (1, 1, 1)
    edge = (most / sites * lengths[free].prod()) ** (1 / max(free.sum(), 1))  # of the largest cube
    ranges = [
        range(step, int(2 * edge / n) + step, step) if here else (1,) for n, here in zip(lengths, free, strict=True)
    ]
    best, chosen = np.inf, tuple(step if periodic else 1 for periodic in free)
    for shape in product(*ranges):
        number = int(np.prod(shape))
        if not least <= number * sites <= most:
            continue
        missed = np.abs(number * per_cell - np.round(number * per_cell)).max()
        cost = (missed > 1e-6) * (1 + missed) + np.ptp(np.log((np.array(shape) * lengths)[free])) / 2
        if cost < best - 1e-9:
            best, chosen = cost, shape
    return chosen
