"""Descent over allowed compositions: a search is told losses and gradients, and says what it wants to see next.

The step is that of Gauss and Newton where curvature is known, else that of the spectral projected gradient method, as
is the line search: E. G. Birgin, J. M. Martinez, M. Raydan, SIAM J.
Optim. 10, 1196 (2000). With the entropic projection it is mirror descent: A. Beck, M. Teboulle, Oper. Res. Lett. 31,
167 (2003), whose unconstrained step is the exponentiated gradient: J. Kivinen, M. K. Warmuth, Inf. Comput. 132, 1
(1997).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from alchemjax.tasks.constraints import LEAST, Constraints, along, nearest, nearest_by_entropy

FIRST = 0.1  # largest change of a weight in the first step
MEMORY = 5  # losses of which the largest must be undercut
DECREASE = 1e-4  # of what the slope promises
SHORTER = 0.1, 0.5  # bounds of a shorter step, of the one before
LONGEST = 1e12  # of a step, in units of the first
STEEPEST = 50.0  # exponent that a step of mirror descent may have
STIFFEST = 1e8  # ratio of what is known of the curvature to that of the metric in which steps are measured
FARTHEST = 1e3  # that a step aims outside the allowed compositions: from there the nearest of them hardly changes
CONVERGED, NOTHING_BETTER = "the composition has converged", "no composition next to it is better"
FLAT = "the slope is zero at the first composition, perhaps by symmetry; give other starts"
TOO_SMALL = "the optimiser's steps have become too small"
STILL = 3  # steps of an optimiser that move nothing, until it has ended
FLATTER = 1e-3  # times the steepest slope on the way: that of an end


class Search(NamedTuple):
    """A search under way. `weights`, `loss` and `gradient` are those of the last accepted point."""

    trial: Float[np.ndarray, "weights"]  # what is to be evaluated next
    weights: Float[np.ndarray, "weights"]
    loss: float = np.inf
    gradient: Float[np.ndarray, "weights"] | None = None
    curvature: Float[np.ndarray, "weights weights"] | None = None
    losses: tuple[float, ...] = ()
    step: float = 0.0
    direction: Float[np.ndarray, "weights"] | None = None
    part: float = 1.0  # of the direction that the trial goes along
    done: str = ""  # why it ended
    inner: tuple = ()  # of an optimiser


def start(weights: Float[np.ndarray, "weights"]) -> Search:
    """A search that has seen nothing."""
    return Search(trial=weights, weights=weights)


def advance_by_line_search(
    search: Search,
    loss: float,
    gradient,
    curvature: Float[np.ndarray, "weights weights"],
    known: bool,
    allowed: Constraints,
    tolerance: float,
    *,
    entropic: bool,
) -> Search:
    """What the search does once its trial has this loss and gradient; not `known` where there is none.

    `curvature` is what is known of the second derivatives of the loss, that of Gauss and Newton; 0 where nothing is.
    """
    if search.done:
        return search
    gradient = np.asarray(gradient, np.float64)
    lacks = "derivative" if known else "relaxed state"
    known = known and bool(np.isfinite(loss)) and bool(np.isfinite(gradient).all())
    if search.direction is None or search.gradient is None:
        if not known:
            return search._replace(done=f"the first composition has no {lacks}")
        steep = float(np.abs(along(allowed, gradient)).max())
        if not steep > 1e-12 * float(np.abs(gradient).max()):
            why = FLAT if np.linalg.matrix_rank(allowed.equal) < len(gradient) else CONVERGED
            return search._replace(
                weights=search.trial, loss=loss, gradient=gradient, losses=(loss,), curvature=curvature, done=why
            )
        step = FIRST / steep
        first = search._replace(weights=search.trial, loss=loss, gradient=gradient, losses=(loss,), step=step)
        first = first._replace(curvature=curvature)
        aimed = _aimed(first, allowed, tolerance, entropic)
        for longer in (1e2, 1e4, 1e6):  # what cannot move may have set the scale
            aimed = _aimed(first._replace(step=longer * step), allowed, tolerance, entropic) if aimed.done else aimed
        return aimed
    slope = float(search.gradient @ search.direction)
    if known and loss <= max(search.losses) + DECREASE * search.part * slope:
        moved = search.trial - search.weights
        turned = gradient - search.gradient - curvature @ moved  # the rest is not known
        log = lambda w: np.log(np.maximum(w, LEAST))
        long = moved @ (log(search.trial) - log(search.weights) if entropic else moved)
        curved, most = float(moved @ turned), LONGEST * search.step
        step = min(float(long) / curved, most) if curved > 0 else min(10 * search.step, most)
        taken = search._replace(weights=search.trial, loss=loss, gradient=gradient, step=step, curvature=curvature)
        return _aimed(taken._replace(losses=(*search.losses, loss)[-MEMORY:]), allowed, tolerance, entropic)
    rise = loss - search.loss - search.part * slope if known else np.inf
    best = -slope * search.part / (2 * rise) if rise > 0 else SHORTER[0]  # minimum of the parabola through both
    part = search.part * float(np.clip(best, *SHORTER))
    if part * np.abs(search.direction).max() < tolerance / 10:
        why = NOTHING_BETTER if known else f"compositions next to it have no {lacks}"
        return search._replace(done=why)
    return search._replace(part=part, trial=search.weights + part * search.direction)


def _aimed(search: Search, allowed: Constraints, tolerance: float, entropic: bool) -> Search:
    """With a direction to go, or done where there is none."""
    assert search.gradient is not None and search.curvature is not None
    gradient = along(allowed, search.gradient)
    step = min(search.step, STIFFEST / max(float(np.linalg.norm(search.curvature, 2)), 1 / LONGEST))
    if entropic:
        step = min(step, STEEPEST / max(float(np.abs(gradient).max()), 1 / LONGEST))
        pushed = np.maximum(search.weights, LEAST) * np.exp(-step * gradient)
        aim = nearest_by_entropy(allowed, pushed, step * search.curvature, search.weights)
    else:
        metric = np.eye(len(search.weights)) + step * search.curvature
        while np.abs(away := step * np.linalg.solve(metric, gradient)).max() > FARTHEST:
            step /= 10
            metric = np.eye(len(search.weights)) + step * search.curvature
        aim = nearest(allowed, search.weights - away, metric=metric)
    direction = aim - search.weights
    if np.abs(direction).max() < tolerance:
        return search._replace(direction=direction, done=CONVERGED)
    return search._replace(direction=direction, part=1.0, trial=aim)


def advance_by_optimiser(
    search: Search,
    loss: float,
    gradient,
    curvature,
    known: bool,
    allowed: Constraints,
    tolerance: float,
    *,
    optimiser: optax.GradientTransformation,
    sizes: Sequence[int] | None,
) -> Search:
    """The same with a step of an optimiser of optax, on logits of the groups of these `sizes`, or on the weights."""
    if search.done:
        return search
    if not (known and np.isfinite(loss) and np.isfinite(gradient).all()):
        return search._replace(done=f"a composition on its way has no {'derivative' if known else 'relaxed state'}")
    to, back = softmax(sizes, search.trial) if sizes is not None else ((lambda w: w), (lambda w: w))
    parameters, slope = jnp.asarray(to(search.trial)), jnp.asarray(gradient, float)
    if sizes is not None:
        slope = jax.vjp(back, parameters)[1](slope)[0]
    gradient = np.asarray(gradient, np.float64)
    steep = float(np.abs(along(allowed, gradient)).max())
    state, still, steepest = search.inner or (optimiser.init(parameters), 0, steep)
    steepest = max(steep, steepest)
    updates, state = optimiser.update(slope, state, parameters)
    trial = nearest(allowed, np.asarray(back(optax.apply_updates(parameters, updates)), np.float64))
    still = still + 1 if np.abs(trial - search.trial).max() < tolerance else 0
    if loss < search.loss:
        search = search._replace(weights=search.trial, loss=loss, gradient=gradient)
    done = ""
    if still >= STILL:
        ahead = nearest(allowed, search.trial - FIRST * gradient / max(steep, 1 / LONGEST)) - search.trial
        at_end = steep <= FLATTER * steepest or np.abs(ahead).max() < tolerance
        done = CONVERGED if at_end else TOO_SMALL
    return search._replace(trial=trial, inner=(state, still, steepest), done=done)


def softmax(sizes: Sequence[int], weights: Float[np.ndarray, "weights"]) -> tuple[Callable, Callable]:
    """Logits of weights, and weights of logits with the sums that the groups have."""
    ends = np.cumsum(sizes)[:-1].tolist()
    sums = [float(part.sum()) for part in np.split(weights, ends)]
    to = lambda w: jnp.log(jnp.maximum(jnp.asarray(w, float), LEAST))
    back = lambda z: jnp.concatenate([s * jax.nn.softmax(p) for s, p in zip(sums, jnp.split(z, ends), strict=True)])
    return to, back


def exponentiated_gradient(learning_rate: float, sizes: Sequence[int]) -> optax.GradientTransformation:
    """w <- w exp(-learning_rate g), scaled so that every group of these sizes keeps its sum.

    An optimiser like those of optax, for weights [..., weights]; traced.
    J. Kivinen, M. K. Warmuth, Inf. Comput. 132, 1 (1997).
    """
    ends = np.cumsum(sizes)[:-1].tolist()

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("exponentiated_gradient needs the weights; call update(gradients, state, weights)")
        split = lambda a: jnp.split(a, ends, axis=-1)
        changes = []
        for w, g in zip(split(params), split(updates), strict=True):
            scaled = w * jnp.exp(-learning_rate * (g - jnp.min(g, axis=-1, keepdims=True)))
            total = jnp.sum(scaled, axis=-1, keepdims=True)
            changes.append(scaled * jnp.sum(w, axis=-1, keepdims=True) / jnp.where(total > 0, total, 1) - w)
        return jnp.concatenate(changes, axis=-1), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
