"""Which species may sit on which site, and which weight drives them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

WEIGHT_TOLERANCE = 1e-6  # rounding allowed when weights are checked against 0 and 1


class Group(NamedTuple):
    """Sites that share one set of weights."""

    name: str
    sites: tuple[int, ...]
    species: tuple[str, ...]  # chemical symbols, in the order of the weights


class Sites(NamedTuple):
    """Nodes (site, species), ordered by site, and the groups whose weights drive them."""

    groups: tuple[Group, ...]
    node_site: Int[np.ndarray, "nodes"]
    node_species: tuple[str, ...]
    node_weight: Int[np.ndarray, "nodes"]  # index into the flat weights; len(weights) for an ordinary atom
    node_group: Int[np.ndarray, "nodes"]  # -1 for an ordinary atom; one number for groups that overlap
    node_index: Int[np.ndarray, "nodes"]  # position among the species of these groups; 0 for an ordinary atom


def make_sites(symbols, groups: tuple[Group, ...] = (), *, overlapping: bool = False) -> Sites:
    """Lay out the nodes; `symbols` are the species of the sites, used where a site is in no group.

    Errors: ValueError for a site out of range, a species listed twice and, unless overlapping, a site in two groups.
    """
    symbols = list(symbols)
    held: list[list[int]] = [[] for _ in symbols]  # numbers of the groups of every site
    for k, group in enumerate(groups):
        if not group.sites or not group.species:
            raise ValueError(f"group '{group.name}' has no sites or no species; give at least one of each")
        if len(set(group.species)) != len(group.species):
            raise ValueError(f"group '{group.name}' lists a species twice; list every species once")
        for site in group.sites:
            if not 0 <= site < len(symbols):
                raise ValueError(f"group '{group.name}' names site {site}; sites run from 0 to {len(symbols) - 1}")
            if held[site] and not overlapping:
                raise ValueError(f"site {site} is in two groups; every site belongs to at most one group")
            held[site].append(k)
    offsets = np.cumsum([0] + [len(g.species) for g in groups])
    together, start = _overlaps(groups, held)
    nodes = []
    for site, symbol in enumerate(symbols):
        for k in held[site]:
            nodes += [(site, s, offsets[k] + i, together[k], start[k] + i) for i, s in enumerate(groups[k].species)]
        if not held[site]:
            nodes.append((site, symbol, offsets[-1], -1, 0))
    site, species, weight, group, index = zip(*nodes, strict=True)
    return Sites(groups, np.array(site), species, np.array(weight), np.array(group), np.array(index))


def _overlaps(groups: tuple[Group, ...], held: list[list[int]]) -> tuple[list[int], list[int]]:
    """For every group the first of those that it is linked to by common sites, and its first index among these."""
    together = list(range(len(groups)))
    for numbers in held:
        linked = {together[k] for k in numbers}
        together = [min(linked) if first in linked else first for first in together]
    sizes = [len(g.species) for g in groups]
    start = [sum(sizes[j] for j in range(k) if together[j] == together[k]) for k in range(len(groups))]
    return together, start


def num_weights(sites: Sites) -> int:
    """Length of the flat weights."""
    return sum(len(g.species) for g in sites.groups)


def by_group(sites: Sites, weights: np.ndarray) -> list[np.ndarray]:
    """The flat weights of every group, in order."""
    return np.split(weights, np.cumsum([len(group.species) for group in sites.groups])[:-1])


def weight_names(sites: Sites) -> list[str]:
    """`group:species` of every weight, in order."""
    return [f"{group.name}:{species}" for group in sites.groups for species in group.species]


def flat_weights(sites: Sites, weights, *, bounded: bool = True) -> np.ndarray:
    """Flat weights from an array or from {group name: {species symbol: weight}}, checked.

    Errors: ValueError naming the group for a wrong length, NaN and, if bounded, a weight below 0 or a sum over 1.
    """
    given = listed_weights(sites, weights)
    try:
        flat = np.asarray(given)
        if flat.dtype.kind in "cmMSU":
            raise TypeError
        flat = np.array(flat, np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"weights are {str(given):.80}; give real numbers, one for every species of every group"
        ) from None
    check_shape(sites, flat.shape)
    start = 0
    for group in sites.groups:
        part = flat[start : start + len(group.species)]
        start += len(group.species)
        if not np.isfinite(part).all():
            what = "numbers from 0 to 1" if bounded else "finite numbers"
            raise ValueError(f"weights of group '{group.name}' contain NaN or infinity: {part.tolist()}; give {what}")
        if not bounded:
            continue
        if (part < -WEIGHT_TOLERANCE).any():
            raise ValueError(
                f"weights of group '{group.name}' are {part.tolist()}; a weight may not be negative: give numbers from "
                "0 to 1 that sum to at most 1"
            )
        if part.sum() > 1 + WEIGHT_TOLERANCE * len(part):
            raise ValueError(
                f"weights of group '{group.name}' sum to {part.sum():.6g}; they may sum to at most 1 "
                "(what is missing to 1 is vacancy)"
            )
        part[:] = np.clip(part, 0, 1) / max(1.0, np.clip(part, 0, 1).sum())  # rounding errors of the caller
    return flat


def check_shape(sites: Sites, shape: tuple[int, ...]) -> None:
    """Errors: ValueError unless it is the shape of the flat weights."""
    if shape != (num_weights(sites),):
        layout = ", ".join(f"{g.name}: {'/'.join(g.species)}" for g in sites.groups)
        raise ValueError(
            f"weights have shape {shape}; this system takes {num_weights(sites)} numbers "
            f"({layout or 'it has no mixed sites'})"
        )


def listed_weights(sites: Sites, weights):
    """Weights in the order of the flat vector, from a {group: {species: weight}}; anything else as it is.

    Where there is one group, its {species: weight} is enough. Errors: ValueError for a group or species that is not
    there.
    """
    if not isinstance(weights, dict):
        return weights
    names = [g.name for g in sites.groups]
    if len(names) == 1 and weights and not any(isinstance(value, dict) for value in weights.values()):
        weights = {names[0]: weights}
    unknown = set(weights) - set(names)
    missing = set(names) - set(weights)
    if unknown or missing:
        raise ValueError(f"weights name the groups {list(weights)}; this system has the groups {names}")
    if strange := [name for name in names if not isinstance(weights[name], dict)]:
        raise ValueError(f"weights of group '{strange[0]}' are {weights[strange[0]]!r}; give {{species: weight}}")
    flat = []
    for group in sites.groups:
        given = weights[group.name]
        own = list(group.species)
        if extra := set(given) - set(own):
            raise ValueError(f"group '{group.name}' holds {own}; weights name {sorted(extra)}")
        flat += [given.get(s, 0.0) for s in own]
    return flat
