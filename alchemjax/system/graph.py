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
import numpy as np
from jaxtyping import Array, Float, Int

from alchemjax.system.neighbours import Pairs
from alchemjax.system.sites import Sites, num_weights

COUPLINGS = ("independent", "paired", "correlated", "published")


class ShapeOverflow(ValueError):
    """The graph does not fit into the arrays that were asked for."""


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


class Rows(NamedTuple):
    """Index arrays of one block of edges."""

    sender: Int[np.ndarray, "rows width"]  # site
    receiver: Int[np.ndarray, "rows"]  # site
    shift: Int[np.ndarray, "rows width 3"]
    used: Int[np.ndarray, "rows width"]  # 1, or 0 for padding
    source: Int[np.ndarray, "worlds rows width"]
    target: Int[np.ndarray, "worlds rows"]
    weight: Int[np.ndarray, "rows width"] | None  # between nodes: index into the flat weights
    correlated: Int[np.ndarray, "rows width"] | None  # between nodes: 1 if alpha acts on this edge
    same: Int[np.ndarray, "rows width"] | None  # between nodes: 1 if both ends have the same species index


class Topology(NamedTuple):
    """All of the graph that does not depend on positions, weights and alpha; made on the host."""

    blocks: tuple[Rows, ...]
    mix_source: Int[np.ndarray, "mixed"]
    mix_node: Int[np.ndarray, "mixed"]
    mix_weight: Int[np.ndarray, "mixed"]  # index into the flat weights; len(weights) stands for 1
    mix_correlated: Int[np.ndarray, "mixed"]  # 1 if alpha acts on this entry
    mix_same: Int[np.ndarray, "mixed"]  # 1 if the node has the species index of the source
    source_node: Int[np.ndarray, "sources"]
    target_node: Int[np.ndarray, "targets"]
    node_targets: Int[np.ndarray, "nodes reads"]
    node_species: Int[np.ndarray, "nodes"]
    node_weight: Int[np.ndarray, "nodes"]  # as mix_weight
    node_site: Int[np.ndarray, "nodes"]
    species_nodes: Int[np.ndarray, "kinds several"]
    node_place: Int[np.ndarray, "nodes"]


def make_topology(
    sites: Sites, pairs: Pairs, species_rows: dict[str, int], coupling: str, *, per_node: bool = False, shapes=None
) -> Topology:
    """Index arrays of the graph. `shapes` asks for (rows, width) per block, e.g. those of an earlier topology.

    Errors: ValueError for an unknown coupling, ShapeOverflow for shapes that are too small.
    """
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling '{coupling}' is unknown; allowed are {', '.join(COUPLINGS)}")
    table = _node_table(sites)
    if coupling == "published":
        pairs = _without_pairs_between_groups(pairs, _site_group(sites, table))
    between = _edges_between_nodes if per_node else _edges_between_sites
    blocks, mix, stands_for, reads = between(sites, pairs, table, coupling)
    shapes = shapes or [None] * len(blocks)
    node_species = np.array([species_rows[s] for s in sites.node_species])
    species_nodes, node_place = _rows_of_species(node_species)
    return Topology(
        tuple(_pack(pairs, *block, len(stands_for), shape) for block, shape in zip(blocks, shapes, strict=True)),
        *mix,
        source_node=stands_for,
        target_node=stands_for,
        node_targets=reads,
        node_species=node_species,
        node_weight=sites.node_weight,
        node_site=sites.node_site,
        species_nodes=species_nodes,
        node_place=node_place,
    )


def block_shapes(topology: Topology) -> list[tuple[int, int]]:
    """(rows, width) of every block."""
    return [block.sender.shape for block in topology.blocks]


def _node_table(sites: Sites) -> np.ndarray:
    """Node of (site, species index), -1 where there is none."""
    table = np.full((sites.node_site.max() + 1, sites.node_index.max() + 1), -1)
    table[sites.node_site, sites.node_index] = np.arange(len(sites.node_site))
    return table


def _site_group(sites: Sites, table: np.ndarray) -> np.ndarray:
    return sites.node_group[table.max(1)]


def _without_pairs_between_groups(pairs: Pairs, group: np.ndarray) -> Pairs:
    sender, receiver = group[pairs.sender], group[pairs.receiver]
    kept = (sender == receiver) | (sender < 0) | (receiver < 0)
    return Pairs(*(values[kept] for values in pairs))


def _edges_between_sites(sites: Sites, pairs: Pairs, table: np.ndarray, coupling: str):
    num_sites, num_nodes = len(table), len(sites.node_site)
    group = _site_group(sites, table)
    mixed = group >= 0
    alike = (group[pairs.receiver] == group[pairs.sender]) & mixed[pairs.sender] & (coupling != "independent")
    ordinary = (np.flatnonzero(~alike), pairs.sender[~alike][None], pairs.receiver[~alike][None], None)
    zeros = np.zeros(num_nodes, int)
    site_mix = (sites.node_site, np.arange(num_nodes), sites.node_weight, zeros, zeros)
    if coupling == "independent" or not mixed.any():
        return [ordinary], site_mix, np.full(num_sites, -1), sites.node_site[:, None]

    # every node of a group is one more source and one more target, numbered after the sites; then a source of nothing
    own = np.flatnonzero(sites.node_group >= 0)
    silent = num_sites + len(own)
    nowhere = silent + 1
    extra = np.full(num_nodes + 1, nowhere)
    extra[own] = num_sites + np.arange(len(own))
    of_world = extra[table.T]  # [worlds, sites]; nowhere where a site has no such node
    same = (
        np.flatnonzero(alike),
        np.minimum(of_world[:, pairs.sender[alike]], silent),
        of_world[:, pairs.receiver[alike]],
        None,
    )
    # the source of node n: (1 - alpha) * mixture of its site + alpha * itself
    partners = table[sites.node_site[own]]
    present = partners >= 0
    partner, node = partners[present], np.repeat(own, present.sum(1))
    world_mix = (extra[node], partner, sites.node_weight[partner], np.ones_like(node), (partner == node).astype(int))
    mix = tuple(np.concatenate(both) for both in zip(site_mix, world_mix, strict=True))
    stands_for = np.concatenate([np.full(num_sites, -1), own, [-1]])
    return [ordinary, same], mix, stands_for, np.stack([sites.node_site, extra[:-1]], axis=1)


