"""What the mixed sites of a crystal may hold, and derivatives by weights as interactions of these states."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from alchemjax.system.sites import WEIGHT_TOLERANCE
from alchemjax.system.supercell import numbering
from alchemjax.system.system import System
from alchemjax.tasks.crystal import Crystal

VACANCY = "vacancy"


class States(NamedTuple):
    """What the mixed sites of the cell may hold."""

    site: Int[np.ndarray, "mixed"]
    sublattice: Int[np.ndarray, "mixed"]
    species: tuple[str, ...]
    weights: Float[np.ndarray, "mixed states"]
    allowed: Bool[np.ndarray, "mixed states"]
    deviation: Float[np.ndarray, "mixed states most"]  # d of a state, in the weights of the site
    flat: Int[np.ndarray, "mixed most"]  # which of the cell's weights these are; their number where there is none


def mixed_states(system: System, weights) -> States:
    """Of all sites of the groups at their mean weights; vacancies count where these leave room for them.

    Errors: ValueError for a composition of which every site holds one species.
    """
    groups = system.sites.groups
    group_of = {site: g for g, group in enumerate(groups) for site in group.sites}
    site = np.array(sorted(group_of))
    species = tuple(dict.fromkeys(s for group in groups for s in group.species)) + (VACANCY,)
    starts = np.cumsum([0] + [len(group.species) for group in groups])
    most = max(len(group.species) for group in groups)
    number = sum(len(groups[group_of[s]].species) for s in site.tolist())
    mean, allowed = np.zeros((len(site), len(species))), np.zeros((len(site), len(species)), bool)
    deviation, flat, place = np.zeros((*mean.shape, most)), np.full((len(site), most), number), 0
    for m, s in enumerate(site.tolist()):
        group, start = groups[group_of[s]], starts[group_of[s]]
        own, count = weights[start : start + len(group.species)], len(group.species)
        columns = [species.index(name) for name in group.species] + [len(species) - 1]
        vacant = 1 - own.sum()
        mean[m, columns] = [*own, vacant if vacant > WEIGHT_TOLERANCE else 0]
        allowed[m, columns] = [True] * count + [vacant > WEIGHT_TOLERANCE]
        deviation[m, columns, :count] = np.eye(count + 1, count) - own
        flat[m, :count] = place + np.arange(count)
        place += count
    if ((mean > 0).sum(axis=1) < 2).all():
        raise ValueError(
            f"the composition {np.round(weights, 6).tolist()} is pure: nothing can be ordered; give weights between 0 "
            "and 1"
        )
    used = allowed.any(0)
    species = tuple(name for name, there in zip(species, used, strict=True) if there)
    sublattice = np.array([group_of[s] for s in site.tolist()])
    deviation = np.where(allowed[..., None], deviation, 0)
    return States(site, sublattice, species, mean[:, used], allowed[:, used], deviation[:, used], flat)


def between(rows, crystal: Crystal, states: States):
    """d rows d' for the states of every mixed site of the cell and of the supercell."""
    number = len(rows)
    padded = np.zeros((number + 1, crystal.cells, number + 1))
    padded[:-1, :, :-1] = rows.reshape(number, crystal.cells, number)
    blocks = padded[states.flat][:, :, :, states.flat]  # [mixed, most, cells, mixed, most]
    return np.einsum("mkw,mwcnv,nlv->mcnkl", states.deviation, blocks, states.deviation, optimize=True)


def symmetric(pair, crystal: Crystal):
    """The mean of the two directions of every pair, which differ by round-off."""
    sites = len(crystal.supercell.origin) // crystal.cells
    opposite = numbering(crystal.supercell, sites)(-crystal.supercell.shift[::sites])
    return (pair + pair[:, opposite].swapaxes(0, 2).swapaxes(3, 4)) / 2


def of_states(rows, states: States):
    """d rows, where rows belong to the weights of the cell."""
    padded = np.concatenate([rows, np.zeros_like(rows[:1])])
    return np.einsum("mkw,mw...->mk...", states.deviation, padded[states.flat])


def everywhere(rows, crystal: Crystal):
    """Rows of the sites of the first cell, [row, supersites, ...], repeated for those of every other cell."""
    sites = len(crystal.supercell.origin) // crystal.cells
    shift = crystal.supercell.shift[::sites]
    cell_of = numbering(crystal.supercell, sites)
    by_cell = rows.reshape(len(rows), crystal.cells, sites, *rows.shape[2:])
    moved = [by_cell[:, cell_of(shift - own)] for own in shift]
    return np.concatenate(moved).reshape(-1, *rows.shape[1:])
