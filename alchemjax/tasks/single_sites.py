"""One site of a random alloy in one state: its energy to all orders, and what the atoms around it do."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations
from alchemjax.system.structure import completed_cell
from alchemjax.tasks.hessian import VOIGT, Crystal, Gradient, along, by_strains, evaluator, gradient_along, moves_of
from alchemjax.tasks.states import VACANCY, States, of_states

STEPS = 100
AT_REST = 10  # times the round-off of the potential's numbers: energy that a further step would gain [eV]
LENGTHS = 0.3, 3.0  # of a step, that of the mean crystal's curvature being 1


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


def single_sites(potential: Potential, crystal: Crystal, fluctuations: Fluctuations, states: States) -> SingleSites:
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


def relaxed_single_sites(
    potential: Potential,
    crystal: Crystal,
    fluctuations: Fluctuations,
    states: States,
    inverse: Float[np.ndarray, "coordinates coordinates"],
    following: Float[np.ndarray, "supersites 3 6"],
):
    """What every state of a site gains because the atoms around it move until they are at rest, to all orders [eV].

    [mixed, states], and dE/dstrain of the site in that state [mixed, states, 6], but for the mean over states without
    displacements, which the structure of the random alloy has balanced [eV]. `inverse`: of the mean crystal's stiffness
    [A^2/eV]; `following`: displacement of its atoms per strain [A].
    Errors: ValueError if atoms do not come to rest.
    """
    moves, first = moves_of(crystal, fluctuations)
    place = {site: m for m, site in enumerate(states.site.tolist())}
    rows = [(m, k) for m in sorted({place[first[site]] for site in place}) for k in np.flatnonzero(states.allowed[m])]
    weights = [crystal.system.weights]
    for m, k in rows:
        own = np.flatnonzero(crystal.site == states.site[m])
        weights.append(weights[0].copy())
        weights[-1][own] += states.deviation[m, k, : len(own)]
    on_sites, at_rest, gained = _come_to_rest(potential, crystal, np.stack(weights), inverse)
    strain = at_rest.strain - on_sites.strain[0]
    pulled = np.einsum("rsx,sxe->re", on_sites.positions - on_sites.positions[0], following)
    unmoved = on_sites.strain - on_sites.strain[0] + pulled[:, VOIGT]
    number = {row: i + 1 for i, row in enumerate(rows)}
    relaxation, slope = np.zeros(states.weights.shape), np.zeros((*states.weights.shape, 6))
    for m, site in enumerate(states.site.tolist()):
        start, (_, turn) = place[first[site]], moves[site]
        allowed = np.flatnonzero(states.allowed[m])
        source = [number[start, k] for k in allowed]
        relaxation[m, allowed] = gained[source]
        balanced = np.tensordot(states.weights[m, allowed], unmoved[source], 1)
        slope[m, allowed] = by_strains(turn.T @ (strain[source] - balanced) @ turn)
    return relaxation, slope


def _come_to_rest(potential: Potential, crystal: Crystal, weights, inverse) -> tuple[Gradient, Gradient, np.ndarray]:
    """Gradients on the sites and at rest, and the energy gained [eV], of every row of weights; the first is the mean.

    Forces of the mean are taken off: in the random alloy those of other sites balance them. Steps are those of Newton
    with the mean crystal's stiffness, as long as two gradients say (J. Barzilai, J. Borwein, IMA J. Numer. Anal. 8, 141
    (1988)).
    """
    evaluate = evaluator(potential, crystal)
    moved = np.zeros((len(weights), *crystal.system.structure.positions.shape))
    flat, length = (len(weights), -1), np.ones(len(weights))
    start, force, step = None, None, None
    for _ in range(STEPS):
        energies, gradient = evaluate(gradient_at, (weights, moved))
        if start is None:
            start = energies, gradient
        steeper = (gradient.positions - start[1].positions[0]).reshape(flat)
        if force is not None:
            turned = (step * (steeper - force)).sum(1)
            length = np.clip(-length * (step * force).sum(1) / np.where(turned > 0, turned, np.inf), *LENGTHS)
        newton = -steeper @ inverse
        left = -(newton * steeper).sum(1) / 2
        if (left <= AT_REST * np.finfo(potential.dtype).eps).all():
            held = (moved * start[1].positions[0]).sum((1, 2))
            return start[1], gradient, (energies - start[0]).sum(1) - held
        force, step = steeper, length[:, None] * newton
        moved = moved + step.reshape(moved.shape)
    raise ValueError(
        f"around one site in one of its states atoms do not come to rest within {STEPS} steps ({left.max():.2g} eV are "
        "left): displacements are no small ones in this alloy; keep the atoms on their sites (relaxed=False)"
    )


def gradient_at(of, point: Gradient, given: tuple[Array, Array]) -> Moved:
    """With other weights, atoms displaced."""
    weights, moved = given
    gradient, energies = jax.grad(of, (0, 1, 2), has_aux=True)(weights, point.positions + moved, point.strain)
    return Moved(energies, Gradient(*gradient))
