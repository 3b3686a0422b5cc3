"""alchemjax stability: Gibbs energies of two phases against temperature, and where they change places."""

from pathlib import Path

import numpy as np

from alchemjax.commands.alloy_options import parse_temperatures
from alchemjax.commands.columns import csv_text
from alchemjax.commands.dynamics import Job, carry_out
from alchemjax.commands.free_energy import (
    number,
    opening,
    options_of,
    plan_only,
    say_doubts,
    say_estimate,
    springs,
    store_result,
    switched,
)
from alchemjax.commands.frenkel_ladd import carried_out
from alchemjax.commands.options import parse_weights
from alchemjax.commands.session import provenance
from alchemjax.io import write_atomically
from alchemjax.model.load import Potential
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.free_energy.paths import composition_path
from alchemjax.tasks.free_energy.stability import (
    Curve,
    Heated,
    Stability,
    at_mean_cell,
    averaged,
    changed,
    compare,
    formula_units,
    gibbs_curve,
    plan_heating,
    reference_of,
)
from alchemjax.tasks.md import Trajectory
from alchemjax.tasks.md_plan import Plan
from alchemjax.units import EV_PER_A3_IN_GPA

RESULT, TABLE, FIGURE = "stability.json", "stability.csv", "stability.png"
PHASES = ("first", "second")
CELL = [f"cell_{k}{axis}_A" for k in "abc" for axis in "xyz"]


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli_free_energy.stability`."""
    files, out = (arguments["file"], arguments["other"]), arguments["out"]
    if (arguments["start"] is None) != (arguments["end"] is None):
        raise ValueError("--from and --to go together; give both, or none of them")
    temperatures = np.asarray(parse_temperatures(arguments["temperatures"]))
    t0 = arguments["reference"]
    t0 = float(temperatures[len(temperatures) // 2]) if t0 is None else t0
    every = np.union1d(temperatures, [t0])
    arguments = arguments | {"temperature": t0}
    opened = [_opened(arguments | {"file": file}) for file in files]
    potential, systems = opened[0][0], [system for _, system in opened]
    options = options_of(arguments)
    _check_compositions(systems, files)
    plans = [plan_heating(potential, system, every, **_heating(arguments, options)) for system in systems]
    if arguments["dry_run"]:
        for name, system, (plan, _) in zip(PHASES, systems, plans, strict=True):
            print(f"{name} phase:")
            plan_only(potential, _stages(arguments, options, plan), system, options)
        return
    curves = [
        _curve(potential, system, arguments | {"file": file}, options, every, out / name)
        for name, system, file in zip(PHASES, systems, files, strict=True)
    ]
    found = compare(*curves)
    about = provenance(files[0], arguments, potential, systems[0])
    report = {
        "temperatures_K": found.temperatures,
        "difference_eV": found.difference,
        "standard_error_eV": found.error,
        "transition_K": None if found.transition is None else number(found.transition),
        "chance_of_transition": found.chance,
        "reference_temperature_K": t0,
        "reference_gibbs_eV": [number(curve.reference) for curve in curves],
        "doubts": list(found.doubts),
    }
    store_result(out / RESULT, about | report)
    columns = {"temperature_K": found.temperatures}
    for name, curve in zip(PHASES, curves, strict=True):
        columns |= {f"gibbs_{name}_eV": curve.gibbs, f"error_{name}_eV": curve.error}
    columns |= {"difference_eV": found.difference, "difference_error_eV": found.error}
    write_atomically(out / TABLE, lambda path: path.write_text(csv_text(columns)))
    if arguments["plot"]:
        _draw(out, files, curves, found)
    _say(out, curves, found, t0)


def _opened(arguments: dict) -> tuple[Potential, System]:
    given = arguments["weights"] if arguments["start"] is None else arguments["start"]
    potential, system = opening(arguments, needs_weights=given is None)
    return potential, system._replace(weights=checked_weights(system, parse_weights(system.sites, given)))


def _check_compositions(systems: list[System], files) -> None:
    """Errors: ValueError unless both phases have the same composition."""
    shares = []
    for system in systems:
        weights = np.append(system.weights, 1.0)[system.sites.node_weight]
        table: dict[str, float] = {}
        for species, weight in zip(system.sites.node_species, weights, strict=True):
            table[species] = table.get(species, 0.0) + float(weight) / formula_units(system)
        shares.append({s: round(x, 6) for s, x in table.items() if x > 1e-6})
    if shares[0] != shares[1]:
        said = [", ".join(f"{s} {x:g}" for s, x in sorted(one.items())) for one in shares]
        raise ValueError(
            f"a formula unit of '{files[0]}' is {said[0]}, one of '{files[1]}' {said[1]}; give two phases of one "
            "composition"
        )


def _heating(arguments: dict, options: dict) -> dict:
    """Options of `plan_heating`."""
    moving = ("cell", "fixed_axes", "pressure", "bulk_modulus", "barostat_time", "timestep", "seed", "every", "chunk")
    own = {name: options[name] for name in moving if name in options}
    return {"cell": True, "equilibration": options["equilibration"], "sampling": arguments["heating"]} | own


def _fixed(options: dict) -> dict:
    """Options of a run in a cell that stays."""
    moving = ("cell", "fixed_axes", "pressure", "bulk_modulus", "barostat_time")
    return {name: value for name, value in options.items() if name not in moving}


def _stages(arguments: dict, options: dict, plan: Plan) -> list[tuple[str, int, int]]:
    one = round(2 * (options["equilibration"] + options["switching"]) / options["timestep"])
    heating = ("heating", int(plan.constants.steps), len(plan.seeds))
    stages = [
        heating,
        ("measuring displacements", 2 * round(arguments["measuring"] / options["timestep"]), 2),
        ("switching to springs and back", one, options["replicas"]),
    ]
    if arguments["end"] is not None:
        stages += [("switching the composition and back", one, options["replicas"]), heating]
    return stages


def _curve(potential: Potential, system: System, arguments: dict, options: dict, every, out: Path) -> Curve:
    """All stages of one phase."""
    t0, pressure = options["temperature"], options.get("pressure", 0.0)
    warm = _heated(potential, system, arguments, options, every, out / "heating")
    mean = at_mean_cell(system, warm, t0)
    fixed = _fixed(options)
    stiffness = springs(potential, mean, arguments, fixed, out / "springs")
    free = carried_out(potential, mean, arguments, fixed, out / "crystal", stiffness)
    total, doubts = reference_of(mean, free, pressure), free.doubts
    if arguments["end"] is not None:
        path = composition_path(mean, mean.weights, parse_weights(mean.sites, arguments["end"]))
        moving = {"cell": True} | options
        moved = switched(potential, mean, path, arguments, moving, out / "switch")[1]
        total, doubts = changed(total, moved), (*doubts, *moved.doubts)
        mean = system._replace(weights=path.weights[-1])
        warm = _heated(potential, mean, arguments, options, every, out / "heating-end")
    return gibbs_curve(warm, total, t0, formula_units(mean), doubts=doubts)


def _heated(potential: Potential, system: System, arguments: dict, options: dict, every, out: Path) -> Heated:
    plan, settled = plan_heating(potential, system, every, **_heating(arguments, options))

    def columns(trajectory: Trajectory) -> dict:
        flat = trajectory.cell.reshape(*trajectory.cell.shape[:2], 9)
        return dict(zip(CELL, np.moveaxis(flat, -1, 0), strict=True))

    stage = arguments | {"out": out, "resume": False}
    log = carry_out(Job(potential, system, plan, stage, 0, columns), lambda log: {}).log
    replicas = len(plan.seeds)
    table = lambda name: log[name].reshape(-1, replicas)
    cells = np.stack([table(name) for name in CELL], axis=-1).reshape(-1, replicas, 3, 3)
    pressure = table("target_pressure_GPa") / EV_PER_A3_IN_GPA
    return averaged(
        plan,
        table("step")[:, 0],
        settled,
        table("energy_eV") + pressure * table("volume_A3"),
        table("volume_A3"),
        cells,
    )


def _draw(out: Path, files, curves: list[Curve], found: Stability) -> None:
    from alchemjax.commands.free_energy_plot import plot_stability

    figure = plot_stability([Path(file).stem for file in files], curves, found)
    write_atomically(out / FIGURE, lambda path: figure.savefig(path, dpi=200, format="png"))


def _say(out: Path, curves: list[Curve], found: Stability, t0: float) -> None:
    print(out / RESULT)
    for name, curve in zip(PHASES, curves, strict=True):
        say_estimate(f"G of the {name} phase at {t0:g} K per formula unit", curve.reference)
    at = int(np.argmin(np.abs(found.temperatures - t0)))
    print(
        f"second minus first at {found.temperatures[at]:.0f} K: {found.difference[at]:.5f} +- {found.error[at]:.5f} eV"
    )
    if found.transition is None:
        lower = "first" if found.difference[at] > 0 else "second"
        first, last = found.temperatures[[0, -1]]
        print(f"the {lower} phase is the stable one from {first:g} to {last:g} K")
    else:
        say_estimate("transition", found.transition, "K")
    say_doubts(found.doubts)
