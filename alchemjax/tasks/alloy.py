"""The alchemical Hamiltonian: the energy of every arrangement of a crystal, from sites and pairs in the mean of it.

One site in a state k, and two, with all others at the mean composition and the atoms around them at rest:

    E = E0 + sum_i e_i[k_i] + 1/2 sum_(i != j) V_ij[k_i, k_j]
    e_i[k] = E(i = k) - E0          V_ij[k, l] = E(i = k, j = l) - E(i = k) - E(j = l) + E0

Without `exact_pairs` V is taken to second order in d = p - w, with p the occupation of every site and w its mean, and
atoms that are displaced by u(d) = -Huu^+ Huw d: V_ij[k, l] = d_i Heff_ij d_j, Heff = Hww - Hwu Huu^+ Huw.
A box strains as a whole and gains F C^-1 F / 2, with F, dE/dstrain, and the stiffness C, d2E/dstrain2 with atoms that
follow strain as in the mean crystal, both of the same form as E. The energy of a random alloy is the mean over states
that are independent of each other, E0 + sum_i sum_k w_ik e_i[k] + 1/2 sum_(i != j) w_i V_ij w_j, minus what its own
strain gains. Waves of displacement of infinite length, which a supercell lacks, add
-<(f_i n) (n C n)^-1 (f_j n)>_n / cells to V_ij, and half of that to e_i, the mean being that over directions n, f_i
dE/dstrain to first order in d; not to F. States of a site are its species, then vacancy.

F. Ducastelle, F. Gautier, J. Phys. F 6, 2039 (1976); A. G. Khachaturyan, Theory of Structural Transformations in
Solids (1983), on concentration waves and strain.
"""

from collections.abc import Callable, MutableMapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from alchemjax.calculate import check_kind, with_fluctuations
from alchemjax.model.load import Potential
from alchemjax.system.structure import Structure, completed_cell, wrapped
from alchemjax.system.supercell import Supercell, lattice_vectors
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.clusters import make_medium, pairs_of_sites, single_sites
from alchemjax.tasks.crystal import make_crystal
from alchemjax.tasks.hessian import STRAINS, VOIGT, by_strains, by_two_strains, make_hessian
from alchemjax.tasks.lattice import symmetric_index
from alchemjax.tasks.response import make_response
from alchemjax.tasks.states import between, mixed_states, symmetric

DIRECTIONS = 1000
LARGE_FORCE = 0.05  # eV/A
LARGE_STRAIN = 0.003
DOUBTFUL = 0.005  # eV per site
LARGE_PAIRS = 0.01  # eV per site
ROUND_OFF = 0.001  # eV per site


class Alloy(NamedTuple):
    """Interactions in a crystal at its mean composition; the mixed sites are those of the cell in several states."""

    structure: Structure  # of the cell
    site: Int[np.ndarray, "mixed"]  # of the cell
    sublattice: Int[np.ndarray, "mixed"]  # the group of the site
    species: tuple[str, ...]  # the states, of all groups together
    weights: Float[np.ndarray, "mixed states"]  # mean occupation
    allowed: Bool[np.ndarray, "mixed states"]
    supercell: Supercell
    energy: float  # E0 [eV per cell]
    field: Float[np.ndarray, "mixed states"]  # E(mean, site = state) - E0 [eV]
    second_order: Float[np.ndarray, "mixed states"]  # the same, to second order [eV]
    pair: Float[np.ndarray, "mixed cells mixed states states"]  # V of a site and one of the supercell [eV]
    largest_force: float  # of the random alloy on its sites, taken for zero [eV/A]
    pair_relaxation: Float[np.ndarray, "mixed cells mixed states states"] | None = None  # what it gains at rest [eV]
    displacement: Float[np.ndarray, "mixed states supersites 3"] | None = None  # of all sites by a site in a state [A]
    relaxation: Float[np.ndarray, "mixed states"] | None = None  # what these gain [eV]
    at_rest: Bool[np.ndarray, "mixed states"] | None = None  # where not, it is of second order
    pair_at_rest: Bool[np.ndarray, "mixed cells mixed states states"] | None = None  # None: all of second order
    strain_force: Float[np.ndarray, "mixed states 6"] | None = None  # dE/dstrain of a site in a state, first order [eV]
    own_strain: Float[np.ndarray, "mixed states 27"] | None = None  # the rest of it, 21 second derivatives behind [eV]
    pair_strain: Float[np.ndarray, "mixed cells mixed states states 27"] | None = None  # the same of pairs [eV]
    stiffness: Float[np.ndarray, "6 6"] | None = None  # second derivatives at the mean composition [eV per cell]
    softest: float | None = None  # smallest eigenvalue of Huu but for translations [eV/A^2]
    residual: Float[np.ndarray, "6"] | None = None  # dE/dstrain of the random alloy on its sites [eV per cell]
    cutoff: float | None = None  # of the potential [A]
    round_off: float | None = None  # of energies, as it may add up in all pairs [eV per cell]


