"""Sweeps: the same numbers as one by one, in batches, after an interruption and on several devices."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT
from pair_potential import lennard_jones, mixed_argon

import alchemjax as aj
from alchemjax.tasks.sweep import join, make_plan, sweep_batches

COMPOSITIONS = [[1, 0], [0.75, 0.25], [0.5, 0.5], [0.3, 0.4], [0, 1]]


@pytest.fixture(scope="module")
def potential():
    return lennard_jones()


@pytest.fixture(scope="module")
def system():
    return mixed_argon()


def test_single_points_equal_calculate(potential, system):
    table = aj.sweep(potential, system, COMPOSITIONS, "none")
    assert np.ptp(table.energy) > 0.1
    for k, weights in enumerate(COMPOSITIONS):
        out = aj.calculate(potential, system, weights)
        for name in ("energy", "forces", "stress", "weights_gradient"):
            np.testing.assert_allclose(getattr(table, name)[k], getattr(out, name), atol=1e-12)


def test_relaxed_rows_equal_relax(potential, system):
    table = aj.sweep(potential, system, COMPOSITIONS[:3], "cell")
    assert table.converged.all() and np.ptp(table.energy) > 0.01
    alone = aj.relax(potential, system, COMPOSITIONS[1], cell=True)
    assert abs(alone.output.energy - table.energy[1]) < 1e-8
    assert abs(np.linalg.det(alone.structure.cell) / table.volume[1]) == pytest.approx(1, abs=1e-6)


def test_a_sweep_continued_after_any_batch_has_the_identical_table(potential, system):
    plan = make_plan(potential, system, COMPOSITIONS, "none", batch=2)
    whole = list(sweep_batches(potential, system, plan))
    assert [len(t.energy) for t in whole] == [2, 2, 1]
    for done in (1, 2):
        continued = join(whole[:done] + list(sweep_batches(potential, system, plan, done=done)))
        for a, b in zip(join(whole), continued, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rows, devices, batch", [(1, 1, 1), (8, 1, 8), (9, 1, 5), (21, 1, 7), (1, 2, 1), (21, 2, 12)])
def test_batches_are_equal_and_hardly_padded(potential, system, monkeypatch, rows, devices, batch):
    monkeypatch.setattr(jax, "devices", lambda: [None] * devices)
    x = np.linspace(0, 1, rows)
    assert make_plan(potential, system, np.stack([1 - x, x], 1), "cell").batch == batch


def test_unconverged_rows_say_so(potential, system):
    table = aj.sweep(potential, system, COMPOSITIONS[:2], "cell", max_steps=2)
    assert not table.converged.any() and (table.steps == 2).all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], "none"), {}, "at least one"),
        (([[1, 0]], "all"), {}, "none, positions, cell"),
        (([[1, 0], [0.9, 0.2]], "none"), {}, "composition 1: .* at most 1"),
        (([[1, 0], [0.9, -0.2]], "none"), {}, "composition 1: .* negative"),
        (([[1, float("nan")]], "none"), {}, "composition 0: .* NaN"),
        (([[1, 0]], "none"), {"batch": 0}, "at least 1"),
        (([[1, 0]], "none"), {"alpha": 0.1}, "coupling 'correlated'"),
    ],
)
def test_a_wrong_sweep_gets_one_sentence(potential, system, arguments, options, message):
    with pytest.raises(ValueError, match=message) as error:
        aj.sweep(potential, system, *arguments, **options)
    assert "\n" not in str(error.value)


DEVICES = """
import json, sys
sys.path.insert(0, "tests")
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import alchemjax as aj
from pair_potential import lennard_jones, mixed_argon
x = np.linspace(0, 1, 9)
table = aj.sweep(lennard_jones(), mixed_argon(), np.stack([1 - x, x], 1), "cell")
print(json.dumps([jax.device_count(), table.energy.tolist(), table.volume.tolist()]))
"""


@pytest.mark.slow
def test_eight_devices_give_the_table_of_one():
    tables = []
    for devices in (1, 8):
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        run = subprocess.run(
            [sys.executable, "-c", DEVICES], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        count, energy, volume = json.loads(run.stdout)
        assert count == devices
        tables.append((np.array(energy), np.array(volume)))
    assert np.ptp(tables[0][0]) > 0.01
    np.testing.assert_allclose(tables[0][0], tables[1][0], atol=1e-8)
    np.testing.assert_allclose(tables[0][1], tables[1][1], rtol=1e-6)
