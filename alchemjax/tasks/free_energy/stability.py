"""Gibbs energies against temperature, and at what temperature two phases change places."""

from collections.abc import Callable
from functools import reduce
from math import gcd
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from alchemjax.model.load import Potential
from alchemjax.system.neighbours import nearest_distance
from alchemjax.system.structure import volume
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.free_energy.doubts import doubts_of_places, doubts_of_pressure, doubts_of_rest
from alchemjax.tasks.free_energy.estimators import LEAST_SAMPLES, Estimate, mean_of, sure
from alchemjax.tasks.free_energy.frenkel_ladd import FreeEnergy, frenkel_ladd
from alchemjax.tasks.free_energy.paths import Path, mixing_entropy
from alchemjax.tasks.free_energy.switching import Record, Switching, record_of, switch
from alchemjax.tasks.md import recorded_run
from alchemjax.tasks.md_plan import BULK_MODULUS, Plan, all_strains, make_plan
from alchemjax.tasks.seeds import seed_of
from alchemjax.units import KELVIN

DRAWS = 1000
LEAST_TEMPERATURES = 3


class Heated(NamedTuple):
    """What runs at constant pressure and several temperatures say; enthalpies are classical."""

    temperatures: Float[np.ndarray, "temperatures"]  # K
    enthalpies: list[Estimate]  # eV, kinetic energy of 3N degrees of freedom included
    volumes: list[Estimate]  # A^3
    cells: Float[np.ndarray, "temperatures 3 3"]  # mean [A]
    doubts: tuple[str, ...]


class Curve(NamedTuple):
    """Gibbs energy of a phase per formula unit, mixing included."""

    temperatures: Float[np.ndarray, "points"]  # K
    gibbs: Float[np.ndarray, "points"]  # eV
    error: Float[np.ndarray, "points"]  # standard errors, correlated from point to point
    draws: Float[np.ndarray, "draws points"]  # curves as the errors allow
    reference: Estimate  # at the temperature where it was calculated [eV]
    reference_temperature: float  # K
    doubts: tuple[str, ...]
    mixing: Float[np.ndarray, "points"]  # of it -T S of mixed sites, which are occupied independently [eV]
    size: float = 0.0  # kT ln(N) / 2 of the N sites of the cell, at the reference [eV]: see `infinite`


class Stability(NamedTuple):
    """Two phases."""

    temperatures: Float[np.ndarray, "points"]  # K
    difference: Float[np.ndarray, "points"]  # G of the second minus G of the first, per formula unit [eV]
    error: Float[np.ndarray, "points"]
    mixing: Float[np.ndarray, "points"]  # of it what mixing adds [eV]
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
    enthalpy = out.energy + out.target_pressure * out.volume
    return averaged(plan, record_of(plan, out), settled, enthalpy, out.cell)


def averaged(plan: Plan, record: Record, settled: int, enthalpy, cell) -> Heated:
    """Averages of a finished run after a step; `enthalpy` is that of positions, E + PV."""
    kept = record.step > settled
    temperatures = plan.protocol.temperature.value[:, 0] / KELVIN
    kinetic = 1.5 * len(plan.start.positions) * KELVIN * temperatures
    means = [mean_of(column) for column in enthalpy[kept].T]
    near, free = nearest_distance(plan.system.structure), all_strains(plan)
    doubts = doubts_of_rest(record.strain[kept], "on the average of all temperatures", alike=True)
    for k, t in enumerate(temperatures):
        doubts += doubts_of_rest(record.strain[kept, k : k + 1], f"at {t:g} K", alike=False, free=free)
        doubts += doubts_of_places(record.displacement[kept, k].mean(), near, f"at {t:g} K ")
    return Heated(
        temperatures=temperatures,
        enthalpies=[m._replace(value=m.value + k) for m, k in zip(means, kinetic, strict=True)],
        volumes=[mean_of(column) for column in record.volume[kept].T],
        cells=cell[kept].mean(axis=0),
        doubts=tuple(doubts),
    )


