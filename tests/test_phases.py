"""Gibbs energies of phases over temperature, and where two of them cross."""

import numpy as np
import pytest
from ase.build import bulk
from error_bars import SIGMAS
from harmonic_crystal import STIFFNESS, argon, harmonic_crystal, mixed, system_masses
from pair_potential import A

import alchemjax as aj
from alchemjax.tasks.free_energy import estimators
from alchemjax.tasks.free_energy.frenkel_ladd import HBAR, FreeEnergy, squared_frequencies
from alchemjax.tasks.free_energy.paths import composition_path
from alchemjax.tasks.free_energy.stability import (
    Heated,
    changed,
    compare,
    gibbs_curve,
    heated,
    phase,
    plan_heating,
    reference_of,
)
from alchemjax.tasks.free_energy.switching import Switching
from alchemjax.tasks.md import recorded_run
from alchemjax.units import KELVIN


def heated_exactly(a, b, c, temperatures, error):
    """Enthalpies a + b T + c T^2."""
    t = np.array(temperatures)
    enthalpies = [estimators.Estimate(float(h), error, 100.0) for h in a + b * t + c * t**2]
    volumes, cells = [estimators.Estimate(1.0, 0.0, 1.0)] * len(t), np.broadcast_to(np.eye(3), (len(t), 3, 3))
    return Heated(t, enthalpies, volumes, cells, ())


def test_enthalpies_and_free_energies_of_a_phase_are_of_one_energy(monkeypatch):
    from alchemjax.tasks.free_energy import stability

    asked = []

    def heated(*arguments, **options):
        asked.append(options["fluctuations"])
        raise KeyboardInterrupt

    monkeypatch.setattr(stability, "heated", heated)
    for kind in ("site", "none"):
        with pytest.raises(KeyboardInterrupt):
            phase(harmonic_crystal(), mixed(weights=[0.5, 0.5]), [90, 100, 110], units=8, fluctuations=kind)
    assert asked == ["site", "none"]


def test_curves_are_integrals_of_the_enthalpy_and_cross_where_they_should():
    temperatures, units = [300.0, 450.0, 600.0, 900.0], 2.0
    a, b, c = np.array([[-4.0, 1e-3, 2e-7], [-3.95, 1.02e-3, 2e-7]]).T
    exact = lambda k, t: t * (start[k] / 600 - (a[k] * (1 / 600 - 1 / t) + b[k] * np.log(t / 600) + c[k] * (t - 600)))
    start = [-4.3, -4.31]
    warm = [heated_exactly(*row, temperatures, 1e-4) for row in zip(a, b, c, strict=True)]
    references = [estimators.Estimate(g, 2e-4, 8.0) for g in start]
    curves = [gibbs_curve(*both, 600.0, units) for both in zip(warm, references, strict=True)]
    for k, curve in enumerate(curves):
        np.testing.assert_allclose(curve.gibbs, exact(k, curve.temperatures) / units, atol=1e-9)
        assert 0.5e-4 < curve.error[50] < 2e-4
        np.testing.assert_allclose(curve.draws.mean(axis=0), curve.gibbs, atol=5e-5)
    found = compare(*curves)
    t = np.linspace(300, 900, 60001)
    expected = t[np.argmin(np.abs(exact(1, t) - exact(0, t)))]
    assert 400 < expected < 800 and found.doubts == () and found.chance == 1
    assert found.transition.value == pytest.approx(expected, abs=0.1)
    slope = np.gradient(exact(1, t) - exact(0, t), t)[np.argmin(np.abs(t - expected))]
    assert found.transition.error == pytest.approx(np.hypot(2e-4, 2e-4) / abs(slope), rel=0.2)
    same = compare(curves[0], curves[0])
    assert same.transition is None and "is undecided there" in same.doubts[0]
    with pytest.raises(ValueError, match="different temperatures"):
        compare(curves[0], curves[1]._replace(temperatures=curves[1].temperatures + 100))
    bent = warm[0]._replace(
        enthalpies=[e._replace(value=e.value + 0.1 * (k > 2)) for k, e in enumerate(warm[0].enthalpies)]
    )
    assert "deviate from a parabola" in gibbs_curve(bent, references[0], 600.0, units).doubts[0]
    uncertain = compare(curves[0], curves[1]._replace(draws=curves[1].draws + np.linspace(-1, 1, 1000)[:, None]))
    assert "cross in this range" in uncertain.doubts[0]


def test_disorder_is_favoured_by_its_entropy_of_mixing():
    """Two phases alike in all but that one is mixed, half and half, on two sites of each formula unit."""
    system = aj.from_atoms(bulk("ArKr", "cesiumchloride", 4.0), mix={0: ("Ar", "Kr"), 1: ("Ar", "Kr")})
    entropy = aj.mixing_entropy(system, [0.5] * 4)
    assert entropy == pytest.approx(2 * KELVIN * np.log(2))
    warm = heated_exactly(-4.0, 1e-3, 0.0, [300.0, 450.0, 600.0], 1e-4)
    total = estimators.Estimate(-4.3, 2e-4, 8.0)
    ordered = gibbs_curve(warm, total, 450.0, 2.0)
    mixed = gibbs_curve(warm, total._replace(value=-4.2), 450.0, 2.0, mixing=2 * entropy)
    found = compare(ordered, mixed)
    t = found.temperatures
    np.testing.assert_allclose(found.mixing, -t * entropy)
    np.testing.assert_allclose(found.difference, 0.05 * t / 450 - t * entropy, atol=1e-12)
    assert mixed.reference.value == pytest.approx(-2.1 - 450 * entropy)
    np.testing.assert_allclose(mixed.draws.mean(0), mixed.gibbs, atol=1e-4)
    unknown = gibbs_curve(warm, total, 450.0, 2.0, mixing=np.nan)
    assert "no entropy of mixing" in unknown.doubts[0]
    np.testing.assert_array_equal(unknown.gibbs, ordered.gibbs)


