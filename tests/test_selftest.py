"""The self-test of the compiler."""

import time

import jax
import pytest

from alchemjax import selftest


def test_compiled_arithmetic_is_exact_past_the_row_where_jax_0_10_2_fails():
    start = time.perf_counter()
    selftest.check_compiler()
    assert time.perf_counter() - start < 3  # about 0.15 s on an idle machine
    assert selftest.ROWS == {"float64": 20_000, "float32": 40_000}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_one_wrong_row_in_either_precision_is_reported_with_version_and_remedy(monkeypatch, dtype):
    jit = jax.jit

    def miscompiling(function):
        def wrong(*args):
            result = jit(function)(*args)
            return result.at[-1].multiply(0.5) if result.dtype == dtype else result

        return wrong

    monkeypatch.setattr(jax, "jit", miscompiling)
    with pytest.raises(RuntimeError, match=rf"jax {jax.__version__} .*{dtype}.* install another version"):
        selftest.check_compiler()


def test_the_self_test_leaves_the_precision_of_jax_as_it_was():
    with jax.enable_x64(False):
        selftest.check_compiler()
        assert not jax.config.jax_enable_x64
    assert jax.config.jax_enable_x64
