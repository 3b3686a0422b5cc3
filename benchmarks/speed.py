"""alchemjax against sevenn 0.13.0 (torch, CPU), interleaved in one run, medians.

    python benchmarks/speed.py --sevenn /path/to/venv/bin/python [--repeats 15] [--json results.json]

sevenn and torch live in an environment of their own (pip install torch==2.13.0 sevenn==0.13.0); two threads each.
The sevenn process stays alive and measures one evaluation at a time when it is asked to, so the two never run together:
torch's threads spin for a while after their work, hence the pause. Every timed evaluation follows two that are not
timed, as in a relaxation.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time

THREADS = 2
PAUSE = 0.5  # s
SEVENN = r"""
import sys, time, warnings, json, resource
warnings.filterwarnings("ignore")
import torch
torch.set_num_threads(THREADS)
from ase.build import bulk
from sevenn.calculator import SevenNetCalculator
calculator = SevenNetCalculator("7net-0", device="cpu")
systems = {}
print("ready", flush=True)
for line in sys.stdin:
    cells = int(line)
    if cells not in systems:
        atoms = bulk("Si", cubic=True) * (cells, cells, cells)
        atoms.rattle(0.05, seed=1)
        atoms.calc = calculator
        systems[cells] = atoms
    atoms = systems[cells]
    for _ in range(2):
        calculator.calculate(atoms, ["energy", "forces", "stress"])
    start = time.perf_counter()
    calculator.calculate(atoms, ["energy", "forces", "stress"])
    seconds = time.perf_counter() - start
    energy = float(calculator.results["energy"])
    print(json.dumps([seconds, energy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]), flush=True)
""".replace("THREADS", str(THREADS))


class Sevenn:
    """The original program in a process of its own."""

    def __init__(self, python: str):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([python, "-c", SEVENN], stdin=pipe, stdout=pipe, text=True)
        while self.process.stdout.readline().strip() != "ready":
            pass

    def measure(self, cells: int):
        self.process.stdin.write(f"{cells}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def silicon(aj, cells: int, species=("Si",)):
    """Rattled diamond silicon, K species on every site."""
    from ase.build import bulk

    atoms = bulk("Si", cubic=True) * (cells, cells, cells)
    atoms.rattle(0.05, seed=1)
    if len(species) == 1:
        return aj.from_atoms(atoms)
    return aj.from_atoms(atoms, mix={"Si": species}, weights=[1 / len(species)] * len(species))


def functions(aj, potential):
    """Compiled evaluations by name: each a function of nothing that waits for its result."""
    from functools import partial

    import jax
    import jax.numpy as jnp
    import numpy as np

    from alchemjax.calculate import derivatives, energy, topology_of
    from alchemjax.tasks.sweep import batched_config

    def compiled(function, system, weights):
        cast = partial(jnp.asarray, dtype=potential.dtype)
        structure = system.structure
        arguments = jax.device_put(
            (
                potential.params,
                topology_of(potential, system),
                cast(structure.positions),
                cast(structure.cell),
                cast(weights),
                cast(0.0),
            )
        )
        run = jax.jit(function).lower(*arguments).compile()
        return lambda: jax.block_until_ready(run(*arguments))

    full = partial(derivatives, potential.node_energies, potential.config)
    out = {}
    for cells in (2, 3):
        system = silicon(aj, cells)
        out[f"Si{8 * cells**3}"] = compiled(full, system, system.weights)
    for species in (("Si", "Ge"), ("Si", "Ge", "C", "Sn", "Pb")):
        system = silicon(aj, 2, species)
        out[f"Si64 K={len(species)}"] = compiled(full, system, system.weights)
    system = silicon(aj, 2, ("Si", "Ge"))
    x = np.linspace(0, 1, 32)
    weights = np.stack([x, 1 - x], axis=1)
    config = batched_config(potential.config, 32)
    many = jax.vmap(partial(derivatives, potential.node_energies, config), in_axes=(None,) * 4 + (0, None))
    out["Si64 x 32 compositions, E+F+S"] = compiled(many, system, weights)

    def composition_gradient(params, topology, positions, cell, weights, alpha):
        of = lambda w: energy(potential.node_energies, config, params, topology, positions, cell, w, alpha)[0]
        return jax.value_and_grad(of)(weights)

    some = jax.vmap(composition_gradient, in_axes=(None,) * 4 + (0, None))
    out["Si64 x 32 compositions, E+dE/dw"] = compiled(some, system, weights)
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sevenn", help="python of an environment with sevenn 0.13.0; left out: ours alone")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json")
    args = parser.parse_args()
    # two threads: pin to two cores where there are more
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    import jax
    import numpy as np

    import alchemjax as aj

    ours = functions(aj, aj.load("sevennet-0", dtype="float32"))
    sevenn = Sevenn(args.sevenn) if args.sevenn else None
    theirs = {"Si64": 2, "Si216": 3} if sevenn else {}
    times = {}
    for turn in range(-1, args.repeats):  # one turn to warm up
        for name, run in ours.items():
            for _ in range(2):
                run()
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            if turn >= 0:
                times.setdefault(name, []).append(seconds)
        for name, cells in theirs.items():
            seconds, _, _ = sevenn.measure(cells)
            if turn >= 0:
                times.setdefault(f"sevenn {name}", []).append(seconds)
            time.sleep(PAUSE)
        print(f"turn {turn + 1} of {args.repeats}", file=sys.stderr)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    for name, seconds in medians.items():
        per = 32 if "32" in name else 1
        print(f"{name:36s} {1e3 * seconds / per:8.1f} ms" + (" per composition" if per > 1 else ""))
    for name in theirs:
        print(f"{name}: {medians[f'sevenn {name}'] / medians[name]:.1f} times faster than sevenn")
    base = medians["Si64"]
    for name in list(ours)[2:]:
        print(f"{name}: {medians[name] / base / (32 if '32' in name else 1):.2f} of the ordinary calculation")
    if args.json:
        about = {"jax": jax.__version__, "machine": platform.processor(), "repeats": args.repeats, "threads": THREADS}
        with open(args.json, "w") as file:
            json.dump({"about": about, "medians_s": medians}, file, indent=1)


if __name__ == "__main__":
    main()
