"""What is special in Nequix: its layers in e3nn-jax's own words, and its symmetry under reflection."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_nequix
from ase.stress import full_3x3_to_voigt_6_stress
from conftest import ROOT, evaluate, random_structure, random_weights, standard_sites, topology

from alchemjax.calculate import calculate
from alchemjax.calculate import energy as total_energy
from alchemjax.model import nequip, nequix
from alchemjax.model.load import read_model
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import make_sites
from alchemjax.system.structure import make_structure
from alchemjax.system.system import make_system
from weights_convert import convert


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"hidden_irreps": "5x0e + 3x1o", "lmax": 2, "n_layers": 2}, marks=pytest.mark.slow),
        pytest.param({"radial_polynomial_p": 4.0, "radial_mlp_layers": 3, "n_layers": 1}, marks=pytest.mark.slow),
    ],
    ids=["l3", "l1", "one layer"],
)
def test_a_converted_file_gives_the_energies_of_e3nn_jax(changes, rng, tmp_path):
    setting = tiny_nequix.settings(**changes)
    arrays = tiny_nequix.leaves(setting)
    (tmp_path / "tiny.nqx").write_bytes(tiny_nequix.nqx(setting, arrays))
    convert("nequix", tmp_path / "tiny.nqx", tmp_path / "tiny")
    potential = read_model(tmp_path / "tiny", "float64")
    structure, symbols = random_structure(rng), ["Na", "Cl", "O", "Na"]
    out = evaluate(potential, structure, make_sites(symbols), "independent", [], shapes=None)

    pairs = find_pairs(structure, potential.cutoff)
    species = jnp.asarray([potential.species.index(s) for s in symbols])

    def energies(positions):
        vectors = positions[pairs.sender] - positions[pairs.receiver] + pairs.shift @ structure.cell
        return tiny_nequix.node_energies(setting, arrays, species, vectors, pairs.sender, pairs.receiver)

    value = jax.jit(energies)(jnp.asarray(structure.positions))
    slope = jax.jit(jax.grad(lambda x: energies(x).sum()))(jnp.asarray(structure.positions))
    assert np.ptp(value) > 0.1 and abs(slope).max() > 0.1
    np.testing.assert_allclose(out.site_energies, value, rtol=0, atol=1e-10)
    np.testing.assert_allclose(out.positions, slope, rtol=0, atol=1e-9)


def test_reflection_leaves_the_energy(natural, rng):
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    energy = lambda s: float(evaluate(natural, s, sites, "independent", weights, only_energy=True)[0])
    mirror = structure._replace(positions=structure.positions * [1, 1, -1], cell=structure.cell * [1, 1, -1])
    squeezed = structure._replace(positions=structure.positions * [1, 1, 0.9], cell=structure.cell * [1, 1, 0.9])
    assert abs(energy(squeezed) - energy(structure)) > 1e-3
    assert energy(mirror) == pytest.approx(energy(structure), abs=1e-9)


def test_only_paths_of_natural_parity_are_there():
    assert nequip.paths_of(2, 2, 2, natural=True) == ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 2, 1))
    assert set(nequip.paths_of(2, 2, 2)) - set(nequip.paths_of(2, 2, 2, natural=True)) == {(1, 1, 1)}


def test_layer_norm_leaves_the_size_of_features_and_is_smooth_at_nought(rng):
    x = [jnp.asarray(rng.normal(size=(3, 2 * l + 1, 4 - l))) for l in range(3)]
    ones = {str(l): jnp.ones(4 - l) for l in range(3)}
    one, ten = nequix._normalized(ones, x), nequix._normalized(ones, [10 * a for a in x])
    for a, b, before in zip(one, ten, x, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
        assert abs(a - before).max() > 1e-2
    nothing = [0 * a for a in x]
    _, slope = jax.jvp(lambda s: nequix._normalized(ones, [s * a for a in x])[1], (0.0,), (1.0,))
    np.testing.assert_allclose(slope, 1e6 * x[1], rtol=1e-9)
    assert not any(a.any() for a in nequix._normalized(ones, nothing))


def test_every_parameter_moves_the_energy(natural, rng):
    potential, structure, sites = natural, random_structure(rng), standard_sites()
    arrays = topology(potential, structure, sites, "independent")
    args = jnp.asarray(structure.positions), jnp.asarray(structure.cell), jnp.asarray(random_weights(sites, rng))
    energy = lambda p: total_energy(potential.node_energies, potential.config, p, arrays, *args, jnp.zeros(()))[0]
    gradients = jax.jit(jax.grad(energy))(potential.params)
    absent = potential.species.index("Mg")
    for path, g in jax.tree.leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        if name in ("['atomic_energies']", *(f"['layers']['0']['{m}']['0']" for m in ("linear_1", "self_connection"))):
            assert not g[absent].any(), name
            g = np.delete(g, absent, axis=0)
        assert (g != 0).all(), name


GOLDEN = json.loads((ROOT / "tests" / "golden" / "nequix.json").read_text())
STRUCTURES = json.loads((ROOT / "tests" / "golden" / "sevennet.json").read_text())["structures"]
WEIGHTS = Path(os.environ.get("ALCHEMJAX_NEQUIX_WEIGHTS", ROOT.parent / "shared" / "weights"))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["nequix-mp-1", "nequix-oam-1"])
def test_published_models_give_the_numbers_of_the_original(model, tmp_path):
    if not (WEIGHTS / f"{model}.nqx").is_file():
        pytest.skip(f"{model}.nqx is not in {WEIGHTS}; set ALCHEMJAX_NEQUIX_WEIGHTS to a folder of .nqx files")
    convert("nequix", WEIGHTS / f"{model}.nqx", tmp_path / model)
    potential = read_model(tmp_path / model, "float64")
    for name in ("nacl_prim2_rattled", "ceo2_fluorite12", "mos2_layer_TTF_zero_c_vector"):
        given, golden = STRUCTURES[name], GOLDEN["results"][name][model]
        structure = make_structure(given["positions"], given["cell"], given["pbc"])
        out = calculate(potential, make_system(structure, make_sites(given["symbols"]), []))
        np.testing.assert_allclose(out.site_energies, golden["energies"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(out.forces, golden["forces"], rtol=0, atol=1e-8)
        if golden["stress"] is not None:
            np.testing.assert_allclose(
                full_3x3_to_voigt_6_stress(out.stress), golden["stress"], rtol=0, atol=1e-9, err_msg=name
            )
