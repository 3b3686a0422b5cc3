"""Equilibrium windows along a path: thermodynamic integration, and all windows together (MBAR)."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from alchemjax.calculate import fitting_topology, precision, roomy_shapes
from alchemjax.energy import energy
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import index_arrays
from alchemjax.system.neighbours import nearest_distance
from alchemjax.system.structure import wrapped
from alchemjax.system.system import System
from alchemjax.system.topology import block_shapes
from alchemjax.tasks.free_energy.doubts import doubts_of_places, doubts_of_rest
from alchemjax.tasks.free_energy.estimators import (
    LEAST_SAMPLES,
    Estimate,
    Overlapping,
    inefficiency,
    integral,
    mbar,
    mean_of,
)
from alchemjax.tasks.free_energy.paths import Path, along, derivative
from alchemjax.tasks.free_energy.switching import (
    check_options,
    doubts_beforehand,
    mass_terms,
    mixing_term,
    record_of,
    whole_samples,
)
from alchemjax.tasks.md import Trajectory, recorded_run
from alchemjax.tasks.md_plan import Plan, all_strains, make_plan
from alchemjax.units import KELVIN

LEAST_OVERLAP = 0.03  # P. V. Klimovich, M. R. Shirts, D. L. Mobley, J. Comput. Aided Mol. Des. 29, 397 (2015)
RULES = ("gauss-legendre", "trapezoid")
SURELY_MISSED = 4.0  # standard errors; fewer are met by chance now and then, and what they hide is small
DRAWS = 40  # of samples, for the error of what a quadrature misses


class Windows(NamedTuple):
    """What windows say."""

    difference: Estimate  # F(end) - F(start), or G under a pressure, without momenta [eV]; by MBAR
    mass_term: float  # what momenta add: 3/2 kT sum_i ln(m_i(start) / m_i(end)) [eV]
    mixing_term: float  # what mixing adds where sites are occupied independently: -T (S(end) - S(start)) [eV]
    integral: Estimate  # by thermodynamic integration [eV]
    lambdas: Float[np.ndarray, "windows"]
    derivatives: list[Estimate]  # dE/dlambda [eV]
    states: Float[np.ndarray, "states"]  # lambdas of all windows and of the ends of the path
    profile: list[Estimate]  # F(lambda) - F(0) of the states without momenta and mixing [eV]; by MBAR
    overlap: float  # least of neighbouring windows
    doubts: tuple[str, ...]


class WindowFacts(NamedTuple):
    """What the analysis must know of windows."""

    lambdas: list[float]
    rule_weights: list[float]  # of the quadrature
    states: list[float]  # lambdas of all windows and of the ends, which rules of quadrature may leave out
    settled: int  # step where equilibration ends
    steps: int
    kT: float  # eV
    mass_term: float  # eV
    mixing_term: float  # eV
    near: float  # distance of the two sites that are nearest to each other [A]
    free_cell: bool  # all strains are free
    known: list[str]  # doubts that do not come from the run


class WindowRecord(NamedTuple):
    """What the analysis needs of settled samples."""

    energies: Float[np.ndarray, "samples windows states"]  # of what is sampled in a window, in all states [eV]
    slope: Float[np.ndarray, "samples windows"]  # dE/dlambda [eV]
    displacement: Float[np.ndarray, "samples windows"]  # of the site that is farthest from where it belongs [A]
    strain: Float[np.ndarray, "samples windows 6"]  # of the cell, from the one at the start


class WindowRun(NamedTuple):
    """Windows that are to be run side by side."""

    plan: Plan
    path: Path
    facts: WindowFacts


def plan_windows(
    potential: Potential,
    system: System,
    path: Path,
    *,
    temperature: float,
    windows: int = 8,
    rule: str = "gauss-legendre",
    equilibration: float = 1000.0,
    sampling: float = 4000.0,
    timestep: float = 1.0,
    every: int = 20,
    seed: int = 0,
    **options,
) -> WindowRun:
    """Equilibrate and sample [fs] every window, all in one program; `options` as in `make_plan`.

    Nodes of Gauss and Legendre, or equidistant ones with both ends. Errors: ValueError as in `make_plan`.
    """
    check_options(path, options, ("weights", "scale", "stiffness", "share", "replicas"))
    if rule not in RULES:
        raise ValueError(f"rule '{rule}' is unknown; use {', '.join(RULES)}")
    if windows != int(windows) or windows < 2:
        raise ValueError(f"windows = {windows!r} must be a whole number, at least 2")
    if rule == "trapezoid":
        lambdas = np.linspace(0, 1, windows)
        weights = np.full(windows, 1 / (windows - 1)) * np.where(np.isin(np.arange(windows), (0, windows - 1)), 0.5, 1)
    else:
        lambdas, weights = np.polynomial.legendre.leggauss(windows)
        lambdas, weights = (lambdas + 1) / 2, weights / 2
    rows = zip(*along(path, lambdas).values(), strict=True)
    replicas = [{"weights": w, "scale": s, "stiffness": k} for w, s, k in rows]
    steps = [
        whole_samples(name, duration, timestep, every)
        for name, duration in (("equilibration", equilibration), ("sampling", sampling))
    ]
    plan = make_plan(
        potential, system, path.weights[0], steps=sum(steps), timestep=timestep, temperature=temperature, seed=seed,
        replicas=replicas, every=every, share=path.share, **options,
    )  # fmt: skip
    kT = temperature * KELVIN
    facts = WindowFacts(
        lambdas=lambdas.tolist(),
        rule_weights=weights.tolist(),
        states=np.unique([0.0, *lambdas, 1.0]).tolist(),
        settled=steps[0],
        steps=sum(steps),
        kT=kT,
        mass_term=mass_terms(plan, path, kT)[1],
        mixing_term=mixing_term(system, path, kT),
        near=nearest_distance(system.structure),
        free_cell=all_strains(plan),
        known=doubts_beforehand(potential, plan, path),
    )
    return WindowRun(plan, path, facts)


def windows(
    potential: Potential, system: System, path: Path, *, on_chunk: Callable | None = None, **options
) -> Windows:
    """Free-energy difference between the ends of a path, from runs at fixed lambda; `options` of `plan_windows`.

    `on_chunk` is called with every `Chunk` of the run. Errors: ValueError as in `plan_windows`; BlewUp as in `md`.
    """
    run = plan_windows(potential, system, path, **options)
    trajectory = recorded_run(potential, run.plan, on_chunk)
    kept = trajectory.step > run.facts.settled
    return analyse_windows(run.facts, window_record(potential, run, Trajectory(*(a[kept] for a in trajectory))))


def window_record(potential: Potential, run: WindowRun, trajectory: Trajectory) -> WindowRecord:
    """What the analysis needs of samples; their energies in all windows are calculated."""
    lambdas, states = np.array(run.facts.lambdas), along(run.path, run.facts.states)
    slope = derivative(run.path, np.broadcast_to(lambdas, trajectory.energy.shape), trajectory)
    springs = trajectory.stiffness_gradient @ states["stiffness"].T
    if (states["weights"] == states["weights"][0]).all():
        own = trajectory.scale_gradient[..., None]
    else:
        alphas = np.broadcast_to(run.plan.protocol.alpha.value[:, :1], (len(lambdas), len(run.facts.states)))
        of = lambda k: energies_of(
            potential, run.plan.system, trajectory.positions[:, k], trajectory.cell[:, k], states["weights"], alphas[k]
        )
        own = np.stack([of(k) for k in range(len(lambdas))], axis=1)
    record = record_of(run.plan, trajectory)
    return WindowRecord(own * states["scale"] + springs, slope, record.displacement, record.strain)


def analyse_windows(facts: WindowFacts, record: WindowRecord) -> Windows:
    """What finished windows say."""
    derivatives = [mean_of(one) for one in record.slope.T]
    total = integral(facts.rule_weights, derivatives)
    spacing = [int(np.ceil(inefficiency(one))) for one in record.slope.T]
    thinned = [(record.energies[::step, k], record.slope[::step, k]) for k, step in enumerate(spacing)]
    found = _together(facts, [energies for energies, _ in thinned])
    doubts = list(facts.known)
    if found.overlap < LEAST_OVERLAP:
        doubts.append(
            f"neighbouring windows have an overlap of {found.overlap:.3f}, less than {LEAST_OVERLAP:g}; take more "
            "windows"
        )
    least = min(e.samples for e in (*derivatives, found.profile[0], found.profile[-1]))
    if least < LEAST_SAMPLES:
        doubts.append(
            f"a window or an end of the path has {least:.0f} independent samples, fewer than {LEAST_SAMPLES}; sample "
            "for longer"
        )
    difference = found.profile[-1]
    missed, unsure = _missed(facts, thinned)
    if abs(missed) > max(SURELY_MISSED * unsure, total.error):
        doubts.append(
            f"thermodynamic integration misses the windows together by {1000 * missed:+.1f} +- "
            f"{1000 * unsure:.1f} meV of the same samples: dE/dlambda is too curved for the nodes; take more "
            "windows"
        )
    doubts += doubts_of_rest(record.strain, "in a window", alike=False, free=facts.free_cell)
    doubts += doubts_of_rest(record.strain, "on the average of all windows", alike=True)
    doubts += doubts_of_places(record.displacement.mean(axis=0).max(), facts.near)
    return Windows(
        difference=difference,
        mass_term=facts.mass_term,
        mixing_term=facts.mixing_term,
        integral=total,
        lambdas=np.array(facts.lambdas),
        derivatives=derivatives,
        states=np.array(facts.states),
        profile=found.profile,
        overlap=found.overlap,
        doubts=tuple(doubts),
    )


def _together(facts: WindowFacts, energies: list) -> Overlapping:
    """MBAR of independent samples' energies in all states, given for every window."""
    rows = dict(zip(facts.lambdas, energies, strict=True))
    return mbar([rows.get(at, np.zeros((0, len(facts.states)))) for at in facts.states], facts.kT)


