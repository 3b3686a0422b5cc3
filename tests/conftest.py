"""Settings of every test, and small potentials and structures that compile quickly."""

import csv
import gc
import json
import os
import subprocess
import sys
import zlib
from functools import lru_cache, partial
from itertools import count
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

# tests spend their time on compilation, and these flags halve it; some tests run once more without them (test_parity)
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
if "XLA_FLAGS" not in os.environ:  # workers and the processes of tests inherit them
    trial = [sys.executable, "-c", "import jax; jax.devices()"]  # which ends at a flag that XLA does not know
    known = not subprocess.run(trial, env=os.environ | {"XLA_FLAGS": QUICK}, capture_output=True).returncode
    os.environ["XLA_FLAGS"] = QUICK if known else ""

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

gc.set_threshold(100_000, 50, 100)  # tracing makes very many objects, few of them garbage

# annotations of alchemjax, shapes included, are checked at every call; numpy's scalars count as Python's
scalars = FrozenDict({bool: bool | np.bool_, int: int | np.integer})
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=scalars))
sys.modules.setdefault("conftest", sys.modules[__name__])
install_import_hook("alchemjax", "conftest.typechecker")

hypothesis.settings.register_profile("alchemjax", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("alchemjax")

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "alchemjax" / "potentials" / "sevennet-0"
WHEEL = os.environ.get("ALCHEMJAX_SEVENN_WHEEL")
SPECIES = ("Cl", "K", "Li", "Mg", "Na", "O")
CUTOFF = 3.2  # A, of the tiny potentials
COUPLINGS = [("independent", None), ("paired", None), ("correlated", 0.37)]
PUBLISHED = ("published", None)
every_coupling = pytest.mark.parametrize("coupling, alpha", [*COUPLINGS, PUBLISHED])
MOST_MAPS = 20_000
TESTS = count()


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")


@pytest.fixture(autouse=True)
def few_compiled_programs():
    """XLA crashes in a process with too many memory maps (Linux: 65,530); every compiled program takes some."""
    yield
    maps = Path("/proc/self/maps")  # slow to read
    if next(TESTS) % 10 == 9 and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="module")
def quick_loops():
    """The flags above make Monte Carlo 15 times as slow; with these emitters its loops compile as quickly, and run."""
    from alchemjax.tasks import sampling

    options = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else None
    static = ("move", "exchange", "equilibration", "length", "every")
    with pytest.MonkeyPatch.context() as patch:
        run, cool = sampling._run.__wrapped__, sampling._cool.__wrapped__
        patch.setattr(sampling, "_run", jax.jit(run, static_argnames=static, compiler_options=options))
        patch.setattr(sampling, "_cool", jax.jit(cool, compiler_options=options))
        yield


# --- potentials -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def potential64():
    """SevenNet-0 in float64."""
    from alchemjax.model.load import read_model

    return read_model(SHIPPED, "float64")


def random_potential(family, architecture, *, seed, row=None, **changes):
    """A potential with random parameters; `changes` are functions of some of them."""
    from alchemjax.model.load import Potential, _nested

    rng = np.random.default_rng(seed)
    shapes = family.parameter_shapes(architecture, len(SPECIES))
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params |= {name: change(params[name]) for name, change in changes.items()}
    return Potential(
        name="tiny",
        params=_nested({name: jax.numpy.asarray(value) for name, value in params.items()}),
        config=family.read_config(architecture, row),
        node_energies=family.node_energies,
        species=SPECIES,
        cutoff=CUTOFF,
        dtype="float64",
        sha256="",
        source={},
    )


def tiny_potential(multiplicities, lmax, cutoff_function, *, modalities=None, seed=0, normalize_sph=True):
    """A SevenNet; every species has its own embedding, scale and shift."""
    from alchemjax.model import sevennet

    architecture = {
        "cutoff": CUTOFF,
        "cutoff_function": cutoff_function,
        "lmax": lmax,
        "modalities": modalities,
        "multiplicities": multiplicities,
        "normalize_sph": normalize_sph,
        "radial_basis": 4,
        "radial_hidden": (11, 17),
        "silu_norm": 1.679,
        "w3j_signs": {"1,2,2": -1, "2,1,2": -1, "2,2,1": -1} if lmax > 1 else {},
    }
    return random_potential(
        sevennet,
        architecture,
        seed=seed,
        row=1 if modalities else None,
        bessel_frequencies=lambda _: np.pi / CUTOFF * np.array([0.8, 1.9, 3.1, 4.0]),
        denominators=lambda x: np.array([0.5, 0.4, 0.3, 0.6])[: len(x)],
        shift=lambda x: 3 * x,  # eV; E0 differs by several eV between species
        scale=lambda x: np.exp(x / 3),
    )


