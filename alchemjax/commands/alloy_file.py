"""The Hamiltonian of an alloy as a JSON file that other programs read too."""

import json
from pathlib import Path

import numpy as np

from alchemjax.commands.columns import plain
from alchemjax.io import write_atomically
from alchemjax.system.structure import Structure
from alchemjax.system.supercell import Supercell
from alchemjax.tasks.alloy import Alloy
from alchemjax.tasks.ordering import interactions

FORMAT = 1
UNITS = (
    "energies in eV, lengths in A; occupations d = p - w, E = energy + sum field + 1/2 sum pair over both directions"
)


def write_alloy(path: Path | str, alloy: Alloy, **about) -> None:
    """Write everything of the alloy, and its pair interactions as a list of pairs.

    `pairs`: first and second mixed site, cell of the second, distance [A], energy [eV] of every two states.
    """
    given = interactions(alloy)
    pairs = given._asdict() | {"states": alloy.species}
    text = json.dumps(plain({"format": FORMAT, "units": UNITS, **about, "pairs": pairs, "alloy": _content(alloy)}))
    write_atomically(Path(path), lambda place: place.write_text(text + "\n"))


def read_alloy(path: Path | str) -> Alloy:
    """An alloy that `write_alloy` wrote. Errors: ValueError for any other file."""
    try:
        content = json.loads(Path(path).read_text())
        if content["format"] != FORMAT:
            raise ValueError
        given = content["alloy"]
        arrays = {name: value if value is None else np.array(value) for name, value in given.items()}
        structure = Structure(*(np.array(given["structure"][name]) for name in Structure._fields))
        supercell = Supercell(*(np.array(given["supercell"][name]) for name in Supercell._fields))
        whole = {"structure": structure, "supercell": supercell, "species": tuple(given["species"])}
        return Alloy(**arrays | whole | {name: given[name] for name in ("energy", "softest")})
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
