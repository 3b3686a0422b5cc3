"""Molecular dynamics samples the ensembles it claims to: distributions with known answers, error bars, fixed seeds.

Trajectories are chaotic, so that every kind of processor draws other samples. Errors come from replicas, and from
blocks of them that are many correlation times long. Of some forty limits of five standard errors, each from about 20
samples, one in 300 kinds of processors passes one by chance (of four: one in 30). The limit of
p-values is chosen alike.
"""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pair_potential import ideal_gas, lennard_jones
from scipy import optimize, stats

import alchemjax as aj
from alchemjax.tasks.md import md
from alchemjax.units import FS, KELVIN

pytestmark = pytest.mark.slow
GPA = 1 / 160.21766208
SIGMAS = 5
TEMPERATURES, PRESSURES = (20.0, 28.0), (0.0, 0.06 * GPA)  # K, eV/A^3
SEEDS = 4


def nearest():
    """Reaches the nearest neighbours only: any crystal will do, and this one is quick."""
    return lennard_jones(cutoff=5.2, strength=1.2)


def mean_and_error(values):
    """Over replicas, the last axis."""
    return values.mean(-1), values.std(-1, ddof=1) / np.sqrt(values.shape[-1])


def in_blocks(values, count=5):
    """[times, replicas] as [times, blocks of all replicas]."""
    kept = len(values) // count * count
    return np.concatenate(np.split(values[:kept], count), axis=1)


def jackknife(function, *samples):
    """(value, error) of a function of samples, whose last axis numbers blocks."""
    count = samples[0].shape[-1]
    without = np.array([function(*(np.delete(s, k, -1) for s in samples)) for k in range(count)])
    return function(*samples), np.sqrt((count - 1) * without.var(axis=0))


def assert_is(found, error, expected, most):
    """Within five standard errors, and these no larger than `most`, or the test could not fail."""
    assert error < most, f"the test is blunt: {error} is larger than {most}"
    assert abs(found - expected) < SIGMAS * error, f"{found} +- {error} is not {expected}"


# --- momenta ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover", "csvr"])
def test_kinetic_energies_are_distributed_canonically_and_equally_over_sites(thermostat):
    atoms = bulk("Ar", "fcc", 5.3, cubic=True)
    atoms.symbols[2:] = "Kr"  # twice as heavy
    temperature, kT = 30.0, 30 * KELVIN
    out = md(
        nearest(), aj.from_atoms(atoms), steps=4000, timestep=6.0, temperature=temperature, every=100, chunk=1000,
        thermostat=thermostat, thermostat_time=150.0, replicas=24, skin=0.9,
    )  # fmt: skip
    settled = slice(10, None)
    twice = 2 * out.kinetic[settled] / kT
    mean, error = mean_and_error(twice.mean(0))
    assert_is(mean, error, 9, 0.4)  # 3N - 3
    assert stats.kstest(twice[::2].ravel(), stats.chi2(9).cdf).pvalue > 1e-5
    assert stats.kstest(twice[::2].ravel(), stats.chi2(12).cdf).pvalue < 1e-9, "3N would be wrong"
    masses = atoms.get_masses()
    of_sites = masses * (out.velocities[settled] ** 2).sum(-1) / FS**2 / kT
    for site in (0, 3):  # the rest of 3 is in the momentum of the others, which is opposite
        mean, error = mean_and_error(of_sites[..., site].mean(0))
        assert_is(mean, error, 3 * (1 - masses[site] / masses.sum()), 0.15)


# --- volumes ----------------------------------------------------------------------------------------------------------