def _missed(facts: WindowFacts, thinned: list) -> tuple[float, float]:
    """What the quadrature has beyond MBAR, and its error [eV], of the same samples, whose noise hardly counts then."""

    def beyond(chosen) -> float:
        picked = [(energies[c], slope[c]) for (energies, slope), c in zip(thinned, chosen, strict=True)]
        quadrature = np.sum(np.array(facts.rule_weights) * [slope.mean() for _, slope in picked])
        return float(quadrature) - _together(facts, [energies for energies, _ in picked]).profile[-1].value

    counts, rng = [len(slope) for _, slope in thinned], np.random.default_rng(0)
    drawn = [beyond([rng.integers(n, size=n) for n in counts]) for _ in range(DRAWS)]
    return beyond([np.arange(n) for n in counts]), float(np.std(drawn, ddof=1))


def energies_of(potential: Potential, system: System, positions, cells, weights, alphas) -> np.ndarray:
    """Energies [frames, compositions] of structures at many compositions [eV]; their geometry is calculated once."""
    shapes, rows = roomy_shapes(potential, system._replace(structure=wrapped(system.structure))), []
    run = _compiled(potential.node_energies, potential.config)
    for x, cell in zip(positions, cells, strict=True):
        structure = wrapped(system.structure._replace(positions=x, cell=cell))
        here = system._replace(structure=structure)
        topology = fitting_topology(potential, here, shapes)
        shapes = block_shapes(index_arrays(topology))
        with precision(potential):
            numbers = (structure.positions, structure.cell, weights, alphas)
            rows.append(
                np.asarray(run(potential.params, topology, *(jnp.asarray(a, potential.dtype) for a in numbers)))
            )
    return np.asarray(rows, np.float64).reshape(len(rows), len(weights))


@lru_cache(maxsize=32)
def _compiled(node_energies, config):
    def of(params, topology, positions, cell, weights, alphas):
        one = lambda w, a: energy(node_energies, config, params, topology, positions, cell, w, a)[0]
        return jax.vmap(one)(weights, alphas)

    return jax.jit(of)
