"""Which sites of a random alloy fluctuate, in a supercell that keeps each away from its images.

In a random alloy every site is occupied independently of the others. Its energy to first order in fluctuations of one
site at a time is that of the mean composition plus, for every mixed site, a sum over variants of the supercell in which
this one site departs from the mean. Equivalent sites are represented by one of them.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alchemjax.system.sites import Group, Sites, make_sites
from alchemjax.system.structure import Structure
from alchemjax.system.supercell import Supercell, chosen_matrix, make_supercell
from alchemjax.system.symmetry import Symmetry, find_symmetry, no_symmetry
from alchemjax.system.topology import Topology

FLUCTUATIONS = ("none", "site", "site-exact")
NO_CHANCE = 1e-9


class Variants(NamedTuple):
    """Supercells in which one site departs from the mean; arrays of the traced evaluation.

    The weights of a variant are mean * kept + change where `kept` is given; without, `change` is a direction.
    """

    topology: Topology | None  # of the supercell, where every site has weights of its own
    matrix: Int[Array, "3 3"]  # supercell = matrix . cell
    origin: Int[Array, "supersites"]  # site of the cell
    shift: Int[Array, "supersites 3"]  # whole lattice vectors of the cell
    weight: Int[Array, "superweights"]  # index into the flat weights
    rotation: Int[Array, "operations 3 3"]  # of the space group, fractional (columns)
    translation: Float[Array, "operations 3"]
    image: Int[Array, "operations sites"]
    first: Int[Array, "sites"]  # first of the equivalent sites
    members: Float[Array, "groups weights"]  # 1 where a weight belongs to a group
    site: Int[Array, "variants"]  # of the cell, which departs from the mean
    chance: Int[Array, "variants factors"]  # probabilities to be multiplied, index into weights and then vacancies
    kept: Float[Array, "variants superweights"] | None
    change: Float[Array, "variants superweights"]
    filled: Bool[Array, "inequivalent"] | None = None  # given where vacancies have no chance: their variants come last


class Fluctuations(NamedTuple):
    """A system's fluctuations, on the host."""

    kind: str
    supercell: Supercell
    sites: Sites  # of the supercell
    variants: Variants  # without topology


def make_fluctuations(
    structure: Structure, sites: Sites, kind: str, supercell, *, symmetric: bool = True
) -> Fluctuations:
    """`kind`: "site" (second derivatives) or "site-exact" (every species in turn); `supercell` as in `chosen_matrix`.

    Without `symmetric` every mixed site is evaluated by itself, as is needed where sites may move in any way.
    """
    num_sites = len(structure.positions)
    group_of = np.zeros(num_sites, int)
    group_of[sites.node_site] = sites.node_group  # -1 for an ordinary atom
    occupant = dict(zip(sites.node_site.tolist(), sites.node_species, strict=True))
    names = [occupant[s] if group_of[s] < 0 else f"group {group_of[s]}" for s in range(num_sites)]
    symmetry = find_symmetry(structure, np.unique(names, return_inverse=True)[1])
    supercell = make_supercell(chosen_matrix(structure, supercell, symmetry.rotation), num_sites)
    symmetry = symmetry if symmetric else no_symmetry(num_sites)
    large, weight = _with_own_weights(sites, occupant, group_of, supercell)
    site, chance, kept, change = _variants(sites, group_of, symmetry, kind, len(weight))
    sizes = [len(group.species) for group in sites.groups]
    members = np.repeat(np.eye(len(sizes)), sizes, axis=1)
    variants = Variants(
        topology=None,
        matrix=supercell.matrix,
        origin=supercell.origin,
        shift=supercell.shift,
        weight=weight,
        rotation=symmetry.rotation,
        translation=symmetry.translation,
        image=symmetry.image,
        first=symmetry.first,
        members=members,
        site=site,
        chance=chance,
        kept=kept,
        change=change,
    )
    return Fluctuations(kind, supercell, large, variants)


def without_vacancies(variants: Variants, weights: Float[np.ndarray, "*batch weights"]) -> Variants:
    """Where all sites are filled, vacancies have no chance: the first derivatives of their energies do not count."""
    filled = (1 - weights @ variants.members.T < NO_CHANCE).all()
    if variants.kept is None or not filled:
        return variants
    return variants._replace(filled=np.ones(len(np.unique(variants.site)), bool))


def index_arrays(topology: Topology | Variants) -> Topology:
    """Those of the graph that is evaluated, be it of the cell or of its supercell."""
    if isinstance(topology, Variants):
        assert topology.topology is not None
        return topology.topology
    return topology


def _with_own_weights(sites: Sites, occupant: dict[int, str], group_of, supercell: Supercell):
    """Sites of the supercell, each a group of its own in order of site, and the flat weight that each takes."""
    starts = np.cumsum([0] + [len(group.species) for group in sites.groups])
    groups, weight = [], []
    for s, site in enumerate(supercell.origin.tolist()):
        if group_of[site] >= 0:
            species = sites.groups[group_of[site]].species
            groups.append(Group(str(s), (s,), species))
            weight += (starts[group_of[site]] + np.arange(len(species))).tolist()
    return make_sites([occupant[s] for s in supercell.origin.tolist()], tuple(groups)), np.array(weight)


def _variants(sites: Sites, group_of, symmetry: Symmetry, kind: str, size: int):
    """Site, chances, and weights as in `Variants`; a vacancy is the species after the last and has no weight."""
    starts = np.cumsum([0] + [len(group.species) for group in sites.groups])
    place, found, vacant = 0, [], []  # of the site's first weight: the supercell begins with the sites of the cell
    for site, group in enumerate(group_of.tolist()):
        if group < 0:
            continue
        count = len(sites.groups[group].species)
        if symmetry.first[site] == site:
            own = np.zeros((count + 1, size))
            own[np.arange(count), place + np.arange(count)] = 1
            chance = np.append(starts[group] + np.arange(count), starts[-1] + group)
            if kind == "site-exact":
                others = 1 - own.sum(0)
                found += [(site, chance[k : k + 1], others, own[k]) for k in range(count)]
                vacant.append((site, chance[count:], others, own[count]))
            else:
                pairs = combinations(range(count + 1), 2)
                found += [(site, chance[[k, m]], None, own[k] - own[m]) for k, m in pairs]
        place += count
    site, chance, kept, change = zip(*found, *vacant, strict=True)
    exact = kind == "site-exact"
    return np.array(site), np.array(chance), np.array(kept) if exact else None, np.array(change)
