"""The alchemical Hamiltonian: the energy of every arrangement of a crystal, from derivatives at the mean composition.

With p the occupation of every site, w its mean and d = p - w: single sites and the atoms around them to all orders,
pairs to second order, atoms being displaced by u(d) = -Huu^+ Huw d,

    E(p) = E0 + sum_i e_i[k_i] + 1/2 sum_(i != j) d_i Heff_ij d_j,      Heff = Hww - Hwu Huu^+ Huw
    e_i[k] = E(mean, site i = k; atoms at rest) - E0

A box of N cells strains as a whole and gains F (N C)^-1 F / 2, with C the stiffness of a cell and
F = sum_i (strain_force_i + own_strain_i)[k_i] + 1/2 sum_(i != j) d_i (dHeff_ij/dstrain) d_j, single sites to all orders
again. The energy of a random alloy is E0 + sum_i sum_k w_ik e_i[k], minus what its own strain gains. Waves of
displacement of infinite length, which a supercell lacks, add -<(f_i n) (n C n)^-1 (f_j n)>_n / cells to Heff_ij, and
half of that to e_i, the mean being that over directions n; not to derivatives by strain. States of a site are
its species, then vacancy.

F. Ducastelle, F. Gautier, J. Phys. F 6, 2039 (1976); A. G. Khachaturyan, Theory of Structural Transformations in
Solids (1983), on concentration waves and strain.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from alchemjax.calculate import check_kind, with_fluctuations
from alchemjax.model.load import Potential
from alchemjax.system.structure import Structure, completed_cell, wrapped
from alchemjax.system.supercell import Supercell, lattice_vectors
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.hessian import (
    STRAINS,
    VOIGT,
    Crystal,
    Hessian,
    make_crystal,
    make_hessian,
)
from alchemjax.tasks.single_sites import one_at_a_time, relaxed_single_sites
from alchemjax.tasks.states import States, between, everywhere, mixed_states, of_states, symmetric
from alchemjax.tasks.third_order import strain_of_pairs

DIRECTIONS = 1000
LARGE_FORCE = 0.05  # eV/A
LARGE_STRAIN = 0.003
DOUBTFUL = 0.005  # eV per site
SOFT = 1e-4  # of the largest curvature: less is zero, but for round-off
FLAT = 1e-6  # eV/A^2
STRAIGHT = 1e-3  # A, from an axis


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
    pair: Float[np.ndarray, "mixed cells mixed states states"]  # d Hww d' of a site and one of the supercell [eV]
    largest_force: float  # of the random alloy on its sites, taken for zero [eV/A]
    pair_relaxation: Float[np.ndarray, "mixed cells mixed states states"] | None = None  # -d Hwu Huu^+ Huw d' [eV]
    displacement: Float[np.ndarray, "mixed states supersites 3"] | None = None  # of all sites by a site in a state [A]
    relaxation: Float[np.ndarray, "mixed states"] | None = None  # energy of these, and what is beyond them [eV]
    at_rest: Bool[np.ndarray, "mixed states"] | None = None  # where not, `relaxation` is of second order
    strain_force: Float[np.ndarray, "mixed states 6"] | None = None  # dE/dstrain of a site in a state, first order [eV]
    own_strain: Float[np.ndarray, "mixed states 6"] | None = None  # the rest of it [eV]
    pair_strain: Float[np.ndarray, "mixed cells mixed states states 6"] | None = None  # dE/dstrain of pairs [eV]
    stiffness: Float[np.ndarray, "6 6"] | None = None  # second derivative by engineering strains [eV per cell]
    softest: float | None = None  # smallest eigenvalue of Huu but for translations [eV/A^2]
    residual: Float[np.ndarray, "6"] | None = None  # dE/dstrain of the random alloy, taken for 0 [eV per cell]
    cutoff: float | None = None  # of the potential [A]


def alloy(
    potential: Potential,
    system: System,
    weights=None,
    *,
    relaxed: bool = True,
    third_order: bool = True,
    supercell=None,
    on_rows: Callable[[int, int], None] | None = None,
) -> Alloy:
    """The alchemical Hamiltonian at the structure of the random alloy: first `relax` with fluctuations="site-exact".

    For strain the cell too (cell=True); `doubts` tells what was forgotten.

    Without `relaxed` atoms stay on their sites and the cell as it is. `third_order`: how strain changes interactions,
    which takes longer than all the rest; ordered arrangements that strain the cell need it. `supercell` as in
    `calculate`: interactions are those between its sites and all their images. `on_rows(done, all)` is called after
    every few rows of derivatives.

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
    single = one_at_a_time(potential, crystal, fluctuations, states)
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
    if not relaxed:
        return found
    response = _response(crystal, states, hessian)
    relaxed_sites = relaxed_single_sites(potential, crystal, fluctuations, states, response.inverse)
    found = found._replace(
        pair_relaxation=response.pair,
        displacement=response.displacement,
        relaxation=relaxed_sites.energy,
        at_rest=relaxed_sites.at_rest,
        softest=response.softest,
    )
    if response.stiffness is None:
        return found
    found = found._replace(
        strain_force=response.strain_force,
        own_strain=relaxed_sites.strain - response.strain_force,
        stiffness=response.stiffness,
    )
    if not third_order:
        return found
    moved, following = response.displacement, response.following
    return found._replace(
        pair_strain=strain_of_pairs(potential, crystal, fluctuations, states, moved, following, on_rows)
    )


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
                f"the cell of the random alloy would strain by {100 * strain:.2g} per cent more, which is taken for "
                'nothing; relax it first with cell=True and fluctuations="site-exact"'
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
    error = float((alloy.weights * (alloy.field - alloy.second_order)).sum()) / sites
    if abs(error) > DOUBTFUL:
        found.append(
            f"one site at a time, the second order misses {1000 * error:+.1f} meV per site of the random alloy; pairs "
            "will be no better, see validate"
        )
    if alloy.at_rest is not None and not alloy.at_rest.all():
        states = [alloy.species[k] for k in np.flatnonzero(~alloy.at_rest.all(0))]
        found.append(
            f"around {', '.join(states)} atoms do not come to rest near their sites, as in a crystal of another kind "
            "(tilts, for instance): displacements there are taken to second order, see validate"
        )
    if alloy.relaxation is not None and alloy.pair_relaxation is not None:
        second = own_pair(alloy.pair_relaxation) / 2
        error = float((alloy.weights * (alloy.relaxation - second)).sum()) / sites
        if abs(error) > DOUBTFUL:
            found.append(
                f"around one site at a time, displacements of second order miss {1000 * error:+.1f} meV per site of "
                "the random alloy; those around pairs will be no better, see validate"
            )
    return found


