"""A Lennard-Jones crystal as a potential: quick, with known physics; species differ by the strength of their bonds."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from alchemjax.model.load import Potential
from alchemjax.model.messages import mix, read

SPECIES = ("Ar", "Kr")
EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 6.0  # eV, A; argon, cut short and smoothly


@dataclass(frozen=True)
class Config:
    """Hyper-parameters."""

    cutoff: float = CUTOFF
    batch: int = 1
    per_node: bool = False
    strength: float = 1.0  # of all bonds; 0 is an ideal gas
    embedding: float = 0.0  # eV^-1; 0 is pairs alone


def pair_energy(r, strength=1.0):
    """4 eps ((s/r)^12 - (s/r)^6), brought to 0 at the cutoff with two continuous derivatives [eV]."""
    x = jnp.minimum(r / CUTOFF, 1)
    fade = 1 - x**6 * (28 - 48 * x + 21 * x**2)
    return strength * 4 * EPSILON * ((SIGMA / r) ** 12 - (SIGMA / r) ** 6) * fade


def node_energies(params, config: Config, graph):
    """e_n = shift_n + c_n (s/2 + embedding s^2) with s = sum_m P(m|n) c_m phi(r)."""
    charge = params["charge"][graph.node_species]
    sources = mix(graph, charge[:, None, None])[:, 0, 0]
    targets = jnp.zeros(len(graph.target_node), charge.dtype)
    for edges in graph.blocks:
        phi = pair_energy(jnp.linalg.norm(edges.vectors, axis=-1), config.strength)
        for source, target in zip(edges.source, edges.target, strict=True):
            targets = targets + jax.ops.segment_sum(jnp.sum(sources[source] * phi, axis=-1), target, len(targets))
    felt = read(graph, targets[:, None, None])[:, 0, 0]
    return params["shift"][graph.node_species] + charge * (felt / 2 + config.embedding * felt**2)


def lennard_jones(dtype="float64", *, strength=1.0, embedding=0.0) -> Potential:
    """The potential; with strength 0 sites do not see each other."""
    params = {"charge": jnp.array([1.0, 1.1], dtype), "shift": jnp.array([0.0, -0.3], dtype)}
    return Potential(
        name="lennard-jones",
        params=params,
        config=Config(strength=strength, embedding=embedding),
        node_energies=node_energies,
        species=SPECIES,
        cutoff=CUTOFF,
        dtype=dtype,
        sha256="",
        source={},
    )


def ideal_gas() -> Potential:
    """Sites that do not see each other, and hardly look."""
    return lennard_jones(strength=0.0)._replace(config=Config(cutoff=0.5, strength=0.0), cutoff=0.5)
