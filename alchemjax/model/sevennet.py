"""SevenNet: a NequIP-type equivariant network, from edge vectors to node energies, top to bottom.

Y. Park, J. Kim, S. Hwang, S. Han, J. Chem. Theory Comput. 20, 4857 (2024);
S. Batzner et al., Nat. Commun. 13, 2453 (2022).
Features are lists over l of arrays [nodes, 2l+1, channels]. All parameters are those of the weights file, without any
normalisation: the factors 1/sqrt(fan in) are applied here. Irreps carry no parity (the network is SO(3) equivariant).
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

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
        paths = _paths(len(mul_in), lmax, len(mul_out))
        columns = sum(mul_in[p[0]] for p in paths)
        for k, (rows, cols) in enumerate(zip(radial, [*radial[1:], columns], strict=True)):
            shapes[f"layers.{t}.radial.{k}"] = (rows, cols)
        for l, mul in enumerate(mul_in):
            shapes[f"layers.{t}.linear_1.{l}"] = (mul, mul)
        gated = (sum(mul_out), *mul_out[1:])
        for l, mul in enumerate(gated):
            shapes[f"layers.{t}.linear_2.{l}"] = (sum(mul_in[p[0]] for p in paths if p[2] == l), mul)
            if l < len(mul_in):
                shapes[f"layers.{t}.self_connection.{l}"] = (mul_in[l], mul)
        if modalities:
            shapes[f"layers.{t}.linear_1.modality"] = (modalities, mul_in[0])
            shapes[f"layers.{t}.linear_2.modality"] = (modalities, gated[0])
    return shapes


def prepare(architecture: dict, tensors: dict) -> dict:
    """The parameters: the arrays of the weights file as they are."""
    return tensors


def node_energies(params: dict, config: Config, graph: Graph) -> Float[Array, "nodes"]:
    """Energy of every node [eV], reference energy included, not yet weighted."""
    species = graph.node_species
    geometry = [
        Geometry(jnp.linalg.norm(edges.vectors, axis=-1), _angular(config, edges.vectors), {}) for edges in graph.blocks
    ]
    x = [params["embedding"][species][:, None, :] / sqrt(len(params["embedding"]))]
    for t, mul_out in enumerate(config.multiplicities[1:]):
        layer = params["layers"][str(t)]
        own = _linear(layer["self_connection"], x)
        sent = _add_bias(config, layer["linear_1"], _linear(layer["linear_1"], x))
        paths = _paths(len(sent), config.lmax, len(mul_out))
        radial = {"frequencies": params["bessel_frequencies"], "layers": layer["radial"]}
        heard = received(_hidden, config, paths, radial, graph, geometry, [mix(graph, a) for a in sent])
        heard = _linear(layer["linear_2"], [a / params["denominators"][t] for a in heard])
        heard = _add_bias(config, layer["linear_2"], [read(graph, a) for a in heard])
        x = _gate(config, mul_out, [a + own[l] if l < len(own) else a for l, a in enumerate(heard)])
    readout = params["readout"]
    first = {k: readout[k] for k in readout if k != "1"}  # "1" is the second map, not l = 1
    hidden = _add_bias(config, first, _linear(first, x))
    energy = (hidden[0] @ readout["1"])[:, 0, 0] / sqrt(len(readout["1"]))
    shift = params["shift"] if config.modality is None else params["shift"][config.modality]
    return energy * params["scale"][species] + shift[species]


# --- linear maps, gate ------------------------------------------------------------------------------------------------


def _linear(weights: dict, x: list) -> list:
    """One matrix per l. A modality counts as extra scalar inputs in the normalisation."""
    extra = len(weights["modality"]) if "modality" in weights else 0
    fan_in = [a.shape[-1] + (extra if l == 0 else 0) for l, a in enumerate(x)]
    return [a @ weights[str(l)] / sqrt(fan_in[l]) for l, a in enumerate(x) if str(l) in weights]


def _add_bias(config: Config, weights: dict, x: list) -> list:
    """The one-hot modality, seen as inputs of a linear map, adds a constant to its scalars."""
    if config.modality is None:
        return x
    fan_in = len(weights["0"]) + len(weights["modality"])
    return [x[0] + weights["modality"][None, None, config.modality] / sqrt(fan_in), *x[1:]]


def _gate(config: Config, mul_out: tuple[int, ...], x: list) -> list:
    """silu on the scalars; the other l times silu of the gates that follow the scalars."""
    scalars = config.silu_norm * jax.nn.silu(x[0])
    parts = jnp.split(scalars, np.cumsum(mul_out)[:-1], axis=-1)
    return [parts[0], *(a * gate for a, gate in zip(x[1:], parts[1:], strict=True))]


# --- angular part -----------------------------------------------------------------------------------------------------


def _paths(num_in: int, lmax: int, num_out: int) -> list[tuple[int, int, int]]:
    """(l1, l2, l3) of the tensor product, in the order of the radial weights."""
    return [
        (l1, l2, l3)
        for l1 in range(num_in)
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), l1 + l2 + 1)
        if l3 < num_out
    ]


def _angular(config: Config, vectors) -> dict:
    """Y_l2(r) contracted with the 3j symbols: {(l1, l2, l3): [rows, width, 2l1+1, 2l3+1]}, once for all layers."""
    irreps = e3nn.Irreps([(1, (l, (-1) ** l)) for l in range(config.lmax + 1)])
    y = e3nn.spherical_harmonics(irreps, vectors, normalize=config.normalize_sph, normalization="component").array
    y = [y[..., l**2 : (l + 1) ** 2] for l in range(config.lmax + 1)]
    tensors = {}
    most = max(len(m) for m in config.multiplicities)
    for l1, l2, l3 in _paths(most, config.lmax, most):
        w3j = np.array(e3nn.clebsch_gordan(l1, l2, l3))
        w3j *= sqrt(2 * l3 + 1) / np.linalg.norm(w3j) * (-1 if (l1, l2, l3) in config.negative_w3j else 1)
        tensors[l1, l2, l3] = jnp.einsum("abc,rwb->rwac", w3j.astype(y[l2].dtype), y[l2])
    return tensors


# --- radial functions -------------------------------------------------------------------------------------------------


def _hidden(config: Config, radial: dict, r):
    """Bessel functions times the cutoff function, through all but the last layer of the radial network."""
    frequencies = jnp.expand_dims(radial["frequencies"], tuple(range(r.ndim)))
    x = 2 / config.cutoff * jnp.sin(frequencies * r[..., None]) / r[..., None]
    x = x * cutoff_function(config, r)[..., None]
    for k in range(len(radial["layers"]) - 1):
        x = config.silu_norm * jax.nn.silu(x @ radial["layers"][str(k)] / sqrt(x.shape[-1]))
    return x


def cutoff_function(config: Config, r):
    """Smooth cutoff, 0 from the cutoff on: XPLOR (C1) or the polynomial of Gasteiger et al. (C2)."""
    name, parameter = config.cutoff_function
    x = jnp.minimum(r / config.cutoff, 1.0)
    if name == "xplor":
        on = (parameter / config.cutoff) ** 2
        switch = (1 - x**2) ** 2 * (1 + 2 * x**2 - 3 * on) / (1 - on) ** 3
        return jnp.where(r < parameter, 1.0, jnp.where(r < config.cutoff, switch, 0.0))
    # (1 - x)^3 sum_k (k+1)(k+2)/2 x^k equals the usual form without its cancellation near x = 1
    series = sum((k + 1) * (k + 2) / 2 * x**k for k in range(int(parameter)))
    return jnp.where(r < config.cutoff, (1 - x) ** 3 * series, 0.0)
