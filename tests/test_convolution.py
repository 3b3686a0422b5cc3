"""The sum over neighbours equals the plain one, with all its derivatives and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alchemjax.model import convolution
from alchemjax.model.convolution import convolve

SHAPES = (2, 3, 5, 8), (2, 3, 4, 6), (2, 4, 2, 6)  # kernel, radial weights, features


def plain(kernel, w, x):
    rows, neighbours, components, _ = x.shape
    kernel = kernel.reshape(*kernel.shape[:3], neighbours, components)
    return jnp.einsum("rpcma,rpmu,rmau->rpcu", kernel, w, x)


def scalar(function):
    """A scalar in which every derivative up to the third is non-zero."""
    return lambda k, w, x: jnp.sum(jnp.sin(function(jnp.sin(k), w**2, jnp.cos(x))))


@pytest.fixture
def operands(rng):
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in SHAPES)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10), a, b)


def test_values_are_those_of_the_plain_sum(operands):
    close(convolve(*operands), plain(*operands))
    close(jax.jit(convolve)(*operands), plain(*operands))


@pytest.mark.parametrize("modes", ["r", "f", "rr", "fr", "rf", "ff", "rrr", "frr", "ffr", "rfr"])
def test_derivatives_of_all_orders_and_modes_are_those_of_the_plain_sum(operands, modes, rng):
    def derivative(function):
        function = scalar(function)
        directions = [tuple(jnp.asarray(rng.normal(size=a.shape)) for a in operands) for _ in modes]
        for mode, direction in zip(reversed(modes), directions, strict=True):
            inner = function
            if mode == "f":
                function = lambda *a, f=inner, d=direction: jax.jvp(f, a, d)[1]
            else:
                function = lambda *a, f=inner, d=direction: sum(
                    jnp.vdot(g, v) for g, v in zip(jax.grad(f, (0, 1, 2))(*a), d, strict=True)
                )
        return jax.jit(function)

    state = rng.bit_generator.state
    ours = derivative(convolve)(*operands)
    rng.bit_generator.state = state
    theirs = derivative(plain)(*operands)
    assert abs(theirs) > 1e-3
    close(ours, theirs)


@pytest.mark.parametrize("large_batch", [2, 99], ids=["operator", "messages"])
@pytest.mark.parametrize("elements", [0, 10**9], ids=["one by one", "at once"])
@pytest.mark.parametrize("axes", [(None, None, 0), (None, None, 3), (0, None, 2), (None, 1, None), (0, 0, 0)])
def test_batches_are_those_of_the_plain_sum(operands, axes, elements, large_batch, monkeypatch):
    monkeypatch.setattr(convolution, "LARGE_BATCH", large_batch)
    monkeypatch.setattr(convolution, "ELEMENTS_AT_ONCE", elements)

    def batched(a, axis):
        return a if axis is None else jnp.stack([a, 2 * a, a - 1], axis=axis)

    arguments = [batched(a, axis) for a, axis in zip(operands, axes, strict=True)]
    close(jax.vmap(convolve, axes)(*arguments), jax.vmap(plain, axes)(*arguments))
    every = (0, 1, 2)
    gradient = lambda f: jax.vmap(jax.grad(scalar(f), every), axes)(*arguments)
    close(gradient(convolve), gradient(plain))
    of_batch = lambda f: jax.grad(lambda *a: jnp.sum(jax.vmap(scalar(f), axes)(*a)), every)(*arguments)
    close(of_batch(convolve), of_batch(plain))
    curvature = lambda f: jax.vmap(lambda *a: jax.jvp(jax.grad(scalar(f), every), a, operands)[1], axes)(*arguments)
    close(curvature(convolve), curvature(plain))
