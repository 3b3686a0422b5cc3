"""Graphs of any layout: they have the shapes that are declared, and carry the messages that the coupling says.

The messages are those of a network written in numpy, on random sites and groups.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    COUPLINGS,
    CUTOFF,
    PUBLISHED,
    SPECIES,
    every_coupling,
    moved,
    random_structure,
    random_weights,
    standard_sites,
    topology,
    varies,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import jit
from jaxtyping import jaxtyped

from alchemjax.system.graph import make_graph, union
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import Group, Sites, make_sites
from alchemjax.system.topology import block_shapes, make_topology


def assert_shapes_as_declared(value):
    """The arrays of a NamedTuple have the types and shapes of its annotations; within a context, sizes by name."""
    for name, hint in type(value).__annotations__.items():
        field = getattr(value, name)
        if hasattr(field, "shape"):
            assert isinstance(field, hint), f"{type(value).__name__}.{name} is {field.dtype}{field.shape}"


@every_coupling
@pytest.mark.parametrize("per_node", [False, True])
def test_arrays_of_topology_and_graph_have_the_shapes_that_are_declared(small, rng, coupling, alpha, per_node):
    structure, sites = random_structure(rng), standard_sites()
    arrays = jax.tree.map(jnp.asarray, topology(small, structure, sites, coupling, per_node=per_node))
    graph = jit(partial(make_graph, far=2 * CUTOFF))(
        arrays, *structure[:2], random_weights(sites, rng), jnp.asarray(0.1)
    )
    with jaxtyped("context"):
        for value in (sites, arrays, graph):
            assert_shapes_as_declared(value)
    for block in (*arrays.blocks, *graph.blocks):
        with jaxtyped("context"):
            assert_shapes_as_declared(block)
    wrong = graph._replace(mix_weight=graph.mix_weight[1:])
    with pytest.raises(AssertionError, match="Graph.mix_weight"), jaxtyped("context"):
        assert_shapes_as_declared(wrong)


class Toy:
    """Two layers of messages that depend on direction, and the same thing by loops over nodes."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.embedding = rng.normal(size=(len(SPECIES), 3))
        self.bias, self.own, self.seen = rng.normal(size=3), rng.normal(size=(3, 3)), rng.normal(size=(3, 3))

    def filter(self, r):
        distance = np.linalg.norm(r, axis=-1)
        return np.where(distance < CUTOFF, (1 - distance / CUTOFF) ** 2 * (1 + r @ [0.1, -0.2, 0.3]), 0)

    def send(self, x):
        return x + self.bias

    def update(self, x, received):
        return np.tanh(x @ self.own + received @ self.seen)

    def on_graph(self, graph):
        """Energies of the nodes, from the graph a model sees."""
        graph = jax.tree.map(np.asarray, graph)
        x = self.embedding[graph.node_species]
        nowhere = len(graph.target_node)
        for _ in range(2):
            sources = np.zeros((len(graph.source_node), 3))
            np.add.at(sources, graph.mix_source, graph.mix_weight[:, None] * self.send(x)[graph.mix_node])
            targets = np.zeros((nowhere + 1, 3))
            for edges in graph.blocks:
                messages = self.filter(edges.vectors)[..., None] * sources[edges.source]
                if edges.weight is not None:
                    messages = messages * edges.weight[..., None]
                np.add.at(targets, edges.target, messages.sum(2))
            targets[nowhere] = 0
            x = self.update(x, targets[graph.node_targets].sum(1))
        return x.sum(-1)

    def on_nodes(self, structure, sites, weights, coupling, alpha):
        """Energies of the nodes, from P(m|n) in words."""
        weights = np.append(weights, 1.0)[sites.node_weight]
        pairs = find_pairs(structure, CUTOFF)
        r = structure.positions[pairs.sender] - structure.positions[pairs.receiver] + pairs.shift @ structure.cell
        x = self.embedding[[SPECIES.index(s) for s in sites.node_species]]
        nodes_at = [np.flatnonzero(sites.node_site == s) for s in range(len(structure.positions))]
        for _ in range(2):
            received = np.zeros_like(x)
            for i, j, vector in zip(pairs.receiver, pairs.sender, r, strict=True):
                for n, m in product(nodes_at[i], nodes_at[j]):
                    probability = weights[m]
                    mixed = sites.node_group[n] >= 0 and sites.node_group[m] >= 0
                    if coupling == "published" and mixed:
                        probability = float(sites.node_weight[n] == sites.node_weight[m])
                    elif sites.node_group[n] == sites.node_group[m] != -1 and coupling != "independent":
                        a = 1.0 if coupling == "paired" else alpha
                        probability = (1 - a) * weights[m] + a * (sites.node_index[n] == sites.node_index[m])
                    received[n] += probability * self.filter(vector) * self.send(x)[m]
            x = self.update(x, received)
        return x.sum(-1)


