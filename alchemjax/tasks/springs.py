"""Harmonic springs between sites and the points where they belong, traced.

E = 1/2 sum_i k_i |d_i|^2,   d_i = u_i - sum_j c_j u_j,   u_i = x_i - (fractional anchor of i) cell

The shares c sum to 1, so that a rigid shift costs nothing and the centre of mass stays at rest. With c_i = k_i / sum k
these are the springs of an Einstein crystal about its own centre; with c zero at a site, they tie it to the others.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Springs(NamedTuple):
    """Where springs are fixed."""

    anchor: Float[Array, "sites 3"]  # fractional coordinates
    share: Float[Array, "sites"]  # c


class Pull(NamedTuple):
    """What springs do."""

    energy: Float[Array, ""]  # eV
    positions: Float[Array, "sites 3"]  # dE/dx [eV/A]
    strain: Float[Array, "3 3"]  # dE/dstrain [eV], anchors following the cell
    each: Float[Array, "sites"]  # dE/dk = |d|^2 / 2 [A^2]


def pull(springs: Springs, stiffness: Float[Array, "sites"], positions, cell) -> Pull:
    """Energy of springs of given constants [eV/A^2] and its derivatives; positions through periodic boundaries."""
    u = positions - springs.anchor @ cell
    d = u - (springs.share @ u)[None]
    force = stiffness[:, None] * d
    each = jnp.sum(d**2, axis=1) / 2
    return Pull(stiffness @ each, force - springs.share[:, None] * jnp.sum(force, axis=0)[None], force.T @ d, each)
