"""The numbers of the original SevenNet program (golden/README.md says where they are from)."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, SHIPPED, WHEEL

from alchemjax.calculate import calculate, compiled_derivatives, precision
from alchemjax.model.load import Potential, read_model
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import make_sites
from alchemjax.system.structure import make_structure, volume
from alchemjax.system.system import make_system
from alchemjax.system.topology import make_topology

GOLDEN = json.loads((ROOT / "tests" / "golden" / "sevennet.json").read_text())
STRUCTURES = GOLDEN["structures"]
LARGE = ("si64_rattled",)
SMALL = tuple(name for name in STRUCTURES if name not in LARGE)
FULL_VOIGT = ([0, 5, 4], [5, 1, 3], [4, 3, 2])
FICTITIOUS_VOLUME = 1e-3  # A^3, by which sevenn divides where there is none

needs_wheel = pytest.mark.skipif(
    WHEEL is None,
    reason="ALCHEMJAX_SEVENN_WHEEL is not set to the path of a wheel from `pip download --no-deps sevenn==0.13.0`",
)


def structure_of(name):
    golden = STRUCTURES[name]
    return make_structure(golden["positions"], golden["cell"], golden["pbc"])


def evaluate(potential: Potential, name: str):
    """Energy by site, forces, dE/dstrain.

    All small structures share one compilation: the graph is filled up to 16 sites with helium atoms that see nobody.
    """
    structure, symbols = structure_of(name), STRUCTURES[name]["symbols"]
    number, sites, shape = len(symbols), 16, [(64, 15)]
    if name in LARGE:
        sites, shape = number, None
    pairs = find_pairs(structure, potential.cutoff)
    assert len(pairs.sender) == GOLDEN["results"][name]["sevennet-0"]["float64_exact_w3j"]["num_edges"]
    rows = {s: potential.species.index(s) for s in {*symbols, "He"}}
    layout = make_sites([*symbols, *["He"] * (sites - number)])
    topology = make_topology(layout, pairs, rows, "independent", shapes=shape)
    positions = np.zeros((sites, 3))
    positions[:number] = structure.positions
    with precision(potential):
        cast = lambda a: jnp.asarray(a, potential.dtype)
        out = compiled_derivatives(potential.node_energies, potential.config)(
            potential.params, topology, cast(positions), cast(structure.cell), cast(np.zeros(0)), cast(0.0)
        )
        out = jax.tree.map(np.asarray, out)
    assert not out.positions[number:].any()
    return out.site_energies[:number], -out.positions[:number], out.strain


def golden_numbers(name, model, variant="float64_exact_w3j"):
    """Energy by site, forces, dE/dstrain of the original."""
    golden = GOLDEN["results"][name][model][variant]
    space = volume(structure_of(name)) or FICTITIOUS_VOLUME
    return np.array(golden["energies"]), np.array(golden["forces"]), np.array(golden["stress"])[(FULL_VOIGT,)] * space


def assert_equal_to_original(potential, name, model, energy=1e-9, force=1e-8, stress=1e-9):
    energies, forces, virial = evaluate(potential, name)
    expected = golden_numbers(name, model)
    space = volume(structure_of(name)) or 1.0
    assert abs(energies.sum() - expected[0].sum()) < energy * len(energies)
    assert abs(energies - expected[0]).max() < 10 * energy
    assert abs(forces - expected[1]).max() < force
    assert abs(virial - expected[2]).max() < stress * space


def test_the_golden_numbers_are_of_the_checkpoint_that_is_shipped():
    assert len(STRUCTURES) == 13
    source = json.loads((SHIPPED / "config.json").read_text())["source"]
    assert source["sha256"] == GOLDEN["about"]["checkpoints_sha256"]["SevenNet_0__11Jul2024"]


def test_the_golden_structures_tell_sites_forces_and_stresses_apart():
    spread = [np.ptp(golden_numbers(name, "sevennet-0")[0]) for name in SMALL]
    pull = [abs(golden_numbers(name, "sevennet-0")[1]).max() for name in SMALL]
    shear = [abs(golden_numbers(name, "sevennet-0")[2][0, 1]) for name in SMALL]
    assert max(spread) > 1 and sum(p > 0.1 for p in pull) >= 4 and sum(s > 0.1 for s in shear) >= 3


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_sevennet_0_in_float64_gives_the_numbers_of_the_original(potential64, name):
    assert_equal_to_original(potential64, name, "sevennet-0")


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_sevennet_0_in_float32_is_near_the_float64_numbers(name):
    potential = read_model(SHIPPED, "float32")
    assert_equal_to_original(potential, name, "sevennet-0", energy=2e-5, force=5e-4, stress=5e-5)


@pytest.mark.slow
def test_programs_compiled_as_users_have_them_give_the_same_numbers():
    chosen = "selftest or (sevennet_0_in_float32 and gan_wurtzite)"
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_selftest.py", "tests/test_parity.py", "-k", chosen]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert run.stdout.splitlines()[-1].startswith("5 passed"), run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mos2_layer_TTF_zero_c_vector", "water_molecule_nonperiodic"])
def test_calculate_gives_forces_and_stress_of_the_original_or_no_stress_without_a_volume(potential64, name):
    structure = structure_of(name)
    system = make_system(structure, make_sites(STRUCTURES[name]["symbols"]), [])
    out = calculate(potential64, system)
    energies, forces, virial = golden_numbers(name, "sevennet-0")
    assert abs(out.site_energies - energies).max() < 1e-9
    assert abs(out.energy - energies.sum()) < 1e-9 * len(energies)
    assert abs(out.forces - forces).max() < 1e-8
    if volume(structure) is None:
        assert out.stress is None
    else:
        assert abs(out.stress - virial / volume(structure)).max() < 1e-9
    assert out.weights_gradient.shape == (0,) and out.alpha_gradient is None


def test_sites_beyond_the_cutoff_feel_nothing(potential64):
    energies, forces, virial = evaluate(potential64, "ar2_beyond_cutoff_nonperiodic")
    assert energies[0] == energies[1] != 0
    assert not forces.any() and not virial.any()


# --- the other checkpoints of the wheel -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folder with all models of the wheel."""
    from weights_convert import convert

    folder = tmp_path_factory.mktemp("converted")
    convert("sevennet", WHEEL, folder)
    return folder


@pytest.fixture(scope="module")
def other(converted, request):
    model, _, modality = request.param.partition("/")
    return request.param, read_model(converted / model, "float64", modality=modality or None)


# of MF-0 one modality: they are rows of one table
OTHERS = [model for model in GOLDEN["models"] if model not in ("sevennet-0", "sevennet-mf-0/PBE")]


@needs_wheel
@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS, indirect=True)
def test_the_other_checkpoints_in_float64_give_the_numbers_of_the_original(other):
    model, potential = other
    structures = (
        SMALL if model in ("sevennet-l3i5", "sevennet-mf-0/PBE") else SMALL[:1]
    )  # the rest has the same program
    for name in structures:
        assert_equal_to_original(potential, name, model)


@needs_wheel
@pytest.mark.slow
def test_the_shipped_weights_are_those_of_the_wheel(converted):
    shipped, fresh = read_model(SHIPPED), read_model(converted / "sevennet-0")
    assert shipped.sha256 == fresh.sha256
    assert shipped.config == fresh.config and shipped.species == fresh.species


@needs_wheel
@pytest.mark.slow
def test_the_golden_models_are_different_models():
    for name in SMALL:
        energies = [golden_numbers(name, model)[0].sum() for model in GOLDEN["models"]]
        assert len({round(energy, 6) for energy in energies}) == len(energies)