def _edges_between_nodes(sites: Sites, pairs: Pairs, table: np.ndarray, coupling: str):
    count = (table >= 0).sum(1)
    senders, edges = count[pairs.sender], count[pairs.sender] * count[pairs.receiver]
    pair = np.repeat(np.arange(len(edges)), edges)
    rank = np.arange(len(pair)) - np.repeat(np.cumsum(edges) - edges, edges)
    first = np.cumsum(count) - count  # nodes are ordered by site
    source = first[pairs.sender[pair]] + rank % senders[pair]
    target = first[pairs.receiver[pair]] + rank // senders[pair]
    group, index = sites.node_group, sites.node_index
    correlated = (group[source] == group[target]) & (group[source] >= 0) & (coupling != "independent")
    same = index[source] == index[target]
    if coupling in ("paired", "published"):  # with alpha = 1 the others have weight 0
        heard = same | ~correlated
        pair, source, target, correlated, same = (a[heard] for a in (pair, source, target, correlated, same))
    coupled = (sites.node_weight[source], correlated.astype(int), same.astype(int))
    nodes = np.arange(len(sites.node_site))
    zeros = np.zeros_like(nodes)
    mix = (nodes, nodes, np.full_like(nodes, num_weights(sites)), zeros, zeros)
    return [(pair, source[None], target[None], coupled)], mix, nodes, nodes[:, None]


def _pack(pairs: Pairs, which, source, target, coupled, num_targets: int, shape) -> Rows:
    """Edges in rows of one target (with several worlds, one receiver) each; long rows are split, short ones padded."""
    key = target[0] if len(target) == 1 else pairs.receiver[which]
    order = np.argsort(key, kind="stable")
    _, counts = np.unique(key, return_counts=True)
    if shape is None:
        width = _best_width(counts)
        shape = (max(1, int(np.ceil(counts / width).sum())), width)
    rows, width = shape
    rows_each = -(-counts // width)
    if rows_each.sum() > rows:
        raise ShapeOverflow(f"the graph needs {rows_each.sum()} rows of {width} edges; {rows} were provided")
    rank = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    row = np.repeat(np.cumsum(rows_each) - rows_each, counts) + rank // width

    def place(values, fill=0):  # [..., edges] -> [..., rows, width]
        out = np.full((*values.shape[:-1], rows, width), fill)
        out[..., row, rank % width] = values[..., order]
        return out

    return Rows(
        sender=place(pairs.sender[which]),
        receiver=place(pairs.receiver[which]).max(1),
        shift=np.moveaxis(place(pairs.shift[which].T), 0, -1),
        used=place(np.ones(len(which), int)),
        source=place(source),
        target=place(target, num_targets).min(-1),
        weight=coupled and place(coupled[0]),
        correlated=coupled and place(coupled[1]),
        same=coupled and place(coupled[2]),
    )


def _rows_of_species(species: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in rows of one species each, and their places; the shape follows from the numbers of nodes and species."""
    kinds, counts = np.unique(species, return_counts=True)
    width = max(1, len(species) // (4 * len(kinds)))  # so at most about a quarter of the places is empty
    rows = np.full(((len(species) + len(kinds) * (width - 1)) // width, width), len(species))
    order = np.argsort(species, kind="stable")
    rank = np.arange(len(species)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows_each = -(-counts // width)
    place = np.repeat(np.cumsum(rows_each) - rows_each, counts) * width + rank
    rows.reshape(-1)[place] = order
    return rows, place[np.argsort(order)]


def _best_width(counts: np.ndarray) -> int:
    """The row width that wastes fewest slots; the largest of equals (fewest rows)."""
    if len(counts) == 0:
        return 1
    widths = np.arange(max(1, int(counts.max()) // 8), int(counts.max()) + 1)
    slots = [width * np.ceil(counts / width).sum() for width in widths]
    return int(widths[len(slots) - 1 - int(np.argmin(slots[::-1]))])


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
    return jnp.where(correlated > 0, (1 - alpha) * weights[index] + alpha * same, weights[index])


def _edges(rows: Rows, positions, cell, strain, weights, alpha, far: float) -> Edges:
    vectors = positions[rows.sender] - positions[rows.receiver][:, None, :]
    vectors = vectors + jnp.einsum("rws,sx->rwx", rows.shift.astype(positions.dtype), cell)
    if strain is not None:
        vectors = vectors + vectors @ strain
    nowhere = jnp.array([far, 0.0, 0.0], positions.dtype)
    vectors = jnp.where(rows.used[..., None] > 0, vectors, nowhere)
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
