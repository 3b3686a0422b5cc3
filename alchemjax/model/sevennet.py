"""SevenNet: a NequIP-type equivariant network, from edge vectors to node energies, top to bottom.

Y. Park, J. Kim, S. Hwang, S. Han, J. Chem. Theory Comput. 20, 4857 (2024);
S. Batzner et al., Nat. Commun. 13, 2453 (2022).
Features are lists over l of arrays [nodes, 2l+1, channels]. All parameters are those of the weights file, without any
normalisation: the factors 1/sqrt(fan in) are applied here. Irreps carry no parity (the network is SO(3) equivariant).
"""

from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import ClassVar

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from alchemjax.model.contract import contract, weigh
from alchemjax.system.graph import Edges, Graph

EDGES_PER_CHUNK = 448  # messages of so many edges stay in a CPU's second-level cache, and memory stays small


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
    batch: int = 1  # compositions under one vmap: chunks are smaller then; changes no result
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
    angular = [_angular(config, edges.vectors) for edges in graph.blocks]
    distances = [jnp.linalg.norm(edges.vectors, axis=-1) for edges in graph.blocks]
    x = [params["embedding"][species][:, None, :] / sqrt(len(params["embedding"]))]
    for t, mul_out in enumerate(config.multiplicities[1:]):
        layer = params["layers"][str(t)]
        own = _linear(layer["self_connection"], x)
        sent = _add_bias(config, layer["linear_1"], _linear(layer["linear_1"], x))
        sources = [_mix(graph, a) for a in sent]
        radial = {"frequencies": params["bessel_frequencies"], "layers": layer["radial"]}
        received = 0.0
        for edges, distance, harmonics in zip(graph.blocks, distances, angular, strict=True):
            block = _convolve(config, t, radial, edges, distance, harmonics, sources, len(graph.target_node))
            received = jax.tree.map(jnp.add, block, received) if received else block
        received = _linear(layer["linear_2"], [a / params["denominators"][t] for a in received])
        received = _add_bias(config, layer["linear_2"], [_read(graph, a) for a in received])
        x = _gate(config, mul_out, [a + own[l] if l < len(own) else a for l, a in enumerate(received)])
    readout = params["readout"]
    first = {k: readout[k] for k in readout if k != "1"}  # "1" is the second map, not l = 1
    hidden = _add_bias(config, first, _linear(first, x))
    energy = (hidden[0] @ readout["1"])[:, 0, 0] / sqrt(len(readout["1"]))
    shift = params["shift"] if config.modality is None else params["shift"][config.modality]
    return energy * params["scale"][species] + shift[species]


# --- linear maps, gate, mixing ----------------------------------------------------------------------------------------


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


def _mix(graph: Graph, x):
    """x_q = sum_n Mix[q, n] x_n."""
    mixed = graph.mix_weight[:, None, None] * x[graph.mix_node]
    return jax.ops.segment_sum(mixed, graph.mix_source, len(graph.source_node))


def _read(graph: Graph, targets):
    """Sum of the targets that every node reads."""
    return sum(targets.at[index].get(mode="fill", fill_value=0) for index in graph.node_targets.T)


# --- convolution ------------------------------------------------------------------------------------------------------


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


