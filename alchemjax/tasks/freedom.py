"""Which sites and which strains may move in a relaxation."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alchemjax.system.structure import Structure


class Freedom(NamedTuple):
    """What may move."""

    free: Float[np.ndarray, "sites 3"]  # 1 where a site may move along a Cartesian axis, else 0
    strains: Float[np.ndarray, "6 3 3"]  # orthonormal basis of the allowed symmetric strains, filled up with zeros


def make_freedom(structure: Structure, *, positions=True, cell=False, fixed_sites=(), fixed_axes=()) -> Freedom:
    """What may move: `cell` is True, False, "hydrostatic", or six flags for the strains xx yy zz yz xz xy.

    `fixed_sites`: indices that keep their fractional coordinates; `fixed_axes`: lattice vectors (0, 1, 2) that stay, in
    length and direction.
    Directions without periodicity are never strained. Errors: ValueError for anything else.
    """
    sites = len(structure.positions)
    free = np.full((sites, 3), float(bool(positions)))
    if any(s not in range(sites) for s in fixed_sites):
        raise ValueError(f"fixed_sites {list(fixed_sites)} must be site indices from 0 to {sites - 1}")
    if any(a not in (0, 1, 2) for a in fixed_axes):
        raise ValueError(f"fixed_axes {list(fixed_axes)} must be lattice vectors 0, 1 or 2")
    free[np.array(fixed_sites, int)] = 0
    strains = np.zeros((6, 3, 3))
    if cell is not False:
        allowed = _allowed_strains(structure, cell, fixed_axes)
        strains[: len(allowed)] = allowed
    return Freedom(free, strains)


def keeps_symmetry(cell, fixed_sites, fixed_axes) -> bool:
    """Whether a relaxation stays in the space group of its start; with fixed sites or strains it may leave it."""
    return isinstance(cell, bool | str) and not len(fixed_sites) and not len(fixed_axes)


def _allowed_strains(structure: Structure, cell, fixed_axes) -> np.ndarray:
    if not structure.pbc.any():
        raise ValueError("the cell of a structure without periodic directions cannot be relaxed; relax positions only")
    basis = np.zeros((6, 3, 3))
    for k, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        basis[k, i, j] = basis[k, j, i] = 1.0 if i == j else np.sqrt(0.5)
    if isinstance(cell, str):
        if cell != "hydrostatic":
            raise ValueError(f"cell = '{cell}' is not understood; use True, False, 'hydrostatic' or six flags")
        if fixed_axes or not structure.pbc.all():
            raise ValueError("hydrostatic strain needs three periodic directions and no fixed axes")
        return (np.eye(3) / np.sqrt(3))[None]
    if cell is not True:
        flags = np.asarray(cell)
        if flags.shape != (6,) or not np.isin(flags, (0, 1)).all():
            raise ValueError(f"cell = {cell} is not understood; use True, False, 'hydrostatic' or six flags")
        basis = basis[flags.astype(bool)]
    # strain S keeps a lattice vector a if a S = 0, and a direction n without periodicity if n S = 0
    kept = [structure.cell[a] for a in fixed_axes]
    if not structure.pbc.all():
        kept += list(np.linalg.svd(structure.cell[structure.pbc])[2][structure.pbc.sum() :])
    if kept and len(basis):
        constraints = np.concatenate([np.einsum("x,kxy->yk", v / np.linalg.norm(v), basis) for v in kept])
        _, singular, vectors = np.linalg.svd(constraints)
        basis = np.einsum("ik,kxy->ixy", vectors[(singular > 1e-9).sum() :], basis)
    if not len(basis):
        raise ValueError("no strain is left free; fix fewer axes, free more strains, or leave the cell as it is")
    return basis
