"""Free energies with SevenNet-0: how accurate at how many energy evaluations, and by two routes that must agree.

    python benchmarks/free_energies.py efficiency [--repetitions 16] [--steps 1000] [--json results.json]
    python benchmarks/free_energies.py cycle

NaCl to KCl, eight sites in a cell that stays, 300 K, time step 2 fs, float32. `efficiency`: three protocols, each
several times with about as many evaluations; the scatter of their results is their standard error, whatever they say
of it. Of switches it is that of groups of four drawn from all of them, with an error from drawing all of them. The
published protocol (Nam et al., Nat. Commun. 16, 4350 (2025), and its scripts): equilibration and switch as 2 to 3, the
polynomial of degree nine, half the difference of the works forward and back, the mean of four runs.
`cycle`: the same difference from absolute free energies of both ends, longer.
"""

import argparse
import json
import time

import numpy as np
from ase.build import bulk
from side_by_side import use_two_cores

import alchemjax as aj
from alchemjax.tasks.free_energy.estimators import bar
from alchemjax.tasks.free_energy.switching import plan_switch
from alchemjax.units import KELVIN

RUNS = 4  # of one result
GROUPS, POOLS = 400, 100  # groups of runs that are drawn, and sets of all runs
TIMESTEP, TEMPERATURE = 2.0, 300.0
COMMON = {"temperature": TEMPERATURE, "timestep": TIMESTEP}
WINDOWS, EVERY = 3, 20  # windows of Gauss and Legendre, and steps from frame to frame


def salt():
    """NaCl with K, in a cell between those of both, and the way from Na to K."""
    system = aj.from_atoms(bulk("NaCl", "rocksalt", 6.0, cubic=True), mix={"Na": ("Na", "K")}, weights=[1.0, 0.0])
    return system, aj.composition_path(system, [1, 0], [0, 1])


def works(potential, steps: int, equilibration: int, repetitions: int, seed: int):
    """Works [runs, 2] without momenta [eV], of runs of so many steps there and back."""
    system, path = salt()
    times = {"equilibration": equilibration * TIMESTEP, "switching": (steps // 2 - equilibration) * TIMESTEP}
    options = COMMON | times | {"replicas": RUNS * repetitions, "seed": seed}
    found = aj.switch(potential, system, path, **options)
    momenta = plan_switch(potential, system, path, **options).facts.momenta
    return np.stack([found.forward - momenta, found.backward + momenta], axis=-1)


def published(potential, steps: int, repetitions: int):
    """Half the difference of both directions, the mean of all runs."""
    found = works(potential, steps, steps // 5, repetitions, 0)
    return RUNS * steps, *drawn(lambda w: np.mean(w[:, 0] - w[:, 1]) / 2, found)


def switches(potential, steps: int, repetitions: int):
    """Bennett's ratio, a fifth of the time for equilibration."""
    found = works(potential, steps, steps // 10, repetitions, 1)
    return RUNS * steps, *drawn(lambda w: bar(*w.T, TEMPERATURE * KELVIN), found)


def drawn(estimate, found):
    """Mean and standard error of estimates from groups of runs, both with values as all runs might have been too."""
    rng, pools = np.random.default_rng(0), []
    for k in range(POOLS + 1):
        pool = found[rng.integers(len(found), size=len(found))] if k else found
        values = [estimate(pool[rng.integers(len(pool), size=RUNS)]) for _ in range(GROUPS)]
        pools.append((np.mean(values), np.std(values, ddof=1) * np.sqrt(len(found) / (len(found) - 1))))
    return np.array(pools).T


def in_windows(potential, steps: int, repetitions: int):
    """MBAR; the energies of frames in all windows and at both ends are evaluations, too."""
    system, path = salt()
    length = RUNS * steps * EVERY // (WINDOWS * (EVERY + WINDOWS + 2)) // EVERY * EVERY
    rest = length // 5 // EVERY * EVERY
    times = {"equilibration": rest * TIMESTEP, "sampling": (length - rest) * TIMESTEP}
    options = COMMON | times | {"windows": WINDOWS, "every": EVERY}
    found = [aj.windows(potential, system, path, seed=2 + k, **options).difference.value for k in range(repetitions)]
    rng, frames = np.random.default_rng(0), (length - rest) // EVERY
    pools = [np.array(found), *(rng.choice(found, repetitions) for _ in range(POOLS))]
    values = np.array([(np.mean(one), np.std(one, ddof=1)) for one in pools]).T
    return WINDOWS * (length + frames * (WINDOWS + 2)), *values


PROTOCOLS = {"published": published, "switches, Bennett": switches, "windows, MBAR": in_windows}


def efficiency(potential, steps: int, repetitions: int) -> list[dict]:
    """Print a table."""
    print(
        "| protocol | evaluations | mean (meV/site) | standard error of one (meV/site) | of the published one (95 %) |"
    )
    print("|---|---|---|---|---|")
    rows, first = [], None
    for name, protocol in PROTOCOLS.items():
        evaluations, *both = protocol(potential, steps, repetitions)
        mean, error = (1000 * one / len(salt()[0].structure.positions) for one in both)
        first = error if first is None else first
        low, high = np.quantile(error[1:] / first[1:], [0.025, 0.975])
        ratio = f"{error[0] / first[0]:.2f} ({low:.2f} to {high:.2f})" if rows else ""
        said = [f"{one[0]:.2f} +- {one[1:].std(ddof=1):.2f}" for one in (mean, error)]
        print(f"| {name} | {evaluations} | {said[0]} | {said[1]} | {ratio} |", flush=True)
        numbers = {"mean_meV_per_site": mean.tolist(), "standard_error_meV_per_site": error.tolist()}
        rows.append({"protocol": name, "evaluations": evaluations} | numbers)
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
    parser.add_argument("--repetitions", type=int, default=16)
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
