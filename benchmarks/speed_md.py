"""Molecular dynamics: alchemjax against ASE with sevenn, the overhead of our loop, and how it scales.

    python benchmarks/speed_md.py --sevenn /path/to/venv/bin/python [--repeats 7] [--json results.json]
    python benchmarks/speed_md.py --scaling      # steps/s and peak memory against the number of atoms
    python benchmarks/speed_md.py --lists        # time to make a neighbour list, and its memory
    python benchmarks/speed_md.py --drift        # of the energy in NVE, against the time step

NVT (Langevin, 300 K, 1 fs) of rattled diamond silicon with SevenNet-0 in float32, two threads each, in turns, medians.
Every core is a device of JAX, as in the commands of alchemjax.
A process of its own measures every size of --scaling and --lists, because memory is what a process has had at most.
"""

import json
import resource
import subprocess
import sys
import time
from functools import partial

import side_by_side
from side_by_side import THREADS, Original, in_turns, options, silicon, use_two_cores

STEPS = 10  # timed together
SEVENN = f"""
import torch
torch.set_num_threads({THREADS})
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from sevenn.calculator import SevenNetCalculator
def evaluation(cells):
    atoms = silicon(cells)
    atoms.calc = SevenNetCalculator("7net-0", device="cpu")
    MaxwellBoltzmannDistribution(atoms, temperature_K=300)
    dynamics = Langevin(atoms, units.fs, temperature_K=300, friction=0.01 / units.fs)
    def run():
        dynamics.run({STEPS})
        return atoms.get_potential_energy()
    return run
"""


def steps(potential, cells: int, **changes):
    """A function of nothing that makes some steps, as `aj.md` does, and the run's chunks."""
    from alchemjax.tasks.md import run_chunks
    from alchemjax.tasks.md_plan import make_plan

    given = {"steps": 10**7, "every": 10, "chunk": STEPS} | changes
    chunks = run_chunks(potential, make_plan(potential, silicon(cells), **given))
    return partial(next, chunks)


def bare(potential, cells: int, chunk):
    """Energy, forces and stress on the list of a run, and nothing else: as often as the run makes steps."""
    import jax
    import jax.numpy as jnp

    from alchemjax.calculate import derivatives
    from alchemjax.devices import mesh_for, spread
    from alchemjax.system.lists import topology
    from alchemjax.tasks.md_plan import make_plan

    plan = make_plan(potential, silicon(cells), steps=1)
    state = jax.tree.map(lambda a: jnp.asarray(a[0]), chunk.state)
    arrays = jax.tree.map(jnp.asarray, topology(plan.rule, jax.tree.map(jnp.asarray, plan.layout), state.listed))
    numbers = state.positions, state.cell, jnp.zeros(0, "float32"), jnp.float32(0)
    mesh = mesh_for(1, len(state.positions))
    evaluate = spread(partial(derivatives, potential.node_energies, potential.config), mesh, jax.P(), jax.P())
    given = jax.device_put((potential.params, arrays, *numbers), jax.NamedSharding(mesh, jax.P()))

    def run():
        for _ in range(STEPS):
            jax.block_until_ready(evaluate(*given))

    return run


def against_sevenn(args):
    import alchemjax as aj

    potential = aj.load("sevennet-0")
    ours, theirs = {}, {}
    for name, cells in (("Si64", 2), ("Si216", 3)):
        ours[name] = steps(potential, cells)
        ours[f"{name}, bare"] = bare(potential, cells, ours[name]())
    if args.sevenn:
        original = Original(args.sevenn, SEVENN)
        theirs = {f"ASE + sevenn Si{n}": partial(original.measure, cells) for n, cells in ((64, 2), (216, 3))}
    medians, _ = in_turns(ours, theirs, args.repeats)
    for name, seconds in medians.items():
        print(f"{name:22s} {1e3 * seconds / STEPS:8.1f} ms a step, {STEPS / seconds:.2f} steps/s")
    for name in ("Si64", "Si216"):
        print(f"{name}: {medians[name] / medians[name + ', bare'] - 1:+.1%} over bare energy + forces + stress")
    for name in theirs:
        print(f"{medians[name] / medians[name.split()[-1]]:.1f} times faster than {name}")
    side_by_side.write(args.json, medians, args.repeats)


