"""Molecular dynamics, traced, for a batch of replicas of one structure.

One step is a palindrome ("middle" scheme; with Langevin it is BAOAB); under a barostat the strain comes between two
halves of the thermostat:

    p += f dt/2;  x += p/m dt/2;  T(dt);  x += p/m dt/2;  f = f(x);  p += f dt/2

The barostat is stochastic cell rescaling (M. Bernetti, G. Bussi, J. Chem. Phys. 153, 114107 (2020)) in a space of
symmetric strains with orthonormal basis B_k: x = x exp(S), cell = cell exp(S), p = p exp(-S), S = sum_k a_k B_k,

    a_k = M F_k dt + sqrt(2 M kT dt) xi_k,    F_k = B_k : (p p / m - dE/dstrain - P V + 2 kT),    M = beta / (3 tau V_0)

whose stationary density is exp(-(K + E + PV) / kT) V^2 dlnV for momenta of zero total: the isothermal-isobaric
ensemble. With hydrostatic strain it is theirs, with a mobility in ln V that does not depend on V.

`conserved` is the energy minus what thermostat, barostat and whatever moves from outside put in; for the barostat that
is kT times the logarithm of the ratio of the probabilities of a step and of its reverse. Drift is an error of the time
step.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from alchemjax.calculate import batch_derivatives
from alchemjax.system.fluctuations import Variants
from alchemjax.system.lists import Grid, Neighbours, is_stale, search, topology, wrap
from alchemjax.system.topology import Layout, Rule
from alchemjax.tasks.springs import Springs, pull
from alchemjax.tasks.thermostats import (
    THERMOSTATS,
    Now,
    at_rest,
    chain_energy,
    degrees_of_freedom,
    kinetic_energy,
    site_masses,
)

LARGEST_MOVE = 0.5  # A in one step; atoms that are faster have no future


class Scheme(NamedTuple):
    """What is compiled; hashable."""

    thermostat: str | None  # None: NVE
    barostat: bool
    grid: Grid
    rule: Rule
    rows: int  # samples of one chunk


class Knots(NamedTuple):
    """A quantity along the run, linear between given steps and constant outside."""

    step: Int[Array, "knots"]
    value: Float[Array, "replicas knots *shape"]


class Protocol(NamedTuple):
    """What is imposed."""

    temperature: Knots  # kT [eV]
    pressure: Knots  # eV/A^3
    weights: Knots
    alpha: Knots
    scale: Knots  # of the potential: s E(x) + springs
    stiffness: Knots  # of the spring of every site [eV/A^2]


class Constants(NamedTuple):
    """Numbers of a run; time in units of A (amu/eV)^(1/2)."""

    dt: Float[Array, ""]
    thermostat_time: Float[Array, ""]
    mobility: Float[Array, ""]  # M [1/(eV time)]
    strains: Float[Array, "6 3 3"]  # B_k, filled up with zeros
    node_mass: Float[Array, "nodes"]  # amu
    node_weight: Int[Array, "nodes"]  # index into the flat weights, whose number stands for 1
    volume: Float[Array, ""]  # A^3 for a cell of determinant 1: less than 1 where directions are not periodic
    springs: Springs
    variants: Variants | None  # of a random alloy, without topology
    every: Int[Array, ""]  # steps from sample to sample
    steps: Int[Array, ""]


class State(NamedTuple):
    """A batch of replicas under way; derivatives are those at the stored positions."""

    step: Int[Array, "replicas"]  # -1: nothing is calculated yet
    positions: Float[Array, "replicas sites 3"]  # Cartesian [A], in the cell when the list was made
    images: Int[Array, "replicas sites 3"]  # whole lattice vectors that were taken off
    momenta: Float[Array, "replicas sites 3"]  # amu A / time
    cell: Float[Array, "replicas 3 3"]
    chain: Float[Array, "replicas 2 chain"]  # positions and velocities of the Nose-Hoover chain
    key: UInt32[Array, "replicas 2"]
    energy: Float[Array, "replicas"]
    forces: Float[Array, "replicas sites 3"]
    virial: Float[Array, "replicas 3 3"]  # dE/dstrain [eV]
    weights_gradient: Float[Array, "replicas weights"]
    alpha_gradient: Float[Array, "replicas"]
    scale_gradient: Float[Array, "replicas"]  # the energy of the potential itself
    stiffness_gradient: Float[Array, "replicas sites"]
    heat: Float[Array, "replicas 2"]  # eV, put in by thermostat and barostat; a sum and what rounding took from it
    work: Float[Array, "replicas 2"]  # eV, put in by a moving composition, scale or stiffness (trapezoids: gradually)
    listed: Neighbours
    overflow: Bool[Array, "replicas"]  # the neighbour list does not fit into its arrays
    moved: Float[Array, "replicas"]  # A, largest displacement in the last step
    broken: Bool[Array, "replicas"]  # an atom too fast, or numbers that are not finite


class Sample(NamedTuple):
    """What is recorded."""

    step: Int[Array, "replicas"]
    energy: Float[Array, "replicas"]  # potential energy [eV]
    kinetic: Float[Array, "replicas"]  # eV
    temperature: Float[Array, "replicas"]  # kT [eV], of the 3N - 3 degrees of freedom about the centre of mass
    target_temperature: Float[Array, "replicas"]  # kT [eV]
    target_pressure: Float[Array, "replicas"]  # eV/A^3
    virial: Float[Array, "replicas 3 3"]  # dE/dstrain - p p / m [eV], momenta about the centre of mass
    conserved: Float[Array, "replicas"]  # eV
    work: Float[Array, "replicas"]  # eV
    weights: Float[Array, "replicas weights"]
    alpha: Float[Array, "replicas"]
    weights_gradient: Float[Array, "replicas weights"]  # eV
    alpha_gradient: Float[Array, "replicas"]  # eV
    scale_gradient: Float[Array, "replicas"]  # eV
    stiffness_gradient: Float[Array, "replicas sites"]  # A^2
    cell: Float[Array, "replicas 3 3"]
    positions: Float[Array, "replicas sites 3"]  # A, through the periodic boundaries
    velocities: Float[Array, "replicas sites 3"]  # A / time
    forces: Float[Array, "replicas sites 3"]


def chunk(node_energies, config, scheme: Scheme, params, layout: Layout, constants, protocol, state):
    """(state, samples) after the next `scheme.rows` samples; stops early when a replica is in trouble. Traced."""
    one = partial(step, node_energies, config, scheme, params, layout, constants, protocol)

    def row(state: State, _):
        until = jnp.minimum((state.step[0] // constants.every + 1) * constants.every, constants.steps)
        fine = lambda state: (state.step[0] < until) & ~(state.overflow | state.broken).any()
        state = lax.while_loop(fine, one, state)
        return state, sample(scheme, layout, constants, protocol, state)

    return lax.scan(row, state, length=scheme.rows)


def step(node_energies, config, scheme: Scheme, params, layout, constants, protocol, state: State) -> State:
    """One step of all replicas; the first, from -1 to 0, moves nothing."""
    moved, now, push = _over_replicas(partial(_move, scheme, layout, constants))(protocol, state)
    moved = _listed_anew(config, scheme, layout, moved)
    arrays = jax.vmap(partial(topology, scheme.rule, layout))(moved.listed)
    if constants.variants is not None:
        copied = lambda a: jnp.broadcast_to(a, (len(state.step), *a.shape))
        arrays = jax.tree.map(copied, constants.variants)._replace(topology=arrays)
    positions, cell = moved.positions, moved.cell
    out = batch_derivatives(node_energies, config, params, arrays, positions, cell, now.weights, now.alpha)
    return jax.vmap(partial(_finish, scheme, constants))(state, moved, now, push, out)


def sample(scheme: Scheme, layout: Layout, constants, protocol, state: State) -> Sample:
    """What is recorded of a state."""

    def of(protocol, state: State) -> Sample:
        now = _now(layout, constants, protocol, state.step, len(state.positions))
        kinetic = kinetic_energy(state.momenta, now.masses)
        own = at_rest(state.momenta, now.masses)
        work = state.work.sum()
        total = state.energy + kinetic + _bath_energy(scheme, constants, now, state) - state.heat.sum() - work
        return Sample(
            step=state.step,
            energy=state.energy,
            kinetic=kinetic,
            temperature=2 * kinetic_energy(own, now.masses) / degrees_of_freedom(own),
            target_temperature=now.temperature,
            target_pressure=now.pressure,
            virial=state.virial - (own / now.masses).T @ own,
            conserved=total,
            work=work,
            weights=now.weights,
            alpha=now.alpha,
            weights_gradient=state.weights_gradient,
            alpha_gradient=state.alpha_gradient,
            scale_gradient=state.scale_gradient,
            stiffness_gradient=state.stiffness_gradient,
            cell=state.cell,
            positions=_unwrapped(state),
            velocities=state.momenta / now.masses,
            forces=state.forces,
        )

    return _over_replicas(of)(protocol, state)


def _over_replicas(function):
    """vmap over (protocol, state); all replicas have their knots at the same steps."""
    return jax.vmap(function, in_axes=(Protocol(*[Knots(None, 0)] * 6), 0))  # pyright: ignore[reportArgumentType]


class Push(NamedTuple):
    """What the second half of a step must know of the first."""

    dt: Float[Array, ""]  # 0 in the step that moves nothing
    strain: Float[Array, "6"]  # a
    force: Float[Array, "6"]  # F when the strain was drawn
    momenta: Float[Array, "sites 3"]  # after the strain
    weights: Float[Array, "weights"]  # by how much they changed
    alpha: Float[Array, ""]
    scale: Float[Array, ""]
    stiffness: Float[Array, "sites"]


def _move(scheme: Scheme, layout: Layout, constants: Constants, protocol: Protocol, state: State):
    """The step up to its new positions: (state, imposed values, what the second half needs)."""
    moves = state.step >= 0
    steps = jnp.maximum(state.step, 0), state.step + 1
    before, now = (_now(layout, constants, protocol, k, len(state.positions)) for k in steps)
    dt = jnp.where(moves, constants.dt, 0)
    keys = jax.random.split(jax.random.fold_in(state.key, state.step + 1), 3)
    p = state.momenta + state.forces * dt / 2
    x = state.positions + p / now.masses * dt / 2
    chain, cell, heat, still = state.chain, state.cell, jnp.zeros_like(dt), jnp.zeros(6, p.dtype)
    changes = [getattr(now, name) - getattr(before, name) for name in ("weights", "alpha", "scale", "stiffness")]
    push, stretch = Push(dt, still, still, p, *changes), jnp.eye(3, dtype=p.dtype)

    def thermostat(key, p, chain, duration):
        warmer, longer = THERMOSTATS[scheme.thermostat](key, p, chain, constants.thermostat_time, now, duration)
        warmer = jnp.where(moves, warmer, p)
        gain = (
            0
            if scheme.thermostat == "nose-hoover"
            else kinetic_energy(warmer, now.masses) - kinetic_energy(p, now.masses)
        )
        return warmer, jnp.where(moves, longer, chain), gain

    imposed = _bath_energy(scheme, constants, now, state) - _bath_energy(scheme, constants, before, state)
    if scheme.barostat:
        p, chain, heat = thermostat(keys[0], p, chain, constants.dt / 2)
        force = _strain_force(constants, now, state.virial, p, cell)
        noise = jax.random.normal(keys[1], force.shape, p.dtype)
        strain = constants.mobility * force * dt + jnp.sqrt(2 * constants.mobility * now.temperature * dt) * noise
        stretch = _exponential(jnp.einsum("k,kxy->xy", strain, constants.strains))
        p = p @ _exponential(-jnp.einsum("k,kxy->xy", strain, constants.strains))
        x, cell, push = x @ stretch, cell @ stretch, push._replace(strain=strain, force=force, momenta=p)
        p, chain, more = thermostat(keys[2], p, chain, constants.dt / 2)
        heat = heat + more
    elif scheme.thermostat:
        p, chain, heat = thermostat(keys[0], p, chain, constants.dt)
    x = x + p / now.masses * dt / 2
    state = state._replace(
        positions=x,
        cell=cell,
        momenta=p,
        chain=chain,
        heat=_add(state.heat, heat + imposed),
        work=_add(state.work, kinetic_energy(state.momenta, now.masses) - kinetic_energy(state.momenta, before.masses)),
        moved=jnp.sqrt(jnp.max(jnp.sum((x - state.positions @ stretch) ** 2, axis=-1))),
    )
    return state, now, push


def _finish(scheme: Scheme, constants: Constants, before: State, moved: State, now: Now, push: Push, out) -> State:
    """The second half of the step, with the derivatives at the new positions."""
    heat, springs = moved.heat, pull(constants.springs, now.stiffness, _unwrapped(moved), moved.cell)
    energy, slope, strain = (
        now.scale * own + more for own, more in zip((out.energy, out.positions, out.strain), springs, strict=False)
    )
    if scheme.barostat:
        back = _strain_force(constants, now, strain, push.momenta, moved.cell)
        ratio = push.strain * (push.force + back) / 2 + constants.mobility * push.dt / 4 * (back**2 - push.force**2)
        heat = _add(heat, -jnp.sum(ratio))
    gradients = {
        "weights_gradient": now.scale * out.weights,
        "alpha_gradient": now.scale * out.alpha,
        "scale_gradient": out.energy,
        "stiffness_gradient": springs.each,
    }
    changes = (push.weights, push.alpha, push.scale, push.stiffness)
    means = ((getattr(before, name) + after) / 2 for name, after in gradients.items())
    work = sum(jnp.sum(change * mean) for change, mean in zip(changes, means, strict=True))
    fine = jnp.isfinite(energy) & jnp.isfinite(slope).all() & (moved.moved < LARGEST_MOVE)
    return moved._replace(
        step=before.step + 1,
        momenta=moved.momenta - slope * push.dt / 2,
        energy=energy,
        forces=-slope,
        virial=strain,
        **gradients,
        heat=heat,
        work=_add(moved.work, work),
        overflow=moved.listed.overflow,
        broken=~fine,
    )


def _listed_anew(config, scheme: Scheme, layout: Layout, state: State) -> State:
    """Make the lists of replicas again whose sites have moved too far; all wait while it is done for one."""
    grid, listed = scheme.grid, state.listed
    skin = grid.radius - config.cutoff
    since = jnp.linalg.solve(listed.cell, state.cell)
    stale = jax.vmap(partial(is_stale, config.cutoff, skin))(listed.positions, state.positions, since)

    def again(_):
        wrapped, away = jax.vmap(partial(wrap, grid.pbc))(state.positions, state.cell)
        new = jax.vmap(partial(search, grid, scheme.rule, layout))(wrapped, state.cell)
        chosen = lambda a, b: jax.vmap(jnp.where)(stale, a, b)
        positions = chosen(wrapped, state.positions)
        return positions, chosen(state.images + away, state.images), jax.tree.map(chosen, new, listed)

    positions, images, listed = lax.cond(stale.any(), again, lambda _: (state.positions, state.images, listed), None)
    return state._replace(positions=positions, images=images, listed=listed)


# --- one replica ------------------------------------------------------------------------------------------------------


def _now(layout: Layout, constants: Constants, protocol: Protocol, step, num_sites: int) -> Now:
    weights = _at(protocol.weights, step)
    each = jnp.append(weights, jnp.ones((), weights.dtype))[constants.node_weight]
    masses = site_masses(each, constants.node_mass, layout.rest.node_site, num_sites)
    return Now(
        temperature=_at(protocol.temperature, step),
        pressure=_at(protocol.pressure, step),
        weights=weights,
        alpha=_at(protocol.alpha, step),
        scale=_at(protocol.scale, step),
        stiffness=_at(protocol.stiffness, step),
        masses=masses[:, None],
    )


def _unwrapped(state: State):
    """Positions through the periodic boundaries [A]."""
    return state.positions + state.images.astype(state.positions.dtype) @ state.cell


def _at(knots: Knots, step):
    """Value at a step; where two knots share a step, the later one counts from there on."""
    last = len(knots.step) - 1
    right = jnp.clip(jnp.searchsorted(knots.step, step, side="right"), min(1, last), last)
    left = jnp.maximum(right - 1, 0)
    span = jnp.maximum(knots.step[right] - knots.step[left], 1)
    part = jnp.where(step >= knots.step[right], 1, jnp.maximum((step - knots.step[left]) / span, 0))
    part = part.astype(knots.value.dtype)
    return (1 - part) * knots.value[left] + part * knots.value[right]


def _bath_energy(scheme: Scheme, constants: Constants, now: Now, state: State):
    """What thermostat and barostat add to the conserved energy [eV]."""
    energy = jnp.zeros_like(now.temperature)
    if scheme.thermostat == "nose-hoover":
        freedom = degrees_of_freedom(state.momenta)
        energy = energy + chain_energy(constants.thermostat_time, now, freedom, state.chain)
    if scheme.barostat:
        space = _volume(constants, state.cell)
        energy = energy + now.pressure * space - 2 * now.temperature * jnp.log(space)
    return energy


def _volume(constants: Constants, cell):
    return constants.volume * jnp.abs(jnp.linalg.det(cell))


def _strain_force(constants: Constants, now: Now, virial, momenta, cell):
    """F_k, the generalised forces on the amplitudes of the strains [eV]."""
    pull = (momenta / now.masses).T @ momenta - virial
    push = 2 * now.temperature - now.pressure * _volume(constants, cell)
    return jnp.einsum("kxy,xy->k", constants.strains, pull + push * jnp.eye(3, dtype=pull.dtype))


def _exponential(matrix):
    """exp of a small 3x3 matrix, to round-off for strains of a tenth."""
    term = total = jnp.eye(3, dtype=matrix.dtype)
    for k in range(1, 11):
        term = term @ matrix / k
        total = total + term
    return total


def _add(pair, value):
    """Add to a sum that is kept with what rounding took from it (Kahan, Neumaier)."""
    total = pair[0] + value
    lost = jnp.where(jnp.abs(pair[0]) >= jnp.abs(value), pair[0] - total + value, value - total + pair[0])
    return jnp.stack([total, pair[1] + lost])
