"""Who hears whom, as index arrays: all of the alchemical graph that does not depend on positions and weights.

`make_topology` makes them on the host from pairs of sites; `make_layout`, `heard` and `rows_of` are what it shares with
the neighbour lists of compiled code. The rules that they follow are those of `graph.py`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int

from alchemjax.system.neighbours import Pairs
from alchemjax.system.sites import Sites, num_weights

COST_OF_ROW = 3  # edges that take as much time as a row by itself (measured, SevenNet-0)
EDGES_AT_ONCE = 448  # what so many edges carry stays in a CPU's second-level cache, and memory stays small
EDGES_OF_DEVICE = 150  # the same where several devices work, each in the cache of its own core
COUPLINGS = ("independent", "paired", "correlated", "published")


class ShapeOverflow(ValueError):
    """The graph does not fit into the arrays that were asked for."""


class Rows(NamedTuple):
    """Index arrays of one block of edges."""

    sender: Int[Array, "rows width"]  # site
    receiver: Int[Array, "rows"]  # site
    shift: Int[Array, "rows width 3"]
    used: Bool[Array, "rows width"]  # False for padding
    source: Int[Array, "worlds rows width"]
    target: Int[Array, "worlds rows"]
    weight: Int[Array, "rows width"] | None  # between nodes: index into the flat weights
    correlated: Bool[Array, "rows width"] | None  # between nodes: whether alpha acts on this edge
    same: Bool[Array, "rows width"] | None  # between nodes: whether both ends have the same species index


class Topology(NamedTuple):
    """All of the graph that does not depend on positions, weights and alpha."""

    blocks: tuple[Rows, ...]
    mix_source: Int[Array, "mixed"]
    mix_node: Int[Array, "mixed"]
    mix_weight: Int[Array, "mixed"]  # index into the flat weights; len(weights) stands for 1
    mix_correlated: Bool[Array, "mixed"]  # whether alpha acts on this entry
    mix_same: Bool[Array, "mixed"]  # whether the node has the species index of the source
    source_node: Int[Array, "sources"]
    target_node: Int[Array, "targets"]
    node_targets: Int[Array, "nodes reads"]
    node_species: Int[Array, "nodes"]
    node_weight: Int[Array, "nodes"]  # as mix_weight
    node_site: Int[Array, "nodes"]
    species_nodes: Int[Array, "kinds several"]
    node_place: Int[Array, "nodes"]


class Rule(NamedTuple):
    """Who hears whom; hashable, static under jit."""

    coupling: str
    per_node: bool
    blocks: int  # of edges
    points: int  # that edges lead between: sites, or nodes for potentials whose radial functions see species


class Layout(NamedTuple):
    """What the sites are to the graph, whoever their neighbours are.

    Arrays over points have one entry more, for the missing neighbour of a row that is not full.
    """

    site: Int[Array, "points+1"]
    group: Int[Array, "points+1"]  # -1 for an ordinary atom
    index: Int[Array, "points+1"]  # of the node among the species of its group
    weight: Int[Array, "points+1"]  # of the node, index into the flat weights
    source: tuple[Int[Array, "worlds points+1"], ...]  # for every block of edges
    target: tuple[Int[Array, "worlds points+1"], ...]
    rest: Topology  # without blocks


def make_layout(
    sites: Sites, species_rows: dict[str, int], coupling: str, *, per_node: bool = False
) -> tuple[Rule, Layout]:
    """The layout of the graph. Errors: ValueError for an unknown coupling."""
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling '{coupling}' is unknown; allowed are {', '.join(COUPLINGS)}")
    table = _node_table(sites)
    nodes = np.arange(len(sites.node_site))
    if per_node:
        points = sites.node_site, sites.node_group, sites.node_index, sites.node_weight
        zeros = np.zeros(len(nodes), bool)
        mix = (nodes, nodes, np.full_like(nodes, num_weights(sites)), zeros, zeros)
        stands_for, reads, worlds = nodes, nodes[:, None], [(nodes[None], nodes[None])]
    else:
        zeros = np.zeros(len(table), int)
        points = np.arange(len(table)), sites.node_group[table.max(1)], zeros, zeros
        mix, stands_for, reads, worlds = _mixtures_of_sites(sites, table, coupling)
    node_species = np.array([species_rows[s] for s in sites.node_species])
    species_nodes, node_place = _rows_of_species(node_species)
    rest = Topology(
        (),
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
    padded = lambda a, nothing: np.concatenate([a, np.full((*a.shape[:-1], 1), nothing)], axis=-1)
    layout = Layout(
        *(padded(a, 0) for a in points),
        source=tuple(padded(source, 0) for source, _ in worlds),
        target=tuple(padded(target, len(stands_for)) for _, target in worlds),
        rest=rest,
    )
    return Rule(coupling, per_node, len(worlds), len(points[0])), layout


def _mixtures_of_sites(sites: Sites, table: np.ndarray, coupling: str):
    """What is mixed into the sources, what these stand for, what nodes read, and (source, target) of every block."""
    num_sites, num_nodes = len(table), len(sites.node_site)
    zeros, every = np.zeros(num_nodes, bool), np.arange(num_sites)
    site_mix = (sites.node_site, np.arange(num_nodes), sites.node_weight, zeros, zeros)
    if coupling == "independent" or (sites.node_group < 0).all():
        return site_mix, np.full(num_sites, -1), sites.node_site[:, None], [(every[None], every[None])]

    # every node of a group is one more source and one more target, numbered after the sites; then a source of nothing
    own = np.flatnonzero(sites.node_group >= 0)
    silent = num_sites + len(own)
    nowhere = silent + 1
    extra = np.full(num_nodes + 1, nowhere)
    extra[own] = num_sites + np.arange(len(own))
    of_world = extra[table.T]  # [worlds, sites]; nowhere where a site has no such node
    # the source of node n: (1 - alpha) * mixture of its site + alpha * itself
    partners = table[sites.node_site[own]]
    present = partners >= 0
    partner, node = partners[present], np.repeat(own, present.sum(1))
    world_mix = (extra[node], partner, sites.node_weight[partner], np.ones(len(node), bool), partner == node)
    mix = tuple(np.concatenate(both) for both in zip(site_mix, world_mix, strict=True))
    stands_for = np.concatenate([np.full(num_sites, -1), own, [-1]])
    worlds = [(every[None], every[None]), (np.minimum(of_world, silent), of_world)]
    return mix, stands_for, np.stack([sites.node_site, extra[:-1]], axis=1), worlds


def heard(rule: Rule, layout: Layout, sender, receiver) -> list:
    """For every block of edges, which pairs of points belong to it; also traced."""
    theirs, ours = layout.group[sender], layout.group[receiver]
    coupled = (theirs == ours) & (ours >= 0)
    kept = coupled | (theirs < 0) | (ours < 0) if rule.coupling == "published" else ours == ours
    if rule.blocks == 2:
        return [kept & ~coupled, coupled]
    if rule.per_node and rule.coupling in ("paired", "published"):  # with alpha = 1 the others have weight 0
        kept = kept & ((layout.index[sender] == layout.index[receiver]) | ~coupled)
    return [kept]


def rows_of(rule: Rule, layout: Layout, block: int, sender, receiver, shift) -> Rows:
    """Index arrays of a block from points in rows, `rule.points` where there is none; also traced."""
    correlated = same = None
    if rule.per_node:
        theirs, ours = layout.group[sender], layout.group[receiver][:, None]
        correlated = (theirs == ours) & (ours >= 0) & (rule.coupling != "independent")
        same = layout.index[sender] == layout.index[receiver][:, None]
    return Rows(
        sender=layout.site[sender],
        receiver=layout.site[receiver],
        shift=shift,
        used=sender < rule.points,
        source=layout.source[block][:, sender],
        target=layout.target[block][:, receiver],
        weight=layout.weight[sender] if rule.per_node else None,
        correlated=correlated,
        same=same,
    )


def make_topology(
    sites: Sites, pairs: Pairs, species_rows: dict[str, int], coupling: str, *, per_node: bool = False, shapes=None
) -> Topology:
    """Index arrays of the graph. `shapes` asks for (rows, width) per block, e.g. those of an earlier topology.

    Errors: ValueError for an unknown coupling, ShapeOverflow for shapes that are too small.
    """
    rule, layout = make_layout(sites, species_rows, coupling, per_node=per_node)
    shapes = shapes or [None] * rule.blocks
    blocks = [
        rows_of(rule, layout, k, *_pack(chosen, rule.points, shape))
        for k, (chosen, shape) in enumerate(zip(pairs_of_blocks(rule, layout, pairs), shapes, strict=True))
    ]
    return layout.rest._replace(blocks=tuple(blocks))


def block_shapes(topology: Topology) -> list[tuple[int, ...]]:
    """(rows, width) of every block."""
    return [block.sender.shape for block in topology.blocks]


def pairs_of_blocks(rule: Rule, layout: Layout, pairs: Pairs) -> list[Pairs]:
    """Pairs of points, sorted by receiver, for every block of edges."""
    if rule.per_node:
        pairs = _pairs_of_nodes(layout.site[:-1], pairs)
    masks = heard(rule, layout, pairs.sender, pairs.receiver)
    return [Pairs(*(values[mask] for values in pairs)) for mask in masks]


def _node_table(sites: Sites) -> np.ndarray:
    """Node of (site, species index), -1 where there is none."""
    table = np.full((sites.node_site.max() + 1, sites.node_index.max() + 1), -1)
    table[sites.node_site, sites.node_index] = np.arange(len(sites.node_site))
    return table


def _pairs_of_nodes(node_site: np.ndarray, pairs: Pairs) -> Pairs:
    count = np.bincount(node_site)
    senders, edges = count[pairs.sender], count[pairs.sender] * count[pairs.receiver]
    pair = np.repeat(np.arange(len(edges)), edges)
    rank = np.arange(len(pair)) - np.repeat(np.cumsum(edges) - edges, edges)
    first = np.cumsum(count) - count  # nodes are ordered by site
    sender = first[pairs.sender[pair]] + rank % senders[pair]
    receiver = first[pairs.receiver[pair]] + rank // senders[pair]
    order = np.argsort(receiver, kind="stable")
    return Pairs(receiver[order], sender[order], pairs.shift[pair[order]])


def _pack(pairs: Pairs, nothing: int, shape):
    """Sender, receiver and shift in rows of one receiver each; long rows are split, short ones padded."""
    _, counts = np.unique(pairs.receiver, return_counts=True)
    rows, width = shape or best_shape([counts])
    rows_each = -(-counts // width)
    if rows_each.sum() > rows:
        raise ShapeOverflow(f"the graph needs {rows_each.sum()} rows of {width} edges; {rows} were provided")
    rank = np.arange(len(pairs.sender)) - np.repeat(np.cumsum(counts) - counts, counts)
    row = np.repeat(np.cumsum(rows_each) - rows_each, counts) + rank // width
    sender, shift = np.full((rows, width), nothing), np.zeros((rows, width, 3), int)
    receiver = np.full(rows, nothing)
    sender[row, rank % width], shift[row, rank % width], receiver[row] = pairs.sender, pairs.shift, pairs.receiver
    return sender, receiver, shift


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


def rows_at_once(rows: int, width: int, *, several: bool = False) -> int:
    """Of rows that go through the network in chunks of one size, as many as a chunk has; `several` devices work."""
    chunk = max(1, (EDGES_OF_DEVICE if several else EDGES_AT_ONCE) // width)
    return -(-rows // -(-rows // chunk))


def full_rows(rows: int, width: int) -> int:
    """At least so many rows, of which every chunk is full: others would have to be copied."""
    chunk = rows_at_once(rows, width)
    return -(-rows // chunk) * chunk


def best_shape(samples: list[np.ndarray], spare: float = 1.0, extra: int = 0) -> tuple[int, int]:
    """(rows, width) that hold so many edges of every receiver at the smallest cost, for each sample of such counts.

    With room for `spare` times as many rows, and `extra` ones.
    """
    most = max((int(counts.max()) for counts in samples if len(counts)), default=1)
    best = np.inf, 1, 1
    for width in range(max(1, most // 8), most + 1):
        needed = max(int(np.ceil(counts / width).sum()) for counts in samples)
        rows = full_rows(max(1, int(np.ceil(spare * needed)) + extra), width)
        cost = rows * (width + COST_OF_ROW)
        best = min(best, (cost, rows, width), key=lambda shape: (shape[0], -shape[2]))  # the widest of equals
    return best[1:]
