"""Lennard-Jones crystals and their potential: quick, with known physics; species differ by the strength of bonds."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from ase.build import bulk

import alchemjax as aj
from alchemjax.model.load import Potential
from alchemjax.model.messages import mix, read

SPECIES = ("Ar", "Kr")
CUBE = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) * 2  # 32 cells of a face-centred lattice
A = 5.22  # A, near the minimum of the face-centred crystal
EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 6.0  # eV, A; argon, cut short and smoothly


@dataclass(frozen=True)
class Config:
    """Hyper-parameters."""

    cutoff: float = CUTOFF
    batch: int = 1
    per_node: bool = False
    strength: float = 1.0  # of all bonds; 0 is an ideal gas
    embedding: float = 0.0  # eV^-1; 0 is pairs alone


def pair_parts(r, strength=1.0, cutoff=CUTOFF):
    """4 eps (s/r)^12 and -4 eps (s/r)^6, brought to 0 at the cutoff with two continuous derivatives [eV]."""
    x = jnp.minimum(r / cutoff, 1)
    fade = strength * 4 * EPSILON * (1 - x**6 * (28 - 48 * x + 21 * x**2))
    return fade * (SIGMA / r) ** 12, -fade * (SIGMA / r) ** 6


def pair_energy(r, strength=1.0):
    """Of two sites of charge 1 [eV]."""
    return sum(pair_parts(r, strength))


def node_energies(params, config: Config, graph):
    """e_n = shift_n + s/2 + embedding s^2, s = sum_m P(m|n) (a_n a_m repulsion + b_n b_m attraction), charges a, b."""
    charge = params["charge"][graph.node_species]
    sources = mix(graph, charge[:, None])[:, 0]
    targets = jnp.zeros((len(graph.target_node), 2), charge.dtype)
    for edges in graph.blocks:
        phi = jnp.stack(pair_parts(jnp.linalg.norm(edges.vectors, axis=-1), config.strength, config.cutoff), axis=-1)
        for source, target in zip(edges.source, edges.target, strict=True):
            targets = targets + jax.ops.segment_sum(jnp.sum(sources[source] * phi, axis=1), target, len(targets))
    felt = jnp.sum(charge * read(graph, targets[:, None])[:, 0], axis=-1)
    return params["shift"][graph.node_species] + felt / 2 + config.embedding * felt**2


def lennard_jones(dtype="float64", *, strength=1.0, embedding=0.0, krypton=(1.1, 1.1), cutoff=CUTOFF) -> Potential:
    """The potential; with strength 0 sites do not see each other. `krypton`: its charges, repulsion and attraction."""
    params = {"charge": jnp.array([(1.0, 1.0), krypton], dtype), "shift": jnp.array([0.0, -0.3], dtype)}
    return Potential(
        name="lennard-jones",
        params=params,
        config=Config(cutoff=cutoff, strength=strength, embedding=embedding),
        node_energies=node_energies,
        species=SPECIES,
        cutoff=cutoff,
        dtype=dtype,
        sha256="",
        source={},
    )


def ideal_gas() -> Potential:
    """Sites that do not see each other, and hardly look."""
    return lennard_jones(strength=0.0, cutoff=0.5)


TIGHT = {"stress_tolerance": 1e-10, "force_tolerance": 1e-9, "max_steps": 3000}


def relaxed_mixed_argon(potential):
    """At zero stress, which second derivatives by strain need."""
    system = mixed_argon()
    relaxed = aj.relax(potential, system, cell=True, **TIGHT)
    assert relaxed.converged
    return system._replace(structure=relaxed.structure)


def mixed_argon(species=("Ar", "Kr"), weights=(0.4, 0.6), *, cubic=False, a=A):
    """Face-centred cubic."""
    return aj.from_atoms(bulk("Ar", "fcc", a, cubic=cubic), mix={"Ar": species}, weights=list(weights))


def wurtzite():
    """Two mixed sublattices, one with vacancies."""
    atoms = bulk("ArKr", "wurtzite", a=5.4, c=8.9, u=0.37)
    return aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr"), "Kr": ("Kr",)}, weights=[0.3, 0.7, 0.8])
