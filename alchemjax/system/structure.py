"""Where the sites are."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

MINIMUM_DISTANCE = 0.1  # A; closer sites are an input error


class Structure(NamedTuple):
    """Sites in a (possibly partly periodic) cell."""

    positions: Float[np.ndarray, "sites 3"]  # Cartesian [A]
    cell: Float[np.ndarray, "3 3"]  # rows are lattice vectors [A]
    pbc: Bool[np.ndarray, "3"]  # which lattice vectors are periodic


def make_structure(positions, cell=None, pbc=None) -> Structure:
    """Check and store a structure in float64.

    Errors: ValueError for shapes, non-finite numbers, or a periodic cell without volume.
    """
    positions = np.asarray(positions, np.float64)
    if positions.ndim != 2 or positions.shape[1] != 3 or len(positions) == 0:
        raise ValueError(
            f"positions have shape {positions.shape}; give one row of three coordinates per site, at least one"
        )
    cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, np.float64)
    if cell.shape != (3, 3):
        raise ValueError(f"cell has shape {cell.shape}; give a 3x3 matrix whose rows are lattice vectors")
    pbc = np.broadcast_to(np.asarray(False if pbc is None else pbc, bool), (3,)).copy()
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise ValueError("positions or cell contain NaN or infinity; give finite numbers in Angstrom")
    if pbc.any() and _degenerate(cell[pbc]):
        raise ValueError(
            f"the periodic lattice vectors {cell[pbc].round(6).tolist()} span no volume; "
            "give linearly independent vectors, or make the missing directions non-periodic"
        )
    return Structure(positions, cell, pbc)


def _degenerate(vectors: np.ndarray) -> bool:
    lengths = np.linalg.norm(vectors, axis=1)
    if (lengths < 1e-3).any():
        return True
    return np.linalg.svd(vectors / lengths[:, None], compute_uv=False)[-1] < 1e-6


def volume(structure: Structure) -> float | None:
    """Volume of the cell in A^3, or None where the three lattice vectors span none."""
    if _degenerate(structure.cell):
        return None
    return float(abs(np.linalg.det(structure.cell)))


def completed_cell(structure: Structure) -> np.ndarray:
    """The cell with missing non-periodic vectors replaced by unit normals (for neighbour search only)."""
    cell = np.where(structure.pbc[:, None], structure.cell, 0.0)
    for axis in np.flatnonzero(~structure.pbc):
        # the right-singular vector of the smallest singular value is normal to all present vectors
        scale = np.linalg.norm(cell, axis=1, keepdims=True)
        cell[axis] = np.linalg.svd(cell / np.where(scale == 0, 1, scale))[2][-1]
    return cell


def wrapped(structure: Structure) -> Structure:
    """The same material with sites in the cell, and centred where it is not periodic: small numbers for float32."""
    cell = completed_cell(structure)
    fractional = structure.positions @ np.linalg.inv(cell)
    away = np.where(structure.pbc, np.floor(fractional), fractional.mean(axis=0))
    return structure._replace(positions=structure.positions - away @ cell)
