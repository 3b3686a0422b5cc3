"""Which site takes which species: gradients from the disordered state, with an entropy that is annealed away.

    F(w) = E(w) - T S(w)        S = -k_B sum_sites sum_species w log w

is descended in the logarithms of the weights (mirror descent); after every step rows and columns are scaled (R.
Sinkhorn, Ann. Math. Statist. 35, 876 (1964)), so that sites stay full and amounts stay what they are. What they become
is rounded to whole atoms, two of which change places as long as that lowers the energy; slopes say which are worth it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.special import entr

from alchemjax.calculate import check_kind, derivatives, precision, topology_of
from alchemjax.energy import energy
from alchemjax.model.load import Potential
from alchemjax.system.sites import WEIGHT_TOLERANCE, Sites
from alchemjax.system.structure import wrapped
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.relax import check_limit
from alchemjax.units import KELVIN

SCALINGS = 60  # of rows and columns after every step
LONGEST = 0.7  # largest change of the logarithm of a weight in one step
BROKEN = 0.3  # standard deviation of the first logarithms, which break the symmetry of the disordered state
LEAST = 1e-30  # eV, of a slope
SWAPS = 24  # that are tried at once, those of the steepest slopes
LOWER = 4  # times the round-off of an energy: less is no gain


class Order(NamedTuple):
    """Arrangements of whole atoms, the one of lowest energy first; their energies are those of ordinary atoms."""

    weights: Float[np.ndarray, "found weights"]
    energy: Float[np.ndarray, "found"]  # eV, at the given positions
    found: Int[np.ndarray, "starts"]  # which of them every start came to
    disorder: Float[np.ndarray, "starts"]  # entropy left at the end, in units of that of the mean
    free_energy: Float[np.ndarray, "starts steps"]  # of the mean field on the way, in the order of the starts [eV]
    temperatures: Float[np.ndarray, "steps"]  # K


class Kind(NamedTuple):
    """Sites that may hold the same species, of which they do hold these."""

    places: Int[np.ndarray, "sites species"]  # index into the flat weights; of vacancies the one after the last
    amounts: Float[np.ndarray, "species"]  # of all its sites together


def order(
    potential: Potential,
    system: System,
    weights=None,
    *,
    starts: int = 8,
    first: float = 3000.0,
    last: float = 1.0,
    steps: int = 160,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Order:
    """Arrangements of low energy of the species on the sites, with the amounts that `weights` have.

    `system` has one group for every site (`groups="site"`), at positions that stay: relax what is found. Temperatures
    [K] fall from `first`, where the sites should be disordered, to `last`, in as many `steps`. `starts` searches differ
    in how the symmetry of the disordered state is broken. Where `disorder` is not small at the end, sites had not
    chosen: go to lower temperatures, or do not trust what was found.
    Errors: ValueError for amounts that are not whole, and for numbers out of range.
    """
    check_kind(potential, Potential)
    check_kind(system, System)
    for name, value in {"starts": starts, "steps": steps}.items():
        check_limit("batch", value, f"{name} = {value!r}")
    for name, value in {"first": first, "last": last}.items():
        check_limit("temperature", value, f"{name} = {value!r} K")
    if system.coupling != "independent":
        raise ValueError(f"the coupling is '{system.coupling}', but sites are to order freely; use 'independent'")
    weights = checked_weights(system, weights)
    kinds = _kinds(system.sites, weights)
    near = system._replace(structure=wrapped(system.structure), fluctuations=None)
    temperatures, rng = np.geomspace(first, last, steps), np.random.default_rng(seed)
    mean = [np.broadcast_to(np.log(kind.amounts / len(kind.places)), kind.places.shape) for kind in kinds]
    begun = [one + BROKEN * rng.normal(size=(starts, *one.shape)) for one in mean]
    with precision(potential):
        cast = lambda a: jnp.asarray(a, potential.dtype)
        place = map(cast, (near.structure.positions, near.structure.cell))
        fixed = potential.params, topology_of(potential, near), *place
        descend, energies_of, slope_of = _compiled(potential.node_energies, potential.config)
        exact, free = [Kind(kind.places, cast(kind.amounts)) for kind in kinds], []
        scaled = jax.vmap(_scaled, in_axes=(0, None))
        logs = [scaled(cast(one), kind.amounts) for one, kind in zip(begun, exact, strict=True)]
        for number, temperature in enumerate(temperatures):
            logs, found = descend(*fixed, exact, cast(weights), logs, cast(KELVIN * temperature))
            free.append(np.asarray(found, np.float64))
            if on_step is not None:
                on_step(number + 1, steps)
        soft = [np.exp(np.asarray(one, np.float64)) for one in logs]
        rounded = [_rounded(kinds, weights, [one[k] for one in soft]) for k in range(starts)]
        of = lambda rows: np.asarray(energies_of(*fixed, cast(np.array(rows))), np.float64)
        slope = lambda row: np.asarray(slope_of(*fixed, cast(row)), np.float64)
        rough, which = np.unique(rounded, axis=0, return_inverse=True)
        ended = [_swapped(kinds, row, of, slope, float(np.finfo(potential.dtype).eps)) for row in rough]
        whole, place = np.unique([row for row, _ in ended], axis=0, return_inverse=True)
        energies = np.zeros(len(whole))
        energies[place.ravel()] = [energy for _, energy in ended]
    best = np.argsort(energies, kind="stable")
    left = sum(entr(one).sum((1, 2)) for one in soft) / sum(entr(np.exp(one)).sum() for one in mean)
    return Order(
        whole[best],
        energies[best],
        np.argsort(best)[place.ravel()[which.ravel()]],
        left,
        np.array(free).T,
        temperatures,
    )


def _kinds(sites: Sites, weights) -> list[Kind]:
    """Sites by what they may hold. Errors: ValueError for amounts that are not whole."""
    if not sites.groups:
        raise ValueError("no site is mixed: there is nothing to order")
    if shared := [group.name for group in sites.groups if len(group.sites) > 1]:
        raise ValueError(f"group '{shared[0]}' has several sites, which cannot order; use groups='site'")
    found: dict[frozenset[str], list[list[int]]] = {}
    start = 0
    for group in sites.groups:
        places = [start + group.species.index(s) for s in sorted(group.species)]
        found.setdefault(frozenset(group.species), []).append([*places, len(weights)])
        start += len(group.species)
    kinds = []
    for species, rows in found.items():
        places = np.array(rows)
        held = np.append(weights, 0.0)[places]
        held[:, -1] = 1 - held[:, :-1].sum(1)
        amounts = held.sum(0)
        if np.abs(amounts - np.rint(amounts)).max() > WEIGHT_TOLERANCE * len(rows) * len(species):
            shown = ", ".join(f"{a:g} {s}" for s, a in zip([*sorted(species), "vacancies"], amounts, strict=True))
            raise ValueError(f"{len(rows)} sites hold {shown}; order needs whole atoms: change weights or the cell")
        there = np.rint(amounts) > 0
        kinds.append(Kind(places[:, there], np.rint(amounts)[there]))
    return kinds


@lru_cache(maxsize=16)
def _compiled(node_energies, config) -> tuple[Callable, Callable, Callable]:
    """One step of all searches, energies of arrangements, and the slope of one of them."""

    def one(params, topology, positions, cell, kinds, weights, logs, temperature):
        zero = jnp.zeros_like(temperature)
        out = derivatives(
            node_energies, config, params, topology, positions, cell, _flat(kinds, weights, map(jnp.exp, logs)), zero
        )
        slopes = [jnp.append(out.weights, 0)[kind.places] for kind in kinds]  # a vacancy has none
        free = out.energy + temperature * sum(jnp.sum(jnp.exp(own) * own) for own in logs)
        push = [slope + temperature * own for slope, own in zip(slopes, logs, strict=True)]
        # what is alike for all sites or for all species is scaled away, and is no reason for a short step
        push = [a - jnp.mean(a, axis=1, keepdims=True) for a in push]
        push = [a - jnp.mean(a, axis=0, keepdims=True) for a in push]
        steep = jnp.max(jnp.stack([jnp.max(jnp.abs(a)) for a in push]))
        length = jnp.minimum(0.5 / temperature, LONGEST / jnp.maximum(steep, LEAST))
        moved = [_scaled(own - length * a, kind.amounts) for own, a, kind in zip(logs, push, kinds, strict=True)]
        return moved, free

    def evaluate(params, topology, positions, cell, weights):
        return energy(node_energies, config, params, topology, positions, cell, weights, jnp.zeros_like(cell[0, 0]))[0]

    every = jax.jit(jax.vmap(evaluate, in_axes=(None,) * 4 + (0,)))
    return jax.jit(jax.vmap(one, in_axes=(None,) * 6 + (0, None))), every, jax.jit(jax.grad(evaluate, 4))


def _flat(kinds: list[Kind], weights, parts) -> Float[Array, "weights"]:
    """The flat weights of which sites hold these parts."""
    flat = jnp.zeros(len(weights) + 1, weights.dtype)
    for kind, part in zip(kinds, parts, strict=True):
        flat = flat.at[kind.places].set(part)
    return flat[:-1]


def _scaled(logs: Float[Array, "sites species"], amounts: Float[Array, "species"]) -> Float[Array, "sites species"]:
    """Every site full, and every species as much as there is."""
    aim = jnp.log(amounts)[None]

    def both(_, logs):
        logs = logs - logsumexp(logs, axis=0, keepdims=True) + aim
        return logs - logsumexp(logs, axis=1, keepdims=True)

    return lax.fori_loop(0, SCALINGS, both, logs)


def _swapped(kinds: list[Kind], row, energies_of: Callable, slope_of: Callable, round_off: float):
    """An arrangement no swap of which is known to be lower, and its energy."""
    while True:
        tried = [row, *_swaps(kinds, row, slope_of(row))]
        energies = energies_of(tried + [row] * (SWAPS + 1 - len(tried)))  # of one shape: one compilation
        best = int(np.argmin(energies))
        if not energies[best] < energies[0] - LOWER * round_off * abs(energies[0]):
            return row, float(energies[0])
        row = tried[best]


def _swaps(kinds: list[Kind], row, slope) -> list[Float[np.ndarray, "weights"]]:
    """Arrangements in which two sites have changed places, those of the steepest descent."""
    row, slope, found = np.append(row, 0.0), np.append(slope, 0.0), []
    for kind in kinds:
        sites = np.arange(len(kind.places))
        flat = row[kind.places]
        flat[:, -1] = np.where(flat[:, :-1].sum(1) < 0.5, 1, flat[:, -1])  # empty, if vacancies are among the species
        held, slopes = flat.argmax(1), slope[kind.places]
        other = slopes[:, held] - slopes[sites, held][:, None]  # of a site that gets what another holds
        change = other + other.T
        for i, j in zip(*np.triu_indices(len(sites), 1), strict=True):
            if held[i] != held[j]:
                found.append((change[i, j], kind.places[[i, i, j, j], held[[i, j, i, j]]]))
    rows = []
    for _, (own, new, same, old) in sorted(found, key=lambda swap: swap[0])[:SWAPS]:
        swapped = row.copy()
        swapped[[own, old]], swapped[[new, same]] = 0, 1
        rows.append(swapped[:-1])
    return rows


def _rounded(kinds: list[Kind], weights, soft) -> Float[np.ndarray, "weights"]:
    """The whole atoms that are nearest to these weights of every kind."""
    flat = np.zeros(len(weights) + 1)
    for kind, part in zip(kinds, soft, strict=True):
        slots = np.repeat(np.arange(len(kind.amounts)), kind.amounts.astype(int))  # one for every atom
        rows, chosen = linear_sum_assignment(-part[:, slots])
        flat[kind.places[rows, slots[chosen]]] = 1
    return flat[:-1]
