"""A run of molecular dynamics in a folder: log, trajectory, checkpoint and report, resumed where it was killed."""

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ase.io
import ase.units
import jax
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from rich.progress import TextColumn, TimeRemainingColumn

import alchemjax
from alchemjax.atoms import to_atoms
from alchemjax.calculate import topology_of
from alchemjax.commands.columns import csv_text, lattice_columns, stress_columns, units_of, write_json
from alchemjax.commands.run_folder import (
    CHECKPOINT,
    LOG,
    REPORT,
    Checkpoint,
    append,
    cut,
    files_of_runs,
    opened,
    report_of,
    store,
    stored,
)
from alchemjax.commands.session import fingerprint_of, progress_bar, provenance
from alchemjax.model.load import Potential
from alchemjax.system.masses import node_masses
from alchemjax.system.sites import weight_names
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.md import Trajectory, recorded, run_chunks
from alchemjax.tasks.md_plan import CHUNK, Plan, masses_of
from alchemjax.units import EV_PER_A3_IN_GPA


class Job(NamedTuple):
    """A run that is to be carried out."""

    potential: Potential
    plan: Plan
    arguments: dict  # of the command
    frames: int  # steps from frame to frame of the trajectory
    columns: Callable[[Trajectory], dict] = lambda trajectory: {}  # [samples, replicas], besides those of every log
    about: object = None  # what else determines the files
    redo: bool = True  # whether --overwrite makes a finished run of the same options again; not a stage of several


class Finished(NamedTuple):
    """A run that has been carried out."""

    log: dict[str, np.ndarray]
    seconds: float
    speed: float | None  # steps/s once compiled


