"""Random alloys: the energy with fluctuations of single sites against explicit supercells, ions on their ideal sites.

    python benchmarks/random_alloys.py [--decorations 8] [--json results.json] [SYSTEM ...]
    python benchmarks/random_alloys.py --pairs     # what fluctuations of two sites at a time would add
    python benchmarks/random_alloys.py --cost      # energy and all gradients, against the mean field of the supercell

Every arrangement is drawn with the exact composition in a cell of 64 atoms or more; its lattice constant is relaxed
with the ions on ideal sites. Errors are standard errors of the mean over arrangements. SevenNet-0 in float32.

N sites of fixed composition are not independent: <d_i d_j> = -C / (N - 1) for two of them, which adds
-sum_(j != i) tr(C H_ij) / (2 (N - 1)) per mixed site to the energy of independent ones, to second order. That is taken
off the explicit means; sum_j H_ij is the curvature of the mean-field energy by the weights that all sites share, and
tr(C H_ii) / 2 what `site` adds to it.
"""

import argparse
import json
import time

import jax
import numpy as np
from ase.build import bulk, make_supercell
from side_by_side import in_turns, use_two_cores

import alchemjax as aj

STRETCH = 0.005  # of the cell, for derivatives by its size
OPTIONS = {"positions": False, "cell": "hydrostatic", "stress_tolerance": 1e-5}


def binary(x):
    return [1 - x, x]


SYSTEMS = {  # unit cell, which sites hold which species, repetitions of the explicit cell, compositions
    "MgO-CaO": (bulk("MgO", "rocksalt", 4.55, cubic=True), {"Mg": ("Mg", "Ca")}, 2, map(binary, (0.25, 0.5, 0.75))),
    "NaCl-KCl": (bulk("NaCl", "rocksalt", 6.0, cubic=True), {"Na": ("Na", "K")}, 2, map(binary, (0.25, 0.5, 0.75))),
    "CeO2-ZrO2": (bulk("CeO2", "fluorite", 5.3, cubic=True), {"Ce": ("Ce", "Zr")}, 2, map(binary, (0.25, 0.5, 0.75))),
    "Cu-Au": (bulk("Cu", "fcc", 3.95, cubic=True), {"Cu": ("Cu", "Au")}, 3, map(binary, (0.25, 0.5, 0.75))),
    "Ni-Al": (bulk("Ni", "fcc", 3.65, cubic=True), {"Ni": ("Ni", "Al")}, 3, map(binary, (0.25, 0.5, 0.75))),
    "Ni-Cu": (bulk("Ni", "fcc", 3.55, cubic=True), {"Ni": ("Ni", "Cu")}, 3, map(binary, (0.25, 0.5, 0.75))),
    "(Li,Na,K)Cl": (
        bulk("NaCl", "rocksalt", 5.7, cubic=True),
        {"Na": ("Li", "Na", "K")},
        2,
        ([0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]),
    ),
    "CoCrFeMnNi": (
        bulk("Ni", "fcc", 3.55, cubic=True),
        {"Ni": ("Co", "Cr", "Fe", "Mn", "Ni")},
        3,
        ([0.2] * 5, [0.4, 0.15, 0.15, 0.15, 0.15], [0.1, 0.1, 0.2, 0.2, 0.4]),
    ),
}


def lattice_constant(relaxed, repetitions):
    return np.linalg.norm(relaxed.structure.cell[0]) / repetitions


def explicit(potential, unit, mix, repetitions, weights, decorations, seed):
    """Lattice constants [A] and energies [eV/atom] of random arrangements, each relaxed on ideal sites."""
    (symbol, species), atoms = *mix.items(), unit * ([repetitions] * 3)
    own = np.flatnonzero(np.array(atoms.symbols) == symbol)
    system = aj.from_atoms(atoms, mix=mix, groups="site", weights=np.tile(weights, len(own)))
    counts = np.diff(np.round(np.cumsum([0.0, *weights]) * len(own)).astype(int))
    rng, found = np.random.default_rng(seed), []
    for _ in range(decorations):
        kinds = rng.permutation(np.repeat(np.arange(len(species)), counts))
        relaxed = aj.relax(potential, system, np.eye(len(species))[kinds].ravel(), **OPTIONS)
        assert relaxed.converged
        found.append((lattice_constant(relaxed, repetitions), float(relaxed.output.energy) / len(atoms)))
    return np.array(found).T, counts / len(own)


def of_fixed_composition(potential, system, weights, number):
    """What fixing the composition of so many mixed sites adds to energy [eV per atom] and lattice constant [A].

    At the structure of the system, a cubic cell on whose scale the lattice constants are.
    """
    import jax.numpy as jnp

    atoms, w = len(system.structure.positions), np.asarray(weights)
    covariance = np.diag(w) - np.outer(w, w)
    a, sizes = system.structure.cell[0, 0], np.array([-STRETCH, 0, STRETCH])
    energies, added = [], []
    for size in sizes:
        structure = system.structure
        structure = structure._replace(positions=structure.positions * (1 + size), cell=structure.cell * (1 + size))
        here = system._replace(structure=structure)
        mean, site = (float(aj.calculate(potential, here, w, fluctuations=f).energy) for f in ("none", "site"))
        curvature = jax.hessian(lambda w, here=here: aj.calculate(potential, here, w).energy)(jnp.asarray(w))
        others = (covariance * np.asarray(curvature)).sum() - 2 * (site - mean)
        added.append(-others / (2 * (number - 1)) / atoms)
        energies.append(mean / atoms)
    slope, stiffness = np.polyfit(sizes, added, 2)[1], 2 * np.polyfit(sizes, energies, 2)[0]
    return added[1], -a * slope / stiffness