def alloy(
    potential: Potential,
    system: System,
    weights=None,
    *,
    relaxed: bool = True,
    exact_pairs: bool = True,
    supercell=None,
    on_rows: Callable[[int, int], None] | None = None,
    known_pairs: MutableMapping[int, tuple] | None = None,
) -> Alloy:
    """The alchemical Hamiltonian at the structure of the random alloy: first `relax` with fluctuations="site-exact".

    For strain the cell too (cell=True); `doubts` tells what was forgotten. Where displacements strain the cell much
    (`strain_by_displacements`), an alloy made in the strained cell knows its lattice constants better.

    Without `relaxed` atoms stay on their sites and the cell as it is. Without `exact_pairs` pairs are of second order
    and do not change with strain, which saves an evaluation, or a relaxation, of every inequivalent pair in the
    supercell, in all states. `supercell` as in `calculate`: interactions are those between its sites and all their
    images. `on_rows(done, all)` is called after every few rows of derivatives, and again of pairs. `known_pairs` is
    filled with what was found of pairs: the same call with it does not evaluate these again.

    Errors: ValueError as in `calculate`, for a pure composition, and if the crystal is unstable against displacements.
    """
    check_kind(potential, Potential)
    check_kind(system, System)
    weights = checked_weights(system, weights)
    fluctuations = with_fluctuations(potential, system, "site-exact", supercell).fluctuations
    if fluctuations is None:
        raise ValueError("no site of this system is mixed; give mix={symbol: (species, ...)} or partial occupancies")
    states = mixed_states(system, weights)
    crystal = make_crystal(system, fluctuations, weights)
    hessian = make_hessian(potential, crystal, fluctuations, on_rows)
    response = make_response(crystal, states, hessian) if relaxed else None
    medium = make_medium(potential, crystal, states, response)
    single = single_sites(medium, fluctuations)
    pair = symmetric(between(hessian.weights_weights, crystal, states), crystal)
    found = Alloy(
        wrapped(system.structure),
        *states[:5],
        crystal.supercell,
        single.energy,
        single.field,
        single.first_order + own_pair(pair) / 2,
        pair,
        largest_force=single.largest_force,
        residual=single.residual,
        cutoff=potential.cutoff,
    )
    if response is not None:
        found = found._replace(
            pair_relaxation=response.pair,
            displacement=np.where(single.at_rest[..., None, None], single.moved, response.displacement),
            relaxation=single.gained,
            at_rest=single.at_rest,
            softest=response.softest,
        )
        if response.stiffness is not None:
            own = by_strains(single.strain) - response.strain_force, by_two_strains(single.elastic)
            own = np.where(single.at_rest[..., None], np.concatenate(own, axis=-1), 0)
            found = found._replace(strain_force=response.strain_force, own_strain=own, stiffness=response.stiffness)
    if not exact_pairs:
        return found
    pairs = pairs_of_sites(medium, fluctuations, single, on_rows, known_pairs)
    beyond, number = np.ones(pair.shape, bool), np.arange(len(pair))
    beyond[number, 0, number] = False  # a site and its own images
    found = found._replace(
        pair=np.where(beyond, pairs.energy, pair), pair_at_rest=pairs.at_rest, round_off=pairs.round_off
    )
    if response is not None:
        found = found._replace(pair_relaxation=np.where(beyond & pairs.at_rest, pairs.gained, response.pair))
    return found if found.stiffness is None else found._replace(pair_strain=pairs.strain)


