"""The Hamiltonian of `alchemjax alloy` in its folder, made in parts that an interruption does not lose."""

import json
from pathlib import Path

import jax
import numpy as np

import alchemjax
from alchemjax.commands.alloy_file import FORMAT, about_file, stored, write_alloy
from alchemjax.commands.columns import plain
from alchemjax.commands.session import bar_of, fingerprint_of, unwritable, warn
from alchemjax.io import write_atomically
from alchemjax.model.load import Potential
from alchemjax.system.structure import Structure
from alchemjax.system.system import System
from alchemjax.tasks.alloy import Alloy, alloy
from alchemjax.tasks.relax import relax

NEW = "hamiltonian.new.json"  # beside earlier results
PAIRS = "hamiltonian.pairs.jsonl"  # of one that is not finished
SAMPLING = "temperatures", "sweeps", "seeds", "seed", "box", "validate"
ARRANGEMENTS = "ground_state.extxyz", "other_order.extxyz"
FILES = ("hamiltonian.json", "interactions.csv", "temperatures.csv", *ARRANGEMENTS, "alloy.json", "alloy.png")


METHOD = 2  # counts changes of numbers that the same input gives


def hamiltonian_fingerprint(potential: Potential, system: System, arguments: dict, supercell) -> str:
    """Hash of all that determines the Hamiltonian."""
    settings = [FORMAT, METHOD, alchemjax.__version__, jax.__version__]
    settings += [potential.name, potential.sha256, potential.dtype]
    settings += [arguments[name] for name in ("relax", "rigid", "exact_pairs")]
    settings += [None if supercell is None else np.asarray(supercell).tolist()]
    settings += [[g.name, g.sites, g.species] for g in system.sites.groups] + [list(system.sites.node_species)]
    return fingerprint_of(settings, (*system.structure, system.weights))


def open_folder(out: Path, fingerprint: str, sampling: str, *, overwrite: bool) -> tuple[Path, dict, Alloy | None]:
    """Where the Hamiltonian is, or goes to, and what is there. Earlier results stay until new ones are complete.

    Errors: ValueError if the folder holds other results, or cannot be written.
    """
    there = [name for name in FILES if (out / name).exists()]
    try:
        about, found = stored(out / FILES[0])
        same = about.get("fingerprint") == fingerprint
        finished = about_file(out / "alloy.json").get("sampling_fingerprint") if "alloy.json" in there else sampling
    except ValueError:  # damaged
        if not overwrite:
            raise
        same = False
    begun, _ = _begun(out / PAIRS)
    strange = (there and not same) or begun.get("fingerprint", fingerprint) != fingerprint
    if strange and not overwrite:
        what = "an alloy" if there and not same else "pairs of an unfinished alloy"
        raise ValueError(
            f"'{out}' holds {what} of other input, options or versions; use another folder, or --overwrite"
        )
    if not overwrite and finished != sampling:
        raise ValueError(
            f"'{out}' holds results of other {', '.join(f'--{name}' for name in SAMPLING)}; use another folder, or "
            "--overwrite, which keeps the Hamiltonian"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None
    if same or not there:
        return out / FILES[0], about, found
    return out / NEW, *stored(out / NEW)


def make_hamiltonian(path: Path, potential: Potential, system: System, arguments: dict, supercell, fingerprint: str):
    """The alloy, which is written to the file, and the system at its relaxed structure."""
    place = path.with_name(PAIRS)
    begun, known = _begun(place)
    if begun.get("fingerprint") == fingerprint:
        left = begun["unrelaxed_eV_per_A"]
        structure = Structure(**{name: np.array(value) for name, value in begun["structure"].items()})
        system = system._replace(structure=structure)
    else:
        left, known = None, {}
        if arguments["relax"]:
            relaxed = relax(potential, system, cell=True, fluctuations="site-exact", supercell=supercell)
            left = None if relaxed.converged else float(relaxed.max_force)
            system = system._replace(structure=relaxed.structure)
        begun = {"fingerprint": fingerprint, "unrelaxed_eV_per_A": left, "structure": system.structure._asdict()}
    warn_of_force(left)
    text = [begun] + [{"pair": number, "found": found} for number, found in known.items()]
    write_atomically(place, lambda path: path.write_text("".join(map(_line, text))))
    on_rows, bar = bar_of("derivatives and pairs")
    with bar, open(place, "a") as file:
        options = {"relaxed": not arguments["rigid"], "exact_pairs": arguments["exact_pairs"]}
        pairs = _Pairs(known, file)
        options |= {"supercell": supercell, "known_pairs": pairs}
        try:
            found = alloy(potential, system, on_rows=on_rows, **options)
        except ValueError:  # there is no such alloy
            if not pairs:
                place.unlink()
            raise
    write_alloy(path, found, fingerprint=fingerprint, unrelaxed_eV_per_A=left)
    place.unlink()
    return found, system


class _Pairs(dict):
    """What was found of pairs by their number, also in a file."""

    def __init__(self, known: dict, file):
        super().__init__(known)
        self.file = file

    def __setitem__(self, number: int, found: tuple) -> None:
        super().__setitem__(number, found)
        self.file.write(_line({"pair": number, "found": found}))
        self.file.flush()


def _line(content: dict) -> str:
    return json.dumps(plain(content)) + "\n"


def _begun(place: Path) -> tuple[dict, dict[int, tuple]]:
    """What the file is of, and its pairs up to a line that is cut short or damaged; nothing without the file."""
    about, known = {}, {}
    for line in place.read_text(errors="replace").splitlines() if place.exists() else ():
        try:
            content = json.loads(line)
            if not about:
                structure = [np.array(content["structure"][name]).shape for name in Structure._fields]
                if structure[1:] != [(3, 3), (3,)] or not {"fingerprint", "unrelaxed_eV_per_A"} <= set(content):
                    break
                about = content
            else:
                *numbers, calm = content["found"]
                numbers = [np.array(value, float) for value in numbers]  # NaN is null
                if [value.ndim for value in numbers] != [0, 0, 2, 4]:
                    break
                known[int(content["pair"])] = *numbers, bool(calm)
        except (ValueError, TypeError, KeyError):
            break
    return about, known


def warn_of_force(left: float | None) -> None:
    """Say what a relaxation that did not converge has left [eV/A]."""
    if left is not None:
        warn(f"the random alloy did not relax ({left:.2g} eV/A are left); look at its structure")