def compare(potential, name, decorations):
    unit, mix, repetitions, compositions = SYSTEMS[name]
    small = aj.from_atoms(unit, mix=mix, weights=[0.0] * len(next(iter(mix.values()))))
    for number, asked in enumerate(compositions):
        (a, energy), weights = explicit(potential, unit, mix, repetitions, asked, decorations, number)
        row = {"system": name, "weights": weights.tolist(), "a": a.mean(), "a_error": a.std(ddof=1) / len(a) ** 0.5}
        row |= {"energy": energy.mean(), "energy_error": energy.std(ddof=1) / len(energy) ** 0.5}
        for kind in ("none", "site", "site-exact"):
            started = time.perf_counter()
            relaxed = aj.relax(potential, small, weights, fluctuations=kind, **OPTIONS)
            assert relaxed.converged
            row[f"seconds {kind}"] = time.perf_counter() - started
            row[f"a {kind}"] = lattice_constant(relaxed, 1)
            row[f"energy {kind}"] = float(relaxed.output.energy) / len(unit)
        here = small._replace(structure=relaxed.structure)
        mixed = len(small.sites.groups[0].sites) * repetitions**3
        row["fixed_energy"], row["fixed_a"] = of_fixed_composition(potential, here, weights, mixed)
        row["energy"], row["a"] = row["energy"] - row["fixed_energy"], row["a"] - row["fixed_a"]
        row["pairs"] = pairs_of(potential, here, weights)
        yield row


def pairs_of(potential, system, weights):
    """What fluctuations of two sites at a time would add [eV/atom]."""
    return aj.pair_fluctuations(potential, system, weights) / len(system.structure.positions)


def pairs_alone(potential, name):
    """Rows of composition and pairs, at the structure of `site-exact`."""
    unit, mix, _, compositions = SYSTEMS[name]
    system = aj.from_atoms(unit, mix=mix, weights=[0.0] * len(next(iter(mix.values()))))
    for weights in compositions:
        relaxed = aj.relax(potential, system, weights, fluctuations="site-exact", **OPTIONS)
        pairs = pairs_of(potential, system._replace(structure=relaxed.structure), weights)
        print(f"{name} {weights} {1000 * pairs:+.1f} meV/atom", flush=True)


def cost(potential, turns):
    """Median seconds of energy, forces, stress and composition gradient of Mg(1-x)Ca(x)O in a cell of 64 sites."""

    from alchemjax.calculate import compiled_derivatives, for_first_derivatives, topology_of, with_fluctuations

    atoms = bulk("MgO", "rocksalt", 4.57)
    cube = np.round(np.linalg.inv(atoms.cell) * 2 * 4.57).astype(int)
    mean = aj.from_atoms(make_supercell(atoms, cube), mix={"Mg": ("Mg", "Ca")})
    system = aj.from_atoms(atoms, mix={"Mg": ("Mg", "Ca")})
    systems = {"mean field": mean}
    for kind in ("site-exact", "site"):
        systems[kind] = for_first_derivatives(with_fluctuations(potential, system, kind, cube), np.array([0.5, 0.5]))
    run = compiled_derivatives(potential.node_energies, potential.config)
    jobs = {}
    for name, system in systems.items():
        arrays = [np.asarray(a, np.float32) for a in (*system.structure[:2], [0.5, 0.5], 0.0)]
        given = potential.params, jax.device_put(topology_of(potential, system)), *arrays
        jobs[name] = lambda given=given: jax.block_until_ready(run(*given))
    medians, _ = in_turns(jobs, {}, turns)
    for name, seconds in medians.items():
        print(f"{name}: {1000 * seconds:.1f} ms, {seconds / medians['mean field']:.2f} of the mean field")


def line(row):
    """A row of the table: what is explicit, then by how much each differs."""
    cells = [row["system"], " ".join(f"{w:.3g}" for w in row["weights"])]
    cells += [f"{row['a']:.4f} +- {row['a_error']:.4f}"]
    cells += [f"{row[f'a {kind}'] - row['a']:+.4f}" for kind in ("none", "site", "site-exact")]
    cells += [f"{1000 * row['energy_error']:.1f}", f"{1000 * row['fixed_energy']:+.1f}"]
    cells += [f"{1000 * (row[f'energy {kind}'] - row['energy']):+.1f}" for kind in ("none", "site", "site-exact")]
    cells += [f"{1000 * row['pairs']:+.1f}"]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="*", default=list(SYSTEMS), metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--decorations", type=int, default=8)
    parser.add_argument("--json")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--pairs", action="store_true", help="fluctuations of two sites at a time alone")
    given = parser.parse_args()
    use_two_cores()
    if given.cost:
        cost(aj.load("sevennet-0"), turns=15)
        return
    potential, rows = aj.load("sevennet-0"), []
    if given.pairs:
        for name in given.systems:
            pairs_alone(potential, name)
        return
    energies = "mean field | site | site-exact"
    print(f"| system | x | a, explicit (A) | {energies} | s.e. | fixed | {energies} | pairs |\n{'|---' * 12}|")
    for name in given.systems:
        for row in compare(potential, name, given.decorations):
            rows.append(row)
            print(line(row), flush=True)
            jax.clear_caches()  # compiled programs are memory maps, of which a process may have only so many
            if given.json:
                with open(given.json, "w") as file:
                    json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
