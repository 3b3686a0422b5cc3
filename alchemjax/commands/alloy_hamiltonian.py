"""The Hamiltonian of `alchemjax alloy` in its folder, made in parts that an interruption does not lose."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

import alchemjax
from alchemjax.commands.alloy_file import FORMAT, about_file, stored, write_alloy
from alchemjax.commands.columns import plain
from alchemjax.commands.session import fingerprint_of, progress_bar, unwritable, warn
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


def hamiltonian_fingerprint(potential: Potential, system: System, arguments: dict, supercell) -> str:
    """Hash of all that determines the Hamiltonian."""
    settings = [FORMAT, alchemjax.__version__, jax.__version__, potential.name, potential.sha256, potential.dtype]
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
    begun = _lines_of(out / PAIRS)[:1]
    strange = (there and not same) or (begun and begun[0].get("fingerprint") != fingerprint)
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
    begun, *lines = _lines_of(place) or [{}]
    if begun.get("fingerprint") == fingerprint:
        left, known = begun["unrelaxed_eV_per_A"], {line["pair"]: _found(line["found"]) for line in lines}
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
        options |= {"supercell": supercell, "known_pairs": _Pairs(known, file)}
        try:
            found = alloy(potential, system, on_rows=on_rows, **options)
        except ValueError:  # there is no such alloy
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


def _found(values: list) -> tuple:
    *numbers, calm = values
    return (*(np.array(value, float) for value in numbers), calm)  # NaN is null


def _line(content: dict) -> str:
    return json.dumps(plain(content)) + "\n"


def _lines_of(place: Path) -> list[dict]:
    """The lines of the file up to one that was cut short; none without the file."""
    found = []
    for line in place.read_text().splitlines() if place.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def bar_of(what: str) -> tuple[Callable[[int, int], None], Progress]:
    """What is to be told of numbers done and all, and the bar that shows them."""
    bar = progress_bar(MofNCompleteColumn(), TimeElapsedColumn())
    task = bar.add_task(what, total=None)
    return (lambda done, number: bar.update(task, completed=done, total=number)), bar


def warn_of_force(left: float | None) -> None:
    """Say what a relaxation that did not converge has left [eV/A]."""
    if left is not None:
        warn(f"the random alloy did not relax ({left:.2g} eV/A are left); look at its structure")
