"""Free energies with SevenNet-0: how accurate at how many energy evaluations, and by two routes that must agree.

    python benchmarks/free_energies.py efficiency [--repetitions 64] [--steps 1000] [--json results.json]
    python benchmarks/free_energies.py cycle

NaCl to KCl, eight sites in a cell that stays, 300 K, time step 2 fs, float32. `efficiency`: three protocols, each
several times with about as many evaluations; the scatter of their results is their standard error, whatever they say
of it. The published protocol (Nam et al., Nat. Commun. 16, 4350 (2025), and its scripts): equilibration and switch
as 2 to 3, the polynomial of degree nine, half the difference of the works forward and back, the mean of four runs.
`cycle`: the same difference from absolute free energies of both ends, longer.
"""

import argparse
import json
import time

import numpy as np
from ase.build import bulk
from scipy import stats
from side_by_side import use_two_cores

import alchemjax as aj
from alchemjax.tasks.free_energy.estimators import bar
from alchemjax.tasks.free_energy.switching import plan_switch
from alchemjax.units import KELVIN

RUNS = 4  # of one result
TIMESTEP, TEMPERATURE = 2.0, 300.0
COMMON = {"temperature": TEMPERATURE, "timestep": TIMESTEP}
WINDOWS, EVERY = 3, 20  # windows of Gauss and Legendre, and steps from frame to frame


def salt():
    """NaCl with K, in a cell between those of both, and the way from Na to K."""
    system = aj.from_atoms(bulk("NaCl", "rocksalt", 6.0, cubic=True), mix={"Na": ("Na", "K")}, weights=[1.0, 0.0])
    return system, aj.composition_path(system, [1, 0], [0, 1])


def works(potential, steps: int, equilibration: int, repetitions: int, seed: int):
    """Works [repetitions, runs, 2] without momenta [eV], of runs of so many steps there and back."""
    system, path = salt()
    times = {"equilibration": equilibration * TIMESTEP, "switching": (steps // 2 - equilibration) * TIMESTEP}
    options = COMMON | times | {"replicas": RUNS * repetitions, "seed": seed}
    found = aj.switch(potential, system, path, **options)
    momenta = plan_switch(potential, system, path, **options).facts.momenta
    return np.stack([found.forward - momenta, found.backward + momenta], axis=-1).reshape(repetitions, RUNS, 2)


def published(potential, steps: int, repetitions: int):
    """Half the difference of both directions, the mean of all runs."""
    found = works(potential, steps, steps // 5, repetitions, 0)
    return RUNS * steps, np.mean(found[..., 0] - found[..., 1], axis=1) / 2


def switches(potential, steps: int, repetitions: int):
    """Bennett's ratio, a fifth of the time for equilibration."""
    found = works(potential, steps, steps // 10, repetitions, 1)
    return RUNS * steps, np.array([bar(*one.T, TEMPERATURE * KELVIN) for one in found])


def in_windows(potential, steps: int, repetitions: int):
    """MBAR; the energies of frames in all windows and at both ends are evaluations, too."""
    system, path = salt()
    length = RUNS * steps * EVERY // (WINDOWS * (EVERY + WINDOWS + 2)) // EVERY * EVERY
    rest = length // 5 // EVERY * EVERY
    times = {"equilibration": rest * TIMESTEP, "sampling": (length - rest) * TIMESTEP}
    options = COMMON | times | {"windows": WINDOWS, "every": EVERY}
    found = [aj.windows(potential, system, path, seed=2 + k, **options) for k in range(repetitions)]
    frames = (length - rest) // EVERY
    return WINDOWS * (length + frames * (WINDOWS + 2)), np.array([one.difference.value for one in found])


PROTOCOLS = {"published": published, "switches, Bennett": switches, "windows, MBAR": in_windows}


def efficiency(potential, steps: int, repetitions: int) -> list[dict]:
    """Print a table."""
    print(
        "| protocol | evaluations | mean (meV/site) | standard error of one (meV/site) | of the published one (95 %) |"
    )
    print("|---|---|---|---|---|")
    rows = []
    for name, protocol in PROTOCOLS.items():
        evaluations, found = protocol(potential, steps, repetitions)
        found = 1000 * found / len(salt()[0].structure.positions)
        error, own = found.std(ddof=1), found.std(ddof=1) / np.sqrt(2 * (repetitions - 1))
        mean = f"{found.mean():.2f} +- {error / np.sqrt(repetitions):.2f}"
        first = np.std(rows[0]["meV_per_site"], ddof=1) if rows else error
        low, high = error / first * np.sqrt(stats.f.ppf([0.025, 0.975], repetitions - 1, repetitions - 1))
        ratio = f"{error / first:.2f} ({low:.2f} to {high:.2f})" if rows else ""
        print(f"| {name} | {evaluations} | {mean} | {error:.2f} +- {own:.2f} | {ratio} |", flush=True)
        rows.append({"protocol": name, "evaluations": evaluations, "meV_per_site": found.tolist()})
    return rows


def cycle(potential) -> list[dict]:
    """Print both routes, in meV per site."""
    system, path = salt()
    options = COMMON | {"equilibration": 1000.0, "switching": 8000.0, "replicas": 16}
    found = {"along composition": aj.switch(potential, system, path, seed=2, **options)}
    for seed, (name, weights) in enumerate({"NaCl to springs": [1.0, 0.0], "KCl to springs": [0.0, 1.0]}.items()):
        found[name] = aj.frenkel_ladd(potential, system, weights, quantum=False, seed=seed, **options)
    moved, *ends = found.values()
    along = moved.difference._replace(value=moved.difference.value + moved.mass_term)
    absolute = aj.Estimate(
        ends[1].total.value - ends[0].total.value, float(np.hypot(*(e.total.error for e in ends))), 0
    )
    scale = 1000 / len(system.structure.positions)
    for name, one in {"along composition": along, "absolute": absolute}.items():
        print(f"{name}: {scale * one.value:.2f} +- {scale * one.error:.2f} meV per site")
    apart, error = along.value - absolute.value, np.hypot(along.error, absolute.error)
    print(f"they differ by {scale * apart:+.2f} +- {scale * error:.2f} meV per site")
    lost = [getattr(one, "path", one).dissipation for one in found.values()]
    doubts = [doubt for one in found.values() for doubt in one.doubts]
    print("dissipated (kT):", *(f"{x:.2f}" for x in lost), "doubts:", *(doubts or ["none"]))
    return [{"along": along._asdict(), "absolute": absolute._asdict(), "dissipation_kT": lost, "doubts": doubts}]


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("efficiency", "cycle"))
    parser.add_argument("--repetitions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1000, help="of one run of the published protocol")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    use_two_cores()
    potential, begun = aj.load("sevennet-0"), time.perf_counter()
    if arguments.what == "cycle":
        rows = cycle(potential)
    else:
        rows = efficiency(potential, arguments.steps, arguments.repetitions)
    print(f"{(time.perf_counter() - begun) / 60:.0f} minutes")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