def tiny_nequix(hidden, layers, lmax, *, seed=0):
    """A Nequix; every species has its own energy."""
    from alchemjax.model import nequix

    architecture = {
        "avg_num_neighbors": 5.3,
        "cutoff": CUTOFF,
        "cutoff_p": 6,
        "lmax": lmax,
        "multiplicities": ((len(SPECIES),), *[hidden] * (layers - 1), hidden[:1]),
        "radial_basis": 4,
        "radial_hidden": (11, 17),
        "scale": 0.8,
        "shift": -0.4,
        "silu_norm": 1.677,
    }
    return random_potential(nequix, architecture, seed=seed, atomic_energies=lambda x: 3 * x)


@pytest.fixture(scope="session")
def tiny():
    """Four layers, two of them alike, l up to 2, XPLOR cutoff: every kind of path and of loop."""
    mults = ((5,), (5, 4, 3), (5, 4, 3), (5, 4, 3), (5,))
    return tiny_potential(mults, 2, {"name": "xplor", "on": 2.6}, seed=1)


@pytest.fixture(scope="session")
def tiny_modal():
    """Two layers, l up to 2, polynomial cutoff, two modalities: its first linear map is affine."""
    function = {"name": "polynomial", "p": 6}
    return tiny_potential(((6,), (6, 4, 3), (6,)), 2, function, modalities=("coarse", "fine"), seed=2)


@pytest.fixture(scope="session")
def tiny_l3():
    """Three layers, l up to 3, solid harmonics."""
    mults = ((3,), (3, 2, 2, 1), (3, 2, 2, 1), (3,))
    return tiny_potential(mults, 3, {"name": "polynomial", "p": 6}, seed=3, normalize_sph=False)


@pytest.fixture(scope="session")
def small():
    """Two layers, l up to 1: the quickest to compile, for high derivatives."""
    return tiny_potential(((4,), (4, 3), (4,)), 1, {"name": "polynomial", "p": 6}, seed=4)


@pytest.fixture(scope="session")
def tiny_mace():
    """Radial functions blind to species: a residual layer, then one with density; products of three, then of two."""
    from random_mace import layer, random_mace

    layers = [
        layer(0, 1, 3, residual=True, density=False),
        layer(1, 0, 2, residual=True, density=True, readout=5),
    ]
    return random_mace(SPECIES, CUTOFF, layers, 1, pairs=False, seed=5)


@pytest.fixture(scope="session")
def tiny_mace_pairs():
    """Agnesi transform and ZBL, the species of both ends in every edge; the first layer is not residual, l up to 2."""
    from random_mace import layer, random_mace

    layers = [
        layer(0, 1, 2, residual=False, density=True),
        layer(1, 0, 2, residual=True, density=False, readout=5),
    ]
    return random_mace(SPECIES, CUTOFF, layers, 2, pairs=True, seed=6)


@pytest.fixture(scope="session")
def small_mace():
    """One layer of all that is special about MACE, l up to 1: the quickest to compile, for high derivatives."""
    from random_mace import layer, random_mace

    layers = [layer(0, 0, 3, residual=True, density=True, readout=5)]
    return random_mace(SPECIES, CUTOFF, layers, 1, pairs=True, seed=7)


@pytest.fixture(scope="session")
def natural():
    """A Nequix of three layers, l up to 2: layer norm, one-hot input."""
    return tiny_nequix((5, 4, 3), 3, 2, seed=5)


@pytest.fixture(scope="session")
def small_natural():
    """A Nequix of two layers, l up to 1: the quickest to compile."""
    return tiny_nequix((4, 3), 2, 1, seed=6)


@pytest.fixture(scope="session")
def argon():
    """A Lennard-Jones potential that is not quadratic in the composition; krypton is larger."""
    from pair_potential import lennard_jones

    return lennard_jones(krypton=(1.5, 1.3), embedding=0.5)


@pytest.fixture(scope="session")
def relaxed_argon(argon):
    """Face-centred cubic, at zero stress, which second derivatives by strain need."""
    from pair_potential import relaxed_mixed_argon

    return relaxed_mixed_argon(argon)


@pytest.fixture(scope="session")
def argon_alloy(argon, relaxed_argon):
    """Its Hamiltonian."""
    from pair_potential import CUBE

    from alchemjax.tasks.alloy import alloy

    return alloy(argon, relaxed_argon, supercell=CUBE)


# --- for the command line ---------------------------------------------------------------------------------------------


