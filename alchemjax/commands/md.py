"""alchemjax md: molecular dynamics; a folder with log, trajectory, checkpoint, report and plot."""

import csv
import io
import json
import time
from functools import partial
from pathlib import Path

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
from alchemjax.commands.columns import csv_text, lattice_columns, plain, stress_columns, units_of
from alchemjax.commands.options import parse_axes, parse_cell, parse_mix, parse_weights
from alchemjax.commands.run_folder import (
    CHECKPOINT,
    LOG,
    PLOT,
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
from alchemjax.commands.schedule import read_schedule
from alchemjax.commands.session import fingerprint_of, prepare_jax, progress_bar, provenance, read_system
from alchemjax.io import load, write_atomically
from alchemjax.model.load import Potential
from alchemjax.system.masses import node_masses
from alchemjax.system.sites import weight_names
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.md import Trajectory, recorded, run_chunks
from alchemjax.tasks.md_plan import CHUNK, Plan, make_plan, masses_of
from alchemjax.units import EV_PER_A3_IN_GPA

SETTLING, BLOCKS = 0.2, 10  # part of a run that averages leave out, and in how many blocks they divide the rest


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli.md`."""
    mix, out = parse_mix(arguments["mix"]), arguments["out"]
    if arguments["resume"] and arguments["overwrite"]:
        raise ValueError("--resume and --overwrite were both given; give one of them")
    prepare_jax()
    scheduled = arguments["schedule"] is not None
    read = partial(read_system, arguments["file"], mix, arguments["groups"], arguments["coupling"])
    system = read(needs_weights=arguments["weights"] is None and not scheduled)
    schedule = read_schedule(system.sites, arguments["schedule"]) if scheduled else {}
    if scheduled and arguments["weights"] is None and "weights" not in schedule:
        system = read(needs_weights=True)
    potential = load(arguments["model"], arguments["dtype"], head=arguments["head"], modality=arguments["modality"])
    system, plan = _plan(potential, system, schedule, arguments)
    topology_of(potential, system)  # whatever is wrong with the structure is said before anything is written
    every = arguments["log_every"]
    frames = 10 * every if arguments["frames_every"] is None else arguments["frames_every"]
    if frames < 0 or frames % every:
        raise ValueError(f"--frames-every {frames} must be a multiple of --log-every {every}, or 0 for no trajectory")
    fingerprint = _fingerprint(potential, plan, frames)
    _check_length(out, fingerprint, plan, resume=arguments["resume"], overwrite=arguments["overwrite"])
    with opened(out, fingerprint, resume=arguments["resume"], overwrite=arguments["overwrite"]):
        begun = {"fingerprint": fingerprint} | provenance(arguments["file"], arguments, potential, system)
        last = _last(out, fingerprint, plan)
        done = -1 if last is None else int(last.state.step[0])
        if done < int(plan.constants.steps):
            _write_report(out, begun | {"finished": False, "steps_done": done})
        seconds, speed = _run(potential, system, plan, out, frames, fingerprint, last)
        log = _read_log(out)
        units = units_of({name: column for name, column in log.items() if name != "replica"})
        finished = {"finished": True, "steps_done": int(plan.constants.steps), "wall_time_s": round(seconds, 3)}
        summary = {"columns": units, "averages": _averages(log)}
        _write_report(out, begun | finished | summary)
        if arguments["plot"]:
            _draw(out, log)
    _say(out, plan, log, seconds, speed)


def _plan(potential: Potential, system: System, schedule: dict, arguments: dict) -> tuple[System, Plan]:
    """The run that was asked for, and the system at the composition that it starts with."""
    for name in schedule:
        if arguments[name] is not None:
            raise ValueError(f"--{name} and --schedule both give the {name}; give it once")
    if "pressure" in schedule and arguments["strain"] is None:
        raise ValueError("the schedule has a pressure, which has no effect unless the cell moves; give --strain")
    for name in ("pressure", "barostat_time", "bulk_modulus", "fix_axes"):
        if arguments[name] is not None and arguments["strain"] is None:
            raise ValueError(f"--{name.replace('_', '-')} has no effect unless the cell moves; give --strain")
    every, chunk = arguments["log_every"], arguments["checkpoint_every"]
    if every < 1:
        raise ValueError(f"--log-every {every} must be at least 1")
    chunk = max(1, CHUNK // every) * every if chunk is None else chunk
    if chunk < 1 or chunk % every:
        raise ValueError(f"--checkpoint-every {chunk} must be a multiple of --log-every {every}")
    if arguments["thermostat"] == "none" and arguments["thermostat_time"] is not None:
        raise ValueError("--thermostat-time has no effect with --thermostat none; leave it out")
    weights = first = parse_weights(system.sites, arguments["weights"])
    if "weights" in schedule:
        weights, first = schedule["weights"], schedule["weights"][0][1]
    system = system._replace(weights=checked_weights(system, first))
    in_gpa = {name: arguments[name] for name in ("pressure", "bulk_modulus")}
    options = {
        "temperature": arguments["temperature"],
        "thermostat_time": arguments["thermostat_time"],
        "barostat_time": arguments["barostat_time"],
        "alpha": arguments["alpha"],
        "replicas": arguments["replicas"],
    }
    options |= {name: value if value is None else value / EV_PER_A3_IN_GPA for name, value in in_gpa.items()}
    options |= {name: value for name, value in schedule.items() if name != "weights"}
    plan = make_plan(
        potential,
        system,
        weights,
        steps=arguments["steps"],
        timestep=arguments["timestep"],
        thermostat=None if arguments["thermostat"] == "none" else arguments["thermostat"],
        cell=False if arguments["strain"] is None else parse_cell(arguments["strain"]),
        fixed_axes=parse_axes(arguments["fix_axes"]),
        seed=arguments["seed"],
        every=every,
        chunk=chunk,
        **{name: value for name, value in options.items() if value is not None},
    )
    return system, plan


def _fingerprint(potential: Potential, plan: Plan, frames: int) -> str:
    """Hash of all that determines the numbers, but not how many."""
    about = [alchemjax.__version__, jax.__version__, jax.default_backend(), jax.device_count(), potential.name]
    about += [potential.sha256, potential.dtype, plan.rule, plan.thermostat, plan.barostat, plan.seeds, plan.timestep]
    about += [plan.rows, frames, [[g.name, g.sites, g.species] for g in plan.system.sites.groups]]
    about += [list(plan.system.sites.node_species)]
    rest = plan.constants._replace(steps=np.zeros(0)), plan.protocol, plan.velocities, plan.system.structure
    return fingerprint_of(about, jax.tree.leaves(rest))


def _check_length(out: Path, fingerprint: str, plan: Plan, *, resume: bool, overwrite: bool) -> None:
    """Errors: ValueError where a finished run would become longer without --resume."""
    report = report_of(out)
    if overwrite or resume or report.get("fingerprint") != fingerprint or not report.get("finished"):
        return
    steps, done = int(plan.constants.steps), report["steps_done"]
    if steps > done:
        raise ValueError(
            f"'{out}' holds this run, finished after {done} steps; {steps} were asked for: --resume continues it"
        )


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


def _run(potential, system: System, plan: Plan, out: Path, frames: int, fingerprint: str, last):
    """Go on from the checkpoint or from the start; the seconds that it all took, and steps/s once compiled."""
    sizes, seconds = ({}, 0.0) if last is None else (dict(last.sizes), last.seconds)
    with progress_bar(TextColumn("{task.percentage:3.0f}%"), TimeRemainingColumn()) as bar:
        done = -1 if last is None else int(last.state.step[0])
        task = bar.add_task("compiling", total=int(plan.constants.steps), completed=max(done, 0))
        begun, before, compiled = time.monotonic(), seconds, None
        try:
            for chunk in run_chunks(potential, plan, last and last.state, last and last.grid):
                trajectory = recorded(plan, chunk.samples)
                for name, text in _texts(system, plan, trajectory, frames, header=LOG not in sizes).items():
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


def _texts(system: System, plan: Plan, trajectory: Trajectory, frames: int, *, header: bool) -> dict[str, str]:
    """What is to be appended to each file."""
    columns = log_columns(system, trajectory, several=len(plan.seeds) > 1)
    text = csv_text(columns)
    texts = {LOG: text if header else text.partition("\n")[2]}
    chosen = [k for k, step in enumerate(trajectory.step) if frames and step % frames == 0]
    for replica in range(len(plan.seeds)):
        name = "trajectory.extxyz" if len(plan.seeds) == 1 else f"trajectory-{replica}.extxyz"
        images = [_image(system, trajectory, k, replica) for k in chosen]
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


def _write_report(out: Path, report: dict) -> None:
    write_atomically(out / REPORT, lambda path: path.write_text(json.dumps(plain(report), indent=1) + "\n"))


def _read_log(out: Path) -> dict[str, np.ndarray]:
    with open(out / LOG, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    return dict(zip(names, np.array([[float(x) if x else np.nan for x in row] for row in rows]).T, strict=True))


def _averages(log: dict[str, np.ndarray]) -> dict:
    """Means after the first fifth, with standard errors from blocks; of every replica if there are several."""
    averaged = ("temperature_K", "energy_eV", "pressure_GPa", "volume_A3", "a_A", "b_A", "c_A")
    replicas = log.get("replica", np.zeros(len(log["step"])))
    result = {}
    for replica in np.unique(replicas):
        chosen = replicas == replica
        settled = chosen & (log["step"] > SETTLING * log["step"].max())
        rows = {}
        for name in averaged:
            values = log[name][settled]
            if len(values) and np.isfinite(values).all():
                blocks = [block.mean() for block in np.array_split(values, BLOCKS)] if len(values) >= BLOCKS else []
                error = np.std(blocks, ddof=1) / np.sqrt(BLOCKS) if blocks else None
                rows[name] = {"mean": values.mean(), "standard_error": error}
        result[f"replica {int(replica)}"] = rows
    about = {"left_out": f"the first {SETTLING:.0%} of the steps", "blocks": BLOCKS}
    return about | (result if len(result) > 1 else result["replica 0"])


def _draw(out: Path, log: dict[str, np.ndarray]) -> None:
    from alchemjax.plot import plot_md

    write_atomically(out / PLOT, lambda path: plot_md(log).savefig(path, dpi=200, format="png"))


def _say(out: Path, plan: Plan, log: dict[str, np.ndarray], seconds: float, speed: float | None) -> None:
    steps = int(plan.constants.steps)
    rate = "" if speed is None else f", {speed * plan.timestep * 86400e-6:.3g} ns/day once compiled"
    many = f" of {len(plan.seeds)} replicas" if len(plan.seeds) > 1 else ""
    print(f"{steps} steps{many} in {seconds:.0f} s{rate}: {out / LOG}")
    averages = _averages(log)
    own = averages.get("replica 0", averages)
    if own is not averages:
        print("replica 0 (the others are in md.json):")
    units = {"temperature_K": "K", "energy_eV": "eV", "pressure_GPa": "GPa", "volume_A3": "A^3"}
    for name, unit in units.items():
        if name in own and own[name]["standard_error"] is not None:
            print(f"{name.rpartition('_')[0]}: {own[name]['mean']:.6g} +- {own[name]['standard_error']:.2g} {unit}")
