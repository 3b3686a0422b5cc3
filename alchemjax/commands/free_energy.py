"""What the commands of free energies share: stages of a run, each in a folder of its own, and what is said of them."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alchemjax.commands.columns import write_json
from alchemjax.commands.dynamics import Job, carry_out, intervals
from alchemjax.commands.options import parse_axes, parse_cell, parse_mix, parse_weights
from alchemjax.commands.run_folder import REPORT
from alchemjax.commands.session import fingerprint_of, prepare_jax, read_system, sha256_of
from alchemjax.io import load, write_atomically
from alchemjax.model.load import Potential
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.free_energy.doubts import MEASURES
from alchemjax.tasks.free_energy.estimators import Estimate, interval
from alchemjax.tasks.free_energy.frenkel_ladd import MEASURED, harmonic_stiffness, stiffness_of
from alchemjax.tasks.free_energy.paths import Path as Way
from alchemjax.tasks.free_energy.paths import derivative
from alchemjax.tasks.free_energy.switching import (
    Facts,
    Record,
    Switch,
    Switching,
    analyse,
    plan_switch,
    record_of,
    squared_displacements,
)
from alchemjax.tasks.free_energy.windows import Windows
from alchemjax.tasks.md import Trajectory, run_chunks
from alchemjax.tasks.md_plan import Plan, make_plan
from alchemjax.tasks.seeds import seed_of
from alchemjax.units import EV_PER_A3_IN_GPA, KELVIN

RESULT, FIGURE = "switch.json", "switch.png"
LAMBDA, SLOPE, FARTHEST = "lambda", "dE/dlambda_eV", "largest_displacement_A"
STRAINS = tuple(f"strain_{name}" for name in MEASURES[1:])
PROBE = 5  # steps that a dry run makes to measure the time of one


MOVING = ("cell", "fixed_axes", "pressure", "bulk_modulus", "barostat_time")  # options of a moving cell


def opened_system(arguments: dict, *, needs_weights: bool) -> System:
    """The system of a command."""
    prepare_jax()
    mix = parse_mix(arguments["mix"])
    return read_system(arguments["file"], mix, arguments["groups"], arguments["coupling"], needs_weights=needs_weights)


def starting_system(arguments: dict, given: str | None, option: str = "--weights") -> System:
    """The system of a command at the weights that were given, or else those of its file."""
    system = opened_system(arguments, needs_weights=given is None)
    return system._replace(weights=checked_weights(system, parse_weights(system.sites, given, option)))


def loaded(arguments: dict) -> Potential:
    """The potential of a command."""
    model, dtype = arguments["model"], arguments["dtype"]
    return load(model, dtype, head=arguments["head"], modality=arguments["modality"])


def check_numbers(arguments: dict) -> None:
    """Errors: ValueError naming an option whose number makes no sense, before anything is run."""
    positive = ("temperature", "reference", "timestep", "equilibration", "switching", "measuring", "heating")
    for name in (*positive, "stiffness", "barostat_time", "bulk_modulus"):
        value = arguments.get(name)
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"--{name.replace('_', '-')} {value:g} must be a positive number")
    for name in ("pressure", "chemical_potential"):
        value = arguments.get(name)
        if value is not None and not np.isfinite(value):
            raise ValueError(f"--{name.replace('_', '-')} {value:g} must be a finite number")
    if arguments["replicas"] < 2:
        raise ValueError(f"--replicas {arguments['replicas']} has no error to show; give at least 2")
    if str(arguments["coupling"]) == "correlated":
        raise ValueError("free energies take the couplings independent, paired and published, not correlated")
    every = intervals(arguments)[0]
    for name in ("equilibration", "switching", "measuring", "heating"):
        lines = arguments.get(name, every * arguments["timestep"]) / arguments["timestep"] / every
        if abs(lines - round(lines)) > 1e-6 or lines < 1:
            raise ValueError(
                f"--{name} {arguments[name]:g} fs must be a multiple of the time from line to line of the log, "
                f"{every} steps of {arguments['timestep']:g} fs"
            )


def guard(out: Path, name: str, arguments: dict, files: list[Path]) -> str:
    """The fingerprint of a command with several stages.

    Errors: ValueError if its result in the folder is of other options, unless it is to be replaced: then it is removed.
    """
    idle = {"out", "overwrite", "plot", "dry_run", "checkpoint_every", "file", "other"}
    given = [(key, str(value)) for key, value in sorted(arguments.items()) if key not in idle]
    numbers = [str(file).rpartition("@")[2] for file in files if not Path(file).is_file()]  # run.xyz@0
    fingerprint = fingerprint_of([given, numbers, [sha256_of(file) for file in files]], [])
    try:
        there = json.loads((out / name).read_text()).get("fingerprint")
    except (OSError, ValueError, AttributeError):
        there = "unreadable" if (out / name).exists() else None
    if there is not None and there != fingerprint:
        if not arguments["overwrite"]:
            raise ValueError(
                f"'{out / name}' holds results of other input, options or versions; use another folder, or --overwrite"
            )
        for path in out.glob(f"{Path(name).stem}.*"):
            path.unlink()
    return fingerprint


def options_of(arguments: dict) -> dict:
    """Options of `plan_switch` from those of the command line. Errors: ValueError naming the option."""
    check_numbers(arguments)
    strain = arguments.get("strain")
    if strain is None:
        for name in ("pressure", "barostat_time", "bulk_modulus", "fix_axes"):
            if arguments.get(name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} has no effect unless the cell moves; give --strain")
    every, chunk, _ = intervals(arguments)
    options = {
        "temperature": arguments["temperature"],
        "equilibration": arguments["equilibration"],
        "switching": arguments["switching"],
        "schedule": str(arguments["schedule"]),
        "fluctuations": str(arguments.get("fluctuations", "none")),
        "replicas": arguments["replicas"],
        "timestep": arguments["timestep"],
        "seed": arguments["seed"],
        "every": every,
        "chunk": chunk,
    }
    if strain is not None:
        options["cell"] = parse_cell(strain)
        options["fixed_axes"] = parse_axes(arguments["fix_axes"])
        in_gpa = {name: arguments[name] for name in ("pressure", "bulk_modulus")}
        options |= {name: value / EV_PER_A3_IN_GPA for name, value in in_gpa.items() if value is not None}
        options |= {} if arguments["barostat_time"] is None else {"barostat_time": arguments["barostat_time"]}
    return options


def switched(
    potential: Potential, system: System, path: Way, arguments: dict, options: dict, out: Path, *, redo: bool = False
) -> tuple[Switch, Switching]:
    """Switch forward and back in a folder, or go on there; what it says is in `switch.json` too.

    `redo`: whether a finished switch of the same options is made again.
    """
    run = plan_switch(potential, system, path, **options)

    def columns(trajectory: Trajectory) -> dict:
        shape = trajectory.energy.shape
        times, lambdas = np.array(run.course).T
        at = np.broadcast_to(np.interp(trajectory.time, times, lambdas)[:, None], shape)
        record = record_of(run.plan, trajectory)
        shown = {LAMBDA: at, SLOPE: derivative(path, at, trajectory), FARTHEST: record.displacement}
        return shown | strain_columns(run.plan, record.strain)

    found: list[Switching] = []

    def finish(log: dict[str, np.ndarray]) -> dict:
        found.append(analyse(run.facts, record_of_log(log, run.facts.steps[-1])))
        return {"switch": described(run.facts, found[0])}

    job = Job(potential, run.plan, arguments | {"out": out}, intervals(arguments)[2], columns, redo=redo)
    log = carry_out(job, finish).log
    write_json(out / RESULT, described(run.facts, found[0]))
    if arguments["plot"]:
        draw(out, log, run.facts, found[0])
    return run, found[0]


def stage_log(potential: Potential, plan: Plan, arguments: dict, out: Path, columns: Callable) -> dict[str, np.ndarray]:
    """The log of a stage that only measures, run in a folder or found there."""
    return carry_out(Job(potential, plan, arguments | {"out": out}, 0, columns, redo=False), lambda log: {}).log


def measuring_stages(arguments: dict, options: dict) -> list[tuple[str, int, int]]:
    """Name, steps and replicas of what `springs` runs, if it runs anything."""
    if str(arguments["springs"]) == "hessian":
        return []
    return [("measuring displacements", 2 * round(arguments["measuring"] / options["timestep"]), 2)]


def fixed_cell(options: dict) -> dict:
    """Options of a run in a cell that stays."""
    return {name: value for name, value in options.items() if name not in MOVING}


def springs(potential: Potential, system: System, arguments: dict, options: dict, out: Path) -> np.ndarray:
    """Stiffness of every site [eV/A^2], from the Hessian, or from a run of its own, half of it equilibration."""
    stages = measuring_stages(arguments, options)
    if not stages:
        return harmonic_stiffness(potential, system)
    _, twice, replicas = stages[0]
    steps = twice // 2
    common = {name: options[name] for name in ("temperature", "timestep", "every", "chunk")}
    common["seed"] = seed_of(options["seed"], MEASURED)
    plan = make_plan(potential, system, steps=2 * steps, replicas=replicas, **common)
    sites = len(system.structure.positions)

    def columns(trajectory: Trajectory) -> dict:
        squares = squared_displacements(plan, trajectory)
        return {f"squared_displacement_{k}_A2": squares[..., k] for k in range(sites)}

    log = stage_log(potential, plan, arguments, out, columns)
    settled = log["step"] > steps
    squares = np.array([log[f"squared_displacement_{k}_A2"][settled].mean() for k in range(sites)])
    return stiffness_of(system, squares, options["temperature"] * KELVIN)


def record_of_log(log: dict[str, np.ndarray], steps: int) -> Record:
    """What the analysis needs, from the columns of `log.csv`. Errors: ValueError if some of it is missing."""
    replicas = len(np.unique(log.get("replica", np.zeros(1))))
    step = steps_of_log(log, replicas, steps)
    if not all(np.isfinite(log[name]).all() for name in ("work_eV", "temperature_K", FARTHEST)):
        raise ValueError("numbers are missing")
    table = lambda name: log[name].reshape(-1, replicas)
    pressure = table("pressure_GPa") / EV_PER_A3_IN_GPA
    return Record(
        step=step,
        work=table("work_eV"),
        volume=table("volume_A3"),
        pressure=pressure,
        displacement=table(FARTHEST),
        strain=strains_of_log(log, replicas),
        temperature=table("temperature_K"),
    )


def steps_of_log(log: dict[str, np.ndarray], replicas: int, last: int) -> np.ndarray:
    """The steps of the samples. Errors: ValueError if samples are missing."""
    rows = log["step"]
    steps = rows[: len(rows) // replicas * replicas].reshape(-1, replicas)
    alike = len(rows) % replicas == 0 and len(steps) > 2 and (steps == steps[:, :1]).all()
    if not alike or steps[0, 0] != 0 or steps[-1, 0] != last or np.ptp(np.diff(steps[:, 0])) > 0:
        raise ValueError("samples are missing")
    return steps[:, 0].astype(int)


def strain_columns(plan: Plan, strain) -> dict[str, np.ndarray]:
    """Strains of a cell that moves, for the log."""
    return dict(zip(STRAINS, np.moveaxis(strain, -1, 0), strict=True)) if plan.barostat else {}


def strains_of_log(log: dict[str, np.ndarray], replicas: int) -> np.ndarray:
    """The same from the columns of `log.csv`; zero in a cell that stays."""
    still = np.zeros(len(log["step"]))
    return np.stack([log.get(name, still).reshape(-1, replicas) for name in STRAINS], axis=-1)


def described(facts: Facts, found: Switching) -> dict:
    """A switch, for JSON."""
    return {
        "provenance": REPORT,
        "facts": facts._asdict(),
        "difference_eV": number(found.difference),
        **terms(found),
        "other_estimates_eV": {name: number(one) for name, one in found.estimates.items()},
        "forward_works_eV": found.forward,
        "backward_works_eV": found.backward,
        "dissipation_kT": found.dissipation,
        "overlap": found.overlap,
        "pressure_at_start_eV_per_A3": number(found.pressure),
        "expansion_A3": found.expansion,
        "of_it_P_dV_eV": facts.pressure * found.expansion,
        "doubts": list(found.doubts),
    }


def terms(found: Switching | Windows) -> dict:
    """What is to be added to a difference, for JSON."""
    return {"mass_term_eV": found.mass_term, "mixing_term_eV": found.mixing_term}


def number(estimate: Estimate) -> dict:
    """An estimate, for JSON."""
    low, high = interval(estimate)
    return {
        "value": estimate.value,
        "standard_error": estimate.error,
        "interval_95": [low, high],
        "effective_samples": estimate.samples,
    }


def draw(out: Path, log: dict[str, np.ndarray], facts: Facts, found: Switching) -> None:
    """Draw `switch.png`."""
    from alchemjax.commands.free_energy_plot import plot_switch

    figure = plot_switch(log, facts, found)
    write_atomically(out / FIGURE, lambda path: figure.savefig(path, dpi=200, format="png"))


def say_estimate(name: str, estimate: Estimate, unit: str = "eV") -> None:
    """One line."""
    low, high = interval(estimate)
    print(f"{name}: {estimate.value:.5f} +- {estimate.error:.5f} {unit} (95 %: {low:.5f} to {high:.5f})")


def say_switch(facts: Facts, found: Switching) -> None:
    """What switches say, with every doubt."""
    say_estimate("free-energy difference without momenta (BAR)", found.difference)
    if facts.pressure:
        print(f"  of it P (V_end - V_start): {facts.pressure * found.expansion:+.5f} eV")
    say_terms(found)
    for name, one in found.estimates.items():
        print(f"  {name.replace('_', ' ')}: {one.value:.5f} +- {one.error:.5f} eV")
    say_works(found)
    say_doubts(found.doubts)


def say_terms(found: Switching | Windows) -> None:
    """What is to be added to a difference."""
    if found.mass_term:
        print(f"mass term 3/2 kT sum ln(m_start/m_end): {found.mass_term:+.5f} eV, to be added")
    if np.isnan(found.mixing_term):
        print("random mixing has no entropy where weights are no probabilities")
    elif found.mixing_term:
        print(f"random mixing -T (S_end - S_start): {found.mixing_term:+.5f} eV, to be added if sites are occupied so")


def say_works(found: Switching) -> None:
    """How well both directions agree."""
    print(f"dissipation {found.dissipation:.2f} kT, overlap {found.overlap:.2f}, {len(found.forward)} replicas")


def say_doubts(doubts: tuple[str, ...]) -> None:
    """Every gate that fired."""
    for doubt in doubts:
        print(f"doubtful: {doubt}")


def plan_only(potential: Potential, stages: list[tuple[str, int, int]], system: System, options: dict) -> None:
    """Say how many steps are planned and how long they take on this machine; stages are (name, steps, replicas)."""
    seconds: dict[int, float] = {}
    for name, steps, replicas in stages:
        if replicas not in seconds:
            seconds[replicas] = _seconds_per_step(potential, system, options, replicas)
        took = steps * seconds[replicas]
        print(f"{name}: {steps} steps of {replicas} replicas, about {_duration(took)}")
    total = sum(steps * seconds[replicas] for _, steps, replicas in stages)
    print(f"in all about {_duration(total)} on this machine, besides compilation; nothing was written")


def _seconds_per_step(potential: Potential, system: System, options: dict, replicas: int) -> float:
    common = {name: options[name] for name in ("temperature", "timestep", "seed", "fluctuations")}
    plan = make_plan(potential, system, steps=10**6, every=PROBE, chunk=PROBE, replicas=replicas, **common)
    chunks = run_chunks(potential, plan)
    for _ in range(2):  # compilation, and what follows it
        next(chunks)
    begun = time.perf_counter()
    next(chunks)
    return (time.perf_counter() - begun) / PROBE


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
