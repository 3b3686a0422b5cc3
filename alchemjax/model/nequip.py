"""What networks of the NequIP type share: mixing, linear maps, the gate, and the sum over neighbours.

S. Batzner et al., Nat. Commun. 13, 2453 (2022).
Features are lists over l of arrays [nodes, 2l+1, channels]. Weights come without any normalisation: the factors
1/sqrt(fan in) of linear maps are applied here. What a network says about its convolution is in `Convolution`.
"""

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from alchemjax.model.convolution import convolve
from alchemjax.system.graph import Edges, Graph

EDGES_PER_CHUNK = 448  # messages of so many edges stay in a CPU's second-level cache, and memory stays small

Path = tuple[int, int, int]  # l1 of the sender, l2 of the edge, l3 of the message


class Convolution(NamedTuple):
    """The convolution of one layer; nothing in it is traced."""

    mul_in: tuple[int, ...]  # channels by l
    paths: tuple[Path, ...]  # in the order of the radial weights: by l1
    hidden: Callable  # (radial["hidden"], distances) -> all but the last layer of the radial network
    batch: int  # compositions under one vmap, where it is known: chunks are smaller then


class Geometry(NamedTuple):
    """The geometry of one block of edges, the same for all layers."""

    distance: jax.Array  # [rows, width]
    kernels: dict[Path, jax.Array]  # Y_l2(r) contracted with the 3j symbols: [rows, width, 2l1+1, 2l3+1]


# --- shapes -----------------------------------------------------------------------------------------------------------


def paths_of(num_in: int, lmax: int, num_out: int, *, natural: bool = False) -> tuple[Path, ...]:
    """(l1, l2, l3) of the tensor product, in the order of the radial weights.

    With natural parity (0e 1o 2e 3o) l1 + l2 + l3 is even; without parity (SO(3)) it is any.
    """
    return tuple(
        (l1, l2, l3)
        for l1 in range(num_in)
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), l1 + l2 + 1, 2 if natural else 1)
        if l3 < num_out
    )


def gated(mul_out) -> tuple[int, ...]:
    """Channels before the gate: the scalars carry one gate for every channel of l > 0."""
    return (sum(mul_out), *mul_out[1:])


def layer_shapes(mul_in, mul_out, paths, radial) -> dict[str, tuple[int, ...]]:
    """Name and shape of the linear maps of one layer; `radial` are the widths of its radial network but the last."""
    widths = [*radial, sum(mul_in[p[0]] for p in paths)]
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (rows, cols) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        shapes[f"radial.{k}"] = (rows, cols)
    for l, mul in enumerate(mul_in):
        shapes[f"linear_1.{l}"] = (mul, mul)
    for l, mul in enumerate(gated(mul_out)):
        shapes[f"linear_2.{l}"] = (sum(mul_in[p[0]] for p in paths if p[2] == l), mul)
        if l < len(mul_in):
            shapes[f"self_connection.{l}"] = (mul_in[l], mul)
    return shapes


# --- nodes ------------------------------------------------------------------------------------------------------------


def linear(weights: dict, x: list, *, more_scalars: int = 0) -> list:
    """One matrix per l; `more_scalars` counts further inputs of l = 0 in the normalisation."""
    fan_in = [a.shape[-1] + (more_scalars if l == 0 else 0) for l, a in enumerate(x)]
    return [a @ weights[str(l)] / sqrt(fan_in[l]) for l, a in enumerate(x) if str(l) in weights]


def add_own(own: list, received: list) -> list:
    """The self-connection, which may lack higher l, added to what was received."""
    return [a + own[l] if l < len(own) else a for l, a in enumerate(received)]


def gate(silu_norm: float, mul_out: tuple[int, ...], x: list) -> list:
    """silu on the scalars; the other l times silu of the gates that follow the scalars."""
    scalars = silu_norm * jax.nn.silu(x[0])
    parts = jnp.split(scalars, np.cumsum(mul_out)[:-1], axis=-1)
    return [parts[0], *(a * gate for a, gate in zip(x[1:], parts[1:], strict=True))]


def mix(graph: Graph, x):
    """x_q = sum_n Mix[q, n] x_n."""
    mixed = graph.mix_weight[:, None, None] * x[graph.mix_node]
    return jax.ops.segment_sum(mixed, graph.mix_source, len(graph.source_node))