def intervals(arguments: dict) -> tuple[int, int, int]:
    """Steps from line to line, from checkpoint to checkpoint, from frame to frame.

    Errors: ValueError naming the option.
    """
    every, chunk, frames = (arguments[name] for name in ("log_every", "checkpoint_every", "frames_every"))
    if every < 1:
        raise ValueError(f"--log-every {every} must be at least 1")
    chunk = max(1, CHUNK // every) * every if chunk is None else chunk
    if chunk < 1 or chunk % every:
        raise ValueError(f"--checkpoint-every {chunk} must be a multiple of --log-every {every}")
    frames = 10 * every if frames is None else frames
    if frames < 0 or frames % every:
        raise ValueError(f"--frames-every {frames} must be a multiple of --log-every {every}, or 0 for no trajectory")
    return every, chunk, frames


def carry_out(job: Job, finish: Callable[[dict[str, np.ndarray]], dict]) -> Finished:
    """Run to the end, or go on where the folder stands; `finish` makes what the report says from the whole log.

    Errors: ValueError if the folder holds something else, or cannot be written.
    """
    arguments, plan = job.arguments, job.plan
    out, again = arguments["out"], {name: arguments.get(name, False) for name in ("resume", "overwrite")}
    topology_of(job.potential, plan.system)  # whatever is wrong with the structure is said before anything is written
    fingerprint = _fingerprint(job)
    _check_length(out, fingerprint, plan, redo=job.redo, **again)
    with opened(out, fingerprint, redo=job.redo, **again):
        about = provenance(arguments["file"], arguments, job.potential, plan.system)
        begun = {"fingerprint": fingerprint} | about
        last = _last(out, fingerprint, plan)
        done = -1 if last is None else int(last.state.step[0])
        if done < int(plan.constants.steps):
            write_json(out / REPORT, begun | {"finished": False, "steps_done": done})
        seconds, speed = _run(job, fingerprint, last)
        log = read_log(out)
        units = units_of({name: column for name, column in log.items() if name != "replica"})
        finished = {"finished": True, "steps_done": int(plan.constants.steps), "wall_time_s": round(seconds, 3)}
        write_json(out / REPORT, begun | finished | {"columns": units} | finish(log))
    return Finished(log, seconds, speed)


def _fingerprint(job: Job) -> str:
    """Hash of all that determines the numbers, but not how many."""
    potential, plan = job.potential, job.plan
    about = [alchemjax.__version__, jax.__version__, jax.default_backend(), jax.device_count(), potential.name]
    about += [potential.sha256, potential.dtype, plan.rule, plan.thermostat, plan.barostat, plan.seeds, plan.timestep]
    about += [plan.rows, job.frames, job.about, [[g.name, g.sites, g.species] for g in plan.system.sites.groups]]
    about += [list(plan.system.sites.node_species)]
    rest = plan.constants._replace(steps=np.zeros(0)), plan.protocol, plan.velocities, plan.system.structure
    return fingerprint_of(about, jax.tree.leaves(rest))


def _check_length(out: Path, fingerprint: str, plan: Plan, *, redo: bool, resume: bool, overwrite: bool):
    """Errors: ValueError where a finished run would become longer without --resume."""
    report = report_of(out)
    finished = report.get("fingerprint") == fingerprint and report.get("finished")
    if (overwrite and redo) or resume or not finished:
        return
    steps, done = int(plan.constants.steps), report["steps_done"]
    if steps > done:
        advice = "--resume continues it" if redo else "use another folder"
        raise ValueError(f"'{out}' holds this run, finished after {done} steps; {steps} were asked for: {advice}")


def _last(out: Path, fingerprint: str, plan: Plan) -> Checkpoint | None:
    """Where the run stands; files that grow are cut to that. Errors: ValueError if it cannot go on from there."""
    last, report = stored(out, fingerprint, plan.rule.blocks), report_of(out)
    if last is None and report.get("steps_done", -1) >= 0:
        raise ValueError(f"'{out / CHECKPOINT}' is missing; put it back, or use --overwrite to start again")
    if last is not None and int(last.state.step[0]) > int(plan.constants.steps):
        raise ValueError(
            f"'{out}' holds {int(last.state.step[0])} steps of this run; {int(plan.constants.steps)} were asked for: "
            "give at least as many"
        )
    if last is None:
        for path in files_of_runs(out):
            if path.name != REPORT:
                path.unlink()
    cut(out, {} if last is None else last.sizes)
    return last


def _run(job: Job, fingerprint: str, last):
    """Go on from the checkpoint or from the start; the seconds that it all took, and steps/s once compiled."""
    plan, out = job.plan, job.arguments["out"]
    sizes, seconds = ({}, 0.0) if last is None else (dict(last.sizes), last.seconds)
    with progress_bar(TextColumn("{task.percentage:3.0f}%"), TimeRemainingColumn()) as bar:
        done = -1 if last is None else int(last.state.step[0])
        task = bar.add_task("compiling", total=int(plan.constants.steps), completed=max(done, 0))
        begun, before, compiled = time.monotonic(), seconds, None
        try:
            for chunk in run_chunks(job.potential, plan, last and last.state, last and last.grid):
                trajectory = recorded(plan, chunk.samples)
                for name, text in _texts(job, trajectory, header=LOG not in sizes).items():
                    sizes[name] = append(out / name, text)
                took, seconds = before + time.monotonic() - begun - seconds, before + time.monotonic() - begun
                store(out, fingerprint, Checkpoint(chunk.state, chunk.grid, sizes, seconds))
                now = int(chunk.state.step[0])
                bar.update(task, completed=now, description=_progress(plan, trajectory, (now - max(done, 0)) / took))
                done = now
                compiled = compiled or (now, seconds)
        except ValueError as error:
            if done < 0:
                raise
            raise ValueError(f"{error}; the last good state, of step {done}, is in '{out}'") from None
    if compiled is None or seconds == compiled[1]:
        return seconds, None
    return seconds, (done - compiled[0]) / (seconds - compiled[1])


def _progress(plan: Plan, trajectory: Trajectory, speed: float) -> str:
    """What the bar says; `speed` in steps/s."""
    mean = lambda a: float(np.mean(a[-1]))
    pressure = mean(trajectory.pressure) * EV_PER_A3_IN_GPA
    parts = [f"step {trajectory.step[-1]}", f"{mean(trajectory.temperature):.0f} K"]
    parts += [f"{pressure:.2f} GPa"] if np.isfinite(pressure) else []
    parts += [f"{mean(trajectory.energy):.3f} eV", f"{speed * plan.timestep * 86400 / 1e6:.3g} ns/day"]
    return ", ".join(parts)


def _texts(job: Job, trajectory: Trajectory, *, header: bool) -> dict[str, str]:
    """What is to be appended to each file."""
    several, frames = len(job.plan.seeds), job.frames
    columns = log_columns(job.plan.system, trajectory, several=several > 1)
    columns |= {name: column.reshape(-1) for name, column in job.columns(trajectory).items()}
    text = csv_text(columns)
    texts = {LOG: text if header else text.partition("\n")[2]}
    chosen = [k for k, step in enumerate(trajectory.step) if frames and step % frames == 0]
    for replica in range(several):
        name = "trajectory.extxyz" if several == 1 else f"trajectory-{replica}.extxyz"
        images = [_image(job.plan.system, trajectory, k, replica) for k in chosen]
        if images:
            buffer = io.StringIO()
            ase.io.write(buffer, images, format="extxyz")
            texts[name] = buffer.getvalue()
    return texts


def log_columns(system: System, trajectory: Trajectory, *, several: bool) -> dict[str, np.ndarray]:
    """Columns of `log.csv`, a row for every sample and, if there are several, replica."""
    samples, replicas = trajectory.energy.shape
    flat = lambda a: a.reshape(samples * replicas, *a.shape[2:])
    columns = {
        "step": np.repeat(trajectory.step, replicas),
        "time_fs": np.repeat(trajectory.time, replicas),
    }
    if several:
        columns = {"replica": np.tile(np.arange(replicas), samples)} | columns
    columns |= {
        "temperature_K": flat(trajectory.temperature),
        "target_temperature_K": flat(trajectory.target_temperature),
        "energy_eV": flat(trajectory.energy),
        "kinetic_energy_eV": flat(trajectory.kinetic),
        "conserved_eV": flat(trajectory.conserved),
        "work_eV": flat(trajectory.work),
        "target_pressure_GPa": flat(trajectory.target_pressure) * EV_PER_A3_IN_GPA,
    }
    columns |= stress_columns(flat(trajectory.stress)) | {"volume_A3": flat(trajectory.volume)}
    columns |= lattice_columns(flat(trajectory.cell))
    names = weight_names(system.sites)
    columns |= dict(zip(names, flat(trajectory.weights).T, strict=True))
    columns |= {f"dE/d({n})_eV": c for n, c in zip(names, flat(trajectory.weights_gradient).T, strict=True)}
    if system.coupling == "correlated":
        columns |= {"correlation_alpha": flat(trajectory.alpha), "dE/d(alpha)_eV": flat(trajectory.alpha_gradient)}
    return columns


def _image(system: System, trajectory: Trajectory, k: int, replica: int):
    of = lambda name: getattr(trajectory, name)[k, replica]
    weights = checked_weights(system, of("weights"))
    atoms = to_atoms(system, of("positions"), of("cell"), weights)
    atoms.set_masses(masses_of(system, of("weights"), node_masses(system.sites)))
    atoms.set_velocities(of("velocities") / ase.units.fs)
    results = {"energy": float(of("energy")), "forces": of("forces")}
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info |= {"step": int(trajectory.step[k]), "time_fs": float(trajectory.time[k])}
    if np.isfinite(of("stress")).all():  # that of forces and momenta together
        atoms.info["total_stress"] = full_3x3_to_voigt_6_stress(of("stress"))
    return atoms


def read_log(out: Path) -> dict[str, np.ndarray]:
    """Columns of `log.csv`; NaN for an empty cell."""
    with open(out / LOG, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    return dict(zip(names, np.array([[float(x) if x else np.nan for x in row] for row in rows]).T, strict=True))
