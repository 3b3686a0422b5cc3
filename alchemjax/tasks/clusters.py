"""One or two sites of a random alloy in given states: energies to all orders, and what the atoms around them do.

What two sites do is beyond what each of them does: of any quantity, on ideal sites or at rest,

    A(i = k, j = l) - A(i = k) - A(j = l) + A,            all other sites being mean
"""

from collections.abc import Callable, MutableMapping
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations
from alchemjax.system.structure import completed_cell
from alchemjax.tasks.crystal import Crystal, moves_of, pair_orbits
from alchemjax.tasks.hessian import (
    ROWS_AT_ONCE,
    STRAINS,
    VOIGT,
    Gradient,
    by_strains,
    by_two_strains,
    evaluator,
)
from alchemjax.tasks.response import Response
from alchemjax.tasks.states import VACANCY, States, everywhere, of_states, symmetric

STEPS = 100
AT_REST = 10  # times the round-off of the potential's numbers: energy that a further step would gain [eV]
CLOSER = 0.3  # the same: steps go on to here as long as each halves it, since strain and stiffness are less forgiving
LENGTHS = 0.3, 3.0  # of a step, that of the mean crystal's curvature being 1
FAR = 3  # times what second order gains: such displacements are those of another crystal
SMALL = 1e-4  # eV
SKIN = 0.6  # A, by which two atoms may approach each other
STRETCH = 0.01  # strains between which first derivatives by strain are compared


class Moved(NamedTuple):
    """At other positions."""

    energies: Float[Array, "supersites"]  # of all sites [eV]
    gradient: Gradient


class Medium(NamedTuple):
    """The random alloy around clusters."""

    crystal: Crystal
    states: States
    evaluate: Callable  # weights [rows, superweights], displacements and strains -> Moved
    mean: Moved
    inverse: Float[np.ndarray, "coordinates coordinates"] | None  # of the stiffness [A^2/eV]; without, nothing moves
    following: Float[np.ndarray, "supersites 3 6"] | None  # displacements by strain [A]; None if no cell strains
    elastic: Float[np.ndarray, "3 3 3 3"]  # second derivatives of the mean by strain [eV]
    dtype: str


class Singles(NamedTuple):
    """What single sites do to the crystal at its mean composition."""

    energy: float  # of the mean [eV per cell]
    field: Float[np.ndarray, "mixed states"]  # E(mean, site = state) - E(mean) [eV]
    first_order: Float[np.ndarray, "mixed states"]  # the same [eV]
    largest_force: float  # of the random alloy on its sites [eV/A]
    residual: Float[np.ndarray, "6"]  # its dE/dstrain [eV per cell]
    pull: Float[np.ndarray, "mixed supersites 3"]  # dE/dpositions by a site in the mean over its states [eV/A]
    balanced: Float[np.ndarray, "mixed 3 3"]  # the same, dE/dstrain [eV]
    gained: Float[np.ndarray, "mixed states"]  # until the atoms are at rest [eV]
    moved: Float[np.ndarray, "mixed states supersites 3"]  # A
    strain: Float[np.ndarray, "mixed states 3 3"]  # dE/dstrain but for what the random alloy's structure balances [eV]
    elastic: Float[np.ndarray, "mixed states 3 3 3 3"]  # second derivatives by strain, beyond those of the mean [eV]
    at_rest: Bool[np.ndarray, "mixed states"]  # where atoms do not come to rest, second order in displacements


class Pairs(NamedTuple):
    """What two sites do together; 0 for a site and its own images."""

    energy: Float[np.ndarray, "mixed cells mixed states states"]  # eV
    gained: Float[np.ndarray, "mixed cells mixed states states"]  # eV
    strain: Float[np.ndarray, "mixed cells mixed states states 27"]  # 6 first and 21 second derivatives by strain [eV]
    at_rest: Bool[np.ndarray, "mixed cells mixed states states"]  # in all states; where not, the latter two are 0
    round_off: float  # of energies, as it may add up in all pairs [eV per cell]


