"""Which compositions are allowed: a polytope of weights, and the nearest point of it.

0 <= w <= 1        sum of a group as given        A w = a        B w <= b
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import null_space
from scipy.optimize import linprog, minimize, nnls

from alchemjax.system.sites import Sites, weight_names

SATISFIED = 1e-6  # rounding allowed in a condition
LOOSE = 1e-5  # of the solver
FIRM = 1e3  # price of missing the sum of a group, another condition costing 1
LEAST = 1e-12  # weight of what is not there, in logarithms
FEW = 1e-3  # weight below which entropy is not more curved, for the solver
UNSIGNED = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
NUMBER = rf"[+-]?{UNSIGNED}"


class Constraints(NamedTuple):
    """Rows are conditions on the flat weights."""

    equal: Float[np.ndarray, "equalities weights"]
    equal_to: Float[np.ndarray, "equalities"]
    most: Float[np.ndarray, "inequalities weights"]
    at_most: Float[np.ndarray, "inequalities"]
    emptied: tuple[str, ...] = ()  # groups whose sums are free


def make_constraints(
    sites: Sites,
    weights: Float[np.ndarray, "weights"],
    conditions: Iterable[str] = (),
    charges: Mapping[str, float] | None = None,
) -> Constraints:
    """Allowed compositions; every group keeps the sum that it has in `weights`, unless a condition names its vacancies.

    `conditions`: like "K <= 0.3", "Na = 0.5", "2*Mg + 3*Al = 2.2" or "vacancy <= 0.1"; a species stands for its mean
    weight on the sites that may hold it, `group:species` for that of one group. `charges`: oxidation states of all
    species, which are to add up to nothing.
    Errors: ValueError for a condition that is not understood, and for conditions that exclude each other.
    """
    conditions = [conditions] if isinstance(conditions, str) else list(conditions)
    parsed = [_parsed(sites, condition) for condition in conditions]
    emptied = set().union(*(vacant for *_, vacant in parsed))
    equal, equal_to, most, at_most = [], [], [], []
    for group, row in zip(sites.groups, _sums(sites), strict=True):
        into, bounds = (most, at_most) if group.name in emptied else (equal, equal_to)
        into.append(row)
        bounds.append(1.0 if group.name in emptied else float(row @ weights))
    firm = len(equal)
    for row, offset, sign, number, _ in parsed:
        into, bounds = (equal, equal_to) if sign == "=" else (most, at_most)
        turn = -1 if sign == ">=" else 1
        into.append(turn * row)
        bounds.append(turn * (number - offset))
    if charges is not None:
        row, fixed = _charge(sites, charges)
        equal.append(row)
        equal_to.append(-fixed)
    rows = lambda listed: np.array(listed, float).reshape(len(listed), len(weights))
    found = Constraints(
        rows(equal), np.array(equal_to, float), rows(most), np.array(at_most, float), tuple(sorted(emptied))
    )
    _check_possible(sites, found, firm, neutral=charges is not None)
    return _independent(found)


def _sums(sites: Sites) -> Float[np.ndarray, "groups weights"]:
    """Of weights to the sum of each group."""
    owner = np.repeat(np.arange(len(sites.groups)), [len(group.species) for group in sites.groups])
    return (np.arange(len(sites.groups))[:, None] == owner).astype(float)


def _parsed(sites: Sites, condition: str):
    """Row of weights, constant, sign, right side, and the groups whose vacancies are named."""
    parts = re.fullmatch(rf"(.+?)(<=|>=|==|=)\s*({NUMBER})\s*", condition)
    names = ", ".join(dict.fromkeys(s for g in sites.groups for s in (*g.species, "vacancy")))
    wrong = f"condition '{condition}' is not understood; give one like 'K <= 0.3' or '2*Mg + 3*Al = 2.2' of {names}"
    if parts is None:
        raise ValueError(wrong)
    left, sign, number = parts.groups()
    row, offset, vacant = np.zeros(len(weight_names(sites))), 0.0, set()
    full = [*weight_names(sites), *(f"{group.name}:vacancy" for group in sites.groups)]
    known = sorted({*full, *(name.rpartition(":")[2] for name in full)}, key=len, reverse=True)
    name = "|".join(map(re.escape, known))
    term = re.compile(rf"\s*([+-]?)\s*(?:({UNSIGNED})\s*\*?\s*)?({name})(?![A-Za-z])\s*")
    at = 0
    while at < len(left):
        found = term.match(left, at)
        if found is None or (at > 0 and not found[1]):
            raise ValueError(wrong)
        factor = float(found[2] or 1) * (-1 if found[1] == "-" else 1)
        own, constant, groups = _amount(sites, found[3])
        row, offset, vacant, at = row + factor * own, offset + factor * constant, vacant | groups, found.end()
    return row, offset, sign.replace("==", "="), float(number), vacant


def _amount(sites: Sites, name: str):
    """Mean weight of a species, or of nothing: row, constant, groups whose vacancies it is."""
    where, _, species = name.rpartition(":")
    held = [g for g in sites.groups if where in ("", g.name) and (species in g.species or species == "vacancy")]
    number, row, start = sum(len(g.sites) for g in held), np.zeros(len(weight_names(sites))), 0
    for group in sites.groups:
        for k, own in enumerate(group.species, start):
            if group in held and species in (own, "vacancy"):
                row[k] = (-1 if species == "vacancy" else 1) * len(group.sites) / number
        start += len(group.species)
    empty = species == "vacancy"
    return row, float(empty), {g.name for g in held} if empty else set()


def _charge(sites: Sites, charges: Mapping[str, float]):
    """Charge of all sites: a row of weights, and what ordinary atoms have. Errors: ValueError for a species without."""
    held = sorted(set(sites.node_species))
    if missing := [s for s in held if s not in charges]:
        raise ValueError(f"charges of {', '.join(missing)} are missing; give the oxidation states of {', '.join(held)}")
    if strange := sorted(set(charges) - set(held)):
        raise ValueError(f"charges name {', '.join(strange)}; the structure holds {', '.join(held)}")
    row = np.zeros(len(weight_names(sites)) + 1)
    np.add.at(row, sites.node_weight, [float(charges[s]) for s in sites.node_species])
    return row[:-1], row[-1]


def _independent(allowed: Constraints) -> Constraints:
    """Without equalities that follow from others."""
    kept: list[int] = []
    for k in range(len(allowed.equal)):
        if np.linalg.matrix_rank(allowed.equal[[*kept, k]], tol=1e-9) > len(kept):
            kept.append(k)
    return allowed._replace(equal=allowed.equal[kept], equal_to=allowed.equal_to[kept])


def along(allowed: Constraints, gradient: Float[np.ndarray, "weights"]) -> Float[np.ndarray, "weights"]:
    """The part of a gradient that the equalities leave."""
    return gradient - np.linalg.pinv(allowed.equal) @ (allowed.equal @ gradient) if len(allowed.equal) else gradient


def _check_possible(sites: Sites, allowed: Constraints, firm: int, *, neutral: bool) -> None:
    """Errors: ValueError if no composition is allowed, with the one that comes closest; `firm` equalities are kept."""
    number, conditions = allowed.equal.shape[1], len(allowed.equal_to) + len(allowed.at_most)
    # the least sum of violations: A w - p + q = a, B w - r <= b
    one, two = np.eye(len(allowed.equal_to)), np.eye(len(allowed.at_most))
    equal = np.hstack([allowed.equal, -one, one, np.zeros((len(one), len(two)))])
    most = np.hstack([allowed.most, np.zeros((len(two), 2 * len(one))), -two])
    cost = np.concatenate([np.zeros(number), np.ones(equal.shape[1] - number)])
    cost[number : number + firm] = cost[number + len(one) : number + len(one) + firm] = FIRM
    bounds = [(0, 1)] * number + [(0, None)] * (len(cost) - number)
    best = linprog(cost, most, allowed.at_most, equal, allowed.equal_to, bounds)
    if best.fun is None or best.fun > SATISFIED * conditions:
        near = (
            ""
            if best.x is None
            else ", ".join(
                f"{name} = {w:.4g}" for name, w in zip(weight_names(sites), best.x[:number] + 0.0, strict=True)
            )
        )
        raise ValueError(
            "no composition fulfils all conditions (with the sums that the groups have, weights from 0 to 1"
            + (", and charges that add up to nothing)" if neutral else ")")
            + (f"; {near} comes closest" if near else "")
            + "; give fewer or wider conditions"
        )


def violation(allowed: Constraints, weights: Float[np.ndarray, "weights"]) -> float:
    """By how much the worst condition is missed."""
    over = np.append(allowed.most @ weights - allowed.at_most, np.abs(allowed.equal @ weights - allowed.equal_to))
    return float(max(over.max(initial=0), -weights.min(initial=0), weights.max(initial=0) - 1))


def nearest(
    allowed: Constraints,
    weights: Float[np.ndarray, "weights"],
    *,
    metric: Float[np.ndarray, "weights weights"] | None = None,
) -> Float[np.ndarray, "weights"]:
    """The allowed weights next to these: least squares, in a metric if there is one.

    The problem of the least distance, as one of least squares without negative numbers: C. L. Lawson, R. J. Hanson,
    Solving Least Squares Problems (1974), chapter 23.
    """
    number = len(weights)
    metric = np.eye(number) if metric is None else metric
    free = null_space(allowed.equal) if len(allowed.equal) else np.eye(number)
    fixed = np.linalg.pinv(allowed.equal) @ allowed.equal_to if len(allowed.equal) else np.zeros(number)
    near = fixed
    if free.shape[1]:
        root = np.linalg.cholesky(free.T @ metric @ free).T
        best = np.linalg.solve(root.T @ root, free.T @ metric @ (weights - fixed))  # but for bounds and inequalities
        inside = free.T @ (np.clip(weights, 0, 1) - fixed)
        size = np.linalg.norm(root @ (inside - best)) + np.linalg.norm(root, 2)
        back = size * free @ np.linalg.inv(root)  # from numbers of order one
        rows = np.vstack([-allowed.most, np.eye(number), -np.eye(number)])
        least = np.concatenate([-allowed.at_most, np.zeros(number), -np.ones(number)]) - rows @ (fixed + free @ best)
        rows = rows @ back
        scale = np.maximum(np.abs(rows).max(1), np.abs(least))
        scale = np.where(scale > 0, scale, 1)
        table = np.vstack([rows.T, least]) / scale
        aim = np.eye(len(table))[-1]
        rest = table @ nnls(table, aim, maxiter=100 * len(scale))[0] - aim
        if rest[-1] == 0:
            raise _none_near(weights)
        near = fixed + free @ best - back @ rest[:-1] / rest[-1]
    return _checked(allowed, np.clip(near, 0, 1), weights)


def nearest_by_entropy(
    allowed: Constraints,
    weights: Float[np.ndarray, "weights"],
    curvature: Float[np.ndarray, "weights weights"],
    about: Float[np.ndarray, "weights"],
) -> Float[np.ndarray, "weights"]:
    """The allowed w with the least sum_i w_i log(w_i / weights_i) - w_i + (w - about) curvature (w - about) / 2.

    Without curvature the projection of mirror descent: A. Beck, M. Teboulle, Oper. Res. Lett. 31, 167 (2003).
    """
    back, size = _sphere(np.diag(1 / np.clip(about, FEW, 1)) + curvature)
    logs = np.log(np.maximum(weights, LEAST))

    def loss(x):
        w = back @ x
        own, bent = np.log(np.maximum(w, LEAST)) - logs, curvature @ (w - about)
        return size**2 * float(np.sum(w * own - w) + (w - about) @ bent / 2), size**2 * back.T @ (own + bent)

    return _least(allowed, loss, about, back)


def _sphere(metric: Float[np.ndarray, "weights weights"]):
    """B and c of w = B x with w metric w = x x / c^2: a sphere in x, and numbers of order one."""
    back = np.linalg.inv(np.linalg.cholesky(metric)).T
    size = float(np.abs(back).max())
    return back / size, size


def _least(allowed: Constraints, loss, begin, back) -> Float[np.ndarray, "weights"]:
    """The allowed w = back x with the least loss(x), which comes with its gradient."""
    most = np.vstack([allowed.most, np.eye(len(begin)), -np.eye(len(begin))]) @ back
    at_most = np.concatenate([allowed.at_most, np.ones(len(begin)), np.zeros(len(begin))])
    equal = allowed.equal @ back
    conditions = [{"type": "ineq", "fun": lambda x: at_most - most @ x, "jac": lambda x: -most}]
    if len(equal):
        conditions.append({"type": "eq", "fun": lambda x: equal @ x - allowed.equal_to, "jac": lambda x: equal})
    first = np.linalg.solve(back, np.clip(begin, 0, 1))
    options = {"ftol": 1e-14, "maxiter": 500}
    found = minimize(loss, first, jac=True, method="SLSQP", constraints=conditions, options=options)
    return _checked(allowed, np.clip(back @ found.x, 0, 1), begin)


def _checked(allowed: Constraints, near, given) -> Float[np.ndarray, "weights"]:
    """Errors: ValueError for weights that are not allowed."""
    if not violation(allowed, near) < LOOSE:
        raise _none_near(given)
    return near


def _none_near(given) -> ValueError:
    return ValueError(f"no allowed composition was found next to {given.round(4).tolist()}; simplify the conditions")


def random_weights(allowed: Constraints, number: int, rng: np.random.Generator) -> Float[np.ndarray, "number weights"]:
    """Allowed compositions spread over all: the allowed ones next to random points."""
    drawn = rng.uniform(size=(number, allowed.equal.shape[1]))
    return np.array([nearest(allowed, one) for one in drawn]).reshape(drawn.shape)