def gibbs_curve(
    found: Heated, reference: Estimate, reference_temperature: float, units: float, temperatures=None, *,
    sites: int = 1, mixing: float = 0.0, doubts=(), seed: int = 0,
) -> Curve:  # fmt: skip
    """G(T) from G at one temperature and enthalpies, all of the whole cell [eV], per each of `units` formula units.

    G(T)/T = G(T0)/T0 - int_T0^T H/T^2 dT (Gibbs and Helmholtz), H = a + b T + c T^2 by least squares. `mixing`: entropy
    of the cell's mixed sites [eV/K], which neither G(T0) nor H know (`mixing_entropy`). `sites` of the cell: `compare`
    asks whether the sizes of two cells count.
    """
    t, h = found.temperatures, np.array([e.value for e in found.enthalpies])
    sigma = np.array([e.error for e in found.enthalpies])
    if not (np.isfinite(sigma).all() and (sigma > 0).all()):
        raise ValueError("an enthalpy has too few independent samples for an error; sample for longer")
    points = np.linspace(t.min(), t.max(), 101) if temperatures is None else np.asarray(temperatures, np.float64)
    powers = np.arange(min(3, len(t)))
    matrix = t[:, None] ** powers / sigma[:, None]
    spread = np.linalg.inv(matrix.T @ matrix)
    best = spread @ matrix.T @ (h / sigma)
    rng = np.random.default_rng(seed)
    doubts = list(doubts)
    if np.isnan(mixing):
        doubts.append("weights are no probabilities, so that there is no entropy of mixing: it is left out")
        mixing = 0.0
    left = float(np.sum((h - t[:, None] ** powers @ best) ** 2 / sigma**2))
    if len(t) > len(powers) and left > stats.chi2.ppf(0.999, len(t) - len(powers)):
        doubts.append(
            f"enthalpies deviate from a parabola in T by more than their errors (chi^2 = {left:.0f} of "
            f"{len(t) - len(powers)}): a phase changes, or the range is too wide"
        )
    least = min(e.samples for e in found.enthalpies)
    if least < LEAST_SAMPLES:
        doubts.append(f"an enthalpy has {least:.0f} independent samples, fewer than {LEAST_SAMPLES}; sample for longer")
    if points.min() < t.min() - 1e-6 or points.max() > t.max() + 1e-6:
        doubts.append(f"the curve goes beyond {t.min():g} to {t.max():g} K, where enthalpies are known")
    fits = np.vstack([best, rng.multivariate_normal(best, spread, DRAWS)])
    starts = np.append(reference.value, reference.value + reference.error * rng.standard_normal(DRAWS))
    t0 = reference_temperature
    integrals = np.stack([1 / t0 - 1 / points, np.log(points / t0), points - t0])[powers]
    mixed = -points * mixing / units
    curves = points * (starts[:, None] / t0 - fits @ integrals) / units + mixed
    return Curve(
        temperatures=points,
        gibbs=curves[0],
        error=curves[1:].std(axis=0, ddof=1),
        draws=curves[1:],
        reference=reference._replace(value=(reference.value - t0 * mixing) / units, error=reference.error / units),
        reference_temperature=t0,
        doubts=tuple(doubts),
        mixing=mixed,
        size=t0 * KELVIN * float(np.log(sites)) / 2 / units,
    )


