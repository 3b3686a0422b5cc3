"""Whether the JAX that is installed computes what it is asked to."""

import jax
import jax.numpy as jnp
import numpy as np

ROWS = {"float64": 20_000, "float32": 40_000}  # the fault begins after 16,384 and 32,768 rows


def check_compiler() -> None:
    """Compare compiled with plain arithmetic: sum((M r)^2) of many vectors r, in small integers, so that all is exact.

    jax 0.10.2 gets the last rows silently wrong on CPUs: https://github.com/jax-ml/jax/issues/39103.
    Errors: RuntimeError naming the version of JAX when the two differ.
    """
    matrix = np.arange(9).reshape(3, 3)
    for dtype, rows in ROWS.items():
        vectors = np.arange(3 * rows).reshape(rows, 3) % 101
        expected = np.sum((vectors @ matrix.T) ** 2, axis=1)
        with jax.enable_x64(True):
            m = jnp.asarray(matrix, dtype)
            norms = jax.jit(jax.vmap(lambda r, m=m: jnp.sum((m @ r) ** 2)))(jnp.asarray(vectors, dtype))
        if not np.array_equal(norms, expected):
            raise RuntimeError(
                f"jax {jax.__version__} computes wrong numbers on this machine (compiled {dtype} arithmetic, jax issue "
                '39103): install another version, for example with pip install "jax==0.10.1"'
            )