def make_medium(potential: Potential, crystal: Crystal, states: States, response: Response | None) -> Medium:
    """`response` of the mean crystal, or None for atoms that stay on their sites."""
    skin = 0.0 if response is None else SKIN + STRETCH * potential.cutoff
    evaluate = partial(evaluator(potential, crystal, skin=skin), gradient_at)
    at = crystal.system.weights[None], np.zeros((1, *crystal.system.structure.positions.shape))
    mean = jax.tree.map(lambda a: a[0], evaluate((*at, np.zeros((1, 3, 3)))))
    inverse = None if response is None else response.inverse
    following = None if response is None or response.stiffness is None else response.following
    medium = Medium(crystal, states, evaluate, mean, inverse, following, np.zeros((3,) * 4), potential.dtype)
    return medium._replace(elastic=_elastic(medium, *at)[0])


def single_sites(medium: Medium, fluctuations: Fluctuations) -> Singles:
    """Of the inequivalent sites from the potential, of all others by symmetry.

    All other sites of a random alloy at rest balance what a site does in the mean over its states: these forces, and
    this strain, are taken off.
    """
    states, mean = medium.states, medium.mean
    moves, first = moves_of(medium.crystal, fluctuations)
    place = {site: m for m, site in enumerate(states.site.tolist())}
    source = [place[first[site]] for site in place]
    rows = [(m, int(k)) for m in sorted(set(source)) for k in np.flatnonzero(states.allowed[m])]
    held = [{int(states.site[m]): k} for m, k in rows]
    weights = np.stack([_weights(medium, own) for own in held])
    on_sites = _evaluate(medium, weights)
    chance = np.array([[states.weights[m, k] * (m == other) for m, k in rows] for other in range(len(place))])
    pull = np.tensordot(chance, on_sites.gradient.positions - mean.gradient.positions, 1)
    balanced = np.tensordot(chance, on_sites.gradient.strain - mean.gradient.strain, 1)
    force = np.stack([_balance(medium, pull[m], own) for (m, _), own in zip(rows, held, strict=True)])
    end, gained, moved, rest = _come_to_rest(medium, weights, on_sites, force)
    strain = end.gradient.strain - mean.gradient.strain - balanced[[m for m, _ in rows]]
    elastic = _elastic(medium, weights, moved) - medium.elastic
    field = (on_sites.energies - mean.energies).sum(1)  # in float64, site by site

    found, number = _no_singles(medium), {row: i for i, row in enumerate(rows)}
    for m, site in enumerate(states.site.tolist()):
        image, turn = moves[site]
        allowed = np.flatnonzero(states.allowed[m])
        own = [number[source[m], k] for k in allowed]
        found.field[m, allowed], found.gained[m, allowed] = field[own], gained[own]
        found.at_rest[m, allowed] = rest[own]
        found.moved[m, allowed[:, None], image] = moved[own] @ turn
        found.strain[m, allowed] = turn.T @ strain[own] @ turn
        found.elastic[m, allowed] = _turned(elastic[own], turn)
        found.pull[m, image] = pull[source[m]] @ turn
        found.balanced[m] = turn.T @ balanced[source[m]] @ turn
    slope, residual = _of_random_alloy(medium, fluctuations, found)
    return found._replace(largest_force=float(np.linalg.norm(slope, axis=-1).max()), residual=residual)


