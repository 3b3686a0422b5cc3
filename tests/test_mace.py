"""The numbers of the original MACE program (golden/README.md says where they are from), and what is special in MACE."""

import hashlib
import json
import lzma
import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CUTOFF, ROOT, SPECIES, compiled, random_structure, random_weights, standard_sites
from conftest import evaluate as evaluate_mixture
from random_mace import layer, random_mace
from safetensors.numpy import load_file, save_file

from alchemjax.atoms import Calculator, to_atoms
from alchemjax.calculate import calculate
from alchemjax.model.load import read_model
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import make_sites
from alchemjax.system.structure import make_structure
from alchemjax.system.system import make_system
from alchemjax.system.topology import make_topology
from alchemjax.tasks.relax import relax
from alchemjax.tasks.sweep import sweep
from weights_convert import convert
from weights_convert.elements import SYMBOLS

GOLDEN = json.loads((ROOT / "tests" / "golden" / "mace_plain.json").read_text())
STRUCTURES, RESULTS = GOLDEN["structures"], GOLDEN["results"]
FILES = Path(os.environ.get("ALCHEMJAX_MACE_MODELS", ROOT / "tests" / "golden" / "mace"))
QUICKEST = ("tiny_L1_f32", "tiny_2head")
SITES, ROOM = 16, [(84, 15)]  # every golden structure is filled up with atoms that see nobody: one compilation


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """Folder of a converted model, by name."""
    folder = tmp_path_factory.mktemp("mace")

    def convert_once(name):
        if not (folder / name).exists():
            packed = FILES / f"{name}.model.xz"
            if not packed.exists():
                pytest.skip(f"{packed.name} is not in ALCHEMJAX_MACE_MODELS")
            data = lzma.decompress(packed.read_bytes())
            assert hashlib.sha256(data).hexdigest() == GOLDEN["about"]["sha256"][name]
            (folder / f"{name}.model").write_bytes(data)
            convert("mace", folder / f"{name}.model", folder / name)
        return folder / name

    return convert_once


def symbols_of(numbers):
    return [SYMBOLS[z - 1] for z in numbers]


def evaluate(potential, golden):
    """Energy by site, forces, dE/dstrain of an ordinary structure, and its number of edges."""
    structure, numbers = make_structure(*(golden[k] for k in ("positions", "cell", "pbc"))), golden["numbers"]
    count = len(numbers)
    pairs = find_pairs(structure, potential.cutoff)
    layout = make_sites([*symbols_of(numbers), *[potential.species[-1]] * (SITES - count)])
    rows = {s: potential.species.index(s) for s in set(layout.node_species)}
    per_node = potential.config.per_node
    topology = make_topology(layout, pairs, rows, "independent", per_node=per_node, shapes=ROOM)
    positions = np.zeros((SITES, 3))
    positions[:count] = structure.positions
    arrays = map(jnp.asarray, (positions, structure.cell, np.zeros(0), np.zeros(())))
    out = compiled("derivatives", potential.node_energies, potential.config)(potential.params, topology, *arrays)
    assert not out.positions[count:].any()
    energies, forces, virial = map(np.asarray, (out.site_energies[:count], -out.positions[:count], out.strain))
    return energies, forces, virial, len(pairs.sender)


@pytest.mark.parametrize("name", [n if n in QUICKEST else pytest.param(n, marks=pytest.mark.slow) for n in RESULTS])
def test_every_kind_of_model_in_float64_gives_the_numbers_of_the_original(converted, name):
    folder, spread = converted(name), []
    for golden in RESULTS[name]:
        potential = read_model(folder, "float64", head=golden["head"])
        energies, forces, virial, edges = evaluate(potential, STRUCTURES[golden["structure"]])
        expected, count = np.array(golden["energies"]), len(golden["energies"])
        space = abs(np.linalg.det(STRUCTURES[golden["structure"]]["cell"])) or 1.0
        assert edges == golden["num_edges"]
        assert abs(energies.sum() - expected.sum()) < 1e-9 * count and abs(energies - expected).max() < 1e-8
        assert abs(forces - golden["forces"]).max() < 1e-8
        assert abs(virial - golden["virial"]).max() < 1e-9 * space
        spread += [np.ptp(expected), abs(forces).max()]
    assert max(spread) > 0.1


