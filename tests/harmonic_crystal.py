"""A face-centred crystal whose neighbours are tied by springs: exactly harmonic, with known free energies."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from ase.build import bulk
from pair_potential import SPECIES, A

import alchemjax as aj
from alchemjax.model.load import Potential
from alchemjax.model.messages import mix, read
from alchemjax.system.masses import node_masses
from alchemjax.system.system import checked_weights
from alchemjax.tasks.md_plan import masses_of

SHIFT = {"Ar": 0.0, "Kr": -0.05}  # eV
STIFFNESS = {"Ar": 0.25, "Kr": 0.55}  # of half a bond [eV/A^2]


@dataclass(frozen=True)
class Config:
    """Hyper-parameters."""

    cutoff: float = 0.5 * (np.sqrt(0.5) + 1) * A  # between the first and the second neighbours
    batch: int = 1
    per_node: bool = False


def node_energies(params, config: Config, graph):
    """e_n = shift_n + k_n / 4 sum_m P(m|n) |r - R|^2, R the vector of the lattice that is nearest to r."""
    sources = mix(graph, jnp.ones((len(graph.node_species), 1, 1), params["shift"].dtype))[:, 0, 0]
    targets = jnp.zeros((len(graph.target_node), 1), sources.dtype)
    for edges in graph.blocks:
        r = edges.vectors
        away = r - jnp.round(r @ jnp.linalg.inv(params["lattice"])) @ params["lattice"]
        bonds = jnp.where(jnp.linalg.norm(r, axis=-1) < config.cutoff, jnp.sum(away**2, axis=-1) / 4, 0)
        for source, target in zip(edges.source, edges.target, strict=True):
            felt = jnp.sum(sources[source] * bonds, axis=1, keepdims=True)
            targets = targets + jax.ops.segment_sum(felt, target, len(targets))
    return params["shift"][graph.node_species] + params["stiffness"][graph.node_species] * read(graph, targets)[:, 0]


def harmonic_crystal(dtype="float64") -> Potential:
    """The potential."""
    of = lambda table: jnp.array([table[s] for s in SPECIES], dtype)
    params = {"shift": of(SHIFT), "stiffness": of(STIFFNESS), "lattice": jnp.array(bulk("Ar", "fcc", A).cell, dtype)}
    return Potential(
        name="harmonic",
        params=params,
        config=Config(),
        node_energies=node_energies,
        species=SPECIES,
        cutoff=Config().cutoff,
        dtype=dtype,
        sha256="",
        source={},
    )


def argon(repeat=2, **options):
    """Cubic cells in a row, at rest."""
    return aj.from_atoms(bulk("Ar", "fcc", A, cubic=True) * (repeat, 1, 1), **options)


def mixed(**options):
    """The same, with krypton on every site."""
    return argon(mix={"Ar": ("Ar", "Kr")}, **options)


def system_masses(system):
    """Of its sites [amu]."""
    return masses_of(system, checked_weights(system, system.weights), node_masses(system.sites))
