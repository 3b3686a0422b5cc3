"""Nonequilibrium switching along a path and back: works, free-energy differences, and what makes them doubtful."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alchemjax.model.load import Potential
from alchemjax.system.masses import node_masses
from alchemjax.system.neighbours import nearest_distance
from alchemjax.system.system import System
from alchemjax.tasks.free_energy.doubts import (
    doubts_of_lag,
    doubts_of_places,
    doubts_of_rest,
    doubts_of_warmth,
    strain_of,
    surely,
)
from alchemjax.tasks.free_energy.estimators import (
    Estimate,
    bar,
    bootstrap,
    crooks_gaussian,
    jarzynski,
    overlap,
    second_cumulant,
)
from alchemjax.tasks.free_energy.paths import POINTS, Path, in_time, mixing_entropy
from alchemjax.tasks.md import Trajectory, recorded_run
from alchemjax.tasks.md_plan import Plan, all_strains, doubts_of_fluctuations, make_plan, masses_of
from alchemjax.units import KELVIN

MOST_DISSIPATION = 5.0  # kT
LEAST_OVERLAP = 0.1
LEAST_REPLICAS = 4
NOTHING = 1e-6  # of an atom on a site
END = 0.01  # of lambda, by which a switch may be away from where it goes


class Switching(NamedTuple):
    """What switches say."""

    difference: Estimate  # F(end) - F(start), or G under a pressure, without momenta [eV]; Bennett's ratio
    mass_term: float  # what momenta add: 3/2 kT sum_i ln(m_i(start) / m_i(end)) [eV]
    mixing_term: float  # what mixing adds where sites are occupied independently: -T (S(end) - S(start)) [eV]
    estimates: dict[str, Estimate]  # the same difference by other estimators [eV]
    forward: Float[np.ndarray, "replicas"]  # works [eV], those of momenta included
    backward: Float[np.ndarray, "replicas"]
    dissipation: float  # mean of both directions [kT]
    overlap: float  # of the distributions of works, 1 if they are one
    pressure: Estimate  # -dF/dV at the start of the path, momenta included [eV/A^3]
    expansion: float  # mean volume at the end of the path minus that at its start [A^3]
    doubts: tuple[str, ...]  # in words; none if there is no reason to doubt


class Facts(NamedTuple):
    """What the analysis must know of a run."""

    steps: tuple[int, int, int, int]  # where equilibration, forward switch, equilibration, backward switch end
    kT: float  # eV
    momenta: float  # what masses add to works, where the centre of mass is at rest [eV]
    mass_term: float  # eV
    mixing_term: float  # eV
    near: float  # distance of the two sites that are nearest to each other [A]
    moving_cell: bool
    free_cell: bool  # all strains are free
    arrived: tuple[int, int]  # from which steps on the forward and the backward switch are practically at their ends
    pressure: float  # that is imposed on a moving cell [eV/A^3]
    known: list[str]  # doubts that do not come from the run


class Record(NamedTuple):
    """What the analysis needs of a trajectory."""

    step: Int[np.ndarray, "samples"]
    work: Float[np.ndarray, "samples replicas"]  # eV
    volume: Float[np.ndarray, "samples replicas"]  # A^3
    pressure: Float[np.ndarray, "samples replicas"]  # eV/A^3
    displacement: Float[np.ndarray, "samples replicas"]  # of the site that is farthest from where it belongs [A]
    strain: Float[np.ndarray, "samples replicas 6"]  # of the cell, from the one at the start
    temperature: Float[np.ndarray, "samples replicas"]  # K


class Switch(NamedTuple):
    """A run that goes forward and back."""

    plan: Plan
    path: Path
    facts: Facts
    course: list[tuple[float, float]]  # (time in fs, lambda), linear in between


def plan_switch(
    potential: Potential,
    system: System,
    path: Path,
    *,
    temperature: float,
    equilibration: float = 2000.0,
    switching: float = 10000.0,
    schedule: str | Callable = "polynomial",
    replicas: int = 8,
    timestep: float = 1.0,
    every: int = 10,
    **options,
) -> Switch:
    """Equilibrate [fs], switch forward [fs], equilibrate, switch back; `options` as in `make_plan`, such as `cell`.

    Errors: ValueError as in `make_plan`, for times that are no whole numbers of samples, or without a thermostat.
    """
    check_options(path, options, ("weights", "scale", "stiffness", "share"))
    rest, move = (
        whole_samples(name, duration, timestep, every)
        for name, duration in (("equilibration", equilibration), ("switching", switching))
    )
    if not isinstance(replicas, int | np.integer):
        raise ValueError(f"replicas = {replicas!r:.60} must be a whole number; all replicas of a switch are alike")
    ends = tuple(int(s) for s in np.cumsum([rest, move, rest, move]))
    stretches = [(rest, 0, 0), (move, 0, 1), (rest, 1, 1), (move, 1, 0)]
    durations = [(timestep * steps, *ends_) for steps, *ends_ in stretches]
    moving = in_time(path, schedule, durations, points=min(POINTS, move))
    course = moving.pop("lambda")
    plan = make_plan(
        potential, system, steps=ends[-1], timestep=timestep, temperature=temperature, replicas=replicas, every=every,
        share=path.share, **moving, **options,
    )  # fmt: skip
    return Switch(plan, path, _facts(potential, plan, path, ends, _arrived(ends, course, timestep)), course)


def whole_samples(name: str, duration: float, timestep: float, every: int) -> int:
    """Steps of a duration [fs]. Errors: ValueError unless it has a whole number of samples, at least one."""
    steps = duration / timestep
    if not (np.isfinite(steps) and steps >= every and abs(steps / every - round(steps / every)) < 1e-6):
        raise ValueError(
            f"{name} = {duration!r} fs must be a multiple of the time between two samples, "
            f"{every} steps of {timestep:g} fs"
        )
    return round(steps)


def check_options(path: Path, options: dict, taken: tuple[str, ...]) -> None:
    """Errors: ValueError for options of `make_plan` that have no place on a path, or change beside it."""
    for name in taken:
        if name in options:
            raise ValueError(f"{name} = {options[name]!r:.60} has no place on a path; the path says it")
    if options.get("thermostat", "langevin") is None:
        raise ValueError("a free energy needs a thermostat; leave the option out (langevin)")
    coupled = (path.scale > 0).all() and not path.stiffness.any()
    if not coupled and options.get("thermostat", "langevin") != "langevin":
        raise ValueError(
            f"thermostat '{options['thermostat']}' does not mix oscillators that only springs hold; leave it out "
            "(langevin)"
        )
    for name in ("alpha", "pressure"):
        if np.ndim(options.get(name, 0.0)) > 0:
            raise ValueError(f"{name} = {options[name]!r:.60} must be one number; only the path changes during a run")


def switch(
    potential: Potential, system: System, path: Path, *, on_chunk: Callable | None = None, **options
) -> Switching:
    """Free-energy difference between the ends of a path, from switches forward and back; `options` of `plan_switch`.

    `on_chunk` is called with every `Chunk` of the run. Errors: ValueError as in `plan_switch`; BlewUp as in `md`.
    """
    run = plan_switch(potential, system, path, **options)
    return analyse(run.facts, record_of(run.plan, recorded_run(potential, run.plan, on_chunk)))


def analyse(facts: Facts, record: Record) -> Switching:
    """Estimates and doubts of a finished run."""
    kT, at = facts.kT, np.searchsorted(record.step, facts.steps)
    work = record.work[at]
    forward, backward = work[1] - work[0], work[3] - work[2]
    of = lambda estimate, *works: bootstrap(lambda *w: estimate(*w) - facts.momenta, *works)
    main = of(lambda f, b: bar(f, b, kT), forward, backward)
    others = {
        "crooks_gaussian": of(crooks_gaussian, forward, backward),
        "jarzynski_forward": of(lambda w: jarzynski(w, kT), forward),
        "jarzynski_backward": of(lambda w: -jarzynski(w, kT), backward),
        "cumulant_forward": of(lambda w: second_cumulant(w, kT), forward),
        "cumulant_backward": of(lambda w: -second_cumulant(w, kT), backward),
    }
    lost = float(np.mean(forward) + np.mean(backward)) / 2 / kT
    common = overlap(forward, backward, main.value + facts.momenta, kT)
    ends = [record.volume[(first + last) // 2 : last + 1].mean() for first, last in ((0, at[0]), (at[1], at[2]))]
    return Switching(
        difference=main,
        mass_term=facts.mass_term,
        mixing_term=facts.mixing_term,
        estimates=others,
        forward=forward,
        backward=backward,
        dissipation=lost,
        overlap=common,
        pressure=_mean_pressure(record, slice(at[0] // 2, at[0] + 1), kT),
        expansion=float(ends[1] - ends[0]),
        doubts=(
            *facts.known,
            *_doubts_of_works(forward, backward, kT, others, lost, common),
            *_doubts_of_crystal(facts, record, at),
        ),
    )


def record_of(plan: Plan, trajectory: Trajectory) -> Record:
    """Of a trajectory."""
    farthest = np.sqrt(squared_displacements(plan, trajectory).max(axis=-1))
    still = np.zeros((*trajectory.energy.shape, 6))
    strain = strain_of(plan.system.structure.cell, trajectory.cell) if plan.barostat else still
    return Record(
        step=trajectory.step,
        work=trajectory.work,
        volume=trajectory.volume,
        pressure=trajectory.pressure,
        displacement=farthest,
        strain=strain,
        temperature=trajectory.temperature,
    )


def squared_displacements(plan: Plan, trajectory: Trajectory) -> Float[np.ndarray, "samples replicas sites"]:
    """Of sites from where they are in the structure, without the mean of all [A^2]."""
    if plan.barostat:  # what only strains is not displaced
        start = plan.start.positions @ np.linalg.inv(plan.system.structure.cell)
        away = (trajectory.positions @ np.linalg.inv(trajectory.cell) - start) @ trajectory.cell
    else:
        away = trajectory.positions - plan.start.positions
    return np.sum((away - away.mean(axis=-2, keepdims=True)) ** 2, axis=-1)


def _mean_pressure(record: Record, settled: slice, kT: float) -> Estimate:
    """-dF/dV: what is recorded leaves out the momentum of the centre of mass, kT/V."""
    each = (record.pressure + kT / record.volume)[settled].mean(axis=0)
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else np.inf
    return Estimate(float(each.mean()), error, len(each))


def _arrived(ends: tuple[int, int, int, int], course, timestep: float) -> tuple[int, int]:
    """From which steps on both switches stay within `END` of where they go."""
    times, lambdas = np.array(course).T
    at = np.interp(timestep * np.arange(ends[3] + 1), times, lambdas)
    near = END + 1e-9
    away = np.flatnonzero(at[ends[0] : ends[1]] < 1 - near), np.flatnonzero(at[ends[2] : ends[3]] > near)
    return ends[0] + int(away[0][-1]) + 1, ends[2] + int(away[1][-1]) + 1


def _facts(potential: Potential, plan: Plan, path: Path, ends, arrived: tuple[int, int]) -> Facts:
    kT = float(plan.protocol.temperature.value[0, 0])
    momenta, each = mass_terms(plan, path, kT)
    return Facts(
        steps=ends,
        kT=kT,
        momenta=momenta,
        mass_term=each,
        mixing_term=mixing_term(plan.system, path, kT),
        near=nearest_distance(plan.system.structure),
        moving_cell=plan.barostat,
        free_cell=all_strains(plan),
        arrived=arrived,
        pressure=float(plan.protocol.pressure.value[0, 0]) if plan.barostat else 0.0,
        known=doubts_beforehand(potential, plan, path),
    )


def mass_terms(plan: Plan, path: Path, kT: float) -> tuple[float, float]:
    """What masses add to works, where the centre of mass is at rest, and to the free energy [eV].

    The first is of the mean masses that the dynamics have, the second of atoms as they are: ln m is what is averaged.
    """
    masses = node_masses(plan.system.sites)
    one, two = (masses_of(plan.system, w, masses) for w in path.weights[[0, -1]])
    moved = 1.5 * kT * float(np.sum(np.log(one / two)) - np.log(one.sum() / two.sum()))
    logarithms = [log_masses(plan.system, w) for w in path.weights[[0, -1]]]
    return moved, 1.5 * kT * float(np.sum(logarithms[0] - logarithms[1]))


def log_masses(system: System, weights) -> Float[np.ndarray, "sites"]:
    """Mean of ln m of the atoms of every site [m in amu]: what the momenta of a random alloy have."""
    return masses_of(system, weights, np.log(node_masses(system.sites)))


def doubts_beforehand(potential: Potential, plan: Plan, path: Path) -> list[str]:
    """What is doubtful of a run before it is made."""
    found, sites = doubts_of_fluctuations(potential, plan.system), plan.system.sites
    both = [
        np.bincount(sites.node_site, np.append(weights, 1.0)[sites.node_weight]) for weights in path.weights[[0, -1]]
    ]
    for filled, springs in zip(both, path.stiffness[[0, -1]], strict=True):
        if ((filled > NOTHING) & (filled < 1 - NOTHING)).any():
            found.append("sites are partly empty at an end of the path, but have the momentum and the place of an atom")
        if len(loose := np.flatnonzero((filled <= NOTHING) & (np.max(both, axis=0) > NOTHING) & (springs == 0))):
            found.append(
                f"site {loose[0]} is empty at an end of the path and nothing holds what is left there, whose free "
                "energy grows with the room that it finds; a vacancy is made with a spring (alchemjax vacancy)"
            )
    return list(dict.fromkeys(found))


def mixing_term(system: System, path: Path, kT: float) -> float:
    """What mixing adds to the free energy where sites are occupied independently [eV]; NaN as `mixing_entropy`."""
    one, two = (mixing_entropy(system, w) for w in path.weights[[0, -1]])
    return -kT / KELVIN * (two - one)


def _doubts_of_works(forward, backward, kT: float, others: dict, lost: float, common: float) -> list[str]:
    found, replicas = [], len(forward)
    if replicas < LEAST_REPLICAS:
        found.append(f"{replicas} replicas say little of the error; at least {LEAST_REPLICAS} are needed")
    if lost > MOST_DISSIPATION:
        found.append(f"{lost:.1f} kT are dissipated, more than {MOST_DISSIPATION:g}; switch more slowly")
    if common < LEAST_OVERLAP:
        found.append(
            f"works forward and back have an overlap of {common:.2f}, less than {LEAST_OVERLAP:g}; switch more slowly, "
            "with more replicas, or along a path in parts"
        )
    scatter = np.hypot(np.std(forward), np.std(backward)) / 2 / kT / max(replicas - 1, 1) ** 0.5
    if replicas > 1 and lost < -surely(replicas) * scatter:
        found.append(
            f"works forward and back gain {-lost:.2f} +- {scatter:.2f} kT, which is impossible between equilibria; "
            "equilibrate for longer"
        )
    one, two = others["cumulant_forward"], others["cumulant_backward"]
    apart, error = abs(one.value - two.value), float(np.hypot(one.error, two.error))
    if np.isfinite(error) and apart > surely(replicas) * error:
        found.append(
            f"forward and backward works disagree by {1000 * apart:.1f} +- {1000 * error:.1f} meV: the way back does "
            "not undo the way there; equilibrate for longer, switch more slowly, and look for another phase"
        )
    return found


def _doubts_of_crystal(facts: Facts, record: Record, at) -> list[str]:
    found, starts = [], (0, *at[:-1])
    for k, way, where in ((0, 1, "at the start of the path"), (2, 0, "at its end")):
        rest, half = slice(starts[k] + 1, at[k] + 1), slice((starts[k] + at[k]) // 2 + 1, at[k] + 1)
        found += doubts_of_warmth(record.temperature[half], facts.kT / KELVIN, where)
        if facts.moving_cell:
            arrived = slice(np.searchsorted(record.step, facts.arrived[way]), at[2 * way + 1] + 1)
            found += doubts_of_rest(record.strain[rest], where, alike=True, free=facts.free_cell)
            found += doubts_of_lag(record.strain[arrived], record.strain[half], where)
    wandered = max(
        record.displacement[(first + last) // 2 : last + 1].mean(0).max()
        for first, last in zip(starts, at, strict=True)
    )
    return [*found, *doubts_of_places(wandered, facts.near)]