def test_numbers_that_are_too_large_for_the_dtype_are_refused(converted, tmp_path):
    folder, large = converted("tiny_2head"), tmp_path / "large"
    shutil.copytree(folder, large)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"scale": tensors["scale"] * 1e200}, large / "model.safetensors")
    assert np.isfinite(read_model(large, "float64", head="pt_head").params["scale"]).all()
    with pytest.raises(ValueError, match="'scale' .* too large for float32; load it with dtype='float64'"):
        read_model(large, "float32", head="pt_head")
    products = {
        n: a * 1e200 for n, a in tensors.items() if n.startswith(("layers.0.product.0.U", "layers.0.product.0.W"))
    }
    save_file(tensors | products, large / "model.safetensors")
    with pytest.raises(ValueError, match="'layers.0.product.0' .* too large for float64"):
        read_model(large, "float64", head="pt_head")


def test_repulsion_of_a_pair_is_the_universal_one_with_an_envelope_of_its_own():
    """The exponents of the two envelopes differ here; they are equal in the models of the golden numbers."""
    network = random_mace(SPECIES, CUTOFF, [layer(0, 0, 1, residual=True, density=False)], 1, pairs=True, seed=8)
    network.params["layers"]["0"]["product"]["0"] *= 0.0  # nothing but repulsion depends on the distance
    zbl, radii = network.params["zbl"], np.asarray(network.params["covalent_radii"])
    z, reach = np.array([11.0, 19.0]), sum(radii[network.species.index(s)] for s in ("Na", "K"))

    def repulsion(r, p=6):
        s = r * (z ** float(zbl["a_exp"])).sum() / (float(zbl["a_prefactor"]) * 0.529)
        screening = np.asarray(zbl["c"]) @ np.exp(-np.array([3.2, 0.9423, 0.4028, 0.2016]) * s)
        x = r / reach
        tail = -(p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
        return 14.3996 * z.prod() / r * screening * (1 + tail)

    def energy(r):
        structure = make_structure([[0, 0, 0], [r, 0, 0]])
        options = {"only_energy": True, "shapes": [(2, 1)]}
        return float(evaluate_mixture(network, structure, make_sites(["Na", "K"]), "independent", [], **options)[0])

    near, far = 0.5 * reach, 0.9 * reach
    scale = float(network.params["scale"][network.config.head])
    assert abs(repulsion(near, p=5) - repulsion(near)) > 1e-3
    assert energy(near) - energy(far) == pytest.approx(scale * (repulsion(near) - repulsion(far)), rel=1e-10)


def test_one_layer_with_a_linear_readout_has_repulsion_that_ends_at_the_cutoff():
    """All of the readout is folded then; radii that reach beyond the cutoff must not act on pairs of the skin."""
    one = [layer(0, 0, 1, residual=True, density=False)]
    network = random_mace(SPECIES, CUTOFF, one, 1, pairs=True, seed=7)
    network.params["covalent_radii"] = jnp.full(len(SPECIES), 0.6 * CUTOFF)

    def energy(distance, skin):
        structure = make_structure([[0, 0, 0], [distance, 0, 0]])
        options = {"only_energy": True, "skin": skin, "shapes": [(2, 1)]}
        return float(evaluate_mixture(network, structure, make_sites(["Na", "K"]), "independent", [], **options)[0])

    apart = energy(CUTOFF + 0.1, 0.0)
    assert energy(CUTOFF + 0.1, 0.5) == apart
    assert abs(energy(CUTOFF - 0.01, 0.0) - apart) > 1e-4


@pytest.mark.slow
def test_every_task_sees_the_energy_of_edges_between_nodes(small_mace, rng):
    coupling, alpha = "correlated", 0.3
    structure, sites = random_structure(rng), standard_sites()
    weights = random_weights(sites, rng)
    system = make_system(structure, sites, weights, coupling)
    out = calculate(small_mace, system, alpha=alpha)
    atoms = to_atoms(system)
    atoms.calc = Calculator(small_mace, system=system, alpha=alpha)
    still = relax(small_mace, system, alpha=alpha, cell=False, max_steps=0)
    table = sweep(small_mace, system, [weights, weights / 2], relax="none", alpha=alpha)
    assert abs(table.energy[1] - out.energy) > 1e-3
    for energy, forces in (
        (atoms.get_potential_energy(), atoms.get_forces()),
        (still.output.energy, still.output.forces),
        (table.energy[0], table.forces[0]),
    ):
        assert abs(energy - out.energy) < 1e-10 and abs(forces - out.forces).max() < 1e-9
