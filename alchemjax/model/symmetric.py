"""Symmetric contraction: every channel of a node through a polynomial of its own, equivariant under rotation.

    B[n, c, M] = sum_(nu, k) W_nu[z(n), k, c] sum_(i1..i_nu) U_nu[M, i1..i_nu, k] X[n, i1, c] ... X[n, i_nu, c]

U is almost empty, and only its symmetric part counts: of the 94,208 numbers of U_3 for L = 0 and l up to 3 there remain
79 monomials. U and W are contracted once, when a model is read, to one coefficient per monomial, species and channel;
what is left to do for a node is a nested sum x_i (c_i + x_j (c_ij + x_k c_ijk)) over slices that are channels long.

I. Batatia et al., NeurIPS 35, 11423 (2022), eqs. (10)-(11).
"""

from functools import lru_cache, partial
from itertools import combinations_with_replacement, permutations, product
from math import isqrt

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

Monomial = tuple[int, ...]  # components of X, in ascending order
Polynomial = tuple[
    tuple[Monomial, tuple[tuple[int, int], ...]], ...
]  # monomial, ((factor, place of its coefficient), ...)


# --- which monomials there are ----------------------------------------------------------------------------------------


@lru_cache
def monomials(max_l: int, output_l: int, degree: int) -> tuple[tuple[Monomial, ...], ...]:
    """For every component of the output the monomials, up to a degree, that rotations and reflections permit.

    The components m of one l are real harmonics, sin(|m| phi) for m < 0 and cos(m phi) otherwise.

    >>> monomials(1, 0, 2)
    (((0,), (0, 0), (1, 1), (2, 2), (3, 3)),)
    """
    components = [(l, m) for l in range(max_l + 1) for m in range(-l, l + 1)]
    every = [t for nu in range(1, degree + 1) for t in combinations_with_replacement(range(len(components)), nu)]
    return tuple(
        tuple(t for t in every if _permitted([(output_l, m), *(components[i] for i in t)]))
        for m in range(-output_l, output_l + 1)
    )


def _permitted(factors: list[tuple[int, int]]) -> bool:
    """Whether the integral of a product of harmonics (l, m) need not vanish."""
    degrees = [l for l, _ in factors]
    orders = [abs(m) for _, m in factors]
    return (
        sum(degrees) % 2 == 0
        and 2 * max(degrees) <= sum(degrees)
        and sum(m < 0 for _, m in factors) % 2 == 0
        and any(
            sum(s * m for s, m in zip(signs, orders, strict=True)) == 0
            for signs in product((1, -1), repeat=len(orders))
        )
    )


def coefficients(u: dict[int, np.ndarray], w: dict[int, np.ndarray], output_l: int) -> np.ndarray:
    """Coefficients [species, monomials of all components, channels] from U_nu and W_nu by nu.

    Errors: ValueError if U has elements that break the symmetry.
    """
    degree = len(u)
    max_l = isqrt(u[1].shape[-2]) - 1
    summed = []
    symmetric = {}  # monomial: [component, path], the sum over the permutations of its indices
    for nu, tensor in u.items():
        tensor = np.asarray(tensor, np.float64).reshape(2 * output_l + 1, *[(max_l + 1) ** 2] * nu, -1)
        rest = tensor.copy()
        for t in combinations_with_replacement(range((max_l + 1) ** 2), nu):
            orders = set(permutations(t))
            symmetric[t] = sum(tensor[(slice(None), *order)] for order in orders)
        for m, permitted in enumerate(monomials(max_l, output_l, degree)):
            for t in permitted:
                if len(t) == nu:
                    for order in permutations(t):
                        rest[(m, *order)] = 0
        # conversion has tested U sharply, path by path; what is left of that tolerance must not be refused here
        if abs(rest).max() > 1e-4 * max(abs(tensor).max(), 1e-30):
            raise ValueError(f"the tensor U of degree {nu} for l = {output_l} is not equivariant")
    for m, permitted in enumerate(monomials(max_l, output_l, degree)):
        for t in permitted:
            summed.append(np.einsum("k,zkc->zc", symmetric[t][m], np.asarray(w[len(t)], np.float64)))
    return np.stack(summed, axis=1)


# --- evaluation -------------------------------------------------------------------------------------------------------


def contract(
    max_l: int,
    output_l: int,
    degree: int,
    coefficients: Float[Array, "*#nodes monomials channels"],
    x: Float[Array, "*nodes components channels"],
) -> Float[Array, "*nodes outputs channels"]:
    """B of one output l; nodes may share their coefficients."""
    places = iter(range(coefficients.shape[-2]))
    polynomials = tuple(
        tuple((t, ((1, next(places)),)) for t in permitted) for permitted in monomials(max_l, output_l, degree)
    )
    return _evaluate(polynomials, coefficients, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _evaluate(polynomials: tuple[Polynomial, ...], coefficients, x):
    """Values of several polynomials, stacked."""
    x = [jnp.squeeze(part, -2) for part in jax.lax.split(x, [1] * x.shape[-2], axis=x.ndim - 2)]
    zero = jnp.zeros_like(x[0])
    return jnp.stack([_nested_sum(p, coefficients, x, zero) for p in polynomials], axis=-2)


def _evaluate_jvp(polynomials, primals, tangents):
    """The slopes are polynomials as well: JAX's own derivative of the nested sum takes ten times as long."""
    coefficients, x = primals
    d_coefficients, d_x = tangents
    value = _evaluate(polynomials, coefficients, x)
    change = jnp.zeros_like(value)
    if type(d_x) is not SymbolicZero:
        inputs = range(x.shape[-2])
        slopes = (_evaluate(tuple(_slope(p, i) for i in inputs), coefficients, x) for p in polynomials)
        change = jnp.stack([jnp.sum(slope * d_x, axis=-2) for slope in slopes], axis=-2)
    if type(d_coefficients) is not SymbolicZero:
        change = change + _evaluate(polynomials, d_coefficients, x)
    return value, change


_evaluate.defjvp(_evaluate_jvp, symbolic_zeros=True)


def _slope(polynomial: Polynomial, i: int) -> Polynomial:
    """Derivative by x_i."""
    terms: dict[Monomial, tuple] = {}
    for monomial, coefficient in polynomial:
        if power := monomial.count(i):
            place = monomial.index(i)
            reduced = monomial[:place] + monomial[place + 1 :]
            terms[reduced] = terms.get(reduced, ()) + tuple((power * factor, s) for factor, s in coefficient)
    return tuple(terms.items())


def _nested_sum(polynomial: Polynomial, coefficients, x: list, zero):
    """sum_t c_t x_t1 x_t2 ... as a tree: x_i (c_i + x_j (c_ij + ...))."""

    def branch(terms: dict[Monomial, tuple]):
        parts = [factor * coefficients[..., s, :] for factor, s in terms.pop((), ())]
        for i in sorted({t[0] for t in terms}):
            parts.append(x[i] * branch({t[1:]: c for t, c in terms.items() if t[0] == i}))
        return sum(parts[1:], start=parts[0])

    return branch(dict(polynomial)) + zero if polynomial else zero
