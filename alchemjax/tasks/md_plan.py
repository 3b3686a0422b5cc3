"""What a run of molecular dynamics is asked to do, checked on the host."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from alchemjax.calculate import SEPARATION, SKIN, check_kind, species_rows, with_fluctuations
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import without_vacancies
from alchemjax.system.masses import node_masses
from alchemjax.system.structure import Structure, completed_cell, volume
from alchemjax.system.supercell import nearest_image
from alchemjax.system.system import System, checked_alpha, checked_weights
from alchemjax.system.topology import Layout, Rule, make_layout
from alchemjax.tasks.dynamics import Constants, Knots, Protocol
from alchemjax.tasks.freedom import make_freedom
from alchemjax.tasks.seeds import seed_of
from alchemjax.tasks.springs import Springs
from alchemjax.tasks.thermostats import THERMOSTATS, site_masses
from alchemjax.units import FS, KELVIN

THERMOSTAT_TIME, BAROSTAT_TIME, BULK_MODULUS = 100.0, 1000.0, 0.6  # fs, fs, eV/A^3
CHUNK = 100  # steps between two looks of the host
MOST = 2**31 - 1  # steps and seeds
REPLICA = ("weights", "alpha", "temperature", "pressure", "scale", "stiffness", "seed")


class Plan(NamedTuple):
    """A run that has been checked."""

    system: System
    start: Structure  # with lattice vectors along directions without any
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
    skin: float  # A, beyond the cutoff


def make_plan(
    potential: Potential,
    system: System,
    weights=None,
    *,
    steps: int,
    timestep: float = 1.0,
    temperature=300.0,
    thermostat: str | None = "langevin",
    thermostat_time: float | None = None,
    cell=False,
    pressure=0.0,
    barostat_time: float | None = None,
    bulk_modulus: float | None = None,
    alpha=None,
    fluctuations: str = "none",
    scale=1.0,
    stiffness=0.0,
    share=None,
    seed: int = 0,
    replicas=None,
    velocities=None,
    fixed_axes=(),
    every: int = 10,
    chunk: int = CHUNK,
    skin: float = SKIN,
) -> Plan:
    """Check a run.

    Times in fs, temperatures in K, pressures and the bulk modulus in eV/A^3. `temperature`, `pressure`, `weights`,
    `alpha`, `scale` and `stiffness` are constant or lists of (time, value), linear in between; two values at one time
    are a jump. Masses are the means of the species on a site; where they change, momenta are kept.

    `fluctuations` as in `calculate`, of one site at a time in the system's own cell, wherever sites and cell move; its
    images should be twice the cutoff away, and must be out of it at the start.

    `scale` multiplies the potential. `stiffness` [eV/A^2], for all sites or each, are springs that tie sites to where
    they are in `system`, relative to the mean displacement of all, or of sites with `share` (`tasks/springs.py`).

    `thermostat`: "langevin", "nose-hoover", "csvr", or None (NVE), with the relaxation time `thermostat_time` (100).
    `cell` other than False is NPT; it says which strains may move as in `relax`, with the relaxation time
    `barostat_time` (1000) if the bulk modulus is `bulk_modulus` (0.6); its order of magnitude suffices. `replicas`: a
    number of runs that differ in their random numbers, or a list of dicts that replace what is scheduled, or the seed.
    Velocities [A/fs] are drawn at the first temperature unless given; with a thermostat the centre of mass is put at
    rest. A sample is recorded `every` so many steps; the host looks at the run every `chunk` steps. Neighbour lists
    reach `skin` A beyond the cutoff; wider ones are made less often.

    Errors: ValueError saying what is allowed.
    """
    check_kind(potential, Potential)
    check_kind(system, System)
    barostat = cell is not False
    idle = {"thermostat_time": thermostat_time} if thermostat is None else {}
    if not barostat:
        idle |= {"barostat_time": barostat_time, "bulk_modulus": bulk_modulus}
        idle |= {"pressure": None if np.ndim(pressure) == 0 and pressure == 0 else pressure}
        idle |= {"fixed_axes": fixed_axes if len(fixed_axes) else None}
    for name, value in idle.items():
        if value is not None:
            of_cell = "unless the cell moves; leave it out, or give cell=True"
            reason = "without a thermostat; leave it out" if name == "thermostat_time" else of_cell
            raise ValueError(f"{name} = {value!r} has no effect {reason}")
    thermostat_time = THERMOSTAT_TIME if thermostat_time is None else thermostat_time
    barostat_time = BAROSTAT_TIME if barostat_time is None else barostat_time
    bulk_modulus = BULK_MODULUS if bulk_modulus is None else bulk_modulus
    numbers = {
        "timestep": timestep,
        "thermostat_time": thermostat_time,
        "barostat_time": barostat_time,
        "bulk_modulus": bulk_modulus,
        "skin": skin,
    }
    for name, value in numbers.items():
        if not (np.ndim(value) == 0 and np.isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value!r} must be a positive number")
    for name, value, least in (("steps", steps, 0), ("every", every, 1), ("chunk", chunk, 1)):
        _check_whole(name, value, least)
    if thermostat is not None and thermostat not in THERMOSTATS:
        raise ValueError(f"thermostat '{thermostat}' is unknown; allowed are {', '.join(THERMOSTATS)}, or None for NVE")
    structure = system.structure
    if len(structure.positions) < 2:
        raise ValueError("one site alone has no motion relative to the centre of mass; repeat the cell")
    if barostat and thermostat is None:
        raise ValueError("a moving cell needs a thermostat; give one, or leave the cell as it is")
    if thermostat is None and _is_schedule(temperature):
        raise ValueError("a schedule of the temperature needs a thermostat; give one, or one temperature to start with")
    freedom = make_freedom(structure, cell=cell, fixed_axes=fixed_axes)
    if barostat and volume(structure) is None:
        raise ValueError("a moving cell needs a volume; give the non-periodic direction a lattice vector")
    own = {"weights": weights, "alpha": alpha, "temperature": temperature, "pressure": pressure, "seed": seed}
    own |= {"scale": scale, "stiffness": stiffness}
    _check_whole("seed", seed, 0)
    members = [own | one for one in _replicas(replicas, seed)]
    for one in members:
        _check_whole("seed", one["seed"], 0)
    system = _fluctuating(potential, system, fluctuations)
    variants = None if system.fluctuations is None else system.fluctuations.variants
    sites = system.sites if system.fluctuations is None else system.fluctuations.sites
    rule, layout = make_layout(sites, species_rows(potential, system), system.coupling, per_node=potential.per_node)
    protocol = _protocol(system, members, float(timestep))
    masses = node_masses(system.sites)
    _check_protocol(system, protocol, masses, thermostat)
    cell_now = completed_cell(structure)
    seeds = tuple(int(one["seed"]) for one in members)
    return Plan(
        system=system,
        start=structure._replace(cell=cell_now),
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
            node_weight=system.sites.node_weight,
            volume=np.asarray((volume(structure) or np.nan) / abs(np.linalg.det(cell_now))),
            springs=_springs(structure, cell_now, share),
            variants=None if variants is None else without_vacancies(variants, protocol.weights.value),
            every=np.asarray(int(every)),
            steps=np.asarray(int(steps)),
        ),
        protocol=protocol,
        velocities=_velocities(system, protocol, masses, seeds, thermostat, velocities),
        seeds=seeds,
        timestep=float(timestep),
        rows=max(1, int(chunk) // int(every)),
        skin=float(skin),
    )


def _fluctuating(potential: Potential, system: System, kind: str) -> System:
    """Errors: ValueError as in `with_fluctuations`, or for a cell where a site sees its own images."""
    system = with_fluctuations(potential, system, kind, None if kind == "none" else (1, 1, 1), symmetric=False)
    if system.fluctuations is not None and nearest_image(system.structure, potential.cutoff) < potential.cutoff:
        raise ValueError(
            f"fluctuations = '{kind}': sites fluctuate together with their images, which are nearer than the cutoff, "
            f"{potential.cutoff:g} A; repeat the cell"
        )
    return system


def all_strains(plan: Plan) -> bool:
    """Whether the cell moves in all six strains."""
    return bool(plan.constants.strains.any(axis=(1, 2)).all())


def distance_of_images(potential: Potential, system: System) -> tuple[float, float]:
    """How far sites are from their nearest images, and from where on what is around them hardly sees both [A]."""
    wanted = SEPARATION * potential.cutoff
    return nearest_image(system.structure, wanted), wanted


def doubts_of_fluctuations(potential: Potential, system: System) -> list[str]:
    """What to say where sites that fluctuate have images within twice the cutoff."""
    away, wanted = distance_of_images(potential, system)
    if system.fluctuations is None or away >= wanted:
        return []
    return [
        f"sites fluctuate together with their images, {away:.1f} A away: they are independent of them from {wanted:g} "
        "A on; repeat the cell, or compare with a larger one"
    ]


def _check_whole(name: str, value, least: int) -> None:
    """Errors: ValueError unless the value is a whole number, at least `least`."""
    number = isinstance(value, int | float | np.integer) and not isinstance(value, bool)
    if not (number and np.isfinite(value) and value == int(value) and value >= least):
        raise ValueError(f"{name} = {value!r} must be a whole number, at least {least}")
    if value > MOST:
        raise ValueError(f"{name} = {value!r} is too large; at most {MOST} is allowed")


def _replicas(replicas, seed: int) -> list[dict]:
    if replicas is None:
        return [{}]
    of = lambda k: seed_of(seed, 1, k) if k else seed  # neighbouring seeds are no repetitions of each other
    if isinstance(replicas, int | np.integer) and not isinstance(replicas, bool):
        if replicas < 1:
            raise ValueError(f"replicas = {replicas} must be at least 1")
        return [{"seed": of(k)} for k in range(replicas)]
    try:
        given = [dict(one) for one in list(replicas)]
    except (TypeError, ValueError):
        raise ValueError(f"replicas = {replicas!r:.80} is not understood; give a number or a list of dicts") from None
    if not given:
        raise ValueError("no replicas were given; give at least one")
    for one in given:
        if unknown := set(one) - set(REPLICA):
            raise ValueError(f"a replica has no '{sorted(unknown)[0]}'; it may have {', '.join(REPLICA)}")
    return [{"seed": of(k)} | one for k, one in enumerate(given)]


def _protocol(system: System, members: list[dict], timestep: float) -> Protocol:
    scalar = lambda name: lambda value: _number(name, value)
    weights = lambda value: checked_weights(system, value)
    readers = {"temperature": scalar("temperature"), "pressure": scalar("pressure"), "weights": weights}
    readers |= {"scale": scalar("scale"), "stiffness": partial(_stiffness, len(system.structure.positions))}
    knots = {name: _knots(name, [m[name] for m in members], read, timestep) for name, read in readers.items()}
    if system.coupling == "correlated":
        alpha = _knots("alpha", [m["alpha"] for m in members], partial(checked_alpha, system, None), timestep)
        _check_alpha(system, knots["weights"], alpha)
    else:
        alpha = _knots("alpha", [checked_alpha(system, None, m["alpha"]) for m in members], float, timestep)
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


def _stiffness(sites: int, value) -> np.ndarray:
    try:
        stiffness = np.broadcast_to(np.asarray(value, np.float64), (sites,))
    except (TypeError, ValueError):
        stiffness = np.array([np.nan])
    if not (np.isfinite(stiffness).all() and (stiffness >= 0).all()):
        raise ValueError(
            f"stiffness = {value!r:.80} is not understood; give a number that is not negative [eV/A^2], or one for "
            f"each of the {sites} sites"
        )
    return stiffness


def _springs(structure: Structure, cell, share) -> Springs:
    sites = len(structure.positions)
    share = np.ones(sites) if share is None else np.asarray(share, np.float64)
    if share.shape != (sites,) or not np.isfinite(share).all() or (share < 0).any() or not share.sum() > 0:
        raise ValueError(f"share = {share.tolist()!r:.80} must be {sites} numbers, not negative and not all zero")
    return Springs(structure.positions @ np.linalg.inv(cell), share / share.sum())


def _is_schedule(value) -> bool:
    pairs = isinstance(value, list | tuple) and len(value) > 0
    return pairs and all(isinstance(x, tuple) and len(x) == 2 for x in value)


def _knots(name: str, values: list, read: Callable, timestep: float) -> Knots:
    """One set of steps for all replicas; those with a constant keep it."""
    distinct = {id(value): _table(name, value, read, timestep) for value in {id(v): v for v in values}.values()}
    tables = [distinct[id(value)] for value in values]
    if len({step.tobytes() for step, _ in tables}) > 1:
        several = [step for step, _ in tables if len(step) > 1]
        if len({step.tobytes() for step in several}) > 1:
            raise ValueError(f"the replicas have different times for {name}; give all of them the same times")
        tables = [
            (several[0], value if len(step) > 1 else np.repeat(value, len(several[0]), axis=0))
            for step, value in tables
        ]
    return Knots(tables[0][0], np.stack([value for _, value in tables]))


def _table(name: str, value, read: Callable, timestep: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a constant or a schedule."""
    pairs = list(value) if _is_schedule(value) else [(0.0, value)]
    times = np.array([_number(f"time of {name}", t) for t, _ in pairs])
    if (times < 0).any() or (np.diff(times) < 0).any():
        raise ValueError(f"the times of {name} are {times.tolist()} fs; give them in ascending order, from 0 on")
    if times.max() / timestep > MOST:
        raise ValueError(f"the time {times.max():g} fs of {name} is more than {MOST} steps; give earlier ones")
    steps = np.rint(times / timestep).astype(int) if len(pairs) > 1 else np.zeros(1, int)
    first = max(0, int(np.searchsorted(steps, 0, side="right")) - 1)  # after jumps at the start
    return steps[first:], np.array([read(v) for _, v in pairs], np.float64)[first:]


