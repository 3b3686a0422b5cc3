"""End members: what a mixture is mixed of, and what mixing would give if it changed nothing."""

import itertools
import math

import numpy as np
from jaxtyping import Array, Float

from alchemjax.system.sites import Sites, num_weights, weight_names

MOST_CORNERS = 5000  # that are calculated
FULL = 1e-6  # rounding allowed where weights must sum to 1
SAME = 1e-9  # weights that differ by less are the same


def corners(sites: Sites) -> Float[np.ndarray, "corners weights"] | None:
    """End members: one species on all groups that may hold the same ones, all combinations; None if too many to do."""
    if num_corners(sites) > MOST_CORNERS:
        return None
    rows = []
    for chosen in itertools.product(*_species_lists(sites)):
        held = dict(zip(map(frozenset, _species_lists(sites)), chosen, strict=True))
        rows.append([float(s == held[frozenset(g.species)]) for g in sites.groups for s in g.species])
    return np.array(rows, float).reshape(len(rows), num_weights(sites))


def num_corners(sites: Sites) -> int:
    """How many end members there are."""
    return math.prod(map(len, _species_lists(sites)))


def _species_lists(sites: Sites) -> list[tuple[str, ...]]:
    """What the groups may hold, each list once: groups of the same species, in any order, make one kind of place."""
    lists: dict[frozenset[str], tuple[str, ...]] = {}
    for group in sites.groups:
        lists.setdefault(frozenset(group.species), group.species)
    return list(lists.values())


def with_corners(sites: Sites, rows: Float[np.ndarray, "rows weights"]) -> Float[np.ndarray, "more weights"]:
    """`rows`, and after them the end members that are not among them."""
    ends = corners(sites)
    if ends is None:
        return rows
    present = set(map(_key, rows))
    return np.concatenate([rows, *([end] for end in ends if _key(end) not in present)])


def corner_fractions(means, weights: Float[Array | np.ndarray, "... weights"]):
    """How much of every end member [..., corners] an ideal mixture would hold; of NumPy's and JAX's arrays.

    The product of amounts, which `amount_means` makes of weights.
    """
    found = weights[..., :1] * 0 + 1
    for mean in means:
        amounts = weights @ mean
        found = (found[..., None] * amounts[..., None, :]).reshape(*weights.shape[:-1], -1)
    return found


def between_corners(sites: Sites, weights: np.ndarray, values: np.ndarray) -> Float[np.ndarray, "rows"]:
    """What mixing would give if it changed nothing: the sum over end members c of (product of amounts) * value(c).

    NaN where a group's weights do not sum to 1 (vacancies), and everywhere if an end member is not among the rows.
    """
    ends, place = corners(sites), {_key(row): k for k, row in enumerate(weights)}
    if ends is None or not all(_key(end) in place for end in ends):
        return np.full(len(weights), np.nan)
    means = amount_means(sites)
    full = [np.abs((weights @ mean).sum(1) - 1) < FULL for mean in means]
    ideal = corner_fractions(means, weights) @ values[[place[_key(end)] for end in ends]]
    return np.where(np.all(full, axis=0), ideal, np.nan)


def amount_means(sites: Sites) -> tuple[Float[np.ndarray, "weights species"], ...]:
    """Of weights to amounts, one matrix for every list of species that groups may hold.

    An amount is the mean over the sites of all groups that may hold the same species, so that an ordered arrangement is
    measured against the pure crystals.
    """
    return tuple(_means(sites, species) for species in _species_lists(sites))


def _means(sites: Sites, species: tuple[str, ...]) -> Float[np.ndarray, "weights species"]:
    alike = [group for group in sites.groups if set(group.species) == set(species)]
    number = {f"{g.name}:{s}": len(g.sites) for g in alike for s in g.species}
    every = np.array([[number.get(full, 0) * full.endswith(f":{s}") for s in species] for full in weight_names(sites)])
    return every / sum(len(g.sites) for g in alike)


def _key(weights: np.ndarray) -> tuple[int, ...]:
    return tuple(np.rint(weights / SAME).astype(np.int64).tolist())