def test_a_phase_knows_the_entropy_of_its_mixed_sites_at_the_end_of_its_path(monkeypatch):
    from alchemjax.tasks.free_energy import stability

    warm = heated_exactly(-4.0, 1e-3, 0.0, [90.0, 100.0, 110.0], 1e-4)
    seeds = []
    monkeypatch.setattr(stability, "heated", lambda *args, seed, **options: seeds.append(seed) or warm)
    monkeypatch.setattr(stability, "at_mean_cell", lambda system, *rest: system)
    short = {"equilibration": 400.0, "switching": 400.0, "replicas": 4, "timestep": 4.0, "stiffness": 2.2}
    start = mixed(weights=[1.0, 0.0])
    path = composition_path(start, [1, 0], [0.5, 0.5])
    for way, sites in ((path, 8), (None, 0)):
        found = phase(harmonic_crystal(), start, [90, 100, 110], units=8, path=way, cell=False, **short)
        np.testing.assert_allclose(found.mixing, -found.temperatures * KELVIN * np.log(2) * sites / 8, atol=1e-15)
    assert len(set(seeds[:2])) == 2, "runs that feel the same noise are not independent"


def test_a_phase_adds_up_momenta_work_against_the_pressure_and_masses():
    potential, system, pressure = harmonic_crystal(), argon(), 2e-3
    short = {"equilibration": 40.0, "sampling": 400.0, "timestep": 4.0, "bulk_modulus": 0.03, "cell": "hydrostatic"}
    temperatures = np.array([60.0, 100.0, 140.0])
    found = heated(potential, system, temperatures, pressure=pressure, **short)
    plan, settled = plan_heating(potential, system, temperatures, pressure=pressure, **short)
    run = recorded_run(potential, plan)
    kept = run.step > settled
    enthalpy = (run.energy + pressure * run.volume)[kept].mean(0) + 1.5 * len(
        system.structure.positions
    ) * KELVIN * temperatures
    np.testing.assert_allclose([one.value for one in found.enthalpies], enthalpy, rtol=1e-12)
    total = estimators.Estimate(-3.0, 0.03, 8)
    known = lambda kind, **numbers: kind._make([None] * len(kind._fields))._replace(**numbers)
    space = abs(np.linalg.det(system.structure.cell))
    assert reference_of(system, known(FreeEnergy, total=total), pressure).value == pytest.approx(
        -3.0 + pressure * space
    )
    moved = known(Switching, difference=estimators.Estimate(0.5, 0.04, 4), mass_term=0.25)
    assert changed(total, moved) == pytest.approx((-2.25, 0.05, 4))


def test_cells_of_different_sizes_are_doubtful_where_that_counts():
    """kT ln(32) / 64 - kT ln(108) / 216 = 0.0325 kT."""
    small = heated_exactly(-4.0, 1e-3, 0.0, [300.0, 450.0, 600.0], 1e-4)
    large = small._replace(enthalpies=[e._replace(value=e.value * 108 / 32) for e in small.enthalpies])
    curve = lambda found, sites, error: gibbs_curve(
        found, estimators.Estimate(-4.3 * sites / 32, error * sites, 8.0), 600.0, sites, sites=sites
    )
    doubts = compare(curve(small, 32, 1e-3), curve(large, 108, 1e-3)).doubts
    assert any("different sizes, which alone is worth 1.7 meV" in doubt for doubt in doubts)
    for pair in ((curve(small, 32, 2e-3), curve(large, 108, 2e-3)), (curve(small, 32, 1e-4), curve(small, 32, 1e-4))):
        assert not any("different sizes" in doubt for doubt in compare(*pair).doubts)


@pytest.mark.slow
def test_a_phase_has_the_gibbs_energies_of_its_harmonic_crystal():
    potential, system = harmonic_crystal(), argon()
    temperatures = np.array([60.0, 100.0, 140.0])
    heating = {"equilibration": 1200.0, "sampling": 40000.0, "bulk_modulus": 0.03, "barostat_time": 400.0}
    found = phase(
        potential, system, temperatures, units=8, cell="hydrostatic", heating=heating, stiffness=2.2,
        equilibration=800.0, switching=4000.0, replicas=16, every=10, timestep=4.0, chunk=1000,
    )  # fmt: skip
    squares, masses = squared_frequencies(potential, system), system_masses(system)
    s = np.linspace(0.8, 1.2, 20001)
    for k in (0, 50, 100):
        kT = KELVIN * found.temperatures[k]
        harmonic_part = kT * np.sum(np.log(HBAR * np.sqrt(squares) / kT))
        centre = kT * (1.5 * np.log(2 * np.pi * HBAR**2 / (masses.sum() * kT)) - np.log(A**3 / 4))
        # the mean cell is larger than the static one: s^5 exp(-(s - 1)^2 / 2 w^2) instead of a sharp cell
        bonds = 6 * 8 * A**2 / 2
        weight = s**5 * np.exp(-STIFFNESS["Ar"] / 2 * (s - 1) ** 2 * bonds / kT)
        mean = (s**3 * weight).sum() / weight.sum()
        relaxed = STIFFNESS["Ar"] / 2 * (mean ** (1 / 3) - 1) ** 2 * bonds - kT * np.log(mean)
        expected = (harmonic_part + centre + relaxed) / 8
        assert abs(found.gibbs[k] - expected) < SIGMAS * found.error[k] + 2e-4, (found.temperatures[k], found.gibbs[k])
        assert found.error[k] < 4e-4