def read(graph: Graph, targets):
    """Sum of the targets that every node reads."""
    return sum(targets.at[index].get(mode="fill", fill_value=0) for index in graph.node_targets.T)


# --- edges ------------------------------------------------------------------------------------------------------------


def geometry_of(vectors, lmax: int, paths, *, normalize: bool = True, negative=()) -> Geometry:
    """Distances, and angular kernels of all paths; 3j symbols of `negative` paths change sign."""
    irreps = e3nn.Irreps([(1, (l, (-1) ** l)) for l in range(lmax + 1)])
    y = e3nn.spherical_harmonics(irreps, vectors, normalize=normalize, normalization="component").array
    y = [y[..., l**2 : (l + 1) ** 2] for l in range(lmax + 1)]
    kernels = {}
    for l1, l2, l3 in paths:
        w3j = np.array(e3nn.clebsch_gordan(l1, l2, l3))
        w3j *= sqrt(2 * l3 + 1) / np.linalg.norm(w3j) * (-1 if (l1, l2, l3) in negative else 1)
        kernels[l1, l2, l3] = jnp.einsum("abc,rwb->rwac", w3j.astype(y[l2].dtype), y[l2])
    return Geometry(jnp.linalg.norm(vectors, axis=-1), kernels)


def bessel(frequencies, cutoff: float, r):
    """2/rc sin(q r)/r for every frequency q, on a new last axis."""
    frequencies = jnp.expand_dims(frequencies, tuple(range(r.ndim)))
    return 2 / cutoff * jnp.sin(frequencies * r[..., None]) / r[..., None]


def polynomial_cutoff(p: int, cutoff: float, r):
    """The polynomial of Gasteiger et al., 0 from the cutoff on (C2 there)."""
    x = jnp.minimum(r / cutoff, 1.0)
    # (1 - x)^3 sum_k (k+1)(k+2)/2 x^k equals the usual form without its cancellation near x = 1
    series = sum((k + 1) * (k + 2) / 2 * x**k for k in range(p))
    return jnp.where(r < cutoff, (1 - x) ** 3 * series, 0.0)


# --- convolution ------------------------------------------------------------------------------------------------------


def receive(convolution: Convolution, radial: dict, graph: Graph, geometry: list[Geometry], sources: list) -> list:
    """A_t = sum over edges of R(r) * (x_source (x) Y(r)), a list over l of [targets, 2l+1, paths * channels].

    `radial` has the parameters of the hidden layers and the matrix of the last one, "last", with its normalisation.
    """
    of_blocks = [
        _receive(convolution, radial, edges, own, sources, len(graph.target_node))
        for edges, own in zip(graph.blocks, geometry, strict=True)
    ]
    return [sum(parts[1:], start=parts[0]) for parts in zip(*of_blocks, strict=True)]


def _receive(
    convolution: Convolution, radial: dict, edges: Edges, geometry: Geometry, sources: list, num_targets
) -> list:
    """One block of edges.

    Rows go through in chunks, recomputed in the backward pass: no message and no radial weight of the whole structure
    is ever stored. The sum over neighbours is inside a batched matrix product, paths of one l1 together.
    """
    by_l1 = [[p for p in convolution.paths if p[0] == l1] for l1 in range(len(convolution.mul_in))]
    worlds, rows, width = edges.source.shape
    chunk = min(rows, max(1, EDGES_PER_CHUNK // (width * worlds * min(convolution.batch, 16))))
    kernels = [_stack_kernels([geometry.kernels[p] for p in group]) for group in by_l1]
    parts = tuple((len(group), mul) for group, mul in zip(by_l1, convolution.mul_in, strict=True))

    @jax.checkpoint
    def receive_rows(inputs):
        kernels, distance, weight, source = inputs
        if weight is not None:
            kernels = [_times_edges(kernel, weight) for kernel in kernels]
        sent = [[x[s] for x in sources] for s in jnp.moveaxis(source, 1, 0)]
        summed = _messages(convolution.hidden, parts, radial, distance, kernels, sent)
        return [jnp.stack(a, axis=1) for a in zip(*(_by_l3(by_l1, a) for a in summed), strict=True)]

    inputs = kernels, geometry.distance, edges.weight, jnp.moveaxis(edges.source, 0, 1)
    summed = _map_rows(receive_rows, inputs, chunk)
    target = edges.target.T.reshape(-1)
    return [jax.ops.segment_sum(a.reshape(-1, *a.shape[2:]), target, num_targets) for a in summed]


def _by_l3(by_l1, summed: list) -> list:
    """From [rows, paths, largest 2 l3 + 1, channels] by l1 to [rows, 2 l3 + 1, paths * channels] by l3."""
    parts = [[] for _ in range(1 + max(p[2] for group in by_l1 for p in group))]
    for group, a in zip(by_l1, summed, strict=True):
        for i, (_, _, l3) in enumerate(group):
            parts[l3].append(a[:, i, : 2 * l3 + 1])
    return [jnp.concatenate(part, axis=-1) for part in parts]


def _stack_kernels(tensors: list):
    """[rows, paths, largest 2 l3 + 1, width * (2 l1 + 1)], padded with zeros."""
    most = max(k.shape[-1] for k in tensors)
    stacked = jnp.stack([jnp.pad(k, [(0, 0)] * 3 + [(0, most - k.shape[-1])]) for k in tensors], axis=1)
    return jnp.moveaxis(stacked, -1, 2).reshape(*stacked.shape[:2], most, -1)


def _map_rows(function, inputs, chunk: int):
    """function over chunks of rows, one after another."""
    rows = len(inputs[1])
    if chunk >= rows:
        return function(inputs)
    extra = -rows % chunk
    pad = lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], extra, axis=0)]) if extra else a
    chunked = jax.tree.map(lambda a: pad(a).reshape(-1, chunk, *a.shape[1:]), inputs)
    outputs = jax.lax.map(function, chunked)
    return [a.reshape(-1, *a.shape[2:])[:rows] for a in outputs]


