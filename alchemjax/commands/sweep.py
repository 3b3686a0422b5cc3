"""alchemjax sweep: compositions in, a folder of results out."""

import hashlib
import json
import math
import time
from pathlib import Path

import ase.io
import jax
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import alchemjax
from alchemjax.atoms import to_atoms
from alchemjax.calculate import topology_of
from alchemjax.commands.columns import csv_text, plain, sweep_columns, units_of
from alchemjax.commands.compositions import LARGEST_GRID, corners, grid, read_compositions, weight_names, with_corners
from alchemjax.commands.options import check_relaxation, parse_mix, relaxation_options
from alchemjax.commands.session import prepare_jax, provenance, read_system, warn
from alchemjax.commands.store import close, is_finished, opened, store_batch, stored_batches
from alchemjax.io import load, write_atomically
from alchemjax.model.load import Potential
from alchemjax.system.system import System, checked_alpha
from alchemjax.tasks.sweep import Plan, Table, join, make_plan, sweep_batches
from alchemjax.units import EV_PER_A3_IN_GPA

POINTS = 21


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli.sweep`."""
    _check_together(arguments)
    mix = parse_mix(arguments["mix"])
    prepare_jax()
    system = read_system(arguments["file"], mix, arguments["groups"], arguments["coupling"], needs_weights=False)
    potential = load(arguments["model"], arguments["dtype"], modality=arguments["modality"])
    plan = _make_plan(potential, system, arguments)
    topology_of(potential, system)  # whatever is wrong with the structure is said before anything is written
    fingerprint = _fingerprint(potential, system, plan)
    out = arguments["out"]
    if is_finished(out, fingerprint) and not arguments["overwrite"]:
        print(f"{out} holds this very sweep, finished; nothing was done (--overwrite calculates it again)")
        return
    with opened(out, fingerprint, overwrite=arguments["overwrite"]) as batches:
        table, seconds = _calculate(potential, system, plan, batches)
        report = {"fingerprint": fingerprint} | provenance(arguments["file"], arguments, potential, system)
        _write(out, system, plan, table, report | {"wall_time_s": round(seconds, 3)}, plot=arguments["plot"])
        close(batches)
    _say_summary(out, plan, table, seconds)


def _check_together(arguments: dict) -> None:
    """Errors: ValueError for options that contradict each other."""
    if arguments["compositions"] is not None and arguments["points"] is not None:
        raise ValueError("--compositions and --points were both given; give one of them")
    check_relaxation(arguments, "cell", cell=arguments["relax"] == "cell", positions=arguments["relax"] != "none")


def _make_plan(potential: Potential, system: System, arguments: dict) -> Plan:
    if arguments["compositions"] is not None:
        rows = read_compositions(system.sites, arguments["compositions"])
    else:
        rows = grid(system.sites, POINTS if arguments["points"] is None else arguments["points"])
    if corners(system.sites) is None:
        number = math.prod(len(group.species) for group in system.sites.groups)
        warn(f"{number} end members are more than {LARGEST_GRID}; without them there is no mixing energy")
    rows, alpha = with_corners(system.sites, rows), arguments["alpha"]
    options = relaxation_options(arguments, arguments["cell"]) | {"batch": arguments["batch"]}
    if alpha is None or alpha >= 0 or system.coupling != "correlated":
        return make_plan(potential, system, rows, arguments["relax"], alpha=alpha, **options)
    # at an end member alpha changes nothing, but a negative one makes the probability of what is not there negative
    pure = np.isclose(rows, np.rint(rows)).all(1)
    for weights in rows[~pure]:
        try:
            checked_alpha(system, weights, alpha)
        except ValueError as error:
            raise ValueError(f"composition {weights.round(6).tolist()}: {error}") from None
    plan = make_plan(potential, system, rows, arguments["relax"], alpha=0.0, **options)
    return plan._replace(alpha=np.where(pure, 0.0, alpha))


def _fingerprint(potential: Potential, system: System, plan: Plan) -> str:
    """Hash of all that determines the numbers."""
    digest = hashlib.sha256()
    settings = [alchemjax.__version__, jax.__version__, jax.default_backend(), jax.device_count()]
    settings += [potential.name, potential.sha256, potential.dtype, system.coupling, plan.relax, plan.batch]
    settings += [[g.name, g.sites, g.species] for g in system.sites.groups] + [list(system.sites.node_species)]
    digest.update(json.dumps(settings).encode())
    for array in (*system.structure, plan.weights, plan.alpha, *plan.freedom, *plan.limits):
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _calculate(potential: Potential, system: System, plan: Plan, batches: Path) -> tuple[Table, float]:
    """The batches that are not stored yet, with a progress bar; the whole table and the seconds it took."""
    tables, seconds = stored_batches(batches)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=(console := Console(stderr=True)),
        disable=not console.is_terminal,
    )
    with bar:
        done = sum(len(t.energy) for t in tables)
        task = bar.add_task("compositions", total=len(plan.weights), completed=done)

        def on_steps(state) -> None:
            finished = min(int(np.asarray(state.finished).sum()), len(plan.weights) - done)
            bar.update(task, completed=done + finished, description=f"compositions, step {int(state.step.max())}")

        started = time.monotonic()
        for table in sweep_batches(potential, system, plan, done=len(tables), on_steps=on_steps):
            elapsed, started = time.monotonic() - started, time.monotonic()
            store_batch(batches, len(tables), table, elapsed)
            tables.append(table)
            done, seconds = done + len(table.energy), seconds + elapsed
            bar.update(task, completed=done)
    return join(tables), seconds


def _write(out: Path, system: System, plan: Plan, table: Table, report: dict, *, plot: bool) -> None:
    """All results, `sweep.json` last: it says that the sweep is finished."""
    columns = sweep_columns(system, table)
    if system.coupling == "correlated":
        columns["correlation_alpha"] = plan.alpha
    write_atomically(out / "sweep.csv", lambda path: path.write_text(csv_text(columns)))
    images = [_image(system, table, k) for k in range(len(table.energy))]
    write_atomically(out / "structures.extxyz", lambda path: ase.io.write(path, images, format="extxyz"))
    if plot:
        from alchemjax.plot import plot_sweep

        figure = plot_sweep(columns)
        write_atomically(out / "sweep.png", lambda path: figure.savefig(path, dpi=200))
    else:
        (out / "sweep.png").unlink(missing_ok=True)
    report |= {
        "relaxation": {"relax": plan.relax, "batch": plan.batch, "free_strains": plan.freedom.strains}
        | {f"{name}_limit": value for name, value in plan.limits._asdict().items()},
        "warnings": _warnings(table),
        "columns": units_of(columns),
        "table": columns,
    }
    write_atomically(out / "sweep.json", lambda path: path.write_text(json.dumps(plain(report), indent=1) + "\n"))


def _image(system: System, table: Table, k: int):
    """Relaxed structure of one row, with its weights, energy, forces and stress."""
    atoms = to_atoms(system, table.positions[k], table.cell[k], table.weights[k])
    results = {"energy": float(table.energy[k]), "forces": table.forces[k]}
    if np.isfinite(table.stress[k]).all():
        results["stress"] = full_3x3_to_voigt_6_stress(table.stress[k])
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["weights"] = dict(zip(weight_names(system.sites), table.weights[k].tolist(), strict=True))
    atoms.info["converged"] = bool(table.converged[k])
    return atoms


def _warnings(table: Table) -> list[str]:
    warnings = []
    number, broken = len(table.energy), ~np.isfinite(table.energy)
    late = ~table.converged & ~broken
    if late.any():
        force, stress = table.max_force[late].max(), table.max_stress[late].max() * EV_PER_A3_IN_GPA
        warnings.append(
            f"{late.sum()} of {number} compositions did not converge (up to {force:.2g} eV/A and {stress:.2g} GPa are "
            "left); they have 0 under 'converged' and open markers in the plot: try more --max-steps"
        )
    if broken.any():
        warnings.append(f"{broken.sum()} of {number} compositions have no finite energy: their structures fell apart")
    return warnings


def _say_summary(out: Path, plan: Plan, table: Table, seconds: float) -> None:
    for sentence in _warnings(table):
        warn(sentence)
    lost = int((~table.converged).sum())
    state = "single points" if plan.relax == "none" else f"{lost} of them not converged" if lost else "all converged"
    print(f"{len(table.energy)} compositions in {seconds:.0f} s, {state}: {out / 'sweep.csv'}")
