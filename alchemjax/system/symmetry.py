"""Which sites are equivalent, and by which operations of the space group."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alchemjax.system.sites import Sites
from alchemjax.system.structure import Structure

TOLERANCE = 1e-4  # A, between a site and the image of an equivalent one; rounding in files is smaller


class Symmetry(NamedTuple):
    """Operations s -> rotation s + translation of fractional coordinates (columns)."""

    rotation: Int[np.ndarray, "operations 3 3"]
    translation: Float[np.ndarray, "operations 3"]
    image: Int[np.ndarray, "operations sites"]  # the site to which an operation takes each site
    first: Int[np.ndarray, "sites"]  # the first of the sites that are equivalent to each site


def kinds_of(sites: Sites, weights) -> Int[np.ndarray, "sites"]:
    """A number for every site, the same for sites of the same species and weights."""
    each = np.append(weights, 1.0)[sites.node_weight]
    about: dict[int, list] = {}
    for site, species, weight in zip(sites.node_site.tolist(), sites.node_species, each.tolist(), strict=True):
        about.setdefault(site, []).append((species, round(weight, 9)))
    names = [tuple(sorted(about[site])) for site in range(len(about))]
    return np.array([sorted(set(names)).index(name) for name in names])


def equal_axes(structure: Structure, kinds: Int[np.ndarray, "sites"]) -> list[list[int]]:
    """Of every lattice vector those that symmetry turns it into, itself among them."""
    turns = np.abs(find_symmetry(structure, kinds).rotation)
    turned = (turns == 1) & (turns.sum(1, keepdims=True) == 1)  # [operations, to, from]
    return [np.flatnonzero(turned[:, :, axis].any(0)).tolist() for axis in range(3)]


def find_symmetry(structure: Structure, kinds: Int[np.ndarray, "sites"], tolerance: float = TOLERANCE) -> Symmetry:
    """Space group of the structure, sites of different kinds being different, to a tolerance [A].

    Structures that are not periodic in every direction have the identity only, as do those of which spglib knows none.
    """
    nothing = no_symmetry(len(structure.positions))
    if not structure.pbc.all():
        return nothing
    import spglib

    fractional = structure.positions @ np.linalg.inv(structure.cell)
    lattice = structure.cell * np.sign(np.linalg.det(structure.cell))  # spglib refuses left-handed ones
    try:
        with warnings.catch_warnings(action="ignore"):
            found = spglib.get_symmetry((lattice, fractional, kinds), symprec=tolerance)
    except Exception:  # older versions return None, newer ones raise errors of their own
        found = None
    if found is None:
        return nothing
    rotations, translations = found["rotations"], found["translations"]
    images = np.array(
        [_images(structure, fractional, kinds, *g, tolerance) for g in zip(rotations, translations, strict=True)]
    )
    if (images < 0).any():
        return nothing
    return Symmetry(rotations, translations, images, images.min(axis=0))


def no_symmetry(sites: int) -> Symmetry:
    """The identity alone."""
    return Symmetry(np.eye(3, dtype=int)[None], np.zeros((1, 3)), np.arange(sites)[None], np.arange(sites))


def _images(structure: Structure, fractional, kinds, rotation, translation, tolerance: float) -> np.ndarray:
    """Where the operation takes every site; -1 where there is none near."""
    away = (fractional @ rotation.T + translation)[:, None] - fractional[None]
    distance = np.linalg.norm((away - np.round(away)) @ structure.cell, axis=-1)
    distance[kinds[:, None] != kinds[None]] = np.inf
    nearest = distance.argmin(axis=1)
    there = distance[np.arange(len(nearest)), nearest] < 10 * tolerance
    return np.where(there, nearest, -1) if len(set(nearest)) == len(nearest) else np.full(len(nearest), -1)
