"""The original programs, each in its own environment: parity.py runs this file with that environment's python.

    python parity_originals.py make-mace FOLDER          random-weight models of parity_mace_models.py
    python parity_originals.py mace|sevenn|nequix        energies, forces, virials in double precision

Jobs come as lines of JSON, {"file", "choice", "structures"}; each is answered by a line, the list of
[energy, forces, virial or null] of its structures.
"""

import inspect
import json
import os
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
from ase import Atoms

warnings.filterwarnings("ignore")
VOIGT = ([0, 5, 4], [5, 1, 3], [4, 3, 2])


# --- MACE -------------------------------------------------------------------------------------------------------------


def import_mace():
    """torch and mace; float64 by default, since ZBL multiplies charges in the default type."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # torch 2.6 and later with e3nn 0.4
    import torch

    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    return torch


def build_mace(name: str, options: dict):
    """One model with random weights. Errors: TypeError for an option that this version of mace does not know."""
    torch = import_mace()
    from e3nn import o3
    from mace import modules

    options = dict(options)
    torch.set_default_dtype(getattr(torch, options.pop("dtype")))
    torch.manual_seed(zlib.crc32(name.encode()))
    random = np.random.default_rng(zlib.crc32(name.encode()))
    kind, elements, heads = getattr(modules, options.pop("model")), options.pop("elements"), options.get("heads")
    for key in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if key in options:
            options[key] = o3.Irreps(options[key])
    for key in ("interaction_cls", "interaction_cls_first"):
        options[key] = getattr(modules.blocks, options[key])
    options["gate"] = {"silu": torch.nn.functional.silu, "tanh": torch.tanh}[options["gate"]]
    energies = random.uniform(-10, -1, (len(heads), len(elements)) if heads else len(elements))
    defaults = {"atomic_numbers": elements, "num_elements": len(elements), "atomic_energies": energies}
    options = defaults | options
    if "ScaleShift" not in kind.__name__:
        del options["atomic_inter_scale"], options["atomic_inter_shift"]
    known = set(inspect.signature(modules.MACE).parameters) | set(inspect.signature(kind).parameters)
    if unknown := sorted(set(options) - known):
        raise TypeError(f"no option {unknown[0]}")
    model = kind(**options)
    products = 5 if "Density" in options["interaction_cls"].__name__ else 30
    for name, parameter in model.named_parameters():  # the forces of a new model are thousandths of eV/A
        if name.startswith("products") and ".weights" in name:
            parameter.data *= products
        elif name.startswith("readouts"):
            parameter.data *= 10
    return model


def make_mace(folder: Path):
    from parity_mace_models import BASE, MODELS, REFUSED

    torch = import_mace()
    every = MODELS | {name: options for name, (options, _) in REFUSED.items()}
    for name, options in every.items():
        path = folder / f"{name}.model"
        try:
            torch.save(build_mace(name, BASE | options), path)
        except (TypeError, AttributeError, KeyError, RuntimeError, ValueError, AssertionError) as error:
            path.unlink(missing_ok=True)
            print(f"this version of mace does not make '{name}': {str(error).splitlines()[0]}", file=sys.stderr)


def evaluator_mace(file: str, head: str | None):
    torch = import_mace()
    from mace.calculators import MACECalculator

    calculator = MACECalculator(
        model_paths=file, device="cpu", default_dtype="float64", **({"head": head} if head else {})
    )
    torch.set_default_dtype(torch.float64)
    virials = []  # the stress is divided by a made-up volume where axes are open, in early versions by a signed one
    calculator.models[0].register_forward_hook(lambda _, __, out: virials.append(out["virials"].detach().numpy()[0]))

    def evaluate(atoms):
        if head:
            atoms.info["head"] = head  # where versions before 0.3.13 look for it
        calculator.calculate(atoms, ["energy", "forces", "stress"])
        found = calculator.results
        return found["energy"], found["forces"], -virials[-1]

    return evaluate


# --- the others -------------------------------------------------------------------------------------------------------


def evaluator_sevenn(file: str, modality: str | None):
    """In double precision, with 3j symbols that are not rounded to float32."""
    import sevenn._keys as key
    import torch
    from e3nn import o3
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.calculator import SevenNetCalculator
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    torch.set_num_threads(2)
    calculator = SevenNetCalculator(file, device="cpu", modal=modality)
    model = calculator.model.double()
    torch.Tensor.float = torch.Tensor.double  # it makes one-hot species float
    for name, buffer in model.named_buffers():
        if "_w3j_" in name:
            exact = o3.wigner_3j(*map(int, name.rsplit("_", 3)[1:]), dtype=torch.float64)
            buffer.copy_(exact if (exact * buffer).sum() > 0 else -exact)
            assert abs(abs(buffer) - abs(exact)).max() < 1e-6

    def evaluate(atoms):
        graph = unlabeled_atoms_to_graph(atoms, calculator.cutoff)
        exact = {name: np.asarray(value) for name, value in graph.items() if np.asarray(value).dtype == np.float64}
        data = AtomGraphData.from_numpy_dict(graph)  # rounds to float32
        for name, value in data.items():
            if name in exact:
                data[name] = torch.tensor(exact[name])
            elif torch.is_tensor(value) and value.is_floating_point():
                data[name] = value.double()
        if modality:
            data[key.DATA_MODALITY] = modality
        found = calculator.output_to_results(model(data))
        return found["energy"], found["forces"], found["stress"][(VOIGT,)] * (atoms.cell.volume or 1e-3)

    return evaluate


def evaluator_nequix(file: str, _: str | None):
    """In double precision: its weights are widened, and so is what it casts to float32."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from nequix import data
    from nequix.calculator import NequixCalculator

    jax.config.update("jax_enable_x64", False)
    calculator = NequixCalculator(model_path=file, use_kernel=False)
    jax.config.update("jax_enable_x64", True)
    widen = lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf
    calculator.model = jax.tree.map(widen, calculator.model)

    class Numpy:
        def __getattr__(self, name):
            return getattr(np, "float64" if name == "float32" else name)

    data.np = Numpy()

    def evaluate(atoms):
        calculator.results = {}
        calculator.calculate(atoms)
        found = calculator.results
        stress = found.get("stress")
        virial = None if stress is None else np.asarray(stress)[(VOIGT,)] * atoms.cell.volume
        return found["energy"], found["forces"], virial

    return evaluate


EVALUATORS = {"mace": evaluator_mace, "sevenn": evaluator_sevenn, "nequix": evaluator_nequix}


def run(program: str):
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some of the programs print
    for line in sys.stdin:
        job = json.loads(line)
        evaluate = EVALUATORS[program](job["file"], job["choice"])
        found = [evaluate(Atoms(**structure)) for structure in job["structures"]]
        assert all(np.asarray(forces).dtype == np.float64 for _, forces, _ in found)
        lists = [[None if value is None else np.asarray(value).tolist() for value in each] for each in found]
        print(json.dumps(lists), file=results, flush=True)


def versions() -> dict[str, str]:
    from importlib.metadata import distributions

    wanted = {"mace-torch", "sevenn", "nequix", "torch", "e3nn", "jax", "ase"}
    return {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] in wanted}


if __name__ == "__main__":
    if sys.argv[1] == "make-mace":
        make_mace(Path(sys.argv[2]))
    elif sys.argv[1] == "versions":
        print(json.dumps(versions()))
    elif sys.argv[1] == "sevenn-folder":
        import sevenn

        print(Path(sevenn.__file__).parent)
    else:
        run(sys.argv[1])
