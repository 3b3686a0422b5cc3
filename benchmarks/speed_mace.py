"""alchemjax against mace-torch 0.3.16 and against the published alchemical code (both torch, CPU), in turns, medians.

    python benchmarks/speed_mace.py --mace MACE_PYTHON --published PYTHON FOLDER [--max-l 0] [--repeats 15]

MACE of the shape of MP-0 small (`--max-l 1`: medium) with random weights, which do not change the time. MACE_PYTHON is
the python of an environment with torch==2.13.0 and mace-torch==0.3.16, PYTHON that of one with torch==2.13.0,
mace-torch==0.3.4 and e3nn==0.4.4, and FOLDER a checkout of https://github.com/learningmatter-mit/alchemical-mlip
(commit ba92f1e), which is imported as it is. Each writes its model to a file, which alchemjax converts: the energies
must agree (of `published`; `independent` is another energy).
"""

import tempfile
from functools import partial
from pathlib import Path

import side_by_side
from side_by_side import ASE_CALCULATOR, THREADS, Original, evaluation, in_turns, options, silicon, use_two_cores

SPECIES = ("Si", "Ge", "C", "Sn", "Pb")
MODEL = f"""
import numpy, torch
torch.set_num_threads({THREADS})
torch.manual_seed(0)
from e3nn import o3
from mace import modules
file, max_l = sys.argv[1], int(sys.argv[2])
numbers = [*range(1, 84), *range(89, 95)]
def make_model(model_class, block):
    return model_class(
        r_max=6.0, num_bessel=10, num_polynomial_cutoff=5, max_ell=3, interaction_cls=block,
        interaction_cls_first=block, num_interactions=2, num_elements=len(numbers),
        hidden_irreps=o3.Irreps(["128x0e", "128x0e + 128x1o", "128x0e + 128x1o + 128x2e"][max_l]),
        MLP_irreps=o3.Irreps("16x0e"), atomic_energies=numpy.zeros(len(numbers)), avg_num_neighbors=61.96,
        atomic_numbers=numbers, correlation=3, gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64],
        radial_type="bessel", atomic_inter_scale=0.8, atomic_inter_shift=0.16)
plain = make_model(modules.ScaleShiftMACE, modules.RealAgnosticResidualInteractionBlock)
torch.save(plain, file)
"""
MACE = f"""
{MODEL}
from mace.calculators import MACECalculator
make_calculator = lambda: MACECalculator(model_paths=file, device="cpu", default_dtype="float32")
{ASE_CALCULATOR}"""
PUBLISHED = f"""
sys.path.insert(0, sys.argv[3])
{MODEL}
from ase.data import atomic_numbers
from alchemical_mace import model as published
model = make_model(published.AlchemicalMACE, published.AlchemicalResidualInteractionBlock)
model.load_state_dict(plain.state_dict())
for parameter in model.parameters():
    parameter.requires_grad = False
def evaluation(cells, species):
    atoms = silicon(cells)
    pairs = [[published.AlchemicalPair(i, atomic_numbers[s]) for i in range(len(atoms))] for s in species]
    weights = torch.full((len(species),), 1 / len(species))
    table, r_max = published.get_z_table_and_r_max(model)
    manager = published.AlchemyManager(atoms, pairs, weights, table, r_max)
    manager.alchemical_weights.requires_grad = False
    def run():
        positions, cell = (torch.tensor(a, dtype=torch.float32) for a in (atoms.positions, atoms.cell.array))
        return float(model(manager(positions, cell), compute_stress=True)["energy"])
    return run
"""


def main():
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--mace", help="python of an environment with mace-torch 0.3.16")
    parser.add_argument("--published", nargs=2, metavar=("PYTHON", "FOLDER"))
    parser.add_argument("--max-l", type=int, default=0, choices=(0, 1, 2), help="0: small, 1: medium")
    args = parser.parse_args()
    use_two_cores()
    import alchemjax as aj
    from weights_convert import convert

    ours, theirs, pairs = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:

        def potential_of(name):
            convert("mace", Path(folder) / f"{name}.model", Path(folder) / name)
            return aj.load(Path(folder) / name)

        if args.mace:
            original = Original(args.mace, MACE, f"{folder}/mace.model", str(args.max_l))
            potential = potential_of("mace")
            for cells in (2, 3):
                name = f"Si{8 * cells**3}"
                ours[name] = evaluation(potential, silicon(cells))
                theirs[f"mace-torch {name}"] = partial(original.measure, cells)
                pairs.append((name, f"mace-torch {name}"))
        if args.published:
            python, code = args.published
            original = Original(python, PUBLISHED, f"{folder}/published.model", str(args.max_l), code)
            potential = potential_of("published")
            for count in (2, 3, 5):
                name = f"published code, Si64 K={count}"
                theirs[name] = partial(original.measure, 2, SPECIES[:count])
                for coupling in ("published", "independent"):
                    own = f"Si64 K={count}, {coupling}"
                    ours[own] = evaluation(potential, silicon(2, SPECIES[:count], coupling))
                    pairs.append((own, name))
        medians, energies = in_turns(ours, theirs, args.repeats)
    for name, seconds in medians.items():
        print(f"{name:36s} {1e3 * seconds:8.1f} ms   {energies[name]:12.5f} eV")
    for own, other in pairs:
        print(f"{own}: {medians[other] / medians[own]:.1f} times faster than {other}")
    side_by_side.write(args.json, medians, args.repeats)


if __name__ == "__main__":
    main()
