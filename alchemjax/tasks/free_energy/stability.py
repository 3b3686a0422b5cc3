"""Gibbs energies against temperature, and at what temperature two phases change places."""

from collections.abc import Callable
from functools import reduce
from math import gcd
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alchemjax.model.load import Potential
from alchemjax.system.structure import volume
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.free_energy.estimators import Estimate, mean_of
from alchemjax.tasks.free_energy.frenkel_ladd import FreeEnergy, frenkel_ladd
from alchemjax.tasks.free_energy.paths import Path
from alchemjax.tasks.free_energy.switching import Switching, switch
from alchemjax.tasks.md import recorded_run
from alchemjax.tasks.md_plan import Plan, make_plan
from alchemjax.units import KELVIN

DRAWS = 1000
LEAST_TEMPERATURES = 3


class Heated(NamedTuple):
    """What runs at constant pressure and several temperatures say; enthalpies are classical."""

    temperatures: Float[np.ndarray, "temperatures"]  # K
    enthalpies: list[Estimate]  # eV, kinetic energy of 3N degrees of freedom included
    volumes: list[Estimate]  # A^3
    cells: Float[np.ndarray, "temperatures 3 3"]  # mean [A]


class Curve(NamedTuple):
    """Gibbs energy of a phase per formula unit."""

    temperatures: Float[np.ndarray, "points"]  # K
    gibbs: Float[np.ndarray, "points"]  # eV
    error: Float[np.ndarray, "points"]  # standard errors, correlated from point to point
    draws: Float[np.ndarray, "draws points"]  # curves as the errors allow
    reference: Estimate  # at the temperature where it was calculated [eV]
    reference_temperature: float  # K
    doubts: tuple[str, ...]


class Stability(NamedTuple):
    """Two phases."""

    temperatures: Float[np.ndarray, "points"]  # K
    difference: Float[np.ndarray, "points"]  # G of the second minus G of the first, per formula unit [eV]
    error: Float[np.ndarray, "points"]
    transition: Estimate | None  # where the difference changes its sign [K]; None if it does not in this range
    chance: float  # of the curves that the errors allow, how many change their sign in this range
    doubts: tuple[str, ...]


def plan_heating(
    potential: Potential,
    system: System,
    temperatures,
    *,
    equilibration: float = 2000.0,
    sampling: float = 8000.0,
    cell=True,
    pressure: float = 0.0,
    timestep: float = 1.0,
    every: int = 10,
    seed: int = 0,
    **options,
) -> tuple[Plan, int]:
    """Runs [fs] at all temperatures [K] side by side, and the step where equilibration ends.

    Errors: ValueError as in `make_plan`, or for fewer than three temperatures.
    """
    temperatures = np.unique(np.asarray(temperatures, np.float64))
    if len(temperatures) < LEAST_TEMPERATURES or not (temperatures > 0).all():
        raise ValueError(
            f"temperatures {temperatures.tolist()} do not make a curve; give {LEAST_TEMPERATURES} or more, all positive"
        )
    rest, steps = (max(1, round(t / timestep / every)) * every for t in (equilibration, sampling))
    replicas = [{"temperature": float(t)} for t in temperatures]
    plan = make_plan(
        potential, system, steps=rest + steps, timestep=timestep, cell=cell, pressure=pressure, replicas=replicas,
        every=every, seed=seed, **options,
    )  # fmt: skip
    return plan, rest


def heated(
    potential: Potential, system: System, temperatures, *, on_chunk: Callable | None = None, **options
) -> Heated:
    """Enthalpies and cells at several temperatures [K]; `options` of `plan_heating`."""
    plan, settled = plan_heating(potential, system, temperatures, **options)
    out = recorded_run(potential, plan, on_chunk)
    return averaged(plan, out.step, settled, out.energy + out.target_pressure * out.volume, out.volume, out.cell)


def averaged(plan: Plan, step, settled: int, enthalpy, volume, cell) -> Heated:
    """Averages of a finished run after a step; `enthalpy` is that of positions, E + PV."""
    kept = np.asarray(step) > settled
    temperatures = plan.protocol.temperature.value[:, 0] / KELVIN
    kinetic = 1.5 * len(plan.start.positions) * KELVIN * temperatures
    means = [mean_of(column) for column in enthalpy[kept].T]
    return Heated(
        temperatures=temperatures,
        enthalpies=[m._replace(value=m.value + k) for m, k in zip(means, kinetic, strict=True)],
        volumes=[mean_of(column) for column in volume[kept].T],
        cells=cell[kept].mean(axis=0),
    )


def gibbs_curve(
    found: Heated, reference: Estimate, reference_temperature: float, units: float, temperatures=None, *, doubts=(),
    seed: int = 0,
) -> Curve:  # fmt: skip
    """G(T) from G at one temperature and enthalpies, all of the whole cell [eV], per each of `units` formula units.

    G(T)/T = G(T0)/T0 - int_T0^T H/T^2 dT (Gibbs and Helmholtz), H = a + b T + c T^2 by least squares.
    """
    t, h = found.temperatures, np.array([e.value for e in found.enthalpies])
    sigma = np.array([e.error for e in found.enthalpies])
    points = np.linspace(t.min(), t.max(), 101) if temperatures is None else np.asarray(temperatures, np.float64)
    powers = np.arange(min(3, len(t)))
    matrix = t[:, None] ** powers / sigma[:, None]
    spread = np.linalg.inv(matrix.T @ matrix)
    best = spread @ matrix.T @ (h / sigma)
    rng = np.random.default_rng(seed)
    fits = np.vstack([best, rng.multivariate_normal(best, spread, DRAWS)])
    starts = np.append(reference.value, reference.value + reference.error * rng.standard_normal(DRAWS))
    t0 = reference_temperature
    integrals = np.stack([1 / t0 - 1 / points, np.log(points / t0), points - t0])[powers]
    curves = points * (starts[:, None] / t0 - fits @ integrals) / units
    return Curve(
        points, curves[0], curves[1:].std(axis=0, ddof=1), curves[1:],
        reference._replace(value=reference.value / units, error=reference.error / units), t0, tuple(doubts),
    )  # fmt: skip