def test_the_volume_of_an_ideal_gas_has_its_gamma_distribution():
    # CSVR would not do: without collisions it never exchanges momentum between directions
    sites, temperature = 6, 100.0
    side = 40.0
    kT, pressure = temperature * KELVIN, (sites + 1) * temperature * KELVIN / side**3
    positions = np.random.default_rng(0).uniform(0, side, (sites, 3))
    gas = aj.from_atoms(Atoms(["Ar"] * sites, positions, cell=np.eye(3) * side, pbc=True))
    # one axis: nothing holds the shape of a cell with more, which would become so thin that lists are of images
    out = md(
        ideal_gas(), gas, steps=600, timestep=4.0, temperature=temperature, thermostat_time=50.0,
        cell=(0, 0, 1, 0, 0, 0), pressure=pressure, bulk_modulus=pressure, barostat_time=100.0,
        replicas=192, every=20, chunk=100, skin=0.5,
    )  # fmt: skip
    volume = out.volume[15:] * pressure / kT  # in it, the density is V^N exp(-V)
    mean, error = mean_and_error(volume.mean(0))
    assert_is(mean, error, sites + 1, 0.15)
    mean, error = mean_and_error(((volume - sites - 1) ** 2).mean(0))
    assert_is(mean, error, sites + 1, 0.6)
    assert stats.kstest(volume[::5].ravel(), stats.gamma(sites + 1).cdf).pvalue > 1e-5


def test_a_crystal_that_breathes_has_the_isobaric_ensemble():
    """Two temperatures, two pressures, some seeds each, in one program; and runs at fixed volumes to compare with."""
    crystal = bulk("Ar", "fcc", 5.3, cubic=True).repeat((2, 1, 1))
    isobars = run_isobars(crystal)
    for (temperature, pressure), out in isobars.items():
        virial = in_blocks((out.pressure - pressure) * out.volume) / (temperature * KELVIN)
        mean, error = mean_and_error(virial.mean(0))
        assert_is(mean, error, -2, 12)  # the virial theorem; the ideal gas above sees the 2
    for temperature in TEMPERATURES:
        a, b = (isobars[temperature, pressure].volume for pressure in PRESSURES)
        expected = -(PRESSURES[1] - PRESSURES[0]) / (temperature * KELVIN)
        assert_is(*jackknife(slope_of_ratio, in_blocks(a), in_blocks(b)), expected, 0.22 * abs(expected))
    for pressure in PRESSURES:
        a, b = (isobars[temperature, pressure] for temperature in TEMPERATURES)
        enthalpies = [in_blocks(out.energy + out.kinetic + pressure * out.volume) for out in (a, b)]
        expected = 1 / (TEMPERATURES[0] * KELVIN) - 1 / (TEMPERATURES[1] * KELVIN)
        assert_is(*jackknife(slope_of_ratio, *enthalpies), expected, 0.3 * abs(expected))
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
        nearest(), aj.from_atoms(crystal), steps=5000, timestep=8.0, thermostat_time=200.0, cell="hydrostatic",
        barostat_time=250.0, bulk_modulus=1.7 * GPA, replicas=replicas, every=20, chunk=500, skin=0.9,
    )  # fmt: skip
    settled = type(out)(*(a[60:] for a in out))
    of = lambda k: type(out)(*(a if n < 2 else a[:, SEEDS * k : SEEDS * (k + 1)] for n, a in enumerate(settled)))
    return {state: of(k) for k, state in enumerate(states)}


def slope_of_ratio(a, b):
    """Slope of the logarithm of the ratio of two densities, which is linear, by maximum likelihood.

    T. Merz, M. Shirts, PLoS ONE 13, e0202764 (2018).
    """
    x = np.concatenate([a.ravel(), b.ravel()])
    x0, width = x.mean(), x.std()
    y = np.repeat([-1, 1], [a.size, b.size])
    loss = lambda p: np.logaddexp(0, -y * (p[0] + p[1] * (x - x0) / width)).sum()
    return optimize.minimize(loss, [0, 0], method="BFGS").x[1] / width


