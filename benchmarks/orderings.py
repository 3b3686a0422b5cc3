"""Orderings by gradient (`aj.order`) and of the Hamiltonian, against all arrangements, on ideal sites; SevenNet-0.

    python benchmarks/orderings.py [--json results.json] [SYSTEM ...]

Eight sites share two species: face-centred alloys, a rock salt, and the B sites of double perovskites A2BB'O6. What is
found is the lowest of all if nothing is below it. The Hamiltonian's ground state is evaluated with the potential too.
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
    return Atoms([a_site, b_site, "O", "O", "O"], scaled_positions=scaled, cell=[a] * 3, pbc=True)


DOUBLE, CUBE = (2, 1, 1), (2, 2, 2)
SYSTEMS = {  # cell, cells that hold eight sites, species that are mixed, how many of the second on eight sites
    "CuAu": (bulk("Cu", "fcc", 3.96, cubic=True), DOUBLE, ("Cu", "Au"), 4),
    "Cu3Au": (bulk("Cu", "fcc", 3.80, cubic=True), DOUBLE, ("Cu", "Au"), 2),
    "NaKCl2": (bulk("NaCl", "rocksalt", 6.0, cubic=True), DOUBLE, ("Na", "K"), 4),
    "Sr2MgWO6": (perovskite("Sr", "Mg", 3.95), CUBE, ("Mg", "W"), 4),
    "Ba2MgWO6": (perovskite("Ba", "Mg", 4.05), CUBE, ("Mg", "W"), 4),
    "La2MgTiO6": (perovskite("La", "Mg", 3.93), CUBE, ("Mg", "Ti"), 4),
    "Sr2FeMoO6": (perovskite("Sr", "Fe", 3.94), CUBE, ("Fe", "Mo"), 4),
    "Sr2MnRuO6": (perovskite("Sr", "Mn", 3.95), CUBE, ("Mn", "Ru"), 4),
}


def row_of(potential, name: str) -> dict:
    cell, shape, (one, two), number = SYSTEMS[name]
    atoms, fractions = cell * shape, [1 - number / 8, number / 8]
    system = aj.from_atoms(atoms, mix={one: (one, two)}, groups="site", weights=fractions * 8)
    found = aj.order(potential, system)
    rows = [np.eye(2)[np.isin(np.arange(8), pick).astype(int)].ravel() for pick in combinations(range(8), number)]
    energies = np.sort(np.asarray(aj.sweep(potential, system, rows, relax="none").energy)) / len(atoms)
    unit = aj.from_atoms(cell, mix={one: (one, two)}, weights=fractions)
    alloy = aj.alloy(potential, unit, relaxed=False)
    states, _ = aj.ground_state(aj.lattice_model(alloy, shape), alloy.weights)
    explicit = aj.validate(potential, unit, alloy, random=0, ground_state=False, arrangements=[states])
    lowest, predicted = float(found.energy[0]) / len(atoms), float(explicit.rigid[0])
    from_mean = lambda energy: 1000 * (energy - energies.mean())
    return {
        "system": name,
        "arrangements": len(rows),
        "found": from_mean(lowest),
        "hamiltonian": from_mean(predicted),
        "lowest": from_mean(energies[0]),
        "below": int((energies < lowest - 1e-6).sum()),
        "below_hamiltonian": int((energies < predicted - 1e-6).sum()),
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
        "| system | arrangements | by gradient (meV/atom, from their mean) | Hamiltonian | lowest | below | disorder |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in given.systems:
        row = row_of(potential, name)
        rows.append(row)
        print(
            "| {system} | {arrangements} | {found:.2f} | {hamiltonian:.2f} | {lowest:.2f} | "
            "{below}, {below_hamiltonian} | {disorder:.2f} |".format(**row),
            flush=True,
        )
    if given.json:
        with open(given.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
