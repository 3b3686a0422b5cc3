"""What is wanted of properties, and how far a material is from it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from alchemjax.tasks.constraints import NUMBER
from alchemjax.tasks.properties import PROPERTIES, checked_names


class Goal(NamedTuple):
    """What is wanted of a property."""

    name: str
    sign: str  # "=", "<=", ">=", "min" or "max"
    value: float  # in the property's unit; 0 for min and max


def parse_goals(target: Mapping | Iterable[str] | str) -> tuple[Goal, ...]:
    """Goals of {"a": 5.45, "energy": "min", "bulk_modulus": ">=150"} or of texts like "a=5.45".

    Errors: ValueError for what is not understood.
    """
    if isinstance(target, Mapping):
        texts = [f"{name}{v if str(v).strip()[:1] in '<>' else f'={v}'}" for name, v in target.items()]
    else:
        texts = [target] if isinstance(target, str) else list(target)
    goals = []
    for text in texts:
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


def goals_loss(goals: Sequence[Goal], values: Mapping) -> Float[Array, ""]:
    """Half the sum of squared misses, in tolerances of the properties; what is to be small or large counts itself."""
    loss = jnp.zeros(())
    for goal in goals:
        miss = (values[goal.name] - goal.value) / PROPERTIES[goal.name].tolerance
        miss = jnp.minimum(miss, 0) if goal.sign == ">=" else jnp.maximum(miss, 0) if goal.sign == "<=" else miss
        loss = loss + (miss if goal.sign == "min" else -miss if goal.sign == "max" else miss**2 / 2)
    return loss


def misses(goals: Sequence[Goal], values: Mapping) -> list[float]:
    """By how much every target is missed, in tolerances of the properties; what is to be small or large is not."""
    signs = {"=": abs, ">=": lambda x: max(-x, 0.0), "<=": lambda x: max(x, 0.0)}
    none = lambda x: 0.0
    return [signs.get(g.sign, none)((values[g.name] - g.value) / PROPERTIES[g.name].tolerance) for g in goals]
