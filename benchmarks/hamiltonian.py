"""The alchemical Hamiltonian against explicit arrangements: energies on ideal sites, and with atoms and cell relaxed.

    python benchmarks/hamiltonian.py [--arrangements 8] [--json results.json] [--all] [SYSTEM ...]

Each system at its middle composition (with --all at all those of random_alloys.py): the cell of the random alloy is
relaxed, the Hamiltonian is made there, and random arrangements and the predicted ground state are evaluated and
relaxed. Mean error (with its standard error) and root mean square error of random arrangements, and the error of the
ground state, in meV per atom; the mean error of relaxed lattice constants in per cent; seconds of the Hamiltonian,
compilation included. SevenNet-0 in float32. Rows that the JSON file has already are not calculated again.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
from ase.build import bulk
from random_alloys import SYSTEMS
from side_by_side import use_two_cores

import alchemjax as aj

PRIMITIVE = {"rocksalt": ("MgO-CaO", "NaCl-KCl", "(Li,Na,K)Cl"), "fluorite": ("CeO2-ZrO2",)}


def primitive(name):
    """The primitive cell of a system of random_alloys.py."""
    unit = SYSTEMS[name][0]
    structure = next((kind for kind, names in PRIMITIVE.items() if name in names), "fcc")
    formula = unit.symbols[0] if structure == "fcc" else unit.get_chemical_formula(empirical=True)
    return bulk(formula, structure, unit.cell[0, 0])


def row_of(potential, name, weights, arrangements, *, exact_pairs):
    atoms, mix = primitive(name), SYSTEMS[name][1]
    system = aj.from_atoms(atoms, mix=mix, weights=weights)
    relaxed = aj.relax(potential, system, cell=True, fluctuations="site-exact")
    assert relaxed.converged
    system = system._replace(structure=relaxed.structure)
    started = time.perf_counter()
    row = {}
    try:
        alloy = aj.alloy(potential, system, exact_pairs=exact_pairs)
    except ValueError as error:  # unstable: atoms stay on their sites
        row["note"] = str(error)
        alloy = aj.alloy(potential, system, relaxed=False)
    row["seconds"] = time.perf_counter() - started
    row["supercell"] = len(alloy.supercell.origin)
    row["random"] = [(aj.random_energy(alloy, relaxed=r) - alloy.energy) / len(atoms) for r in (False, True)]
    found = aj.validate(potential, system, alloy, random=arrangements)
    drawn, ordered = (np.array([k == kind for k in found.kinds]) for kind in ("random", "ground state"))
    for kind, energies, predicted in (
        ("rigid", found.rigid, found.predicted_rigid),
        ("relaxed", found.relaxed, found.predicted_relaxed),
    ):
        error = 1000 * (predicted - energies)
        row[f"{kind} spread"] = 1000 * energies[drawn].std()
        row[f"{kind} mean error"] = error[drawn].mean()
        row[f"{kind} standard error"] = error[drawn].std(ddof=1) / drawn.sum() ** 0.5
        row[f"{kind} rms error"] = float(np.sqrt((error[drawn] ** 2).mean()))
        row[f"{kind} ground state"] = 1000 * (energies[ordered][0] - energies[drawn].mean())
        row[f"{kind} ground state error"] = error[ordered][0]
    row["lattice error"] = 100 * float((np.cbrt(found.predicted_volume / found.volume) - 1)[drawn].mean())
    row["message"], row["converged"] = found.message, bool(found.converged.all())
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="*", default=list(SYSTEMS), metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--arrangements", type=int, default=8)
    parser.add_argument("--all", action="store_true", help="three compositions of each system")
    parser.add_argument("--second-order", action="store_true", help="second derivatives alone, no pairs to all orders")
    parser.add_argument("--json")
    given = parser.parse_args()
    use_two_cores()
    potential, file = aj.load("sevennet-0"), Path(given.json) if given.json else None
    rows = json.loads(file.read_text()) if file and file.exists() else []
    print(
        "| system | x | ideal sites: mean, s.e. | rms | ground state "
        "| relaxed: mean, s.e. | rms | ground state | a (%) | s |"
    )
    print("|" + "---|" * 10)
    for name in given.systems:
        compositions = list(SYSTEMS[name][3])
        middle = 1 if len(compositions[0]) == 2 else 0
        for weights in compositions if given.all else compositions[middle : middle + 1]:
            key = {"system": name, "weights": list(weights), "arrangements": given.arrangements}
            key["exact_pairs"] = not given.second_order
            row = next((row for row in rows if key.items() <= row.items()), None)
            if row is None:
                row = key | row_of(potential, name, weights, given.arrangements, exact_pairs=key["exact_pairs"])
                rows.append(row)
                jax.clear_caches()  # memory maps run out after some ten rows
            cells = [name, " ".join(f"{w:.3g}" for w in weights)]
            for kind in ("rigid", "relaxed"):
                cells += ["{:+.1f}, {:.1f}".format(*(row[f"{kind} {what} error"] for what in ("mean", "standard")))]
                cells += [f"{row[f'{kind} rms error']:.1f}", f"{row[f'{kind} ground state error']:+.1f}"]
            print(
                "| " + " | ".join([*cells, f"{row['lattice error']:+.2f}", f"{row['seconds']:.0f}"]) + " |", flush=True
            )
            if file:
                file.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