def compare(one: Curve, two: Curve) -> Stability:
    """Which of two phases has the lower Gibbs energy, and where that changes."""
    if one.temperatures.shape != two.temperatures.shape or not np.allclose(one.temperatures, two.temperatures):
        raise ValueError(
            f"the curves have different temperatures, {one.temperatures[0]:g} to {one.temperatures[-1]:g} K and "
            f"{two.temperatures[0]:g} to {two.temperatures[-1]:g} K; give both the same"
        )
    doubts = [*(f"first phase: {d}" for d in one.doubts), *(f"second phase: {d}" for d in two.doubts)]
    mixed = np.random.default_rng(0).permutation(len(two.draws))  # draws of the same seeds would move together
    apart, draws = two.gibbs - one.gibbs, two.draws[mixed] - one.draws
    own = _crossing(one.temperatures, apart)
    crossings = np.array([_crossing(one.temperatures, draw) for draw in draws])
    there = np.isfinite(crossings)
    transition = None
    if np.isfinite(own):
        least = min(one.reference.samples, two.reference.samples)
        transition = Estimate(float(own), float(crossings[there].std(ddof=1)) if there.sum() > 1 else np.inf, least)
    chance = float(there.mean())
    error = draws.std(axis=0, ddof=1)
    size, least = abs(two.size - one.size), float(min(one.reference.error, two.reference.error))
    if size > least:
        doubts.append(
            f"the cells are of different sizes, which alone is worth {1000 * size:.1f} meV (kT ln(N) / 2 of N sites), "
            "more than an error; take cells of the same number of sites"
        )
    unsure = ~decided(apart, error, one, two)
    if transition is None and unsure.any():
        first, last = one.temperatures[unsure][[0, -1]]
        doubts.append(
            f"the difference is smaller than its error (95 %) from {first:.0f} to {last:.0f} K: which phase is stable "
            "is undecided there; calculate more accurately"
        )
    if (np.diff(np.sign(apart[apart != 0])) != 0).sum() > 1:
        doubts.append("the difference changes its sign more than once; the transition is the first of them")
    if transition is not None and chance < 0.95:
        doubts.append(
            f"of the curves that the errors allow only {chance:.0%} cross in this range, so that the transition's "
            "error is too small; calculate more accurately, or over a wider range"
        )
    return Stability(one.temperatures, apart, error, two.mixing - one.mixing, transition, chance, tuple(doubts))


