"""Pickled MACE models (mace-torch 0.3.4 to 0.3.16) to neutral models."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from . import mace_config
from .archive import RefusedFile, short
from .elements import SYMBOLS
from .equivariance import check_equivariant
from .layout import Shapes
from .mace_layout import message_channels, radial_shapes, skip_degrees, tensor_shapes
from .mace_sources import NAMES, URL, find_models
from .official import licence_of
from .source import Progress, Source, convert_sources
from .state_dict import StateDict
from .torch_file import TorchFile
from .torch_module import Module
from .write import FORMAT_VERSION, VERSION, Tensors

MODELS = ("ScaleShiftMACE", "MACE")
DTYPES = {"<f4": "float32", "<f8": "float64"}
_RADII = 119  # one for each atomic number from 0


def convert_mace(
    path: str | Path, model: str | None = None, progress: Progress | None = None
) -> dict[str, tuple[dict[str, Any], Tensors]]:
    """Convert the model at `path` to {name: (config, tensors)}.

    Raises:
        RefusedFile: the file is not what it should be, or its network is not one that is supported.
    """
    return convert_sources(Path(path), model, find_models, _convert, progress)


def _convert(source: Source) -> tuple[dict[str, Any], Tensors]:
    file = TorchFile(source.data, short(source.file), NAMES)
    root = Module(file.top)
    if root.kind not in MODELS:
        raise RefusedFile(f"{short(source.file)} is a {short(root.kind)}; only {' and '.join(MODELS)} are read")
    described = root.tensors()
    embedding = described.get("node_embedding.linear.weight")
    dtype = embedding.storage.dtype if embedding else None
    if dtype not in DTYPES:
        raise RefusedFile(f"{short(source.file)} has weights of {dtype}; float32 and float64 are supported")
    state = StateDict(file, described, dtype)
    numbers = mace_config.species(state)
    reader = mace_config.Reader(file, root, state)
    architecture = mace_config.architecture(reader, len(numbers), dtype)
    root.finish()
    tensors = _tensors(state, numbers, architecture, plain=root.kind == "MACE", dtype=DTYPES[dtype])
    state.finish()
    config = {
        "format_version": FORMAT_VERSION,
        "family": "mace",
        "name": source.name,
        "dtype": DTYPES[dtype],
        "species": [SYMBOLS[z - 1] for z in numbers],
        "architecture": architecture,
        "source": {
            "file": source.file,
            "sha256": source.sha256,
            "recognised_as": source.recognised_as,
            "model_class": root.kind,
            "layout": "early" if root.get("heads") is None else "current",
            "licence": licence_of(source.recognised_as),
            "url": URL if source.recognised_as else None,
        },
        "converter": {"name": "weights_convert", "version": VERSION},
    }
    return config, tensors


def _linear(state: StateDict, module: str, targets: Shapes, outputs: list[int]) -> Tensors:
    """Take a Linear; its flat weight holds the target matrices one after another."""
    state.take(f"{module}.bias", (0,))
    return _split(state, module, targets, outputs)


def _split(state: StateDict, module: str, targets: Shapes, outputs: list[int]) -> Tensors:
    sizes = [math.prod(shape) for shape in targets.values()]
    flat = state.take(f"{module}.weight", (sum(sizes),))
    state.take_mask(f"{module}.output_mask", outputs, len(targets))
    blocks = np.split(flat, np.cumsum(sizes)[:-1])
    return {name: block.reshape(targets[name]) for name, block in zip(targets, blocks, strict=True)}


def _tensors(state: StateDict, numbers: list[int], architecture: dict[str, Any], *, plain: bool, dtype: str) -> Tensors:
    shapes = tensor_shapes(len(numbers), architecture)
    embedding = {"embedding": shapes["embedding"]}
    tensors = _linear(state, "node_embedding.linear", embedding, [architecture["channels"]])
    for name in ("bessel_weights", "prefactor"):
        tensors[name] = state.take(f"radial_embedding.bessel_fn.{name}", shapes[name])
    tensors |= _pairs(state, numbers, architecture)
    for t in range(len(architecture["layers"])):
        tensors |= _interaction(state, t, architecture, shapes)
        tensors |= _product(state, t, architecture, shapes)
        tensors |= _readout(state, t, architecture, shapes)

    heads = len(architecture["heads"])
    row = ((len(numbers),),) if heads == 1 else ()
    energies = state.take("atomic_energies_fn.atomic_energies", shapes["atomic_energies"], *row)
    tensors["atomic_energies"] = energies.reshape(shapes["atomic_energies"])
    for name, value in (("scale", 1), ("shift", 0)):
        values = np.array(value, dtype) if plain else state.take(f"scale_shift.{name}", (heads,), (), (1,))
        tensors[name] = np.broadcast_to(values, (heads,)).copy()
    return tensors


def _pairs(state: StateDict, numbers: list[int], architecture: dict[str, Any]) -> Tensors:
    """Take what sees the species of both ends of an edge."""
    tensors: Tensors = {}
    radii = []
    if architecture["distance_transform"]:
        module = "radial_embedding.distance_transform"
        tensors["agnesi"] = np.stack([state.take(f"{module}.{name}", ()) for name in "aqp"])
        radii.append(state.take(f"{module}.covalent_radii", (_RADII,)))
    if architecture["zbl"]:
        for name, shape in (("c", (4,)), ("a_exp", ()), ("a_prefactor", ())):
            tensors[f"zbl.{name}"] = state.take(f"pair_repulsion_fn.{name}", shape)
        radii.append(state.take("pair_repulsion_fn.covalent_radii", (_RADII,)))
    if radii:
        tensors["covalent_radii"] = mace_config.covalent_radii(radii, numbers)
    return tensors


def _targets(shapes: Shapes, prefix: str, degrees: int) -> Shapes:
    return {f"{prefix}.{degree}": shapes[f"{prefix}.{degree}"] for degree in range(degrees)}


def _interaction(state: StateDict, t: int, architecture: dict[str, Any], shapes: Shapes) -> Tensors:
    layer, max_ell = architecture["layers"][t], architecture["max_ell"]
    messages = [architecture["channels"]] * (max_ell + 1)
    old, new, inputs = f"interactions.{t}", f"layers.{t}", layer["inputs"]
    tensors = _linear(state, f"{old}.linear_up", _targets(shapes, f"{new}.linear_up", len(inputs)), inputs)
    state.take(f"{old}.conv_tp.weight", (0,))
    middle = message_channels(layer, max_ell)
    state.take_mask(f"{old}.conv_tp.output_mask", middle, len(middle))
    for k, (name, shape) in enumerate(radial_shapes(t, layer, architecture).items()):
        tensors[name] = state.take(f"{old}.conv_tp_weights.layer{k}.weight", shape)
    tensors |= _linear(state, f"{old}.linear", _targets(shapes, f"{new}.linear", max_ell + 1), messages)
    if layer["density"]:
        tensors[f"{new}.density"] = state.take(f"{old}.density_fn.layer0.weight", shapes[f"{new}.density"])
    skips = _targets(shapes, f"{new}.skip", skip_degrees(layer, max_ell))
    tensors |= _split(state, f"{old}.skip_tp", skips, layer["outputs"] if layer["residual"] else messages)
    return tensors


def _product(state: StateDict, t: int, architecture: dict[str, Any], shapes: Shapes) -> Tensors:
    layer = architecture["layers"][t]
    outputs, correlation, max_ell = layer["outputs"], layer["correlation"], architecture["max_ell"]
    tensors: Tensors = {}
    for degree in range(len(outputs)):
        module, new = f"products.{t}.symmetric_contractions.contractions.{degree}", f"layers.{t}.product.{degree}"
        names = {correlation: "max"} | {correlation - 1 - i: str(i) for i in range(correlation - 1)}
        for nu, name in names.items():
            weights = "weights_max" if name == "max" else f"weights.{name}"
            basis = tensors[f"{new}.U.{nu}"] = state.take(f"{module}.U_matrix_{nu}", shapes[f"{new}.U.{nu}"])
            check_equivariant(f"{module}.U_matrix_{nu}", basis, degree, max_ell, nu)
            tensors[f"{new}.W.{nu}"] = state.take(f"{module}.{weights}", shapes[f"{new}.W.{nu}"])
            flag = f"{module}.weights_{name}_zeroed"
            if state.shape(flag) is not None:
                state.take(flag, (), dtypes=("|b1",))  # the weights are zeros then
    targets = _targets(shapes, f"layers.{t}.product.linear", len(outputs))
    return tensors | _linear(state, f"products.{t}.linear", targets, outputs)


def _readout(state: StateDict, t: int, architecture: dict[str, Any], shapes: Shapes) -> Tensors:
    heads = len(architecture["heads"])
    hidden = architecture["layers"][t]["readout_hidden"]
    if hidden is None:
        name = f"readouts.{t}.linear"
        return _linear(state, name, {name: shapes[name]}, [heads])
    tensors: Tensors = {}
    for k, outputs in enumerate((heads * hidden, heads)):
        name = f"readouts.{t}.{k}"
        tensors |= _linear(state, f"readouts.{t}.linear_{k + 1}", {name: shapes[name]}, [outputs])
    return tensors
