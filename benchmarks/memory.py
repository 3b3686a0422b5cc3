"""Peak memory of one energy + forces + stress of Si 512, each program in a fresh process.

python benchmarks/memory.py [--sevenn /path/to/venv/bin/python]
"""

import argparse
import subprocess
import sys

OURS = """
import resource
from ase.build import bulk
import alchemjax as aj
atoms = bulk("Si", cubic=True) * (4, 4, 4)
atoms.rattle(0.05, seed=1)
aj.calculate(aj.load("sevennet-0"), aj.from_atoms(atoms))
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
SEVENN = """
import resource, warnings
warnings.filterwarnings("ignore")
import torch
torch.set_num_threads(2)
from ase.build import bulk
from sevenn.calculator import SevenNetCalculator
atoms = bulk("Si", cubic=True) * (4, 4, 4)
atoms.rattle(0.05, seed=1)
SevenNetCalculator("7net-0", device="cpu").calculate(atoms, ["energy", "forces", "stress"])
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def peak(python: str, code: str) -> float:
    """Peak resident memory [GB] of a fresh process."""
    out = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return float(out.split("PEAK")[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sevenn", help="python of an environment with sevenn 0.13.0")
    args = parser.parse_args()
    print(f"alchemjax, Si512: {peak(sys.executable, OURS):.2f} GB")
    if args.sevenn:
        print(f"sevenn,    Si512: {peak(args.sevenn, SEVENN):.2f} GB")