def _check_alpha(system: System, weights: Knots, alpha: Knots) -> None:
    """Errors: ValueError where alpha and weights together make a probability negative somewhere along the run."""
    steps = np.concatenate([weights.step, alpha.step])
    steps = np.unique(np.concatenate([steps, np.linspace(steps.min(), steps.max(), 101)]))
    at = lambda step, values: np.stack([np.interp(steps, step, v) for v in values.T], axis=-1)
    for w, a in zip(weights.value, alpha.value, strict=True):
        for row, one in zip(at(weights.step, w), np.interp(steps, alpha.step, a), strict=True):
            checked_alpha(system, row, one)


def _check_protocol(system: System, protocol: Protocol, masses, thermostat: str | None) -> None:
    coldest = protocol.temperature.value.min() / KELVIN
    if coldest < 0 or (coldest == 0 and thermostat in ("nose-hoover", "csvr")):
        raise ValueError(f"temperature = {coldest:g} K must be positive (0 only with langevin or without thermostat)")
    for weights in (w for row in protocol.weights.value for w in row):
        if not (masses_of(system, weights, masses) > 0).all():
            raise ValueError(
                f"weights {weights.tolist()} make a mass negative; molecular dynamics needs positive masses"
            )


@partial(jax.jit, static_argnames="sites")
def _jitted_masses(node_weight, node_mass, node_site, sites):
    return site_masses(node_weight, node_mass, node_site, sites)