def doubts(alloy: Alloy) -> list[str]:
    """What speaks against predictions of an alloy, in sentences; `validate` tells how wrong they are."""
    found, sites = [], len(alloy.structure.positions)
    if alloy.displacement is not None and alloy.largest_force > LARGE_FORCE:
        found.append(
            f"a force of {alloy.largest_force:.2g} eV/A is left in the random alloy, and displacements start from "
            'atoms at rest; relax the structure first, with fluctuations="site-exact"'
        )
    if alloy.stiffness is not None and alloy.residual is not None:
        strain = float(np.abs(np.linalg.solve(alloy.stiffness, alloy.residual)).max())
        if strain > LARGE_STRAIN:
            found.append(
                f"the cell of the random alloy, on its sites, would strain by {100 * strain:.2g} per cent, in linear "
                'elasticity; relax it first with cell=True and fluctuations="site-exact"'
            )
    if alloy.cutoff is not None:
        cell = alloy.supercell.matrix @ completed_cell(alloy.structure)
        near = lattice_vectors(cell, alloy.structure.pbc, alloy.cutoff)
        if len(near):
            found.append(
                f"in the supercell of the derivatives a site is {np.linalg.norm(near @ cell, axis=1).min():.3g} A from "
                f"its own images, nearer than the cutoff of {alloy.cutoff:g} A: interactions of neighbours, and waves, "
                "are mixed up; give a larger supercell"
            )
    if alloy.at_rest is not None and not alloy.at_rest.all():
        states = [alloy.species[k] for k in np.flatnonzero(~alloy.at_rest.all(0))]
        found.append(
            f"around {', '.join(states)} atoms do not come to rest near their sites, as in a crystal of another kind "
            "(tilts, for instance): displacements there are taken to second order, see validate"
        )
    if alloy.pair_at_rest is not None:
        return found + _doubts_of_pairs(alloy)
    found += _too_large(
        (alloy.weights * (alloy.field - alloy.second_order)).sum() / sites,
        DOUBTFUL,
        "one site at a time, the second order misses {} of the random alloy; pairs will be no better",
    )
    if alloy.relaxation is not None and alloy.pair_relaxation is not None:
        found += _too_large(
            (alloy.weights * (alloy.relaxation - own_pair(alloy.pair_relaxation) / 2)).sum() / sites,
            DOUBTFUL,
            "around one site at a time, displacements of second order miss {} of the random alloy; those around pairs "
            "will be no better",
        )
    return found


def _doubts_of_pairs(alloy: Alloy) -> list[str]:
    assert alloy.pair_at_rest is not None
    sites, found = len(alloy.structure.positions), []
    chance = np.einsum("mk,nl->mnkl", alloy.weights, alloy.weights)[:, None]
    restless = (chance * ~alloy.pair_at_rest).sum() / alloy.pair[..., 0, 0].size
    if restless > 0:
        found.append(
            f"around {restless:.2g} of all pairs atoms do not come to rest near their sites: displacements there are "
            "taken to second order, see validate"
        )
    shared = (alloy.weights * _in_the_mean(alloy, _pairs(alloy, True))[0]).sum() / sites
    found += _too_large(
        shared, LARGE_PAIRS, "two sites at a time change the energy of the random alloy by {}; three, left out, may too"
    )
    return found + _too_large(
        (alloy.round_off or 0.0) / sites,
        ROUND_OFF,
        "round-off of the potential, in every pair of a large supercell, may add up to {}; take float64",
    )


def _too_large(error: float, limit: float, sentence: str) -> list[str]:
    """The sentence for an error that is more than the limit [eV per site]."""
    if abs(error) <= limit:
        return []
    return [sentence.format(f"{1000 * error:+.1f} meV per site") + ", see validate"]