def write_model(folder, species, modalities=None):
    """A model of random weights that compiles quickly, in files."""
    from safetensors.numpy import save_file

    from alchemjax.model import sevennet

    architecture = {
        "cutoff": 5.0,
        "cutoff_function": {"name": "polynomial", "p": 6},
        "lmax": 1,
        "modalities": modalities,
        "multiplicities": [[3], [3, 2], [3]],
        "normalize_sph": True,
        "radial_basis": 4,
        "radial_hidden": [7, 5],
        "silu_norm": 1.679,
        "w3j_signs": {},
    }
    rng = np.random.default_rng(0)
    shapes = sevennet.parameter_shapes(architecture, len(species))
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["bessel_frequencies"] = np.float32(np.pi / 5) * np.arange(1, 5, dtype=np.float32)
    tensors["denominators"] = np.full(shapes["denominators"], 0.3, np.float32)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = {"format_version": 1, "family": "sevennet", "name": "tiny", "species": species, "dtype": "float32"}
    config |= {"architecture": architecture, "source": {"licence": None}}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with a structure and a small model."""
    import ase.io
    from ase.build import bulk

    folder = tmp_path_factory.mktemp("cli")
    ase.io.write(folder / "nacl.cif", bulk("NaCl", "rocksalt", 5.6))
    write_model(folder / "model", ("Cl", "K", "Li", "Na", "O"))
    return folder


@pytest.fixture
def run(monkeypatch, work):
    """Call the command line in this process, compiling without optimisation and without a cache."""
    from typer.testing import CliRunner

    from alchemjax.cli import app

    monkeypatch.setattr("alchemjax.commands.sweep.prepare_jax", lambda: None)
    monkeypatch.setattr("alchemjax.commands.relax.prepare_jax", lambda: None)
    monkeypatch.setenv("COLUMNS", "200")
    jax.config.update("jax_disable_most_optimizations", True)

    def call(*arguments, status=0):
        result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result

    yield call
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def sweeps(run, work):
    """Call `alchemjax sweep` on rock salt with the tiny model."""
    standard = ["--model", work / "model", "--relax", "none", "--batch", 2, "--no-plot", "--mix", "Na=Na,K"]

    def call(out, *arguments, status=0, file=work / "nacl.cif"):
        return run("sweep", file, *standard, "-o", out, *arguments, status=status)

    return call


def rows_of(folder):
    with open(folder / "sweep.csv", newline="") as file:
        return [{k: float(v) if v else np.nan for k, v in row.items()} for row in csv.DictReader(file)]


def assert_one_sentence(result, message):
    """What a refused command says."""
    assert result.stderr.startswith("alchemjax: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def in_shell(work, *arguments, code="from alchemjax.cli import main; main()", **environment):
    """Run Python with these arguments in a process of its own; the processes of one session share a cache."""
    settings = {
        "XDG_CACHE_HOME": str(work / "cache"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    environment = os.environ | settings | environment
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)


@pytest.fixture(scope="session")
def bad(work):
    """Files with something wrong in each."""
    import ase.io
    from ase import Atoms

    folder = work / "bad"
    folder.mkdir()
    (folder / "empty.cif").write_text("")
    (folder / "broken.cif").write_text("data_x\n_cell_length_a 3.0\nloop_\n_atom_site_label\nNa1 what\n")
    ase.io.write(folder / "flat.extxyz", Atoms("NaCl", [[0, 0, 0], [2, 0, 0]], cell=np.diag([4, 4, 0]), pbc=True))
    ase.io.write(folder / "near.extxyz", Atoms("NaCl", [[0, 0, 0], [0.05, 0, 0]], cell=np.eye(3) * 5, pbc=True))
    ase.io.write(folder / "molecule.extxyz", Atoms("NaCl", [[0, 0, 0], [2.5, 0, 0]]))
    (folder / "file").write_text("not a folder")
    (folder / "reported.json").mkdir()
    for name, text in {
        "names": "Na:Na,Ce:Zr\n1,0\n",
        "number": "Na:Na,Na:K\n1,0\nhalf,0\n",
        "over": "Na:Na,Na:K\n0.7,0.7\n",
        "negative": "Na:Na,Na:K\n1.5,-0.5\n",
        "nan": "Na:Na,Na:K\nnan,0\n",
        "short": "Na:Na,Na:K\n1\n",
        "none": "Na:Na,Na:K\n",
        "empty": "",
    }.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


# --- models in the user's cache ---------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the test's own."""
    folder = tmp_path / "cache" / "models"
    monkeypatch.setenv("ALCHEMJAX_MODELS", str(folder))
    return folder


@pytest.fixture
def conversions(monkeypatch):
    """Grows with every conversion."""
    import weights_convert

    calls, convert = [], weights_convert.convert
    monkeypatch.setattr(weights_convert, "convert", lambda *a, **k: calls.append(a[1]) or convert(*a, **k))
    return calls


