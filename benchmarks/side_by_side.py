"""Two programs timed in turns, never at the same time; what the speed benchmarks share.

An original program lives in an environment of its own and in a process that stays alive: it reads one job per line
and answers with the seconds of one evaluation. torch's threads spin for a while after their work, hence the pause.
Every timed evaluation follows others that are not timed, as in a relaxation.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from functools import partial

THREADS = 2
PAUSE = 0.5  # s
WARM_UP = 0.3  # s
SERVER = r"""
import json, os, sys, time, warnings
warnings.filterwarnings("ignore")
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # e3nn's own constants, in versions before torch 2.6
from ase.build import bulk
def silicon(cells):
    atoms = bulk("Si", cubic=True) * (cells, cells, cells)
    atoms.rattle(0.05, seed=1)
    return atoms
answers, sys.stdout = sys.stdout, sys.stderr
{code}
jobs = {{}}
print("ready", file=answers, flush=True)
for line in sys.stdin:
    if line not in jobs:
        jobs[line] = evaluation(*json.loads(line))
    begun = time.perf_counter()
    while time.perf_counter() < begun + {warm_up}:
        jobs[line]()
    start = time.perf_counter()
    energy = jobs[line]()
    print(json.dumps([time.perf_counter() - start, energy]), file=answers, flush=True)
"""


# for code that defines make_calculator()
ASE_CALCULATOR = """
def evaluation(cells):
    calculator, atoms = make_calculator(), silicon(cells)
    def run():
        calculator.calculate(atoms, ["energy", "forces", "stress"])
        return float(calculator.results["energy"])
    return run
"""


class Original:
    """An original program in a process of its own; `code` defines evaluation(*job), a function that gives energies."""

    def __init__(self, python: str, code: str, *arguments: str):
        pipe = subprocess.PIPE
        command = [python, "-c", SERVER.format(code=code, warm_up=WARM_UP), *arguments]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{python}: the original program did not start")

    def measure(self, *job) -> tuple[float, float]:
        """Seconds of one evaluation, and its energy [eV]."""
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        seconds, energy = json.loads(self.process.stdout.readline())
        time.sleep(PAUSE)
        return seconds, energy


def options(description: str) -> argparse.ArgumentParser:
    """The options that every speed benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", help="file for the medians")
    return parser


def use_two_cores() -> None:
    """Both programs run on two cores; call it before JAX starts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


def silicon(cells: int, species=("Si",), coupling: str = "independent"):
    """Rattled diamond silicon, K species on every site in equal parts."""
    from ase.build import bulk

    import alchemjax as aj

    atoms = bulk("Si", cubic=True) * (cells, cells, cells)
    atoms.rattle(0.05, seed=1)
    if len(species) == 1:
        return aj.from_atoms(atoms)
    return aj.from_atoms(atoms, mix={"Si": species}, weights=[1 / len(species)] * len(species), coupling=coupling)


def compiled(potential, function, system, weights):
    """A function of nothing that evaluates `function` once and waits for its result."""
    import jax
    import jax.numpy as jnp

    from alchemjax.calculate import topology_of
    from alchemjax.system.system import checked_alpha

    cast = partial(jnp.asarray, dtype=potential.dtype)
    structure = system.structure
    arguments = (
        potential.params,
        topology_of(potential, system),
        cast(structure.positions),
        cast(structure.cell),
        cast(weights),
        cast(checked_alpha(system, system.weights, None)),
    )
    arguments = jax.device_put(arguments)
    run = jax.jit(function).lower(*arguments).compile()
    return lambda: jax.block_until_ready(run(*arguments))


def evaluation(potential, system):
    """Energy, forces, stress and composition gradient, compiled."""
    from alchemjax.calculate import derivatives

    return compiled(potential, partial(derivatives, potential.node_energies, potential.config), system, system.weights)


def in_turns(ours: dict, theirs: dict, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds by name, and the energies [eV] of both programs.

    `ours` has functions of nothing; `theirs` functions that give seconds and energy.
    """
    import numpy as np

    times, energies = {}, {}
    for turn in range(-1, repeats):  # one turn to warm up
        for name, run in ours.items():
            begun = time.perf_counter()
            while time.perf_counter() < begun + WARM_UP:
                run()
            start = time.perf_counter()
            out = run()
            times.setdefault(name, []).append(time.perf_counter() - start)
            energies[name] = float(np.sum(getattr(out, "energy", np.nan)))
        for name, measure in theirs.items():
            seconds, energies[name] = measure()
            times.setdefault(name, []).append(seconds)
        print(f"turn {turn + 1} of {repeats}", file=sys.stderr)
    return {name: float(np.median(values[1:])) for name, values in times.items()}, energies


def write(path: str | None, medians: dict, repeats: int) -> None:
    """Medians and what they were measured with, as JSON."""
    import jax

    if path:
        about = {"jax": jax.__version__, "machine": platform.processor(), "repeats": repeats, "threads": THREADS}
        with open(path, "w") as file:
            json.dump({"about": about, "medians_s": medians}, file, indent=1)
