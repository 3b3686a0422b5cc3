"""Thermostats, traced; they keep the total momentum at zero, and there are 3N - 3 degrees of freedom.

Langevin      p = c p + sqrt((1 - c^2) m kT) xi, c = exp(-dt/tau)      B. Leimkuhler, C. Matthews, Appl. Math. Res.
                                                                        Express 2013, 34 (2013)
Nose-Hoover   chains of three, Yoshida-Suzuki steps                    G. Martyna et al., Mol. Phys. 87, 1117 (1996)
CSVR          all momenta scaled by one stochastic factor              G. Bussi et al., J. Chem. Phys. 126, 014101
                                                                        (2007), eqs. (A7), (A8)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

CHAIN = 3
YOSHIDA = (1.3512071919596578, -1.7024143839193153, 1.3512071919596578)  # fourth order: 1/(2 - 2^(1/3)) and the rest


class Now(NamedTuple):
    """Imposed values at one step of one replica."""

    temperature: Float[Array, ""]
    pressure: Float[Array, ""]
    weights: Float[Array, "weights"]
    alpha: Float[Array, ""]
    scale: Float[Array, ""]
    stiffness: Float[Array, "sites"]
    masses: Float[Array, "sites 1"]


def site_masses(node_weight, node_mass, node_site, num_sites: int) -> Float[Array, "sites"]:
    """m = sum_n w_n m_n / sum_n w_n [amu]: the mean of the species on a site; a vacancy takes no mass away."""
    of_sites = lambda values: jax.ops.segment_sum(values, node_site, num_sites)
    total = of_sites(node_weight)
    vacant = total < 1e-6  # its species, without weights
    plain = of_sites(node_mass) / of_sites(jnp.ones_like(node_mass))
    return jnp.where(vacant, plain, of_sites(node_weight * node_mass) / jnp.where(vacant, 1, total))


def kinetic_energy(momenta, masses):
    """K = sum p^2 / 2m [eV]."""
    return jnp.sum(momenta**2 / masses) / 2


def degrees_of_freedom(momenta) -> int:
    """3N - 3: the centre of mass is at rest."""
    return 3 * len(momenta) - 3


def at_rest(momenta, masses):
    """Without the momentum of the centre of mass."""
    return momenta - masses * jnp.sum(momenta, axis=0, keepdims=True) / jnp.sum(masses)


def _langevin(key, momenta, chain, time, now: Now, duration):
    noise = jax.random.normal(key, momenta.shape, momenta.dtype) * jnp.sqrt(now.masses * now.temperature)
    keep = jnp.exp(-duration / time)
    return keep * momenta + jnp.sqrt(1 - keep**2) * at_rest(noise, now.masses), chain


def _csvr(key, momenta, chain, time, now: Now, duration):
    freedom = degrees_of_freedom(momenta)
    first, others = jax.random.split(key)
    r = jax.random.normal(first, (), momenta.dtype)
    rest = 2 * jax.random.gamma(others, (freedom - 1) / 2, (), momenta.dtype)
    keep = jnp.exp(-duration / time)
    kinetic = kinetic_energy(momenta, now.masses)
    ratio = now.temperature / jnp.where(kinetic > 0, 2 * kinetic, 1)
    cross = jnp.sqrt(keep * (1 - keep) * ratio)
    scale = jnp.sqrt(jnp.maximum(keep + (1 - keep) * (r**2 + rest) * ratio + 2 * r * cross, 0))
    sign = jnp.where(r * (1 - keep) * ratio + cross < 0, -1, 1)
    return scale * sign * momenta, chain


def _nose_hoover(key, momenta, chain, time, now: Now, duration):
    freedom, warmth = degrees_of_freedom(momenta), now.temperature
    inertia = _inertia(time, now, freedom)
    twice, scale = 2 * kinetic_energy(momenta, now.masses), jnp.ones_like(warmth)
    place, speed = chain[0], list(chain[1])

    def push(j):
        return (twice - freedom * warmth if j == 0 else inertia[j - 1] * speed[j - 1] ** 2 - warmth) / inertia[j]

    for weight in YOSHIDA:
        h = weight * duration
        speed[-1] = speed[-1] + push(CHAIN - 1) * h / 2
        for j in reversed(range(CHAIN - 1)):
            drag = jnp.exp(-speed[j + 1] * h / 4)
            speed[j] = (speed[j] * drag + push(j) * h / 2) * drag
        slower = jnp.exp(-speed[0] * h)
        scale, twice = scale * slower, twice * slower**2
        place = place + jnp.stack(speed) * h
        for j in range(CHAIN - 1):
            drag = jnp.exp(-speed[j + 1] * h / 4)
            speed[j] = (speed[j] * drag + push(j) * h / 2) * drag
        speed[-1] = speed[-1] + push(CHAIN - 1) * h / 2
    return scale * momenta, jnp.stack([place, jnp.stack(speed)])


def chain_energy(time, now: Now, freedom: int, chain):
    """What a Nose-Hoover chain adds to the conserved energy [eV]."""
    place, speed = chain
    kinetic = jnp.sum(_inertia(time, now, freedom) * speed**2) / 2
    return kinetic + now.temperature * (freedom * place[0] + jnp.sum(place[1:]))


def _inertia(time, now: Now, freedom: int):
    """Q = kT tau^2, of the first link times the degrees of freedom."""
    each = now.temperature * time**2
    return jnp.stack([freedom * each] + [each] * (CHAIN - 1))


THERMOSTATS = {"langevin": _langevin, "nose-hoover": _nose_hoover, "csvr": _csvr}
