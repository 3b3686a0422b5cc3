"""Whether the tensors U of a symmetric contraction turn as they must when space is rotated and inverted."""

import functools
from math import sqrt

import numpy as np

from .archive import RefusedFile
from .three_j import three_j

TOLERANCE = 2e-6  # of the norm of a path; float32 rounding gives up to 3e-7


@functools.cache
def _generators(degrees: tuple[int, ...]) -> np.ndarray:
    """Two infinitesimal rotations of the real components of these l; the third is their commutator.

    (J_a)[i, k] = sqrt(l (l + 1) (2l + 1)) C[i, a, k], C the 3j tensor of (l, 1, l)
    """
    size = sum(2 * degree + 1 for degree in degrees)
    found, start = np.zeros((2, size, size)), 0
    for degree in degrees:
        end = start + 2 * degree + 1
        if degree:
            norm = sqrt(degree * (degree + 1) * (2 * degree + 1))
            found[:, start:end, start:end] = norm * three_j(degree, 1, degree).transpose(1, 0, 2)[:2]
        start = end
    return found


def check_equivariant(name: str, stored: np.ndarray, output: int, max_ell: int, nu: int) -> None:
    """Refuse U_nu of an output l unless J U - U J_1 - ... - U J_nu = 0 and every parity matches, path by path.

    Raises:
        RefusedFile: a path breaks the symmetry.
    """
    size = (max_ell + 1) ** 2
    u = stored.astype(np.float64).reshape(2 * output + 1, *(size,) * nu, -1)
    changes = []
    for outer, inner in zip(_generators((output,)), _generators(tuple(range(max_ell + 1))), strict=True):
        change = np.tensordot(outer, u, 1)
        for axis in range(1, nu + 1):
            change += np.moveaxis(np.tensordot(inner, u, (1, axis)), 0, axis)
        changes.append(change)
    parity = np.array([(-1) ** degree for degree in range(max_ell + 1) for _ in range(2 * degree + 1)])
    product = np.array((-1) ** output)
    for _ in range(nu):
        product = np.multiply.outer(product, parity)
    changes.append(np.where((product < 0)[None, ..., None], u, 0))
    paths = tuple(range(nu + 1))
    broken = np.sqrt(sum(np.sum(change**2, axis=paths) for change in changes))
    if (broken > TOLERANCE * np.sqrt(np.sum(u**2, axis=paths))).any():
        raise RefusedFile(f"tensor {name} is not equivariant: rotations and inversion must leave it as it is")
