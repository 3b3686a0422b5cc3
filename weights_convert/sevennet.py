"""SevenNet checkpoints (sevenn 0.9 and 0.10) to neutral models."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from . import sevennet_config
from .archive import RefusedFile, short
from .layout import Shapes, convolution_paths, gate_multiplicities, layer_shapes, tensor_shapes
from .official import licence_of
from .sevennet_sources import find_checkpoints
from .source import Progress, Source, convert_sources
from .state_dict import StateDict
from .three_j import three_j
from .torch_file import Tensor, TorchFile
from .write import FORMAT_VERSION, VERSION, Tensors

URL = "https://github.com/MDIL-SNU/SevenNet"

_OLD_MODULES = {
    "EdgeEmbedding": "edge_embedding",
    "reducing nn input to hidden": "reduce_input_to_hidden",
    "reducing nn hidden to energy": "reduce_hidden_to_energy",
}


def convert_sevennet(
    path: str | Path, model: str | None = None, progress: Progress | None = None
) -> dict[str, tuple[dict[str, Any], Tensors]]:
    """Convert the checkpoint at `path`, or those of a wheel or folder, to {name: (config, tensors)}.

    Raises:
        RefusedFile: the file is not what it should be, or its network is not one that is supported.
    """
    return convert_sources(Path(path), model, find_checkpoints, _convert, progress)


def _convert(source: Source) -> tuple[dict[str, Any], Tensors]:
    file = TorchFile(source.data, short(source.file))
    if not isinstance(file.top, dict) or not isinstance(file.top.get("config"), dict):
        raise RefusedFile(f"{short(source.file)} has no dictionary `config`; a SevenNet checkpoint has one")
    settings = file.top["config"]
    version = sevennet_config.sevenn_version(settings)
    species = sevennet_config.species(settings)
    architecture = sevennet_config.architecture(settings)
    state = _state(file, file.top.get("model_state_dict"))
    tensors = _tensors(state, len(species), architecture)
    architecture["w3j_signs"] = _signs(state, architecture)
    state.finish()
    config = {
        "format_version": FORMAT_VERSION,
        "family": "sevennet",
        "name": source.name,
        "dtype": "float32",
        "species": species,
        "architecture": architecture,
        "source": {
            "file": source.file,
            "sha256": source.sha256,
            "recognised_as": source.recognised_as,
            "sevenn_version": version,
            "licence": licence_of(source.recognised_as),
            "url": URL if source.recognised_as else None,
        },
        "converter": {"name": "weights_convert", "version": VERSION},
    }
    return config, tensors


def _state(file: TorchFile, state: Any) -> StateDict:
    """All tensors, under the names sevenn uses today."""
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise RefusedFile("model_state_dict is not a dictionary of tensors, as it must be")
    tensors = {_modern(str(name)): tensor for name, tensor in state.items()}
    if len(tensors) != len(state):
        raise RefusedFile("model_state_dict has a tensor under its old and its new name; one is allowed")
    return StateDict(file, tensors)


def _modern(name: str) -> str:
    """Return the name that sevenn uses since April 2024."""
    module, dot, rest = name.partition(".")
    module = _OLD_MODULES.get(module, module).replace(" ", "_")
    return module + dot + rest.replace("denumerator", "denominator")


def _take_linear(state: StateDict, module: str, targets: Shapes, outputs: list[int]) -> Tensors:
    """Take a linear map; its flat weight holds the target matrices one after another."""
    sizes = [math.prod(shape) for shape in targets.values()]
    flat = state.take(f"{module}.linear.weight", (sum(sizes),))
    state.take(f"{module}.linear.bias", (0,))
    fed = sum(not name.endswith(".modality") for name in targets)
    state.take_mask(f"{module}.linear.output_mask", outputs, fed)
    blocks = np.split(flat, np.cumsum(sizes)[:-1])
    return {name: block.reshape(targets[name]) for name, block in zip(targets, blocks, strict=True)}


def _tensors(state: StateDict, species: int, architecture: dict[str, Any]) -> Tensors:
    multiplicities = architecture["multiplicities"]
    shapes = tensor_shapes(species, architecture)
    layers = len(multiplicities) - 1

    frequencies = state.take("edge_embedding.basis_function.coeffs", shapes["bessel_frequencies"])
    tensors = {"bessel_frequencies": frequencies}
    embedding = {"embedding": shapes["embedding"]}
    tensors |= _take_linear(state, "onehot_to_feature_x", embedding, multiplicities[0])
    for t in range(layers):
        tensors |= _layer(state, t, architecture)
    denominators = [state.take(f"{t}_convolution.denominator", (1,)) for t in range(layers)]
    tensors["denominators"] = np.concatenate(denominators)
    if not (tensors["denominators"] > 0).all():
        raise RefusedFile("a convolution has a denominator that is not positive; all must be")

    hidden = {name: shapes[name] for name in ("readout.0", "readout.modality") if name in shapes}
    tensors |= _take_linear(state, "reduce_input_to_hidden", hidden, [shapes["readout.1"][0]])
    tensors |= _take_linear(state, "reduce_hidden_to_energy", {"readout.1": shapes["readout.1"]}, [1])
    for name in ("shift", "scale"):
        one_for_all = () if architecture["modalities"] else ((1,),)
        values = state.take(f"rescale_atomic_energy.{name}", shapes[name], *one_for_all)
        tensors[name] = np.broadcast_to(values, shapes[name]).copy()
    return tensors


def _layer(state: StateDict, t: int, architecture: dict[str, Any]) -> Tensors:
    inputs, outputs = architecture["multiplicities"][t : t + 2]
    shapes = layer_shapes(t, architecture)
    gated = gate_multiplicities(outputs)
    tensors = _take_linear(state, f"{t}_self_connection_intro", shapes["self_connection"], gated)
    tensors |= _take_linear(state, f"{t}_self_interaction_1", shapes["linear_1"], inputs)
    tensors |= _take_linear(state, f"{t}_self_interaction_2", shapes["linear_2"], gated)
    for k, (name, shape) in enumerate(shapes["radial"].items()):
        tensors[name] = state.take(f"{t}_convolution.weight_nn.layer{k}.weight", shape)

    middle = [shapes["linear_2"][f"layers.{t}.linear_2.{degree}"][0] for degree in range(len(outputs))]
    state.take(f"{t}_convolution.convolution.weight", (0,))
    state.take_mask(f"{t}_convolution.convolution.output_mask", middle, len(middle))
    state.take(f"{t}_equivariant_gate.gate.mul.weight", (0,))
    state.take_mask(f"{t}_equivariant_gate.gate.mul.output_mask", [0, *outputs[1:]], len(outputs))
    return tensors


def _signs(state: StateDict, architecture: dict[str, Any]) -> dict[str, int]:
    """Find the 3j symbols that had the opposite sign at training time; return {"l1,l2,l3": -1}."""
    signs: dict[tuple[int, int, int], int] = {}
    multiplicities = architecture["multiplicities"]
    for t, (inputs, outputs) in enumerate(zip(multiplicities, multiplicities[1:], strict=False)):
        for path in convolution_paths(inputs, architecture["lmax"], outputs):
            if min(path) == 0:
                continue
            formula = three_j(*path)
            name = "{}_convolution.convolution._compiled_main_left_right._w3j_{}_{}_{}".format(t, *path)
            stored = state.take(name, formula.shape)
            sign = 1 if (stored * formula).sum() > 0 else -1
            if abs(stored - sign * formula).max() > 1e-6 or signs.setdefault(path, sign) != sign:
                raise RefusedFile(f"tensor {name} is not the 3j symbol up to one sign in all layers")
    return {",".join(map(str, path)): -1 for path, sign in sorted(signs.items()) if sign < 0}
