"""What samples of a lattice say: energies, heat capacities, short-range order, transitions, all with errors."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Int

from alchemjax.tasks.sampling import BLOCKS, Samples
from alchemjax.units import KELVIN

BINS = 2000  # of energy, in reweighting
MOST_ITERATIONS = 5000
SAME_DISTANCE = 1e-3  # A
REMEMBERS = 0.7  # correlation of blocks; those of half the correlation time have 0.73
APART = "neighbouring temperatures have hardly any energies in common; sample more, between them"


class Shell(NamedTuple):
    """Pairs at one distance."""

    distance: float  # A
    sublattices: tuple[int, int]  # of c and of c'
    pairs: Int[np.ndarray, "pairs 5"]  # R, c, c'


class Statistics(NamedTuple):
    """Averages with standard errors."""

    temperatures: Float[np.ndarray, "temperatures"]  # K
    energy: Float[np.ndarray, "temperatures"]  # eV per cell
    energy_error: Float[np.ndarray, "temperatures"]
    heat_capacity: Float[np.ndarray, "temperatures"]  # k_B per cell; at constant mu if semi-grand
    heat_capacity_error: Float[np.ndarray, "temperatures"]
    warren_cowley: Float[np.ndarray, "temperatures shells states states"]  # NaN for states that are absent
    warren_cowley_error: Float[np.ndarray, "temperatures shells states states"]
    memory: Float[np.ndarray, "temperatures"]  # correlation of consecutive blocks of the energy


class Transition(NamedTuple):
    """The maximum of the heat capacity."""

    temperature: float  # K
    error: float  # K
    at_edge: bool  # whether it lies, in any resample, at an end of the temperatures: then sample others
    grid: Float[np.ndarray, "points"]  # K
    heat_capacity: Float[np.ndarray, "points"]  # k_B per cell


def shells(cell, positions, sublattice, shape, most_distance: float, *, pbc=True) -> list[Shell]:
    """Pairs of sites up to a distance [A], by distance and sublattices; sites of a negative sublattice are left out.

    Distances are those of the nearest images in the repeated cell; a pair that is as near in several ways counts once.
    """
    cell, positions, sublattice = np.asarray(cell, float), np.asarray(positions, float), np.asarray(sublattice)
    pbc = np.broadcast_to(np.asarray(pbc, int), 3)
    large = cell * np.asarray(shape)[:, None]
    back = np.linalg.inv(large)
    cells = np.indices(shape).reshape(3, -1).T
    apart = ((cells @ cell)[:, None, None] + positions - positions[:, None]) @ back
    apart -= np.round(apart) * pbc
    reach = np.floor(most_distance * np.linalg.norm(back, axis=0) + 0.5).astype(int) * pbc
    images = np.mgrid[tuple(slice(-r, r + 1) for r in reach)].reshape(3, -1).T
    nearest = np.min([np.linalg.norm((apart + image) @ large, axis=-1) for image in images], axis=0)
    nearest[0, range(len(positions)), range(len(positions))] = np.inf
    found = []
    for one, two in zip(*np.triu_indices(max(sublattice) + 1), strict=True):
        fits = (sublattice == one)[:, None] & (sublattice == two) & (nearest <= most_distance)
        r, c, d = np.nonzero(fits)
        order = np.argsort(nearest[fits], kind="stable")
        gaps = np.flatnonzero(np.diff(nearest[fits][order]) > SAME_DISTANCE) + 1
        pairs = np.column_stack([cells[r], c, d])
        for part in np.split(order, gaps) if len(order) else []:
            found.append(Shell(float(nearest[fits][part].mean()), (int(one), int(two)), pairs[part]))
    return sorted(found, key=lambda shell: shell.distance)


def statistics(samples: Samples, shells=()) -> Statistics:
    """Mean energies, heat capacities, and Warren-Cowley parameters of shells, with errors by the jackknife over blocks.

    C = (<H^2> - <H>^2) / (kT)^2               H: energy of the whole lattice, minus sum_k mu_k N_k if semi-grand
    alpha_kl = 1 - P_kl / (w_k w_l)            P: probability of k on the first and l on the second site of a pair,
                                               w: mean compositions of their sublattices (J. M. Cowley, Phys. Rev. 77,
                                               669 (1950)); unlike states of N random sites have -1 / (N - 1)
    Errors are right as long as a block is longer than the memory of its chain: where `memory` is above `REMEMBERS` heat
    capacities are too low and all errors too small; sample more sweeps.
    """
    kinds, cells = samples.composition.shape[-1], int(np.prod(samples.correlations.shape[3:6]))
    heats = KELVIN * samples.temperatures
    blocks = lambda a: np.moveaxis(a.reshape(*a.shape[:2], BLOCKS, -1, *a.shape[3:]).mean(3), 0, 2)
    energy = _jackknife(lambda mean: mean, blocks(samples.energy))
    apart = samples.grand - samples.grand.mean((1, 2), keepdims=True)
    spread = lambda mean, square: cells * (square - mean**2) / heats**2
    capacity = _jackknife(spread, blocks(apart), blocks(apart**2))
    weights = blocks(samples.composition)
    orders = [np.zeros((2, len(heats), 0, kinds, kinds))]
    for shell in shells:
        x, y, z, one, two = shell.pairs.T
        together = np.moveaxis(samples.correlations[:, :, :, x, y, z, one, two].mean(3, float), 0, 2)

        def order(together, weights, shell=shell):
            one, two = (weights[..., s, :] for s in shell.sublattices)
            chance = one[..., :, None] * two[..., None, :]
            return 1 - together / np.where(chance > 0, chance, np.nan)

        orders.append(np.stack(_jackknife(order, together, weights))[:, :, None])
    memory = _memory(blocks(samples.energy))
    return Statistics(samples.temperatures, *energy, *capacity, *np.concatenate(orders, axis=2), memory=memory)


def long_range_order(samples: Samples, kinds=None) -> Float[np.ndarray, "temperatures seeds"]:
    """By how few concentration waves the arrangements of a chain are made: sum_q |S(q)|^2 / (sum_q tr S(q))^2.

    One wave has 1, n equal ones 1/n, a random binary of N sites about 1/N, one of more states less. `kinds`: which
    sites are alike, by numbers; by default those of a sublattice are. What sites prefer by themselves is no order.
    """
    return share_of_waves(correlations_of_waves(samples, kinds))


def share_of_waves(waves) -> Float[np.ndarray, "temperatures seeds"]:
    """`long_range_order`, from S(q)."""
    total = np.einsum("tsqaa->ts", waves).real
    return (np.abs(waves) ** 2).sum((2, 3, 4)) / np.where(total > 0, total, np.inf) ** 2


def correlations_of_waves(samples: Samples, kinds=None) -> Complex[np.ndarray, "temperatures seeds waves modes modes"]:
    """S(q), the Fourier transform of the correlations of p - w, whose modes are sites and states.

    p: occupation of a site by a state, w: that of all sites of its kind in the mean.
    """
    kinds = samples.sublattice if kinds is None else np.asarray(kinds)
    pairs = samples.correlations.mean(2, float)
    own = np.einsum("tscckk->tsck", pairs[:, :, 0, 0, 0])
    mean = np.stack([own[:, :, kinds == kind].mean(2) for kind in kinds], axis=2)
    product = lambda one, two: np.einsum("tsck,tsdl->tscdkl", one, two)[:, :, None, None, None]
    waves = np.fft.fftn(pairs - product(own, mean) - product(mean, own - mean), axes=(2, 3, 4))
    modes = waves.shape[-3] * waves.shape[-1]
    return np.moveaxis(waves, -3, -2).reshape(*waves.shape[:2], -1, modes, modes)


def _jackknife(estimate, *means):
    """Value without its bias, and error, from the means [seeds, blocks, ...] of blocks.

    Errors grow by sqrt((1 + rho) / (1 - rho)), rho: correlation of consecutive blocks; at most as if seeds were blocks.
    """
    seeds, blocks = means[0].shape[:2]
    number = seeds * blocks
    whole = [mean.mean((0, 1)) for mean in means]
    parts = estimate(*((number * all_ - mean) / (number - 1) for all_, mean in zip(whole, means, strict=True)))
    middle = parts.mean((0, 1))
    value = number * estimate(*whole) - (number - 1) * middle
    square = ((parts - middle) ** 2).sum((0, 1))
    return value, np.sqrt((number - 1) / number * square) * _growth(_memory(parts), blocks)


def _memory(parts, over=(0, 1)):
    """Correlation of consecutive blocks of [seeds, blocks, ...], about the mean of all seeds and blocks."""
    parts = parts - parts.mean((0, 1))
    square, follows = (parts**2).sum(over), (parts[:, 1:] * parts[:, :-1]).sum(over)
    return follows / np.where(square > 0, square, 1) * parts.shape[1] / (parts.shape[1] - 1)


def _growth(memory, blocks: int):
    """Of an error of independent blocks; at most as if seeds were blocks."""
    rho = np.clip(memory, 0, (blocks - 1) / (blocks + 1))
    return np.sqrt((1 + rho) / (1 - rho))


def transition_temperature(samples: Samples, *, resamples: int = 50, points: int = 1001, seed: int = 0) -> Transition:
    """Where the heat capacity is largest, from all temperatures together, with an error by the bootstrap over blocks.

    The error grows with the memory of consecutive blocks as those of `statistics`.

    Density of states  g(E) = sum_t H_t(E) / sum_t n_t exp(f_t - E/kT_t),   exp(-f_t) = sum_E g(E) exp(-E/kT_t):
    A. M. Ferrenberg, R. H. Swendsen, Phys. Rev. Lett. 63, 1195 (1989).

    With the number N of sites it goes to that of the infinite lattice as T_c + a/N if the transition is of first order
    (M. S. S. Challa, D. P. Landau, K. Binder, Phys. Rev. B 34, 1841 (1986)), and as T_c + a N^(-1/(d nu)) if it is
    continuous in d dimensions (M. E. Fisher, M. N. Barber, Phys. Rev. Lett. 28, 1516 (1972)): fit a line over sizes.

    Errors: ValueError for fewer than three temperatures, or such as have no energies in common.
    """
    heats = KELVIN * samples.temperatures
    if len(heats) < 3:
        raise ValueError(f"{len(heats)} temperatures show no maximum of the heat capacity; sample at least three")
    cells = int(np.prod(samples.correlations.shape[3:6]))
    energy = cells * (samples.grand - samples.grand.mean()).reshape(len(heats), -1)
    if (energy.max(1)[:-1] < energy.min(1)[1:]).any():
        raise ValueError(APART)
    place = (BINS - 1) * (energy - energy.min()) / max(float(np.ptp(energy)), 1e-300)
    used, place = np.unique(place.astype(int), return_inverse=True)
    place = place.reshape(energy.shape)
    level = np.bincount(place.ravel(), energy.ravel()) / np.bincount(place.ravel())
    units = BLOCKS * samples.grand.shape[1]
    row = np.arange(len(heats) * units).reshape(len(heats), units, 1)
    index = row * len(used) + place.reshape(len(heats), units, -1)
    counts = np.bincount(index.ravel(), minlength=row.size * len(used)).reshape(len(heats), units, -1)
    mean = energy.mean(1)
    free = np.append(0, np.cumsum(np.diff(1 / heats) * (mean[1:] + mean[:-1]) / 2))
    grid = np.linspace(samples.temperatures[0], samples.temperatures[-1], points)
    slopes = -level / (KELVIN * grid[:, None])
    rng = np.random.default_rng(seed)
    curves = []
    for chosen in [np.arange(units), *rng.integers(units, size=(resamples, units))]:
        free, density = _reweighted(counts[:, chosen].sum(1), -level / heats[:, None], free)
        chance = np.exp(density + slopes - _log_sum(density + slopes, 1))
        curves.append((chance @ level**2 - (chance @ level) ** 2) / (KELVIN * grid) ** 2 / cells)
    best = np.argmax(curves, axis=1)
    parts = samples.grand.reshape(*samples.grand.shape[:2], BLOCKS, -1).mean(3).transpose(1, 2, 0)
    growth = float(_growth(_memory(parts, (0, 1, 2)), BLOCKS))
    at_edge = bool(np.isin(best, (0, points - 1)).any())
    return Transition(float(grid[best[0]]), growth * float(grid[best[1:]].std(ddof=1)), at_edge, grid, curves[0])


def _reweighted(counts, slopes, free):
    """(f [temperatures], log g [energies]) of histograms, from a first guess of f."""
    with np.errstate(divide="ignore"):
        number, seen = np.log(counts.sum(1))[:, None], np.log(counts.sum(0))
    for _ in range(MOST_ITERATIONS):
        density = seen - _log_sum(number + free[:, None] + slopes, 0)[0]
        last, free = free, -_log_sum(density + slopes, 1)[:, 0]
        free = free - free[0]
        if np.abs(free - last).max() < 1e-6:
            return free, density
    raise ValueError(APART)


def _log_sum(values, axis: int):
    most = values.max(axis, keepdims=True)
    return most + np.log(np.exp(values - most).sum(axis, keepdims=True))
