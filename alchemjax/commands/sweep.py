"""alchemjax sweep: compositions in, a folder of results out."""

import time
from pathlib import Path

import jax
import numpy as np
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

import alchemjax
from alchemjax.calculate import topology_of
from alchemjax.commands.columns import sweep_columns, units_of
from alchemjax.commands.compositions import (
    grid,
    read_compositions,
    vacancies,
)
from alchemjax.commands.options import check_mixed, check_periodic, check_relaxation, parse_mix, relaxation_options
from alchemjax.commands.results import FILES, LAST, file_names, structures_of, write_all, write_files
from alchemjax.commands.session import (
    doubts_about,
    energy_kind,
    fingerprint_of,
    prepare_jax,
    progress_bar,
    provenance,
    read_system,
    warn,
)
from alchemjax.commands.store import Work, close, finished, opened, store_batch, stored_batches
from alchemjax.io import load
from alchemjax.model.load import Potential
from alchemjax.system.corners import MOST_CORNERS, num_corners, with_corners
from alchemjax.system.system import System, checked_alpha
from alchemjax.tasks.pairs import pair_fluctuations
from alchemjax.tasks.sweep import Plan, Table, join, make_plan, sweep_batches
from alchemjax.units import EV_PER_A3_IN_GPA

POINTS = 21
WORK = Work("sweep", LAST, (*FILES, LAST), ("table", "structures"))


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli.sweep`."""
    _check_together(arguments)
    mix = parse_mix(arguments["mix"])
    prepare_jax()
    system = read_system(arguments["file"], mix, arguments["groups"], arguments["coupling"], needs_weights=False)
    check_mixed(system, arguments)
    if arguments["relax"] == "cell":
        check_periodic(system, arguments["file"], "--relax positions")
    potential = load(arguments["model"], arguments["dtype"], head=arguments["head"], modality=arguments["modality"])
    rows = _compositions(system, arguments)
    plan = _make_plan(potential, system, with_corners(system.sites, rows), arguments)
    topology_of(potential, system)  # whatever is wrong with the structure is said before anything is written
    system = system._replace(fluctuations=plan.fluctuations)
    fingerprint = _fingerprint(potential, system, plan)
    out = arguments["out"]
    if (report := finished(out, fingerprint, WORK)) and not arguments["overwrite"]:
        _restore(out, system, report, plot=arguments["plot"])
        return
    with opened(out, fingerprint, WORK, overwrite=arguments["overwrite"]) as batches:
        table, seconds = _calculate(potential, system, plan, batches)
        pairs = None if plan.fluctuations is None else _pair_fluctuations(potential, system, table)
        report = {"fingerprint": fingerprint} | provenance(arguments["file"], arguments, potential, system)
        report |= {"wall_time_s": round(seconds, 3)} | _report(system, plan, table, len(rows), pairs)
        write_all(out, system, report, plot=arguments["plot"])
        close(batches)
    for sentence in report["warnings"]:
        warn(sentence)
    _say_summary(out, system, plan, table, len(rows), seconds)


def _check_together(arguments: dict) -> None:
    """Errors: ValueError for options that contradict each other."""
    if arguments["compositions"] is not None and arguments["points"] is not None:
        raise ValueError("--compositions and --points were both given; give one of them")
    check_relaxation(arguments, cell=arguments["relax"] == "cell", positions=arguments["relax"] != "none")


def _restore(out: Path, system: System, report: dict, *, plot: bool) -> None:
    """Make files that are missing from the numbers that are stored."""
    missing = [name for name in file_names(plot=plot) if not (out / name).exists()]
    write_files(out, system, report, missing)
    done = f"{', '.join(missing)} made from its numbers" if missing else "nothing was done"
    print(f"{out} holds this very sweep, finished; {done} (--overwrite calculates it again)")


def _compositions(system: System, arguments: dict) -> np.ndarray:
    """The compositions that were asked for."""
    if arguments["compositions"] is not None:
        return read_compositions(system.sites, arguments["compositions"])
    return grid(system.sites, POINTS if arguments["points"] is None else arguments["points"])


def _make_plan(potential: Potential, system: System, rows: np.ndarray, arguments: dict) -> Plan:
    if (number := num_corners(system.sites)) > MOST_CORNERS:
        warn(f"{number} end members are more than {MOST_CORNERS}; without them there is no mixing energy")
    alpha, options = arguments["alpha"], relaxation_options(arguments) | {"batch": arguments["batch"]}
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
    settings = [alchemjax.__version__, jax.__version__, jax.default_backend(), jax.device_count()]
    settings += [potential.name, potential.sha256, potential.dtype, system.coupling, plan.relax, plan.batch]
    if (chosen := plan.fluctuations) is not None:
        settings += [chosen.kind, chosen.supercell.matrix.tolist(), chosen.variants.site.tolist()]
    settings += [[g.name, g.sites, g.species] for g in system.sites.groups] + [list(system.sites.node_species)]
    return fingerprint_of(settings, (*system.structure, plan.weights, plan.alpha, *plan.freedom, *plan.limits))


def _calculate(potential: Potential, system: System, plan: Plan, batches: Path) -> tuple[Table, float]:
    """The batches that are not stored yet, with a progress bar; the whole table and the seconds it took."""
    tables, seconds = stored_batches(batches, Table)
    with _bar() as bar:
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


def _bar() -> Progress:
    return progress_bar(MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


def _pair_fluctuations(potential: Potential, system: System, table: Table) -> np.ndarray:
    """Of every row, in eV; NaN for what fell apart."""
    found = np.full(len(table.energy), np.nan)
    with _bar() as bar:
        for k in bar.track(np.flatnonzero(np.isfinite(table.energy)), description="pairs of sites"):
            structure = system.structure._replace(positions=table.positions[k], cell=table.cell[k])
            found[k] = pair_fluctuations(potential, system._replace(structure=structure), table.weights[k])
    return found


def _report(system: System, plan: Plan, table: Table, given: int, pairs: np.ndarray | None = None) -> dict:
    """What `sweep.json` says of the calculation."""
    columns = sweep_columns(system, table, float(plan.limits.pressure))
    if system.coupling == "correlated":
        columns["correlation_alpha"] = plan.alpha
    warnings = _warnings(table)
    if pairs is not None:
        columns["pair_fluctuations_per_site_eV"] = per_site = pairs / len(system.structure.positions)
        warnings += doubts_about(per_site)
    if given < len(plan.weights):
        columns["added_end_member"] = (np.arange(len(plan.weights)) >= given).astype(int)
    limits = {f"{name}_limit": value for name, value in plan.limits._asdict().items()}
    return {
        "relaxation": {"relax": plan.relax, "batch": plan.batch, "free_strains": plan.freedom.strains} | limits,
        "warnings": warnings,
        "columns": units_of(columns),
        "table": columns,
        "structures": structures_of(table),
    }


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


def _say_summary(out: Path, system: System, plan: Plan, table: Table, given: int, seconds: float) -> None:
    lost = int((~table.converged).sum())
    state = "single points" if plan.relax == "none" else f"{lost} of them not converged" if lost else "all converged"
    parts = [(given, "composition"), (len(table.energy) - given, "end member")]
    done = " + ".join(f"{number} {what}{'s'[: number != 1]}" for number, what in parts if number)
    print(f"{done} in {seconds:.0f} s, {state}, {energy_kind(system)} energies: {out / 'sweep.csv'}")
    for sentence in vacancies(system.sites, table.weights):
        print(sentence)
