"""Free-energy differences from works and energies, with errors; windows through pymbar. Energies in eV."""

import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import brentq
from scipy.special import logsumexp

RESAMPLES = 200
LEAST_SAMPLES = 20  # independent ones behind an error that can be relied on


class Estimate(NamedTuple):
    """A number with its uncertainty."""

    value: float
    error: float  # standard error
    samples: float  # effective number of independent samples behind it


def interval(estimate: Estimate, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval, with Student's distribution of `samples` - 1 degrees of freedom."""
    half = sure(estimate.samples, level) * estimate.error
    return estimate.value - half, estimate.value + half


def sure(samples: float, level: float = 0.95) -> float:
    """Half the width of that interval, in standard errors."""
    return float(stats.t.ppf((1 + level) / 2, max(samples - 1, 1)))


@contextmanager
def _pymbar():
    """pymbar; it says much when it is imported, leaves JAX in another mode, and needs JAX's usual promotions."""
    logger, mode = logging.getLogger("pymbar"), jax.config.read("jax_enable_x64")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
        ):
            import pymbar

            yield pymbar
    finally:
        logger.setLevel(level)
        jax.config.update("jax_enable_x64", mode)


# --- switches ---------------------------------------------------------------------------------------------------------


def jarzynski(works, kT: float) -> float:
    """exp(-dF/kT) = <exp(-W/kT)>: C. Jarzynski, Phys. Rev. Lett. 78, 2690 (1997)."""
    works = np.asarray(works, np.float64)
    return float(works.min() - kT * np.log(np.mean(np.exp(-(works - works.min()) / kT))))


def second_cumulant(works, kT: float) -> float:
    """dF = <W> - var W / 2kT, exact for a normal distribution of works."""
    return float(np.mean(works) - np.var(works, ddof=1) / (2 * kT))


def crooks_gaussian(forward, backward) -> float:
    """Where normal distributions of forward works and of negative backward works intersect, between their means.

    G. E. Crooks, Phys. Rev. E 60, 2721 (1999); M. Goette, H. Grubmueller, J. Comput. Chem. 30, 447 (2009), eq. (9).
    """
    one, two = np.mean(forward), -np.mean(backward)
    a, b = np.var(forward, ddof=1), np.var(backward, ddof=1)
    middle = (one + two) / 2
    if not a > 0 or not b > 0 or abs(a - b) < 1e-9 * (a + b):
        return float(middle)
    root = np.sqrt(max((one - two) ** 2 / (a * b) + (1 / a - 1 / b) * np.log(b / a), 0))
    crossings = [(one / a - two / b + sign * root) / (1 / a - 1 / b) for sign in (1, -1)]
    return float(min(crossings, key=lambda x: abs(x - middle)))


def bar(forward, backward, kT: float) -> float:
    """Acceptance ratio of works: C. H. Bennett, J. Comput. Phys. 22, 245 (1976).

    sum_f 1/(1 + exp(M + W_f - dF)) = sum_b 1/(1 + exp(-M + W_b + dF)), M = ln(n_f / n_b), in units of kT: M. R. Shirts,
    E. Bair, G. Hooker, V. S. Pande, Phys. Rev. Lett. 91, 140601 (2003), eq. (8). Of the logarithms, which have their
    root however far apart the works are, where pymbar's solver gives up.
    """
    forward, backward = (np.asarray(works, np.float64) / kT for works in (forward, backward))
    shift = np.log(len(forward) / len(backward))
    accepted = lambda x: float(logsumexp(-np.logaddexp(0, x)))
    unbalance = lambda x: accepted(shift + forward - x) - accepted(-shift + backward + x)
    every = np.concatenate([forward, -backward])
    margin = 2 * abs(shift) + 10
    return kT * float(brentq(unbalance, every.min() - margin, every.max() + margin, xtol=1e-10))


def overlap(forward, backward, difference: float, kT: float) -> float:
    """Overlap of the distributions of works: 1 if they are one, 0 if they have nothing in common.

    2 <f(W - dF)>, f the Fermi function, over the works of both directions; Bennett's ratio is made of these numbers.
    """
    x = np.concatenate([np.asarray(forward) - difference, np.asarray(backward) + difference]) / kT
    return float(2 * np.mean(1 / (1 + np.exp(np.clip(x, -500, 500)))))


def bootstrap(estimate: Callable, *columns, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """An estimate from columns [replicas, ...] of replicas that are independent, with its error over resamples."""
    number = len(columns[0])
    value = float(estimate(*columns))
    if number < 2:
        return Estimate(value, np.inf, number)
    rng = np.random.default_rng(seed)
    drawn = [estimate(*(c[chosen] for c in columns)) for chosen in rng.integers(number, size=(resamples, number))]
    return Estimate(value, float(np.std(drawn, ddof=1)) * np.sqrt(number / (number - 1)), number)


# --- windows ----------------------------------------------------------------------------------------------------------


def inefficiency(series) -> float:
    """Statistical inefficiency of a series: how many samples are worth one."""
    series = np.asarray(series, np.float64)
    if len(series) < 3 or not np.ptp(series) > 0:
        return 1.0
    with _pymbar() as pymbar:
        return float(pymbar.timeseries.statistical_inefficiency(series))


def mean_of(series: Float[np.ndarray, "samples"]) -> Estimate:
    """Mean of a correlated series."""
    samples = len(series) / inefficiency(series)
    error = np.std(series, ddof=1) / np.sqrt(samples) if samples > 1 else np.inf
    return Estimate(float(np.mean(series)), float(error), samples)


def integral(weights, derivatives: list[Estimate]) -> Estimate:
    """Thermodynamic integration: the sum of weights times dE/dlambda of windows that are independent."""
    weights = np.asarray(weights)
    errors = weights * np.array([d.error for d in derivatives])
    total = float(np.sum(weights * np.array([d.value for d in derivatives])))
    return Estimate(total, float(np.sqrt(np.sum(errors**2))), min(d.samples for d in derivatives))


class Overlapping(NamedTuple):
    """What all windows say together."""

    profile: list[Estimate]  # of every state from the first, with the effective number of samples for it [eV]
    overlap: float  # least of neighbouring windows: the chance that a sample of one is one of the other


def mbar(energies: list, kT: float) -> Overlapping:
    """Multistate Bennett acceptance ratio: M. R. Shirts, J. D. Chodera, J. Chem. Phys. 129, 124105 (2008).

    `energies`: for every state its independent samples' energies [samples, states] in all states [eV]; none for a state
    that is not sampled.
    """
    counts = np.array([len(e) for e in energies])
    with _pymbar() as pymbar:
        found = pymbar.MBAR(np.concatenate(energies).T / kT, counts, solver_protocol="robust")
        free = found.compute_free_energy_differences()
        matrix = found.compute_overlap()["matrix"]
        effective = found.compute_effective_sample_number()
    sampled = np.flatnonzero(counts)
    columns = (kT * np.asarray(free["Delta_f"][0]), kT * np.asarray(free["dDelta_f"][0]), effective)
    profile = [Estimate(*map(float, row)) for row in zip(*columns, strict=True)]
    least = float(matrix[sampled[:-1], sampled[1:]].min()) if len(sampled) > 1 else 1.0
    return Overlapping(profile, least)
