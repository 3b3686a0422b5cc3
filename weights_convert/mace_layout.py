"""Which tensors a neutral MACE model has, and their shapes; FORMAT.md says the same in words."""

from collections.abc import Mapping
from typing import Any

from .layout import Shapes


def convolution_paths(inputs: list[int], max_ell: int) -> list[tuple[int, int, int]]:
    """List the paths (l1 of sender, l2 of edge, l3 of message) in the order of the radial weights.

    >>> convolution_paths([128, 128], 1)
    [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1)]
    """
    paths = [
        (l1, l2, l3)
        for l1 in range(len(inputs))
        for l2 in range(max_ell + 1)
        for l3 in range(abs(l1 - l2), l1 + l2 + 1, 2)
        if l3 <= max_ell
    ]
    return sorted(paths, key=lambda path: path[2])


def message_channels(layer: Mapping[str, Any], max_ell: int) -> list[int]:
    """Count the channels of l = 0, 1, ... after the convolution: those of all paths together.

    >>> message_channels({"inputs": [128, 128]}, 1)
    [256, 256]
    """
    paths = convolution_paths(layer["inputs"], max_ell)
    return [sum(layer["inputs"][l1] for l1, _, l3 in paths if l3 == degree) for degree in range(max_ell + 1)]


def radial_shapes(t: int, layer: Mapping[str, Any], architecture: Mapping[str, Any]) -> Shapes:
    """Shapes of the radial network of layer t."""
    columns = sum(message_channels(layer, architecture["max_ell"]))
    widths = [architecture["radial"]["number"], *layer["radial_hidden"], columns]
    return {f"layers.{t}.radial.{k}": (widths[k], widths[k + 1]) for k in range(len(widths) - 1)}


def skip_degrees(layer: Mapping[str, Any], max_ell: int) -> int:
    """Number of l = 0, 1, ... that the skip maps to themselves."""
    return min(len(layer["inputs"]), len(layer["outputs"])) if layer["residual"] else max_ell + 1


def product_shapes(t: int, species: int, layer: Mapping[str, Any], architecture: Mapping[str, Any]) -> Shapes:
    """Shapes of the symmetric contractions of layer t."""
    features = (architecture["max_ell"] + 1) ** 2
    shapes: Shapes = {}
    for degree, paths in enumerate(layer["paths"]):
        component = (2 * degree + 1,) if degree else ()
        for nu, number in enumerate(paths, start=1):
            shapes[f"layers.{t}.product.{degree}.U.{nu}"] = (*component, *(features,) * nu, number)
            shapes[f"layers.{t}.product.{degree}.W.{nu}"] = (species, number, architecture["channels"])
    return shapes


def _layer_shapes(t: int, species: int, architecture: Mapping[str, Any]) -> Shapes:
    layer, channels = architecture["layers"][t], architecture["channels"]
    max_ell, heads = architecture["max_ell"], len(architecture["heads"])
    name, square = f"layers.{t}", (channels, channels)
    shapes = radial_shapes(t, layer, architecture) | product_shapes(t, species, layer, architecture)
    shapes |= {f"{name}.linear_up.{degree}": square for degree in range(len(layer["inputs"]))}
    for degree, rows in enumerate(message_channels(layer, max_ell)):
        shapes[f"{name}.linear.{degree}"] = (rows, channels)
    if layer["density"]:
        shapes[f"{name}.density"] = (architecture["radial"]["number"], 1)
    for degree in range(skip_degrees(layer, max_ell)):
        shapes[f"{name}.skip.{degree}"] = (channels, species, channels)
    shapes |= {f"{name}.product.linear.{degree}": square for degree in range(len(layer["outputs"]))}
    if layer["readout_hidden"] is None:
        shapes[f"readouts.{t}.linear"] = (channels, heads)
    else:
        width = heads * layer["readout_hidden"]
        shapes |= {f"readouts.{t}.0": (channels, width), f"readouts.{t}.1": (width, heads)}
    return shapes


def tensor_shapes(species: int, architecture: Mapping[str, Any]) -> Shapes:
    """Shape of every tensor of a model with so many species."""
    heads = len(architecture["heads"])
    shapes: Shapes = {
        "embedding": (species, architecture["channels"]),
        "bessel_weights": (architecture["radial"]["number"],),
        "prefactor": (),
        "atomic_energies": (heads, species),
        "scale": (heads,),
        "shift": (heads,),
    }
    if architecture["distance_transform"]:
        shapes["agnesi"] = (3,)
    if architecture["zbl"]:
        shapes |= {"zbl.c": (4,), "zbl.a_exp": (), "zbl.a_prefactor": ()}
    if architecture["distance_transform"] or architecture["zbl"]:
        shapes["covalent_radii"] = (species,)
    for t in range(len(architecture["layers"])):
        shapes |= _layer_shapes(t, species, architecture)
    return shapes
