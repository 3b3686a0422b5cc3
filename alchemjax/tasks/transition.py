"""Order-disorder transitions from the free energies of the ordered and of the disordered lattice.

Chains that start from random arrangements stay disordered below a transition of first order, chains that start from the
ordered one stay ordered above it. Energies U of both give their free energies F, with b = 1/kT:

    disordered    b F = -ln W + int_0^b U db'                      W: number of arrangements
    ordered       b F = b U_0 - int_b^inf (U - U_0) db'            U_0: energy of the ordered arrangement

Where these cross is the transition. If it is continuous both are one curve, and the heat capacity has its maximum.
Both phases have the composition of the lattice. Where phases of different composition coexist, this is the T_0 between
them, at which a crystal that cannot separate would transform.
D. Frenkel, B. Smit, Understanding Molecular Simulation, 2nd ed. (2002), chapter 7.
"""

from collections.abc import Callable
from functools import partial
from math import lgamma
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from alchemjax.tasks.averages import (
    Statistics,
    correlations_of_waves,
    share_of_waves,
    statistics,
    transition_temperature,
)
from alchemjax.tasks.lattice import (
    LatticeModel,
    check_whole,
    checked_model,
    checked_temperatures,
    counts_of,
    nearest_counts,
    random_states,
    total_energy,
)
from alchemjax.tasks.sampling import (
    BLOCKS,
    Samples,
    ground_state,
    sample,
)
from alchemjax.tasks.seeds import seed_of
from alchemjax.units import KELVIN

HOT = 1.5, 2.5, 6.0, 1e4  # of the largest temperature: to the random arrangement
COLD = 0.3, 0.5, 0.7, 0.85  # of the smallest temperature: to the ordered one
AROUND = 0.45, 1.55, 12  # of the temperature at which perfect order and disorder are equally stable
NEAR = 0.8, 1.15, 12  # of the temperatures between which order is lost
COLDEST = 10.0  # K
DRAWN = 32  # random arrangements
TINY = 1e-12
APART = 4.0  # standard errors by which energies of two branches differ
SURE = 3.0  # standard errors by which a branch must be metastable, to be one
MANY = 5.0  # ln of a number that equivalent ordered arrangements do not exceed: of one, the free energy is too high
FINE = 1001  # temperatures, in looking for the crossing
ALIKE = 0.05  # of the root mean square energy of waves: those that differ by less may be the same
SAME = 1e-4  # eV: sites whose own energies differ by less are alike
_PER_SEED = "energy", "grand", "composition", "correlations", "states"  # of samples


class OrderDisorder(NamedTuple):
    """Two branches; energies in eV per cell."""

    temperatures: Float[np.ndarray, "temperatures"]  # K
    random: Statistics  # from random arrangements
    ordered: Statistics  # from the ordered arrangement
    free_energy: Float[np.ndarray, "temperatures"]  # ordered - random
    free_energy_error: Float[np.ndarray, "temperatures"]
    kind: str  # "first order", "smooth", "ordered throughout" or "disordered throughout"
    temperature: float  # K; NaN for the last two, and for temperatures that are too few or too far apart
    error: float  # K
    latent_heat: float  # 0 unless of first order
    at_edge: bool  # the maximum of the heat capacity lies at an end of the temperatures
    stable: Bool[np.ndarray, "temperatures"]  # which are those of the ordered branch
    equilibrium: Statistics  # of the stable branch
    missed: float  # how far below the energy of the ordered arrangement a chain came: then order is not known
    another: Int[np.ndarray, "n1 n2 n3 sites"] | None  # one that has order of another kind than the ordered one


