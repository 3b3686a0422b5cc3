"""The sum over neighbours, with derivatives that are fast on a CPU, to any order, forwards and backwards.

    F(k, w, x, y) = sum k[r, p, c, (m, a)] w[r, p, m, u] x[r, m, a, u] y[r, p, c, u]

with rows r, paths p, neighbours m, channels u, components a of what the neighbours send and c of what is received. F is
linear in the angular kernel k, the radial weights w, the senders' features x and the received features y. The
convolution is the derivative of F with respect to y, and whatever JAX derives from it is a derivative with respect to
one of the four: one primitive, closed under differentiation. Only how these sums are carried out is ours: JAX's own
gradients come with swapped axes, whose copies cost more than the products, and with sums over inner axes that XLA does
not vectorise.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

ARGUMENTS = "kwxy"
LARGE_BATCH = 6  # from here on one operator per channel, shared by the batch, is cheaper than messages
ELEMENTS_AT_ONCE = 100_000  # arguments of a larger batch would push its messages out of a CPU's cache


def convolve(
    kernel: Float[Array, "rows paths received neighbours_components"],
    w: Float[Array, "rows paths neighbours channels"],
    x: Float[Array, "rows neighbours components channels"],
) -> Float[Array, "rows paths received channels"]:
    """sum_(m, a) kernel[r, p, c, (m, a)] w[r, p, m, u] x[r, m, a, u]."""
    return _derivative_p.bind(kernel, w, x, by="y")


def _messages(w, x):
    rows, neighbours, components, channels = x.shape
    return (w[:, :, :, None, :] * x[:, None]).reshape(rows, -1, neighbours * components, channels)


def _by_y(k, w, x):
    return _dot(k, _messages(w, x))


def _by_x(k, w, y):
    back = _sent_back(k, w, y)
    return sum(back[:, p] * w[:, p, :, None, :] for p in range(w.shape[1]))


def _by_w(k, x, y):
    back = _sent_back(k, x[:, None, :, 0], y)
    return sum(back[:, :, :, a] * x[:, None, :, a] for a in range(x.shape[2]))


def _by_k(w, x, y):
    return jnp.swapaxes(_dot(_messages(w, x), jnp.swapaxes(y, 2, 3)), 2, 3)


def _sent_back(k, like, y):
    """sum_c k y: [rows, paths, neighbours, components, channels]; the neighbours are counted in `like`."""
    back = _dot(jnp.swapaxes(k, 2, 3), y)
    return back.reshape(*back.shape[:2], like.shape[2], -1, back.shape[-1])


def _dot(a, b):
    """Matrix products of every row and path, as one batch."""
    left, right = (m.reshape(-1, *m.shape[2:]) for m in (a, b))
    flat = lax.dot_general(left, right, (((2,), (1,)), ((0,), (0,))))
    return flat.reshape(*a.shape[:2], *flat.shape[1:])


DERIVATIVES = {"k": _by_k, "w": _by_w, "x": _by_x, "y": _by_y}


def _derivative(*others, by: str):
    """dF / d(by), from the other three arguments."""
    return DERIVATIVES[by](*others)


# --- batches: features of many compositions (or tangents) on one geometry ---------------------------------------------


def _operator(k, w, *, transposed: bool):
    """k w as a matrix for every row and channel: [rows, channels, (p, c), (m, a)]."""
    rows, paths, received, _ = k.shape
    k = k.reshape(rows, 1, paths, received, w.shape[2], -1)
    w = jnp.moveaxis(w, 3, 1)[:, :, :, None, :, None]
    order = (0, 1, 4, 5, 2, 3) if transposed else (0, 1, 2, 3, 4, 5)
    rows_of = (w.shape[4], k.shape[5]) if transposed else (paths, received)
    product = jnp.transpose(k * w, order)
    return product.reshape(rows, w.shape[1], rows_of[0] * rows_of[1], -1)


def _apply_operator(operator, a):
    """[r, u, i, j] x [batch, r, j0, j1, u] -> [batch, r, i, u]."""
    batch, rows, _, _, channels = a.shape
    columns = jnp.transpose(a, (1, 4, 2, 3, 0)).reshape(rows, channels, -1, batch)
    out = lax.dot_general(operator, columns, (((3,), (2,)), ((0, 1), (0, 1))))
    return jnp.transpose(out, (3, 0, 2, 1))


def _batch(arguments, axes, *, by: str):
    mapped = [axis is not batching.not_mapped for axis in axes]
    size = next(a.shape[axis] for a, axis, m in zip(arguments, axes, mapped, strict=True) if m)
    if by in "xy" and mapped == [False, False, True] and size >= LARGE_BATCH:
        k, w, a = arguments
        out = _apply_operator(_operator(k, w, transposed=by == "x"), jnp.moveaxis(a, axes[2], 0))
        inner = (w.shape[2], -1) if by == "x" else k.shape[1:3]
        return out.reshape(*out.shape[:2], *inner, out.shape[-1]), 0
    axes = tuple(axis if m else None for axis, m in zip(axes, mapped, strict=True))
    if sum(a.size for a in arguments) <= ELEMENTS_AT_ONCE:
        return _at_once(axes, by, *arguments), 0
    return lax.platform_dependent(
        *arguments, cpu=partial(_one_by_one, axes, by), default=partial(_at_once, axes, by)
    ), 0


def _at_once(axes, by: str, *arguments):
    return jax.vmap(partial(_derivative, by=by), axes)(*arguments)


def _one_by_one(axes, by: str, *arguments):
    """The same, with messages that stay in the cache."""
    batched = [jnp.moveaxis(a, axis, 0) for a, axis in zip(arguments, axes, strict=True) if axis is not None]

    def one(members):
        members = iter(members)
        mixed = (a if axis is None else next(members) for a, axis in zip(arguments, axes, strict=True))
        return _derivative_p.bind(*mixed, by=by)

    return lax.map(one, batched)


# --- the primitive ----------------------------------------------------------------------------------------------------


def _others(by: str) -> str:
    return ARGUMENTS.replace(by, "")


def _jvp(primals, tangents, *, by: str):
    terms = [
        _derivative_p.bind(*primals[:i], ad.instantiate_zeros(tangent), *primals[i + 1 :], by=by)
        for i, tangent in enumerate(tangents)
        if type(tangent) is not ad.Zero
    ]
    return _derivative_p.bind(*primals, by=by), sum(terms[1:], start=terms[0])


def _transpose(cotangent, *arguments, by: str):
    """The one linear argument becomes what is derived by; the cotangent takes the place of `by`."""
    names = _others(by)
    linear = next(name for name, a in zip(names, arguments, strict=True) if ad.is_undefined_primal(a))
    if type(cotangent) is ad.Zero:
        return [ad.Zero(a.aval) if ad.is_undefined_primal(a) else None for a in arguments]
    known = dict(zip(names, arguments, strict=True)) | {by: cotangent}
    out = _derivative_p.bind(*(known[name] for name in _others(linear)), by=linear)
    return [out if name == linear else None for name in names]


def _abstract(*arguments, by: str):
    shapes = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments)
    out = jax.eval_shape(partial(_derivative, by=by), *shapes)
    return ShapedArray(out.shape, out.dtype)


_derivative_p = Primitive("convolve")
_derivative_p.def_impl(jax.jit(_derivative, static_argnames="by"))
_derivative_p.def_abstract_eval(_abstract)
ad.primitive_jvps[_derivative_p] = _jvp
ad.primitive_transposes[_derivative_p] = _transpose
batching.primitive_batchers[_derivative_p] = _batch
mlir.register_lowering(_derivative_p, mlir.lower_fun(_derivative, multiple_results=False))