@st.composite
def layouts(draw):
    """Symbols of up to five sites, in any groups, for `published` overlapping ones; a coupling."""
    number = draw(st.integers(1, 5))
    owner = draw(st.lists(st.integers(-1, 2), min_size=number, max_size=number))
    species = st.lists(st.sampled_from(SPECIES), min_size=1, max_size=4, unique=True).map(tuple)
    groups = tuple(
        Group(str(k), tuple(s for s in range(number) if owner[s] == k), draw(species))
        for k in sorted(set(owner) - {-1})
    )
    symbols = draw(st.lists(st.sampled_from(SPECIES), min_size=number, max_size=number))
    coupling = draw(st.sampled_from([*COUPLINGS, PUBLISHED, ("correlated", -0.15)]))
    if coupling == PUBLISHED:
        more = st.sets(st.integers(0, number - 1), max_size=2)
        groups = tuple(g._replace(sites=tuple(sorted({*g.sites, *draw(more)}))) for g in groups)
    return symbols, groups, coupling


NEIGHBOURS = (  # two that overlap, one that does not
    Group("0", (0, 1), ("Na", "K")),
    Group("1", (1,), ("Li", "Na", "Cl")),
    Group("2", (2,), ("Cl", "O")),
)


def graph_of(structure, sites: Sites, weights, coupling, alpha, shapes=None, per_node=False):
    rows = {s: SPECIES.index(s) for s in SPECIES}
    pairs = find_pairs(structure, CUTOFF)
    arrays = make_topology(sites, pairs, rows, coupling, per_node=per_node, shapes=shapes)
    alpha = {"independent": 0.0, "paired": 1.0, "published": 1.0}.get(coupling, alpha)
    make = jit(partial(make_graph, far=2 * CUTOFF))
    return arrays, make(arrays, structure.positions, structure.cell, np.asarray(weights, float), np.asarray(alpha))


def check_any_layout(layout, left_handed, seed):
    rng, toy = np.random.default_rng(seed), Toy(seed)
    symbols, groups, coupling = layout
    structure = random_structure(rng, sites=len(symbols), left_handed=left_handed)
    sites = make_sites(symbols, groups, overlapping=coupling == PUBLISHED)
    weights = random_weights(sites, rng) if groups else np.zeros(0)
    weights[rng.random(len(weights)) < 0.2] = 0
    layout = structure, sites, weights, *coupling
    expected = toy.on_nodes(*layout)
    arrays, graph = graph_of(*layout)
    np.testing.assert_allclose(toy.on_graph(graph), expected, atol=1e-9)
    narrow = [(rows * width + 1, max(1, width // 3)) for rows, width in block_shapes(arrays)]
    np.testing.assert_allclose(toy.on_graph(graph_of(*layout, shapes=narrow)[1]), expected, atol=1e-9)
    np.testing.assert_allclose(toy.on_graph(graph_of(*layout, per_node=True)[1]), expected, atol=1e-9)


@settings(max_examples=12)
@given(layout=layouts(), left_handed=st.booleans(), seed=st.integers(0, 99))
@example(layout=(["Na", "K", "Cl", "O"], NEIGHBOURS, PUBLISHED), left_handed=True, seed=1)
def test_graphs_of_any_layout_carry_the_messages_that_the_coupling_says(layout, left_handed, seed):
    check_any_layout(layout, left_handed, seed)


@pytest.mark.slow
@settings(max_examples=30)
@given(layout=layouts(), left_handed=st.booleans(), seed=st.integers(0, 99))
def test_graphs_of_very_many_layouts_carry_the_messages_that_the_coupling_says(layout, left_handed, seed):
    check_any_layout(layout, left_handed, seed)


@every_coupling
def test_the_union_of_graphs_is_each_graph_for_itself(rng, coupling, alpha):
    sites = standard_sites()
    structures = [random_structure(rng)]
    structures += [moved(structures[0], rng.normal(size=(4, 3)) * 0.05) for _ in range(2)]
    weights = jnp.asarray([random_weights(sites, rng) for _ in range(3)])
    arrays, _ = graph_of(structures[0], sites, weights[0], coupling, alpha)
    cell = jnp.asarray(structures[0].cell)
    one = lambda positions, weights: make_graph(arrays, positions, cell, weights, jnp.asarray(0.3), far=2 * CUTOFF)
    graphs = jit(jax.vmap(one))(jnp.stack([s.positions for s in structures]), weights)
    together = jit(partial(union, num_sites=4))(graphs)
    toy = Toy(1)
    apart = [toy.on_graph(jax.tree.map(lambda a, k=k: a[k], graphs)) for k in range(3)]
    assert varies(*(energies.sum() for energies in apart), by=1e-4)
    np.testing.assert_allclose(toy.on_graph(together), np.concatenate(apart), atol=1e-12)
    np.testing.assert_array_equal(together.node_site, [4 * k + site for k in range(3) for site in sites.node_site])