def masses_of(system: System, weights, node_mass) -> Float[np.ndarray, "sites"]:
    """Mass of every site [amu] at a composition."""
    each = np.append(weights, 1.0)[system.sites.node_weight]
    return np.asarray(_jitted_masses(each, node_mass, system.sites.node_site, len(system.structure.positions)))


def _velocities(system: System, protocol: Protocol, masses, seeds, thermostat, given) -> np.ndarray:
    """Given, or from the Maxwell-Boltzmann distribution; with a thermostat the centre of mass is at rest; A/fs."""
    sites = len(system.structure.positions)
    if given is not None:
        given = np.asarray(given, np.float64)
        if given.shape not in ((sites, 3), (len(seeds), sites, 3)) or not np.isfinite(given).all():
            raise ValueError(
                f"velocities have shape {given.shape}; give finite numbers [A/fs], one row of three per site, for all "
                f"replicas or for each of the {len(seeds)}"
            )
        given = np.broadcast_to(given, (len(seeds), sites, 3))
        if thermostat is None:
            return given.copy()
        mass = np.stack([masses_of(system, weights, masses) for weights in protocol.weights.value[:, 0]])[..., None]
        return given - (mass * given).sum(1, keepdims=True) / mass.sum(1, keepdims=True)
    drawn, warmth = [], protocol.temperature.value[:, 0]
    for seed, kT, weights in zip(seeds, warmth, protocol.weights.value[:, 0], strict=True):
        mass = masses_of(system, weights, masses)[:, None]
        momenta = np.random.default_rng(seed).normal(size=(sites, 3)) * np.sqrt(mass * kT)
        drawn.append((momenta - mass * momenta.sum(0) / mass.sum()) / mass * FS)
    return np.array(drawn)
