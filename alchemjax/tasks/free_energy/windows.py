"""Equilibrium windows along a path: thermodynamic integration, and all windows together (MBAR)."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from alchemjax.calculate import fitting_topology, precision
from alchemjax.energy import energy
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import index_arrays
from alchemjax.system.structure import wrapped
from alchemjax.system.system import System
from alchemjax.system.topology import block_shapes
from alchemjax.tasks.free_energy.estimators import LEAST_SAMPLES, Estimate, inefficiency, integral, mbar, mean_of
from alchemjax.tasks.free_energy.paths import Path, along, derivative
from alchemjax.tasks.free_energy.switching import check_constant, doubts_of_places, mass_terms, nearest, record_of
from alchemjax.tasks.md import Trajectory, recorded_run
from alchemjax.tasks.md_plan import Plan, make_plan
from alchemjax.units import KELVIN

LEAST_OVERLAP = 0.03  # P. V. Klimovich, M. R. Shirts, D. L. Mobley, J. Comput. Aided Mol. Des. 29, 397 (2015)
RULES = ("gauss-legendre", "trapezoid")


class Windows(NamedTuple):
    """What windows say."""

    difference: Estimate  # F(end) - F(start), or G under a pressure, without momenta [eV]; by MBAR
    mass_term: float  # what momenta add: 3/2 kT sum_i ln(m_i(start) / m_i(end)) [eV]
    integral: Estimate  # by thermodynamic integration [eV]
    lambdas: Float[np.ndarray, "windows"]
    derivatives: list[Estimate]  # dE/dlambda [eV]
    overlap: float  # least of neighbouring windows
    doubts: tuple[str, ...]


class WindowRun(NamedTuple):
    """Windows that are to be run side by side."""

    plan: Plan
    path: Path
    lambdas: Float[np.ndarray, "windows"]
    rule_weights: Float[np.ndarray, "windows"]  # of the quadrature
    settled: int  # step where equilibration ends
    kT: float  # eV


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
    check_constant(options)
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
    steps = [round(t / timestep / every) * every for t in (equilibration, sampling)]
    plan = make_plan(
        potential, system, path.weights[0], steps=sum(steps), timestep=timestep, temperature=temperature, seed=seed,
        replicas=replicas, every=every, share=path.share, **options,
    )  # fmt: skip
    return WindowRun(plan, path, lambdas, weights, steps[0], temperature * KELVIN)


def windows(
    potential: Potential, system: System, path: Path, *, on_chunk: Callable | None = None, **options
) -> Windows:
    """Free-energy difference between the ends of a path, from runs at fixed lambda; `options` of `plan_windows`.

    `on_chunk` is called with every `Chunk` of the run. Errors: ValueError as in `plan_windows`; BlewUp as in `md`.
    """
    run = plan_windows(potential, system, path, **options)
    return analyse_windows(potential, run, recorded_run(potential, run.plan, on_chunk))


def analyse_windows(potential: Potential, run: WindowRun, trajectory: Trajectory) -> Windows:
    """What finished windows say; energies of independent samples in all windows are calculated."""
    settled = trajectory.step > run.settled
    kept = Trajectory(*(a[settled] for a in trajectory))
    series = derivative(run.path, np.broadcast_to(run.lambdas, kept.energy.shape), kept).T
    derivatives = [mean_of(one) for one in series]
    total = integral(run.rule_weights, derivatives)
    spacing = [int(np.ceil(inefficiency(one))) for one in series]
    states = np.unique([0.0, *run.lambdas, 1.0])  # the ends too, which rules of quadrature may leave out
    rows = [_in_all(potential, run, kept, k, slice(None, None, step), states) for k, step in enumerate(spacing)]
    found = mbar(_placed(rows, run.lambdas, states), run.kT)
    doubts = []
    if found.overlap < LEAST_OVERLAP:
        doubts.append(
            f"neighbouring windows have an overlap of {found.overlap:.3f}, less than {LEAST_OVERLAP:g}; take more "
            "windows"
        )
    least = min(found.ends, *(d.samples for d in derivatives))
    if least < LEAST_SAMPLES:
        doubts.append(
            f"a window or an end of the path has {least:.0f} independent samples, fewer than {LEAST_SAMPLES}; sample "
            "for longer"
        )
    apart, error = abs(found.difference.value - total.value), float(np.hypot(found.difference.error, total.error))
    if apart > 3 * error:
        doubts.append(
            f"thermodynamic integration misses the windows together by {1000 * apart:.1f} meV, more than three "
            "standard errors: dE/dlambda is too curved for the nodes; take more windows"
        )
    away = record_of(run.plan, kept).displacement.mean(axis=0).max()
    doubts += doubts_of_places(away, nearest(run.plan.system.structure))
    mass_term = mass_terms(run.plan, run.path, run.kT)[1]
    return Windows(found.difference, mass_term, total, run.lambdas, derivatives, found.overlap, tuple(doubts))


def _placed(rows: list, lambdas, at) -> list:
    """Rows of every state; none for one that is no window."""
    where = {float(one): row for one, row in zip(lambdas, rows, strict=True)}
    return [where.get(float(one), np.zeros((0, len(at)))) for one in at]


def _in_all(potential: Potential, run: WindowRun, samples: Trajectory, window: int, chosen: slice, at):
    """Energies [samples, states] of some samples of a window, in the states at all these lambdas [eV]."""
    states = along(run.path, at)
    springs = samples.stiffness_gradient[chosen, window] @ states["stiffness"].T
    if (states["weights"] == states["weights"][0]).all():
        return samples.scale_gradient[chosen, window, None] * states["scale"] + springs
    positions, cells = samples.positions[chosen, window], samples.cell[chosen, window]
    alphas = np.full(len(at), run.plan.protocol.alpha.value[window, 0])
    own = energies_of(potential, run.plan.system, positions, cells, states["weights"], alphas)
    return own * states["scale"] + springs


def energies_of(potential: Potential, system: System, positions, cells, weights, alphas) -> np.ndarray:
    """Energies [frames, compositions] of structures at many compositions [eV]; their geometry is calculated once."""
    shapes, rows = None, []
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
    return np.asarray(rows, np.float64)


@lru_cache(maxsize=32)
def _compiled(node_energies, config):
    def of(params, topology, positions, cell, weights, alphas):
        one = lambda w, a: energy(node_energies, config, params, topology, positions, cell, w, a)[0]
        return jax.vmap(one)(weights, alphas)

    return jax.jit(of)