# --- messages: the radial weights are functions of distance alone -----------------------------------------------------


def _last(parts, matrix, hidden) -> list:
    """The last layer of the radial network, for every l1: [rows, paths, width, channels]."""
    matrices = jnp.split(matrix, np.cumsum([paths * mul for paths, mul in parts])[:-1], axis=1)
    return [
        jnp.moveaxis((hidden @ part).reshape(*hidden.shape[:-1], *shape), -2, -3)
        for part, shape in zip(matrices, parts, strict=True)
    ]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _messages(hidden: Callable, parts, radial: dict, r, kernels: list, sent: list) -> list:
    """Sums over neighbours, for every world and l1."""
    weights = _last(parts, radial["last"], hidden(radial["hidden"], r))
    return [[convolve(k, w, x) for k, w, x in zip(kernels, weights, xs, strict=True)] for xs in sent]


def _messages_jvp(hidden, parts, primals, tangents):
    """A change of distance times dw/dr goes into the kernels: no gradient of radial weights is ever formed."""
    (radial, r, kernels, sent), (d_radial, d_r, d_kernels, d_sent) = primals, tangents
    still = lambda tree: all(type(leaf) is SymbolicZero for leaf in jax.tree.leaves(tree))
    filled = lambda tree, like: jax.tree.map(
        lambda p, d: jnp.zeros_like(p) if type(d) is SymbolicZero else d, like, tree
    )
    value, slope = jax.jvp(lambda s: hidden(radial["hidden"], s), (r,), (jnp.ones_like(r),))
    w = _last(parts, radial["last"], value)
    terms = []  # (kernels, radial weights, what is sent by every world)
    if not still(d_kernels):
        terms.append((filled(d_kernels, kernels), w, sent))
    if not still(d_r):
        terms.append(([_times_edges(k, d_r) for k in kernels], _last(parts, radial["last"], slope), sent))
    if not still(d_sent):
        terms.append((kernels, w, filled(d_sent, sent)))
    if not still(d_radial):
        along = lambda p: _last(parts, p["last"], hidden(p["hidden"], r))
        terms.append((kernels, jax.jvp(along, (radial,), (filled(d_radial, radial),))[1], sent))
    total = lambda terms: [
        [sum(convolve(k[i], w[i], x[world][i]) for k, w, x in terms) for i in range(len(kernels))]
        for world in range(len(sent))
    ]
    return total([(kernels, w, sent)]), total(terms)


_messages.defjvp(_messages_jvp, symbolic_zeros=True)


def _times_edges(kernel, weight):
    """kernel[r, p, c, (m, a)] weight[r, m]."""
    return (kernel.reshape(*kernel.shape[:3], weight.shape[1], -1) * weight[:, None, None, :, None]).reshape(
        kernel.shape
    )
