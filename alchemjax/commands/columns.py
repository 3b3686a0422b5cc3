"""The table of a sweep as named columns of numbers in the units of the surface."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase.cell import Cell
from ase.stress import full_3x3_to_voigt_6_stress

from alchemjax.commands.options import STRAINS
from alchemjax.io import write_atomically
from alchemjax.system.corners import between_corners
from alchemjax.system.sites import weight_names
from alchemjax.system.system import System
from alchemjax.tasks.sweep import Table
from alchemjax.units import EV_PER_A3_IN_GPA

DIGITS = 12  # of what is calculated; weights are written in full

ENDS = (
    "minus that of the end members, weighted (end members hold one species on all sites that may hold the same ones); "
    "empty where a group's weights do not sum to 1"
)
UNITS = {  # of the columns of sweep.csv and log.csv; weights have none
    "replica": ("1", "number of the replica"),
    "lambda": ("1", "place along the path"),
    "dE/dlambda_eV": ("eV", "derivative of the energy along the path"),
    "largest_displacement_A": ("A", "of the site that is farthest from where it belongs"),
    "step": ("1", "time step"),
    "time_fs": ("fs", "time"),
    "temperature_K": ("K", "twice the kinetic energy by 3N - 3 and Boltzmann's constant"),
    "target_temperature_K": ("K", "temperature of the thermostat"),
    "target_pressure_GPa": ("GPa", "pressure of the barostat"),
    "kinetic_energy_eV": ("eV", "kinetic energy of all sites"),
    "conserved_eV": ("eV", "energy minus what thermostat, barostat and moving composition put in; drift is an error"),
    "work_eV": ("eV", "work done by moving the composition, the scale of the potential or springs"),
    "correlation_alpha": ("1", "short-range order"),
    "added_end_member": ("1", "1 for end members that were added to the compositions given"),
    "energy_eV": ("eV", "energy of all sites"),
    "energy_per_site_eV": ("eV", "energy divided by the number of all sites, mixed or not"),
    "mixing_energy_per_site_eV": ("eV", f"energy per site {ENDS}"),
    "enthalpy_per_site_eV": ("eV", "energy plus pressure times volume, divided by the number of all sites"),
    "mixing_enthalpy_per_site_eV": ("eV", f"enthalpy per site {ENDS}"),
    "pair_fluctuations_per_site_eV": (
        "eV",
        "what fluctuations of two sites at a time would add to the energy per site of a random alloy",
    ),
    "volume_A3": ("A^3", "volume of the cell"),
    "a_A": ("A", "length of the lattice vector a"),
    "b_A": ("A", "length of the lattice vector b"),
    "c_A": ("A", "length of the lattice vector c"),
    "alpha_deg": ("degree", "angle between the lattice vectors b and c"),
    "beta_deg": ("degree", "angle between the lattice vectors a and c"),
    "gamma_deg": ("degree", "angle between the lattice vectors a and b"),
    "vegard_deviation_a_A": ("A", "a minus that of the end members, weighted; empty as the mixing energy"),
    "pressure_GPa": ("GPa", "minus a third of the trace of the stress"),
    **{f"stress_{name}_GPa": ("GPa", f"stress {name}, tension positive") for name in STRAINS},
    "max_force_eV_per_A": ("eV/A", "largest norm of a force on a site, of what may move"),
    "steps": ("1", "steps of the relaxation"),
    "converged": ("1", "1 if the relaxation reached its tolerances, and for single points"),
}


def sweep_columns(system: System, table: Table, pressure: float = 0.0) -> dict[str, np.ndarray]:
    """Columns of `sweep.csv`: weights as `group:species`, then those of `UNITS`, then derivatives; NaN where empty.

    Enthalpies are there only under a pressure [eV/A^3].
    """
    weights, sites = np.asarray(table.weights, np.float64), system.structure.positions.shape[0]
    names = weight_names(system.sites)
    lattice = lattice_columns(table.cell)
    energy = np.asarray(table.energy, np.float64)
    enthalpy = energy + pressure * table.volume
    excess = lambda values: values - between_corners(system.sites, weights, values)
    columns = dict(zip(names, weights.T, strict=True))
    columns |= {
        "energy_eV": energy,
        "energy_per_site_eV": energy / sites,
        "mixing_energy_per_site_eV": excess(energy) / sites,
    }
    if pressure:
        columns |= {
            "enthalpy_per_site_eV": enthalpy / sites,
            "mixing_enthalpy_per_site_eV": excess(enthalpy) / sites,
        }
    columns |= {"volume_A3": table.volume}
    columns |= lattice | {"vegard_deviation_a_A": excess(lattice["a_A"])} | stress_columns(table.stress)
    columns |= {
        "max_force_eV_per_A": table.max_force,
        "steps": np.asarray(table.steps, int),
        "converged": np.asarray(table.converged, int),
    }
    return columns | {f"dE/d({name})_eV": column for name, column in zip(names, table.weights_gradient.T, strict=True)}


def lattice_columns(cells) -> dict[str, np.ndarray]:
    """Lengths and angles of cells [A]."""
    lattice = np.array([_lattice_parameters(cell) for cell in cells])
    return dict(zip(("a_A", "b_A", "c_A", "alpha_deg", "beta_deg", "gamma_deg"), lattice.T, strict=True))


def stress_columns(stresses) -> dict[str, np.ndarray]:
    """Pressure and stress in GPa, of stresses in eV/A^3."""
    stress = np.array([full_3x3_to_voigt_6_stress(s) for s in stresses]) * EV_PER_A3_IN_GPA
    columns = {f"stress_{name}_GPa": column for name, column in zip(STRAINS, stress.T, strict=True)}
    return {"pressure_GPa": -stress[:, :3].mean(1)} | columns


def _lattice_parameters(cell: np.ndarray) -> np.ndarray:
    """Lengths and angles, NaN where a lattice vector is missing."""
    missing = np.linalg.norm(cell, axis=1) < 1e-9
    parameters = Cell(cell).cellpar()
    parameters[:3][missing] = np.nan
    parameters[3:][[bool(missing[j] or missing[k]) for j, k in ((1, 2), (0, 2), (0, 1))]] = np.nan
    return parameters


NUMBERED = {  # beginnings of names
    "squared_displacement_": ("A^2", "squared displacement of this site from where it belongs"),
    "cell_": ("A", "component of a lattice vector"),
    "energy_at_": ("eV", "energy that the same positions have at this lambda"),
}


def units_of(columns: Mapping[str, np.ndarray]) -> dict[str, dict[str, str]]:
    """Unit and meaning of every column."""
    weight = "1", "weight of group:species"
    slope = "eV", "derivative of the energy of all sites with respect to this weight"
    numbered = {name: about for name in columns for start, about in NUMBERED.items() if name.startswith(start)}
    known = UNITS | numbered
    described = {name: known.get(name) or (slope if name.startswith("dE/d(") else weight) for name in columns}
    return {name: {"unit": unit, "meaning": meaning} for name, (unit, meaning) in described.items()}


def write_json(path: Path, report: dict) -> None:
    """Replace a JSON file."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(plain(report), indent=1) + "\n"))


def csv_text(columns: Mapping[str, np.ndarray]) -> str:
    """The table as CSV, one line per composition."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    full = {name for name in columns if name not in UNITS and not name.startswith("dE/d(")} | {"correlation_alpha"}
    cells = ([_cell(value, name in full) for value in column] for name, column in columns.items())
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue()


def _cell(value, full: bool) -> str:
    if isinstance(value, np.integer):
        return str(value)
    if not np.isfinite(value):
        return ""
    return repr(float(value)) if full else f"{value:.{DIGITS}g}"


def plain(value):
    """Arrays and numbers of NumPy, paths and tuples as JSON has them; NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