def random_energy(alloy: Alloy, *, relaxed: bool = True) -> float:
    """Energy of the random alloy [eV per cell]; where the alloy has them with static displacements and their strain."""
    single = float((alloy.weights * site_energies(alloy, relaxed=relaxed)).sum())
    return alloy.energy + single + (own_strain_energy(alloy) if relaxed else 0.0)


def own_strain_energy(alloy: Alloy) -> float:
    """What the random alloy gains as its cell follows the displacements [eV per cell]."""
    if alloy.stiffness is None or alloy.own_strain is None:
        return 0.0
    force, amounts = _own_strain(alloy.weights, alloy.own_strain, alloy.stiffness)
    return float(force @ amounts) / 2


def pair_energies(alloy: Alloy, *, relaxed: bool = True) -> Float[np.ndarray, "mixed cells mixed states states"]:
    """Of a mixed site of the cell with every mixed site of the supercell, as in the infinite crystal [eV]."""
    if not relaxed or alloy.pair_relaxation is None:
        return alloy.pair
    return alloy.pair + alloy.pair_relaxation + (long_waves(alloy).mean(0) / alloy.pair.shape[1])[:, None]


def long_waves(alloy: Alloy) -> Float[np.ndarray, "directions mixed mixed states states"]:
    """Interaction through displacements of infinite wavelength along many directions, times the number of cells [eV].

    Without strain it is 0.
    """
    if alloy.strain_force is None or alloy.stiffness is None:
        return np.zeros((1, *alloy.pair[:, 0].shape))
    force, moved = _elastic_response(alloy)
    return -np.einsum("dmki,dnli->dmnkl", force, moved)


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
    """Homogeneous strain of the random alloy because its atoms are displaced, in linear elasticity.

    Errors: ValueError for an alloy without displacements or strain.
    """
    if alloy.stiffness is None or alloy.own_strain is None:
        raise ValueError("strain by displacements needs an alloy with relaxed=True, periodic in every direction")
    _, amounts = _own_strain(alloy.weights, alloy.own_strain, alloy.stiffness)
    return np.tensordot(amounts, STRAINS, 1)


def _own_strain(weights, own_strain, stiffness):
    """dE/dstrain of the random alloy by its displacements, and the strain that it causes."""
    force = np.einsum("mk,mke->e", weights, own_strain)
    return force, -np.linalg.solve(stiffness, force)


def site_energies(alloy: Alloy, *, relaxed: bool):
    """Energy of one site in a state, the atoms around it relaxed or not."""
    if not relaxed or alloy.relaxation is None:
        return alloy.field
    own = own_pair(long_waves(alloy).mean(0)[:, None]) / (2 * alloy.pair.shape[1])
    return alloy.field + alloy.relaxation + np.where(alloy.allowed, own, 0)


