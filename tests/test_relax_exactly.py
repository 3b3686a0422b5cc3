"""Relaxations and sweeps in float64, to round-off, on a pair potential that compiles at once."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from jax.ops import segment_sum

import alchemjax as aj
from alchemjax.model.load import Potential
from alchemjax.system.structure import volume
from alchemjax.tasks import relax as relax_module
from alchemjax.tasks import sweep as sweep_module
from alchemjax.tasks.fire import initial_state, outran
from alchemjax.tasks.freedom import make_freedom
from alchemjax.tasks.relax import make_limits, relax_batch
from alchemjax.tasks.sweep import make_plan

TIGHT = {"force_tolerance": 1e-8, "stress_tolerance": 1e-10, "max_steps": 3000}
COMPOSITIONS = [[1, 0], [0.5, 0.5], [0.3, 0.4], [0, 1]]


@dataclass(frozen=True)
class PairConfig:
    cutoff: float = 5.0  # A
    batch: int = 1


def pair_energies(params, config, graph):
    """Lennard-Jones, its strength a product of both species', smooth at the cutoff."""
    strength = params["strength"][graph.node_species]
    sources = segment_sum(graph.mix_weight * strength[graph.mix_node], graph.mix_source, len(graph.source_node))
    received = jnp.zeros(len(graph.target_node) + 1)
    for block in graph.blocks:
        square = jnp.sum(block.vectors**2, -1)
        s = (2.2**2 / square) ** 3
        pair = 0.4 * (s**2 - s) * (1 - jnp.minimum(square / config.cutoff**2, 1)) ** 3
        received += segment_sum(
            jnp.sum(pair[None] * sources[block.source], -1).ravel(), block.target.ravel(), len(received)
        )
    nodes = jnp.sum(received.at[-1].set(0)[graph.node_targets], -1)
    return strength * nodes / 2 + params["shift"][graph.node_species]


@pytest.fixture(scope="module")
def pair():
    params = {"strength": np.array([1.0, 1.4, 0.8]), "shift": np.array([1.0, 2.0, -1.0])}
    return Potential("pair", params, PairConfig(), pair_energies, ("Na", "K", "Cl"), 5.0, "float64", "", {})


def salt(seed=1, coupling="independent", cubic=True, amount=0.1):
    atoms = bulk("NaCl", "rocksalt", a=5.0, cubic=cubic)
    atoms.rattle(amount, seed=seed)
    shear = np.eye(3) + np.array([[0.03, 0.02, 0.01], [0, -0.02, 0.03], [0.01, 0, 0.01]])
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    return aj.from_atoms(atoms, mix={"Na": ("Na", "K")}, coupling=coupling, weights=[0.4, 0.5])


def at(system, positions, cell):
    return system._replace(structure=system.structure._replace(positions=positions, cell=cell))


@pytest.mark.parametrize(
    "flags", [True, "hydrostatic", *((0, 0, 0, 1, 0, 0), (1, 0, 0, 0, 0, 1), (0, 0, 0, 1, 1, 1), (1, 1, 0, 0, 0, 1))]
)
def test_every_choice_of_free_strains_converges_to_zero_slope_of_the_enthalpy(pair, flags):
    system, pressure = salt(), 0.02
    result = aj.relax(pair, system, cell=flags, pressure=pressure, **TIGHT)
    assert result.converged and not np.allclose(result.structure.cell, system.structure.cell, atol=1e-2)
    start = system.structure
    reached = np.linalg.solve(start.cell, result.structure.cell)  # 1 + S
    assert abs(reached - reached.T).max() < 1e-9
    fractional = result.structure.positions @ np.linalg.inv(result.structure.cell)

    def enthalpy(strain):
        cell = start.cell @ (reached + strain)
        moved = at(system, fractional @ cell, cell)
        return float(aj.calculate(pair, moved).energy) + pressure * volume(moved.structure)

    step = 1e-4
    for strain in make_freedom(start, cell=flags).strains:
        slope = (enthalpy(step * strain) - enthalpy(-step * strain)) / (2 * step)
        assert abs(slope) < 1e-4
    forbidden = np.diag([1.0, 0, -1.0]) if flags is not True else 0.3 * np.eye(3)
    bent = enthalpy(step * forbidden) + enthalpy(-step * forbidden) - 2 * enthalpy(0 * forbidden)
    assert bent > 0  # a slope would not vanish by itself


