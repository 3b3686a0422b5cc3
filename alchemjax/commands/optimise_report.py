"""What `alchemjax optimise` says of an optimum: report, files and table."""

import csv
import io
from pathlib import Path

import ase.io
import numpy as np
from rich.table import Table as Printed

from alchemjax.atoms import to_atoms
from alchemjax.commands.columns import write_json
from alchemjax.commands.session import energy_kind
from alchemjax.commands.store import Work
from alchemjax.decorate import Explicit
from alchemjax.io import write_atomically
from alchemjax.system.sites import by_group, weight_names
from alchemjax.system.system import System
from alchemjax.tasks.optimise import ENDS, USED_UP, Optimum
from alchemjax.tasks.properties import PROPERTIES

FILES = ("path.csv", "optimum.extxyz", "optimise.png")
WORK = Work("optimisation", "optimise.json", (*FILES, "optimise.json"), ("results", "path"))
SHOWN = 1e-5  # of weights, in the table
RANDOM_ALLOYS = "--fluctuations site-exact aims at random alloys"
DISPLACED = "that atoms around every site are displaced is not in this energy (alchemjax alloy knows it)"


def report_of(system: System, targets, names, found: Optimum, explicit: Explicit | None, warnings: list[str]) -> dict:
    """What `optimise.json` has of an optimum; `warnings` are those that there are already."""
    weights = dict(zip(weight_names(system.sites), found.weights.tolist(), strict=True))
    if found.reached is False:
        warnings.append(found.message)
    elif not found.converged:
        warnings.append(f"the search has not converged: {found.message}")
    failed = [why for why in found.reasons if why not in ENDS]
    if failed:
        warnings.append(f"{len(failed)} of {len(found.reasons)} searches failed: {'; '.join(sorted(set(failed)))}")
    if USED_UP in found.reasons and not (found.reached and found.converged):
        warnings.append(f"{USED_UP}; with more --evaluations the searches go on from here")
    results = {
        "weights": weights,
        "values": found.values,
        "targets": [goal._asdict() for goal in targets],
        "reached": found.reached,
        "converged": found.converged,
        "message": found.message,
        "loss": found.loss,
        "energy_eV": found.energy,
        "cell_A": found.structure.cell,
        "starts": [
            {"weights": end, "loss": loss, "reason": reason}
            for end, loss, reason in zip(found.ends, found.losses, found.reasons, strict=True)
        ],
    }
    if explicit is not None:
        mean, error = _mean(explicit)
        results["explicit"] = {
            "sites": explicit.sites,
            "values": {name: column for name, column in zip(explicit.names, explicit.values.T, strict=True)},
            "mean": dict(zip(explicit.names, mean, strict=True)),
            "standard_error": dict(zip(explicit.names, error, strict=True)),
            "predicted": dict(zip(explicit.names, explicit.predicted, strict=True)),
            "weights": explicit.weights,
            "converged": explicit.converged,
        }
        if not explicit.converged.all():
            warnings.append(f"{(~explicit.converged).sum()} of the explicit supercells did not relax")
        if np.isnan(explicit.predicted).all():
            warnings.append(
                "the alchemical crystal of the supercells' composition did not relax; they are not compared"
            )
        elif found.reached is not False:
            warnings += _misses_explicitly(targets, found, explicit, mean_field=system.fluctuations is None)
    units = {name: {"unit": PROPERTIES[name].unit, "meaning": PROPERTIES[name].meaning} for name in names}
    return {"warnings": warnings, "properties": units, "results": results, "path": _columns(system, names, found)}


def _mean(explicit: Explicit) -> tuple[np.ndarray, np.ndarray]:
    values = explicit.values[explicit.converged] if explicit.converged.any() else explicit.values
    number = len(values)
    error = values.std(0, ddof=1) / number**0.5 if number > 1 else np.full(len(explicit.names), np.nan)
    return values.mean(0), error


