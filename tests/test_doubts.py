"""What makes free energies doubtful is said, and what does not is not."""

import numpy as np
import pytest
from ase.build import bulk
from pair_potential import A, lennard_jones

import alchemjax as aj
from alchemjax.tasks.free_energy.doubts import (
    doubts_of_pressure,
    doubts_of_rest,
    doubts_of_warmth,
    measures_of,
    strain_of,
)
from alchemjax.tasks.free_energy.estimators import Estimate
from alchemjax.tasks.free_energy.switching import Facts, Record, analyse, plan_switch, record_of
from alchemjax.tasks.free_energy.windows import WindowFacts, WindowRecord, analyse_windows
from alchemjax.tasks.md import recorded_run
from alchemjax.units import KELVIN

KT = 100 * KELVIN
TETRAGONAL = np.array([-0.5, -0.5, 1.0, 0, 0, 0])  # at constant volume, to first order
GATES = {
    "dissipation": ({"forward": 0.1}, "kT are dissipated, more than 5"),
    "overlap": ({"forward": 0.1}, "have an overlap of 0.0"),
    "hysteresis": ({"forward": 0.03}, "the way back does not undo the way there"),
    "gain": ({"forward": -0.01}, "which is impossible between equilibria"),
    "replicas": ({"replicas": 3}, "3 replicas say little of the error"),
    "volume": ({"growth": 0.1 / 3 * np.ones(6) * [1, 1, 1, 0, 0, 0]}, "the volume drifts by"),
    "shape": ({"growth": 0.1 * TETRAGONAL}, "the shape of the cell drifts by"),
    "another phase": ({"constant": 0.08 * TETRAGONAL}, "the crystal may have changed its phase"),
    "forced shape": ({"constant": 0.08 * TETRAGONAL}, None),
    "jump": ({"switched": 0.03 * np.array([0, 0, 0, 0, 0, 1.0])}, "per cent away from equilibrium there (shape (xy))"),
    "lag": ({"switched": 0.01 * np.array([1, 1, 1, 0, 0, 0])}, "per cent away from equilibrium there (volume)"),
    "expansion": ({"constant": 0.1 * np.array([1, 1, 1, 0, 0, 0])}, None),
    "cold": ({"temperature": 90.0}, "the temperature is 90 K instead of 100; equilibrate for longer"),
    "wandering": ({"away": 2.0}, "the crystal melts, changes its phase"),
    "none": ({}, None),
}


@pytest.mark.parametrize("name", GATES)
def test_what_makes_a_switch_doubtful_is_said(name):
    changes, said = GATES[name]
    given = {
        "forward": 0.0,
        "replicas": 8,
        "growth": 0.0,
        "constant": 0.0,
        "switched": 0.0,
        "away": 0.2,
        "temperature": 100.0,
    }
    given |= changes
    rng, steps, replicas = np.random.default_rng(0), np.arange(0, 401, 10), given["replicas"]
    works = rng.normal(0.5, 0.002, replicas), rng.normal(-0.5, 0.002, replicas)
    parts = [np.zeros(replicas), works[0] + given["forward"], np.zeros(replicas), works[1]]
    work = np.cumsum([parts[k] for k in np.repeat(range(4), 10)], axis=0) / 10
    work = np.vstack([np.zeros(replicas), work])
    switching = ((steps > 100) & (steps <= 200)) | (steps > 300)
    strain = given["constant"] + np.outer(steps / 400, np.ones(6)) * given["growth"]
    strain = strain + np.outer(switching, np.ones(6)) * given["switched"]
    strain = strain[:, None] + rng.normal(0, 1e-4, (len(steps), replicas, 6))
    volume = 100 * (1 + measures_of(strain)[..., 0])
    flat = np.ones_like(volume)
    warmth = given["temperature"] * (1 + rng.normal(0, 0.05, volume.shape))
    record = Record(steps, work, volume, 1e-3 * flat, given["away"] * flat, strain, warmth)
    terms = {"momenta": 0.0, "mass_term": 0.0, "mixing_term": 0.0}
    cell = {"moving_cell": True, "free_cell": name != "forced shape", "arrived": (180, 380)}
    facts = Facts((100, 200, 300, 400), KT, **terms, **cell, near=3.7, pressure=0.0, known=[])
    doubts = analyse(facts, record).doubts
    assert (doubts == ()) if said is None else any(said in doubt for doubt in doubts), doubts


