"""A potential from a converted model: `model.safetensors` + `config.json`, and nothing else."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from alchemjax.model import mace, nequix, sevennet

FORMAT_VERSION = 1
FAMILIES = {"sevennet": sevennet, "nequix": nequix, "mace": mace}


class Potential(NamedTuple):
    """A network with its parameters: `node_energies(params, config, graph)` in eV."""

    name: str
    params: dict[str, Any]
    config: Any  # hashable hyper-parameters, static under jit
    node_energies: Callable
    species: tuple[str, ...]  # chemical symbols, in the order of the species table
    cutoff: float  # A
    dtype: str  # of parameters and results
    sha256: str  # of the weights file
    source: dict[str, Any]  # where the weights came from
    per_node: bool = False  # radial functions see the species of both ends: edges between nodes


def read_model(
    folder: Path, dtype: str = "float32", *, head: str | None = None, modality: str | None = None
) -> Potential:
    """Read a converted model. Of several heads the one named "default" (in any case) is taken where none is chosen.

    Errors: ValueError for a missing or malformed file, an unknown family or version, a wrong or missing array, numbers
    too large for the dtype, a head or modality that is not there or, in a model with several, not chosen.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype '{dtype}' is not supported; allowed are float32 and float64")
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(
            f"'{folder}' is not a converted model: {str(error).splitlines()[0]}; it must hold config.json and "
            "model.safetensors"
        ) from None
    if config.get("format_version") != FORMAT_VERSION or config.get("family") not in FAMILIES:
        raise ValueError(
            f"'{folder}' has family '{config.get('family')}', format version {config.get('format_version')}; "
            f"this alchemjax reads {', '.join(FAMILIES)}, version {FORMAT_VERSION}: convert the model again"
        )
    family = FAMILIES[config["family"]]
    heads = config["architecture"].get("heads") or []
    head = head or _default_head(heads)
    rows = [_row(config, "modality", "modalities", modality), _row(config, "head", "heads", head)]
    _check_shapes(folder, tensors, family.parameter_shapes(config["architecture"], len(config["species"])))
    with jax.enable_x64(dtype == "float64"):
        with np.errstate(over="ignore", invalid="ignore"):
            prepared = {k: np.asarray(v, dtype) for k, v in family.prepare(config["architecture"], tensors).items()}
        _check_range(folder, prepared, dtype)
        params = _nested({k: jax.numpy.asarray(v) for k, v in prepared.items()})
    architecture = config["architecture"] | {"dtype": config["dtype"], "species": config["species"]}
    network = family.read_config(architecture, next((row for row in rows if row is not None), None))
    chosen = modality or (head if len(heads) > 1 else None)
    return Potential(
        name=config["name"] + (f"/{chosen}" if chosen else ""),
        params=params,
        config=network,
        node_energies=family.node_energies,
        species=tuple(config["species"]),
        cutoff=network.cutoff,
        dtype=dtype,
        sha256=sha256,
        source=config["source"],
        per_node=network.per_node,
    )


def _default_head(heads: list[str]) -> str | None:
    """The only head, or the one named "default"."""
    default = [name for name in heads if len(heads) == 1 or name.lower() == "default"]
    return default[0] if default else None


def _row(config: dict, what: str, several: str, chosen: str | None) -> int | None:
    """Row of a modality or head among the names in the architecture; None for a model without any."""
    names = config["architecture"].get(several) or []
    if not names and chosen is None:
        return None
    if not names:
        raise ValueError(f"{config['name']} has no {several}; '{chosen}' was asked for: leave {what} out")
    if chosen not in names:
        problem = "none was chosen" if chosen is None else f"'{chosen}' is not one of them"
        raise ValueError(f"{config['name']} has the {several} {', '.join(names)}; {problem}: pass {what}=")
    return names.index(chosen)


def _check_shapes(folder: Path, tensors: dict, shapes: dict) -> None:
    if set(tensors) != set(shapes):
        odd = sorted(set(tensors) ^ set(shapes))
        raise ValueError(f"'{folder}' has missing or unexpected arrays: {', '.join(odd[:4])}; convert the model again")
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name] or not np.isfinite(tensor).all():
            raise ValueError(
                f"array '{name}' in '{folder}' has shape {tensor.shape} or is not finite; "
                f"expected {shapes[name]}: convert the model again"
            )


def _check_range(folder: Path, arrays: dict[str, np.ndarray], dtype: str) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            remedy = "load it with dtype='float64'" if dtype == "float32" else "use another model"
            raise ValueError(f"array '{name}' in '{folder}' has numbers that are too large for {dtype}; {remedy}")


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[last] = value
    return nested
