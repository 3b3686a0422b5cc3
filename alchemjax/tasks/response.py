"""How the atoms of an alloy and its cell respond to what sites hold, in second order."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alchemjax.system.structure import Structure
from alchemjax.tasks.crystal import Crystal
from alchemjax.tasks.hessian import Hessian
from alchemjax.tasks.states import States, everywhere, of_states, symmetric

SOFT = 1e-4  # of the largest curvature: less is zero, but for round-off
FLAT = 1e-6  # eV/A^2
STRAIGHT = 1e-3  # A, from an axis


class Response(NamedTuple):
    """Interactions through displacements, the displacements, and how sites couple to strain; as in `Alloy`."""

    pair: Float[np.ndarray, "mixed cells mixed states states"]
    displacement: Float[np.ndarray, "mixed states supersites 3"]
    strain_force: Float[np.ndarray, "mixed states 6"]
    stiffness: Float[np.ndarray, "6 6"] | None  # None if not periodic in every direction
    softest: float
    inverse: Float[np.ndarray, "coordinates coordinates"]  # Huu^+ [A^2/eV]
    following: Float[np.ndarray, "supersites 3 6"]  # displacements of all sites by strain [A]


def make_response(crystal: Crystal, states: States, hessian: Hessian) -> Response:
    """Errors: ValueError if the crystal is unstable against displacements or strain."""
    supersites = len(crystal.supercell.origin)
    force = of_states(hessian.weights_positions, states)  # [mixed, states, supersites, 3]
    stiffness = everywhere(hessian.positions_positions.transpose(0, 2, 1, 3), crystal)
    stiffness = np.moveaxis(stiffness, 2, 1).reshape(3 * supersites, -1)
    strained = np.tile(hessian.positions_strain, (crystal.cells, 1, 1)).reshape(3 * supersites, -1)
    rotations = _rotations(crystal.system.structure)
    softest, inverse = _inverse((stiffness + stiffness.T) / 2, supersites, rotations)
    moved = -force.reshape(-1, 3 * supersites) @ inverse
    other = np.moveaxis(everywhere(np.moveaxis(force, 2, 1), crystal), 1, 2)
    pair = moved @ other.reshape(-1, 3 * supersites).T
    pair = pair.reshape(*states.weights.shape, crystal.cells, *states.weights.shape).transpose(0, 2, 3, 1, 4)
    pair = symmetric(pair, crystal)
    coupling = of_states(hessian.weights_strain, states) + (moved @ strained).reshape(*states.weights.shape, 6)
    following = -inverse @ strained
    placed = following.reshape(supersites, 3, -1)
    found = Response(pair, moved.reshape(force.shape), coupling, None, softest, inverse, placed)
    if not crystal.system.structure.pbc.all():
        return found
    elastic = (hessian.strain_strain + strained.T @ following) / crystal.cells
    elastic = (elastic + elastic.T) / 2
    if (least := np.linalg.eigvalsh(elastic)[0]) < SOFT * np.abs(elastic).max():
        raise ValueError(
            f"a strain of the cell does not raise its energy (curvature {least:.3g} eV): if a direction is vacuum, "
            "make it non-periodic; relax the structure first, or keep atoms and cell as they are (relaxed=False)"
        )
    return found._replace(stiffness=elastic)


def _rotations(structure: Structure) -> int:
    """How many rotations cost no energy: those of a molecule, of which a linear one has two, or of a chain."""
    if structure.pbc.sum() > 1:
        return 0
    axes = structure.cell[structure.pbc] if structure.pbc.any() else np.eye(3)
    moved = np.cross(axes[:, None], structure.positions - structure.positions.mean(0)).reshape(len(axes), -1)
    sizes = np.linalg.svd(moved, compute_uv=False)
    return int((sizes > STRAIGHT * len(structure.positions) ** 0.5 * np.linalg.norm(axes, axis=1).max()).sum())


def _inverse(stiffness, supersites: int, rotations: int):
    """Smallest eigenvalue but for translations and so many rotations, and the inverse without them.

    Errors: ValueError if the crystal is unstable.
    """
    translation = np.tile(np.eye(3), (supersites, 1)) / supersites**0.5
    aside, apart = np.eye(len(stiffness)) - translation @ translation.T, 2 * np.abs(stiffness).sum(1).max() + 1
    # translations get an eigenvalue of their own, so that no other vector mixes with them
    values, vectors = np.linalg.eigh(aside @ stiffness @ aside - apart * translation @ translation.T)
    rest = 3 + np.sort(np.argsort(np.abs(values[3:]))[rotations:])
    values, vectors = values[rest], vectors[:, rest]
    largest = values.max(initial=FLAT)
    if len(values) and values.min() < SOFT * largest:
        raise ValueError(
            f"the crystal is unstable at the mean composition: {(values < SOFT * largest).sum()} displacements do not "
            f"raise its energy, the smallest curvature is {values.min():.3g} eV/A^2; relax the structure first, or "
            "keep the atoms on their sites (relaxed=False)"
        )
    return float(values.min(initial=np.inf)), (vectors / values) @ vectors.T
