"""alchemjax against the original programs on a dozen structures, in double precision.

    python benchmarks/parity.py [--mace PYTHON] [--sevenn PYTHON] [--nequix PYTHON] [--files FILE ...] [--json OUT]

Each PYTHON is that of an environment with the program: mace-torch (0.3.4 to 0.3.16), sevenn 0.13.0, nequix 0.4.5.
mace makes models with random weights here, in the shapes of published ones (parity_mace_models.py), and models that
must be refused; sevenn brings its checkpoints; FILE is a .model, .nqx or .pth file of yours. Exit status 1 if one
differs by more than the tolerances.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.data import chemical_symbols, covalent_radii
from ase.spacegroup import crystal

import alchemjax as aj
from alchemjax.calculate import compiled_derivatives, precision
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import make_sites
from alchemjax.system.structure import make_structure
from alchemjax.system.topology import make_topology

ORIGINALS = Path(__file__).with_name("parity_originals.py")
TOLERANCES = (1e-9, 1e-8, 1e-9)  # eV/atom, eV/A, eV/A^3
# forces of squeezed nuclei are thousands of eV/A: round-off is relative to the largest number of a structure
RELATIVE = 1e-13
WIDTH = 32  # edges in one row of the graph
ENDINGS = {".model": "mace", ".nqx": "nequix", ".pth": "sevenn"}
ALCHEMJAX = (sys.executable, "-c", "from alchemjax.cli import main; main()")
FAMILIES = {"mace": "mace", "sevenn": "sevennet", "nequix": "nequix"}


# --- structures -------------------------------------------------------------------------------------------------------


def structures(species: list[str]) -> dict[str, Atoms]:
    """A dozen structures of a model's own elements, sized by covalent radii (at least 0.9 A), most of them rattled."""
    turn = iter(range(10**6))

    def elements(count: int) -> tuple[list[str], list[float]]:
        chosen = [species[(7 * next(turn)) % len(species)] for _ in range(count)]
        return chosen, [max(0.9, covalent_radii[chemical_symbols.index(s)]) for s in chosen]

    (a,), (r,) = elements(1)
    found = {"fcc": bulk(a, "fcc", 2.9 * r, cubic=True)}
    (a,), (r,) = elements(1)
    found["bcc, 16 atoms"] = bulk(a, "bcc", 2.4 * r, cubic=True) * 2
    (a, b), (r, s) = elements(2)
    found["rock salt"] = bulk(a + b, "rocksalt", 2.1 * (r + s), cubic=True)
    (a, b, c), (r, s, t) = elements(3)
    found["perovskite"] = Atoms(
        [a, b, c, c, c],
        scaled_positions=[(0.5, 0.5, 0.5), (0, 0, 0), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)],
        cell=[2.1 * (s + t)] * 3,
        pbc=True,
    )
    (a, b), (r, s) = elements(2)
    found["wurtzite"] = bulk(a + b, "wurtzite", 1.65 * (r + s), c=2.7 * (r + s))
    (a, b), (r, s) = elements(2)
    found["zinc blende, primitive"] = bulk(a + b, "zincblende", 2.35 * (r + s))
    (a, b), (r, s) = elements(2)
    found["rutile"] = crystal(
        [a, b],
        [(0, 0, 0), (0.3, 0.3, 0)],
        spacegroup=136,
        cellpar=[2.3 * (r + s), 2.3 * (r + s), 1.6 * (r + s)] + [90] * 3,
    )
    (a, b), (r, s) = elements(2)
    found["molecule, open"] = molecule("CH3OH")
    found["molecule, open"].set_chemical_symbols([a if x in "CO" else b for x in found["molecule, open"].symbols])
    found["molecule, open"].positions *= (r + s) / 1.1
    (a, b), (r, s) = elements(2)
    found["slab, TTF"] = fcc111(a, (2, 2, 2), a=2.9 * r, vacuum=6.0)
    found["slab, TTF"].append(b)
    found["slab, TTF"].positions[-1] = found["slab, TTF"].positions[-2] + (0.3, 0.2, 1.1 * (r + s))
    found["slab, TTF"].pbc = (True, True, False)
    for number, atoms in enumerate(found.values()):
        atoms.rattle(0.07, seed=number)
    (a,), (r,) = elements(1)
    found["tiny cell, self-images"] = Atoms([a], cell=np.diag([1.9, 2.1, 2.4]) * r + 0.1, pbc=True)
    (a, b, c), (r, s, t) = elements(3)
    cell = np.array([[0.3, 4.1, 0.2], [4.4, 0.4, -0.7], [0.9, 1.1, 4.9]])
    assert np.linalg.det(cell) < 0
    places = [(0.02, 0.05, 0.01), (0.43, 0.55, 0.09), (0.58, 0.03, 0.52)]
    found["triclinic, left-handed"] = Atoms([a, b, c], scaled_positions=places, cell=cell * (r + s + t) / 4, pbc=True)
    (a, b), (r, s) = elements(2)
    found["short distance"] = Atoms(
        [a, b, a],
        positions=[(0, 0, 0), (0.45 * (r + s), 0.1, 0), (0.2, 1.3 * (r + s), 0.3)],
        cell=[9, 10, 11],
        pbc=True,
    )
    (a,), _ = elements(1)
    found["isolated atom"] = Atoms([a], positions=[(0.1, 0.2, 0.3)])
    return found


