"""alchemjax md: molecular dynamics; a folder with log, trajectory, checkpoint, report and plot."""

from functools import partial
from pathlib import Path

import numpy as np

from alchemjax.commands.dynamics import Finished, Job, carry_out, intervals
from alchemjax.commands.options import check_mixed, parse_axes, parse_cell, parse_mix, parse_weights
from alchemjax.commands.run_folder import LOG, PLOT
from alchemjax.commands.schedule import read_schedule
from alchemjax.commands.session import prepare_jax, read_system, warn
from alchemjax.io import load, write_atomically
from alchemjax.model.load import Potential
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.md_plan import Plan, doubts_of_fluctuations, make_plan
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
    check_mixed(system, arguments)
    potential = load(arguments["model"], arguments["dtype"], head=arguments["head"], modality=arguments["modality"])
    system, plan = _plan(potential, system, schedule, arguments)
    for doubt in doubts_of_fluctuations(potential, plan.system):
        warn(doubt)
    job = Job(potential, plan, arguments, intervals(arguments)[2])
    done = carry_out(job, lambda log: {"averages": _averages(log)})
    if arguments["plot"]:
        _draw(out, done.log)
    _say(out, plan, done)


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
    every, chunk, _ = intervals(arguments)
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
        "fluctuations": str(arguments["fluctuations"]),
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


def _say(out: Path, plan: Plan, done: Finished) -> None:
    steps = int(plan.constants.steps)
    rate = "" if done.speed is None else f", {done.speed * plan.timestep * 86400e-6:.3g} ns/day once compiled"
    many = f" of {len(plan.seeds)} replicas" if len(plan.seeds) > 1 else ""
    print(f"{steps} steps{many} in {done.seconds:.0f} s{rate}: {out / LOG}")
    averages = _averages(done.log)
    own = averages.get("replica 0", averages)
    if own is not averages:
        print("replica 0 (the others are in md.json):")
    units = {"temperature_K": "K", "energy_eV": "eV", "pressure_GPa": "GPa", "volume_A3": "A^3"}
    for name, unit in units.items():
        if name in own and own[name]["standard_error"] is not None:
            print(f"{name.rpartition('_')[0]}: {own[name]['mean']:.6g} +- {own[name]['standard_error']:.2g} {unit}")
