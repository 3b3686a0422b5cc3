"""Which tensors a neutral Nequix model has, and their shapes; FORMAT.md says the same in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .layout import Shapes, convolution_paths, gate_multiplicities, layer_shapes


def tensor_shapes(species: int, architecture: Mapping[str, Any]) -> Shapes:
    """Shape of every tensor of a model with so many species, in the order of a Nequix file."""
    multiplicities = architecture["multiplicities"]
    shapes: Shapes = {"atomic_energies": (species,)}
    for t, outputs in enumerate(multiplicities[1:]):
        maps = layer_shapes(t, architecture, natural=True)
        for module in ("radial", "linear_1", "linear_2", "self_connection"):
            shapes |= maps[module]
        gated = gate_multiplicities(outputs)
        shapes |= {f"layers.{t}.norm.{degree}": (channels,) for degree, channels in enumerate(gated)}
    return shapes | {"readout": (multiplicities[-1][0], 1)}


def radial_order(inputs: list[int], lmax: int, outputs: list[int]) -> np.ndarray:
    """List the columns of the last radial matrix of a Nequix file in the neutral order.

    The file has the paths sorted by l3, the neutral order is by l1.

    >>> radial_order([2, 1], 1, [2, 1]).tolist()
    [0, 1, 3, 4, 5, 2]
    """
    paths = convolution_paths(inputs, lmax, outputs, natural=True)
    start, columns = 0, {}
    for path in sorted(paths, key=lambda path: path[2]):
        columns[path] = range(start, start + inputs[path[0]])
        start += inputs[path[0]]
    return np.concatenate([columns[path] for path in paths])
