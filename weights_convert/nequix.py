"""Nequix files (nequix 0.1 to 0.4) to neutral models.

A file is a line of JSON, then the leaves of the model as npy arrays. Some files go on with the numbers of the JSON
line as npy scalars, or with a newline: both add nothing, and nothing else may follow.
"""

from pathlib import Path
from typing import Any

import numpy as np

from . import nequix_config
from .archive import RefusedFile, read_bytes, refuse_malformed, short
from .elements import SYMBOLS
from .nequix_layout import radial_order, tensor_shapes
from .npy import Arrays
from .official import known_sums, licence_of
from .source import Progress, Source, convert_sources, make_source
from .write import FORMAT_VERSION, VERSION, Tensors

URL = "https://github.com/atomicarchitects/nequix"
KNOWN = known_sums("nequix")
MAX_LINE_BYTES = 1 << 16
_SCALARS = {bool: "|b1", int: "<i8", float: "<f8"}


def convert_nequix(
    path: str | Path, model: str | None = None, progress: Progress | None = None
) -> dict[str, tuple[dict[str, Any], Tensors]]:
    """Convert the model at `path` to {name: (config, tensors)}.

    Raises:
        RefusedFile: the file is not what it should be, or its network is not one that is supported.
    """
    return convert_sources(Path(path), model, _find_models, _convert, progress)


def _find_models(path: Path, model: str | None) -> list[Source]:
    if not path.exists():
        raise RefusedFile(f"{short(str(path))} does not exist; a .nqx file is needed")
    source = make_source(path.name.removesuffix(".nqx"), path.name, read_bytes(path), KNOWN)
    if model not in (None, source.name):
        raise RefusedFile(f"{short(path.name)} is {short(source.name)}, not {short(model)}")
    return [source]


def _convert(source: Source) -> tuple[dict[str, Any], Tensors]:
    what = short(source.file)
    end = source.data.find(b"\n", 0, MAX_LINE_BYTES)
    if end < 0:
        raise RefusedFile(
            f"{what} has no first line of at most {MAX_LINE_BYTES} bytes; a Nequix file has its settings there"
        )
    with refuse_malformed(f"the first line of {what}"):
        settings = nequix_config.read_settings(source.data[:end])
    architecture = nequix_config.architecture(settings)
    arrays = Arrays(source.data[end + 1 :], what)
    tensors = _tensors(arrays, architecture)
    nequix_config.check_atom_energies(settings, tensors["atomic_energies"].tolist())
    _finish(arrays, settings, what)
    config = {
        "format_version": FORMAT_VERSION,
        "family": "nequix",
        "name": source.name,
        "dtype": "float32",
        "species": [SYMBOLS[z - 1] for z in nequix_config.atomic_numbers(settings)],
        "architecture": architecture,
        "source": {
            "file": source.file,
            "sha256": source.sha256,
            "recognised_as": source.recognised_as,
            "licence": licence_of(source.recognised_as),
            "url": URL if source.recognised_as else None,
        },
        "converter": {"name": "weights_convert", "version": VERSION},
    }
    return config, tensors


def _tensors(arrays: Arrays, architecture: dict[str, Any]) -> Tensors:
    """Take all arrays, in their order in the file, which is that of the shapes."""
    multiplicities = architecture["multiplicities"]
    shapes = tensor_shapes(multiplicities[0][0], architecture)
    tensors = {name: arrays.take(name, shape) for name, shape in shapes.items()}
    last = len(architecture["radial_hidden"])
    for t, (inputs, outputs) in enumerate(zip(multiplicities, multiplicities[1:], strict=False)):
        name, order = f"layers.{t}.radial.{last}", radial_order(inputs, architecture["lmax"], outputs)
        tensors[name] = np.ascontiguousarray(tensors[name][:, order])
    return tensors


def _finish(arrays: Arrays, settings: dict[str, Any], what: str) -> None:
    """Refuse if more follows than the settings' own numbers."""
    if arrays.at_end():
        return
    for place, number in enumerate(nequix_config.numbers(settings)):
        repeated = arrays.take(f"of number {place} in the settings", (), _SCALARS[type(number)])
        if repeated.item() != number:
            raise RefusedFile(f"{what} repeats number {place} of its settings with another value")
    if not arrays.at_end():
        raise RefusedFile(f"{what} goes on after its last array; nothing may follow")
