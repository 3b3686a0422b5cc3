"""Molecular dynamics: the host chooses shapes, looks at every chunk, and repeats one whose lists overflowed."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from alchemjax.calculate import TRIES, precision
from alchemjax.devices import MEMBERS, mesh_for, spread
from alchemjax.model.load import Potential
from alchemjax.system.lists import SPARE, Grid, Neighbours, allocate, no_list, wrap
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.system import System
from alchemjax.tasks.dynamics import LARGEST_MOVE, Knots, Protocol, Sample, Scheme, State, chunk
from alchemjax.tasks.md_plan import Plan, make_plan, masses_of
from alchemjax.tasks.thermostats import CHAIN
from alchemjax.units import FS, KELVIN


class BlewUp(ValueError):
    """The dynamics went wrong; what came before it is good."""


class Chunk(NamedTuple):
    """A stretch of a run that went well."""

    state: State
    grid: Grid
    samples: Sample  # numbers of NumPy, one more axis in front: the samples


class Trajectory(NamedTuple):
    """What was recorded. With replicas, every array but `step` and `time` has a second axis, the replicas."""

    step: Int[np.ndarray, "samples"]
    time: Float[np.ndarray, "samples"]  # fs
    energy: Float[np.ndarray, "samples"]  # potential energy, scaled and with springs [eV]
    kinetic: Float[np.ndarray, "samples"]  # eV
    temperature: Float[np.ndarray, "samples"]  # K, of the motion about the centre of mass, as in pressure and stress
    pressure: Float[np.ndarray, "samples"]  # eV/A^3, momenta included; NaN without a cell volume
    stress: Float[np.ndarray, "samples 3 3"]  # eV/A^3, momenta included, tension positive
    volume: Float[np.ndarray, "samples"]  # A^3
    conserved: Float[np.ndarray, "samples"]  # eV; what it changes by is the error of the time step
    work: Float[np.ndarray, "samples"]  # eV, done by moving the composition, the scale or the springs
    target_temperature: Float[np.ndarray, "samples"]  # K; NaN without a thermostat
    target_pressure: Float[np.ndarray, "samples"]  # eV/A^3; NaN where the cell does not move
    weights: Float[np.ndarray, "samples weights"]
    alpha: Float[np.ndarray, "samples"]
    weights_gradient: Float[np.ndarray, "samples weights"]  # dE/dw [eV]
    alpha_gradient: Float[np.ndarray, "samples"]  # dE/dalpha [eV]
    scale_gradient: Float[np.ndarray, "samples"]  # energy of the potential as it is [eV]
    stiffness_gradient: Float[np.ndarray, "samples sites"]  # half the square of their lengths [A^2]
    cell: Float[np.ndarray, "samples 3 3"]  # A
    positions: Float[np.ndarray, "samples sites 3"]  # A, not wrapped into the cell
    velocities: Float[np.ndarray, "samples sites 3"]  # A/fs
    forces: Float[np.ndarray, "samples sites 3"]  # eV/A


def md(
    potential: Potential, system: System, weights=None, *, on_chunk: Callable | None = None, **options
) -> Trajectory:
    """Molecular dynamics of a mixture; `options` as in `make_plan`, of which `steps` is needed.

    `on_chunk` is called with every `Chunk` as it is done. Errors: ValueError as in `make_plan`; BlewUp, a ValueError,
    when atoms become too fast or numbers are not finite.
    """
    trajectory = recorded_run(potential, make_plan(potential, system, weights, **options), on_chunk)
    if options.get("replicas") is None:
        trajectory = Trajectory(*(a if k < 2 else a[:, 0] for k, a in enumerate(trajectory)))
    return trajectory


def recorded_run(potential: Potential, plan: Plan, on_chunk: Callable | None = None) -> Trajectory:
    """All that a run records. Errors: BlewUp as in `md`."""
    samples = []
    for done in run_chunks(potential, plan):
        samples.append(done.samples)
        if on_chunk is not None:
            on_chunk(done)
    return recorded(plan, Sample(*(np.concatenate(columns) for columns in zip(*samples, strict=True))))


@lru_cache(maxsize=32)
def _compiled(node_energies, config, scheme: Scheme, mesh: Mesh):
    """`chunk`, every device with its part of the replicas, or of the edges of the only one."""
    one, split = jax.P(), jax.P(MEMBERS)
    knots = Knots(one, split)
    specs = (one, one, one, Protocol(*[knots] * 6), split)
    return spread(partial(chunk, node_energies, config, scheme), mesh, specs, (split, jax.P(None, MEMBERS)))


def run_chunks(
    potential: Potential, plan: Plan, state: State | None = None, grid: Grid | None = None
) -> Iterator[Chunk]:
    """The chunks of a run, from the start or from the state and grid of an earlier chunk on."""
    if state is None or grid is None:
        find_pairs(plan.start, potential.cutoff)  # refuses sites on top of each other
        grid = allocate(plan.rule, plan.layout, [plan.start], potential.cutoff + plan.skin)
        state = _start(plan, grid, potential.dtype)
    tries = 0
    while int(np.max(state.step)) < int(plan.constants.steps):
        after, samples = _advance(potential, plan, grid, state)
        if after.overflow.any():
            tries += 1
            grid = _more_room(potential, plan, after, grid, tries)
            state = state._replace(listed=_no_list(plan, grid, potential.dtype))
            continue
        if after.broken.any():
            raise BlewUp(_what_happened(plan, after))
        tries = 0
        yield Chunk(after, grid, _new(state, samples))
        state = after


def _advance(potential: Potential, plan: Plan, grid: Grid, state: State) -> tuple[State, Sample]:
    """One chunk, in arrays of NumPy."""
    mesh = mesh_for(len(plan.seeds), len(plan.start.positions))
    scheme = Scheme(plan.thermostat, plan.barostat, grid, plan.rule, plan.rows)
    with precision(potential):
        cast = lambda a: jnp.asarray(a, potential.dtype if np.issubdtype(np.asarray(a).dtype, np.floating) else None)
        given = jax.tree.map(cast, (plan.layout, plan.constants, plan.protocol))
        run = _compiled(potential.node_energies, potential.config, scheme, mesh)
        return jax.tree.map(np.asarray, run(potential.params, *given, state))


def _start(plan: Plan, grid: Grid, dtype: str) -> State:
    replicas, (sites, _) = len(plan.seeds), plan.start.positions.shape
    structure = plan.start
    positions, images = wrap(grid.pbc, structure.positions, structure.cell, np)
    each = lambda a, kind: np.repeat(np.asarray(a, kind)[None], replicas, axis=0)
    zeros = lambda *shape: np.zeros((replicas, *shape), dtype)
    masses = np.stack([masses_of(plan.system, w, plan.constants.node_mass) for w in plan.protocol.weights.value[:, 0]])
    keys = [jax.random.key_data(jax.random.key(seed)) for seed in plan.seeds]
    return State(
        step=np.full(replicas, -1, np.int32),
        positions=each(positions, dtype),
        images=each(images, np.int32),
        momenta=np.asarray(plan.velocities / FS * masses[..., None], dtype),
        cell=each(structure.cell, dtype),
        chain=zeros(2, CHAIN),
        key=np.stack(keys),
        energy=zeros(),
        forces=zeros(sites, 3),
        virial=zeros(3, 3),
        weights_gradient=zeros(plan.protocol.weights.value.shape[-1]),
        alpha_gradient=zeros(),
        scale_gradient=zeros(),
        stiffness_gradient=zeros(sites),
        heat=zeros(2),
        work=zeros(2),
        listed=_no_list(plan, grid, dtype),
        overflow=np.zeros(replicas, bool),
        moved=zeros(),
        broken=np.zeros(replicas, bool),
    )


def _no_list(plan: Plan, grid: Grid, dtype: str) -> Neighbours:
    """A list that is made again at once."""
    one = no_list(grid, plan.rule, len(plan.start.positions), dtype)
    return jax.tree.map(lambda a: np.repeat(a[None], len(plan.seeds), axis=0), one)


def _new(state: State, samples: Sample) -> Sample:
    """The samples that came after a state."""
    step = samples.step[:, 0]
    fresh = np.append(int(state.step[0]), step[:-1]) < step
    return Sample(*(a[fresh] for a in samples))


def _more_room(potential: Potential, plan: Plan, state: State, grid: Grid, tries: int) -> Grid:
    """A grid for what did not fit."""
    structures = []
    for k in range(len(plan.seeds)):
        positions, cell = (np.asarray(a[k], np.float64) for a in (state.positions, state.cell))
        structures.append(plan.start._replace(positions=positions, cell=cell))
    if tries > TRIES or not all(np.isfinite(s.positions).all() and np.isfinite(s.cell).all() for s in structures):
        raise BlewUp(_what_happened(plan, state))
    try:
        for structure in structures:
            find_pairs(structure, potential.cutoff)
    except ValueError as error:  # sites on top of each other
        raise BlewUp(f"{_what_happened(plan, state)} ({error})") from None
    return allocate(plan.rule, plan.layout, structures, grid.radius, spare=SPARE * 1.1**tries)


def _what_happened(plan: Plan, state: State) -> str:
    number = int(np.argmax(np.asarray(state.broken | state.overflow)))
    step, moved = int(state.step[number]), float(state.moved[number])
    who = f"replica {number}: " if len(plan.seeds) > 1 else ""
    if not moved < LARGEST_MOVE and np.isfinite(moved):
        what = f"an atom moved {moved:.2g} A in one step of {plan.timestep:g} fs"
    elif bool(np.asarray(state.broken)[number]):
        what = "numbers are not finite"
    else:
        what = "the neighbours of some atom are too many"
    return (
        f"{who}the dynamics went wrong at step {step} ({step * plan.timestep:g} fs): {what}; take a smaller time step, "
        f"relax the structure first, or check temperature, {'barostat time, bulk modulus, ' if plan.barostat else ''}"
        "pressure and composition"
    )


def recorded(plan: Plan, samples: Sample) -> Trajectory:
    """Samples in the units of the surface, in float64."""
    double = lambda a: np.asarray(a, np.float64)
    space = float(plan.constants.volume) * np.abs(np.linalg.det(double(samples.cell)))
    with np.errstate(invalid="ignore"):
        stress = double(samples.virial) / space[..., None, None]
    return Trajectory(
        step=samples.step[:, 0],
        time=samples.step[:, 0] * plan.timestep,
        energy=double(samples.energy),
        kinetic=double(samples.kinetic),
        temperature=double(samples.temperature) / KELVIN,
        pressure=-np.trace(stress, axis1=-2, axis2=-1) / 3,
        stress=stress,
        volume=space,
        conserved=double(samples.conserved),
        work=double(samples.work),
        target_temperature=double(samples.target_temperature) / (KELVIN if plan.thermostat else np.nan),
        target_pressure=double(samples.target_pressure) * (1 if plan.barostat else np.nan),
        weights=double(samples.weights),
        alpha=double(samples.alpha),
        weights_gradient=double(samples.weights_gradient),
        alpha_gradient=double(samples.alpha_gradient),
        scale_gradient=double(samples.scale_gradient),
        stiffness_gradient=double(samples.stiffness_gradient),
        cell=plan.system.structure.cell @ np.linalg.inv(plan.start.cell) @ double(samples.cell),
        positions=double(samples.positions),
        velocities=double(samples.velocities) * FS,
        forces=double(samples.forces),
    )
