"""Estimators of free energies: exact answers, and intervals that contain the truth as often as they say."""

import jax
import numpy as np
import pytest
from error_bars import SIGMAS, assert_is
from scipy import stats

from alchemjax.tasks.free_energy import estimators


def normal_works(rng, number, difference=1.3, spread=1.0):
    """Works in kT of switches whose forward works are normal: the backward ones have the same spread (Crooks)."""
    lost = spread**2 / 2
    return rng.normal(difference + lost, spread, number), rng.normal(lost - difference, spread, number)


ESTIMATES = {
    "bar": lambda f, b: estimators.bar(f, b, 1.0),
    "crooks_gaussian": estimators.crooks_gaussian,
    "jarzynski": lambda f, b: estimators.jarzynski(f, 1.0),
    "cumulant": lambda f, b: estimators.second_cumulant(f, 1.0),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimators_find_the_difference_of_normal_works(name):
    works = normal_works(np.random.default_rng(0), 400)
    found = estimators.bootstrap(ESTIMATES[name], *works)
    assert_is(found, 1.3, 0.1)


def test_the_acceptance_ratio_is_that_of_pymbar_and_has_a_root_however_far_apart_works_are():
    rng = np.random.default_rng(0)
    with estimators._pymbar() as pymbar:
        for n, m in ((6, 6), (3, 50), (40, 2)):
            forward, backward = rng.normal(2, 2, n), rng.normal(0, 2, m)
            expected = pymbar.bar(forward, backward, compute_uncertainty=False)["Delta_f"]
            assert estimators.bar(0.3 * forward, 0.3 * backward, 0.3) == pytest.approx(0.3 * expected, abs=1e-8)
    assert estimators.bar([5000.0, 5010.0], [-90.0, -100.0], 1.0) == pytest.approx(2550, abs=10)
    assert estimators.bar([1e5], [1e5 + 4], 1.0) == pytest.approx(-2, abs=1e-6)


@pytest.mark.parametrize("name", ["bar", "crooks_gaussian", "cumulant"])
def test_intervals_contain_the_truth_as_often_as_they_say(name):
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        low, high = estimators.interval(estimators.bootstrap(ESTIMATES[name], *normal_works(rng, 12), resamples=50))
        inside += low < 1.3 < high
    assert 180 <= inside <= 198, f"{inside} of 200"


def correlated(rng, samples, memory):
    """A normal series of mean 0 and variance 1."""
    series = rng.normal(size=samples)
    for k in range(1, samples):
        series[k] = memory * series[k - 1] + (1 - memory**2) ** 0.5 * series[k]
    return series


def windows_of_springs(rng):
    """Independent energies, in kT, of oscillators whose springs grow from 1 to 3, in three windows; and the slopes."""
    springs = np.array([1.0, 2.0, 3.0])
    squares = rng.chisquare(2, (60, 3)) / springs / 2
    return [np.outer(squares[:, k], springs) for k in range(3)], [estimators.mean_of(2 * s) for s in squares.T]


# Simpson's rule for int 2 / (1 + 2 x) dx
COVERED = {
    "mean": (lambda rng: estimators.mean_of(correlated(rng, 1000, 0.7)), 0.0),
    "windows": (lambda rng: estimators.mbar(windows_of_springs(rng)[0], 1.0).profile[-1], np.log(3)),
    "integral": (
        lambda rng: estimators.integral([1 / 6, 2 / 3, 1 / 6], windows_of_springs(rng)[1]),
        (2 + 4 + 2 / 3) / 6,
    ),
}


@pytest.mark.parametrize("name", COVERED)
def test_intervals_of_runs_at_equilibrium_contain_the_truth_as_often_as_they_say(name):
    estimate, truth = COVERED[name]
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        low, high = estimators.interval(estimate(rng))
        inside += low < truth < high
    assert 180 <= inside <= 198, f"{inside} of 200"


def test_the_works_of_a_dragged_oscillator_have_their_exact_distribution_and_difference():
    """A spring is dragged by s at constant speed v through friction (overdamped): <W> and its variance are known.

    O. Mazonka, C. Jarzynski, cond-mat/9912121: <W> = g v^2 (t - (1 - exp(-t / r)) r), var W = 2 kT <W>, r = g / k.
    """
    k, friction, kT, speed, steps, dt = 1.5, 1.0, 0.7, 0.8, 2000, 1e-3
    rng, number = np.random.default_rng(0), 4000
    x, work, keep = rng.normal(0, np.sqrt(kT / k), number), np.zeros(number), np.exp(-k * dt / friction)
    for step in range(steps):
        before, after = speed * step * dt, speed * (step + 1) * dt
        work += k / 2 * ((x - after) ** 2 - (x - before) ** 2)
        x = after + keep * (x - after) + np.sqrt(kT / k * (1 - keep**2)) * rng.normal(size=number)
    time, memory = steps * dt, friction / k
    mean = friction * speed**2 * (time - memory * (1 - np.exp(-time / memory)))
    assert stats.kstest(work, stats.norm(mean, np.sqrt(2 * kT * mean)).cdf).pvalue > 1e-3
    assert stats.kstest(work, stats.norm(mean, np.sqrt(kT * mean)).cdf).pvalue < 1e-6
    half = number // 2  # by symmetry, the way back has the same works
    for name in ("jarzynski", "bar"):
        of = {"jarzynski": lambda f, b: estimators.jarzynski(f, kT), "bar": lambda f, b: estimators.bar(f, b, kT)}
        assert_is(estimators.bootstrap(of[name], work[:half], work[half:]), 0.0, 0.05)


def test_two_windows_of_normal_distributions_give_the_difference_of_their_springs():
    rng, springs, kT = np.random.default_rng(0), np.array([1.0, 3.0]), 0.5
    energies = [springs / 2 * rng.normal(0, np.sqrt(kT / k), 4000)[:, None] ** 2 for k in springs]
    found = estimators.mbar(energies, kT)
    assert_is(found.profile[-1], kT / 2 * np.log(3), 0.01)
    assert found.profile[0].value == found.profile[0].error == 0
    assert 0.2 < found.overlap < 0.5
    apart = [springs * [1, 300] / 2 * rng.normal(0, np.sqrt(kT / k), 4000)[:, None] ** 2 for k in springs * [1, 300]]
    assert estimators.mbar(apart, kT).overlap < 0.5 * found.overlap


def test_pymbar_leaves_the_mode_of_jax_as_it_was_and_says_nothing(capfd):
    mode = jax.config.read("jax_enable_x64")
    try:
        for wanted in (True, False):
            jax.config.update("jax_enable_x64", wanted)
            estimators.bar(np.array([1.0, 1.2]), np.array([-0.9, -1.1]), 1.0)
            estimators.mbar([np.random.default_rng(0).normal(size=(50, 2))] * 2, 1.0)
            assert jax.config.read("jax_enable_x64") is wanted
    finally:
        jax.config.update("jax_enable_x64", mode)
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_means_of_correlated_series_have_larger_errors():
    rng = np.random.default_rng(0)
    noise, series = rng.normal(size=20000), np.zeros(20000)
    for k in range(1, len(noise)):
        series[k] = 0.9 * series[k - 1] + noise[k]
    found = estimators.mean_of(series)
    assert found.samples == pytest.approx(20000 / 19, rel=0.3)  # (1 + rho) / (1 - rho)
    assert abs(found.value) < SIGMAS * found.error