@pytest.mark.parametrize("relax", ["cell", "positions", "none"])
def test_every_column_of_a_sweep_is_what_calculate_gives_there(pair, relax):
    system = salt(coupling="correlated", cubic=False)
    steps = {"max_steps": 6} if relax != "none" else {}  # unrelaxed on purpose: no column may be zero
    table = aj.sweep(pair, system, COMPOSITIONS, relax, alpha=[0.0, 0.2, -0.1, 0.1], batch=3, **steps)
    for k, (weights, alpha) in enumerate(zip(COMPOSITIONS, (0.0, 0.2, -0.1, 0.1), strict=True)):
        there = at(system, table.positions[k], table.cell[k])
        out = aj.calculate(pair, there, weights, alpha)
        columns = {"energy": out.energy, "forces": out.forces, "stress": out.stress}
        for name, value in (columns | {"weights_gradient": out.weights_gradient}).items():
            assert abs(value).max() > 1e-4, name
            np.testing.assert_allclose(getattr(table, name)[k], value, rtol=1e-9, atol=1e-9, err_msg=name)
        assert table.volume[k] == pytest.approx(volume(there.structure), rel=1e-12)
    assert (abs(table.positions - system.structure.positions).max((1, 2)) > 1e-3).all() == (relax != "none")
    assert (abs(table.cell - system.structure.cell).max((1, 2)) > 1e-4).all() == (relax == "cell")
    if relax != "cell":
        np.testing.assert_array_equal(table.cell, np.repeat(system.structure.cell[None], 4, axis=0))


def test_members_of_a_batch_relax_as_alone_whatever_the_others_do(pair):
    system = salt(cubic=False)
    table = aj.sweep(pair, system, COMPOSITIONS, "cell", batch=4, **TIGHT)
    assert table.converged.all() and np.ptp(table.steps) > 0
    for k, weights in list(enumerate(COMPOSITIONS))[1::2]:
        alone = aj.relax(pair, system, weights, cell=True, **TIGHT)
        assert table.energy[k] == pytest.approx(alone.output.energy, abs=1e-9)
        np.testing.assert_allclose(table.cell[k], alone.structure.cell, atol=1e-7)


def listed(topology):
    """Pairs in the list of one member."""
    block = topology.blocks[0]
    row, column = np.nonzero(block.used)
    pairs = np.column_stack([block.receiver[row], block.sender[row, column], block.shift[row, column]])
    return {tuple(pair) for pair in pairs.tolist()}


def test_lists_that_grow_are_made_of_the_latest_structure_of_every_member(pair):
    system = salt(cubic=False)
    freedom = make_freedom(system.structure, cell=True)
    lists = relax_module.Lists(pair, system, freedom, 2)
    state = initial_state(jnp.asarray(system.structure.positions), 2)
    state = type(state)(*(np.repeat(np.asarray(a)[None], 2, axis=0) for a in state))
    shapes = lists.shapes
    state.strain[1, :3] = 0.03  # fewer neighbours: the list fits
    assert lists._replace(1, state) and listed(lists.members[1]) < listed(lists.members[0])
    moved = listed(lists.members[1])
    assert lists.shapes == shapes
    state.strain[0, :3] = -0.1  # more neighbours than there is room for
    assert lists._replace(0, state) and lists.shapes != shapes
    assert listed(lists.members[1]) == moved


