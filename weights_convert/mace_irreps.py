"""Irreps and instructions of e3nn modules: only what a MACE network of natural parity has is understood."""

import math
import re
from typing import Any

from .archive import RefusedFile
from .inert_pickle import Record
from .torch_module import Module, refusal

MAX_CHANNELS = 10**6
MAX_BLOCKS = 100
_BLOCK = r"([1-9][0-9]{0,5})x([0-9])([eo])"
_BLOCKS = rf"{_BLOCK}( ?\+ ?{_BLOCK})*"

Block = tuple[int, int]  # channels, l


def _record(value: Any, name: str) -> tuple:
    """Items of a pickled tuple of e3nn."""
    match value:
        case Record(name=full, args=(tuple() as items,)) if full == f"e3nn.o3._irreps {name}":
            return items
    raise ValueError


def _triples(value: Any) -> list[tuple[int, int, int]]:
    """List (channels, l, parity) of what e3nn holds or of a text such as 128x0e+128x1o."""
    if isinstance(value, str) and len(value) < 200 and re.fullmatch(_BLOCKS, value):
        return [(int(count), int(l), 1 if p == "e" else -1) for count, l, p in re.findall(_BLOCK, value)]
    blocks = [_record(item, "_MulIr") for item in _record(value, "Irreps")]
    return [(channels, *_record(irrep, "Irrep")) for channels, irrep in blocks]


def blocks(module: Module, name: str) -> list[Block]:
    """Read (channels, l) of an attribute; only natural parities, in order of l.

    Raises:
        RefusedFile: they are others.
    """
    value = module.get(name)
    try:
        triples = _triples(value)
        if not 0 < len(triples) <= MAX_BLOCKS:
            raise ValueError
        numbers = [number for triple in triples for number in triple]
        sound = all(type(number) is int for number in numbers)
        natural = sound and all(parity == (-1) ** degree for _, degree, parity in triples)
        degrees = [degree for _, degree, _ in triples]
        if not natural or degrees != sorted(degrees) or not all(0 < count <= MAX_CHANNELS for count, *_ in triples):
            raise ValueError
    except (TypeError, ValueError):
        raise refusal(module.place(name), value, "irreps 0e, 1o, 2e, ... in this order") from None
    return [(count, degree) for count, degree, _ in triples]


def channels(module: Module, name: str) -> list[int]:
    """Read the channels of l = 0, 1, ... of an attribute; several blocks of one l count together."""
    found = blocks(module, name)
    degrees = sorted({degree for _, degree in found})
    if degrees != list(range(len(degrees))):
        raise refusal(module.place(name), module.get(name), "irreps of all l from 0 to the largest")
    return [sum(count for count, degree in found if degree == wanted) for wanted in degrees]


def check_channels(module: Module, name: str, expected: list[int]) -> list[Block]:
    """Refuse if an attribute has other irreps than those that the rest of the network calls for."""
    if channels(module, name) != expected:
        raise RefusedFile(f"irreps {module.place(name)} do not fit the network; {expected} channels are needed")
    return blocks(module, name)


def _check_instructions(module: Module, kind: str, expected: list[tuple]) -> None:
    """Compare paths, their modes and their normalisation."""
    found = module.get("instructions")
    if not isinstance(found, list) or len(found) != len(expected):
        raise RefusedFile(f"module {module.path} has not the {len(expected)} paths that this network needs")
    for record, values in zip(found, expected, strict=True):
        same = isinstance(record, Record) and record.name == kind and len(record.args) == len(values)
        if not same or not all(map(_alike, record.args, values)):
            raise RefusedFile(f"module {module.path} has other paths or norms than this network needs")


def _alike(found: Any, needed: Any) -> bool:
    if isinstance(needed, float):
        return type(found) is float and math.isclose(found, needed, rel_tol=1e-6)
    return type(found) is type(needed) and found == needed


def check_linear(module: Module, inputs: list[int], outputs: list[int]) -> None:
    """Check that a Linear maps so many channels of every l: its weight is then one matrix after another."""
    source = check_channels(module, "irreps_in", inputs)
    target = check_channels(module, "irreps_out", outputs)
    if len(target) != len(outputs):
        raise RefusedFile(f"module {module.path} has several output blocks of one l; one is supported")
    paths = [
        (i, o, (rows, columns), 1 / math.sqrt(inputs[degree]))
        for i, (rows, degree) in enumerate(source)
        for o, (columns, other) in enumerate(target)
        if degree == other
    ]
    _check_instructions(module, "e3nn.o3._linear Instruction", paths)


def check_skip(module: Module, inputs: list[int], species: int, outputs: list[int]) -> None:
    """Check that a fully connected product with the one-hot species maps so many channels of every l."""
    check_channels(module, "irreps_in1", inputs)
    check_channels(module, "irreps_in2", [species])
    check_channels(module, "irreps_out", outputs)
    if len(blocks(module, "irreps_in1")) != len(inputs) or len(blocks(module, "irreps_out")) != len(outputs):
        raise RefusedFile(f"module {module.path} has several blocks of one l; one is supported")
    paths = [
        (l, 0, l, "uvw", True, math.sqrt((2 * l + 1) / (rows * species)), (rows, species, columns))
        for l, (rows, columns) in enumerate(zip(inputs, outputs, strict=False))
    ]
    _check_instructions(module, "e3nn.o3._tensor_product._instruction Instruction", paths)


def check_convolution(module: Module, inputs: list[int], max_ell: int, paths: list[tuple[int, int, int]]) -> None:
    """Check that the convolution has exactly these paths in this order, each with an output of its own."""
    check_channels(module, "irreps_in1", inputs)
    check_channels(module, "irreps_in2", [1] * (max_ell + 1))
    if blocks(module, "irreps_out") != [(inputs[l1], l3) for l1, _, l3 in paths]:
        raise RefusedFile(f"irreps {module.place('irreps_out')} do not fit the paths of this network")
    expected = [
        (l1, l2, index, "uvu", True, math.sqrt(2 * l3 + 1), (inputs[l1], 1)) for index, (l1, l2, l3) in enumerate(paths)
    ]
    _check_instructions(module, "e3nn.o3._tensor_product._instruction Instruction", expected)
