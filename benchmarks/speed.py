"""alchemjax against sevenn 0.13.0 (torch, CPU), in turns, medians.

    python benchmarks/speed.py --sevenn /path/to/venv/bin/python [--repeats 15] [--json results.json]

sevenn and torch live in an environment of their own (pip install torch==2.13.0 sevenn==0.13.0); two threads each.
"""

from functools import partial

import side_by_side
from side_by_side import (
    ASE_CALCULATOR,
    THREADS,
    Original,
    compiled,
    evaluation,
    in_turns,
    options,
    silicon,
    use_two_cores,
)

COMPOSITIONS = 32
SEVENN = f"""
import torch
torch.set_num_threads({THREADS})
from sevenn.calculator import SevenNetCalculator
make_calculator = lambda: SevenNetCalculator("7net-0", device="cpu")
{ASE_CALCULATOR}"""


def sweeps(potential):
    """Compiled evaluations of many compositions of Si64, by name."""
    import jax
    import numpy as np

    from alchemjax.calculate import derivatives, energy
    from alchemjax.energy import batched

    system = silicon(2, ("Si", "Ge"))
    x = np.linspace(0, 1, COMPOSITIONS)
    weights = np.stack([x, 1 - x], axis=1)
    config = batched(potential.config, COMPOSITIONS)

    def composition_gradient(params, topology, positions, cell, weights, alpha):
        of = lambda w: energy(potential.node_energies, config, params, topology, positions, cell, w, alpha)[0]
        return jax.value_and_grad(of)(weights)

    over_weights = partial(jax.vmap, in_axes=(None,) * 4 + (0, None))
    full = partial(derivatives, potential.node_energies, config)
    return {
        f"Si64 x {COMPOSITIONS} compositions, {what}": compiled(potential, over_weights(function), system, weights)
        for what, function in {"E+F+S": full, "E+dE/dw": composition_gradient}.items()
    }


def main():
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--sevenn", help="python of an environment with sevenn 0.13.0; left out: ours alone")
    args = parser.parse_args()
    use_two_cores()
    import alchemjax as aj

    potential = aj.load("sevennet-0", dtype="float32")
    ours, theirs = {}, {}
    for cells in (2, 3):
        ours[f"Si{8 * cells**3}"] = evaluation(potential, silicon(cells))
    for species in (("Si", "Ge"), ("Si", "Ge", "C", "Sn", "Pb")):
        ours[f"Si64 K={len(species)}"] = evaluation(potential, silicon(2, species))
    ours |= sweeps(potential)
    if args.sevenn:
        original = Original(args.sevenn, SEVENN)
        theirs = {f"sevenn {name}": partial(original.measure, cells) for name, cells in (("Si64", 2), ("Si216", 3))}
    medians, _ = in_turns(ours, theirs, args.repeats)
    each = lambda name: medians[name] / (COMPOSITIONS if "compositions" in name else 1)
    for name in medians:
        print(f"{name:36s} {1e3 * each(name):8.1f} ms" + (" per composition" if "compositions" in name else ""))
    for name in theirs:
        print(f"{medians[name] / medians[name.removeprefix('sevenn ')]:.1f} times faster than {name}")
    for name in list(ours)[2:]:
        print(f"{name}: {each(name) / medians['Si64']:.2f} of the ordinary calculation")
    side_by_side.write(args.json, medians, args.repeats)


if __name__ == "__main__":
    main()