def test_the_strain_of_a_cell_is_that_of_its_stretch_however_it_turns(rng):
    start, amounts = 4 * np.eye(3) + rng.normal(0, 0.5, (3, 3)), rng.normal(0, 0.05, 6)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    stretch = np.eye(3)
    stretch[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] += amounts
    stretch[[2, 2, 1], [1, 0, 0]] = amounts[3:]
    np.testing.assert_allclose(strain_of(start, start @ stretch @ turn), amounts, atol=1e-12)
    measures = measures_of(amounts)
    assert measures[0] == pytest.approx(np.linalg.det(stretch) - 1)
    np.testing.assert_allclose(measures_of(0.02 * np.array([1, 1, 1, 0, 0, 0]))[1:], 0, atol=1e-12)


@pytest.mark.parametrize("times", [4, 8, 100])
def test_cells_at_rest_are_rarely_doubted_though_they_fluctuate(times, rng):
    """Correlated fluctuations of a few per cent, in runs of some correlation times."""
    said, keep = 0, np.exp(-times / 400)
    for _ in range(60):
        noise = rng.normal(0, 1, (400, 4, 6))
        for k in range(1, len(noise)):
            noise[k] = keep * noise[k - 1] + (1 - keep**2) ** 0.5 * noise[k]
        said += bool(doubts_of_rest(0.015 * noise, "here", alike=True))
        said += bool(doubts_of_rest(0.015 * noise[:, :1], "here", alike=False))
    assert said <= 6


def test_one_replica_says_nothing_of_chance_and_a_drift_that_is_sure_is_found(rng):
    still = rng.normal(0, 0.002, (400, 6, 6))
    moving = still + np.linspace(0, 0.02, 400)[:, None, None] * TETRAGONAL
    for strain, sure in ((moving, True), (still, False)):
        assert bool(doubts_of_rest(strain, "here", alike=True)) is sure
        assert bool(doubts_of_rest(strain[:, :1], "here", alike=False)) is sure
        assert doubts_of_rest(strain[:, :1], "here", alike=True) == []
    warm = rng.normal(90, 10, (100, 8))
    assert doubts_of_warmth(warm, 100.0, "here") and not doubts_of_warmth(warm[:, :1], 100.0, "here")
    assert not doubts_of_warmth(warm, 90.0, "here")


def test_slabs_and_linear_schedules_are_not_doubted_for_what_they_are():
    """A vector that is not periodic is as long as it is; a linear switch arrives at its last step."""
    atoms = bulk("Ar", "fcc", A, cubic=True) * (1, 1, 2)
    atoms.center(vacuum=4.0, axis=2)
    atoms.pbc = (True, True, False)
    system = aj.from_atoms(atoms, mix={"Ar": ("Ar", "Kr")}, weights=[1.0, 0.0])
    path = aj.composition_path(system, [1, 0], [0.8, 0.2])
    npt = {"cell": [True, True, False, False, False, True], "bulk_modulus": 0.03, "barostat_time": 200.0}
    options = npt | {"equilibration": 400.0, "switching": 400.0, "timestep": 4.0, "replicas": 4, "schedule": "linear"}
    planned = plan_switch(lennard_jones(), system, path, temperature=20.0, **options)
    assert not planned.facts.free_cell and planned.facts.arrived == (199, 399)
    trajectory = recorded_run(lennard_jones(), planned.plan)
    record = record_of(planned.plan, trajectory)
    assert np.abs(record.strain[0]).max() < 1e-12 and record.displacement[0].max() < 1e-9
    assert np.abs(record.strain[:, :, 2]).max() < 1e-12 < np.abs(record.strain[:, :, 0]).max() < 0.1
    slow = plan_switch(lennard_jones(), system, path, temperature=20.0, **options | {"schedule": "polynomial"})
    assert 170 < slow.facts.arrived[0] < 190 and 370 < slow.facts.arrived[1] < 390


