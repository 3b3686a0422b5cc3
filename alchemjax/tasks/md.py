"""Molecular dynamics: the host chooses shapes, looks at every chunk of steps, and repeats one whose lists overflowed."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from alchemjax.calculate import check_kind, precision, species_rows
from alchemjax.model.load import Potential
from alchemjax.system.lists import Grid, Neighbours, allocate, no_list, wrap
from alchemjax.system.masses import node_masses
from alchemjax.system.structure import completed_cell, volume
from alchemjax.system.system import System, checked_alpha, checked_weights
from alchemjax.system.topology import Layout, Rule, make_layout
from alchemjax.tasks.dynamics import Constants, Knots, Protocol, Sample, Scheme, State, chunk
from alchemjax.tasks.freedom import make_freedom
from alchemjax.tasks.thermostats import CHAIN, THERMOSTATS, site_masses
from alchemjax.units import FS, KELVIN

SKIN = 0.2  # A, beyond the cutoff
CHUNK = 100  # steps between two looks of the host
TRIES = 8  # to make room for one chunk
REPLICA = ("weights", "alpha", "temperature", "pressure", "seed")


class BlewUp(ValueError):
    """The dynamics went wrong; what came before it is good."""


class Plan(NamedTuple):
    """A run that has been checked."""

    system: System
    rule: Rule
    layout: Layout
    thermostat: str | None
    barostat: bool
    constants: Constants
    protocol: Protocol
    velocities: Float[np.ndarray, "replicas sites 3"]  # A/fs, at the start
    seeds: tuple[int, ...]  # of the replicas
    timestep: float  # fs
    rows: int  # samples of one chunk


class Chunk(NamedTuple):
    """A stretch of a run that went well."""

    state: State
    grid: Grid
    samples: Sample  # numbers of NumPy, one more axis in front: the samples


class Trajectory(NamedTuple):
    """What was recorded. With replicas, every array but `time` has a second axis, the replicas."""

    time: Float[np.ndarray, "samples"]  # fs
    energy: Float[np.ndarray, "samples"]  # potential energy [eV]
    kinetic: Float[np.ndarray, "samples"]  # eV
    temperature: Float[np.ndarray, "samples"]  # K
    pressure: Float[np.ndarray, "samples"]  # eV/A^3, momenta included; NaN without a cell volume
    stress: Float[np.ndarray, "samples 3 3"]  # eV/A^3, momenta included, tension positive
    volume: Float[np.ndarray, "samples"]  # A^3
    conserved: Float[np.ndarray, "samples"]  # eV; what it changes by is the error of the time step
    work: Float[np.ndarray, "samples"]  # eV, done by moving the composition
    weights: Float[np.ndarray, "samples weights"]
    weights_gradient: Float[np.ndarray, "samples weights"]  # dE/dw [eV]
    cell: Float[np.ndarray, "samples 3 3"]  # A
    positions: Float[np.ndarray, "samples sites 3"]  # A, not wrapped into the cell
    velocities: Float[np.ndarray, "samples sites 3"]  # A/fs
    forces: Float[np.ndarray, "samples sites 3"]  # eV/A


def md(
    potential: Potential, system: System, weights=None, *, on_chunk: Callable | None = None, **options
) -> Trajectory:
    """Molecular dynamics of a mixture; `options` as in `make_plan`, of which `steps` is needed.

    `on_chunk` is called with every `Chunk` as it is done. Errors: ValueError as in `make_plan`; BlewUp, a ValueError, when
    atoms become too fast or numbers are not finite.
    """
    plan = make_plan(potential, system, weights, **options)
    samples = []
    for done in run_chunks(potential, plan):
        samples.append(done.samples)
        if on_chunk is not None:
            on_chunk(done)
    joined = Sample(*(np.concatenate(columns) for columns in zip(*samples, strict=True)))
    trajectory = recorded(plan, joined)
    if options.get("replicas") is None:
        trajectory = Trajectory(*(a if a.ndim == 1 and k == 0 else a[:, 0] for k, a in enumerate(trajectory)))
    return trajectory


def make_plan(
    potential: Potential,
    system: System,
    weights=None,
    *,
    steps: int,
    timestep: float = 1.0,
    temperature=300.0,
    thermostat: str | None = "langevin",
    thermostat_time: float = 100.0,
    cell=False,
    pressure=0.0,
    barostat_time: float = 1000.0,
    bulk_modulus: float = 0.6,
    alpha=None,
    seed: int = 0,
    replicas=None,
    velocities=None,
    fixed_axes=(),
    every: int = 10,
    chunk: int = CHUNK,
) -> Plan:
    """Check a run.

    Times in fs, temperatures in K, pressures and the bulk modulus in eV/A^3. `temperature`, `pressure`, `weights` and
    `alpha` are constant or lists of (time, value), linear in between; two values at one time are a jump. Masses are the
    means of the species on a site; where they change, momenta are kept.

    `thermostat`: "langevin", "nose-hoover", "csvr", or None (NVE). `cell` other than False is NPT; it says which strains
    may move as in `relax`. The bulk modulus, the right order of magnitude of it, sets the time scale of the barostat only.
    `replicas`: a number of runs that differ in their random numbers, or a list of dicts that replace weights, alpha,
    temperature, pressure or seed. Velocities [A/fs] are drawn at the first temperature unless given.

    Errors: ValueError saying what is allowed.
    """
    check_kind(potential, Potential)
    check_kind(system, System)
    numbers = {
        "timestep": timestep,
        "thermostat_time": thermostat_time,
        "barostat_time": barostat_time,
        "bulk_modulus": bulk_modulus,
    }
    for name, value in numbers.items():
        if not (np.ndim(value) == 0 and np.isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value!r} must be a positive number")
    for name, value, least in (("steps", steps, 0), ("every", every, 1), ("chunk", chunk, 1)):
        if isinstance(value, bool) or value != int(value) or value < least:
            raise ValueError(f"{name} = {value!r} must be a whole number, at least {least}")
    if thermostat is not None and thermostat not in THERMOSTATS:
        raise ValueError(f"thermostat '{thermostat}' is unknown; allowed are {', '.join(THERMOSTATS)}, or None for NVE")
    structure = system.structure
    if len(structure.positions) < 2:
        raise ValueError("one site alone has no motion relative to the centre of mass; repeat the cell")
    barostat = cell is not False
    if barostat and thermostat is None:
        raise ValueError("a moving cell needs a thermostat; give one, or leave the cell as it is")
    if not barostat and not (np.ndim(pressure) == 0 and pressure == 0):
        raise ValueError(
            f"pressure = {pressure!r} has no effect unless the cell moves; leave it out, or give cell=True"
        )
    freedom = make_freedom(structure, cell=cell, fixed_axes=fixed_axes)
    if barostat and volume(structure) is None:
        raise ValueError("a moving cell needs a volume; give the non-periodic direction a lattice vector")
    own = {"weights": weights, "alpha": alpha, "temperature": temperature, "pressure": pressure, "seed": seed}
    members = [own | one for one in _replicas(replicas, seed)]
    rule, layout = make_layout(
        system.sites, species_rows(potential, system), system.coupling, per_node=potential.per_node
    )
    protocol = _protocol(system, members, float(timestep))
    masses = node_masses(system.sites)
    _check_protocol(system, protocol, masses, thermostat)
    cell_now = completed_cell(structure)
    first = protocol.temperature.value[:, 0]
    seeds = tuple(int(one["seed"]) for one in members)
    return Plan(
        system=system._replace(structure=structure._replace(cell=cell_now)),
        rule=rule,
        layout=layout,
        thermostat=thermostat,
        barostat=barostat,
        constants=Constants(
            dt=np.asarray(timestep * FS),
            thermostat_time=np.asarray(thermostat_time * FS),
            mobility=np.asarray(1 / (3 * bulk_modulus * barostat_time * FS * (volume(structure) or 1.0))),
            strains=freedom.strains,
            node_mass=masses,
            volume=np.asarray((volume(structure) or np.nan) / abs(np.linalg.det(cell_now))),
            every=np.asarray(int(every)),
            steps=np.asarray(int(steps)),
        ),
        protocol=protocol,
        velocities=_velocities(system, protocol, masses, seeds, first, velocities),
        seeds=seeds,
        timestep=float(timestep),
        rows=max(1, int(chunk) // int(every)),
    )


def _replicas(replicas, seed: int) -> list[dict]:
    if replicas is None:
        return [{}]
    if isinstance(replicas, int | np.integer) and not isinstance(replicas, bool):
        if replicas < 1:
            raise ValueError(f"replicas = {replicas} must be at least 1")
        return [{"seed": seed + k} for k in range(replicas)]
    try:
        given = [dict(one) for one in replicas]
    except (TypeError, ValueError):
        raise ValueError(f"replicas = {replicas!r:.80} is not understood; give a number or a list of dicts") from None
    if not given:
        raise ValueError("no replicas were given; give at least one")
    for one in given:
        if unknown := set(one) - set(REPLICA):
            raise ValueError(f"a replica has no '{sorted(unknown)[0]}'; it may have {', '.join(REPLICA)}")
    return [{"seed": seed + k} | one for k, one in enumerate(given)]


def _protocol(system: System, members: list[dict], timestep: float) -> Protocol:
    scalar = lambda name: lambda value: _number(name, value)
    weights = lambda value: checked_weights(system, value)
    fixed = lambda member, w: checked_alpha(system, w, member["alpha"])
    readers = {"temperature": scalar("temperature"), "pressure": scalar("pressure"), "weights": weights}
    knots = {name: _knots(name, [m[name] for m in members], read, timestep) for name, read in readers.items()}
    if system.coupling == "correlated":
        alpha = _knots("alpha", [m["alpha"] for m in members], lambda a: checked_alpha(system, None, a), timestep)
    else:
        alpha = _knots("alpha", [fixed(m, None) for m in members], float, timestep)
    warmth = knots["temperature"]
    knots["temperature"] = warmth._replace(value=warmth.value * KELVIN)
    return Protocol(alpha=alpha, **knots)


def _number(name: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{name} = {value!r} is not understood; give a number, or a list of (time in fs, value)")
    return number


def _is_schedule(value) -> bool:
    pairs = isinstance(value, list | tuple) and len(value) > 0
    return pairs and all(isinstance(x, tuple) and len(x) == 2 for x in value)


def _knots(name: str, values: list, read: Callable, timestep: float) -> Knots:
    """One set of steps for all replicas: where others have a knot, a replica is interpolated."""
    tables = []
    for value in values:
        pairs = list(value) if _is_schedule(value) else [(0.0, value)]
        times = np.array([_number(f"time of {name}", t) for t, _ in pairs])
        if (times < 0).any() or (np.diff(times) < 0).any():
            raise ValueError(f"the times of {name} are {times.tolist()} fs; give them in ascending order, from 0 on")
        tables.append((np.rint(times / timestep).astype(int), np.array([read(v) for _, v in pairs], np.float64)))
    if len({step.tobytes() for step, _ in tables}) > 1:
        several = [step for step, _ in tables if len(step) > 1]
        if len({step.tobytes() for step in several}) > 1:
            raise ValueError(f"the replicas have different times for {name}; give all of them the same times")
        tables = [
            (several[0], value if len(step) > 1 else np.repeat(value, len(several[0]), axis=0))
            for step, value in tables
        ]
    return Knots(tables[0][0], np.stack([value for _, value in tables]))


def _check_protocol(system: System, protocol: Protocol, masses, thermostat: str | None) -> None:
    coldest = protocol.temperature.value.min() / KELVIN
    if coldest < 0 or (coldest == 0 and thermostat in ("nose-hoover", "csvr")):
        raise ValueError(f"temperature = {coldest:g} K must be positive (0 only with langevin or without thermostat)")
    for weights in (w for row in protocol.weights.value for w in row):
        if not (_masses(system, weights, masses) > 0).all():
            raise ValueError(
                f"weights {weights.tolist()} make a mass negative; molecular dynamics needs positive masses"
            )


@partial(jax.jit, static_argnames="sites")
def _jitted_masses(node_weight, node_mass, node_site, sites):
    return site_masses(node_weight, node_mass, node_site, sites)


def _masses(system: System, weights, node_mass) -> Float[np.ndarray, "sites"]:
    """Mass of every site [amu] at a composition."""
    each = np.append(weights, 1.0)[system.sites.node_weight]
    return np.asarray(_jitted_masses(each, node_mass, system.sites.node_site, len(system.structure.positions)))


def _velocities(system: System, protocol: Protocol, masses, seeds, warmth, given) -> np.ndarray:
    """Given, or from the Maxwell-Boltzmann distribution of momenta without total; A/fs."""
    sites = len(system.structure.positions)
    if given is not None:
        given = np.asarray(given, np.float64)
        if given.shape[-2:] != (sites, 3) or not np.isfinite(given).all():
            raise ValueError(f"velocities have shape {given.shape}; give finite numbers [A/fs], one row per site")
        return np.broadcast_to(given, (len(seeds), sites, 3)).copy()
    drawn = []
    for seed, kT, weights in zip(seeds, warmth, protocol.weights.value[:, 0], strict=True):
        mass = _masses(system, weights, masses)[:, None]
        momenta = np.random.default_rng(seed).normal(size=(sites, 3)) * np.sqrt(mass * kT)
        drawn.append((momenta - mass * momenta.sum(0) / mass.sum()) / mass * FS)
    return np.array(drawn)


# --- running ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _compiled(node_energies, config, scheme: Scheme, devices: tuple):
    """`chunk`, every device with its part of the replicas."""
    mesh = jax.sharding.Mesh(np.array(devices), ("replicas",))
    one, split = jax.P(), jax.P("replicas")
    knots = Knots(one, split)
    specs = (one, one, one, Protocol(knots, knots, knots, knots), split)
    sharded = jax.shard_map(
        partial(chunk, node_energies, config, scheme), mesh=mesh, in_specs=specs, out_specs=(split, jax.P(None, "replicas")),
        check_vma=False,
    )  # fmt: skip
    run = jax.jit(sharded)
    place = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, jax.P))
    return lambda *arguments: run(*jax.device_put(arguments, place))


def run_chunks(
    potential: Potential, plan: Plan, state: State | None = None, grid: Grid | None = None
) -> Iterator[Chunk]:
    """The chunks of a run, from the start or from the state and grid of an earlier chunk on."""
    devices = tuple(jax.devices()) if len(plan.seeds) % len(jax.devices()) == 0 else tuple(jax.devices()[:1])
    dtype = potential.dtype
    with precision(potential):
        cast = lambda a: jnp.asarray(a, dtype if np.issubdtype(np.asarray(a).dtype, np.floating) else None)
        layout, constants, protocol = jax.tree.map(cast, (plan.layout, plan.constants, plan.protocol))
        if state is None or grid is None:
            grid = allocate(plan.rule, plan.layout, [plan.system.structure], potential.cutoff + SKIN)
            state = _start(plan, grid, dtype)
        tries, steps = 0, int(plan.constants.steps)
        while int(np.max(state.step)) < steps:
            scheme = Scheme(plan.thermostat, plan.barostat, grid, plan.rule, plan.rows)
            run = _compiled(potential.node_energies, potential.config, scheme, devices)
            after, samples = run(potential.params, layout, constants, protocol, state)
            if np.asarray(after.overflow).any():
                tries += 1
                grid = _more_room(potential, plan, after, grid, tries)
                state = state._replace(listed=_no_list(plan, grid, dtype))
                continue
            if np.asarray(after.broken).any():
                raise BlewUp(_what_happened(plan, after))
            tries = 0
            yield Chunk(after, grid, _new(state, jax.tree.map(np.asarray, samples)))
            state = after


def _start(plan: Plan, grid: Grid, dtype: str) -> State:
    replicas, (sites, _) = len(plan.seeds), plan.system.structure.positions.shape
    structure = plan.system.structure
    positions, images = wrap(grid.pbc, structure.positions, structure.cell, np)
    each = lambda a, kind: np.repeat(np.asarray(a, kind)[None], replicas, axis=0)
    zeros = lambda *shape: np.zeros((replicas, *shape), dtype)
    masses = np.stack([_masses(plan.system, w, plan.constants.node_mass) for w in plan.protocol.weights.value[:, 0]])
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
        heat=zeros(2),
        work=zeros(2),
        listed=_no_list(plan, grid, dtype),
        overflow=np.zeros(replicas, bool),
        moved=zeros(),
        broken=np.zeros(replicas, bool),
    )


def _no_list(plan: Plan, grid: Grid, dtype: str) -> Neighbours:
    """A list that is made again at once."""
    one = no_list(grid, plan.rule, len(plan.system.structure.positions), dtype)
    return jax.tree.map(lambda a: np.repeat(a[None], len(plan.seeds), axis=0), one)


def _new(state: State, samples: Sample) -> Sample:
    """The samples that came after a state."""
    step = samples.step[:, 0]
    fresh = np.append(int(state.step[0]), step[:-1]) < step
    return Sample(*(a[fresh] for a in samples))


def _more_room(potential: Potential, plan: Plan, state: State, grid: Grid, tries: int) -> Grid:
    """A grid for what did not fit."""
    structures = []
    for k in np.flatnonzero(np.asarray(state.overflow)):
        positions, cell = (np.asarray(a[k], np.float64) for a in (state.positions, state.cell))
        structures.append(plan.system.structure._replace(positions=positions, cell=cell))
    if tries > TRIES or not all(np.isfinite(s.positions).all() and np.isfinite(s.cell).all() for s in structures):
        raise BlewUp(_what_happened(plan, state))
    try:
        return allocate(plan.rule, plan.layout, structures, grid.radius, spare=1.05 * 1.1**tries)
    except ValueError as error:  # sites on top of each other
        raise BlewUp(f"{_what_happened(plan, state)}: {error}") from None


def _what_happened(plan: Plan, state: State) -> str:
    number = int(np.argmax(np.asarray(state.broken | state.overflow)))
    step, moved = int(state.step[number]), float(state.moved[number])
    who = f"replica {number}: " if len(plan.seeds) > 1 else ""
    what = f"an atom moved {moved:.2g} A in one step of {plan.timestep:g} fs" if moved > 0 else "numbers are not finite"
    return (
        f"{who}the dynamics went wrong at step {step} ({step * plan.timestep:g} fs): {what}; take a smaller time step, relax "
        "the structure first, or check temperature, pressure and composition"
    )


def recorded(plan: Plan, samples: Sample) -> Trajectory:
    """Samples in the units of the surface, in float64."""
    double = lambda a: np.asarray(a, np.float64)
    space = float(plan.constants.volume) * np.abs(np.linalg.det(double(samples.cell)))
    with np.errstate(invalid="ignore"):
        stress = double(samples.virial) / space[..., None, None]
    masses = np.array([[_masses(plan.system, w, plan.constants.node_mass) for w in row] for row in samples.weights])
    return Trajectory(
        time=samples.step[:, 0] * plan.timestep,
        energy=double(samples.energy),
        kinetic=double(samples.kinetic),
        temperature=double(samples.temperature) / KELVIN,
        pressure=-np.trace(stress, axis1=-2, axis2=-1) / 3,
        stress=stress,
        volume=space,
        conserved=double(samples.conserved),
        work=double(samples.work),
        weights=double(samples.weights),
        weights_gradient=double(samples.weights_gradient),
        cell=double(samples.cell),
        positions=double(samples.positions),
        velocities=double(samples.momenta) / masses[..., None] * FS,
        forces=double(samples.forces),
    )
