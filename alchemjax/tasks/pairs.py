"""What fluctuations of two sites at a time add to the energy of a random alloy: how far one site at a time is enough.

    sum_(i<j) sum_kl w_ik w_jl (E(mean, i = k, j = l) - E(mean, i = k) - E(mean, j = l) + E(mean))

is the next term of the series of `alchemjax.energy`, with the same notation. Pairs further apart than the cutoff, which
see each other through others, add less and are left out; so are the terms of three sites.
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import product

import numpy as np

from alchemjax.calculate import check_kind, with_fluctuations
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import WEIGHT_TOLERANCE
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.crystal import Crystal, make_crystal, operations_of, pair_orbits
from alchemjax.tasks.hessian import Gradient, evaluator

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
