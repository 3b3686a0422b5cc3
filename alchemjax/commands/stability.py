"""alchemjax stability: Gibbs energies of two phases against temperature, and where they change places."""

from pathlib import Path

import numpy as np

from alchemjax.commands.alloy_options import parse_temperatures
from alchemjax.commands.columns import csv_text, write_json
from alchemjax.commands.free_energy import (
    FARTHEST,
    MOVING,
    fixed_cell,
    guard,
    loaded,
    measuring_stages,
    number,
    options_of,
    plan_only,
    record_of_log,
    say_doubts,
    say_estimate,
    springs,
    stage_log,
    starting_system,
    strain_columns,
    switched,
)
from alchemjax.commands.frenkel_ladd import carried_out
from alchemjax.commands.options import parse_weights
from alchemjax.commands.session import provenance, sha256_of
from alchemjax.io import write_atomically
from alchemjax.model.load import Potential
from alchemjax.system.system import System
from alchemjax.tasks.free_energy.frenkel_ladd import check_volume, harmonic_stiffness
from alchemjax.tasks.free_energy.paths import composition_path, einstein_path, mixing_entropy
from alchemjax.tasks.free_energy.stability import (
    Curve,
    Heated,
    Stability,
    at_mean_cell,
    averaged,
    changed,
    common_units,
    compare,
    decided,
    doubts_of_mean_cell,
    gibbs_curve,
    plan_heating,
    reference_of,
)
from alchemjax.tasks.free_energy.switching import plan_switch, record_of
from alchemjax.tasks.md import Trajectory
from alchemjax.tasks.md_plan import Plan
from alchemjax.tasks.seeds import seed_of
from alchemjax.units import EV_PER_A3_IN_GPA

