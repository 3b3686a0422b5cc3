"""alchemjax info: what a file contains and how its weights are laid out."""

import warnings
from collections import Counter

import numpy as np
from ase.cell import Cell
from ase.data import atomic_numbers
from rich.console import Console
from rich.table import Table

from alchemjax.calculate import SEPARATION, calculate, with_fluctuations
from alchemjax.commands.options import parse_mix, parse_weights
from alchemjax.commands.session import prepare_jax, read_system
from alchemjax.io import load
from alchemjax.model.load import Potential
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import weight_names
from alchemjax.system.structure import volume
from alchemjax.system.system import System, checked_weights

SEPARATIONS = (1.0, 1.5, SEPARATION, 2.5, 3.0)  # of images, in units of the cutoff
MOST_SITES = 40  # lines of the table of sites


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli.info`."""
    given = arguments["weights"]
    mix, groups = parse_mix(arguments["mix"]), arguments["groups"]
    system = read_system(arguments["file"], mix, groups, "independent", needs_weights=given is None)
    system = system._replace(weights=checked_weights(system, parse_weights(system.sites, given)))
    if arguments["convergence"] and not system.sites.groups:
        raise ValueError("--convergence needs mixed sites: a file with partial occupancies, or --mix and --weights")
    potential = load(arguments["model"], head=arguments["head"], modality=arguments["modality"])
    facts = Table(show_header=False, show_edge=False, box=None)
    for name, text in _facts(system, potential):
        facts.add_row(name, text)
    console = Console(highlight=False, markup=False)
    console.print(
        facts, "", _sites(system), "", _groups(system) if system.sites.groups else "no site is mixed: no weights"
    )
    if arguments["convergence"]:
        prepare_jax()
        console.print("", _convergence(potential, system))


def _convergence(potential: Potential, system: System) -> Table:
    """Energy of the random alloy against the size of the supercell."""
    table = Table(title="random alloy minus mean field, site-exact", show_edge=False)
    for name in ("images apart [A]", "sites", "supercell", "meV/site"):
        table.add_column(name, justify="right")
    mean, before = calculate(potential, system).energy, 0
    for factor in SEPARATIONS:
        distance = factor * potential.cutoff
        chosen = with_fluctuations(potential, system, "site-exact", distance).fluctuations
        assert chosen is not None
        matrix, sites = chosen.supercell.matrix, len(chosen.supercell.origin)
        if sites == before:
            continue
        energy = calculate(potential, system, fluctuations="site-exact", supercell=matrix).energy
        change = 1000 * float(energy - mean) / len(system.structure.positions)
        used = " (default)" if factor == SEPARATION else ""
        rows = ", ".join(" ".join(map(str, row)) for row in matrix.tolist())
        table.add_row(f"{distance:.1f}{used}", str(sites), rows, f"{change:.3f}")
        before = sites
    return table


def _occupations(system: System) -> list[dict[str, float]]:
    """{species: weight} of every site."""
    weights, sites = np.append(system.weights, 1.0), system.sites
    holds: list[dict[str, float]] = [{} for _ in system.structure.positions]
    for site, species, weight in zip(sites.node_site, sites.node_species, sites.node_weight, strict=True):
        holds[site][species] = float(weights[weight])
    return holds


def _facts(system: System, potential: Potential) -> list[tuple[str, str]]:
    structure, space = system.structure, volume(system.structure)
    amounts: Counter = Counter()
    for held in _occupations(system):
        amounts.update(held)
    formula = " ".join(f"{s}{x:.6g}" if abs(x - 1) > 1e-9 else s for s, x in amounts.items() if x > 0)
    *lengths, alpha, beta, gamma = Cell(structure.cell).cellpar()
    cell = f"{' '.join(f'{x:.4f}' for x in lengths)} A, {alpha:.2f} {beta:.2f} {gamma:.2f} deg"
    missing = sorted({s for s in system.sites.node_species if s not in potential.species})
    pairs = len(find_pairs(structure, potential.cutoff).receiver)
    return [
        ("formula", formula),
        ("sites", f"{len(structure.positions)}, {sum(len(g.sites) for g in system.sites.groups)} of them mixed"),
        ("cell", "none" if space is None else cell),
        ("volume", "none" if space is None else f"{space:.3f} A^3"),
        ("periodic", " ".join(x if p else "-" for x, p in zip("abc", structure.pbc, strict=True))),
        ("space group", _space_group(system)),
        ("model", f"{potential.name}, cutoff {potential.cutoff:g} A, {len(potential.species)} elements"),
        ("neighbours", f"{pairs} directed pairs within the cutoff, {pairs / len(structure.positions):.1f} per site"),
        ("not in the model", ", ".join(missing) or "nothing: every element is known"),
    ]


def _space_group(system: System) -> str:
    """Sites of one composition count as one kind."""
    if not system.structure.pbc.all():
        return "not periodic in three directions"
    import spglib

    kinds: dict[tuple, int] = {}
    holds = [tuple(sorted((s, round(x, 6)) for s, x in held.items() if x > 0)) for held in _occupations(system)]
    numbers = [kinds.setdefault(held, len(kinds) + 1) for held in holds]
    structure = system.structure
    scaled = structure.positions @ np.linalg.inv(structure.cell)
    try:
        with warnings.catch_warnings(action="ignore"):
            found = spglib.get_spacegroup((structure.cell.tolist(), scaled.tolist(), numbers), symprec=1e-3)
    except Exception:  # older versions return None, newer ones raise errors of their own
        found = None
    return f"{found}, tolerance 0.001 A" if found else "not found"


def _sites(system: System) -> Table:
    table = Table(title="sites", show_edge=False)
    for name in ("site", "x [A]", "y [A]", "z [A]", "occupied by", "group"):
        table.add_column(name, justify="left" if name in ("occupied by", "group") else "right")
    owner = {site: group.name for group in system.sites.groups for site in group.sites}
    holds = _occupations(system)
    for site, at in enumerate(system.structure.positions[:MOST_SITES]):
        held = ", ".join(s if x == 1 and len(holds[site]) == 1 else f"{s} {x:.4g}" for s, x in holds[site].items())
        table.add_row(str(site), *(f"{x:.4f}" for x in at), held, owner.get(site, ""))
    if (more := len(holds) - MOST_SITES) > 0:
        table.add_row("", "", "", "", f"... and {more} more sites", "")
    return table


def _groups(system: System) -> Table:
    table = Table(title="weights, in this order", show_edge=False)
    for name in ("number", "name", "now", "Z", "sites of the group"):
        table.add_column(name, justify="left" if name in ("name", "sites of the group") else "right")
    names, start = weight_names(system.sites), 0
    for group in system.sites.groups:
        for species in group.species:
            sites = ", ".join(map(str, group.sites[:12])) + (", ..." if len(group.sites) > 12 else "")
            weight = f"{system.weights[start]:.6g}"
            table.add_row(str(start), names[start], weight, str(atomic_numbers[species]), sites)
            start += 1
    return table