def random_energy(alloy: Alloy, *, relaxed: bool = True) -> float:
    """Energy of the random alloy [eV per cell]; where the alloy has them with static displacements and their strain."""
    single = float((alloy.weights * site_energies(alloy, relaxed=relaxed)).sum())
    return alloy.energy + single + (own_strain_energy(alloy) if relaxed else 0.0)


def own_strain_energy(alloy: Alloy) -> float:
    """What the random alloy gains as its cell follows the displacements [eV per cell]."""
    if alloy.stiffness is None:
        return 0.0
    force, _, amounts = strain_of_random(alloy)
    return float(force @ amounts) / 2


def site_energies(alloy: Alloy, *, relaxed: bool = True) -> Float[np.ndarray, "mixed states"]:
    """Energy of a site in a state, all others being random and, if `relaxed`, the atoms at rest [eV]."""
    return _in_the_mean(alloy, _pairs(alloy, relaxed))[0] + _alone(alloy, relaxed)


def pair_energies(alloy: Alloy, *, relaxed: bool = True) -> Float[np.ndarray, "mixed cells mixed states states"]:
    """What a mixed site of the cell and one of the supercell have beyond their `site_energies` [eV].

    The mean over either site is 0.
    """
    return _in_the_mean(alloy, _pairs(alloy, relaxed))[1]


def strain_forces(alloy: Alloy):
    """Derivatives by strain [eV] as `site_energies` and as `pair_energies`, [mixed, states, 27] and [..., 27].

    6 by the engineering strains, then 21 by two of them, beyond those at the mean composition. What the random alloy
    has on its sites, in a cell that is not at rest, is shared by the mixed sites.
    """
    if alloy.strain_force is None or alloy.own_strain is None:
        return np.zeros((*alloy.weights.shape, 0)), np.zeros((*alloy.pair.shape, 0))
    single = alloy.own_strain.copy()
    single[..., :6] += alloy.strain_force
    if alloy.residual is not None:
        single[..., :6] += np.where(alloy.allowed[..., None], alloy.residual / len(single), 0)
    if alloy.pair_strain is None:
        return single, np.zeros((*alloy.pair.shape, single.shape[-1]))
    shared, beyond = _in_the_mean(alloy, alloy.pair_strain)
    return single + shared, beyond


def _alone(alloy: Alloy, relaxed: bool):
    """A site in a state, all others at the mean composition."""
    if not relaxed or alloy.relaxation is None:
        return alloy.field
    own = own_pair(mean_long_wave(alloy)[:, None]) / (2 * alloy.pair.shape[1])
    return alloy.field + alloy.relaxation + np.where(alloy.allowed, own, 0)


def _pairs(alloy: Alloy, relaxed: bool):
    """V in the infinite crystal."""
    if not relaxed or alloy.pair_relaxation is None:
        return alloy.pair
    return alloy.pair + alloy.pair_relaxation + (mean_long_wave(alloy) / alloy.pair.shape[1])[:, None]


def _in_the_mean(alloy: Alloy, pair):
    """What pairs give to each of their sites, in the mean over the other, and what is beyond that.

    A pair's mean over both is shared by the two.
    """
    number, weights = np.arange(len(pair)), alloy.weights
    own = pair[number, 0, number]
    pair = pair.copy()
    pair[number, 0, number] = 0  # a site and its own images
    one = np.einsum("mcnkl...,nl->mcnk...", pair, weights)
    other = np.einsum("mcnkl...,mk->mcnl...", pair, weights)
    mean = np.einsum("mcnk...,mk->mcn...", one, weights)
    there = alloy.allowed[:, None, None, :, None] & alloy.allowed[:, None]
    more = (1,) * (pair.ndim - 5)
    beyond = pair - one[:, :, :, :, None] - other[:, :, :, None] + mean[:, :, :, None, None]
    beyond = beyond * there.reshape(*there.shape, *more)
    beyond[number, 0, number] = own
    shared = one.sum((1, 2)) - mean.sum((1, 2))[:, None] / 2
    return shared * alloy.allowed.reshape(*alloy.allowed.shape, *more), beyond


