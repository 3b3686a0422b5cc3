"""Paths between two Hamiltonians: composition, scale of the potential and springs as functions of lambda."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import entr

from alchemjax.system.system import System, checked_weights
from alchemjax.units import KELVIN

POINTS = 200  # of a schedule, linear in between


class Path(NamedTuple):
    """From lambda = 0 to 1, linear between points: s(lambda) E(x, w(lambda)) + springs k(lambda)."""

    where: Float[np.ndarray, "points"]  # lambda
    weights: Float[np.ndarray, "points weights"]
    scale: Float[np.ndarray, "points"]  # s
    stiffness: Float[np.ndarray, "points sites"]  # k [eV/A^2]
    share: Float[np.ndarray, "sites"]  # of sites in the displacement that springs leave free (`tasks/springs.py`)


def composition_path(system: System, start, end, *, through=()) -> Path:
    """From one composition to another, straight or through others at equal distances in lambda.

    Errors: ValueError for wrong weights, or two ends that are one.
    """
    weights = np.stack([checked_weights(system, w) for w in (start, *through, end)])
    if (weights[0] == weights[-1]).all() and len(weights) == 2:
        raise ValueError(f"both ends of the path have the composition {weights[0].tolist()}; give two different ones")
    points, sites = len(weights), len(system.structure.positions)
    return Path(
        np.linspace(0, 1, points), weights, np.ones(points), np.zeros((points, sites)), np.full(sites, 1 / sites)
    )


def einstein_path(system: System, stiffness, weights=None) -> Path:
    """From the potential to springs alone, about their own centre.

    D. Frenkel, A. J. C. Ladd, J. Chem. Phys. 81, 3188 (1984). Errors: ValueError for springs that are not positive.
    """
    stiffness = _positive(system, stiffness)
    w = checked_weights(system, system.weights if weights is None else weights)
    ends = np.stack([np.zeros_like(stiffness), stiffness])
    return Path(np.array([0.0, 1]), np.stack([w, w]), np.array([1.0, 0]), ends, stiffness / stiffness.sum())


def vacancy_path(system: System, stiffness: float, group: int, weights=None) -> Path:
    """The only site of a group loses all its species, while a spring [eV/A^2] ties it to the others.

    A ghost that nobody sees remains, of known free energy. Errors: ValueError for a group with more than one site.
    """
    groups = system.sites.groups
    if not 0 <= group < len(groups):
        raise ValueError(f"group {group} does not exist; the system has {len(groups)}")
    sites = groups[group].sites
    if len(sites) != 1:
        raise ValueError(
            f"group '{groups[group].name}' has {len(sites)} sites, but a spring holds one; make a group of one site"
        )
    full = checked_weights(system, system.weights if weights is None else weights)
    before = sum(len(g.species) for g in groups[:group])
    empty = full.copy()
    empty[before : before + len(groups[group].species)] = 0
    tied = np.zeros(len(system.structure.positions))
    tied[sites[0]] = _positive(system, stiffness)[sites[0]]
    others = tied == 0
    stiff = np.stack([np.zeros_like(tied), tied])
    return Path(np.array([0.0, 1]), np.stack([full, empty]), np.ones(2), stiff, others / others.sum())


def _positive(system: System, stiffness) -> np.ndarray:
    try:
        values = np.broadcast_to(np.asarray(stiffness, np.float64), (len(system.structure.positions),))
    except (TypeError, ValueError):
        values = np.zeros(1)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(
            f"stiffness = {stiffness!r:.80} must be positive, one number [eV/A^2] for all sites or one for each of "
            f"{len(system.structure.positions)}"
        )
    return values


def mixing_entropy(system: System, weights=None) -> float:
    """-k_B sum_ik w_ik ln w_ik over sites i and their species k, vacancies among them [eV/K]: of random occupations.

    NaN where weights are no probabilities (negative, or more than one on a site: coupling `published`).
    """
    weights = checked_weights(system, system.weights if weights is None else weights)
    each = np.append(weights, 1.0)[system.sites.node_weight]
    vacant = 1 - np.bincount(system.sites.node_site, each, len(system.structure.positions))
    chances = np.append(each, vacant)
    return float(KELVIN * np.sum(entr(np.maximum(chances, 0)))) if (chances > -1e-6).all() else np.nan


def along(path: Path, at) -> dict[str, np.ndarray]:
    """Weights, scale and stiffness at values of lambda."""
    at = np.asarray(at, np.float64)
    columns = lambda table: np.stack([np.interp(at, path.where, column) for column in table.T], axis=-1)
    table = lambda values: columns(values) if values.shape[1] else np.zeros((*at.shape, 0))
    return {
        "weights": table(path.weights),
        "scale": np.interp(at, path.where, path.scale),
        "stiffness": table(path.stiffness),
    }


def derivative(
    path: Path, at: Float[np.ndarray, "samples replicas"], recorded
) -> Float[np.ndarray, "samples replicas"]:
    """dE/dlambda [eV] at lambdas where something was recorded: an object with the gradients of a `Trajectory`."""
    k = np.clip(np.searchsorted(path.where, at, side="right"), 1, len(path.where) - 1)
    width = path.where[k] - path.where[k - 1]
    slope = lambda table: (table[k] - table[k - 1]) / width.reshape(*width.shape, *[1] * (table.ndim - 1))
    return (
        np.sum(recorded.weights_gradient * slope(path.weights), axis=-1)
        + recorded.scale_gradient * slope(path.scale)
        + np.sum(recorded.stiffness_gradient * slope(path.stiffness), axis=-1)
    )


# --- in time ----------------------------------------------------------------------------------------------------------


def polynomial(x):
    """lambda at a fraction x of a switch; four derivatives vanish at both ends (Nam et al. 2025, Methods)."""
    return x**5 * (70 * x**4 - 315 * x**3 + 540 * x**2 - 420 * x + 126)


SCHEDULES = {"polynomial": polynomial, "linear": lambda x: x}


def schedule_of(schedule: str | Callable) -> Callable:
    """lambda(x). Errors: ValueError for an unknown name, or a function that does not go from 0 to 1."""
    if not callable(schedule):
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule '{schedule}' is unknown; use {', '.join(SCHEDULES)} or a function of 0..1")
        return SCHEDULES[schedule]
    values = np.array([float(schedule(x)) for x in np.linspace(0, 1, POINTS + 1)])
    if not (
        abs(values[0]) < 1e-9 and abs(values[-1] - 1) < 1e-9 and (values > -1e-9).all() and (values < 1 + 1e-9).all()
    ):
        raise ValueError("a schedule must go from 0 at 0 to 1 at 1 and stay in between; this one does not")
    return schedule


def in_time(
    path: Path, schedule: str | Callable, stretches: list[tuple[float, float, float]], points: int = POINTS
) -> dict[str, list]:
    """What `make_plan` takes, (time, value) of weights, scale and stiffness, and the same of lambda.

    `stretches`: (duration in fs, lambda at its start, lambda at its end), one after another. The way back is that there
    in reversed time, whatever the schedule. `points` of a stretch, at most as many as it has steps.
    """
    shape = schedule_of(schedule)
    times, lambdas, now = [0.0], [stretches[0][1]], 0.0
    for duration, start, end in stretches:
        parts = np.linspace(0, 1, points + 1)[1:] if start != end else np.ones(1)
        times += [now + duration * x for x in parts]
        if start <= end:
            lambdas += [start + (end - start) * float(shape(x)) for x in parts]
        else:
            lambdas += [end + (start - end) * float(shape(1 - x)) for x in parts]
        now += duration
    lambdas = np.clip(lambdas, 0, 1)
    values = {"lambda": lambdas} | along(path, lambdas)
    return {name: list(zip(times, column, strict=True)) for name, column in values.items()}
