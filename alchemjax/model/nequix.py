"""Nequix: a NequIP-type equivariant network with layer norm, from edge vectors to node energies, top to bottom.

T. Koker, M. Kotak, T. Smidt, arXiv 2508.16067 (2025); S. Batzner et al., Nat. Commun. 13, 2453 (2022).
Irreps have natural parity (0e 1o 2e 3o): a path (l1, l2, l3) needs an even sum. Parameters are those of the weights
file: the factors 1/sqrt(fan in) of equivariant linear maps are applied here, the radial network has none.
What it shares with its relatives is in nequip.py.
"""

from dataclasses import dataclass
from functools import partial
from math import pi, sqrt
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alchemjax.model import nequip
from alchemjax.model.messages import Geometry, mix, read, received
from alchemjax.system.graph import Graph

SMALLEST = 1e-12  # mean square below which the layer norm does not blow features up


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of one Nequix model."""

    cutoff: float  # A
    cutoff_p: int  # of the polynomial cutoff function
    lmax: int
    multiplicities: tuple[tuple[int, ...], ...]  # channels by l: one-hot species, then the output of every layer
    silu_norm: float  # of the gate
    neighbours: float  # mean number of neighbours
    scale: float  # eV
    shift: float  # eV
    batch: int = 1  # compositions under one vmap, where it is known: chunks are smaller then; changes no result
    per_node: ClassVar[bool] = False  # radial functions do not see species: edges between sites suffice


def read_config(architecture: dict, row: int | None) -> Config:
    """The config from the `architecture` entry of config.json."""
    return Config(
        cutoff=float(architecture["cutoff"]),
        cutoff_p=int(architecture["cutoff_p"]),
        lmax=int(architecture["lmax"]),
        multiplicities=tuple(tuple(m) for m in architecture["multiplicities"]),
        silu_norm=float(architecture["silu_norm"]),
        neighbours=float(architecture["avg_num_neighbors"]),
        scale=float(architecture["scale"]),
        shift=float(architecture["shift"]),
    )


def parameter_shapes(architecture: dict, num_species: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of the weights file."""
    mults = architecture["multiplicities"]
    radial = [architecture["radial_basis"], *architecture["radial_hidden"]]
    shapes: dict[str, tuple[int, ...]] = {"atomic_energies": (num_species,), "readout": (mults[-1][0], 1)}
    for t, (mul_in, mul_out) in enumerate(zip(mults[:-1], mults[1:], strict=True)):
        paths = nequip.paths_of(len(mul_in), architecture["lmax"], len(mul_out), natural=True)
        maps = nequip.layer_shapes(mul_in, mul_out, paths, radial)
        maps |= {f"norm.{l}": (mul,) for l, mul in enumerate(nequip.gated(mul_out))}
        shapes |= {f"layers.{t}.{name}": shape for name, shape in maps.items()}
    return shapes


def prepare(architecture: dict, tensors: dict) -> dict:
    """The parameters: the arrays of the weights file as they are."""
    return tensors


def node_energies(params: dict, config: Config, graph: Graph) -> Float[Array, "nodes"]:
    """Energy of every node [eV], reference energy included, not yet weighted."""
    species = graph.node_species
    geometry = [_geometry(config, edges.vectors) for edges in graph.blocks]
    x = []  # the first layer sees one-hot species: its linear maps are tables
    for t, mul_out in enumerate(config.multiplicities[1:]):
        layer = params["layers"][str(t)]
        apply = nequip.linear if t > 0 else partial(_table, species)
        own = apply(layer["self_connection"], x)
        sources = [mix(graph, a) for a in apply(layer["linear_1"], x)]
        paths = nequip.paths_of(len(sources), config.lmax, len(mul_out), natural=True)
        heard = received(_hidden, config, paths, _radial(layer["radial"]), graph, geometry, sources)
        heard = nequip.linear(layer["linear_2"], [a / sqrt(config.neighbours) for a in heard])
        x = _normalized(layer["norm"], nequip.add_own(own, [read(graph, a) for a in heard]))
        x = nequip.gate(config.silu_norm, mul_out, x)
    energy = (x[0] @ params["readout"])[:, 0, 0] / sqrt(len(params["readout"]))
    return energy * config.scale + config.shift + params["atomic_energies"][species]


def _table(species, weights: dict, x: list) -> list:
    """A linear map of one-hot species."""
    return [weights["0"][species][:, None, :] / sqrt(len(weights["0"]))]


def _normalized(weights: dict, x: list) -> list:
    """RMS layer norm: all l of a node divided by the root of mean_l mean_m sum_u x[l, m, u]^2 / (2l+1)."""
    squares = [jnp.sum(jnp.mean(a**2, axis=1) / a.shape[1], axis=1) for a in x]
    factor = (sum(squares) / len(x) + SMALLEST) ** -0.5
    return [a * factor[:, None, None] * weights[str(l)][None, None] for l, a in enumerate(x)]


# --- convolution ------------------------------------------------------------------------------------------------------


def _geometry(config: Config, vectors) -> Geometry:
    most = max(len(m) for m in config.multiplicities)
    return nequip.geometry_of(vectors, config.lmax, nequip.paths_of(most, config.lmax, most, natural=True))


def _radial(layers: dict) -> dict:
    *hidden, last = (layers[str(k)] for k in range(len(layers)))
    return {"hidden": hidden, "last": last}


def _hidden(config: Config, radial: dict, r):
    """Bessel functions times the cutoff function, through all but the last layer of the radial network."""
    frequencies = jnp.arange(1, len(radial["hidden"][0]) + 1, dtype=r.dtype) * (pi / config.cutoff)
    x = nequip.bessel(frequencies, config.cutoff, r)
    x = x * nequip.polynomial_cutoff(config.cutoff_p, config.cutoff, r)[..., None]
    for matrix in radial["hidden"]:
        x = jax.nn.silu(x @ matrix)
    return x
