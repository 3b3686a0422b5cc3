"""Several devices: which of them share what, and that they give the numbers of one."""

import os
import subprocess
import sys

import jax
import pytest
from conftest import ROOT

from alchemjax.commands.session import use_cores

SHARES = {(1, 0): (1, "members"), (1, 31): (1, "members"), (1, 33): (2, "edges"), (1, 500): (3, "edges")} | {
    (2, 500): (2, "members"),
    (3, 500): (3, "members"),
    (7, 0): (1, "members"),
    (8, 0): (2, "members"),
}
SETTING = f"""
import sys
sys.path.insert(0, "tests")
import numpy as np
import jax
jax.config.update("jax_enable_x64", True)
from functools import partial
from conftest import CUTOFF, SPECIES, grouped_sites, random_weights, tiny_nequix, tiny_potential, topology
from random_mace import layer, random_mace
from alchemjax.calculate import derivatives, energy
from alchemjax.devices import EDGES, mesh_for, spread
from alchemjax.system.structure import make_structure
assert jax.device_count() == 3
for (batch, sites), (number, axis) in {SHARES}.items():
    mesh = mesh_for(batch, sites)
    assert (mesh.size, mesh.axis_names) == (number, (axis,)), (batch, sites, mesh)
"""
EDGES = """
made = {
    "sevennet": lambda: tiny_potential(((4,), (4, 3), (4,)), 1, {"name": "polynomial", "p": 6}, seed=4),
    "nequix": lambda: tiny_nequix((4, 3), 2, 1, seed=6),
    "mace": lambda: random_mace(
        SPECIES, CUTOFF, [layer(0, 0, 3, residual=True, density=True, readout=5)], 1, pairs=True, seed=7
    ),
}
family, coupling = sys.argv[1:]
potential, rng = made[family](), np.random.default_rng(1)
grid = np.stack(np.meshgrid(*[np.arange(n) for n in (4, 4, 3)], indexing="ij"), -1).reshape(-1, 3)
structure = make_structure(2.0 * grid + rng.normal(scale=0.2, size=grid.shape), np.diag([8.0, 8.0, 6.0]))
sites = grouped_sites(*[SPECIES[:2]] * 2, counts=(24, 23))
arrays = topology(potential, structure, sites, coupling, shapes=None)
rows = [block.sender.shape for block in arrays.blocks]
weights = random_weights(sites, rng)
alpha = {"independent": 0.0, "correlated": 0.4}[coupling]
along = rng.normal(size=len(weights))


def both(params, arrays, positions, cell, weights, alpha, along):
    of = partial(derivatives, potential.node_energies, potential.config, params, arrays, positions, cell)
    change = lambda w: of(w, alpha)
    return jax.jvp(change, (weights,), (along,))


given = potential.params, arrays, structure.positions, structure.cell, weights, np.asarray(alpha), along
mesh = mesh_for(1, len(grid))
assert mesh.axis_names == (EDGES,) and mesh.size == 3
assert family != "sevennet" or any(n % 3 for n, *_ in rows), rows  # rows that do not divide evenly
alone = jax.tree.map(np.asarray, jax.jit(both)(*given))
shared = jax.tree.map(np.asarray, spread(both, mesh, None, None)(*given))
for name in alone[0]._fields:
    for k in (0, 1):
        one, two = getattr(alone[k], name), getattr(shared[k], name)
        assert (name, coupling) == ("alpha", "independent") or np.abs(one).max() > 1e-3, (name, k, np.abs(one).max())
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-9 * max(1, np.abs(one).max()), err_msg=name)
print("same")
"""


def in_process(code: str, *arguments: str) -> None:
    """Run it where a CPU is three devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=3"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SETTING + code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("same\n"), done.stderr


RUNS = """
from ase.build import bulk
import alchemjax as aj
from alchemjax.tasks import md, relax
potential = tiny_potential(((4,), (4, 3), (4,)), 1, {"name": "polynomial", "p": 6}, seed=4)
crystal = bulk("NaCl", "rocksalt", 4.6, cubic=True).repeat((3, 2, 1))
crystal.rattle(0.05, seed=1)
system = aj.from_atoms(crystal, mix={"Na": ("Na", "K")}, weights=[0.6, 0.4])
found = []
for choose in (mesh_for, lambda batch, sites=0: mesh_for(batch)):
    md.mesh_for = relax.mesh_for = choose
    assert choose(1, len(crystal)).size == (3 if choose is mesh_for else 1)
    run = aj.md(potential, system, steps=8, timestep=0.5, temperature=100.0, seed=1)
    rest = aj.relax(potential, system, cell=False, max_steps=4)
    found.append((run.positions, run.energy, rest.structure.positions))
for one, two in zip(*found, strict=True):
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-9)
assert np.abs(run.positions[-1] - run.positions[0]).max() > 1e-3
assert np.abs(rest.structure.positions - crystal.positions).max() > 1e-3
print("same")
"""


STARTS = """
import alchemjax as aj
from alchemjax.tasks import optimise
from pair_potential import lennard_jones, mixed_argon
potential, system = lennard_jones(krypton=(1.5, 1.3), embedding=0.5), mixed_argon()
structure = system.structure  # so wide that argon leaves its list of neighbours, and krypton does not
wide = structure._replace(positions=1.1 * structure.positions, cell=1.1 * structure.cell)
system = system._replace(structure=wide)
starts, found = [[0.99, 0.01], [0.6, 0.4], [0.01, 0.99]], []
for alone in (False, True):
    if alone:
        optimise.mesh_for = lambda lanes: jax.sharding.Mesh(np.array(jax.devices()[:1]), ("members",))
    found.append(aj.optimise(potential, system, {"volume": "max"}, start=starts, cell="hydrostatic", evaluations=3))
one, two = found
assert len(one.path) == len(two.path) == 3
for shared, single in zip(one.path, two.path, strict=True):
    assert single.converged.all()
    np.testing.assert_array_equal(shared.converged, single.converged)
    np.testing.assert_allclose(shared.values, single.values, rtol=1e-9)
    np.testing.assert_allclose(shared.gradient, single.gradient, rtol=1e-6, atol=1e-9)
assert np.ptp(two.path[0].values) > 1
print("same")
"""


@pytest.mark.slow
def test_devices_that_share_starts_search_as_one():
    in_process(STARTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, coupling", [("sevennet", "independent"), ("nequix", "correlated"), ("mace", "independent")]
)
def test_devices_that_share_the_edges_give_derivatives_of_one(family, coupling):
    in_process(EDGES, family, coupling)


@pytest.mark.slow
def test_devices_that_share_the_edges_make_the_run_of_one():
    in_process(RUNS)


def test_cores_become_devices_unless_the_user_chose_their_number():
    count = "from alchemjax.commands.session import use_cores; use_cores(); import jax; print(jax.device_count())"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    plain = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"} | {"JAX_PLATFORMS": "cpu"}
    chosen = {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}
    for environment, devices in (({}, cores), ({"JAX_NUM_CPU_DEVICES": "3"}, 3), (chosen, 5)):
        command = [sys.executable, "-c", count]
        done = subprocess.run(command, cwd=ROOT, env=plain | environment, capture_output=True, text=True, check=True)
        assert int(done.stdout) == devices, environment


def test_a_process_in_which_jax_works_already_keeps_its_devices():
    before = jax.device_count()
    use_cores()
    assert jax.device_count() == before
