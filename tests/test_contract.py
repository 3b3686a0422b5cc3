"""The two bilinear operations of the convolution equal the plain ones, with all their derivatives and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alchemjax.model.contract import contract, weigh

PLAIN = {
    contract: lambda a, b: jnp.einsum("bik,bkj->bij", a, b),
    weigh: lambda w, x: jnp.einsum("rpmu,rmau->rpmau", w, x),
}
SHAPES = {contract: ((2, 3, 4), (2, 4, 5)), weigh: ((2, 3, 4, 5), (2, 4, 3, 5))}


def scalar(function):
    """A scalar in which every derivative up to the third is non-zero."""
    return lambda a, b: jnp.sum(jnp.sin(function(jnp.sin(a), b**2)))


@pytest.fixture(params=[contract, weigh], ids=["contract", "weigh"])
def operation(request):
    return request.param


@pytest.fixture
def operands(operation, rng):
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in SHAPES[operation])


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10), a, b)


def test_values_are_those_of_the_plain_operation(operation, operands):
    close(operation(*operands), PLAIN[operation](*operands))
    close(jax.jit(operation)(*operands), PLAIN[operation](*operands))


@pytest.mark.parametrize("modes", ["r", "f", "rr", "fr", "rf", "ff", "rrr", "frr", "ffr", "rfr"])
def test_derivatives_of_all_orders_and_modes_are_those_of_the_plain_operation(operation, operands, modes, rng):
    def derivative(function):
        function = scalar(function)
        directions = [tuple(jnp.asarray(rng.normal(size=a.shape)) for a in operands) for _ in modes]
        for mode, direction in zip(reversed(modes), directions, strict=True):
            inner = function
            if mode == "f":
                function = lambda a, b, f=inner, d=direction: jax.jvp(f, (a, b), d)[1]
            else:
                function = lambda a, b, f=inner, d=direction: sum(
                    jnp.vdot(g, v) for g, v in zip(jax.grad(f, (0, 1))(a, b), d, strict=True)
                )
        return function

    state = rng.bit_generator.state
    ours = derivative(operation)(*operands)
    rng.bit_generator.state = state
    theirs = derivative(PLAIN[operation])(*operands)
    assert abs(theirs) > 1e-3
    close(ours, theirs)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 1), (None, 2)])
def test_batches_are_those_of_the_plain_operation(operation, operands, axes, rng):
    def batched(a, axis):
        return a if axis is None else jnp.stack([a, 2 * a, a - 1], axis=axis)

    arguments = [batched(a, axis) for a, axis in zip(operands, axes, strict=True)]
    close(jax.vmap(operation, axes)(*arguments), jax.vmap(PLAIN[operation], axes)(*arguments))
    gradient = lambda f: jax.vmap(jax.grad(scalar(f), (0, 1)), axes)(*arguments)
    close(gradient(operation), gradient(PLAIN[operation]))
    total = lambda f: jax.grad(lambda *a: jnp.sum(jax.vmap(scalar(f), axes)(*a)), (0, 1))(*arguments)
    close(total(operation), total(PLAIN[operation]))
