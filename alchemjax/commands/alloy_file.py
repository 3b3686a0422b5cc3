"""The Hamiltonian of an alloy as a JSON file that other programs read too."""

import csv
import io
import json
from pathlib import Path

import numpy as np

from alchemjax.commands.columns import plain
from alchemjax.io import write_atomically
from alchemjax.system.structure import Structure
from alchemjax.system.supercell import Supercell
from alchemjax.tasks.alloy import Alloy, single_sites
from alchemjax.tasks.ordering import interactions

FORMAT = 2
UNITS = (
    "energies in eV, lengths in A; E = cells * energy_per_cell + sum of site_energies + 1/2 sum of pairs, which are "
    "listed in both directions; strain: derivatives of these by the engineering strains xx, yy, zz, yz, xz, xy"
)


def write_alloy(path: Path | str, alloy: Alloy, **about) -> None:
    """Write everything of the alloy, and its pair interactions as a list of pairs.

    `pairs`: first and second mixed site, cell of the second, distance [A], energy [eV] of every two states, and its
    derivatives by strain;
    `site_energies`: of every mixed site in every state. Both are those of the infinite crystal, with displacements
    where the alloy has them; the homogeneous strain of a finite box is not in them (`lattice_model` adds it).
    """
    given = interactions(alloy)
    simple = {
        "energy_per_cell": alloy.energy,
        "states": alloy.species,
        "site_energies": single_sites(alloy, relaxed=True),
        "pairs": given._asdict(),
    }
    text = json.dumps(plain({"format": FORMAT, "units": UNITS, **about, **simple, "alloy": _content(alloy)}))
    write_atomically(Path(path), lambda place: place.write_text(text + "\n"))


def read_alloy(path: Path | str) -> Alloy:
    """An alloy that `write_alloy` wrote. Errors: OSError without the file, ValueError for any other."""
    try:
        content = json.loads(Path(path).read_text())
        if content["format"] != FORMAT:
            raise ValueError
        given = content["alloy"]
        arrays = {name: value if value is None else np.array(value) for name, value in given.items()}
        structure = Structure(*(np.array(given["structure"][name]) for name in Structure._fields))
        supercell = Supercell(*(np.array(given["supercell"][name]) for name in Supercell._fields))
        whole = {"structure": structure, "supercell": supercell, "species": tuple(given["species"])}
        return Alloy(**arrays | whole | {name: given[name] for name in ("energy", "softest", "largest_force")})
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"'{path}' holds no alloy of format {FORMAT}; write one with write_alloy") from None


def about_file(path: Path) -> dict:
    """What was written beside the alloy; empty for a file that cannot be read."""
    try:
        return {name: value for name, value in json.loads(path.read_text()).items() if name not in ("alloy", "pairs")}
    except (OSError, ValueError, AttributeError):
        return {}


def _content(alloy: Alloy) -> dict:
    content = alloy._asdict()
    return content | {name: content[name]._asdict() for name in ("structure", "supercell")}


def csv_table(columns: dict) -> str:
    """Numbers with eight digits; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    shown = lambda value: value if isinstance(value, str) else "" if np.isnan(value) else f"{value:.8g}"
    writer.writerows([shown(value) for value in row] for row in zip(*columns.values(), strict=True))
    return text.getvalue()
