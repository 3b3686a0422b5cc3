"""Molecular dynamics samples the ensembles it claims to: distributions with known answers, error bars, fixed seeds.

The limits are four standard errors, from independent replicas.
"""

from functools import partial

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from conftest import QUICK
from pair_potential import lennard_jones
from scipy import optimize, stats

import alchemjax as aj
from alchemjax.tasks.md import md
from alchemjax.units import FS, KELVIN

pytestmark = pytest.mark.slow
GPA = 1 / 160.21766208
SIGMAS = 4
TEMPERATURES, PRESSURES = (20.0, 28.0), (0.0, 0.06 * GPA)  # K, eV/A^3
SEEDS = 4


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    patch = pytest.MonkeyPatch()
    patch.setattr(jax, "jit", partial(jax.jit, compiler_options=QUICK))
    yield
    patch.undo()


def mean_and_error(values):
    """Over replicas, the last axis."""
    return values.mean(-1), values.std(-1, ddof=1) / np.sqrt(values.shape[-1])


def assert_is(found, error, expected, most):
    """Within four standard errors, and these no larger than `most`, or the test could not fail."""
    assert error < most, f"the test is blunt: {error} is larger than {most}"
    assert abs(found - expected) < SIGMAS * error, f"{found} +- {error} is not {expected}"


# --- momenta ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover", "csvr"])
def test_kinetic_energies_are_distributed_canonically_and_equally_over_sites(thermostat):
    atoms = bulk("Ar", "fcc", 5.3, cubic=True)
    atoms.symbols[2:] = "Kr"  # twice as heavy
    temperature, kT = 30.0, 30 * KELVIN
    out = md(
        lennard_jones(), aj.from_atoms(atoms), steps=4000, timestep=6.0, temperature=temperature, every=100, chunk=1000,
        thermostat=thermostat, thermostat_time=150.0, replicas=24, skin=0.9,
    )  # fmt: skip
    settled = slice(10, None)
    twice = 2 * out.kinetic[settled] / kT
    mean, error = mean_and_error(twice.mean(0))
    assert_is(mean, error, 9, 0.4)  # 3N - 3
    assert stats.kstest(twice[::2].ravel(), stats.chi2(9).cdf).pvalue > 1e-3
    assert stats.kstest(twice[::2].ravel(), stats.chi2(12).cdf).pvalue < 1e-6, "3N would be wrong"
    masses = atoms.get_masses()
    of_sites = masses * (out.velocities[settled] ** 2).sum(-1) / FS**2 / kT
    for site in (0, 3):  # the rest of 3 is in the momentum of the others, which is opposite
        mean, error = mean_and_error(of_sites[..., site].mean(0))
        assert_is(mean, error, 3 * (1 - masses[site] / masses.sum()), 0.15)


# --- volumes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thermostat, cell", [("langevin", "hydrostatic"), ("csvr", (0, 0, 1, 0, 0, 0))])
def test_the_volume_of_an_ideal_gas_has_its_gamma_distribution(thermostat, cell):
    sites, temperature = 6, 100.0
    side = 40.0
    kT, pressure = temperature * KELVIN, (sites + 1) * temperature * KELVIN / side**3
    positions = np.random.default_rng(0).uniform(0, side, (sites, 3))
    gas = aj.from_atoms(Atoms(["Ar"] * sites, positions, cell=np.eye(3) * side, pbc=True))
    out = md(
        lennard_jones(strength=0.0), gas, steps=2200, timestep=4.0, temperature=temperature, thermostat=thermostat,
        thermostat_time=50.0, cell=cell, pressure=pressure, bulk_modulus=pressure, barostat_time=100.0,
        replicas=16, every=20, chunk=100, skin=4.0,
    )  # fmt: skip
    volume = out.volume[15:] * pressure / kT  # in it, the density is V^N exp(-V)
    mean, error = mean_and_error(volume.mean(0))
    assert_is(mean, error, sites + 1, 0.45)
    mean, error = mean_and_error(((volume - sites - 1) ** 2).mean(0))
    assert_is(mean, error, sites + 1, 1.5)


def test_a_crystal_that_breathes_has_the_isobaric_ensemble():
    """Two temperatures, two pressures, some seeds each, in one program; and runs at fixed volumes to compare with."""
    crystal = bulk("Ar", "fcc", 5.3, cubic=True).repeat((2, 2, 1))
    isobars = run_isobars(crystal)
    for (temperature, pressure), out in isobars.items():
        mean, error = mean_and_error(((out.pressure - pressure) * out.volume).mean(0) / (temperature * KELVIN))
        assert_is(mean, error, -2, 12)  # the virial theorem, with momenta of zero total
    for temperature in TEMPERATURES:
        a, b = (isobars[temperature, pressure].volume for pressure in PRESSURES)
        expected = -(PRESSURES[1] - PRESSURES[0]) / (temperature * KELVIN)
        assert_is(*slope_of_ratio(a, b), expected, 0.22 * abs(expected))
    for pressure in PRESSURES:
        a, b = (isobars[temperature, pressure] for temperature in TEMPERATURES)
        enthalpy = [out.energy + out.kinetic + pressure * out.volume for out in (a, b)]
        expected = 1 / (TEMPERATURES[0] * KELVIN) - 1 / (TEMPERATURES[1] * KELVIN)
        assert_is(*slope_of_ratio(*enthalpy), expected, 0.3 * abs(expected))
    compare_with_fixed_volumes(isobars, crystal)
    compare_compressibilities(isobars)


