"""FIRE over positions and cell, traced, for a batch of compositions of one structure.

The variables are reference positions X and a symmetric strain S: x = X (1 + S), cell = cell_0 (1 + S), with S in a
linear space of allowed strains. What is minimised is the enthalpy E + p V.

FIRE 2.0: J. Guenole et al., Comput. Mater. Sci. 175, 109584 (2020).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from alchemjax.calculate import batch_derivatives
from alchemjax.system.lists import is_stale
from alchemjax.tasks.freedom import Freedom

DT_START, DT_MAX, DT_MIN = 0.1, 0.3, 0.002  # FIRE time steps, unit mass, eV and A
ALPHA_START, ALPHA_SHRINK, DT_GROW, DT_SHRINK, DELAY = 0.25, 0.99, 1.1, 0.5, 5
MAX_MOVE, MAX_STRAIN = 0.1, 0.02  # A and 1, largest displacement of a site and largest strain in one step


class Limits(NamedTuple):
    """When to stop."""

    force: Float[Array, ""]  # eV/A, norm of the force on a site
    stress: Float[Array, ""]  # eV/A^3, component of dH/dS / V, with H = E + p V, in the space of allowed strains S
    steps: Int[Array, ""]
    pressure: Float[Array, ""]  # eV/A^3


class State(NamedTuple):
    """One relaxation under way; derivatives are those at the stored positions once `finished`."""

    reference: Float[Array, "sites 3"]  # X [A]
    strain: Float[Array, "6"]
    velocity: Float[Array, "sites 3"]
    strain_velocity: Float[Array, "6"]
    dt: Float[Array, ""]
    mix: Float[Array, ""]
    downhill: Int[Array, ""]  # steps since the last uphill one
    step: Int[Array, ""]
    listed_reference: Float[Array, "sites 3"]  # X and strain when the neighbour list was made
    listed_strain: Float[Array, "6"]
    stale: Bool[Array, ""]  # the neighbour list must be made again before the next evaluation
    finished: Bool[Array, ""]
    converged: Bool[Array, ""]
    energy: Float[Array, ""]
    site_energies: Float[Array, "sites"]
    forces: Float[Array, "sites 3"]
    virial: Float[Array, "3 3"]  # dE/dstrain [eV]
    weights_gradient: Float[Array, "weights"]
    alpha_gradient: Float[Array, ""]
    max_force: Float[Array, ""]
    max_stress: Float[Array, ""]


def strained(cell, reference, strain, strains):
    """(positions, cell) of a state."""
    deformation = jnp.eye(3, dtype=reference.dtype) + jnp.einsum("k,kxy->xy", strain, strains)
    return reference @ deformation, cell @ deformation


def initial_state(positions: Float[Array, "sites 3"], num_weights: int) -> State:
    """A state at rest that needs a neighbour list."""
    dtype, zero = positions.dtype, jnp.zeros((), positions.dtype)
    count, flag = jnp.zeros((), int), jnp.zeros((), bool)
    still, strain = jnp.zeros_like(positions), jnp.zeros(6, dtype)
    return State(
        positions, strain, still, strain, zero + DT_START, zero + ALPHA_START, count, count, positions, strain, ~flag,
        flag, flag, zero, jnp.zeros(len(positions), dtype), still, jnp.zeros((3, 3), dtype),
        jnp.zeros(num_weights, dtype), zero, zero, zero,
    )  # fmt: skip


def run(
    node_energies, config, params, topology, cell, freedom, limits, skin, weights, alpha, until, state,
    anywhere: Callable = lambda flag: flag,
) -> State:  # fmt: skip
    """FIRE steps of a batch until all are finished, a neighbour list is stale, or step `until`; traced.

    `anywhere`: whether it is so in any part of the batch, where devices share it (`on_any`).
    """

    def going(state):
        unfinished = ~state.finished
        return anywhere((unfinished & (state.step < until)).any()) & ~anywhere((unfinished & state.stale).any())

    def body(state):
        place = jax.vmap(strained, in_axes=(None, 0, 0, None))
        positions, cells = place(cell, state.reference, state.strain, freedom.strains)
        out = batch_derivatives(node_energies, config, params, topology, positions, cells, weights, alpha)
        advance = partial(_advance, config.cutoff, cell, freedom, limits, skin)
        return jax.vmap(advance)(state, cells, out)

    return lax.while_loop(going, body, state)


def _advance(cutoff: float, cell, freedom: Freedom, limits: Limits, skin, state: State, strained_cell, out) -> State:
    """Judge one member by its derivatives and, unless it is finished, move it."""
    space = jnp.abs(jnp.linalg.det(strained_cell))
    deformation = jnp.eye(3, dtype=cell.dtype) + jnp.einsum("k,kxy->xy", state.strain, freedom.strains)
    virial = out.strain + limits.pressure * space * jnp.eye(3, dtype=cell.dtype)
    forces = -out.positions * freedom.free
    # dH/dS of x = X (1 + S); the virial alone has other zeros where S may not be any symmetric matrix
    allowed = jnp.einsum("kxy,xy->k", freedom.strains, jnp.linalg.inv(deformation) @ virial)
    residual = jnp.einsum("k,kxy->xy", allowed, freedom.strains) / jnp.where(space > 0, space, 1.0)
    max_force = jnp.sqrt(jnp.max(jnp.sum(forces**2, axis=-1)))
    max_stress = jnp.max(jnp.abs(residual))
    broken = ~(jnp.isfinite(out.energy) & jnp.isfinite(max_force) & jnp.isfinite(max_stress))
    converged = (max_force <= limits.force) & (max_stress <= limits.stress) & ~broken
    judged = state._replace(
        finished=converged | broken | (state.step >= limits.steps),
        converged=converged,
        energy=out.energy,
        site_energies=out.site_energies,
        forces=-out.positions,
        virial=out.strain,
        weights_gradient=out.weights,
        alpha_gradient=out.alpha,
        max_force=max_force,
        max_stress=max_stress,
    )
    # generalised forces on X and on the strain amplitudes, the latter scaled to a stiffness like that of a site
    push = forces @ deformation.T * freedom.free
    moved = _fire(judged, push, -allowed / jnp.sqrt(float(len(push))))
    moved = moved._replace(stale=outran(cutoff, skin, cell, freedom, moved))
    moved = jax.tree.map(lambda a, b: jnp.where(judged.finished, a, b), judged, moved)
    return jax.tree.map(lambda a, b: jnp.where(state.finished, a, b), state, moved)  # what is finished stays as it is


def _fire(state: State, push, strain_push) -> State:
    """One FIRE step; strain amplitudes are measured in units of 1/sqrt(sites) (A^-1)."""
    scale = jnp.sqrt(float(len(push)))
    dot = lambda a, b, c, d: jnp.sum(a * b) + jnp.sum(c * d)
    power = dot(push, state.velocity, strain_push, state.strain_velocity)
    uphill = power < 0
    downhill = jnp.where(uphill, 0, state.downhill + 1)
    speeding = downhill > DELAY
    dt = jnp.where(speeding, jnp.minimum(state.dt * DT_GROW, DT_MAX), state.dt)
    dt = jnp.where(uphill, jnp.maximum(state.dt * DT_SHRINK, DT_MIN), dt)
    mix = jnp.where(uphill, ALPHA_START, jnp.where(speeding, state.mix * ALPHA_SHRINK, state.mix))
    velocity = jnp.where(uphill, 0.0, state.velocity) + dt * push
    strain_velocity = jnp.where(uphill, 0.0, state.strain_velocity) + dt * strain_push
    speed = jnp.sqrt(dot(velocity, velocity, strain_velocity, strain_velocity))
    norm = jnp.sqrt(dot(push, push, strain_push, strain_push))
    ratio = mix * speed / jnp.where(norm > 0, norm, 1.0)
    velocity = (1 - mix) * velocity + ratio * push
    strain_velocity = (1 - mix) * strain_velocity + ratio * strain_push
    # a step that is too long is shortened, and so is the velocity: it must not outlive what was really moved
    longest = jnp.sqrt(jnp.max(jnp.sum(velocity**2, axis=-1)))
    strain_longest = jnp.max(jnp.abs(strain_velocity))
    clip = 1 / jnp.maximum(1.0, dt * jnp.maximum(longest / MAX_MOVE, strain_longest / (scale * MAX_STRAIN)))
    velocity, strain_velocity = clip * velocity, clip * strain_velocity
    back = jnp.where(uphill, -0.5 * dt, 0.0)  # after an uphill step: half a step back, and start from rest
    return state._replace(
        reference=state.reference + dt * velocity + back * state.velocity,
        strain=state.strain + (dt * strain_velocity + back * state.strain_velocity) / scale,
        velocity=velocity,
        strain_velocity=strain_velocity,
        dt=dt.astype(state.dt.dtype),
        mix=mix.astype(state.mix.dtype),
        downhill=downhill,
        step=state.step + 1,
    )


def outran(cutoff: float, skin, cell, freedom: Freedom, state: State):
    """Whether sites have moved too far for their list of neighbours."""
    now, _ = strained(cell, state.reference, state.strain, freedom.strains)
    then, _ = strained(cell, state.listed_reference, state.listed_strain, freedom.strains)
    deform = lambda strain: jnp.eye(3, dtype=now.dtype) + jnp.einsum("k,kxy->xy", strain, freedom.strains)
    return is_stale(cutoff, skin, then, now, jnp.linalg.solve(deform(state.listed_strain), deform(state.strain)))
