"""Seconds from starting Python to the first result (CeO2, energy + forces + stress), without and with a cache.

python benchmarks/first_result.py [--repeats 3]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

CODE = """
import sys
import jax
if sys.argv[1]:
    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
import alchemjax as aj
from ase.build import bulk
print(aj.calculate(aj.load("sevennet-0"), aj.from_atoms(bulk("CeO2", "fluorite", a=5.411))).energy)
"""


def seconds(cache: str) -> float:
    """Wall time of a fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", CODE, cache], check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as cache:
        cold = [seconds("") for _ in range(repeats)]
        seconds(cache)  # fills the cache
        warm = [seconds(cache) for _ in range(repeats)]
    print(f"without cache: {statistics.median(cold):.1f} s")
    print(f"with cache:    {statistics.median(warm):.1f} s")
