"""Peak memory of one energy + forces + stress of Si 512, each program in a fresh process.

python benchmarks/memory.py [--sevenn /path/to/venv/bin/python] [--mace /path/to/venv/bin/python FILE.model]
"""

import argparse
import subprocess
import sys

SILICON = """
import resource, sys, warnings
warnings.filterwarnings("ignore")
from ase.build import bulk
atoms = bulk("Si", cubic=True) * (4, 4, 4)
atoms.rattle(0.05, seed=1)
{code}
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
OURS = """
import alchemjax as aj
aj.calculate(aj.load(sys.argv[1]), aj.from_atoms(atoms))
"""
ORIGINAL = """
import torch
torch.set_num_threads(2)
from {module} import {name} as Calculator
Calculator({arguments}, device="cpu").calculate(atoms, ["energy", "forces", "stress"])
"""
SEVENN = ORIGINAL.format(module="sevenn.calculator", name="SevenNetCalculator", arguments="sys.argv[1]")
MACE = ORIGINAL.format(
    module="mace.calculators", name="MACECalculator", arguments="sys.argv[1], default_dtype='float32'"
)


def peak(python: str, code: str, model: str) -> float:
    """Peak resident memory [GB] of a fresh process."""
    command = [python, "-c", SILICON.format(code=code), model]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(out.split("PEAK")[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sevenn", help="python of an environment with sevenn 0.13.0")
    parser.add_argument(
        "--mace", nargs=2, metavar=("PYTHON", "FILE"), help="environment with mace-torch, a .model file"
    )
    args = parser.parse_args()
    print(f"alchemjax, SevenNet-0: {peak(sys.executable, OURS, 'sevennet-0'):.2f} GB")
    if args.sevenn:
        print(f"sevenn,    SevenNet-0: {peak(args.sevenn, SEVENN, '7net-0'):.2f} GB")
    if args.mace:
        python, file = args.mace
        print(f"alchemjax,  {file}: {peak(sys.executable, OURS, file):.2f} GB")
        print(f"mace-torch, {file}: {peak(python, MACE, file):.2f} GB")