def decided(difference, error, one: Curve, two: Curve) -> np.ndarray:
    """Where a difference is larger than its error (95 %, Student)."""
    return np.abs(difference) > sure(min(one.reference.samples, two.reference.samples)) * error


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
    units: float,
    cell=True,
    pressure: float = 0.0,
    heating: dict | None = None,
    seed: int = 0,
    timestep: float = 1.0,
    on_chunk: Callable | None = None,
    **options,
) -> Curve:
    """Gibbs energies of one phase over temperatures [K], per each of `units` (of `common_units`, or a number of yours).

    The entropy of mixing of its sites is part of them, and told apart.

    The mean cell at the reference temperature (by default the middle one) comes from runs at constant pressure
    [eV/A^3], whose enthalpies carry the free energy to the other temperatures; its free energy from `frenkel_ladd`.
    `path`: to another composition, whose Gibbs energies are then those of the curve. `heating`: options of
    `plan_heating`, those of the barostat for the path too; others are those of `frenkel_ladd` and `switch`. Classical;
    phases of few sites have errors of their size (`infinite`).
    """
    temperatures = np.unique(np.asarray(temperatures, np.float64))
    t0 = float(temperatures[len(temperatures) // 2]) if reference_temperature is None else float(reference_temperature)
    every = np.union1d(temperatures, [t0])
    common = {"timestep": timestep, "on_chunk": on_chunk}
    seeds = [seed_of(seed, k) for k in range(4)]  # of what would otherwise feel the same noise
    own = {"cell": cell, "pressure": pressure, "fluctuations": options.get("fluctuations", "none")} | (heating or {})
    if path is not None and not np.allclose(path.weights[0], checked_weights(system)):
        raise ValueError(
            f"the path starts at {path.weights[0].tolist()}, the system is at {checked_weights(system).tolist()}; let "
            "both start at one composition"
        )
    moving = {name: own[name] for name in ("bulk_modulus", "barostat_time", "fixed_axes") if name in own}
    way = {name: value for name, value in options.items() if name not in ("stiffness", "measuring", "method")}
    warm = heated(potential, system, every, seed=seeds[0], **common, **own)
    mean = at_mean_cell(system, warm, t0)
    free = frenkel_ladd(potential, mean, temperature=t0, quantum=False, seed=seeds[1], **common, **options)
    total = reference_of(mean, free, pressure)
    doubts = (*warm.doubts, *free.doubts, *doubts_of_mean_cell(mean, free, pressure, own.get("bulk_modulus")))
    end = system
    if path is not None:
        moving |= {"temperature": t0, "cell": cell, "pressure": pressure, "seed": seeds[2]}
        moved = switch(potential, mean, path, **common, **moving, **way)
        end = system._replace(weights=path.weights[-1])
        warm = heated(potential, end, every, seed=seeds[3], **common, **own)
        total, doubts = changed(total, moved), (*doubts, *moved.doubts, *warm.doubts)
    sites, mixing = len(system.structure.positions), mixing_entropy(end)
    return gibbs_curve(warm, total, t0, units, sites=sites, mixing=mixing, doubts=doubts, seed=seed)


def at_mean_cell(system: System, found: Heated, temperature: float) -> System:
    """The system in the mean cell at one of the temperatures, with the same fractional coordinates."""
    cell = found.cells[int(np.argmin(np.abs(found.temperatures - temperature)))]
    fractional = system.structure.positions @ np.linalg.inv(system.structure.cell)
    return system._replace(structure=system.structure._replace(cell=cell, positions=fractional @ cell))


def reference_of(system: System, free: FreeEnergy, pressure: float) -> Estimate:
    """G = F + PV of the cell [eV]; F at the mean volume, which is F + PV of the ensemble but for terms of order kT."""
    return free.total._replace(value=free.total.value + pressure * (volume(system.structure) or 0.0))


def doubts_of_mean_cell(system: System, free: FreeEnergy, pressure: float, bulk_modulus: float | None) -> list[str]:
    """Whether the crystal has the pressure in its mean cell; windows do not tell."""
    if not isinstance(free.path, Switching):
        return []
    space = volume(system.structure) or 0.0
    return doubts_of_pressure(free.path.pressure, pressure, space, bulk_modulus or BULK_MODULUS, free.total.error)


def changed(total: Estimate, moved: Switching) -> Estimate:
    """After a change of composition, momenta included [eV]."""
    value = total.value + moved.difference.value + moved.mass_term
    error = float(np.hypot(total.error, moved.difference.error))
    return Estimate(value, error, min(total.samples, moved.difference.samples))


def common_units(one: System, two: System) -> tuple[float, float, str]:
    """How many formula units the cells of two phases have, and what they are called; sites where there are none.

    Errors: ValueError for different compositions.
    """
    tables = [_counts(system) for system in (one, two)]
    sites = [len(system.structure.positions) for system in (one, two)]
    shares = [{s: round(c / n, 6) for s, c in table.items()} for table, n in zip(tables, sites, strict=True)]
    if shares[0] != shares[1]:
        said = [", ".join(f"{s} {x:g}" for s, x in sorted(share.items())) for share in shares]
        raise ValueError(
            f"a site of the first phase holds {said[0]}, one of the second {said[1]}; give two phases of one "
            "composition"
        )
    if any(abs(c - round(c)) > 1e-6 for table in tables for c in table.values()):
        return float(sites[0]), float(sites[1]), "site"
    numbers = [reduce(gcd, [round(c) for c in table.values()]) for table in tables]
    if numbers[0] * sites[1] != numbers[1] * sites[0]:  # whole numbers by chance
        return float(sites[0]), float(sites[1]), "site"
    return float(numbers[0]), float(numbers[1]), "formula unit"


def _counts(system: System) -> dict[str, float]:
    weights = np.append(checked_weights(system), 1.0)[system.sites.node_weight]
    counts: dict[str, float] = {}
    for species, weight in zip(system.sites.node_species, weights, strict=True):
        counts[species] = counts.get(species, 0.0) + float(weight)
    return {s: c for s, c in counts.items() if c > 1e-6}