# --- structures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def rng(request):
    """Random numbers that depend on the name of the test only."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


def random_structure(rng, *, left_handed=False, sites=4):
    """Sites in a skewed cell; one lattice vector is shorter than the cutoff, so every site sees images of itself."""
    from alchemjax.system.structure import make_structure

    while True:
        cell = np.diag([2.7, 5.1, 6.2]) * (sites / 4 if sites > 4 else 1) ** (1 / 3) + rng.uniform(-0.4, 0.4, (3, 3))
        cell[0] *= 2.7 / np.linalg.norm(cell[0])
        if left_handed:
            cell = cell[[0, 2, 1]]
        positions = rng.uniform(-0.5, 1.5, (sites, 3)) @ cell
        shifts = np.stack(np.meshgrid(*[range(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
        distances = np.linalg.norm(positions[None, :, None] - positions[:, None, None] + shifts, axis=-1)
        if np.sort(distances.ravel())[sites] > 1.3:  # the first `sites` are sites and themselves
            return make_structure(positions, cell, True)


def moved(structure, displacement):
    return structure._replace(positions=structure.positions + displacement)


def standard_sites(species=("Na", "K", "Li", "Cl", "Na"), extra=()):
    """Four sites, nine nodes, five weights: two sites share three species, one holds two, one is ordinary."""
    from alchemjax.system.sites import Group, make_sites

    groups = (Group("a", (0, 1), tuple(species[:3])), Group("b", (2,), tuple(species[3:])))
    return make_sites(["Na", "Na", "Cl", "O", *extra], groups)


def grouped_sites(*species, counts=(1,)):
    """Groups of so many sites, each holding these species, and an ordinary one."""
    from alchemjax.system.sites import Group, make_sites

    groups, site = [], 0
    for k, (held, number) in enumerate(zip(species, counts, strict=True)):
        groups.append(Group(f"g{k}", tuple(range(site, site + number)), tuple(held)))
        site += number
    return make_sites(["H"] * site + ["O"], tuple(groups))


def random_weights(sites, rng):
    """Weights in the interior; every group has some vacancy."""
    return np.concatenate([rng.dirichlet(np.ones(len(g.species) + 1))[:-1] * 0.9 + 0.02 for g in sites.groups])


# --- evaluation -------------------------------------------------------------------------------------------------------

# (rows, width) per block: head room, so that all structures of one layout share a compilation
ROOM = {"independent": [(32, 4)]} | dict.fromkeys(("paired", "correlated", "published"), [(32, 4), (24, 4)])
ROOM_PER_NODE = [(96, 4)]


def topology(potential, structure, sites, coupling, *, shapes="room", per_node=None, skin=0.0):
    """As calculate.topology_of, in arrays with head room."""
    from alchemjax.system.neighbours import find_pairs
    from alchemjax.system.topology import make_topology

    rows = {s: potential.species.index(s) for s in set(sites.node_species)}
    per_node = potential.config.per_node if per_node is None else per_node
    if isinstance(shapes, str):
        shapes = ROOM_PER_NODE if per_node else ROOM[coupling]
    pairs = find_pairs(structure, potential.cutoff + skin)
    return make_topology(sites, pairs, rows, coupling, per_node=per_node, shapes=shapes)


@lru_cache
def compiled(name, node_energies, config):
    """`energy` or `derivatives` of alchemjax.calculate, compiled once per shape."""
    from alchemjax.calculate import derivatives, energy

    function = {"energy": energy, "derivatives": derivatives}[name]
    return jax.jit(partial(function, node_energies, config))


def evaluate(potential, structure, sites, coupling, weights, alpha=None, *, only_energy=False, **options):
    """Derivatives, or (energy, site energies), at one composition."""
    alpha = {"independent": 0.0, "paired": 1.0, "published": 1.0}.get(coupling, alpha)
    function = compiled("energy" if only_energy else "derivatives", potential.node_energies, potential.config)
    arrays = topology(potential, structure, sites, coupling, **options)
    numbers = structure.positions, structure.cell, np.asarray(weights, float), np.asarray(alpha, float)
    return jax.tree.map(np.asarray, function(potential.params, arrays, *map(jax.numpy.asarray, numbers)))


def varies(*values, by=1e-3):
    """Whether no two of the values agree."""
    values = np.sort(np.asarray([float(v) for v in values]))
    return (np.diff(values) > by).all()


def assert_close(one, two, names=("energy", "site_energies", "positions", "strain"), tolerance=1e-9):
    for name in names:
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=0, atol=tolerance, err_msg=name)


def slope(function, h=3e-4):
    """Derivative at 0 by a central difference of fourth order."""
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


def strained(structure, strain):
    stretch = np.eye(3) + strain
    return structure._replace(positions=structure.positions @ stretch, cell=structure.cell @ stretch)
