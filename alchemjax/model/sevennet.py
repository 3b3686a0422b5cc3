"""SevenNet: a NequIP-type equivariant network, from edge vectors to node energies, top to bottom.

Y. Park, J. Kim, S. Hwang, S. Han, J. Chem. Theory Comput. 20, 4857 (2024);
S. Batzner et al., Nat. Commun. 13, 2453 (2022).
All parameters are those of the weights file, without any normalisation: the factors 1/sqrt(fan in) are applied here.
Irreps carry no parity (the network is SO(3) equivariant). What it shares with its relatives is in nequip.py.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alchemjax.model import nequip
from alchemjax.model.messages import Geometry, mix, read, received
from alchemjax.system.graph import Graph


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of one SevenNet model."""

    cutoff: float  # A
    lmax: int
    multiplicities: tuple[tuple[int, ...], ...]  # channels by l: input, then output of every layer
    cutoff_function: tuple[str, float]  # ("xplor", onset [A]) or ("polynomial", p)
    normalize_sph: bool
    silu_norm: float
    negative_w3j: tuple[tuple[int, int, int], ...]  # triples (l1, l2, l3) whose 3j symbol changes sign
    modality: int | None = None  # row of the modality, in models that have several
    batch: int = 1  # compositions under one vmap, where it is known: chunks are smaller then; changes no result
    per_node: ClassVar[bool] = False  # radial functions do not see species: edges between sites suffice


def read_config(architecture: dict, modality: int | None) -> Config:
    """The config from the `architecture` entry of config.json."""
    function = architecture["cutoff_function"]
    return Config(
        cutoff=float(architecture["cutoff"]),
        lmax=int(architecture["lmax"]),
        multiplicities=tuple(tuple(m) for m in architecture["multiplicities"]),
        cutoff_function=(function["name"], float(function["on"] if function["name"] == "xplor" else function["p"])),
        normalize_sph=bool(architecture["normalize_sph"]),
        silu_norm=float(architecture["silu_norm"]),
        negative_w3j=tuple(
            tuple(int(l) for l in key.split(",")) for key, sign in architecture["w3j_signs"].items() if sign < 0
        ),
        modality=modality,
    )


def parameter_shapes(architecture: dict, num_species: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of the weights file."""
    mults, lmax = architecture["multiplicities"], architecture["lmax"]
    modalities = len(architecture["modalities"] or ())
    radial = [architecture["radial_basis"], *architecture["radial_hidden"]]
    scalars = mults[-1][0]
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (num_species, mults[0][0]),
        "bessel_frequencies": (radial[0],),
        "denominators": (len(mults) - 1,),
        "shift": (modalities, num_species) if modalities else (num_species,),
        "scale": (num_species,),
        "readout.0": (scalars, scalars // 2),
        "readout.1": (scalars // 2, 1),
    }
    if modalities:
        shapes["readout.modality"] = (modalities, scalars // 2)
    for t, (mul_in, mul_out) in enumerate(zip(mults[:-1], mults[1:], strict=True)):
        paths = nequip.paths_of(len(mul_in), lmax, len(mul_out))
        maps = nequip.layer_shapes(mul_in, mul_out, paths, radial)
        if modalities:
            maps["linear_1.modality"] = (modalities, mul_in[0])
            maps["linear_2.modality"] = (modalities, nequip.gated(mul_out)[0])
        shapes |= {f"layers.{t}.{name}": shape for name, shape in maps.items()}
    return shapes


def prepare(architecture: dict, tensors: dict) -> dict:
    """The parameters: the arrays of the weights file as they are."""
    return tensors


def node_energies(params: dict, config: Config, graph: Graph) -> Float[Array, "nodes"]:
    """Energy of every node [eV], reference energy included, not yet weighted."""
    species = graph.node_species
    geometry = [_geometry(config, edges.vectors) for edges in graph.blocks]
    x = [params["embedding"][species][:, None, :] / sqrt(len(params["embedding"]))]
    for t, mul_out in enumerate(config.multiplicities[1:]):
        layer = params["layers"][str(t)]
        own = nequip.linear(layer["self_connection"], x)
        sources = [mix(graph, a) for a in _affine(config, layer["linear_1"], x)]
        paths = nequip.paths_of(len(x), config.lmax, len(mul_out))
        radial = _radial(params["bessel_frequencies"], layer["radial"])
        heard = received(_hidden, config, paths, radial, graph, geometry, sources)
        heard = _linear(layer["linear_2"], [a / params["denominators"][t] for a in heard])
        heard = _add_bias(config, layer["linear_2"], [read(graph, a) for a in heard])
        x = nequip.gate(config.silu_norm, mul_out, nequip.add_own(own, heard))
    readout = params["readout"]
    hidden = _affine(config, {k: readout[k] for k in readout if k != "1"}, x)  # "1" is the second map, not l = 1
    energy = (hidden[0] @ readout["1"])[:, 0, 0] / sqrt(len(readout["1"]))
    shift = params["shift"] if config.modality is None else params["shift"][config.modality]
    return energy * params["scale"][species] + shift[species]


# --- linear maps with a modality --------------------------------------------------------------------------------------


def _affine(config: Config, weights: dict, x: list) -> list:
    return _add_bias(config, weights, _linear(weights, x))


def _linear(weights: dict, x: list) -> list:
    """One matrix per l. A modality counts as extra scalar inputs in the normalisation."""
    return nequip.linear(weights, x, more_scalars=len(weights["modality"]) if "modality" in weights else 0)


def _add_bias(config: Config, weights: dict, x: list) -> list:
    """The one-hot modality, seen as inputs of a linear map, adds a constant to its scalars."""
    if config.modality is None:
        return x
    fan_in = len(weights["0"]) + len(weights["modality"])
    return [x[0] + weights["modality"][None, None, config.modality] / sqrt(fan_in), *x[1:]]


# --- convolution ------------------------------------------------------------------------------------------------------


def _geometry(config: Config, vectors) -> Geometry:
    most = max(len(m) for m in config.multiplicities)
    paths = nequip.paths_of(most, config.lmax, most)
    return nequip.geometry_of(vectors, config.lmax, paths, normalize=config.normalize_sph, negative=config.negative_w3j)


def _radial(frequencies, layers: dict) -> dict:
    *hidden, last = (layers[str(k)] for k in range(len(layers)))
    return {"frequencies": frequencies, "hidden": hidden, "last": last / sqrt(len(last))}


def _hidden(config: Config, radial: dict, r):
    """Bessel functions times the cutoff function, through all but the last layer of the radial network."""
    x = nequip.bessel(radial["frequencies"], config.cutoff, r) * cutoff_function(config, r)[..., None]
    for matrix in radial["hidden"]:
        x = config.silu_norm * jax.nn.silu(x @ matrix / sqrt(x.shape[-1]))
    return x


def cutoff_function(config: Config, r):
    """Smooth cutoff, 0 from the cutoff on: XPLOR (C1) or a polynomial (C2)."""
    name, parameter = config.cutoff_function
    if name == "polynomial":
        return nequip.polynomial_cutoff(int(parameter), config.cutoff, r)
    x = jnp.minimum(r / config.cutoff, 1.0)
    on = (parameter / config.cutoff) ** 2
    switch = (1 - x**2) ** 2 * (1 + 2 * x**2 - 3 * on) / (1 - on) ** 3
    return jnp.where(r < parameter, 1.0, jnp.where(r < config.cutoff, switch, 0.0))