def compare(one: Curve, two: Curve) -> Stability:
    """Which of two phases has the lower Gibbs energy, and where that changes."""
    mixed = np.random.default_rng(0).permutation(len(two.draws))  # draws of the same seeds would move together
    apart, draws = two.gibbs - one.gibbs, two.draws[mixed] - one.draws
    own = _crossing(one.temperatures, apart)
    crossings = np.array([_crossing(one.temperatures, draw) for draw in draws])
    there = np.isfinite(crossings)
    transition = None
    if np.isfinite(own):
        least = min(one.reference.samples, two.reference.samples)
        transition = Estimate(float(own), float(crossings[there].std(ddof=1)) if there.sum() > 1 else np.inf, least)
    doubts = [*(f"first phase: {d}" for d in one.doubts), *(f"second phase: {d}" for d in two.doubts)]
    chance = float(there.mean())
    if transition is not None and chance < 0.95:
        doubts.append(
            f"of the curves that the errors allow only {chance:.0%} cross in this range, so that the transition's "
            "error is too small; calculate more accurately, or over a wider range"
        )
    return Stability(one.temperatures, apart, draws.std(axis=0, ddof=1), transition, chance, tuple(doubts))


def _crossing(temperatures, difference) -> float:
    """Where a curve first changes its sign, linear in between; NaN if nowhere."""
    change = np.flatnonzero(np.sign(difference[:-1]) * np.sign(difference[1:]) < 0)
    if not len(change):
        return np.nan
    k = change[0]
    part = difference[k] / (difference[k] - difference[k + 1])
    return float(temperatures[k] + part * (temperatures[k + 1] - temperatures[k]))


def phase(
    potential: Potential,
    system: System,
    temperatures,
    *,
    reference_temperature: float | None = None,
    path: Path | None = None,
    units: float | None = None,
    cell=True,
    pressure: float = 0.0,
    heating: dict | None = None,
    seed: int = 0,
    timestep: float = 1.0,
    on_chunk: Callable | None = None,
    **options,
) -> Curve:
    """Gibbs energies of one phase over temperatures [K], per formula unit.

    The mean cell at the reference temperature (by default the middle one) comes from runs at constant pressure
    [eV/A^3], whose enthalpies carry the free energy to the other temperatures; its free energy from `frenkel_ladd`.
    `path`: to another composition, whose Gibbs energies are then those of the curve. `heating`: options of
    `plan_heating`; others are those of `frenkel_ladd` and `switch`. Classical.
    """
    temperatures = np.unique(np.asarray(temperatures, np.float64))
    t0 = float(temperatures[len(temperatures) // 2]) if reference_temperature is None else float(reference_temperature)
    every = np.union1d(temperatures, [t0])
    common = {"seed": seed, "timestep": timestep, "on_chunk": on_chunk}
    own = {"cell": cell, "pressure": pressure} | (heating or {})
    warm = heated(potential, system, every, **common, **own)
    mean = at_mean_cell(system, warm, t0)
    free = frenkel_ladd(potential, mean, temperature=t0, quantum=False, **common, **options)
    total, doubts = reference_of(mean, free, pressure), free.doubts
    if path is not None:
        moved = switch(potential, mean, path, temperature=t0, cell=cell, pressure=pressure, **common, **options)
        total, doubts = changed(total, moved), (*doubts, *moved.doubts)
        end = system._replace(weights=path.weights[-1])
        warm, mean = heated(potential, end, every, **common, **own), end
    units = formula_units(mean) if units is None else units
    return gibbs_curve(warm, total, t0, units, doubts=doubts, seed=seed)


def at_mean_cell(system: System, found: Heated, temperature: float) -> System:
    """The system in the mean cell at one of the temperatures, with the same fractional coordinates."""
    cell = found.cells[int(np.argmin(np.abs(found.temperatures - temperature)))]
    fractional = system.structure.positions @ np.linalg.inv(system.structure.cell)
    return system._replace(structure=system.structure._replace(cell=cell, positions=fractional @ cell))


def reference_of(system: System, free: FreeEnergy, pressure: float) -> Estimate:
    """G = F + PV of the cell [eV]; F at the mean volume, which is F + PV of the ensemble but for terms of order kT."""
    return free.total._replace(value=free.total.value + pressure * (volume(system.structure) or 0.0))


def changed(total: Estimate, moved: Switching) -> Estimate:
    """After a change of composition, momenta included [eV]."""
    value = total.value + moved.difference.value + moved.mass_term
    error = float(np.hypot(total.error, moved.difference.error))
    return Estimate(value, error, min(total.samples, moved.difference.samples))


def formula_units(system: System) -> float:
    """How many formula units the cell has: the greatest common divisor of its numbers of species, else its sites."""
    weights = np.append(checked_weights(system), 1.0)[system.sites.node_weight]
    counts: dict[str, float] = {}
    for species, weight in zip(system.sites.node_species, weights, strict=True):
        counts[species] = counts.get(species, 0.0) + float(weight)
    whole = [round(c) for c in counts.values() if c > 1e-6]
    if all(abs(c - round(c)) < 1e-6 for c in counts.values()):
        return float(reduce(gcd, whole))
    return float(len(system.structure.positions))
