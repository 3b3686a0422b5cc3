"""What is wanted of properties, and how far a material is from it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alchemjax.tasks.constraints import NUMBER
from alchemjax.tasks.properties import PROPERTIES, checked_names

LIGHT = 0.1  # tolerances


class Goal(NamedTuple):
    """What is wanted of a property."""

    name: str
    sign: str  # "=", "<=", ">=", "min" or "max"
    value: float  # in the property's unit; 0 for min and max


def parse_goals(target: Mapping | Iterable[str | Goal] | str) -> tuple[Goal, ...]:
    """Goals of {"a": 5.45, "energy": "min", "bulk_modulus": ">=150"} or of texts like "a=5.45"; goals stay.

    Errors: ValueError for what is not understood.
    """
    if isinstance(target, Mapping):
        texts = [f"{name}{v if str(v).strip()[:1] in '<>' else f'={v}'}" for name, v in target.items()]
    else:
        texts = [target] if isinstance(target, str) else list(target)
    goals = []
    for text in texts:
        if isinstance(text, Goal):
            goals.append(text)
            continue
        parts = re.fullmatch(rf"\s*(\w+)\s*(?:(=|<=|>=)\s*({NUMBER})|=\s*(min|max))\s*", str(text))
        if parts is None:
            raise ValueError(
                f"target '{text}' is not understood; give one like a=5.45, 'bulk_modulus>=150' or energy=min"
            )
        name, sign, number, extreme = parts.groups()
        goals.append(Goal(name, extreme or sign, float(number or 0)))
    if not goals:
        raise ValueError("there is no target; give one like a=5.45")
    checked_names(goal.name for goal in goals)
    return tuple(goals)


def goals_loss(
    goals: Sequence[Goal],
    values: Float[np.ndarray, "goals"],
    jacobian: Float[np.ndarray, "goals weights"],
    share: float = 1.0,
):
    """Loss, gradient and Gauss-Newton curvature of what the goals' properties are.

    The loss is half the sum of squared misses, in tolerances of the properties; what is to be small or large counts
    itself, times `share`.
    """
    loss, gradient, curvature = 0.0, np.zeros(jacobian.shape[1]), np.zeros((jacobian.shape[1],) * 2)
    for goal, value, slope in zip(goals, values.tolist(), jacobian, strict=True):
        unit = PROPERTIES[goal.name].tolerance
        miss, slope = (value - goal.value) / unit, slope / unit
        if not np.isfinite(miss):
            loss = np.nan  # also where a bound would not count
        if goal.sign in ("min", "max"):
            sign = share if goal.sign == "min" else -share
            loss, gradient = loss + sign * miss, gradient + sign * slope
        elif goal.sign == "=" or (miss < 0) == (goal.sign == ">="):
            loss, gradient, curvature = loss + miss**2 / 2, gradient + miss * slope, curvature + np.outer(slope, slope)
    return loss, gradient, curvature


def share_of_extremes(
    goals: Sequence[Goal], jacobians: Float[np.ndarray, "starts goals weights"], along: Callable
) -> float:
    """What is to be small or large should count so much that it makes other targets miss by `LIGHT` tolerances.

    `along` leaves of a slope what composition may follow. At an optimum with one other target the miss is the ratio of
    both slopes.
    """
    if not goals:
        return 1.0
    units = np.array([PROPERTIES[goal.name].tolerance for goal in goals])
    extreme, most = np.array([goal.sign in ("min", "max") for goal in goals], bool), 0.0
    for jacobian in jacobians[np.isfinite(jacobians).all((1, 2))]:
        slopes = np.array([along(row) for row in jacobian / units[:, None]])
        squares = (slopes[~extreme] ** 2).sum(1)
        ratios = np.abs(slopes[extreme] @ slopes[~extreme].T) / np.where(squares > 0, squares, np.inf)
        most = max(most, ratios.max(initial=0))
    return LIGHT / most if most > LIGHT else 1.0


def misses(goals: Sequence[Goal], values: Mapping) -> list[float]:
    """By how much every target is missed, in tolerances of the properties; what is to be small or large is not."""
    signs = {"=": abs, ">=": lambda x: max(-x, 0.0), "<=": lambda x: max(x, 0.0)}
    none = lambda x: 0.0
    return [signs.get(g.sign, none)((values[g.name] - g.value) / PROPERTIES[g.name].tolerance) for g in goals]
