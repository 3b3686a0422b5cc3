"""From features of nodes to the messages they receive: mix, convolve over edges, read; what every network shares.

Features are lists over l of arrays [nodes, 2l+1, channels]. A network says which paths (l1, l2, l3) there are and, by a
function `hidden(config, radial, r)`, what the radial network makes of a distance before its last layer, whose matrix is
`radial["last"]`, with its normalisation.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from alchemjax.devices import sum_over_rows, working_devices
from alchemjax.model.convolution import convolve
from alchemjax.system.graph import Edges, Graph
from alchemjax.system.topology import rows_at_once


class Geometry(NamedTuple):
    """What one block of edges is to every layer."""

    distance: Float[Array, "rows width"]  # A
    angular: dict  # {(l1, l2, l3): [rows, width, 2l1+1, 2l3+1]}
    radial: dict  # further arguments of the radial functions, [rows, width] each


def by_species(graph: Graph) -> Graph:
    """The graph with its nodes in the order of `species_nodes`; where these are empty, a node that nobody hears."""
    nodes, targets = len(graph.node_species), len(graph.target_node)
    order, place = jnp.asarray(graph.species_nodes).reshape(-1), jnp.asarray(graph.node_place)
    taken = lambda a, fill: jnp.asarray(a).at[order].get(mode="fill", fill_value=fill)
    moved = lambda a: jnp.where(a < 0, -1, place[a])
    kinds = jnp.asarray(graph.node_species)[jnp.minimum(graph.species_nodes[:, 0], nodes - 1)]
    return graph._replace(
        mix_node=place[graph.mix_node],
        source_node=moved(graph.source_node),
        target_node=moved(graph.target_node),
        node_targets=taken(graph.node_targets, targets),
        node_species=jnp.repeat(kinds, graph.species_nodes.shape[1]),
        node_weight=taken(graph.node_weight, 0),
        node_site=taken(graph.node_site, nodes),
        species_nodes=jnp.arange(len(order)).reshape(graph.species_nodes.shape),
    )


def mix(graph: Graph, x):
    """x_q = sum_n Mix[q, n] x_n."""
    mixed = graph.mix_weight[:, None, None] * x[graph.mix_node]
    return jax.ops.segment_sum(mixed, graph.mix_source, len(graph.source_node))


def read(graph: Graph, targets):
    """Sum of the targets that every node reads."""
    return sum(targets.at[index].get(mode="fill", fill_value=0) for index in graph.node_targets.T)


def received(hidden, config, paths, radial: dict, graph: Graph, geometry: list[Geometry], sources: list) -> list:
    """A_t = sum over edges of R(r) * (x_source (x) Y(r)), a list over l of [targets, 2l+1, paths * channels].

    `paths` are ordered by l1, and so are the columns of the last radial matrix.
    """
    by_l1 = [[p for p in paths if p[0] == l1] for l1 in range(len(sources))]
    blocks = [
        _block(hidden, config, by_l1, radial, edges, known, sources, len(graph.target_node))
        for edges, known in zip(graph.blocks, geometry, strict=True)
    ]
    return [sum(parts[1:], start=parts[0]) for parts in zip(*blocks, strict=True)]


def _block(hidden, config, by_l1, radial: dict, edges: Edges, geometry: Geometry, sources: list, num_targets: int):
    """One block of edges.

    Rows go through in chunks, recomputed in the backward pass: no message and no radial weight of the whole structure
    is ever stored. The sum over neighbours is inside a batched matrix product, paths of one l1 together.
    """
    worlds, _, width = edges.source.shape
    kernels = [_stack_kernels([geometry.angular[p] for p in group]) for group in by_l1]
    parts = tuple((len(group), x.shape[-1]) for group, x in zip(by_l1, sources, strict=True))

    def summed(inputs, target, shared):
        sources, radial = shared

        @jax.checkpoint
        def of_rows(inputs):
            kernels, distance, per_edge, weight, source = inputs
            if weight is not None:
                kernels = [_times_edges(kernel, weight) for kernel in kernels]
            sent = [[x[s] for x in sources] for s in jnp.moveaxis(source, 1, 0)]
            messages = _messages(hidden, config, parts, radial | per_edge, distance, kernels, sent)
            return [jnp.stack(a, axis=1) for a in zip(*(_by_l3(by_l1, a) for a in messages), strict=True)]

        rows = len(target)
        chunk = rows_at_once(rows, width * worlds * min(config.batch, 16), several=working_devices() > 1)
        chunk = next((c for c in range(chunk, chunk // 2, -1) if rows % c == 0), chunk)  # without padding
        of_row = _map_rows(of_rows, inputs, chunk)
        return [jax.ops.segment_sum(a.reshape(-1, *a.shape[2:]), target.reshape(-1), num_targets) for a in of_row]

    inputs = kernels, geometry.distance, geometry.radial, edges.weight, jnp.moveaxis(edges.source, 0, 1)
    return sum_over_rows(summed, inputs, edges.target.T, (sources, radial), num_targets)


def _by_l3(by_l1, summed: list) -> list:
    """From [rows, paths, largest 2 l3 + 1, channels] by l1 to [rows, 2 l3 + 1, paths * channels] by l3."""
    parts = [[] for _ in range(1 + max(l3 for group in by_l1 for _, _, l3 in group))]
    for group, a in zip(by_l1, summed, strict=True):
        for i, (_, _, l3) in enumerate(group):
            parts[l3].append(a[:, i, : 2 * l3 + 1])
    return [jnp.concatenate(part, axis=-1) for part in parts]


def _stack_kernels(tensors: list):
    """[rows, paths, largest 2 l3 + 1, width * (2 l1 + 1)], padded with zeros."""
    most = max(k.shape[-1] for k in tensors)
    stacked = jnp.stack([jnp.pad(k, [(0, 0)] * 3 + [(0, most - k.shape[-1])]) for k in tensors], axis=1)
    return jnp.moveaxis(stacked, -1, 2).reshape(*stacked.shape[:2], most, -1)


def _times_edges(kernel, weight):
    """kernel[r, p, c, (m, a)] weight[r, m]."""
    by_edge = kernel.reshape(*kernel.shape[:3], weight.shape[1], -1)
    return (by_edge * weight[:, None, None, :, None]).reshape(kernel.shape)


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


def _last(parts, radial: dict, hidden) -> list:
    """The last layer of the radial network, for every l1: [rows, paths, width, channels]."""
    matrices = jnp.split(radial["last"], np.cumsum([paths * mul for paths, mul in parts])[:-1], axis=1)
    return [
        jnp.moveaxis((hidden @ part).reshape(*hidden.shape[:-1], *shape), -2, -3)
        for part, shape in zip(matrices, parts, strict=True)
    ]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _messages(hidden, config, parts, radial: dict, r, kernels: list, sent: list) -> list:
    """Sums over neighbours, for every world and l1; the radial weights are functions of distance alone."""
    weights = _last(parts, radial, hidden(config, radial, r))
    return [[convolve(k, w, x) for k, w, x in zip(kernels, weights, xs, strict=True)] for xs in sent]


def _messages_jvp(hidden, config, parts, primals, tangents):
    """A change of distance times dw/dr goes into what is sent: no gradient of radial weights is ever formed."""
    (radial, r, kernels, sent), (d_radial, d_r, d_kernels, d_sent) = primals, tangents
    still = lambda tree: all(type(leaf) is SymbolicZero for leaf in jax.tree.leaves(tree))
    filled = lambda tree, like: jax.tree.map(
        lambda p, d: jnp.zeros_like(p) if type(d) is SymbolicZero else d, like, tree
    )
    value, slope = jax.jvp(lambda s: hidden(config, radial, s), (r,), (jnp.ones_like(r),))
    w = _last(parts, radial, value)
    terms = []  # (kernels, radial weights, what is sent by every world)
    if not still(d_kernels):
        terms.append((filled(d_kernels, kernels), w, sent))
    if not still(d_r):
        shifted = [[x * d_r[..., None, None] for x in xs] for xs in sent]
        terms.append((kernels, _last(parts, radial, slope), shifted))
    if not still(d_sent):
        terms.append((kernels, w, filled(d_sent, sent)))
    if not still(d_radial):
        along = lambda p: _last(parts, p, hidden(config, p, r))
        terms.append((kernels, jax.jvp(along, (radial,), (filled(d_radial, radial),))[1], sent))
    total = lambda terms: [
        [sum(convolve(k[i], w[i], x[world][i]) for k, w, x in terms) for i in range(len(kernels))]
        for world in range(len(sent))
    ]
    return total([(kernels, w, sent)]), total(terms)


_messages.defjvp(_messages_jvp, symbolic_zeros=True)
