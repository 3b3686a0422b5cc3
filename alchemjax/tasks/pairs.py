"""What fluctuations of two sites at a time add to the energy of a random alloy: how far one site at a time is enough.

    sum_(i<j) sum_kl w_ik w_jl (E(mean, i = k, j = l) - E(mean, i = k) - E(mean, j = l) + E(mean))

is the next term of the series of `alchemjax.energy`, with the same notation. Pairs further apart than the cutoff, which
see each other through others, add less and are left out; so are the terms of three sites.
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alchemjax.calculate import check_kind, with_fluctuations
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import WEIGHT_TOLERANCE
from alchemjax.system.structure import completed_cell
from alchemjax.system.supercell import numbering
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.hessian import Crystal, Gradient, evaluator, make_crystal, operations_of

PAIR_LIMIT = 0.001  # eV per site: a larger term makes the energy of the random alloy doubtful


def pair_fluctuations(
    potential: Potential,
    system: System,
    weights=None,
    *,
    supercell=None,
    on_rows: Callable[[int, int], None] | None = None,
) -> float:
    """What fluctuations of two neighbouring sites at a time would add to the energy of a random alloy [eV per cell].

    The next term of the series: where it is large, energies with fluctuations of one site at a time are uncertain.
    Arguments as in `calculate`; the supercell is by default that of the system's fluctuations, if it has some.
    `on_rows(done, number)` is called from time to time. Errors: ValueError as in `calculate`.
    """
    check_kind(potential, Potential)
    check_kind(system, System)
    weights = checked_weights(system, weights)
    if supercell is None and system.fluctuations is not None:
        supercell = system.fluctuations.supercell.matrix
    system = with_fluctuations(potential, system._replace(fluctuations=None), "site-exact", supercell)
    if system.fluctuations is None:
        return 0.0
    crystal = make_crystal(system, system.fluctuations, weights)
    arrangements, factors = _arrangements(crystal, system.fluctuations, potential.cutoff)
    if not len(factors):
        return 0.0
    energies = evaluator(potential, crystal)(_site_energies_with, arrangements, on_rows).sum(1)  # in float64
    return float(factors @ energies)


def _site_energies_with(of, point: Gradient, weights):
    return of(weights, *point[1:])[1]


def _arrangements(crystal: Crystal, fluctuations: Fluctuations, cutoff: float):
    """Weights of the supercell [rows, superweights], and by what their energies are to be multiplied."""
    mean, site_of, sites = crystal.system.weights, crystal.site, len(crystal.supercell.origin) // crystal.cells
    own = {site: np.flatnonzero(site_of == site) for site in np.unique(site_of).tolist()}
    chances = {site: np.append(mean[which], 1 - mean[which].sum()) for site, which in own.items()}  # vacancy last
    states = {site: np.flatnonzero(chance > WEIGHT_TOLERANCE).tolist() for site, chance in chances.items()}
    mixed = [site for site in states if len(states[site]) > 1 and site < sites]
    near = find_pairs(crystal.system.structure, cutoff)
    near = set(zip(near.receiver.tolist(), near.sender.tolist(), strict=True))
    first = operations_of(crystal, fluctuations).first
    factors: defaultdict[tuple, float] = defaultdict(float)  # by what some sites hold
    for orbit in pair_orbits(crystal, fluctuations, mixed):
        if orbit.pair not in near:
            continue
        i, j = orbit.pair
        number = len({pair for pair, _, _ in orbit.members}) / 2
        for k, l in product(states[i], states[j]):
            factors[(i, k), (j, l)] += number * chances[i][k] * chances[j][l]
        for site in (i, int(first[crystal.supercell.origin[j]])):
            for k in states[site]:
                factors[((site, k),)] -= number * chances[site][k]
        factors[()] += number
    rows = np.tile(mean, (len(factors), 1))
    for row, held in zip(rows, factors, strict=True):
        for site, k in held:
            row[own[site]] = np.arange(len(own[site])) == k
    return rows, np.array(list(factors.values()))


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
    cell = np.linalg.inv(crystal.supercell.matrix) @ completed_cell(crystal.system.structure)
    numbers, image, _, of_supercell = operations_of(crystal, fluctuations)
    turns = np.linalg.inv(cell) @ fluctuations.variants.rotation[numbers].transpose(0, 2, 1) @ cell
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