# --- both sides -------------------------------------------------------------------------------------------------------


def command(arguments: list) -> subprocess.CompletedProcess:
    return subprocess.run([str(a) for a in arguments], stdout=subprocess.PIPE, text=True)


def original(python: str, *arguments) -> str:
    """What the original's side prints; the end of this program if it fails."""
    run = command([python, ORIGINALS, *arguments])
    if run.returncode:
        sys.exit(f"{python} failed at {' '.join(map(str, arguments))}")
    return run.stdout


def converted(program: str, file: Path, out: Path) -> list[Path]:
    """Folders of the models in a file, converted by the command line."""
    run = command([*ALCHEMJAX, "convert", FAMILIES[program], file, "-o", out, "--overwrite"])
    if run.returncode:
        sys.exit(f"{file} was not converted")
    return sorted(path.parent for path in out.rglob("config.json"))


def choices(architecture: dict) -> list[tuple[dict, str | None]]:
    """Arguments of `alchemjax.load` for every head or modality, and how the original names it."""
    heads, modalities = architecture.get("heads") or [], architecture.get("modalities") or []
    if len(heads) > 1:
        return [({"head": name}, name) for name in heads]
    return [({"modality": name}, name) for name in modalities] or [({}, None)]


def job_of(file: Path, choice: str | None, atoms: dict[str, Atoms]) -> dict:
    """What the original is to compute, as JSON."""
    listed = [
        {name: getattr(a, name).tolist() for name in ("numbers", "positions", "cell", "pbc")} for a in atoms.values()
    ]
    return {"file": str(file), "choice": choice, "structures": listed}


