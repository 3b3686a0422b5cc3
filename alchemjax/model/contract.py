"""Two bilinear operations of the convolution whose derivatives are fast on a CPU, to any order, forwards and backwards.

    weigh     out[r, p, m, a, u] = w[r, p, m, u] x[r, m, a, u]              radial weights on the senders' features
    contract  out[b, i, j] = sum_k small[b, i, k] large[b, k, j]            angular part times the messages of all edges

They equal the broadcast product and `lax.dot_general`; only what JAX derives from them differs. Its own gradient of
`large` comes with swapped axes, and copying it back costs more than the product; its gradients of w and x are sums over
inner axes, which XLA does not vectorise. Here gradients are products of the same kind and sums of a few slices.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def _bilinear(name: str, function, first_gradient, second_gradient, batch) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(function))
    primitive.def_abstract_eval(lambda *a: ShapedArray(*_shape(function, a)))
    ad.defbilinear(primitive, first_gradient, second_gradient)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    return primitive


def _shape(function, arguments):
    out = jax.eval_shape(function, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments))
    return out.shape, out.dtype


def contract(small, large):
    """[b, i, k] x [b, k, j] -> [b, i, j]."""
    return _contract_p.bind(small, large)


def _swap(a):
    return jnp.swapaxes(a, 1, 2)


def _batch_contract(arguments, axes):
    small, large = arguments
    small_axis, large_axis = axes
    if small_axis is batching.not_mapped:  # the batch becomes columns of the large operand
        large = jnp.moveaxis(large, large_axis, 2)
        out = contract(small, large.reshape(*large.shape[:2], -1))
        return out.reshape(*out.shape[:2], *large.shape[2:]), 2
    if large_axis is batching.not_mapped:  # the batch becomes rows of the small operand
        small = jnp.moveaxis(small, small_axis, 1)
        out = contract(small.reshape(len(small), -1, small.shape[3]), large)
        return out.reshape(*small.shape[:3], out.shape[2]), 1
    small, large = jnp.moveaxis(small, small_axis, 0), jnp.moveaxis(large, large_axis, 0)
    out = contract(small.reshape(-1, *small.shape[2:]), large.reshape(-1, *large.shape[2:]))
    return out.reshape(*small.shape[:2], *out.shape[1:]), 0


_contract_p = _bilinear(
    "contract",
    lambda small, large: lax.dot_general(small, large, (((2,), (1,)), ((0,), (0,)))),
    lambda out, small, large: _swap(contract(large, _swap(out))),
    lambda out, small, large: contract(_swap(small), out),
    _batch_contract,
)


def weigh(w, x):
    """[r, p, m, u] x [r, m, a, u] -> [r, p, m, a, u]."""
    return _weigh_p.bind(w, x)


def _weigh(w, x):
    return w[:, :, :, None, :] * x[:, None]


def _batch_weigh(arguments, axes):
    return jax.vmap(_weigh, in_axes=tuple(None if a is batching.not_mapped else a for a in axes))(*arguments), 0


_weigh_p = _bilinear(
    "weigh",
    _weigh,
    lambda out, w, x: sum(out[:, :, :, a] * x[:, None, :, a] for a in range(x.shape[2])),
    lambda out, w, x: sum(out[:, p] * w[:, p, :, None, :] for p in range(w.shape[1])),
    _batch_weigh,
)
