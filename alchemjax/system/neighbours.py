"""Who sees whom: neighbour pairs of any cell, found on the host."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from vesin import NeighborList

from alchemjax.system.structure import MINIMUM_DISTANCE, Structure, completed_cell

LARGEST_EXTENT = 1e4  # A, along directions without periodicity: the search divides it into cells of the cutoff's size


class Pairs(NamedTuple):
    """Directed pairs, sorted by receiver; r = x[sender] - x[receiver] + shift . cell."""

    receiver: Int[np.ndarray, "pairs"]
    sender: Int[np.ndarray, "pairs"]
    shift: Int[np.ndarray, "pairs 3"]  # whole lattice vectors


def find_pairs(structure: Structure, cutoff: float, *, minimum: float = MINIMUM_DISTANCE) -> Pairs:
    """All pairs closer than the cutoff [A], periodic images and self-images included.

    Right for cells smaller than the cutoff, triclinic, left-handed, and periodic in any subset of directions.
    Errors: ValueError when two sites are closer than the minimum, or far apart where nothing is periodic.
    """
    cell = completed_cell(structure)
    extent = np.ptp(structure.positions @ np.linalg.inv(cell), axis=0)[~structure.pbc].max(initial=0)
    if extent > LARGEST_EXTENT:
        raise ValueError(
            f"the sites reach over {extent:.3g} A along a direction without periodicity; at most {LARGEST_EXTENT:g} A "
            "are allowed: move distant parts closer, or calculate them one by one"
        )
    search = NeighborList(cutoff=float(cutoff), full_list=True, sorted=True)
    i, j, shift, distance = search.compute(
        points=np.ascontiguousarray(structure.positions, np.float64),
        box=cell,
        periodic=structure.pbc,
        quantities="ijSd",
    )
    if len(distance) and distance.min() < minimum:
        k = int(np.argmin(distance))
        raise ValueError(
            f"sites {int(i[k])} and {int(j[k])} are {distance[k]:.3g} A apart (image {np.asarray(shift[k]).tolist()}); "
            f"sites must be at least {minimum} A apart: remove the duplicate or mix the species on one site"
        )
    return Pairs(i.astype(np.int64), j.astype(np.int64), shift.astype(np.int64))


def nearest_distance(structure: Structure) -> float:
    """Distance of the two sites that are nearest to each other [A]."""
    cutoff = 3.0
    while not len((pairs := find_pairs(structure, cutoff)).sender) and cutoff < 100:
        cutoff *= 2
    if not len(pairs.sender):
        return np.inf
    apart = structure.positions[pairs.sender] - structure.positions[pairs.receiver] + pairs.shift @ structure.cell
    return float(np.linalg.norm(apart, axis=1).min())