class Ours:
    """One potential; all structures are filled up to one shape with atoms that see nobody, and so compiled once."""

    def __init__(self, potential, atoms: list[Atoms]):
        self.potential, self.sites = potential, max(map(len, atoms)) + 1
        self.structures = [make_structure(a.positions, a.cell.array, a.pbc) for a in atoms]
        self.pairs = [find_pairs(structure, potential.cutoff) for structure in self.structures]
        self.symbols = [a.get_chemical_symbols() for a in atoms]
        self.rows = max(sum(-(-np.bincount(p.receiver, minlength=1) // WIDTH)) for p in self.pairs)

    def evaluate(self, number: int):
        """Energy, forces, virial of one of the structures."""
        potential, structure = self.potential, self.structures[number]
        symbols, count = self.symbols[number], len(self.symbols[number])
        layout = make_sites([*symbols, *[potential.species[-1]] * (self.sites - count)])
        rows = {s: potential.species.index(s) for s in set(layout.node_species)}
        shapes = [(int(self.rows), WIDTH)]
        topology = make_topology(
            layout, self.pairs[number], rows, "independent", per_node=potential.per_node, shapes=shapes
        )
        positions = np.zeros((self.sites, 3))
        positions[:count] = structure.positions
        with precision(potential):
            out = compiled_derivatives(potential.node_energies, potential.config)(
                potential.params, topology, positions, np.array(structure.cell), np.zeros(0), np.zeros(())
            )
        return np.asarray(out.site_energies)[:count].sum(), -np.asarray(out.positions)[:count], np.asarray(out.strain)


def differences(ours: tuple, theirs: list, atoms: Atoms) -> np.ndarray:
    """|dE| per atom [eV], largest |dF| [eV/A] and |dstress| [eV/A^3]; by how much of the tolerance, at most; |F|."""
    (energy, forces, virial), count = ours, len(atoms)
    found = [abs(energy - theirs[0]) / count, abs(forces - np.array(theirs[1])).max(), 0.0]
    largest = [abs(energy) / count, abs(forces).max(), 0.0]
    if theirs[2] is not None:
        volume = abs(np.linalg.det(atoms.cell)) or 1.0
        found[2], largest[2] = abs(virial - np.array(theirs[2])).max() / volume, abs(virial).max() / volume
    allowed = np.maximum(TOLERANCES, RELATIVE * np.array(largest))
    return np.array([*found, (found / allowed).max(), largest[1]])


def by_sum(folder: Path, sha256: str) -> Path:
    """The checkpoint in a folder that has this sum; several have one name."""
    return next(p for p in folder.rglob("*.pth") if hashlib.sha256(p.read_bytes()).hexdigest() == sha256)


def compare(program: str, python: str, files: list[Path], scratch: Path) -> list[dict]:
    """One row per model and head."""
    rows, pipe = [], subprocess.PIPE
    with subprocess.Popen([python, ORIGINALS, program], stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        for number, file in enumerate(files):
            for folder in converted(program, file, scratch / f"{program}{number}"):
                config = json.loads((folder / "config.json").read_text())
                for arguments, choice in choices(config["architecture"]):
                    atoms = structures(config["species"])
                    if program == "nequix":
                        del atoms["slab, TTF"]  # of a partly open cell it sees no periodic images
                    source = file if file.is_file() else by_sum(file, config["source"]["sha256"])
                    process.stdin.write(json.dumps(job_of(source, choice, atoms)) + "\n")
                    theirs = json.loads(process.stdout.readline() or "null")
                    rows.append(row_of(program, folder, arguments, config["dtype"], atoms, theirs))
                    compiled_derivatives.cache_clear()
                    jax.clear_caches()  # a process cannot hold the programs of all models
        process.stdin.close()
    return rows


def row_of(program: str, folder: Path, arguments: dict, dtype: str, atoms: dict[str, Atoms], theirs: list) -> dict:
    """The worst differences of one model."""
    if theirs is None:
        sys.exit(f"{program} failed at {folder.name}")
    potential = aj.load(folder, "float64", **arguments)
    ours = Ours(potential, list(atoms.values()))
    each = [differences(ours.evaluate(n), theirs[n], a) for n, a in enumerate(atoms.values())]
    worst = np.max(each, axis=0)
    row = {"program": program, "model": potential.name, "dtype": dtype, "structures": len(atoms)}
    row |= dict(zip(("energy", "forces", "stress", "of_tolerance", "largest_force"), worst.tolist(), strict=True))
    row["worst_at"] = list(atoms)[int(np.argmax(each, axis=0)[3])]
    numbers = " | ".join(f"{row[name]:.0e}" for name in ("energy", "forces", "stress", "largest_force"))
    verdict = "" if agrees(row) else f" above the tolerance: {row['worst_at']}"
    print(f"| {program} | {potential.name} | {dtype} | {numbers} |{verdict}", flush=True)
    return row


def agrees(row: dict) -> bool:
    return row["of_tolerance"] <= 1  # not so for a nan


def refusals(folder: Path, scratch: Path) -> list[str]:
    """Complaints about models that are not refused by name, in one sentence."""
    from parity_mace_models import REFUSED

    wrong = []
    for name, (_, words) in REFUSED.items():
        path = folder / f"{name}.model"
        if not path.exists():
            continue
        arguments = [*ALCHEMJAX, "convert", "mace", path, "-o", scratch / "refused"]
        run = subprocess.run(list(map(str, arguments)), capture_output=True, text=True)
        print(f"refused: {name}: {run.stderr.strip()}", flush=True)
        if run.returncode != 2 or words not in run.stderr or len(run.stderr.splitlines()) != 1 or run.stdout:
            wrong.append(name)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for program in FAMILIES:
        parser.add_argument(f"--{program}", metavar="PYTHON", help=f"python of an environment with {program}")
    parser.add_argument("--files", nargs="*", type=Path, default=[], help=".model, .nqx and .pth files")
    parser.add_argument("--only-files", action="store_true", help="no models but those of --files")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from parity_mace_models import MODELS

    rows, wrong, versions = [], [], {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        print(
            "| program | model | file | dE/atom [eV] | dF [eV/A] | dstress [eV/A^3] | largest F |\n" + "|---" * 7 + "|"
        )
        for program in FAMILIES:
            if not (python := getattr(args, program)):
                continue
            versions[program] = json.loads(original(python, "versions"))
            files = [file for file in args.files if ENDINGS.get(file.suffix) == program]
            if program == "sevenn" and not args.only_files:
                files.insert(0, Path(original(python, "sevenn-folder").strip()))
            if program == "mace" and not args.only_files:
                made = scratch / "made"
                made.mkdir()
                original(python, "make-mace", made)
                files += [path for n in MODELS if (path := made / f"{n}.model").exists()]
                wrong = refusals(made, scratch)
            rows += compare(program, python, files, scratch)
    above = [f"{row['model']} ({row['program']})" for row in rows if not agrees(row)]
    if args.json:
        report = {"versions": versions, "tolerances": TOLERANCES, "rows": rows, "wrongly_refused": wrong}
        args.json.write_text(json.dumps(report, indent=1))
    if above or wrong or not rows:
        sys.exit(f"above the tolerances: {above}; not refused by name: {wrong}; {len(rows)} compared")


if __name__ == "__main__":
    main()