@pytest.mark.parametrize(("coupling", "alphas"), [("correlated", (0.0, 0.3)), ("paired", (None,))])
def test_a_relaxation_sees_the_coupling(pair, coupling, alphas):
    system = salt(coupling=coupling, cubic=False)
    reached = [aj.relax(pair, system, [0.5, 0.5], alpha=alpha, cell=True, **TIGHT) for alpha in alphas]
    reached.append(aj.relax(pair, salt(cubic=False), [0.5, 0.5], cell=True, **TIGHT))  # independent
    assert all(r.converged for r in reached)
    energies = [float(r.output.energy) for r in reached]
    assert abs(energies[-1] - energies[-2]) > 1e-3, "the last but one differs from independent"
    if coupling == "correlated":
        assert energies[0] == pytest.approx(energies[-1], abs=1e-9)
        fresh = aj.calculate(pair, system._replace(structure=reached[1].structure), [0.5, 0.5], 0.3)
        assert fresh.energy == pytest.approx(energies[1], abs=1e-10)


def test_a_force_on_a_fixed_site_does_not_keep_a_relaxation_from_ending(pair):
    system = salt()
    result = aj.relax(pair, system, fixed_sites=[0, 3], **TIGHT)
    assert result.converged and result.max_force <= 1e-8
    assert abs(result.output.forces[[0, 3]]).max() > 1e-2
    np.testing.assert_allclose(result.structure.positions[[0, 3]], system.structure.positions[[0, 3]], atol=1e-12)


def test_what_is_crushed_to_an_eighth_ends_there_without_an_energy(pair):
    result = aj.relax(pair, salt(cubic=False), cell="hydrostatic", pressure=1e6)
    assert not result.converged and np.isnan(result.output.energy)
    assert 0.09 < volume(result.structure) / volume(salt(cubic=False).structure) < 0.125


def test_what_has_fallen_together_at_the_end_has_no_energy(pair):
    system = salt(cubic=False)
    freedom = make_freedom(system.structure)
    limits = make_limits(system, freedom, force=1e-3, stress=1.0, steps=0, pressure=0.0)
    state = relax_batch(pair, system, np.array([[1.0, 0.0], [0.5, 0.5]]), np.zeros(2), freedom, limits)
    lists = relax_module.Lists(pair, system, freedom, 2)
    together = np.array(state.reference)
    together[1, 1] = together[1, 0] + 0.01
    judged = lists.without_collapsed(state._replace(reference=together, converged=np.ones(2, bool)))
    assert np.isfinite(judged.energy[0]) and judged.converged[0]
    assert np.isnan(judged.energy[1]) and not judged.converged[1]


def test_two_sites_that_approach_each_other_by_half_the_skin_make_the_list_stale():
    system, skin = salt(), 0.3
    freedom = make_freedom(system.structure)
    state = initial_state(jnp.asarray(system.structure.positions), 2)
    direction = np.array([0.6, 0.0, 0.8])

    def stale(each):
        moved = state.reference.at[0].add(each * direction).at[1].add(-each * direction)
        return bool(outran(5.0, skin, jnp.asarray(system.structure.cell), freedom, state._replace(reference=moved)))

    assert not stale(0.49 * skin) and stale(0.51 * skin)


def test_the_batch_that_memory_allows_counts_every_world_and_the_skin(pair, monkeypatch):
    system, many = salt(coupling="correlated"), [[0.5, 0.5]] * 1000
    monkeypatch.setattr(sweep_module, "LARGEST_BATCH", {"none": 10**6, "positions": 10**6, "cell": 10**6})
    monkeypatch.setattr(sweep_module, "MEMORY", 3e7)
    monkeypatch.setattr(sweep_module, "BYTES_PER_EDGE", dict.fromkeys(sweep_module.RELAX, 3e3))
    batch = {c: make_plan(pair, system._replace(coupling=c), many, "none", alpha=a).batch for c, a in COUPLINGS.items()}
    assert batch["correlated"] < 0.8 * batch["independent"]
    assert make_plan(pair, system._replace(coupling="independent"), many, "cell").batch < batch["independent"]


COUPLINGS = {"independent": None, "correlated": 0.1}


@pytest.mark.parametrize("alpha", [[0.1], [[0.1] * 4], [0.1, 0.2, 0.3]])
def test_alphas_that_are_not_one_for_each_row_are_refused(pair, alpha):
    with pytest.raises(ValueError, match="alpha is .*; give one number, or one for each of 4 rows"):
        make_plan(pair, salt(coupling="correlated"), COMPOSITIONS, "none", alpha=alpha)
