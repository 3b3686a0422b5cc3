"""Optima by gradient against a grid of the same accuracy: evaluations and seconds, of a quaternary alloy.

    python benchmarks/optimise.py [--json results.json]

(Li,Na,K,Rb)Cl, rock salt, SevenNet-0: the composition of a given lattice constant and density with the lowest mixing
energy. The accuracy of a search is the largest error of a weight against a search with a hundredth of its tolerance;
a grid of compositions finds the optimum as well if its spacing is twice that. The grid is counted, not run: a
relaxation of one of its points is timed beside the evaluations of the search (medians, in turns).
"""

import argparse
import json
import math
import time

import numpy as np
from ase.build import bulk
from side_by_side import use_two_cores

import alchemjax as aj

TARGET = {"a": 4.05, "density": 2.1, "mixing_energy": "min"}  # of the primitive cell: the lattice constant over sqrt(2)
OPTIONS = {"cell": "hydrostatic"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--dtype", default="float64")
    given = parser.parse_args()
    use_two_cores()
    potential = aj.load("sevennet-0", given.dtype)
    salt = bulk("NaCl", "rocksalt", 5.8)
    system = aj.from_atoms(salt, mix={"Na": ("Li", "Na", "K", "Rb")}, weights=[0.25] * 4)
    starts = [[0.25] * 4, [0.1, 0.2, 0.3, 0.4]]
    exact = aj.optimise(potential, system, TARGET, start=starts, tolerance=1e-6, evaluations=60, **OPTIONS)
    print("two starts end", float(np.ptp(exact.ends, axis=0).max()), "apart")
    print("optimum", exact.weights.round(5).tolist(), exact.values, exact.message)
    rows = []
    for optimiser in ("projected", "mirror"):
        for tolerance in (1e-2, 1e-3):
            times = []
            clock = [time.perf_counter()]

            def on_evaluation(number, found, searches, times=times, clock=clock):
                times.append(time.perf_counter() - clock[0])
                clock[0] += times[-1]

            found = aj.optimise(
                potential, system, TARGET, starts=1, tolerance=tolerance, optimiser=optimiser,
                on_evaluation=on_evaluation, **OPTIONS,
            )  # fmt: skip
            relaxations = []
            for weights in (found.weights, [0.25] * 4, found.weights):
                started = time.perf_counter()
                aj.relax(potential, system, weights, **OPTIONS)
                relaxations.append(time.perf_counter() - started)
            error = float(np.abs(found.weights - exact.weights).max())
            intervals = math.ceil(1 / (2 * max(error, 1e-5)))
            grid = math.comb(intervals + 3, 3)
            row = {
                "optimiser": optimiser,
                "tolerance": tolerance,
                "error": error,
                "evaluations": len(found.path),
                "seconds of an evaluation": float(np.median(times)),
                "seconds of a relaxation": float(np.median(relaxations)),
                "grid": grid,
            }
            row["ratio"] = grid / len(found.path)
            rows.append(row)
            print(row, flush=True)
    if given.json:
        with open(given.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
