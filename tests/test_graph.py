"""The rows of nodes of one species, beside what the identities of the whole energy show of the graph."""

import jax.numpy as jnp
import numpy as np
import pytest

from alchemjax.model.messages import by_species
from alchemjax.system.graph import make_graph
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import Group, make_sites
from alchemjax.system.structure import make_structure
from alchemjax.system.topology import make_topology

ELEMENTS = ("H", "He", "Li", "Be", "B", "C")


def topology_of(symbols, groups=()):
    structure = make_structure(9.0 * np.arange(3 * len(symbols)).reshape(-1, 3), np.zeros((3, 3)), False)
    rows = {s: 10 * i for i, s in enumerate(ELEMENTS)}
    return structure, make_topology(make_sites(symbols, groups), find_pairs(structure, 5.0), rows, "independent")


@pytest.mark.parametrize("counts", [(1,), (7,), (64,), (40, 1, 1), (1, 1, 1, 1), (13, 17, 2, 9, 31, 8)])
def test_every_node_stands_once_in_a_row_of_its_species(rng, counts):
    symbols = rng.permutation([s for s, count in zip(ELEMENTS, counts, strict=False) for _ in range(count)])
    _, arrays = topology_of(list(symbols))
    nodes, place = arrays.species_nodes, arrays.node_place
    assert (nodes.reshape(-1)[place] == np.arange(len(symbols))).all()
    assert (nodes == len(symbols)).sum() == nodes.size - len(symbols) <= nodes.size / 2
    for row in nodes:
        held = arrays.node_species[row[row < len(symbols)]]
        assert len(set(held)) <= 1 and (row[len(held) :] == len(symbols)).all()


def test_the_shape_of_the_rows_follows_from_the_numbers_of_nodes_and_species(rng):
    shapes = {}
    for _ in range(200):
        symbols = list(rng.choice(ELEMENTS[: rng.integers(1, 7)], 24))
        _, arrays = topology_of(symbols)
        shapes.setdefault(len(set(symbols)), set()).add(arrays.species_nodes.shape)
    assert len(shapes) == 6 and all(len(found) == 1 for found in shapes.values())


def test_the_reordered_graph_is_the_same_graph():
    groups = (Group("a", (0, 2), ("Li", "B")), Group("b", (1,), ("B", "H", "He")))
    structure, arrays = topology_of(["Li", "B", "Li", "H", *["Li", "B"] * 30], groups)
    weights = np.array([0.3, 0.6, 0.1, 0.2, 0.4])
    graph = make_graph(arrays, *map(jnp.asarray, (*structure[:2], weights, 0.0)), far=9.0)
    ordered = by_species(graph)
    place = graph.node_place
    for name in ("node_species", "node_weight", "node_targets", "node_site"):
        assert (getattr(ordered, name)[place] == getattr(graph, name)).all(), name
    empty = np.setdiff1d(np.arange(len(ordered.node_species)), place)
    assert len(empty) and not ordered.node_weight[empty].any()
    assert (ordered.node_targets[empty] == len(graph.target_node)).all()
    assert (ordered.mix_node == place[graph.mix_node]).all()
    kinds = ordered.node_species.reshape(ordered.species_nodes.shape)
    assert (kinds == kinds[:, :1]).all()