def own_pair(pair):
    """Of a site with itself and in one state, [mixed, states]."""
    number = np.arange(len(pair))
    return np.diagonal(pair[number, 0, number], axis1=1, axis2=2)


# --- displacements and strain -----------------------------------------------------------------------------------------


class Response(NamedTuple):
    """Interactions through displacements, the displacements, and how sites couple to strain; as in `Alloy`."""

    pair: Float[np.ndarray, "mixed cells mixed states states"]
    displacement: Float[np.ndarray, "mixed states supersites 3"]
    strain_force: Float[np.ndarray, "mixed states 6"]
    stiffness: Float[np.ndarray, "6 6"] | None  # None if not periodic in every direction
    softest: float
    inverse: Float[np.ndarray, "coordinates coordinates"]  # Huu^+ [A^2/eV]
    following: Float[np.ndarray, "supersites 3 6"]  # displacement per strain [A]


def _response(crystal: Crystal, states: States, hessian: Hessian) -> Response:
    supersites = len(crystal.supercell.origin)
    force = of_states(hessian.weights_positions, states)  # [mixed, states, supersites, 3]
    stiffness = everywhere(hessian.positions_positions.transpose(0, 2, 1, 3), crystal)
    stiffness = np.moveaxis(stiffness, 2, 1).reshape(3 * supersites, -1)
    strained = np.tile(hessian.positions_strain, (crystal.cells, 1, 1)).reshape(3 * supersites, -1)
    rotations = _rotations(crystal.system.structure)
    softest, inverse = _inverse((stiffness + stiffness.T) / 2, supersites, rotations)
    moved = -force.reshape(-1, 3 * supersites) @ inverse
    other = np.moveaxis(everywhere(np.moveaxis(force, 2, 1), crystal), 1, 2)
    pair = moved @ other.reshape(-1, 3 * supersites).T
    pair = pair.reshape(*states.weights.shape, crystal.cells, *states.weights.shape).transpose(0, 2, 3, 1, 4)
    pair = symmetric(pair, crystal)
    coupling = of_states(hessian.weights_strain, states) + (moved @ strained).reshape(*states.weights.shape, 6)
    following = -(inverse @ strained).reshape(supersites, 3, 6)
    found = Response(pair, moved.reshape(force.shape), coupling, None, softest, inverse, following)
    if not crystal.system.structure.pbc.all():
        return found
    elastic = (hessian.strain_strain - strained.T @ inverse @ strained) / crystal.cells
    elastic = (elastic + elastic.T) / 2
    if (least := np.linalg.eigvalsh(elastic)[0]) < SOFT * np.abs(elastic).max():
        raise ValueError(
            f"a strain of the cell does not raise its energy (curvature {least:.3g} eV): if a direction is vacuum, "
            "make it non-periodic; relax the structure first, or keep atoms and cell as they are (relaxed=False)"
        )
    return found._replace(stiffness=elastic)


def _rotations(structure: Structure) -> int:
    """How many rotations cost no energy: those of a molecule, of which a linear one has two, or of a chain."""
    if structure.pbc.sum() > 1:
        return 0
    axes = structure.cell[structure.pbc] if structure.pbc.any() else np.eye(3)
    moved = np.cross(axes[:, None], structure.positions - structure.positions.mean(0)).reshape(len(axes), -1)
    sizes = np.linalg.svd(moved, compute_uv=False)
    return int((sizes > STRAIGHT * len(structure.positions) ** 0.5 * np.linalg.norm(axes, axis=1).max()).sum())


def _inverse(stiffness, supersites: int, rotations: int):
    """Smallest eigenvalue but for translations and so many rotations, and the inverse without them.

    Errors: ValueError if the crystal is unstable.
    """
    translation = np.tile(np.eye(3), (supersites, 1)) / supersites**0.5
    aside, apart = np.eye(len(stiffness)) - translation @ translation.T, 2 * np.abs(stiffness).sum(1).max() + 1
    # translations get an eigenvalue of their own, so that no other vector mixes with them
    values, vectors = np.linalg.eigh(aside @ stiffness @ aside - apart * translation @ translation.T)
    rest = 3 + np.sort(np.argsort(np.abs(values[3:]))[rotations:])
    values, vectors = values[rest], vectors[:, rest]
    largest = values.max(initial=FLAT)
    if len(values) and values.min() < SOFT * largest:
        raise ValueError(
            f"the crystal is unstable at the mean composition: {(values < SOFT * largest).sum()} displacements do not "
            f"raise its energy, the smallest curvature is {values.min():.3g} eV/A^2; relax the structure first, or "
            "keep the atoms on their sites (relaxed=False)"
        )
    return float(values.min(initial=np.inf)), (vectors / values) @ vectors.T