def long_waves(alloy: Alloy) -> Float[np.ndarray, "directions mixed mixed states states"]:
    """Interaction through displacements of infinite wavelength along many directions, times the number of cells [eV].

    Without strain it is 0.
    """
    if alloy.strain_force is None or alloy.stiffness is None:
        return np.zeros((1, *alloy.pair[:, 0].shape))
    force, moved = _elastic_response(alloy)
    return -np.einsum("dmki,dnli->dmnkl", force, moved)


def mean_long_wave(alloy: Alloy) -> Float[np.ndarray, "mixed mixed states states"]:
    """The mean of `long_waves` over directions [eV]."""
    if alloy.strain_force is None or alloy.stiffness is None:
        return np.zeros(alloy.pair[:, 0].shape)
    force, moved = _elastic_response(alloy)
    return -np.einsum("dmki,dnli->mnkl", force, moved, optimize=True) / len(force)


def _elastic_response(alloy: Alloy):
    """f n and (n C n)^-1 f n for directions n all over the sphere, [directions, mixed, states, 3]."""
    assert alloy.strain_force is not None and alloy.stiffness is not None
    rank = np.arange(DIRECTIONS) + 0.5
    height, angle = 1 - 2 * rank / DIRECTIONS, np.pi * (1 + 5**0.5) * rank  # Fibonacci's points on a sphere
    directions = np.stack([*(np.sqrt(1 - height**2) * (np.cos(angle), np.sin(angle))), height], axis=1)
    tensor = VOIGT[:, :, None, None], VOIGT
    force = np.einsum("mkij,dj->dmki", alloy.strain_force[..., VOIGT], directions)
    resistance = np.einsum("ijkl,dj,dl->dik", alloy.stiffness[tensor], directions, directions)
    return force, np.linalg.solve(resistance[:, None, None], force[..., None])[..., 0]


def mean_square_displacements(alloy: Alloy) -> Float[np.ndarray, "sites 3 3"]:
    """Static <u u> in the random alloy of every site of the cell [A^2].

    Waves that are longer than the supercell are those of elasticity, up to the radius of a sphere in reciprocal space
    that holds one wave of the supercell. Without strain (a direction that is not periodic) they are missing.
    Errors: ValueError for an alloy without displacements.
    """
    if alloy.displacement is None:
        raise ValueError("this alloy was made with relaxed=False and knows no displacements; make it with relaxed=True")
    sites = len(alloy.structure.positions)
    by_cell = alloy.displacement.reshape(*alloy.weights.shape, -1, sites, 3)
    squares = np.einsum("mk,mkcsx,mkcsy->sxy", alloy.weights, by_cell, by_cell)
    if alloy.strain_force is None or alloy.stiffness is None:
        return squares
    _, moved = _elastic_response(alloy)
    space = abs(np.linalg.det(alloy.structure.cell))
    radius = (6 * np.pi**2 / (space * alloy.pair.shape[1])) ** (1 / 3)
    longer = np.einsum("mk,dmkx,dmky->xy", alloy.weights, moved, moved) / DIRECTIONS
    return squares + space * radius / (2 * np.pi**2) * longer


def strain_by_displacements(alloy: Alloy) -> Float[np.ndarray, "3 3"]:
    """Homogeneous strain of the random alloy because its atoms are displaced, in linear elasticity; with that by pairs.

    Errors: ValueError for an alloy without displacements or strain.
    """
    if alloy.stiffness is None:
        raise ValueError("strain by displacements needs an alloy with relaxed=True, periodic in every direction")
    return np.tensordot(strain_of_random(alloy)[2], STRAINS, 1)


def strain_of_random(alloy: Alloy):
    """dE/dstrain of the random alloy by its displacements, its stiffness, and how it strains; for one cell [eV]."""
    assert alloy.stiffness is not None
    force, more = np.split(np.einsum("mk,mke->e", alloy.weights, strain_forces(alloy)[0]), [6])
    stiffness = alloy.stiffness + more[symmetric_index(6)]
    return force, stiffness, -np.linalg.solve(stiffness, force)


def own_pair(pair):
    """Of a site with itself and in one state, [mixed, states]."""
    number = np.arange(len(pair))
    return np.diagonal(pair[number, 0, number], axis1=1, axis2=2)
