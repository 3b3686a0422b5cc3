"""The composition whose relaxed material has wanted properties, by exact gradients, from several starts at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from alchemjax.calculate import check_kind, precision, with_fluctuations
from alchemjax.devices import MEMBERS, mesh_for, spread
from alchemjax.model.load import Potential
from alchemjax.system.sites import by_group
from alchemjax.system.structure import Structure, wrapped
from alchemjax.system.system import System, checked_alpha, checked_weights
from alchemjax.tasks.constraints import Constraints, along, make_constraints, nearest, random_weights
from alchemjax.tasks.descent import (
    CONVERGED,
    FLAT,
    NOTHING_BETTER,
    TOO_SMALL,
    Search,
    advance_by_line_search,
    advance_by_optimiser,
    start,
)
from alchemjax.tasks.elasticity import Elasticity, check_crystal, elasticity_at
from alchemjax.tasks.equilibrium import REACH, Equilibrium, Kind, Problem, at_rest, described, prepared, scale
from alchemjax.tasks.fire import initial_state
from alchemjax.tasks.freedom import keeps_symmetry
from alchemjax.tasks.goals import goals_loss, misses, parse_goals, share_of_extremes
from alchemjax.tasks.properties import PROPERTIES, Facts, checked_names, facts_of, properties_of
from alchemjax.tasks.relax import Lists, check_limit

LISTS = 20  # new lists of neighbours until a state is given up
FINE = 0.1  # of the tolerance of a property: where a target is hit
INSIDE = 0.02  # of the way to the centre: where optimisers of optax start, for on faces logits do not move
OPTIMISERS = ("projected", "mirror")
PARAMETERS = ("softmax", "weights")
HIT = "all targets are hit"
USED_UP = "the evaluations are used up"
ENDS = CONVERGED, NOTHING_BETTER, FLAT, TOO_SMALL, HIT, USED_UP  # of searches that did not fail


class Evaluation(NamedTuple):
    """What was calculated at one composition of every start."""

    weights: Float[np.ndarray, "starts weights"]
    loss: Float[np.ndarray, "starts"]
    share: Float[np.ndarray, "starts"]  # of what is to be small or large, in the loss
    gradient: Float[np.ndarray, "starts weights"]
    curvature: Float[np.ndarray, "starts weights weights"]  # of the loss, as far as it is known
    values: Float[np.ndarray, "starts properties"]
    energy: Float[np.ndarray, "starts"]  # eV
    positions: Float[np.ndarray, "starts sites 3"]  # A
    cell: Float[np.ndarray, "starts 3 3"]  # A
    reference: Float[np.ndarray, "starts sites 3"]  # where the next relaxation starts
    strain: Float[np.ndarray, "starts 6"]
    converged: Bool[np.ndarray, "starts"]
    max_force: Float[np.ndarray, "starts"]  # eV/A
    max_stress: Float[np.ndarray, "starts"]  # eV/A^3


class Optimum(NamedTuple):
    """The best composition that was found, and how."""

    weights: Float[np.ndarray, "weights"]
    values: dict[str, float]  # properties, in the units of `PROPERTIES`
    loss: float
    reached: bool | None  # whether all targets are hit within the tolerances of their properties; None without such
    converged: bool  # whether its search ended because nothing near is better, or the targets are hit
    message: str
    structure: Structure  # relaxed
    energy: float  # eV
    ends: Float[np.ndarray, "starts weights"]  # best composition of every start
    losses: Float[np.ndarray, "starts"]
    reasons: tuple[str, ...]  # why each search ended
    path: tuple[Evaluation, ...]
    facts: Facts  # what properties need to know besides a state


def optimise(
    potential: Potential,
    system: System,
    target,
    *,
    start=None,
    starts: int | None = None,
    conditions: Iterable[str] = (),
    charges: Mapping[str, float] | None = None,
    optimiser: str | optax.GradientTransformation = "projected",
    parameters: str = "softmax",
    properties: Iterable[str] = (),
    elastic: bool = False,
    evaluations: int = 60,
    tolerance: float = 1e-4,
    seed: int = 0,
    alpha=None,
    positions: bool = True,
    cell=True,
    pressure: float = 0.0,
    fixed_sites=(),
    fixed_axes=(),
    force_tolerance: float = 0.005,
    stress_tolerance: float = 5e-6,
    max_steps: int = 500,
    fluctuations: str = "none",
    supercell=None,
    recorded: Sequence[Evaluation] = (),
    on_evaluation: Callable[[int, Evaluation, list[Search]], None] | None = None,
) -> Optimum:
    """Minimise a loss of the relaxed material over the allowed compositions.

    `target`: {"a": 5.45, "bulk_modulus": ">=150", "energy": "min"} of the names and units of `PROPERTIES`, whose loss
    is half the sum of squared misses in units of their tolerances, and of what is to be small or large so little that
    the others are hardly missed for it; or a function of an `Equilibrium` (with `elastic`
    of an `Elasticity`) to a number that JAX differentiates. `properties`: names of what else is to be recorded.
    `start`: the composition of the first search, or a list of those of the first ones; by default the system's own.
    `starts`: number of searches, the others from random allowed compositions; 4, or as many as `start` has. All are
    relaxed side by side, in one program. `conditions` and `charges`: see `make_constraints`; every group keeps its sum.
    `optimiser`: "projected" or "mirror" with a line search, or an optimiser of optax, which moves logits
    (`parameters="softmax"`) or "weights". A search ends when its next step would change no weight by `tolerance`, when
    all targets are hit, or after `evaluations`. The other options are those of `relax`.
    `recorded`: evaluations of the same call, interrupted; they are not done again. `on_evaluation` is called with the
    number of every evaluation that is new, the evaluation, and the searches.

    Errors: ValueError for targets, conditions and options that are not understood, and as in `relaxed`.
    """
    check_kind(potential, Potential)
    check_kind(system, System)
    if not system.sites.groups:
        raise ValueError("no site is mixed: there is no composition to optimise; name the species of mixed sites")
    for name, value in {"evaluations": evaluations, "tolerance": tolerance}.items():
        check_limit("batch" if name == "evaluations" else name, value, f"{name} = {value!r}")
    goals = () if callable(target) else parse_goals(target)
    names = tuple(dict.fromkeys([*(goal.name for goal in goals), *checked_names(properties)]))
    elastic = elastic or any(PROPERTIES[name].elastic for name in names)
    if elastic and (cell is not True or not positions or len(fixed_sites) or len(fixed_axes)):
        raise ValueError("elastic constants are those of a crystal relaxed in positions and cell; free all of them")
    if elastic:
        check_crystal(system)
    own = checked_weights(system)
    allowed = make_constraints(system.sites, own, conditions, charges)
    if allowed.emptied and "mixing_energy" in names:
        raise ValueError("a mixing energy needs full sites, but a condition names vacancies; leave one of both out")
    if allowed.emptied and not isinstance(optimiser, str) and parameters == "softmax":
        raise ValueError("logits keep the sums of groups, but a condition names vacancies; use parameters='weights'")
    begun = _starts(system, allowed, own if start is None else start, starts, seed)
    if not isinstance(optimiser, str):
        centres = lambda w: np.concatenate([np.full(len(p), p.mean()) for p in by_group(system.sites, w)])
        begun = np.array([nearest(allowed, w + INSIDE * (centres(w) - w)) for w in begun])
    advance = _advance(system, allowed, tolerance, optimiser, parameters)
    free = {"positions": positions, "cell": cell, "fixed_sites": fixed_sites, "fixed_axes": fixed_axes}
    symmetric = keeps_symmetry(cell, fixed_sites, fixed_axes) and not elastic
    system = with_fluctuations(potential, system, fluctuations, supercell, symmetric=symmetric)
    tight = {"force_tolerance": force_tolerance, "stress_tolerance": stress_tolerance, "max_steps": max_steps}
    none = 0.0 if system.coupling == "correlated" else None  # order of end members
    ordinary = system._replace(fluctuations=None)
    facts = facts_of(potential, ordinary, names, alpha=none, pressure=pressure, **free, **tight)
    limits = {"force": force_tolerance, "stress": stress_tolerance, "steps": max_steps, "pressure": pressure}
    judge = Judge(names, tuple(goal.name for goal in goals), target if callable(target) else None, elastic)
    evaluate = _evaluator(potential, system, alpha, free, limits, facts, judge, goals, allowed, len(begun))
    searches, path = _searched(evaluate, advance, goals, names, begun, evaluations, recorded, on_evaluation)
    return _optimum(system, goals, facts, names, searches, path)


def _searched(evaluate, advance, goals, names, begun, evaluations: int, recorded, on_evaluation):
    """All searches, and all evaluations in turn."""
    searches, path = [start(weights) for weights in begun], []
    while len(path) < evaluations and not all(search.done for search in searches):
        if len(path) < len(recorded):
            found = recorded[len(path)]
            if not np.allclose(found.weights, [search.trial for search in searches], rtol=0, atol=1e-9):
                recorded = recorded[: len(path)]  # the rest is of another machine
                continue
        else:
            found = evaluate(np.array([search.trial for search in searches]), path[-1] if path else None)
        path.append(found)
        for k, search in enumerate(searches):
            seen = float(found.loss[k]), found.gradient[k], found.curvature[k], bool(found.converged[k])
            try:
                told = advance(search, *seen)
            except ValueError as error:  # the others go on
                told = search._replace(done=str(error))
            searches[k] = _stopped_at_goals(goals, names, told, found, k)
        if len(path) > len(recorded) and on_evaluation is not None:
            on_evaluation(len(path) - 1, found, searches)
    return searches, path


def _starts(
    system: System, allowed: Constraints, start: Any, starts: int | None, seed: int
) -> Float[np.ndarray, "starts weights"]:
    if not len(start):
        raise ValueError("start holds no composition; leave it out, or give one")
    one = isinstance(start, Mapping) or not any(isinstance(part, Mapping) or np.ndim(part) for part in start)
    given = [checked_weights(system, weights) for weights in ([start] if one else start)]
    number = (4 if one else len(given)) if starts is None else starts
    check_limit("batch", number, f"starts = {number!r}")
    if number < len(given):
        raise ValueError(f"starts = {number}, but start has {len(given)} compositions; leave starts out")
    others = random_weights(allowed, int(number) - len(given), np.random.default_rng(seed))
    return np.array([*(nearest(allowed, weights) for weights in given), *others])


def _advance(system: System, allowed: Constraints, tolerance: float, optimiser, parameters: str) -> Callable:
    """How a search goes on."""
    sizes = [len(group.species) for group in system.sites.groups]
    if isinstance(optimiser, str):
        if optimiser not in OPTIMISERS:
            raise ValueError(
                f"optimiser = '{optimiser}' is not understood; use {', '.join(OPTIMISERS)} or an optimiser of optax"
            )
        how = {"allowed": allowed, "tolerance": tolerance, "entropic": optimiser == "mirror"}
        return partial(advance_by_line_search, **how)
    if not isinstance(optimiser, optax.GradientTransformation):
        raise ValueError(f"optimiser = {optimiser!r:.60} is none; use {', '.join(OPTIMISERS)} or one of optax")
    if parameters not in PARAMETERS:
        raise ValueError(f"parameters = '{parameters}' is not understood; use {', '.join(PARAMETERS)}")
    chosen = sizes if parameters == "softmax" else None
    how = {"allowed": allowed, "tolerance": tolerance, "optimiser": optimiser, "sizes": chosen}
    return partial(advance_by_optimiser, **how)


def _stopped_at_goals(goals, names, search: Search, found: Evaluation, k: int) -> Search:
    """Done where all there is to reach is hit."""
    extreme = any(goal.sign in ("min", "max") for goal in goals)
    if search.done not in ("", FLAT) or extreme or not goals or not found.converged[k]:
        return search
    missed = misses(goals, dict(zip(names, found.values[k].tolist(), strict=True)))
    if not all(miss <= FINE for miss in missed):
        return search
    return search._replace(weights=found.weights[k], loss=float(found.loss[k]), done=HIT)


class Found(NamedTuple):
    """One composition, traced; as in `Evaluation`."""

    values: Float[Array, "properties"]
    reference: Float[Array, "sites 3"]
    strain: Float[Array, "6"]
    state: Equilibrium


class Judge(NamedTuple):
    """How a state is judged; static under jit."""

    names: tuple[str, ...]
    aims: tuple[str, ...]  # names of what is differentiated
    function: Callable | None  # of the user, differentiated instead
    elastic: bool


@lru_cache(maxsize=8)
def _compiled(kind: Kind, judge: Judge, mesh: Mesh):
    """What is aimed at, its derivatives and what was found, of problems that differ in state and composition."""

    def one(shared: Problem, offset, facts, topology, reference, strain, weights):
        def of(weights):
            problem = shared._replace(topology=topology, positions=reference, strain=strain, weights=weights)
            y, verdict = at_rest(kind, problem)
            material = (elasticity_at if judge.elastic else described)(kind, problem, offset, y, verdict)
            return _judged(judge, facts, material, y.reference, y.strain / scale(problem))

        aims, back, found = jax.vjp(of, weights, has_aux=True)
        return aims, jax.vmap(back)(jnp.eye(len(aims), dtype=aims.dtype))[0], found

    every, split = jax.P(), jax.P(MEMBERS)
    lanes = jax.vmap(one, in_axes=(None,) * 3 + (0,) * 4)
    return spread(lanes, mesh, (every,) * 3 + (split,) * 4, split)


def _judged(judge: Judge, facts: Facts, material, reference, strain):
    """What is aimed at, and what was found."""
    state = material.state if isinstance(material, Elasticity) else material
    values = properties_of(facts, judge.names, material)
    aims = [values[name] for name in judge.aims] if judge.function is None else [judge.function(material)]
    numbers = jnp.stack(list(values.values())) if values else jnp.zeros(0)
    return jnp.stack(aims).astype(state.energy.dtype), Found(numbers, reference, strain, state)


def _evaluator(
    potential: Potential, system: System, alpha, free, limits, facts: Facts, judge: Judge, goals, allowed, lanes: int
) -> Callable[[np.ndarray, Evaluation | None], Evaluation]:
    """A function of compositions, and of the evaluation before, near whose states they relax."""
    kind, problem, offset, _ = prepared(potential, system, None, alpha, free, limits, {"kind": "none"})
    near = system._replace(structure=wrapped(system.structure))
    lists = Lists(potential, near, jax.tree.map(np.asarray, problem.freedom), lanes, REACH)
    # a function of the user may change what it looks at, between two calls
    compiled = _compiled if judge.function is None else _compiled.__wrapped__
    program = compiled(kind, judge, mesh_for(lanes))
    shared = problem._replace(topology=None, positions=None, strain=None, weights=None)
    with precision(potential):
        fresh = initial_state(problem.positions, len(problem.weights))
    fresh = jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], lanes, axis=0), fresh)

    def place(kept, reference, strain):
        """The states of those that are kept, and fresh ones, all without a list."""
        return fresh._replace(
            reference=np.where(kept[:, None, None], reference, fresh.reference).astype(potential.dtype),
            strain=np.where(kept[:, None], strain, fresh.strain).astype(potential.dtype),
            stale=np.ones(lanes, bool),
        )

    def evaluate(weights, before: Evaluation | None) -> Evaluation:
        cast = lambda a: jnp.asarray(a, potential.dtype)
        double = lambda a: np.asarray(a, np.float64) if a.dtype.kind == "f" else a
        state, lost = fresh, np.zeros(lanes, bool)
        if before is not None:
            state = place(before.converged, before.reference, before.strain)
        for _ in range(LISTS):
            asked = np.asarray(lists.refresh(state).finished)  # its sites collapsed
            lost |= asked
            state = place(~asked, state.reference, state.strain)
            places = map(cast, (state.reference, state.strain, weights))
            out = program(shared, offset, jax.tree.map(cast, facts), lists.stacked(), *places)
            aims, jacobian, found = jax.tree.map(double, jax.device_get(out))
            if (found.state.listed | lost).all():
                break
            state = place(np.isfinite(found.strain).all(-1), found.reference, found.strain)
        share = share_of_extremes(goals, jacobian, partial(along, allowed)) if before is None else before.share[0]
        rows = [_loss(goals, share, *one) for one in zip(aims, jacobian, strict=True)]
        loss, gradient, curvature = (np.array(column) for column in zip(*rows, strict=True))
        real = np.isfinite(aims).all(-1) & np.array([_has_order(system, one, alpha) for one in weights])
        parts = found._asdict() | found.state._asdict() | {"weights": double(weights)}
        parts |= {"converged": found.state.converged & ~lost & real}
        parts |= {"loss": loss, "share": np.full(lanes, share), "gradient": gradient, "curvature": curvature}
        return Evaluation(*(parts[name] for name in Evaluation._fields))

    def in_precision(*arguments):
        with precision(potential):
            return evaluate(*arguments)

    return in_precision


def _has_order(system: System, weights, alpha) -> bool:
    """Whether short-range order alpha is possible at these weights."""
    try:
        checked_alpha(system, weights, alpha)
    except ValueError:
        return False
    return True


def _loss(goals, share: float, aims: Float[np.ndarray, "aims"], jacobian: Float[np.ndarray, "aims weights"]):
    """Loss, gradient and what is known of its curvature; nothing is of a function of the user."""
    if goals:
        return goals_loss(goals, aims, jacobian, share)
    return float(aims[0]), jacobian[0], np.zeros((len(jacobian[0]),) * 2)


def _optimum(system: System, goals, facts: Facts, names, searches: list[Search], path: list[Evaluation]) -> Optimum:
    """The best of all, and what there is to say."""
    known = np.array([np.where(found.converged & np.isfinite(found.loss), found.loss, np.inf) for found in path])
    step, lane = np.unravel_index(np.argmin(known), known.shape)
    losses, steps = known.min(0), known.argmin(0)
    if not np.isfinite(known[step][lane]):
        raise ValueError(
            "no start has a relaxed state, so there is no gradient to follow; give other starts, a structure nearer to "
            "the relaxed one, or more max_steps"
        )
    at = path[step]
    values = dict(zip(names, at.values[lane].tolist(), strict=True))
    missed = misses(goals, values)
    reached = all(miss <= 1 for miss in missed) if any(goal.sign not in ("min", "max") for goal in goals) else None
    ended = searches[lane].done or USED_UP
    at_end = ended in (CONVERGED, HIT, NOTHING_BETTER)
    text = f"best of {len(losses)} starts, {len(path)} evaluations of each; {ended}"
    if reached is False:
        worst = goals[int(np.argmax(missed))]
        aim = f"{worst.name} {worst.sign} {worst.value:g} {PROPERTIES[worst.name].unit}"
        closest = "the closest is" if len(goals) == 1 else "with the other targets it is"
        how = closest if at_end else "it came to"
        text = f"{aim} is not reached, {how} {values[worst.name]:.6g} ({text})"
    return Optimum(
        weights=at.weights[lane],
        values=values,
        loss=float(at.loss[lane]),
        reached=reached,
        converged=at_end,
        message=text,
        structure=system.structure._replace(positions=at.positions[lane], cell=at.cell[lane]),
        energy=float(at.energy[lane]),
        ends=np.array([path[k].weights[lane] for lane, k in enumerate(steps)]),
        losses=losses,
        reasons=tuple(search.done or USED_UP for search in searches),
        path=tuple(path),
        facts=facts,
    )