def _convolve(config: Config, t: int, radial: dict, edges: Edges, distance, angular: dict, sources: list, num_targets):
    """A_t = sum over edges of R(r) * (x_source (x) Y(r)), a list over l of [targets, 2l+1, paths * channels].

    Rows go through in chunks, recomputed in the backward pass: no message and no radial weight of the whole structure
    is ever stored. The sum over neighbours is inside a batched matrix product, paths of one l1 together.
    """
    mul_in, mul_out = config.multiplicities[t : t + 2]
    paths = _paths(len(mul_in), config.lmax, len(mul_out))
    by_l1 = [[p for p in paths if p[0] == l1] for l1 in range(len(mul_in))]
    worlds, rows, width = edges.source.shape
    chunk = min(rows, max(1, EDGES_PER_CHUNK // (width * worlds * min(config.batch, 4))))
    kernels = [_stack_kernels([angular[p] for p in group]) for group in by_l1]
    parts = tuple((len(group), mul) for group, mul in zip(by_l1, mul_in, strict=True))

    @jax.checkpoint
    def convolve_rows(inputs):
        kernels, distance, weight, source = inputs
        by_part = _radial_weights(config, parts, radial, distance)
        if weight is not None:
            by_part = [w * weight[:, None, :, None] for w in by_part]
        return [
            jnp.stack([_sum_neighbours(kernel, w, x[s]) for s in source])
            for kernel, w, x in zip(kernels, by_part, sources, strict=True)
        ]

    inputs = kernels, distance, edges.weight, jnp.moveaxis(edges.source, 0, 1)
    summed = _map_rows(lambda a: convolve_rows((*a[:3], jnp.moveaxis(a[3], 0, 1))), inputs, chunk)
    # [worlds, rows, paths, 2 l3 + 1 (padded), channels] -> targets
    target = edges.target.reshape(-1)
    out = []
    for l3 in range(len(mul_out)):
        parts = [
            a[:, :, i, : 2 * l3 + 1]
            for a, group in zip(summed, by_l1, strict=True)
            for i, p in enumerate(group)
            if p[2] == l3
        ]
        part = jnp.concatenate(parts, axis=-1)
        out.append(jax.ops.segment_sum(part.reshape(-1, *part.shape[2:]), target, num_targets))
    return out


def _stack_kernels(tensors: list):
    """[rows, paths, largest 2 l3 + 1, width * (2 l1 + 1)], padded with zeros."""
    most = max(k.shape[-1] for k in tensors)
    stacked = jnp.stack([jnp.pad(k, [(0, 0)] * 3 + [(0, most - k.shape[-1])]) for k in tensors], axis=1)
    return jnp.moveaxis(stacked, -1, 2).reshape(*stacked.shape[:2], most, -1)


def _sum_neighbours(kernel, w, x):
    """sum_(m,a) kernel[r, p, c, (m, a)] w[r, p, m, u] x[r, m, a, u] -> [r, p, c, u]."""
    rows, paths, components, neighbours = kernel.shape
    messages = weigh(w, x).reshape(rows * paths, neighbours, -1)
    out = contract(kernel.reshape(-1, components, neighbours), messages)
    return out.reshape(rows, paths, components, -1)


def _map_rows(function, inputs, chunk: int):
    """function over chunks of rows (axis 0 of the inputs, axis 1 of the outputs), one after another."""
    rows = len(inputs[1])
    if chunk >= rows:
        return function(inputs)
    extra = -rows % chunk
    pad = lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], extra, axis=0)]) if extra else a
    chunked = jax.tree.map(lambda a: pad(a).reshape(-1, chunk, *a.shape[1:]), inputs)
    outputs = jax.lax.map(function, chunked)
    return [jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1, *a.shape[3:])[:, :rows] for a in outputs]


# --- radial functions -------------------------------------------------------------------------------------------------


def _hidden(config: Config, radial: dict, r):
    """Bessel functions times the cutoff function, through all but the last layer of the radial network."""
    frequencies = jnp.expand_dims(radial["frequencies"], tuple(range(r.ndim)))
    x = 2 / config.cutoff * jnp.sin(frequencies * r[..., None]) / r[..., None]
    x = x * cutoff_function(config, r)[..., None]
    for k in range(len(radial["layers"]) - 1):
        x = config.silu_norm * jax.nn.silu(x @ radial["layers"][str(k)] / sqrt(x.shape[-1]))
    return x


def _last(parts, radial: dict, hidden) -> list:
    """The last layer, for every l1: [rows, paths, width, channels]."""
    matrix = radial["layers"][str(len(radial["layers"]) - 1)]
    matrices = jnp.split(matrix / sqrt(len(matrix)), np.cumsum([paths * mul for paths, mul in parts])[:-1], axis=1)
    return [
        jnp.moveaxis((hidden @ part).reshape(*hidden.shape[:-1], *shape), -2, -3)
        for part, shape in zip(matrices, parts, strict=True)
    ]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _radial_weights(config: Config, parts: tuple[tuple[int, int], ...], radial: dict, r) -> list:
    """Radial weights by l1, (paths, channels) in `parts`: functions of distance alone, exactly 0 beyond the cutoff."""
    return _last(parts, radial, _hidden(config, radial, r))


def _radial_weights_jvp(config, parts, primals, tangents):
    """Forward derivative: the reverse pass becomes one contraction, and a batch of compositions shares dw/dr."""
    (radial, r), (d_radial, d_r) = primals, tangents
    hidden, slope = jax.jvp(lambda s: _hidden(config, radial, s), (r,), (jnp.ones_like(r),))
    w = _last(parts, radial, hidden)
    dw = [jnp.zeros_like(a) for a in w]
    if type(d_r) is not SymbolicZero:
        dw = [a * d_r[:, None, :, None] for a in _last(parts, radial, slope)]
    if any(type(leaf) is not SymbolicZero for leaf in jax.tree.leaves(d_radial)):
        d_radial = jax.tree.map(lambda p, d: jnp.zeros_like(p) if type(d) is SymbolicZero else d, radial, d_radial)
        along = jax.jvp(lambda p: _last(parts, p, _hidden(config, p, r)), (radial,), (d_radial,))[1]
        dw = [a + b for a, b in zip(dw, along, strict=True)]
    return w, dw


_radial_weights.defjvp(_radial_weights_jvp, symbolic_zeros=True)


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