def order_disorder(
    model: LatticeModel,
    weights,
    temperatures=None,
    *,
    shells=(),
    ordered=None,
    sweeps: int = 1000,
    equilibration: int = 250,
    seeds: int = 4,
    seed: int = 0,
    on_sweeps: Callable[[int, int], None] | None = None,
) -> OrderDisorder:
    """Whether and where the lattice orders: canonical chains from random arrangements and from the ordered one.

    `temperatures` [K] should enclose the transition; more are added towards 0 and infinity. By default they are about
    the one at which short runs lose their order. `ordered` is by default the result of `ground_state`.
    `on_sweeps(done, number)` is called after every few sweeps of the runs, of which each seed has two.

    "first order": both branches live on beyond where their free energies are the same. "smooth": there is no clear
    hysteresis, because the transition is continuous or the box small; `temperature` is that of the largest heat
    capacity of all chains (see `transition_temperature`). Otherwise one branch is the stable one at all temperatures.
    Order is one arrangement and its excitations: many arrangements of the same lowest energy are more stable than that.
    Where chains from random arrangements are in equilibrium (those from the ordered one have the same energies, or are
    less stable) and all have long-range order, but of other waves than the ordered arrangement, `another` is of these.
    A transition of first order may then be one between two orders, and what "smooth" loses is the other one.

    Errors: ValueError for arguments that do not fit the model, and for a box of one arrangement.
    """
    check_whole("seeds", seeds, 1)
    check_whole("seed", seed, 0)
    if ordered is None:
        ordered, _ = ground_state(model, weights, seed=seed)
    held = counts_of(model, ordered)
    if (held != nearest_counts(checked_model(model), weights)).any():
        raise ValueError(
            f"the ordered arrangement holds {held.tolist()} atoms of each state by sublattice, which are not those "
            "of the weights; give an arrangement of this composition"
        )
    cells = int(np.prod(np.shape(ordered)[:3]))
    least, entropy = float(total_energy(model, ordered)) / cells, _arrangements(held) / cells
    if entropy <= 0:
        raise ValueError(
            "the box has one arrangement only: nothing can be ordered; give weights between 0 and 1, or a larger box"
        )
    if temperatures is None:
        temperatures = _around_the_jump(model, weights, ordered, least, entropy, sweeps, seed)
    given = checked_temperatures(temperatures)
    heats = np.concatenate([np.array(COLD) * given[0], given, np.array(HOT) * given[-1]])
    starts = [(heats[len(COLD) :], {"weights": weights}), (heats[: -len(HOT)], {"states": ordered})]
    runs: list[Samples] = []
    for number in range(2 * seeds):
        own, start = starts[number // seeds]
        options = {"sweeps": sweeps, "equilibration": equilibration, "seeds": 1, "seed": seed_of(seed, number)}
        tell = None if on_sweeps is None else partial(_tell, on_sweeps, number, 2 * seeds)
        runs.append(sample(model, own, exchange=False, on_sweeps=tell, **start, **options))
    both = _joined(runs[:seeds]), _joined(runs[seeds:])
    found = [statistics(samples, shells) for samples in both]
    missed = max(0.0, least - min(float(samples.energy.min()) for samples in both))
    here = slice(None, len(given)), slice(len(COLD), None)
    disordered, order = (_rows(one, part) for one, part in zip(found, here, strict=True))
    one, one_error = _from_random(found[0], least, entropy)
    two, two_error = _from_order(found[1], least)
    gap, error = two[here[1]] - one[here[0]], np.hypot(one_error[here[0]], two_error[here[1]])
    pure = _pure(both[0].energy[here[0]], both[1].energy[here[1]])
    apart = disordered.energy - order.energy > APART * np.hypot(disordered.energy_error, order.energy_error)
    waits = apart | _one_waits(disordered, both[1].energy[here[1]])
    live = _both_live(disordered, order, apart, waits, gap, np.maximum(error, TINY), MANY / cells)
    crossing = np.flatnonzero((gap[:-1] < 0) & (gap[1:] >= 0) & live)
    latent, at_edge, stable = 0.0, False, np.ones(len(given), bool)
    has_order, differs = (a[here[0]] for a in _long_range_order(model, *both))
    less_stable = apart[0] and gap[0] > max(SURE * error[0], MANY / cells)  # than what is not the ordered arrangement
    if len(crossing):
        kind = "first order"
        temperature, spread, latent = _crossing(given, gap, error, disordered, order, pure, int(crossing[-1]))
        stable = given < temperature
    elif apart.all() and gap[-1] < 0:
        kind, temperature, spread = "ordered throughout", np.nan, np.nan
    elif less_stable and not has_order[0].any():
        kind, temperature, spread, stable = "disordered throughout", np.nan, np.nan, ~stable
    elif less_stable:
        kind, stable = "smooth", ~stable
        temperature, spread, at_edge = _largest(_part(both[0], here[0]))
    else:
        kind, chains = "smooth", [_part(*one) for one in zip(both, here, strict=True)]
        temperature, spread, at_edge = _largest(_joined(chains))
        if apart.any():  # some chains are left in domains: what they change is an error too
            spread = np.hypot(spread, temperature - _largest(chains[1])[0])
    choose = lambda a, b: np.where(stable.reshape(-1, *[1] * (a.ndim - 1)), b, a)
    equilibrium = Statistics(*map(choose, disordered, order))
    other = np.flatnonzero((has_order & differs).all(1) & (~stable | ~apart))
    another = both[0].states[here[0]][other[0], 0] if len(other) else None
    ends = KELVIN * given * gap, KELVIN * given * error
    numbers = float(temperature), float(spread), float(latent), bool(at_edge)
    return OrderDisorder(given, disordered, order, *ends, kind, *numbers, stable, equilibrium, missed, another)


def _tell(on_sweeps, run: int, runs: int, done: int, number: int) -> None:
    on_sweeps(run * number + done, runs * number)


def _around_the_jump(model, weights, ordered, least: float, entropy: float, sweeps: int, seed: int):
    """Temperatures about the largest step in the energy of chains from the ordered arrangement.

    Looked for about (U_random - U_0) / (k ln W), at which perfect order and disorder have the same free energy, and
    lower where the coldest chain has lost its order.
    """
    keys = jax.random.split(jax.random.key(seed), DRAWN)
    drawn = np.mean([total_energy(model, random_states(model, weights, key)) for key in keys])
    apart = drawn / np.prod(np.shape(ordered)[:3]) - least
    heats = max(apart / (KELVIN * entropy), COLDEST) * np.linspace(*AROUND)
    short = max(sweeps // 4, BLOCKS)
    options = {"sweeps": short, "equilibration": short // 4, "seeds": 1, "seed": seed, "exchange": False}
    while True:
        energy = sample(model, heats, states=ordered, **options).energy.mean((1, 2))
        if energy[0] - least < (energy[-1] - least) / 2 or heats[0] < COLDEST:
            break
        heats = heats * AROUND[0] / AROUND[1]
    step = int(np.argmax(np.diff(energy)))
    return np.linspace(NEAR[0] * heats[step], NEAR[1] * heats[step + 1], NEAR[2])


def _pure(disordered, order):
    """At which temperatures no chain changed branches: means over blocks leave half of the distance free."""
    one, two = (a.reshape(len(a), a.shape[1] * BLOCKS, -1).mean(-1) for a in (disordered, order))
    return one.min(1) - two.max(1) > (one.mean(1) - two.mean(1)) / 2


def _one_waits(disordered: Statistics, energy: Float[np.ndarray, "temperatures seeds sweeps"]):
    """At which temperatures one of the chains from order has stayed there, though others may have left it."""
    blocks = energy.reshape(*energy.shape[:2], BLOCKS, -1).mean(-1)
    spread = np.hypot(disordered.energy_error[:, None], blocks.std(-1, ddof=1) / BLOCKS**0.5)
    return (disordered.energy[:, None] - blocks.mean(-1) > APART * spread).any(1)


def _both_live(disordered: Statistics, order: Statistics, apart, waits, gap, error, many: float):
    """Between which temperatures the stable branch can change, because both branches are there.

    Somewhere above, a chain waits in order that is surely metastable, by more than its equivalent arrangements (`many`)
    explain. Or the gap surely grows while both are there, or is surely negative while they last, and where they end it
    is order that is lost: its energy jumps by more than the heat capacity explains. Where that of the disordered
    lattice does instead, that one was left in domains.
    """
    sure = np.logical_or.accumulate((waits & (gap > np.maximum(SURE * error, many)))[::-1])[::-1]
    grows = apart[:-1] & apart[1:] & (np.diff(gap) > SURE * np.maximum(error[:-1], error[1:]))
    ends = apart[:-1] & ~apart[1:]
    melts = ends & (_jumps(order) > _jumps(disordered))
    lost = np.array([melts[k:][ends[k:]][:1].any() for k in range(len(ends))], bool)  # at the next end
    return sure[1:] | (lost & (grows | (ends & (gap[:-1] < -SURE * error[:-1]))))


def _jumps(found: Statistics):
    """By how much energies of neighbouring temperatures differ from the integral of the heat capacity [eV]."""
    explained = KELVIN * np.diff(found.temperatures) * (found.heat_capacity[1:] + found.heat_capacity[:-1]) / 2
    return np.abs(np.diff(found.energy) - explained)


def _long_range_order(model: LatticeModel, disordered: Samples, order: Samples):
    """Which chains from random arrangements have it, and of which the strongest wave is none of the ordered chains'.

    They have it if `long_range_order` is more than halfway, on a logarithmic scale, from those at the highest
    temperature to the ordered chains at the lowest.
    """
    kinds = [int(np.argmax(_alike(model, site))) for site in range(len(model.field))]
    waves, cold = correlations_of_waves(disordered, kinds), correlations_of_waves(_part(order, slice(1)), kinds)
    found = share_of_waves(waves)
    has_order = found**2 > found[-1].mean() * share_of_waves(cold).mean()
    energies, (sites, states) = _wave_energies(model), model.field.shape
    scale = ALIKE * np.sqrt((np.abs(energies) ** 2).sum((1, 2)).mean() / (sites * max(1, states - 1)))
    strength, modes = _main_modes(cold[0, 0])
    ordered = [(q, modes[q]) for q in np.flatnonzero(strength > strength.max() / 2)]
    differs = np.zeros(has_order.shape, bool)
    for chain in zip(*np.nonzero(has_order), strict=True):
        strength, modes = _main_modes(waves[chain])
        q = strength.argmax()
        differs[chain] = not any(_same_wave(energies, scale, (q, modes[q]), other) for other in ordered)
    return has_order, differs


def _same_wave(energies, scale: float, one, other) -> bool:
    """Of two waves, numbers and modes. Symmetry keeps energies; a mode of several states turns with temperature."""
    (q, mode), (q_0, mode_0) = one, other
    energy = lambda q, mode: np.einsum("a,b,ab->", mode, mode.conj(), energies[q].conj()).real
    if abs(energy(q, mode) - energy(q_0, mode_0)) <= scale:
        return True
    if q == q_0:
        return abs(mode.conj() @ mode_0) ** 2 >= 0.5
    return np.abs(np.subtract(*np.linalg.eigvalsh(energies[[q, q_0]]))).max() <= scale


def _alike(model: LatticeModel, site: int) -> Bool[np.ndarray, "sites"]:
    """Which sites are of the sublattice of this one and prefer the same states."""
    field = np.asarray(model.field)
    return (np.asarray(model.sublattice) == model.sublattice[site]) & (np.abs(field - field[site]) < SAME).all(1)


def _wave_energies(model: LatticeModel):
    """J(q) of the changes that leave one state on every site, [waves, modes, modes]."""
    waves = np.moveaxis(np.fft.fftn(np.asarray(model.pair, float), axes=(0, 1, 2)), -3, -2)
    sites, states = waves.shape[3:5]
    projector = np.kron(np.eye(sites), np.eye(states) - 1 / states)
    return projector @ waves.reshape(-1, sites * states, sites * states) @ projector


def _main_modes(waves):
    """Strength of the strongest mode of every wave, and the modes."""
    values, vectors = np.linalg.eigh(waves)
    return values[:, -1], vectors[:, :, -1]


def _joined(runs: list[Samples]) -> Samples:
    """The samples of one seed each as samples of all of them."""
    along = {name: np.concatenate([getattr(run, name) for run in runs], 1) for name in _PER_SEED}
    return runs[0]._replace(**along, moved=np.mean([run.moved for run in runs], axis=0))


def _largest(samples: Samples) -> tuple[float, float, bool]:
    """Temperature of the largest heat capacity, its error, and whether it is at an end; NaN if it cannot be told."""
    try:
        return transition_temperature(samples)[:3]
    except ValueError:
        return np.nan, np.nan, False


def _part(samples: Samples, which: slice) -> Samples:
    """Some of the temperatures."""
    named = {name: getattr(samples, name)[which] for name in (*_PER_SEED, "temperatures", "moved")}
    return samples._replace(**named)


def _rows(found: Statistics, which: slice) -> Statistics:
    return Statistics(*(column[which] for column in found))


def _arrangements(held) -> float:
    """ln of the number of arrangements with so many atoms of each state on each sublattice."""
    return sum(lgamma(sum(row) + 1) - sum(lgamma(count + 1) for count in row) for row in held.tolist())


def _from_random(found: Statistics, least: float, entropy: float):
    """F/kT per cell and its error at all temperatures, of which the last is all but infinite."""
    inverse = 1 / (KELVIN * found.temperatures[::-1])
    value, error = _integral(found, least, inverse, slice(None, None, -1))
    first = inverse[0] * (found.energy[-1] - least)
    return (value + first + inverse * least - entropy)[::-1], error[::-1]


def _from_order(found: Statistics, least: float):
    """F/kT per cell and its error at all temperatures, of which the first is all but 0."""
    heat = KELVIN * found.temperatures
    excess, slope = found.energy[0] - least, found.heat_capacity[0] * heat[0] ** 2
    rest = excess**2 / slope if slope > 0 else 0.0  # of excitations that die out as exp(-gap/kT)
    value, error = _integral(found, least, 1 / heat, slice(None))
    return value + least / heat - rest, error


def _integral(found: Statistics, least: float, inverse, order: slice):
    """The integral of U - U_0 from the first b = 1/kT to every one, and its error, by cubic polynomials.

    The error of a polynomial is taken to be (db)^2/12 times what its slopes miss, (U'_1 + U'_2)/2 - (U_2 - U_1)/db.
    """
    heat = (KELVIN * found.temperatures[order]) ** 2
    value, slope = found.energy[order] - least, -found.heat_capacity[order] * heat
    steps, ends = np.diff(inverse), np.eye(len(inverse))
    none = np.zeros((1, len(inverse)))
    of_value = np.cumsum(np.r_[none, steps[:, None] / 2 * (ends[:-1] + ends[1:])], axis=0)
    of_slope = np.cumsum(np.r_[none, steps[:, None] ** 2 / 12 * (ends[:-1] - ends[1:])], axis=0)
    missed = steps / 12 * ((slope[1:] + slope[:-1]) / 2 * steps - np.diff(value))
    parts = of_value * found.energy_error[order], of_slope * (found.heat_capacity_error[order] * heat)
    squares = sum((part**2).sum(1) for part in parts) + np.cumsum(np.append(0, missed**2))
    return of_value @ value + of_slope @ slope, np.sqrt(squares)


def _crossing(temperatures, gap, error, disordered: Statistics, order: Statistics, pure, first: int):
    """Where the free energies cross between two temperatures: K, its error, and the latent heat.

    The slope of the gap by 1/kT is minus the difference of energies, where both branches are pure; where they are at
    neither temperature the gap is interpolated, and each energy is that on its stable side.
    """
    two = slice(first, first + 2)
    inverse, gap, error = 1 / (KELVIN * temperatures[two]), gap[two], error[two]
    jump = (disordered.energy - order.energy)[two]
    t, step = np.linspace(0, 1, FINE), inverse[1] - inverse[0]
    if pure[two].all():
        ends = np.stack([2 * t**3 - 3 * t**2 + 1, 3 * t**2 - 2 * t**3], 1) @ gap
        curve = ends + np.stack([t**3 - 2 * t**2 + t, t**3 - t**2], 1) @ -jump * step
        root = np.interp(0, curve, t)
        latent, spread = jump @ [1 - root, root], error.max()
    elif pure[two].any():
        own = int(pure[first + 1])
        latent, spread = jump[own], error[own]
        root = np.clip(own + gap[own] / (latent * step), 0, 1)
    else:
        root = gap[0] / (gap[0] - gap[1])
        latent, spread = disordered.energy[first + 1] - order.energy[first], error.max()
    where = inverse[0] + root * step
    return 1 / (KELVIN * where), spread / (latent * KELVIN * where**2), latent