RESULT, TABLE, FIGURE = "stability.json", "stability.csv", "stability.png"
PHASES = ("first", "second")
CELL = [f"cell_{k}{axis}_A" for k in "abc" for axis in "xyz"]


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli_free_energy.stability`."""
    files, out = (arguments["file"], arguments["other"]), arguments["out"]
    if arguments["weights"] is not None and arguments["start"] is not None:
        raise ValueError("--weights and --from both say where the phases start; give one of them")
    if (arguments["start"] is None) != (arguments["end"] is None):
        raise ValueError("--from and --to go together; give both, or none of them")
    temperatures = np.asarray(parse_temperatures(arguments["temperatures"]))
    t0 = arguments["reference"]
    t0 = float(temperatures[len(temperatures) // 2]) if t0 is None else t0
    every = np.union1d(temperatures, [t0])
    arguments = arguments | {"temperature": t0}
    given = (arguments["weights"], "--weights") if arguments["start"] is None else (arguments["start"], "--from")
    systems = [starting_system(arguments | {"file": file}, *given) for file in files]
    potential, options = loaded(arguments), options_of(arguments)
    common_units(*systems)
    ends = systems
    for system in systems:
        check_volume(system)
        plan_switch(potential, system, einstein_path(system, 1.0), **fixed_cell(options))
    if arguments["end"] is not None:
        paths = [_path(system, arguments) for system in systems]
        for system, path in zip(systems, paths, strict=True):
            plan_switch(potential, system, path, **({"cell": True} | options))
        ends = [system._replace(weights=path.weights[-1]) for system, path in zip(systems, paths, strict=True)]
    *units, unit = common_units(*ends)
    plans = [plan_heating(potential, system, every, **_heating(arguments, options)) for system in systems]
    if arguments["dry_run"]:
        for name, system, (plan, _) in zip(PHASES, systems, plans, strict=True):
            print(f"{name} phase:")
            plan_only(potential, _stages(arguments, options, plan), system, options)
        return
    fingerprint = guard(out, RESULT, arguments, list(files))
    if str(arguments["springs"]) == "hessian":
        for system in systems:
            harmonic_stiffness(potential, system)  # whether it has one is said before anything is run
    curves, warm = [], []
    for k, (name, system, file, number_) in enumerate(zip(PHASES, systems, files, units, strict=True)):
        own = options | {"seed": seed_of(options["seed"], k)}  # the same noise would not be independent
        curve, hot = _curve(potential, system, arguments | {"file": file}, own, every, out / name, number_)
        curves.append(curve)
        warm.append(hot)
    found = compare(*curves)
    about = provenance(files[0], arguments, potential, systems[0])
    rows = [
        {
            "temperatures_K": hot.temperatures,
            "enthalpies_of_cell_eV": [number(one) for one in hot.enthalpies],
            "volumes_of_cell_A3": [number(one) for one in hot.volumes],
            "cells_A": hot.cells,
            "units_in_cell": number_,
        }
        for hot, number_ in zip(warm, units, strict=True)
    ]
    report = {
        "fingerprint": fingerprint,
        "second_input": {"file": str(files[1]), "sha256": sha256_of(files[1])},
        "unit": unit,
        "phases": rows,
        "temperatures_K": found.temperatures,
        "difference_eV": found.difference,
        "standard_error_eV": found.error,
        "transition_K": None if found.transition is None else number(found.transition),
        "chance_of_transition": found.chance,
        "reference_temperature_K": t0,
        "reference_gibbs_eV": [number(curve.reference) for curve in curves],
        "of_it_mixing_eV": [curve.mixing for curve in curves],
        "doubts": list(found.doubts),
    }
    write_json(out / RESULT, about | report)
    columns = {"temperature_K": found.temperatures}
    for name, curve in zip(PHASES, curves, strict=True):
        columns |= {f"gibbs_{name}_eV": curve.gibbs, f"error_{name}_eV": curve.error}
        columns |= {f"of_it_mixing_{name}_eV": curve.mixing}
    columns |= {"difference_eV": found.difference, "difference_error_eV": found.error}
    write_atomically(out / TABLE, lambda path: path.write_text(csv_text(columns)))
    if arguments["plot"]:
        _draw(out, files, curves, found, unit)
    _say(out, curves, found, t0, unit)


def _heating(arguments: dict, options: dict) -> dict:
    """Options of `plan_heating`."""
    own = {name: options[name] for name in (*MOVING, "timestep", "seed", "every", "chunk") if name in options}
    return {"cell": True, "equilibration": options["equilibration"], "sampling": arguments["heating"]} | own


def _stages(arguments: dict, options: dict, plan: Plan) -> list[tuple[str, int, int]]:
    one = round(2 * (options["equilibration"] + options["switching"]) / options["timestep"])
    heating = ("heating", int(plan.constants.steps), len(plan.seeds))
    stages = [
        heating,
        *measuring_stages(arguments, options),
        ("switching to springs and back", one, options["replicas"]),
    ]
    if arguments["end"] is not None:
        stages += [("switching the composition and back", one, options["replicas"]), heating]
    return stages


def _curve(potential: Potential, system: System, arguments: dict, options: dict, every, out: Path, units: float):
    """All stages of one phase: its curve, and what was measured at the temperatures."""
    t0, pressure = options["temperature"], options.get("pressure", 0.0)
    options, *others = [options | {"seed": seed_of(options["seed"], k)} for k in range(4)]
    warm = _heated(potential, system, arguments, options, every, out / "heating")
    mean = at_mean_cell(system, warm, t0)
    fixed = fixed_cell(others[0])
    stiffness = springs(potential, mean, arguments, fixed, out / "springs")
    free = carried_out(potential, mean, arguments, fixed, out / "crystal", stiffness)
    total = reference_of(mean, free, pressure)
    doubts = (*warm.doubts, *free.doubts, *doubts_of_mean_cell(mean, free, pressure, options.get("bulk_modulus")))
    if arguments["end"] is not None:
        path = _path(mean, arguments)
        moving = {"cell": True} | others[1]
        moved = switched(potential, mean, path, arguments, moving, out / "switch")[1]
        total, doubts = changed(total, moved), (*doubts, *moved.doubts)
        mean = system._replace(weights=path.weights[-1])
        warm = _heated(potential, mean, arguments, others[2], every, out / "heating-end")
        doubts = (*doubts, *warm.doubts)
    sites = len(system.structure.positions)
    return gibbs_curve(warm, total, t0, units, sites=sites, mixing=mixing_entropy(mean), doubts=doubts), warm


def _path(system: System, arguments: dict):
    return composition_path(system, system.weights, parse_weights(system.sites, arguments["end"], "--to"))


def _heated(potential: Potential, system: System, arguments: dict, options: dict, every, out: Path) -> Heated:
    plan, settled = plan_heating(potential, system, every, **_heating(arguments, options))

    def columns(trajectory: Trajectory) -> dict:
        flat = trajectory.cell.reshape(*trajectory.cell.shape[:2], 9)
        record = record_of(plan, trajectory)
        places = {FARTHEST: record.displacement} | strain_columns(plan, record.strain)
        return dict(zip(CELL, np.moveaxis(flat, -1, 0), strict=True)) | places

    log = stage_log(potential, plan, arguments, out, columns)
    record, replicas = record_of_log(log, int(plan.constants.steps)), len(plan.seeds)
    table = lambda name: log[name].reshape(-1, replicas)
    cells = np.stack([table(name) for name in CELL], axis=-1).reshape(-1, replicas, 3, 3)
    enthalpy = table("energy_eV") + table("target_pressure_GPa") / EV_PER_A3_IN_GPA * record.volume
    return averaged(plan, record, settled, enthalpy, cells)


def _draw(out: Path, files, curves: list[Curve], found: Stability, unit: str) -> None:
    from alchemjax.commands.free_energy_plot import plot_stability

    names = [Path(file).stem for file in files]
    names = names if names[0] != names[1] else list(PHASES)
    figure = plot_stability(names, curves, found, unit)
    write_atomically(out / FIGURE, lambda path: figure.savefig(path, dpi=200, format="png"))


def _say(out: Path, curves: list[Curve], found: Stability, t0: float, unit: str) -> None:
    print(out / RESULT)
    for name, curve in zip(PHASES, curves, strict=True):
        say_estimate(f"G of the {name} phase at {t0:g} K per {unit}", curve.reference)
    at = int(np.argmin(np.abs(found.temperatures - t0)))
    if any(curve.mixing.any() for curve in curves):
        both = ", ".join(f"{name} {curve.mixing[at]:+.5f} eV" for name, curve in zip(PHASES, curves, strict=True))
        print(f"of it random mixing -T S at {found.temperatures[at]:.0f} K: {both}")
    print(
        f"second minus first at {found.temperatures[at]:.0f} K: {found.difference[at]:.5f} +- {found.error[at]:.5f} eV"
    )
    first, last = found.temperatures[[0, -1]]
    if found.transition is None and decided(found.difference, found.error, *curves).all():
        lower = "first" if found.difference[at] > 0 else "second"
        but = ", unless what is doubtful changes it" if found.doubts else ""
        print(f"the {lower} phase is the stable one from {first:g} to {last:g} K{but}")
    elif found.transition is not None:
        say_estimate("transition", found.transition, "K")
    say_doubts(found.doubts)
