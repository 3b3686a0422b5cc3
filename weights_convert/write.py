"""Check a neutral model and write it: the same model gives the same bytes, on any machine."""

import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from . import layout, mace_layout, nequix_layout
from .archive import RefusedFile, short
from .official import licence_text

VERSION = "0.1.0"
FORMAT_VERSION = 1
LICENCE = "LICENSE"
ABANDONED = 3600  # s

_SHAPES = {
    "sevennet": layout.tensor_shapes,
    "mace": mace_layout.tensor_shapes,
    "nequix": nequix_layout.tensor_shapes,
}

Tensors = dict[str, np.ndarray]


def check_model(config: Mapping[str, Any], tensors: Tensors) -> None:
    """Refuse a model whose tensors are not exactly those its config calls for, full of finite numbers."""
    dtype = config["dtype"]
    expected = _SHAPES[config["family"]](len(config["species"]), config["architecture"])
    if tensors.keys() != expected.keys():
        wrong = min(tensors.keys() ^ expected.keys())
        raise RefusedFile(f"the converted model {'also has' if wrong in tensors else 'lacks'} tensor {wrong}")
    for name, shape in expected.items():
        if tensors[name].shape != shape or tensors[name].dtype != dtype:
            found = f"{list(tensors[name].shape)} of {tensors[name].dtype}"
            raise RefusedFile(f"tensor {name} is {found}; {list(shape)} of {dtype} is needed")
        if not np.isfinite(tensors[name]).all():
            raise RefusedFile(f"tensor {name} has values that are not finite; all must be")


def model_files(config: Mapping[str, Any], tensors: Tensors) -> dict[str, bytes]:
    """Check a model and return the contents of its files, config.json last: who finds it finds the others."""
    check_model(config, tensors)
    files = {"model.safetensors": save({name: np.asarray(array, order="C") for name, array in tensors.items()})}
    if text := licence_text(config["source"]["recognised_as"]):
        files[LICENCE] = text.encode("ascii")
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    return files | {"config.json": text.encode("ascii")}


def write_files(out: Path, files: Mapping[str, bytes], *, overwrite: bool = False) -> None:
    """Write files at paths below `out`; they appear together when all are complete, or not at all.

    With `overwrite` files of these names are replaced in an existing folder, in their order, and others are left alone.
    What a killed process left behind when it wrote the same is removed after an hour.

    Raises:
        RefusedFile: `out` is a file, or a folder that is not empty without `overwrite`.
    """
    if out.exists() and not out.is_dir():
        raise RefusedFile(f"output {short(str(out))} is a file; a new or empty folder is needed")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise RefusedFile(f"output folder {short(str(out))} is not empty; choose another or --overwrite")
    out = Path(os.path.abspath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        if left.stat().st_mtime < time.time() - ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    partial = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    try:
        for name, data in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(data)
        if not out.exists():
            partial.rename(out)
            return
        for name in files:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            licence = Path(name).with_name(LICENCE)
            if str(licence) not in files and (out / licence.with_name("config.json")).is_file():
                (out / licence).unlink(missing_ok=True)  # it is that of other weights
            os.replace(partial / name, out / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