def peak() -> float:
    """Peak memory of this process so far [GB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def one_size(cells: int):
    """Seconds of a step and peak memory of one size."""
    import alchemjax as aj

    potential = aj.load("sevennet-0")
    base = peak()
    few = 4 if cells < 8 else 1
    run = steps(potential, cells, every=few, chunk=few)
    run(), run()
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        run()
        took.append((time.perf_counter() - begun) / few)
    print(json.dumps([8 * cells**3, sorted(took)[1], peak(), base]))


def one_list(name: str):
    """Seconds to make a list of silicon, and peak memory."""
    import jax
    import numpy as np
    from ase.build import bulk

    from alchemjax.system import lists
    from alchemjax.system.sites import make_sites
    from alchemjax.system.structure import make_structure
    from alchemjax.system.topology import make_layout

    shapes = {
        "cube": (8, 8, 8),
        "needle": (1, 1, 512),
        "plate": (23, 22, 1),
        "slab": (16, 16, 2),
        "large cube": (16, 16, 16),
    }
    atoms = bulk("Si", cubic=True) * shapes[name]
    atoms.rattle(0.05, seed=1)
    if name == "slab":
        atoms.center(vacuum=10, axis=2)
        atoms.pbc = (True, True, False)
    structure = make_structure(atoms.positions, atoms.cell.array, atoms.pbc)
    rule, layout = make_layout(make_sites(atoms.symbols), {"Si": 0}, "independent")
    grid = lists.allocate(rule, layout, [structure], 5.2)
    base = peak()
    inside, _ = lists.wrap(grid.pbc, structure.positions, structure.cell, np)
    arguments = jax.device_put((layout, inside.astype("float32"), structure.cell.astype("float32")))
    search = jax.jit(partial(lists.search, grid, rule))
    assert not jax.block_until_ready(search(*arguments)).overflow
    took = []
    for _ in range(7):
        begun = time.perf_counter()
        jax.block_until_ready(search(*arguments))
        took.append(time.perf_counter() - begun)
    print(json.dumps([len(atoms), sorted(took)[3], peak() - base]))


def drift():
    """Slope and fluctuation of the energy of Si64 in NVE at 300 K, float32 and float64."""
    import numpy as np

    import alchemjax as aj

    for dtype in ("float32", "float64"):
        potential = aj.load("sevennet-0", dtype=dtype)
        system = silicon(2)
        start = aj.md(potential, system, steps=200, every=200, temperature=300)
        moved = system._replace(structure=system.structure._replace(positions=start.positions[-1]))
        for timestep in (4.0, 2.0, 1.0):
            out = aj.md(
                potential, moved, steps=int(1000 / timestep), timestep=timestep, thermostat=None, every=5,
                velocities=start.velocities[-1],
            )  # fmt: skip
            slope = np.polyfit(out.time / 1000, out.conserved, 1)[0] / 64
            rest = (out.conserved - np.polyval(np.polyfit(out.time, out.conserved, 1), out.time)).std() / 64
            print(f"{dtype} {timestep} fs: drift {1e3 * slope:+.4f} meV/atom/ps, fluctuation {1e3 * rest:.4f} meV/atom")


def in_processes(what: str, names) -> list:
    command = [sys.executable, __file__, what]
    return [json.loads(subprocess.run([*command, str(n)], stdout=subprocess.PIPE, check=True).stdout) for n in names]


def scaling():
    import numpy as np

    rows = np.array(in_processes("--one-size", (2, 3, 4, 6, 8, 10, 13)))
    for atoms, seconds, memory, base in rows:
        each = 1e6 * (memory - base) / atoms
        print(f"{atoms:6.0f} atoms: {1 / seconds:8.3f} steps/s, {memory:.2f} GB, {each:.0f} kB/atom")
    large = rows[1:]
    power = np.polyfit(np.log(large[:, 0]), np.log(large[:, 1]), 1)[0]
    print(f"time grows as atoms^{power:.2f} from {large[0, 0]:.0f} on")


def all_lists():
    names = ("cube", "needle", "plate", "slab", "large cube")
    for name, (atoms, seconds, memory) in zip(names, in_processes("--one-list", names), strict=True):
        print(f"{name:10s} {atoms:6d} atoms: {1e3 * seconds:7.1f} ms, {1e6 * memory / atoms:.1f} kB/atom")


def main():
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--sevenn", help="python of an environment with sevenn 0.13.0; left out: ours alone")
    for name in ("scaling", "lists", "drift"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--one-size", type=int)
    parser.add_argument("--one-list")
    args = parser.parse_args()
    use_two_cores()
    from alchemjax.commands.session import use_cores

    use_cores()
    if args.one_size:
        one_size(args.one_size)
    elif args.one_list:
        one_list(args.one_list)
    elif args.scaling:
        scaling()
    elif args.lists:
        all_lists()
    elif args.drift:
        drift()
    else:
        against_sevenn(args)


if __name__ == "__main__":
    main()