def _misses_explicitly(targets, found: Optimum, explicit: Explicit, *, mean_field: bool) -> list[str]:
    """Targets missed by more than the tolerance and twice the standard error, with the error of the prediction."""
    mean, error = _mean(explicit)
    sentences = []
    for goal in targets:
        if goal.sign in ("min", "max") or goal.name not in explicit.names:
            continue
        k, one = explicit.names.index(goal.name), PROPERTIES[goal.name]
        wrong = mean[k] - explicit.predicted[k]
        miss = found.values[goal.name] + wrong - goal.value
        beyond = {"=": abs(miss), "<=": miss, ">=": -miss}[goal.sign]
        if beyond > one.tolerance + 2 * np.nan_to_num(error[k]):
            share = f" ({100 * miss / goal.value:+.2f} %)" if goal.value else ""
            sentences.append(
                f"explicit supercells of {explicit.sites} sites differ by {wrong:+.2g} {one.unit} in {goal.name} from "
                f"what is predicted of their composition: at the optimum it is {miss:+.2g} from the target{share}; "
                + (RANDOM_ALLOYS if mean_field else DISPLACED)
            )
    return sentences


def _columns(system: System, names, found: Optimum) -> dict[str, np.ndarray]:
    """`path.csv`: a row for every evaluation of every start."""
    stack = lambda name: np.array([getattr(one, name) for one in found.path])
    rows, starts = len(found.path), len(found.losses)
    flat = lambda a: a.reshape(rows * starts, -1).T
    columns = {"evaluation": np.repeat(np.arange(rows), starts), "start": np.tile(np.arange(starts), rows)}
    weights = weight_names(system.sites)
    columns |= dict(zip(weights, flat(stack("weights")), strict=True))
    columns |= {"loss": flat(stack("loss"))[0]} | dict(zip(names, flat(stack("values")), strict=True))
    columns |= {"converged": flat(stack("converged"))[0].astype(int)}
    return columns | dict(zip([f"dloss/d({name})" for name in weights], flat(stack("gradient")), strict=True))


def write(out: Path, system: System, targets, names, found: Optimum, report: dict, *, plot: bool) -> None:
    """The files of a folder."""
    text, columns = io.StringIO(), report["path"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[f"{value:.12g}" for value in row] for row in zip(*columns.values(), strict=True)])
    atoms = to_atoms(system, found.structure.positions, found.structure.cell, found.weights.tolist())
    atoms.info |= {"weights": report["results"]["weights"], "energy_eV": found.energy}
    (out / WORK.last).unlink(missing_ok=True)  # it says that the rest is whole
    write_atomically(out / "path.csv", lambda path: path.write_text(text.getvalue()))
    write_atomically(out / "optimum.extxyz", lambda path: ase.io.write(path, atoms, format="extxyz"))
    (out / "optimise.png").unlink(missing_ok=True)
    if plot:
        from alchemjax.commands.optimise_plot import plot_optimise

        figure = plot_optimise(system.sites.groups, targets, names, found)
        write_atomically(out / "optimise.png", lambda path: figure.savefig(path, dpi=200))
    write_json(out / WORK.last, report)


def summary(system: System, targets, names, found: Optimum, explicit: Explicit | None) -> Printed:
    """The table that is printed."""
    table = Printed(title=f"optimum ({energy_kind(system)} energy)", show_edge=False)
    for column in ("", "value", "target", *(["in whole atoms", "explicit supercells"] if explicit is not None else [])):
        table.add_column(column, justify="left" if not column else "right")
    whole = [] if explicit is None else [[f"{w + 0.0:.5f}"] for w in explicit.weights]
    for k, (name, weight) in enumerate(zip(weight_names(system.sites), found.weights, strict=True)):
        table.add_row(name, f"{weight + 0.0:.5f}", "", *(whole[k] if whole else ()))
    for group, own in zip(system.sites.groups, by_group(system.sites, found.weights), strict=True):
        if own.sum() < 1 - SHOWN:
            table.add_row(f"{group.name}:vacancy", f"{1 - own.sum():.5f}")
    wanted: dict[str, str] = {}
    for goal in targets:
        text = f"{goal.sign} {goal.value:g}" if goal.sign not in ("min", "max") else goal.sign
        wanted[goal.name] = f"{wanted[goal.name]}, {text}" if goal.name in wanted else text
    mean, error = (np.zeros(0), np.zeros(0)) if explicit is None else _mean(explicit)
    for name in names:
        row = [f"{name} ({PROPERTIES[name].unit})", f"{found.values[name]:.6g}", wanted.get(name, "")]
        if explicit is not None and name in explicit.names:
            k = explicit.names.index(name)
            row.append(f"{explicit.predicted[k]:.6g}")
            row.append(f"{mean[k]:.6g}" + (f" ± {error[k]:.1g}" if np.isfinite(error[k]) else ""))
        table.add_row(*row)
    return table
