"""The alchemical graph: edge vectors, index arrays and mixing weights. All alchemy lives here.

A node n = (site, species) with weight w_n receives, from every neighbouring site j, the message of each node m at j
with probability P(m|n), the coupling:

    independent   P = w_m
    correlated    P = (1 - alpha) w_m + alpha [same species index]    between sites of one group, otherwise w_m
    paired        correlated with alpha = 1
    published     paired, and sites of two different groups do not see each other (the code of the paper to the letter;
                  there a site may be in several groups, whose nodes see those of the same weight only)

Messages are linear in the sender's features h, so nodes are mixed into sources first and convolved once:

    x_q = sum_n Mix[q, n] h_n,     A_t = sum_edges conv(x_source, r),     A_n = sum of the targets that n reads

Pairs between two sites of one group (unless independent) are seen by one source and one target per species index: these
edges stand in a block of their own, whose `worlds` share the geometry. Everything else is one edge per physical pair.
For potentials whose radial functions see the species of both ends, `per_node` gives edges between nodes, P as weight.

Generalises Nam, Peng, Gomez-Bombarelli, Nat. Commun. 16, 4350 (2025), eqs. (3)-(6).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from alchemjax.system.topology import Rows, Topology


class Edges(NamedTuple):
    """Edges of one block in rows of equal width; every row has one target."""

    vectors: Float[Array, "rows width 3"]  # sender minus receiver [A]; padding lies beyond the cutoff
    source: Int[Array, "worlds rows width"]
    target: Int[Array, "worlds rows"]  # number of targets where there is none
    weight: Float[Array, "rows width"] | None  # P(m|n) if sources and targets are nodes, else None


class Graph(NamedTuple):
    """All a model sees."""

    blocks: tuple[Edges, ...]
    mix_source: Int[Array, "mixed"]
    mix_node: Int[Array, "mixed"]
    mix_weight: Float[Array, "mixed"]
    source_node: Int[Array, "sources"]  # the node that a source stands for, -1 for a mixture
    target_node: Int[Array, "targets"]  # the node that a target stands for, -1 for a site
    node_targets: Int[Array, "nodes reads"]  # number of targets where there is none
    node_species: Int[Array, "nodes"]  # row in the potential's species table
    node_weight: Float[Array, "nodes"]
    node_site: Int[Array, "nodes"]
    species_nodes: Int[Array, "kinds several"]  # nodes in rows of one species each; number of nodes where there is none
    node_place: Int[Array, "nodes"]  # where a node stands in these rows, flattened


def make_graph(
    topology: Topology,
    positions: Float[Array, "sites 3"],
    cell: Float[Array, "3 3"],
    weights: Float[Array, "weights"],
    alpha: Float[Array, ""],
    *,
    far: float,
    strain: Float[Array, "3 3"] | None = None,
) -> Graph:
    """The graph of one composition: r -> r (1 + strain); padding at distance `far` [A]."""
    weights = jnp.append(weights, jnp.ones((), positions.dtype))
    return Graph(
        blocks=tuple(_edges(rows, positions, cell, strain, weights, alpha, far) for rows in topology.blocks),
        mix_source=topology.mix_source,
        mix_node=topology.mix_node,
        mix_weight=_probability(weights, alpha, topology.mix_weight, topology.mix_correlated, topology.mix_same),
        source_node=topology.source_node,
        target_node=topology.target_node,
        node_targets=topology.node_targets,
        node_species=topology.node_species,
        node_weight=weights[topology.node_weight],
        node_site=topology.node_site,
        species_nodes=topology.species_nodes,
        node_place=topology.node_place,
    )


def _probability(weights, alpha, index, correlated, same):
    """P = (1 - alpha) w + alpha [same species index] where correlated, else w."""
    return jnp.where(correlated, (1 - alpha) * weights[index] + alpha * same, weights[index])


def _edges(rows: Rows, positions, cell, strain, weights, alpha, far: float) -> Edges:
    vectors = positions[rows.sender] - positions[rows.receiver][:, None, :]
    vectors = vectors + jnp.einsum("rws,sx->rwx", rows.shift.astype(positions.dtype), cell)
    if strain is not None:
        vectors = vectors + vectors @ strain
    nowhere = jnp.array([far, 0.0, 0.0], positions.dtype)
    vectors = jnp.where(rows.used[..., None], vectors, nowhere)
    weight = None
    if rows.weight is not None:
        weight = _probability(weights, alpha, rows.weight, rows.correlated, rows.same)
    return Edges(vectors, rows.source, rows.target, weight)


def union(graphs: Graph, num_sites: int) -> Graph:
    """One graph from a batch of graphs (a leading axis on every array): structures that do not see each other."""
    batch = len(graphs.node_site)
    nodes, targets = graphs.node_site.shape[1], graphs.target_node.shape[1]

    def flat(indices, size, nothing=None):
        """Number the members one after another; `nothing` marks an index that points nowhere."""
        number = jnp.arange(batch).reshape(-1, *[1] * (indices.ndim - 1))
        moved = indices + number * size
        if nothing is not None:
            moved = jnp.where(indices == nothing, nothing * (batch if nothing > 0 else 1), moved)
        return moved

    def block(edges: Edges) -> Edges:
        along_rows = lambda a: jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1, *a.shape[3:])
        return Edges(
            vectors=edges.vectors.reshape(-1, *edges.vectors.shape[2:]),
            source=along_rows(flat(edges.source, graphs.source_node.shape[1])),
            target=along_rows(flat(edges.target, targets, targets)),
            weight=None if edges.weight is None else edges.weight.reshape(-1, edges.weight.shape[2]),
        )

    return Graph(
        blocks=tuple(block(edges) for edges in graphs.blocks),
        mix_source=flat(graphs.mix_source, graphs.source_node.shape[1]).reshape(-1),
        mix_node=flat(graphs.mix_node, nodes).reshape(-1),
        mix_weight=graphs.mix_weight.reshape(-1),
        source_node=flat(graphs.source_node, nodes, -1).reshape(-1),
        target_node=flat(graphs.target_node, nodes, -1).reshape(-1),
        node_targets=flat(graphs.node_targets, targets, targets).reshape(batch * nodes, -1),
        node_species=graphs.node_species.reshape(-1),
        node_weight=graphs.node_weight.reshape(-1),
        node_site=flat(graphs.node_site, num_sites).reshape(-1),
        species_nodes=flat(graphs.species_nodes, nodes, nodes).reshape(-1, graphs.species_nodes.shape[2]),
        node_place=flat(graphs.node_place, graphs.species_nodes[0].size).reshape(-1),
    )