def run_isobars(crystal):
    """{(T, P): trajectory}."""
    states = [(T, P) for T in TEMPERATURES for P in PRESSURES]
    replicas = [
        {"temperature": T, "pressure": P, "seed": SEEDS * k + seed}
        for k, (T, P) in enumerate(states)
        for seed in range(SEEDS)
    ]
    out = md(
        lennard_jones(), aj.from_atoms(crystal), steps=5000, timestep=8.0, thermostat_time=200.0, cell="hydrostatic",
        barostat_time=250.0, bulk_modulus=1.7 * GPA, replicas=replicas, every=20, chunk=500, skin=0.9,
    )  # fmt: skip
    settled = type(out)(*(a[60:] for a in out))
    of = lambda k: type(out)(*(a if n < 2 else a[:, SEEDS * k : SEEDS * (k + 1)] for n, a in enumerate(settled)))
    return {state: of(k) for k, state in enumerate(states)}


def slope_of_ratio(a, b):
    """(slope, error) of the logarithm of the ratio of two densities, which is linear, by maximum likelihood.

    T. Merz, M. Shirts, PLoS ONE 13, e0202764 (2018); the error is that of a jackknife over replicas.
    """

    def slope(a, b):
        x = np.concatenate([a.ravel(), b.ravel()])
        x0, width = x.mean(), x.std()
        y = np.repeat([-1, 1], [a.size, b.size])
        loss = lambda p: np.logaddexp(0, -y * (p[0] + p[1] * (x - x0) / width)).sum()
        return optimize.minimize(loss, [0, 0], method="BFGS").x[1] / width

    without = [slope(np.delete(a, k, 1), np.delete(b, k, 1)) for k in range(a.shape[1])]
    count = len(without)
    return slope(a, b), np.sqrt((count - 1) / count * np.sum((np.array(without) - np.mean(without)) ** 2))


def compare_with_fixed_volumes(isobars, crystal):
    """pi(V) = exp(-(F + PV) / kT), F' = -P(V), from runs that know no barostat."""
    volumes = crystal.get_volume() * np.array([0.94, 0.99, 1.04, 1.09])
    replicas = [{"temperature": T, "seed": seed} for T in TEMPERATURES for seed in range(SEEDS)]
    pressures = []
    for volume in volumes:
        atoms = crystal.copy()
        atoms.set_cell(atoms.cell * (volume / crystal.get_volume()) ** (1 / 3), scale_atoms=True)
        out = md(
            lennard_jones(), aj.from_atoms(atoms), steps=2200, timestep=8.0, thermostat_time=200.0, replicas=replicas,
            every=10, chunk=500, skin=0.9,
        )  # fmt: skip
        kT = np.repeat(TEMPERATURES, SEEDS) * KELVIN
        pressures.append(out.pressure[40:].mean(0) + kT / volume)  # of 3N momenta
    pressures = np.array(pressures).reshape(len(volumes), len(TEMPERATURES), SEEDS)
    grid = np.linspace(volumes[0] * 0.93, volumes[-1] * 1.04, 2001)
    for k, temperature in enumerate(TEMPERATURES):
        for pressure in PRESSURES:
            moments = np.array(
                [moments_of(volumes, own, grid, pressure, temperature * KELVIN) for own in pressures[:, k].T]
            )
            found = isobars[temperature, pressure].volume
            pairs = ((found.mean(0), moments[:, 0]), (found.var(axis=0), moments[:, 1]))
            for (sampled, predicted), most in zip(pairs, (0.005, 0.12), strict=True):
                (mean, error), (expected, its_error) = mean_and_error(sampled), mean_and_error(predicted)
                assert_is(mean, np.hypot(error, its_error), expected, most * expected)


def compare_compressibilities(isobars):
    """From fluctuations, and from two pressures."""
    for temperature in TEMPERATURES:
        a, b = (isobars[temperature, pressure].volume for pressure in PRESSURES)
        soft = [v.var(axis=0) / (temperature * KELVIN) / v.mean() for v in (a, b)]
        fluctuation, error = mean_and_error((soft[0] + soft[1]) / 2)
        change = -np.log(b.mean(0) / a.mean(0)) / (PRESSURES[1] - PRESSURES[0])
        mean, its_error = mean_and_error(change)
        assert_is(fluctuation, np.hypot(error, its_error), mean, 0.12 * mean)


def moments_of(volumes, pressures, grid, pressure, kT):
    """Mean and variance of the volume."""
    fit = np.polyfit(volumes - volumes.mean(), pressures, 3)
    slope = pressure - np.polyval(fit, grid - volumes.mean())
    exponent = -np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(grid))]) / kT
    density = np.exp(exponent - exponent.max())
    assert max(density[0], density[-1]) < 1e-3, "the volumes of the fit do not cover the distribution"
    mean = np.sum(density * grid) / density.sum()
    return mean, np.sum(density * (grid - mean) ** 2) / density.sum()


def test_every_strain_of_a_free_cell_has_its_virial_theorem():
    """<V (P_ab - P)> + 2 kT = 0 for a = b, 0 otherwise."""
    crystal, temperature, pressure = bulk("Ar", "fcc", 5.3, cubic=True).repeat((2, 2, 1)), 20.0, 0.03 * GPA
    out = md(
        lennard_jones(), aj.from_atoms(crystal), steps=2500, timestep=8.0, thermostat_time=200.0, cell=True,
        temperature=temperature, pressure=pressure, barostat_time=250.0, bulk_modulus=1.7 * GPA, replicas=8, every=10,
        chunk=500, skin=0.9, thermostat="csvr",
    )  # fmt: skip
    settled = slice(80, None)
    excess = (-out.stress - pressure * np.eye(3)) * out.volume[..., None, None] / (temperature * KELVIN)
    assert np.ptp(out.cell[settled, :, 0, 1]) > 0.05, "it shears"
    for a in range(3):
        for b in range(a + 1):
            mean, error = mean_and_error(excess[settled, :, a, b].mean(0))
            assert_is(mean, error, -2.0 * (a == b), 25)