def test_a_site_that_nothing_holds_is_doubted():
    system = aj.from_atoms(bulk("Ar", "fcc", A, cubic=True), mix={0: ("Ar",)}, weights=[1.0])
    known = lambda path: plan_switch(lennard_jones(), system, path, temperature=20.0).facts.known
    assert "site 0 is empty at an end of the path and nothing holds" in known(aj.composition_path(system, [1], [0]))[0]
    assert known(aj.vacancy_path(system, 1.0, 0)) == []


def test_a_cell_of_another_pressure_is_doubted_where_that_counts():
    measured = Estimate(0.01, 0.001, 8.0)
    of = lambda pressure, error, found=measured: doubts_of_pressure(found, pressure, 200.0, 1.0, error)
    assert (
        "changes G of the cell by 10.0 meV if its bulk modulus is 160 GPa" in of(0.0, 0.005)[0]
    )  # 200 A^3 (0.01 eV/A^3)^2 / 2 eV/A^3
    assert of(0.0, 0.02) == [] and of(0.009, 0.0) == []
    assert of(0.0, 0.005, measured._replace(error=0.01)) == []


# --- windows ----------------------------------------------------------------------------------------------------------


def harmonic_windows(rule, seed, *, number=5, samples=200, modes=24):
    """What `modes` independent oscillators say whose springs grow from 1 to 4; energies in kT are known."""
    rng = np.random.default_rng(seed)
    lambdas, weights = np.polynomial.legendre.leggauss(number)
    lambdas, weights = (lambdas + 1) / 2, weights / 2
    if rule == "trapezoid":
        lambdas, weights = np.linspace(0, 1, number), np.full(number, 1 / (number - 1))
        weights[[0, -1]] /= 2
    states = np.unique([0.0, *lambdas, 1.0])
    squares = rng.chisquare(modes, (samples, number)) / (1 + 3 * lambdas) / 2
    still, strain = np.zeros((samples, number)), rng.normal(0, 1e-3, (samples, number, 6))
    record = WindowRecord(squares[..., None] * (1 + 3 * states), 3 * squares, still, strain)
    terms = {"kT": 1.0, "mass_term": 0.0, "mixing_term": 0.0, "near": 3.0, "free_cell": True, "known": []}
    return WindowFacts(lambdas.tolist(), weights.tolist(), states.tolist(), 0, samples, **terms), record


@pytest.mark.parametrize(("rule", "doubtful"), [("trapezoid", True), ("gauss-legendre", False)])
def test_a_quadrature_that_misses_by_more_than_its_error_is_doubted(rule, doubtful):
    """Five trapezoids are wrong by 0.53 kT, their own statistical error is 0.18, as is that of five Gauss nodes."""
    said = 0
    for seed in range(4):
        found = analyse_windows(*harmonic_windows(rule, seed))
        said += any("take more windows" in doubt for doubt in found.doubts)
        assert found.overlap > 0.1 and 0.1 < found.integral.error < 0.3
    assert said == (4 if doubtful else 0)


def test_windows_of_a_cell_that_changes_its_shape_are_doubted():
    facts, record = harmonic_windows("gauss-legendre", 0)
    assert analyse_windows(facts, record).doubts == ()
    for strain, said in ((0.08 * TETRAGONAL, " per cent in a window, from the structure that was given"), (0.0, None)):
        one = record.strain.copy()
        one[:, 2] += strain
        doubts = analyse_windows(facts, record._replace(strain=one)).doubts
        assert (said in doubts[0]) if said else doubts == ()
    slowly = np.cumsum(np.random.default_rng(1).normal(0, 1e-3, record.strain.shape), axis=0) / 4
    together = slowly + np.linspace(0, 0.03, len(record.strain))[:, None, None] * np.array([1, 1, 1, 0, 0, 0])
    found = analyse_windows(facts, record._replace(strain=together)).doubts
    assert found == (found[0],) and "the volume drifts by +4." in found[0] and "average of all windows" in found[0]
    drifting = record.strain + np.linspace(0, 0.02, len(record.strain))[:, None, None] * TETRAGONAL
    assert "the shape of the cell drifts by" in analyse_windows(facts, record._replace(strain=drifting)).doubts[0]
