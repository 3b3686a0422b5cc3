"""Which tensors a neutral SevenNet model has, and their shapes; FORMAT.md says the same in words.

The layers of a Nequix model are the same, with fewer paths.
"""

from collections.abc import Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]


def convolution_paths(
    inputs: list[int], lmax: int, outputs: list[int], *, natural: bool = False
) -> list[tuple[int, int, int]]:
    """List the paths (l1 of sender, l2 of edge, l3 of message) in the order of the radial weights.

    With natural parity (0e 1o 2e 3o) l1 + l2 + l3 is even.

    >>> convolution_paths([128], 2, [128, 64, 32])
    [(0, 0, 0), (0, 1, 1), (0, 2, 2)]
    """
    return [
        (l1, l2, l3)
        for l1 in range(len(inputs))
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), l1 + l2 + 1, 2 if natural else 1)
        if l3 < len(outputs)
    ]


def gate_multiplicities(outputs: list[int]) -> list[int]:
    """Multiplicities before the gate: the scalars carry one gate for every channel of l > 0.

    >>> gate_multiplicities([128, 64, 32])
    [224, 64, 32]
    """
    return [sum(outputs), *outputs[1:]]


def _linear(prefix: str, inputs: list[int], outputs: list[int], modalities: int = 0) -> Shapes:
    """One matrix per l that is on both sides, then a row per modality that is added to the scalars."""
    pairs = zip(inputs, outputs, strict=False)
    shapes: Shapes = {f"{prefix}.{degree}": pair for degree, pair in enumerate(pairs)}
    if modalities:
        shapes[f"{prefix}.modality"] = (modalities, outputs[0])
    return shapes


def layer_shapes(t: int, architecture: Mapping[str, Any], *, natural: bool = False) -> dict[str, Shapes]:
    """Shapes of layer t, module by module, each in the order of the original's flat weights."""
    inputs, outputs = architecture["multiplicities"][t : t + 2]
    modalities = len(architecture.get("modalities") or ())
    paths = convolution_paths(inputs, architecture["lmax"], outputs, natural=natural)
    middle = [sum(inputs[l1] for l1, _, l3 in paths if l3 == degree) for degree in range(len(outputs))]
    weights = sum(inputs[l1] for l1, _, _ in paths)
    widths = [architecture["radial_basis"], *architecture["radial_hidden"], weights]
    gated = gate_multiplicities(outputs)
    return {
        "self_connection": _linear(f"layers.{t}.self_connection", inputs, gated),
        "linear_1": _linear(f"layers.{t}.linear_1", inputs, inputs, modalities),
        "linear_2": _linear(f"layers.{t}.linear_2", middle, gated, modalities),
        "radial": {f"layers.{t}.radial.{k}": (widths[k], widths[k + 1]) for k in range(len(widths) - 1)},
    }


def tensor_shapes(species: int, architecture: Mapping[str, Any]) -> Shapes:
    """Shape of every tensor of a model with so many species."""
    multiplicities = architecture["multiplicities"]
    layers = len(multiplicities) - 1
    modalities = len(architecture["modalities"] or ())
    scalars = multiplicities[-1][0]
    shapes: Shapes = {
        "embedding": (species, multiplicities[0][0]),
        "bessel_frequencies": (architecture["radial_basis"],),
        "denominators": (layers,),
        "shift": (modalities, species) if modalities else (species,),
        "scale": (species,),
        "readout.0": (scalars, scalars // 2),
        "readout.1": (scalars // 2, 1),
    }
    if modalities:
        shapes["readout.modality"] = (modalities, scalars // 2)
    for t in range(layers):
        for module in layer_shapes(t, architecture).values():
            shapes |= module
    return shapes
