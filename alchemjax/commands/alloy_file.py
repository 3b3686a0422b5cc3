"""The Hamiltonian of an alloy as a JSON file that other programs read too."""

import csv
import io
import json
from pathlib import Path
from typing import get_type_hints

import numpy as np
from jaxtyping import jaxtyped

from alchemjax.commands.columns import plain
from alchemjax.io import write_atomically
from alchemjax.system.structure import Structure
from alchemjax.system.supercell import Supercell
from alchemjax.tasks.alloy import Alloy, site_energies, strain_forces
from alchemjax.tasks.ordering import interactions

FORMAT = 5
AGAIN = "delete it and make it again, on the command line with --overwrite"
UNITS = (
    "energies in eV, lengths in A; E = cells * energy_per_cell + sum of site_energies + 1/2 sum of pairs, which are "
    "listed in both directions; strain: derivatives of these by the engineering strains xx, yy, zz, yz, xz, xy, then "
    "by two of them, xx xx, xx yy, .. xy xy, beyond those at the mean composition"
)


def write_alloy(path: Path | str, alloy: Alloy, **about) -> None:
    """Write everything of the alloy, and its pair interactions as a list of pairs.

    `pairs`: first and second mixed site, cell of the second, distance [A], energy [eV] of every two states, and its
    derivatives by strain;
    `site_energies` and `site_strain`, its derivatives by strain: of every mixed site in every state. All are those of
    the infinite crystal, with displacements where the alloy has them; the homogeneous strain of a finite box is not in
    them (`lattice_model` adds it).
    """
    given = interactions(alloy)
    simple = {
        "energy_per_cell": alloy.energy,
        "states": alloy.species,
        "site_energies": site_energies(alloy, relaxed=True),
        "site_strain": strain_forces(alloy)[0],
        "pairs": given._asdict(),
    }
    text = json.dumps(plain({"format": FORMAT, "units": UNITS, **about, **simple, "alloy": _content(alloy)}))
    write_atomically(Path(path), lambda place: place.write_text(text + "\n"))


def read_alloy(path: Path | str) -> Alloy:
    """An alloy that `write_alloy` wrote. Errors: OSError without the file, ValueError for any other."""
    content = _content_of(Path(path))
    if content.get("format") != FORMAT:
        raise ValueError(f"'{path}' holds no alloy of format {FORMAT}; {AGAIN}")
    return _alloy_of(path, content)


def about_file(path: Path) -> dict:
    """What was written beside the alloy; nothing without the file. Errors: ValueError for a damaged one."""
    return stored(path)[0]


def stored(path: Path) -> tuple[dict, Alloy | None]:
    """What was written beside the alloy, and the alloy if it is of this format; nothing without the file.

    Errors: ValueError for a damaged one.
    """
    if not path.exists():
        return {}, None
    content = _content_of(path)
    alloy = _alloy_of(path, content) if content.get("format") == FORMAT else None
    return {name: value for name, value in content.items() if name not in ("alloy", "pairs")}, alloy


def _content_of(path: Path) -> dict:
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder; give the file of the alloy in it, like '{path / 'hamiltonian.json'}'")
    try:
        content = json.loads(path.read_text())
    except ValueError:
        raise _damaged(path, "it is empty, cut short or no JSON") from None
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no alloy")
    return content


def _alloy_of(path: Path | str, content: dict) -> Alloy:
    try:
        given = Alloy._field_defaults | content["alloy"]
        fields = {name: given[name] for name in Alloy._fields}
        for name, kind in (("structure", Structure), ("supercell", Supercell)):
            fields[name] = kind(*(np.array(given[name][part]) for part in kind._fields))
        fields |= {name: np.array(value) for name, value in fields.items() if isinstance(value, list)}
        alloy = Alloy(**fields | {"species": tuple(given["species"])})
    except KeyError as error:
        raise _damaged(path, f"it lacks {error.args[0]}") from None
    except (ValueError, TypeError):
        raise _damaged(path, "its alloy is not understood") from None
    with jaxtyped("context"):  # a name is one size in all three
        for part in (alloy.structure, alloy.supercell, alloy):
            for name, form in get_type_hints(type(part)).items():
                value = getattr(part, name)
                if name != "species" and not isinstance(value, float | int if form is float else form):
                    raise _damaged(path, f"its {name}, of shape {np.shape(value)}, does not fit the rest")
    sizes = len(alloy.species), len(alloy.structure.positions) * alloy.pair.shape[1]
    if sizes != (alloy.weights.shape[1], len(alloy.supercell.origin)):
        raise _damaged(path, "its numbers of species, sites and cells do not fit together")
    return alloy


def _damaged(path: Path | str, why: str) -> ValueError:
    return ValueError(f"'{path}' is damaged: {why}; {AGAIN}")


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
