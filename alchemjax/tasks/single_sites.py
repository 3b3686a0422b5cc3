"""One site of a random alloy in one state: its energy to all orders, and what the atoms around it do."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations
from alchemjax.system.structure import completed_cell
from alchemjax.tasks.hessian import Crystal, Gradient, along, by_strains, evaluator, gradient_along, moves_of
from alchemjax.tasks.states import VACANCY, States, of_states

STEPS = 100
AT_REST = 10  # times the round-off of the potential's numbers: energy that a further step would gain [eV]
LENGTHS = 0.3, 3.0  # of a step, that of the mean crystal's curvature being 1
FAR = 3  # times what second order gains: such displacements are those of another crystal
SMALL = 1e-4  # eV
SKIN = 0.6  # A, by which two atoms may approach each other


class SingleSites(NamedTuple):
    """What single sites do to the crystal at its mean composition, the atoms of which stay where they are."""

    energy: float  # of the mean [eV per cell]
    field: Float[np.ndarray, "mixed states"]  # E(mean, site = state) - E(mean) [eV]
    first_order: Float[np.ndarray, "mixed states"]  # the same [eV]
    largest_force: float  # of the random alloy [eV/A]
    residual: Float[np.ndarray, "6"]  # dE/dstrain of the random alloy [eV per cell]


class Moved(NamedTuple):
    """At other positions."""

    energies: Float[Array, "supersites"]  # of all sites [eV]
    gradient: Gradient


def one_at_a_time(potential: Potential, crystal: Crystal, fluctuations: Fluctuations, states: States) -> SingleSites:
    """Of the inequivalent sites from the potential, of all others by symmetry."""
    variants, mean = fluctuations.variants, crystal.system.weights
    evaluate = evaluator(potential, crystal)
    weights = np.concatenate([mean[None], mean * variants.kept + variants.change])
    nowhere = jax.tree.map(lambda a: np.zeros((len(weights), *a.shape)), along(crystal))
    energies, gradient, _ = evaluate(gradient_along, (weights, nowhere))
    at_mean = energies[0].sum()
    gained = (energies[1:] - energies[0]).sum(1)  # in float64, site by site
    own = gradient.weights[0, : (crystal.site < len(variants.first)).sum()]
    field, residual = np.zeros(states.weights.shape), gradient.strain[0] / crystal.cells
    slopes = gradient.positions.reshape(len(weights), crystal.cells, -1, 3).sum(1)  # of all sites of one kind
    slope = slopes[0] / crystal.cells
    for m, (site, group) in enumerate(zip(states.site, crystal.system.sites.groups, strict=False)):
        columns = [states.species.index(name) for name in group.species]
        columns += [-1] if states.species[-1] == VACANCY else []
        here = variants.site == variants.first[site]
        field[m, columns] = gained[here][: len(columns)]
        strain = (gradient.strain[1:][here] - gradient.strain[0])[: len(columns)]
        residual += np.tensordot(states.weights[m, columns], strain, 1)
        slope += np.tensordot(states.weights[m, columns], (slopes[1:][here] - slopes[0])[: len(columns)], 1)
    cell = np.linalg.inv(crystal.supercell.matrix) @ completed_cell(crystal.system.structure)
    turns = np.linalg.inv(cell) @ variants.rotation.transpose(0, 2, 1) @ cell
    residual = by_strains(np.einsum("gca,cd,gdb->ab", turns, residual, turns)) / len(turns)
    symmetric_slope = np.zeros_like(slope)
    np.add.at(symmetric_slope, variants.image, slope @ turns / len(turns))
    force = float(np.linalg.norm(symmetric_slope, axis=-1).max())
    field = np.where(states.allowed, field, 0)
    return SingleSites(at_mean / crystal.cells, field, of_states(own, states), force, residual)


class RelaxedSites(NamedTuple):
    """What states of a site gain because the atoms around it move until they are at rest, to all orders."""

    energy: Float[np.ndarray, "mixed states"]  # eV
    strain: Float[np.ndarray, "mixed states 6"]  # dE/dstrain but for what the random alloy's structure balances [eV]
    at_rest: Bool[np.ndarray, "mixed states"]  # where atoms do not come to rest, second order in displacements


def relaxed_single_sites(
    potential: Potential,
    crystal: Crystal,
    fluctuations: Fluctuations,
    states: States,
    inverse: Float[np.ndarray, "coordinates coordinates"],
) -> RelaxedSites:
    """`inverse`: of the mean crystal's stiffness [A^2/eV].

    All other sites of a random alloy at rest balance what its own site does in the mean over states: these forces, and
    this strain, are taken off.
    """
    moves, first = moves_of(crystal, fluctuations)
    place = {site: m for m, site in enumerate(states.site.tolist())}
    inequivalent = sorted({place[first[site]] for site in place})
    rows = [(m, k) for m in inequivalent for k in np.flatnonzero(states.allowed[m])]
    weights = np.tile(crystal.system.weights, (len(rows), 1))
    for row, (m, k) in zip(weights, rows, strict=True):
        own = np.flatnonzero(crystal.site == states.site[m])
        row[own] += states.deviation[m, k, : len(own)]
    evaluate = partial(evaluator(potential, crystal, skin=SKIN), gradient_at)
    on_sites = evaluate((weights, np.zeros((len(rows), *crystal.system.structure.positions.shape))))
    chance = np.array([[states.weights[m, k] * (m == other) for m, k in rows] for other, _ in rows])
    force = np.tensordot(chance, on_sites.gradient.positions, 1)
    for balance, (m, k) in zip(force, rows, strict=True):
        if states.species[k] == VACANCY:  # what is not there feels nothing, and the rest no net force
            balance[states.site[m]] = 0
            balance[np.arange(len(balance)) != states.site[m]] -= balance.sum(0) / (len(balance) - 1)
    at_rest, gained, rest = _come_to_rest(evaluate, on_sites, weights, force, inverse, potential.dtype)
    strain = at_rest.gradient.strain - np.tensordot(chance, on_sites.gradient.strain, 1)
    number = {row: i for i, row in enumerate(rows)}
    shape = states.weights.shape
    found = RelaxedSites(np.zeros(shape), np.zeros((*shape, 6)), np.ones(shape, bool))
    for m, site in enumerate(states.site.tolist()):
        start, (_, turn) = place[first[site]], moves[site]
        allowed = np.flatnonzero(states.allowed[m])
        source = [number[start, k] for k in allowed]
        found.energy[m, allowed], found.at_rest[m, allowed] = gained[source], rest[source]
        found.strain[m, allowed] = by_strains(turn.T @ strain[source] @ turn)
    return found


def _come_to_rest(evaluate, on_sites: Moved, weights, balance, inverse, dtype: str):
    """Every row of weights with atoms moved under these forces more, the energy gained, and whether it is at rest.

    Steps are those of Newton with the mean crystal's stiffness, as long as two gradients say (J. Barzilai, J. Borwein,
    IMA J. Numer. Anal. 8, 141 (1988)). Where atoms go far away, to another crystal, the first of them is all.
    """
    enough, rows = AT_REST * np.finfo(dtype).eps, len(weights)
    moved, near, now = np.zeros_like(balance), on_sites, on_sites
    force = (on_sites.gradient.positions - balance).reshape(rows, -1)
    step = -force @ inverse
    left = second = -(step * force).sum(1) / 2
    gained, far, length = -second, np.zeros(rows, bool), np.ones(rows)
    for number in range(STEPS):
        going = (left > enough) & ~far
        if not going.any():
            break
        moved = moved + np.where(going[:, None], step, 0).reshape(moved.shape)
        now = evaluate((weights, moved))
        near = now if number == 0 else near
        steeper = (now.gradient.positions - balance).reshape(rows, -1)
        gained = (now.energies - on_sites.energies).sum(1) - (moved * balance).sum((1, 2))
        far |= gained < -FAR * (second + SMALL)
        turned = (step * (steeper - force)).sum(1)
        length = np.clip(-length * (step * force).sum(1) / np.where(turned > 0, turned, np.inf), *LENGTHS)
        newton = -steeper @ inverse
        left = -(newton * steeper).sum(1) / 2
        force, step = steeper, length[:, None] * newton
    far |= ~(left <= enough)
    chosen = jax.tree.map(lambda a, b: np.where(far.reshape(-1, *[1] * (a.ndim - 1)), a, b), near, now)
    return chosen, np.where(far, -second, gained), ~far


def gradient_at(of, point: Gradient, given: tuple[Array, Array]) -> Moved:
    """With other weights, atoms displaced."""
    weights, moved = given
    gradient, energies = jax.grad(of, (0, 1, 2), has_aux=True)(weights, point.positions + moved, point.strain)
    return Moved(energies, Gradient(*gradient))
