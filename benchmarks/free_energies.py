"""Free energies with SevenNet-0 by two routes that must agree.

    python benchmarks/free_energies.py cycle      # NaCl to KCl: absolute free energies of both, and along composition
    python benchmarks/free_energies.py vacancy    # body-centred iron: an atom disappears, two absolute free energies
        [--replicas 8] [--switching 4000] [--json results.json]

Fixed cells, 300 K, time step 2 fs, float32; switches forward and back in fs. Differences in meV per site with standard
errors.
"""

import argparse
import json
import time

import numpy as np
from ase.build import bulk
from side_by_side import use_two_cores

import alchemjax as aj

TEMPERATURE, TIMESTEP, EQUILIBRATION = 300.0, 2.0, 1000.0


def cycle(potential, options) -> dict:
    """NaCl to KCl in one cell of eight sites, between those of both."""
    system = aj.from_atoms(bulk("NaCl", "rocksalt", 6.0, cubic=True), mix={"Na": ("Na", "K")}, weights=[1.0, 0.0])
    sites = len(system.structure.positions)
    ends = [
        aj.frenkel_ladd(potential, system, w, stiffness=2.0, quantum=False, seed=k, **options)
        for k, w in enumerate(([1.0, 0.0], [0.0, 1.0]))
    ]
    moved = aj.switch(potential, system, aj.composition_path(system, [1, 0], [0, 1]), seed=2, **options)
    absolute = ends[1].total.value - ends[0].total.value
    along = moved.difference.value + moved.mass_term
    return row(
        "NaCl to KCl", sites, (absolute, np.hypot(*(e.total.error for e in ends))), (along, moved.difference.error),
        [*ends[0].doubts, *ends[1].doubts, *moved.doubts], [e.path.dissipation for e in ends] + [moved.dissipation],
    )  # fmt: skip


def vacancy(potential, options) -> dict:
    """A vacancy in 16 sites of iron, at the volume of the crystal."""
    system = aj.from_atoms(bulk("Fe", "bcc", 2.84, cubic=True) * 2)
    found = [
        aj.vacancy(potential, system, 0, route=route, seed=k, **options)
        for k, route in enumerate(("absolute", "alchemical"))
    ]
    numbers = [(v.formation.value, v.formation.error) for v in found]
    lost = [found[0].path.path.dissipation, found[1].path.dissipation]
    return row("vacancy in Fe", 1, *numbers, [d for v in found for d in v.doubts], lost)


def row(name: str, sites: int, absolute, along, doubts, dissipation) -> dict:
    """Both routes in meV per site."""
    one, two = (np.array(pair) * 1000 / sites for pair in (absolute, along))
    return {
        "name": name,
        "absolute_meV": one.tolist(),
        "alchemical_meV": two.tolist(),
        "difference_meV": [float(two[0] - one[0]), float(np.hypot(one[1], two[1]))],
        "dissipation_kT": [float(x) for x in dissipation],
        "doubts": doubts,
    }


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cycle", "vacancy"))
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--switching", type=float, default=4000.0)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    use_two_cores()
    potential = aj.load("sevennet-0")
    options = {
        "temperature": TEMPERATURE,
        "timestep": TIMESTEP,
        "equilibration": EQUILIBRATION,
        "switching": arguments.switching,
        "replicas": arguments.replicas,
    }
    begun = time.perf_counter()
    found = {"cycle": cycle, "vacancy": vacancy}[arguments.what](potential, options)
    found["minutes"] = (time.perf_counter() - begun) / 60
    print(json.dumps(found, indent=1))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found | {"options": options}, file, indent=1)


if __name__ == "__main__":
    main()
