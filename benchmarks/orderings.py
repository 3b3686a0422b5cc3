"""Orderings found by gradient (`aj.order`) against the energies of all arrangements, on ideal sites; SevenNet-0.

    python benchmarks/orderings.py [--json results.json] [SYSTEM ...]

Eight sites share two species: face-centred alloys, a rock salt, and the B sites of double perovskites A2BB'O6. What is
found is the lowest of all if nothing is below it.
"""

import argparse
import json
from itertools import combinations

import numpy as np
from ase import Atoms
from ase.build import bulk
from side_by_side import use_two_cores

import alchemjax as aj


def perovskite(a_site: str, b_site: str, a: float) -> Atoms:
    scaled = [[0.5] * 3, [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    return Atoms([a_site, b_site, "O", "O", "O"], scaled_positions=scaled, cell=[a] * 3, pbc=True) * (2, 2, 2)


SYSTEMS = {  # atoms, species that are mixed, how many of the second on eight sites
    "CuAu": (bulk("Cu", "fcc", 3.96, cubic=True) * (2, 1, 1), ("Cu", "Au"), 4),
    "Cu3Au": (bulk("Cu", "fcc", 3.80, cubic=True) * (2, 1, 1), ("Cu", "Au"), 2),
    "NaKCl2": (bulk("NaCl", "rocksalt", 6.0, cubic=True) * (2, 1, 1), ("Na", "K"), 4),
    "Sr2MgWO6": (perovskite("Sr", "Mg", 3.95), ("Mg", "W"), 4),
    "Ba2MgWO6": (perovskite("Ba", "Mg", 4.05), ("Mg", "W"), 4),
    "La2MgTiO6": (perovskite("La", "Mg", 3.93), ("Mg", "Ti"), 4),
    "Sr2FeMoO6": (perovskite("Sr", "Fe", 3.94), ("Fe", "Mo"), 4),
    "Sr2MnRuO6": (perovskite("Sr", "Mn", 3.95), ("Mn", "Ru"), 4),
}


def row_of(potential, name: str) -> dict:
    atoms, (one, two), number = SYSTEMS[name]
    mixed = atoms.symbols == one
    fractions = [1 - number / mixed.sum(), number / mixed.sum()]
    system = aj.from_atoms(atoms, mix={one: (one, two)}, groups="site", weights=fractions * int(mixed.sum()))
    found = aj.order(potential, system)
    picks = combinations(range(mixed.sum()), number)
    rows = [np.eye(2)[np.isin(np.arange(mixed.sum()), pick).astype(int)].ravel() for pick in picks]
    energies = np.sort(np.asarray(aj.sweep(potential, system, rows, relax="none").energy)) / len(atoms)
    lowest = float(found.energy[0]) / len(atoms)
    return {
        "system": name,
        "arrangements": len(rows),
        "found": 1000 * (lowest - energies.mean()),
        "lowest": 1000 * (energies[0] - energies.mean()),
        "below": int((energies < lowest - 1e-6).sum()),
        "disorder": float(found.disorder.max()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="*", default=list(SYSTEMS), metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--json")
    given = parser.parse_args()
    use_two_cores()
    potential, rows = aj.load("sevennet-0"), []
    print(
        "| system | arrangements | found (meV/atom, from their mean) | lowest | below what was found | disorder left |"
    )
    print("|---|---|---|---|---|---|")
    for name in given.systems:
        row = row_of(potential, name)
        rows.append(row)
        print(
            "| {system} | {arrangements} | {found:.2f} | {lowest:.2f} | {below} | {disorder:.2f} |".format(**row),
            flush=True,
        )
    if given.json:
        with open(given.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