def _no_singles(medium: Medium) -> Singles:
    """Tables to be filled."""
    states, mean, shape = medium.states, medium.mean, medium.states.weights.shape
    own = mean.gradient.weights[: len(mean.gradient.weights) // medium.crystal.cells]
    return Singles(
        energy=mean.energies.sum() / medium.crystal.cells,
        field=np.zeros(shape),
        first_order=of_states(own, states),
        largest_force=0.0,
        residual=np.zeros(6),
        pull=np.zeros((len(states.site), *mean.gradient.positions.shape)),
        balanced=np.zeros((len(states.site), 3, 3)),
        gained=np.zeros(shape),
        moved=np.zeros((*shape, *mean.gradient.positions.shape)),
        strain=np.zeros((*shape, 3, 3)),
        elastic=np.zeros((*shape, 3, 3, 3, 3)),
        at_rest=np.ones(shape, bool),
    )


def _of_random_alloy(medium: Medium, fluctuations: Fluctuations, singles: Singles):
    """dE/dpositions of the sites of the cell and dE/dstrain, with the symmetry of the crystal."""
    crystal, variants = medium.crystal, fluctuations.variants
    both = (medium.mean.gradient.positions / crystal.cells + singles.pull.sum(0)).reshape(crystal.cells, -1, 3).sum(0)
    tensor = medium.mean.gradient.strain / crystal.cells + singles.balanced.sum(0)
    cell = np.linalg.inv(crystal.supercell.matrix) @ completed_cell(crystal.system.structure)
    turns = np.linalg.inv(cell) @ variants.rotation.transpose(0, 2, 1) @ cell
    slope = np.zeros_like(both)
    np.add.at(slope, variants.image, both @ turns / len(turns))
    return slope, by_strains(np.einsum("gca,cd,gdb->ab", turns, tensor, turns)) / len(turns)


def pairs_of_sites(
    medium: Medium,
    fluctuations: Fluctuations,
    singles: Singles,
    on_rows: Callable[[int, int], None] | None = None,
    known: MutableMapping[int, tuple] | None = None,
) -> Pairs:
    """Of the inequivalent pairs of the supercell from the potential, of all others by symmetry.

    `on_rows(done, all)` is called after every few of them. What is in `known`, by number, is not evaluated again; what
    is not is added.
    """
    known = {} if known is None else known
    crystal, states = medium.crystal, medium.states
    sites = len(crystal.supercell.origin) // crystal.cells
    mixed = np.full(sites, -1)
    mixed[states.site] = np.arange(len(states.site))
    mixed = mixed[crystal.supercell.origin]  # of all sites of the supercell
    orbits = pair_orbits(crystal, fluctuations, states.site)
    rows = []
    for number, orbit in enumerate(orbits):
        allowed = [np.flatnonzero(states.allowed[mixed[j]]).tolist() for j in orbit.pair]
        rows += [(number, k, l) for k, l in product(*allowed) if k <= l or not orbit.exchanges]
    shape = len(states.site), crystal.cells, len(states.site), len(states.species), len(states.species)
    found = Pairs(np.zeros(shape), np.zeros(shape), np.zeros((*shape, 27)), np.ones(shape, bool), 0.0)
    around = _everywhere(medium, singles)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = range(start, min(start + ROWS_AT_ONCE, len(rows)))
        if not all(row in known for row in some):
            held = [dict(zip(orbits[number].pair, ends, strict=True)) for number, *ends in (rows[row] for row in some)]
            for row, beyond in zip(some, _beyond_singles(medium, singles, around, mixed, held), strict=True):
                known[row] = beyond
        for row in some:
            (number, k, l), (energy, gained, strain, elastic, calm) = rows[row], known[row]
            for (i, j), turn, exchanged in orbits[number].members:
                where = mixed[i], j // sites, mixed[j], *((l, k) if exchanged else (k, l))
                found.energy[where], found.gained[where], found.at_rest[where] = energy, gained, calm
                first, second = by_strains(turn.T @ strain @ turn), by_two_strains(_turned(elastic, turn))
                found.strain[where] = np.append(first, second)
        if on_rows is not None:
            on_rows(some[-1] + 1, len(rows))
    calm = np.broadcast_to(found.at_rest.all((3, 4), keepdims=True), shape)
    energy, gained, strain = (symmetric(table, crystal) for table in found[:3])
    # equivalent sites of the ideal crystal all have the same one, a quarter of the last digit in the mean
    one = float(np.finfo(medium.dtype).eps / 4 * np.abs(medium.mean.energies).sum())
    number = len(states.site) * (len(states.site) * crystal.cells - 1) / 2
    return Pairs(energy, np.where(calm, gained, 0), np.where(calm[..., None], strain, 0), calm, one * number)


def _everywhere(medium: Medium, singles: Singles):
    """`pull` and `moved` for all mixed sites of the supercell, [cells, mixed, ...]."""
    crystal = medium.crystal
    in_cells = lambda table: everywhere(table, crystal).reshape(crystal.cells, *table.shape)
    return in_cells(singles.pull), np.moveaxis(in_cells(np.moveaxis(singles.moved, 2, 1)), 2, 3)


def _beyond_singles(medium: Medium, singles: Singles, around, mixed, held: list[dict[int, int]]):
    """Of every one of some pairs.

    Energy on the sites, energy gained, first and second derivatives by strain, and whether atoms are at rest.
    """
    mean, (pull, moved) = medium.mean, around
    sites = len(mixed) // medium.crystal.cells
    places = [[(j // sites, mixed[j], k) for j, k in both.items()] for both in held]
    weights = np.stack([_weights(medium, both) for both in held])
    on_sites = _evaluate(medium, weights)
    pulls = [sum(pull[c, m] for c, m, _ in both) for both in places]
    force = np.stack([_balance(medium, own, both) for own, both in zip(pulls, held, strict=True)])
    near = np.stack([sum(moved[place] for place in both) for both in places])
    end, gained, moved, rest = _come_to_rest(medium, weights, on_sites, force, near)
    elastic = _elastic(medium, weights, moved) - medium.elastic
    for row, both in enumerate(places):
        alone = lambda table, both=both: sum(table[m, k] for _, m, k in both)
        energy = (on_sites.energies[row] - mean.energies).sum() - alone(singles.field)
        strain = end.gradient.strain[row] - mean.gradient.strain - sum(singles.balanced[m] for _, m, _ in both)
        calm = bool(rest[row]) and all(singles.at_rest[m, k] for _, m, k in both)
        stiffer = elastic[row] - alone(singles.elastic)
        yield energy, gained[row] - alone(singles.gained), strain - alone(singles.strain), stiffer, calm


def _weights(medium: Medium, held: dict[int, int]) -> Float[np.ndarray, "superweights"]:
    """Of the supercell, sites of which are in given states."""
    crystal, states = medium.crystal, medium.states
    weights = crystal.system.weights.copy()
    for site, k in held.items():
        own = np.flatnonzero(crystal.site == site)
        (m,) = np.flatnonzero(states.site == crystal.supercell.origin[site])
        weights[own] += states.deviation[m, k, : len(own)]
    return weights


def _balance(medium: Medium, pull, held: dict[int, int]) -> Float[np.ndarray, "supersites 3"]:
    """The slope that all other sites balance, of clusters that pull so. What is not there feels nothing."""
    slope = medium.mean.gradient.positions + pull
    empty = [site for site, k in held.items() if medium.states.species[k] == VACANCY]
    slope[empty] = 0
    if 0 < len(empty) < len(slope):
        there = np.setdiff1d(np.arange(len(slope)), empty)
        slope[there] -= slope.sum(0) / len(there)  # the rest feel no net force
    return slope


def _come_to_rest(medium: Medium, weights, on_sites: Moved, balance, near=None):
    """Every row of weights with atoms moved under these forces more, the energy gained, and whether it is at rest.

    Steps, from `near` on if given, are those of Newton with the mean crystal's stiffness, as long as two gradients say
    (J. Barzilai, J. Borwein, IMA J. Numer. Anal. 8, 141 (1988)). Where atoms go far away, to another crystal, they
    stay on their sites, and gain what the mean crystal's stiffness says.
    """
    rows, moved = len(weights), np.zeros_like(balance) if near is None else near
    if medium.inverse is None:
        return on_sites, np.zeros(rows), moved, np.ones(rows, bool)
    far = np.array([_apart(own) > SKIN for own in moved])
    moved = np.where(far[:, None, None], 0, moved)
    force = (on_sites.gradient.positions - balance).reshape(rows, -1)
    second = ((force @ medium.inverse) * force).sum(1) / 2
    now = on_sites if near is None else _evaluate(medium, weights, moved)
    round_off = np.finfo(medium.dtype).eps
    length, last = np.ones(rows), np.full(rows, np.inf)
    force, left = _still_to_gain(medium, now, balance)
    step = -force @ medium.inverse
    for _ in range(STEPS):
        calm = left <= AT_REST * round_off
        going = ~far & (left > CLOSER * round_off) & ~(calm & (left > last / 2))
        if not going.any():
            break
        last = left
        moved = moved + np.where(going[:, None], step, 0).reshape(moved.shape)
        now = _evaluate(medium, weights, moved)
        steeper, left = _still_to_gain(medium, now, balance)
        far |= _gained(on_sites, now, balance, moved) < -FAR * (second + SMALL)
        far |= np.array([_apart(own) > SKIN for own in moved])
        turned = (step * (steeper - force)).sum(1)
        length = np.clip(-length * (step * force).sum(1) / np.where(turned > 0, turned, np.inf), *LENGTHS)
        force, step = steeper, -length[:, None] * (steeper @ medium.inverse)
    far |= ~(left <= AT_REST * round_off)
    gained = np.where(far, -second, _gained(on_sites, now, balance, moved))
    chosen = jax.tree.map(lambda a, b: np.where(far.reshape(-1, *[1] * (a.ndim - 1)), a, b), on_sites, now)
    return chosen, gained, np.where(far[:, None, None], 0, moved), ~far


def _still_to_gain(medium: Medium, now: Moved, balance):
    """The slope [eV/A], and what a step of Newton would gain [eV]."""
    slope = (now.gradient.positions - balance).reshape(len(balance), -1)
    return slope, ((slope @ medium.inverse) * slope).sum(1) / 2


def _gained(on_sites: Moved, now: Moved, balance, moved):
    return (now.energies - on_sites.energies).sum(1) - (moved * balance).sum((1, 2))


def _apart(moved: Float[np.ndarray, "supersites 3"]) -> float:
    """By how much two of the atoms may have come nearer [A]."""
    most = 2 * float(np.linalg.norm(moved, axis=-1).max())
    return most if most <= SKIN else float(np.linalg.norm(moved[:, None] - moved, axis=-1).max())


def _elastic(medium: Medium, weights, moved) -> Float[np.ndarray, "rows 3 3 3 3"]:
    """Second derivatives by strain, the atoms following as they do in the mean crystal [eV]."""
    if medium.following is None:
        return np.zeros((len(weights), 3, 3, 3, 3))
    rows, amounts = len(weights), np.array([STRETCH, -STRETCH])[:, None, None, None, None]
    ways = np.moveaxis(medium.following, 2, 0)[:, None]
    many = lambda a: np.broadcast_to(a, (2, len(STRAINS), rows, *a.shape[-2:])).reshape(-1, *a.shape[-2:])
    given = many(weights[:, None])[:, 0], many(moved + amounts * ways), many(amounts * STRAINS[:, None])
    found = medium.evaluate(given).gradient
    slope = by_strains(found.strain) + np.einsum("rsx,sxk->rk", found.positions, medium.following)
    up, down = slope.reshape(2, len(STRAINS), rows, -1)
    both = np.moveaxis(up - down, 0, -1) / (2 * STRETCH)
    return ((both + both.swapaxes(1, 2)) / 2)[:, VOIGT[:, :, None, None], VOIGT]


def _turned(tensors, turn):
    return np.einsum("ia,jb,kc,ld,...ijkl->...abcd", turn, turn, turn, turn, tensors, optimize=True)


def _evaluate(medium: Medium, weights, moved=None) -> Moved:
    """Rows of weights, with atoms displaced."""
    rows, shape = len(weights), medium.mean.gradient.positions.shape
    return medium.evaluate((weights, np.zeros((rows, *shape)) if moved is None else moved, np.zeros((rows, 3, 3))))


def gradient_at(of, point: Gradient, given: tuple[Array, Array, Array]) -> Moved:
    """With other weights, atoms displaced, strained."""
    weights, moved, strain = given
    gradient, energies = jax.grad(of, (0, 1, 2), has_aux=True)(weights, point.positions + moved, strain)
    return Moved(energies, Gradient(*gradient))
