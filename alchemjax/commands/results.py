"""The files of a sweep, made from what `sweep.json` says: one that was lost comes again, byte for byte."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from alchemjax.atoms import to_atoms
from alchemjax.commands.columns import csv_text, plain
from alchemjax.io import write_atomically
from alchemjax.system.sites import weight_names
from alchemjax.system.system import System
from alchemjax.tasks.sweep import Table

LAST = "sweep.json"  # it says that the sweep is finished


def structures_of(table: Table) -> dict[str, np.ndarray]:
    """What the table leaves out of a sweep's structures, one row per composition."""
    return {
        "cell_A": table.cell,
        "positions_A": table.positions,
        "forces_eV_per_A": table.forces,
        "stress_eV_per_A3": table.stress,
    }


def write_all(out: Path, system: System, report: dict, *, plot: bool) -> None:
    """All files of a sweep; `report` holds its `table` and `structures`."""
    text = json.dumps(plain(report), indent=1) + "\n"
    write_files(out, system, json.loads(text), file_names(plot=plot))
    if not plot:
        (out / "sweep.png").unlink(missing_ok=True)
    write_atomically(out / LAST, lambda path: path.write_text(text))


def file_names(*, plot: bool) -> list[str]:
    """The files beside `sweep.json`."""
    return [name for name in FILES if plot or name != "sweep.png"]


def write_files(out: Path, system: System, report: dict, names: Iterable[str]) -> None:
    """Some of the files, from the contents of `sweep.json`."""
    columns = {name: _array(column) for name, column in report["table"].items()}
    structures = {name: np.array(rows, np.float64) for name, rows in report["structures"].items()}
    for name in names:
        write_atomically(out / name, partial(FILES[name], system, columns, structures))


def _array(column: list) -> np.ndarray:
    """JSON has null for NaN."""
    return np.array(column, int if all(isinstance(x, int) for x in column) else np.float64)


def _write_csv(system: System, columns: dict, structures: dict, path: Path) -> None:
    path.write_text(csv_text(columns))


def _write_structures(system: System, columns: dict, structures: dict, path: Path) -> None:
    images = [_image(system, columns, structures, k) for k in range(len(columns["energy_eV"]))]
    ase.io.write(path, images, format="extxyz")


def _image(system: System, columns: dict, structures: dict, k: int):
    """Structure of one row, with its weights, energy, forces and stress."""
    weights = {name: float(columns[name][k]) for name in weight_names(system.sites)}
    atoms = to_atoms(system, structures["positions_A"][k], structures["cell_A"][k], list(weights.values()))
    results = {"energy": float(columns["energy_eV"][k]), "forces": structures["forces_eV_per_A"][k]}
    stress = structures["stress_eV_per_A3"][k]
    if np.isfinite(stress).all():
        results["stress"] = full_3x3_to_voigt_6_stress(stress)
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["weights"] = weights
    atoms.info["converged"] = bool(columns["converged"][k])
    return atoms


def _write_plot(system: System, columns: dict, structures: dict, path: Path) -> None:
    from alchemjax.plot import plot_sweep

    plot_sweep(columns).savefig(path, dpi=200)


FILES = {"sweep.csv": _write_csv, "structures.extxyz": _write_structures, "sweep.png": _write_plot}
