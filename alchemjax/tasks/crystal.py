"""The supercell of a random alloy, and its symmetry: where operations take sites, and which pairs are equivalent."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alchemjax.system.fluctuations import Fluctuations
from alchemjax.system.structure import completed_cell, wrapped
from alchemjax.system.supercell import Supercell, adjugate, numbering, repeated
from alchemjax.system.system import System


class Crystal(NamedTuple):
    """The supercell of a random alloy at its mean composition, ready for evaluations."""

    system: System  # of the supercell, every site of it with its own weights
    supercell: Supercell
    site: Int[np.ndarray, "superweights"]  # of the supercell, that a weight belongs to
    cells: int


def make_crystal(system: System, fluctuations: Fluctuations, weights: Float[np.ndarray, "weights"]) -> Crystal:
    """The supercell that `fluctuations` have chosen."""
    supercell, sites = fluctuations.supercell, fluctuations.sites
    own = np.asarray(weights)[fluctuations.variants.weight]
    large = System(repeated(wrapped(system.structure), supercell), sites, own, "independent")
    site = np.repeat([g.sites[0] for g in sites.groups], [len(g.species) for g in sites.groups])
    return Crystal(large, supercell, site, len(supercell.origin) // len(system.structure.positions))


class Operations(NamedTuple):
    """Those of the space group that take the lattice of the supercell to itself."""

    numbers: Int[np.ndarray, "operations"]  # in that of the crystal
    image: Int[np.ndarray, "operations sites"]
    first: Int[np.ndarray, "sites"]  # first of the sites that are equivalent to each
    turn: Float[np.ndarray, "operations 3 3"]  # of row vectors, Cartesian
    of_supercell: Callable  # where one, by its number, takes all sites, bringing the given one into the first cell


def operations_of(crystal: Crystal, fluctuations: Fluctuations) -> Operations:
    """The symmetry of the supercell, which may lack rotations of the crystal."""
    variants, (matrix, origin, _) = fluctuations.variants, crystal.supercell
    sites, structure = len(variants.first), crystal.system.structure
    whole = (matrix @ variants.rotation.transpose(0, 2, 1) @ adjugate(matrix)) % crystal.cells == 0
    numbers = np.flatnonzero(whole.all((1, 2)))
    fractional = structure.positions @ np.linalg.inv(completed_cell(structure)) @ matrix
    cell_of = numbering(crystal.supercell, sites)

    def of_supercell(number: int, site: int) -> Int[np.ndarray, "supersites"]:
        there = variants.image[number][origin]
        moved = fractional @ variants.rotation[number].T + variants.translation[number]
        away = np.round(moved - fractional[there]).astype(int)
        return cell_of(away - away[site]) * sites + there

    image = np.asarray(variants.image)[numbers]
    cell = np.linalg.inv(matrix) @ completed_cell(structure)
    turn = np.linalg.inv(cell) @ variants.rotation[numbers].transpose(0, 2, 1) @ cell
    return Operations(numbers, image, image.min(axis=0), turn, of_supercell)


def moves_of(crystal: Crystal, fluctuations: Fluctuations):
    """For every site of the cell how an operation takes the first of its equivalents there, and which that is.

    An operation is the image of every site of the supercell and the matrix by which row vectors turn.
    """
    numbers, image, first, turn, of_supercell = operations_of(crystal, fluctuations)
    moves = []
    for site, start in enumerate(first.tolist()):
        which = np.flatnonzero(image[:, start] == site)[0]
        moves.append((of_supercell(numbers[which], start), turn[which]))
    return moves, first.tolist()


class Orbit(NamedTuple):
    """Equivalent pairs of a site of the cell and one of the supercell."""

    pair: tuple[int, int]  # one of them
    members: list[tuple[tuple[int, int], Float[np.ndarray, "3 3"], bool]]  # how row vectors turn, and ends exchange
    exchanges: bool  # whether its two sites can be exchanged


def pair_orbits(crystal: Crystal, fluctuations: Fluctuations, mixed) -> list[Orbit]:
    """All pairs of these sites of the cell with their like in the supercell, by the symmetry of the supercell.

    Of a pair and its exchange, which is one of the cell again, each is among the members of the same orbit.
    """
    mixed, origin = [int(site) for site in mixed], crystal.supercell.origin
    sites = len(origin) // crystal.cells
    numbers, image, _, turns, of_supercell = operations_of(crystal, fluctuations)
    moved = {site: np.stack([of_supercell(number, site) for number in numbers]) for site in mixed}
    cell_of, shift = numbering(crystal.supercell, sites), crystal.supercell.shift
    found, known = [], set()
    for i, j in product(mixed, np.flatnonzero(np.isin(origin, mixed)).tolist()):
        if i == j or (i, j) in known:
            continue
        back = int(origin[j]), int(cell_of(shift[i] - shift[j])) * sites + i  # the same pair, from its other end
        members, seen = [], {False: set(), True: set()}
        for exchanged, (one, two) in enumerate([(i, j), back]):
            for operation, turn in enumerate(turns):
                pair = int(image[operation, one]), int(moved[one][operation, two])
                if pair not in seen[bool(exchanged)]:
                    seen[bool(exchanged)].add(pair)
                    members.append((pair, turn, bool(exchanged)))
        known |= seen[False] | seen[True]
        found.append(Orbit((i, j), members, (i, j) in seen[True]))
    return found
