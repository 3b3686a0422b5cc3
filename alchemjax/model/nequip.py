"""What networks of the NequIP type share beside the messages: linear maps, the gate, angular and radial functions.

S. Batzner et al., Nat. Commun. 13, 2453 (2022).
Features are lists over l of arrays [nodes, 2l+1, channels]. Weights come without any normalisation: the factors
1/sqrt(fan in) of linear maps are applied here.
"""

from math import sqrt

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

from alchemjax.model.messages import Geometry

Path = tuple[int, int, int]  # l1 of the sender, l2 of the edge, l3 of the message


# --- shapes -----------------------------------------------------------------------------------------------------------


def paths_of(num_in: int, lmax: int, num_out: int, *, natural: bool = False) -> tuple[Path, ...]:
    """(l1, l2, l3) of the tensor product, in the order of the radial weights.

    With natural parity (0e 1o 2e 3o) l1 + l2 + l3 is even; without parity (SO(3)) it is any.
    """
    return tuple(
        (l1, l2, l3)
        for l1 in range(num_in)
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), l1 + l2 + 1, 2 if natural else 1)
        if l3 < num_out
    )


def gated(mul_out) -> tuple[int, ...]:
    """Channels before the gate: the scalars carry one gate for every channel of l > 0."""
    return (sum(mul_out), *mul_out[1:])


def layer_shapes(mul_in, mul_out, paths, radial) -> dict[str, tuple[int, ...]]:
    """Name and shape of the linear maps of one layer; `radial` are the widths of its radial network but the last."""
    widths = [*radial, sum(mul_in[p[0]] for p in paths)]
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (rows, cols) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        shapes[f"radial.{k}"] = (rows, cols)
    for l, mul in enumerate(mul_in):
        shapes[f"linear_1.{l}"] = (mul, mul)
    for l, mul in enumerate(gated(mul_out)):
        shapes[f"linear_2.{l}"] = (sum(mul_in[p[0]] for p in paths if p[2] == l), mul)
        if l < len(mul_in):
            shapes[f"self_connection.{l}"] = (mul_in[l], mul)
    return shapes


# --- nodes ------------------------------------------------------------------------------------------------------------


def linear(weights: dict, x: list, *, more_scalars: int = 0) -> list:
    """One matrix per l; `more_scalars` counts further inputs of l = 0 in the normalisation."""
    fan_in = [a.shape[-1] + (more_scalars if l == 0 else 0) for l, a in enumerate(x)]
    return [a @ weights[str(l)] / sqrt(fan_in[l]) for l, a in enumerate(x) if str(l) in weights]


def add_own(own: list, received: list) -> list:
    """The self-connection, which may lack higher l, added to what was received."""
    return [a + own[l] if l < len(own) else a for l, a in enumerate(received)]


def gate(silu_norm: float, mul_out: tuple[int, ...], x: list) -> list:
    """silu on the scalars; the other l times silu of the gates that follow the scalars."""
    scalars = silu_norm * jax.nn.silu(x[0])
    parts = jnp.split(scalars, np.cumsum(mul_out)[:-1], axis=-1)
    return [parts[0], *(a * gate for a, gate in zip(x[1:], parts[1:], strict=True))]


# --- edges ------------------------------------------------------------------------------------------------------------


def geometry_of(vectors, lmax: int, paths, *, normalize: bool = True, negative=()) -> Geometry:
    """Distances, and angular kernels of all paths; 3j symbols of `negative` paths change sign."""
    irreps = e3nn.Irreps([(1, (l, (-1) ** l)) for l in range(lmax + 1)])
    y = e3nn.spherical_harmonics(irreps, vectors, normalize=normalize, normalization="component").array
    y = [y[..., l**2 : (l + 1) ** 2] for l in range(lmax + 1)]
    kernels = {}
    for l1, l2, l3 in paths:
        w3j = np.array(e3nn.clebsch_gordan(l1, l2, l3))
        w3j *= sqrt(2 * l3 + 1) / np.linalg.norm(w3j) * (-1 if (l1, l2, l3) in negative else 1)
        kernels[l1, l2, l3] = jnp.einsum("abc,rwb->rwac", w3j.astype(y[l2].dtype), y[l2])
    return Geometry(jnp.linalg.norm(vectors, axis=-1), kernels, {})


def bessel(frequencies, cutoff: float, r):
    """2/rc sin(q r)/r for every frequency q, on a new last axis."""
    frequencies = jnp.expand_dims(frequencies, tuple(range(r.ndim)))
    return 2 / cutoff * jnp.sin(frequencies * r[..., None]) / r[..., None]


def polynomial_cutoff(p: int, cutoff: float, r):
    """The polynomial of Gasteiger et al., 0 from the cutoff on (C2 there)."""
    x = jnp.minimum(r / cutoff, 1.0)
    # (1 - x)^3 sum_k (k+1)(k+2)/2 x^k equals the usual form without its cancellation near x = 1
    series = sum((k + 1) * (k + 2) / 2 * x**k for k in range(p))
    return jnp.where(r < cutoff, (1 - x) ** 3 * series, 0.0)