def compare_with_fixed_volumes(isobars, crystal):
    """pi(V) = exp(-(F + PV) / kT), F' = -P(V), from runs that know no barostat."""
    volumes = crystal.get_volume() * np.array([0.94, 0.99, 1.04, 1.09])
    replicas = [{"temperature": T, "seed": seed} for T in TEMPERATURES for seed in range(SEEDS)]
    pressures = []
    for volume in volumes:
        atoms = crystal.copy()
        atoms.set_cell(atoms.cell * (volume / crystal.get_volume()) ** (1 / 3), scale_atoms=True)
        out = md(
            nearest(), aj.from_atoms(atoms), steps=2200, timestep=8.0, thermostat_time=200.0, replicas=replicas,
            every=10, chunk=500, skin=0.9,
        )  # fmt: skip
        of_all_momenta = out.pressure[40:] + np.repeat(TEMPERATURES, SEEDS) * KELVIN / volume
        pressures.append([in_blocks(own).mean(0) for own in np.split(of_all_momenta, len(TEMPERATURES), axis=1)])
    pressures = np.array(pressures)  # [volumes, temperatures, blocks]
    grid = np.linspace(volumes[0] * 0.93, volumes[-1] * 1.04, 2001)
    for k, temperature in enumerate(TEMPERATURES):
        for pressure in PRESSURES:
            predicted = lambda p, at=pressure, kT=temperature * KELVIN: moments_of(volumes, p.mean(-1), grid, at, kT)
            expected = jackknife(predicted, pressures[:, k])
            volume = in_blocks(isobars[temperature, pressure].volume)
            found = jackknife(lambda v: np.array([v.mean(), v.var()]), volume)
            error = np.hypot(found[1], expected[1])
            for n, most in enumerate((0.005, 0.12)):
                assert_is(found[0][n], error[n], expected[0][n], most * expected[0][n])


def compare_compressibilities(isobars):
    """From fluctuations, and from two pressures."""
    for temperature in TEMPERATURES:

        def ratio(a, b, kT=temperature * KELVIN):
            of_fluctuations = (a.var() / a.mean() + b.var() / b.mean()) / 2 / kT
            return of_fluctuations * (PRESSURES[1] - PRESSURES[0]) / np.log(a.mean() / b.mean())

        volumes = [in_blocks(isobars[temperature, pressure].volume) for pressure in PRESSURES]
        assert_is(*jackknife(ratio, *volumes), 1, 0.12)


def moments_of(volumes, pressures, grid, pressure, kT):
    """Mean and variance of the volume."""
    fit = np.polyfit(volumes - volumes.mean(), pressures, 3)
    slope = pressure - np.polyval(fit, grid - volumes.mean())
    exponent = -np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(grid))]) / kT
    density = np.exp(exponent - exponent.max())
    assert max(density[0], density[-1]) < 1e-3, "the volumes of the fit do not cover the distribution"
    mean = np.sum(density * grid) / density.sum()
    return np.array([mean, np.sum(density * (grid - mean) ** 2) / density.sum()])


def test_every_strain_of_a_free_cell_has_its_virial_theorem():
    """<V (P_ab - P)> + 2 kT = 0 for a = b, 0 otherwise: sees a stress of a wrong sign or without its momenta.

    The fluctuations of a crystal are too large to see 2 kT, which the ideal gas does.
    """
    crystal, temperature, pressure = bulk("Ar", "fcc", 5.3, cubic=True).repeat((2, 1, 1)), 20.0, 0.03 * GPA
    out = md(
        nearest(), aj.from_atoms(crystal), steps=2500, timestep=8.0, thermostat_time=200.0, cell=True,
        temperature=temperature, pressure=pressure, barostat_time=250.0, bulk_modulus=1.7 * GPA, replicas=8, every=10,
        chunk=500, skin=0.9, thermostat="csvr",
    )  # fmt: skip
    settled = slice(80, None)
    excess = (-out.stress - pressure * np.eye(3)) * out.volume[..., None, None] / (temperature * KELVIN)
    assert np.ptp(out.cell[settled, :, 0, 1]) > 0.05, "it shears"
    for a in range(3):
        for b in range(a + 1):
            mean, error = mean_and_error(in_blocks(excess[settled, :, a, b]).mean(0))
            assert_is(mean, error, -2.0 * (a == b), 25)
