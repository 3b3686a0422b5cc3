"""The compositions of a sweep: simplex grids and CSV files."""

import csv
import itertools
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float

from alchemjax.system.sites import WEIGHT_TOLERANCE, Sites, flat_weights, weight_names

LARGEST_GRID = 5000  # compositions


def grid(sites: Sites, points: int) -> Float[np.ndarray, "rows weights"]:
    """Every group's simplex with `points` points per edge, and all combinations of the groups.

    A group of one species runs from empty to full. Errors: ValueError for no groups, fewer than two points, too many.
    """
    if not sites.groups:
        raise ValueError("no site is mixed; give --mix SITES=SPECIES,SPECIES or a file with partial occupancies")
    if points < 2:
        raise ValueError(f"--points {points} is too few; give at least 2 points per edge")
    number = math.prod(_simplex_size(len(g.species), points - 1) for g in sites.groups)
    if number > LARGEST_GRID:
        each = ", ".join(f"{g.name}: {'/'.join(g.species)}" for g in sites.groups)
        groups = "1 group" if len(sites.groups) == 1 else f"{len(sites.groups)} groups"
        raise ValueError(
            f"{points} points per edge make {number} compositions of {groups} ({each}), more than "
            f"{LARGEST_GRID}; give fewer --points, or the ones you want with --compositions"
        )
    parts = [_simplex(len(group.species), points - 1) for group in sites.groups]
    return np.array([np.concatenate(row) for row in itertools.product(*parts)])


def _simplex_size(species: int, subdivisions: int) -> int:
    return subdivisions + 1 if species == 1 else math.comb(subdivisions + species - 1, species - 1)


def _simplex(species: int, subdivisions: int) -> np.ndarray:
    """Points of a simplex grid, from the pure first species to the pure last."""
    if species == 1:
        return np.arange(subdivisions + 1)[:, None] / subdivisions
    # bars between stars: the gaps are the counts of the species
    bars = itertools.combinations(range(subdivisions + species - 1), species - 1)
    edges = np.array([(-1, *places, subdivisions + species - 1) for places in bars])
    return (np.diff(edges, axis=1) - 1)[::-1] / subdivisions


def read_compositions(sites: Sites, path: Path) -> Float[np.ndarray, "rows weights"]:
    """Compositions of a CSV file with one column `group:species` for every weight.

    Errors: ValueError naming the line for columns or numbers that do not fit.
    """
    names = weight_names(sites)
    header, lines = csv_lines(path)
    if sorted(header) != sorted(names):
        raise ValueError(
            f"'{path}' has the columns {', '.join(header) or '(none)'}; "
            f"this system takes exactly {', '.join(names) or '(none: no site is mixed)'}; give every one of these "
            "and no other, or name other species in --mix"
        )
    if not lines:
        raise ValueError(f"'{path}' has no compositions; give one line for each below the column names")
    return np.array([_row(sites, where, header, cells) for where, cells in lines])


def csv_lines(path: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Header of a CSV file, and (where it stands, cells) of every line below that is not empty.

    Errors: ValueError for a file that is none.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(map(str.strip, row))]
    except OSError as error:
        raise ValueError(f"'{path}' could not be read: {error.strerror}; give the name of a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{path}' is not a CSV file: {error}") from None
    header = [name.strip() for name in lines[0][1]] if lines else []
    return header, [(f"'{path}', line {number}", cells) for number, cells in lines[1:]]


def csv_numbers(where: str, header: list[str], cells: list[str]) -> dict[str, float]:
    """Numbers of one line by column. Errors: ValueError naming what is none."""
    if len(cells) != len(header):
        raise ValueError(f"{where}: {len(cells)} values for {len(header)} columns")
    values = {}
    for name, text in zip(header, cells, strict=True):
        try:
            values[name] = float(text)
        except ValueError:
            raise ValueError(f"{where}, column {name}: '{text}' is not a number") from None
    return values


def _row(sites: Sites, where: str, header: list[str], cells: list[str]) -> np.ndarray:
    values = csv_numbers(where, header, cells)
    try:
        return flat_weights(sites, [values[name] for name in weight_names(sites)])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def vacancies(sites: Sites, weights: Float[np.ndarray, "rows weights"]) -> list[str]:
    """One line for every group that is not full at all of these compositions."""
    lines, names = [], weight_names(sites)
    for group in sites.groups:
        missing = 1 - weights[:, [names.index(f"{group.name}:{s}") for s in group.species]].sum(1).min()
        if missing > WEIGHT_TOLERANCE * len(group.species):
            up_to = "up to " if len(weights) > 1 else ""
            lines.append(f"group {group.name} ({'/'.join(group.species)}): {up_to}{100 * missing:.4g} % vacant")
    return lines
