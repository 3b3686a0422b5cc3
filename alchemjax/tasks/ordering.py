"""What the interactions of an alloy say about order: concentration waves, mean-field instability, short-range order.

In functions phi_a of the state of a site that are orthonormal in the random alloy (sum_k w_k phi_a phi_b = delta_ab,
sum_k w_k phi_a = 0) the interactions are J_ab(R), and their lattice Fourier transform J(q) gives

    k_B T_0 = -min_q eigenvalue of J(q)           the random alloy becomes unstable, in mean field
    G(q) = (1 + J(q) / k_B T - Lambda)^-1         correlations, with Lambda such that the mean of G_ii(q) is 1

For a binary with concentration c on one site: J(q) = c (1 - c) S2(q), and G(R) is the Warren-Cowley parameter.

M. A. Krivoglaz, Theory of X-Ray and Thermal Neutron Scattering by Real Crystals (1969); P. C. Clapp, S. C. Moss, Phys.
Rev. 142, 418 (1966); R. V. Chepulskii, V. N. Bugaev, J. Phys. Condens. Matter 10, 7309 (1998), on Lambda.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Int

from alchemjax.system.structure import Structure, completed_cell
from alchemjax.system.supercell import box_for, numbering
from alchemjax.tasks.alloy import (
    Alloy,
    long_waves,
    mean_long_wave,
    pair_energies,
    site_energies,
    strain_forces,
    strain_of_random,
)
from alchemjax.tasks.lattice import LatticeModel, Strains, powers, symmetric_index, with_images
from alchemjax.units import KELVIN

SAME_DISTANCE = 1e-3  # A
MOST_STEPS = 200  # of Newton's method
SUM_RULE = 1e-7  # how exactly the mean over q is 1


class Interactions(NamedTuple):
    """Pairs of mixed sites, each in both directions: `first` in the cell, `second` so many cells away."""

    first: Int[np.ndarray, "pairs"]  # among the mixed sites
    second: Int[np.ndarray, "pairs"]
    cell: Int[np.ndarray, "pairs 3"]
    distance: Float[np.ndarray, "pairs"]  # A
    energy: Float[np.ndarray, "pairs states states"]  # eV; its mean over either site is 0
    strain: Float[np.ndarray, "pairs states states terms"]  # its derivatives by strain, first and second ones [eV]


class Waves(NamedTuple):
    """Concentration waves; for a binary on one site their energy is c (1 - c) S2(q), without its on-site term."""

    q: Float[np.ndarray, "waves 3"]  # in units of the reciprocal vectors of the cell
    energy: Float[np.ndarray, "waves modes"]  # eigenvalues of J(q), increasing [eV]
    polarisation: Complex[np.ndarray, "waves modes mixed states"]  # change of occupation


class ShortRangeOrder(NamedTuple):
    """Warren-Cowley parameters 1 - P_kl(R) / (w_k w_l)."""

    temperature: float  # K
    alpha: Float[np.ndarray, "pairs states states"]  # of the pairs of `Interactions`; NaN where a state has weight 0


def interactions(alloy: Alloy, *, relaxed: bool = True) -> Interactions:
    """Every interaction at the shortest distance of a site from the images of the other, shared among equals."""
    energy, strain = pair_energies(alloy, relaxed=relaxed), strain_forces(alloy)[1]
    strain = strain if relaxed and alloy.pair_strain is not None else strain[..., :0]
    positions, found = alloy.structure.positions[alloy.site], []
    cells, which = _cells_around(alloy)
    for m, start in enumerate(positions):
        for n, end in enumerate(positions):
            distance = np.linalg.norm(end - start + cells @ alloy.structure.cell, axis=-1)
            least = np.full(energy.shape[1], np.inf)
            np.minimum.at(least, which, distance)
            nearest = distance < least[which] + SAME_DISTANCE
            share = np.bincount(which[nearest], minlength=len(least))
            nearest &= (which != 0) | (m != n)
            here = which[nearest]
            parts = [(a[m, here, n].T / share[here]).T for a in (energy, strain)]
            ends = [np.full(len(here), end) for end in (m, n)]
            found.append((*ends, cells[nearest], distance[nearest], *parts))
    return Interactions(*map(np.concatenate, zip(*found, strict=True)))


def _cells_around(alloy: Alloy):
    """Lattice vectors in a ball with the nearest image of every site, and which cell of the supercell each is."""
    cell, pbc = completed_cell(alloy.structure), alloy.structure.pbc
    cell_of = numbering(alloy.supercell, len(alloy.structure.positions))
    apart = np.ptp(alloy.structure.positions @ np.linalg.inv(cell), axis=0) @ np.abs(cell)
    margin, reach, cells = 2 * np.linalg.norm(apart), 1.0, alloy.pair.shape[1]
    while True:
        most = np.ceil((reach + margin) * np.linalg.norm(np.linalg.inv(cell), axis=0)).astype(int) * pbc
        around = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), -1).reshape(-1, 3)
        length = np.linalg.norm(around @ cell, axis=-1)
        if len(set(cell_of(around[length <= reach]).tolist())) == cells:
            around = around[length <= reach + margin]
            return around, cell_of(around)
        reach *= 1.3


def lattice_model(alloy: Alloy, shape, *, relaxed: bool = True) -> LatticeModel:
    """The energy of all arrangements in a box of shape n1 x n2 x n3 cells.

    Interactions are taken at their shortest distance and folded into the box; the box strains as a whole.
    Errors: ValueError as in `check_box`.
    """
    shape = np.asarray(shape)
    check_box(alloy.structure, shape)
    mixed, states = alloy.weights.shape
    pair = np.zeros((*shape, mixed, mixed, states, states))
    given = interactions(alloy, relaxed=relaxed)
    where = *(given.cell % shape).T, given.first, given.second
    np.add.at(pair, where, given.energy)
    field = site_energies(alloy, relaxed=relaxed)
    if not relaxed or alloy.stiffness is None:
        return LatticeModel(np.asarray(alloy.energy), *with_images(field, pair), alloy.allowed, alloy.sublattice)
    pair -= mean_long_wave(alloy) / shape.prod()  # the box has no waves of infinite length; it strains as a whole
    single = strain_forces(alloy)[0]
    strained = np.zeros((*pair.shape, single.shape[-1]))
    if alloy.pair_strain is not None:
        np.add.at(strained, where, given.strain)
    constants = np.asarray(alloy.energy), *with_images(field, pair), alloy.allowed, alloy.sublattice
    strains = Strains(*with_images(single, strained), alloy.stiffness * shape.prod())
    return LatticeModel(*constants, strains)


def check_box(structure: Structure, shape: np.ndarray, shown: str | None = None) -> None:
    """Errors: ValueError for no three positive whole numbers, or more cells than 1 along a direction without periods.

    `shown` is what the shape is called.
    """
    shown = f"shape = {shape.tolist()}" if shown is None else shown
    if shape.shape != (3,) or shape.dtype.kind not in "iu" or (shape < 1).any():
        raise ValueError(f"{shown} must be three positive whole numbers: cells along every vector")
    if (shape[~structure.pbc] > 1).any():
        raise ValueError(f"{shown} repeats a direction without periodicity; give 1 there")


def box_of(alloy: Alloy, least: int, most: int, *, even: bool = False) -> tuple[int, ...]:
    """`box_for` the crystal of an alloy, with its composition in whole atoms."""
    per_cell = np.stack([alloy.weights[alloy.sublattice == s].sum(0) for s in np.unique(alloy.sublattice)])
    return box_for(alloy.structure, per_cell, least, most, even=even)


# --- concentration waves ----------------------------------------------------------------------------------------------


def grid(alloy: Alloy, points: int) -> Float[np.ndarray, "waves 3"]:
    """A regular grid of so many points along every periodic direction."""
    axes = [np.arange(points if periodic else 1) / points for periodic in alloy.structure.pbc]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def fourier(alloy: Alloy, q, *, relaxed: bool = True) -> Complex[np.ndarray, "waves modes modes"]:
    """J(q) [eV] between functions of the states of every mixed site; at q = 0 the mean over directions.

    Errors: ValueError for q that are no wave vectors.
    """
    given = interactions(alloy, relaxed=relaxed)
    phases = np.exp(-2j * np.pi * _checked_waves(q) @ given.cell.T)
    summed = np.zeros((len(phases), len(alloy.site), len(alloy.site), *given.energy.shape[1:]), complex)
    for m in range(len(alloy.site)):
        for n in range(len(alloy.site)):
            which = (given.first == m) & (given.second == n)
            summed[:, m, n] = np.tensordot(phases[:, which], given.energy[which], 1)
    found = _in_modes(alloy, summed)
    return (found + found.conj().transpose(0, 2, 1)) / 2


def _in_modes(alloy: Alloy, energies):
    """[..., mixed, mixed, states, states] in the functions of `_basis`."""
    basis, site = _basis(alloy)
    weighted = basis * alloy.weights[site]
    return np.einsum("ak,qabkl,bl->qab", weighted, energies[:, site][:, :, site], weighted, optimize=True)


def concentration_waves(alloy: Alloy, q, *, relaxed: bool = True) -> Waves:
    """Energies and polarisations of the concentration waves with wave vectors q, [3] or [waves, 3].

    Errors: ValueError for q that are no wave vectors.
    """
    q = _checked_waves(q)
    return _waves(alloy, q, fourier(alloy, q, relaxed=relaxed))


def _checked_waves(q) -> Float[np.ndarray, "waves 3"]:
    try:
        waves = np.atleast_2d(np.asarray(q, float))
    except (TypeError, ValueError):
        waves = np.empty(0)
    if waves.shape[1:] != (3,) or not np.isfinite(waves).all():
        raise ValueError(
            f"q = {str(q):.80} are no wave vectors; give three finite numbers for each, like [[0.5, 0, 0]]"
        )
    return waves


def _waves(alloy: Alloy, q, matrices) -> Waves:
    energy, vectors = np.linalg.eigh(matrices)
    basis, site = _basis(alloy)
    occupation = np.zeros((*energy.shape, *alloy.weights.shape), complex)
    for mode, (m, function) in enumerate(zip(site, basis, strict=True)):
        occupation[:, :, m] += vectors[:, mode, :, None] * (alloy.weights[m] * function)
    return Waves(q, energy, occupation)


def instability(alloy: Alloy, points: int = 12, *, relaxed: bool = True) -> tuple[float, Waves]:
    """Temperature [K] at which the random alloy orders or separates in mean field, and the wave by which it does.

    All parts share one lattice (coherent separation, along the direction that costs the least strain); see `spinodal`.
    """
    waves = concentration_waves(alloy, grid(alloy, points), relaxed=relaxed)
    if relaxed:  # at q = 0 the grid has the mean over directions
        directions = long_waves(alloy)
        uniform = fourier(alloy, np.zeros((1, 3))) + _in_modes(alloy, directions - directions.mean(0))
        along = _waves(alloy, np.zeros((len(uniform), 3)), uniform)
        waves = Waves(*(np.concatenate(both) for both in zip(waves, along, strict=True)))
    first = int(np.argmin(waves.energy[:, 0]))
    return max(0.0, -waves.energy[first, 0] / KELVIN), Waves(*(a[first : first + 1] for a in waves))


def spinodal(alloy: Alloy) -> float:
    """Temperature [K] below which the alloy separates in mean field into parts of lattice constants of their own.

    Only the compositions of sublattices count, all sites of one alike: order within a cell is no separation.
    Errors: ValueError for an alloy that does not know how sites couple to strain.
    """
    if alloy.stiffness is None or alloy.strain_force is None:
        raise ValueError("the spinodal needs strain: make the alloy with relaxed=True, periodic in every direction")
    basis, site = _basis(alloy)
    single, pair = strain_forces(alloy)
    _, stiffness, strain = strain_of_random(alloy)
    slope = single[..., :6] + single[..., 6:][..., symmetric_index(6)] @ strain
    force = np.einsum("ak,akx->ax", basis * alloy.weights[site], slope[site])
    strained = pair.sum(1) @ powers(strain, np)  # the pairs at the strain of the random alloy
    added = _in_modes(alloy, (strained - mean_long_wave(alloy))[None])[0]
    uniform = fourier(alloy, np.zeros((1, 3)))[0].real + added - force @ np.linalg.solve(stiffness, force.T)
    same = alloy.sublattice[site][:, None] == alloy.sublattice[site]
    same &= np.isclose(basis[:, None], basis).all(-1)
    together = same / same.sum(1, keepdims=True)  # projects on modes that are alike on all sites of a sublattice
    return max(0.0, -np.linalg.eigvalsh(together @ uniform @ together)[0] / KELVIN)


def short_range_order(alloy: Alloy, temperature: float, points: int = 12, *, relaxed: bool = True) -> ShortRangeOrder:
    """Krivoglaz-Clapp-Moss correlations of all pairs of `interactions` at a temperature [K].

    Errors: ValueError for a temperature that is not positive.
    """
    try:
        kelvin = float(temperature)
    except (TypeError, ValueError):
        kelvin = np.nan
    if not 0 < kelvin < np.inf:
        raise ValueError(f"temperature = {temperature!r} K must be positive; give one finite number")
    q = grid(alloy, points)
    basis, site = _basis(alloy)
    together = site[:, None] == site[None]
    given = interactions(alloy, relaxed=relaxed)
    bare = np.eye(len(site)) + fourier(alloy, q, relaxed=relaxed) / (KELVIN * kelvin)
    correlation = _on_shell(bare, together)
    phases = np.exp(2j * np.pi * given.cell @ q.T) / len(q)
    between = np.einsum("pq,qab->pab", phases, correlation).real
    select = (site[None, :] == given.first[:, None])[:, :, None] & (site[None, :] == given.second[:, None])[:, None]
    alpha = -np.einsum("ak,pab,bl->pkl", basis, np.where(select, between, 0), basis)
    present = alloy.weights > 0
    there = present[given.first][:, :, None] & present[given.second][:, None]
    return ShortRangeOrder(kelvin, np.where(there, alpha, np.nan))


def _on_shell(bare, together):
    """(bare - Lambda)^-1, of which the mean over q is 1 between the modes of one site.

    Lambda maximises mean log det(bare - Lambda) + tr Lambda, a concave function: Newton's method with halved steps.
    """
    modes, pairs = len(together), np.argwhere(np.triu(together))
    directions = np.zeros((len(pairs), modes, modes))
    directions[np.arange(len(pairs)), pairs[:, 0], pairs[:, 1]] = 1
    directions[np.arange(len(pairs)), pairs[:, 1], pairs[:, 0]] = 1

    def height(shift):
        values = np.linalg.eigvalsh(bare - shift)
        return -np.inf if values.min() <= 0 else np.log(values).sum(1).mean() + np.trace(shift)

    shift = min(0.0, np.linalg.eigvalsh(bare).min() - 1) * np.eye(modes)
    for _ in range(MOST_STEPS):
        correlation = np.linalg.inv(bare - shift)
        slope = np.einsum("pij,ij->p", directions, np.eye(modes) - correlation.real.mean(0))
        if np.abs(slope).max(initial=0) < SUM_RULE:
            break
        applied = np.einsum("pij,qjk->pqik", directions, correlation)
        curvature = np.einsum("pqik,rqki->pr", applied, applied).real / len(bare)
        step = np.einsum("p,pij->ij", np.linalg.solve(curvature, slope), directions)
        now, size = height(shift), 1.0
        while height(shift + size * step) < now and size > 1e-9:
            size /= 2
        shift = shift + size * step
    else:
        raise ValueError("the sum rule of short-range order was not reached; take a higher temperature")
    return np.linalg.inv(bare - shift)


def _basis(alloy: Alloy):
    """Orthonormal functions of the state of a site, [modes, states], and which mixed site each belongs to."""
    functions, site = [], []
    for m, weights in enumerate(alloy.weights):
        root = np.sqrt(weights)
        present = weights > 0
        complement = np.linalg.svd(root[None, present])[2][1:]
        function = np.zeros((len(complement), len(weights)))
        function[:, present] = complement / root[present]
        functions.append(function)
        site += [m] * len(function)
    return np.concatenate(functions), np.array(site, int)
