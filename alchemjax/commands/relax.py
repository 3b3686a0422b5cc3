"""alchemjax relax: one composition in, its relaxed structure and a JSON file out."""

from pathlib import Path

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cell import Cell
from ase.stress import full_3x3_to_voigt_6_stress
from rich.console import Console
from rich.table import Table

from alchemjax.atoms import to_atoms
from alchemjax.calculate import topology_of
from alchemjax.commands.columns import write_json
from alchemjax.commands.compositions import vacancies
from alchemjax.commands.options import (
    STRAINS,
    check_mixed,
    check_periodic,
    check_relaxation,
    parse_mix,
    parse_weights,
    relaxation_options,
)
from alchemjax.commands.session import doubts_about, energy_kind, prepare_jax, provenance, read_system, warn
from alchemjax.io import load, write_atomically
from alchemjax.system.sites import weight_names
from alchemjax.system.structure import volume
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.pairs import pair_fluctuations
from alchemjax.tasks.relax import Relaxed, relax
from alchemjax.units import EV_PER_A3_IN_GPA

SUFFIXES = (".extxyz", ".xyz", ".cif")


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli.relax`."""
    mix, out = parse_mix(arguments["mix"]), arguments["out"]
    check_relaxation(arguments, cell=arguments["cell"], positions=arguments["positions"])
    report_file = _check_output(out, overwrite=arguments["overwrite"])
    prepare_jax()
    system = read_system(
        arguments["file"], mix, arguments["groups"], arguments["coupling"], needs_weights=arguments["weights"] is None
    )
    if out.suffix == ".cif" and not system.structure.pbc.all():
        raise ValueError(f"'{out}': a CIF needs three periodic directions; write .extxyz")
    check_mixed(system, arguments)
    given = parse_weights(system.sites, arguments["weights"])
    system = system._replace(weights=checked_weights(system, given))
    if arguments["cell"]:
        check_periodic(system, arguments["file"], "--no-cell")
    potential = load(arguments["model"], arguments["dtype"], head=arguments["head"], modality=arguments["modality"])
    topology_of(potential, system)
    options = relaxation_options(arguments)
    if not arguments["cell"]:
        options["cell"] = False
    relaxed = relax(potential, system, alpha=arguments["alpha"], positions=arguments["positions"], **options)
    system = system._replace(fluctuations=relaxed.fluctuations)
    report = provenance(arguments["file"], arguments, potential, system) | {"results": _results(system, relaxed)}
    pairs, doubts = None, []
    if relaxed.fluctuations is not None:
        pairs = pair_fluctuations(potential, system._replace(structure=relaxed.structure))
        report["results"]["pair_fluctuations_per_site_eV"] = pairs = pairs / len(relaxed.structure.positions)
        doubts = doubts_about(np.array([pairs]))
    write_atomically(out, lambda path: _write_structure(path, system, relaxed))
    write_json(report_file, report)
    if not relaxed.converged:
        left = f"{relaxed.max_force:.2g} eV/A and {relaxed.max_stress * EV_PER_A3_IN_GPA:.2g} GPa"
        warn(f"not converged after {relaxed.steps} steps ({left} are left); try more --max-steps")
    for sentence in doubts:
        warn(sentence)
    moved = arguments["cell"] or arguments["positions"]
    title = "single point" if not moved else "converged" if relaxed.converged else "NOT converged"
    Console(highlight=False, markup=False).print(_summary(title, system, relaxed, pairs))
    for sentence in vacancies(system.sites, system.weights[None]):
        print(sentence)
    print(f"{out}, {report_file}")


def _check_output(out: Path, *, overwrite: bool) -> Path:
    """The JSON file beside `out`. Errors: ValueError for a suffix or place that cannot be, or a file that is there."""
    if out.is_dir():
        raise ValueError(f"'{out}' is a folder; give the name of a file, like '{out / 'relaxed.cif'}'")
    if out.suffix not in SUFFIXES:
        raise ValueError(f"'{out}' has the suffix '{out.suffix}'; allowed are {', '.join(SUFFIXES)}")
    report_file = out.with_suffix(".json")
    for path in (out, report_file):
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder, and the report goes there; give another name")
        if path.exists() and not overwrite:
            raise ValueError(f"'{path}' exists; give another name, or --overwrite")
    probe = out.with_name(f".{out.name}.probe")
    try:
        write_atomically(probe, lambda path: path.touch())
    except ValueError as error:
        raise ValueError(f"{str(error).replace(str(probe), str(out))}; give another place with --out") from None
    probe.unlink()
    return report_file


def _write_structure(path: Path, system: System, relaxed: Relaxed) -> None:
    atoms = to_atoms(system, relaxed.structure.positions, relaxed.structure.cell)
    if path.suffix == ".cif":
        path.write_text(cif_text(system, atoms.get_scaled_positions(), Cell(relaxed.structure.cell).cellpar()))
        return
    results = {"energy": float(relaxed.output.energy), "forces": np.asarray(relaxed.output.forces, np.float64)}
    if relaxed.output.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(np.asarray(relaxed.output.stress, np.float64))
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["weights"] = dict(zip(weight_names(system.sites), system.weights.tolist(), strict=True))
    ase.io.write(path, atoms, format="extxyz")


def cif_text(system: System, scaled: np.ndarray, parameters: np.ndarray) -> str:
    """A CIF in P 1 with one row per node, so that every occupancy is kept (ASE rounds them to four digits)."""
    tags = [f"_cell_length_{x}" for x in "abc"] + [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
    lines = ["data_alchemjax"] + [f"{tag} {value:.10f}" for tag, value in zip(tags, parameters, strict=True)]
    lines += ["_symmetry_space_group_name_H-M 'P 1'", "_symmetry_Int_Tables_number 1"]
    lines += ["loop_", "_space_group_symop_operation_xyz", "'x, y, z'", "loop_"]
    lines += [f"_atom_site_{x}" for x in ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")]
    sites, occupancies = system.sites, np.append(system.weights, 1.0)
    for node, site in enumerate(sites.node_site):
        species, place = sites.node_species[node], " ".join(f"{x:.10f}" for x in scaled[site])
        lines.append(f"{species}{site} {species} {place} {occupancies[sites.node_weight[node]]:.10g}")
    return "\n".join(lines) + "\n"


def _results(system: System, relaxed: Relaxed) -> dict:
    out, names = relaxed.output, weight_names(system.sites)
    stress = None if out.stress is None else full_3x3_to_voigt_6_stress(np.asarray(out.stress)) * EV_PER_A3_IN_GPA
    return {
        "converged": relaxed.converged,
        "steps": relaxed.steps,
        "weights": dict(zip(names, system.weights, strict=True)),
        "energy_eV": float(out.energy),
        "energy_per_site_eV": float(out.energy) / len(out.forces),
        "max_force_eV_per_A": _largest_force(relaxed),
        "max_stress_GPa": relaxed.max_stress * EV_PER_A3_IN_GPA,
        "stress_GPa": None if stress is None else dict(zip(STRAINS, stress, strict=True)),
        "volume_A3": volume(relaxed.structure),
        "cell_A": relaxed.structure.cell,
        "positions_A": relaxed.structure.positions,
        "forces_eV_per_A": out.forces,
        "site_energies_eV": out.site_energies,
        "dE_dweight_eV": dict(zip(names, out.weights_gradient, strict=True)),
        "dE_dalpha_eV": None if out.alpha_gradient is None else float(out.alpha_gradient),
    }


def _largest_force(relaxed: Relaxed) -> float:
    """Norm [eV/A] of the largest force, whether positions may move or not."""
    return float(np.linalg.norm(relaxed.output.forces, axis=1).max())


def _summary(title: str, system: System, relaxed: Relaxed, pairs: float | None) -> Table:
    table = Table(title=title, show_edge=False)
    for name in ("", "start", "relaxed"):
        table.add_column(name, justify="left" if not name else "right")
    before, after = Cell(system.structure.cell).cellpar(), Cell(relaxed.structure.cell).cellpar()
    if (space := volume(system.structure)) is not None:
        for name, x, y in zip(("a (A)", "b (A)", "c (A)", "alpha", "beta", "gamma"), before, after, strict=True):
            table.add_row(name, f"{x:.4f}", f"{y:.4f}")
        table.add_row("volume (A^3)", f"{space:.3f}", f"{volume(relaxed.structure):.3f}")
        pressure = -np.trace(np.asarray(relaxed.output.stress)) / 3 * EV_PER_A3_IN_GPA
        table.add_row("pressure (GPa)", "", f"{pressure:.4f}")
    table.add_row("kind of energy", "", energy_kind(system))
    table.add_row("energy (eV)", "", f"{float(relaxed.output.energy):.6f}")
    table.add_row("energy per site (eV)", "", f"{float(relaxed.output.energy) / len(relaxed.output.forces):.6f}")
    if pairs is not None:
        table.add_row("not counted: pairs of sites (eV per site)", "", f"{pairs:+.6f}")
    table.add_row("largest force (eV/A)", "", f"{_largest_force(relaxed):.2g}")
    table.add_row("steps", "", str(relaxed.steps))
    return table
