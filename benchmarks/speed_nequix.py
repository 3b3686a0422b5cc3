"""alchemjax against the nequix package (JAX, CPU), in turns, medians.

    python benchmarks/speed_nequix.py --nequix PYTHON --weights nequix-mp-1.nqx [--repeats 15]

PYTHON is the python of an environment with nequix==0.4.5.
"""

from functools import partial

import side_by_side
from side_by_side import ASE_CALCULATOR, Original, evaluation, in_turns, options, silicon, use_two_cores

NEQUIX = f"""
from nequix.calculator import NequixCalculator
make_calculator = lambda: NequixCalculator(model_path=sys.argv[1], backend="jax", use_kernel=False)
{ASE_CALCULATOR}"""


def main():
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--nequix", required=True, metavar="PYTHON", help="python of an environment with nequix 0.4.5")
    parser.add_argument("--weights", required=True, help="a .nqx file")
    args = parser.parse_args()
    use_two_cores()
    import alchemjax as aj

    potential = aj.load(args.weights)
    original = Original(args.nequix, NEQUIX, args.weights)
    names = {f"Si{8 * cells**3}": cells for cells in (2, 3)}
    ours = {name: evaluation(potential, silicon(cells)) for name, cells in names.items()}
    for count in (2, 5):
        species = ("Si", "Ge", "C", "Sn", "Pb")[:count]
        ours[f"Si64 K={count}"] = evaluation(potential, silicon(2, species))
    theirs = {f"nequix {name}": partial(original.measure, cells) for name, cells in names.items()}
    medians, energies = in_turns(ours, theirs, args.repeats)
    for name, seconds in medians.items():
        print(f"{name:20s} {1e3 * seconds:8.1f} ms   {energies[name]:12.5f} eV")
    for name in names:
        print(f"{name}: {medians[f'nequix {name}'] / medians[name]:.1f} times faster than nequix")
    side_by_side.write(args.json, medians, args.repeats)


if __name__ == "__main__":
    main()
