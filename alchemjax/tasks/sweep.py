"""Many compositions of one structure: vmapped in batches, spread over devices, resumable batch by batch."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from inspect import signature
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from alchemjax.calculate import (
    Derivatives,
    check_kind,
    derivatives,
    for_first_derivatives,
    precision,
    topology_of,
    with_fluctuations,
)
from alchemjax.devices import MEMBERS, mesh_for, spread
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations, index_arrays
from alchemjax.system.structure import volume, wrapped
from alchemjax.system.system import System, checked_alpha, checked_weights
from alchemjax.tasks.fire import Limits
from alchemjax.tasks.freedom import Freedom, keeps_symmetry, make_freedom
from alchemjax.tasks.relax import SKIN, check_limit, make_limits, relax_batch, relaxed_structure

RELAX = ("none", "positions", "cell")
MEMORY = 1.5e9  # bytes that the arrays of one batch may take
BYTES_PER_EDGE = {"none": 1e4, "positions": 2e4, "cell": 2e4}  # of one composition, float32; of Nequix, the largest
LARGEST_BATCH = {"none": 32, "positions": 8, "cell": 8}


class Table(NamedTuple):
    """One row per composition."""

    weights: Float[np.ndarray, "rows weights"]
    energy: Float[np.ndarray, "rows"]  # eV
    volume: Float[np.ndarray, "rows"]  # A^3, NaN without a cell volume
    cell: Float[np.ndarray, "rows 3 3"]  # A
    positions: Float[np.ndarray, "rows sites 3"]  # A
    forces: Float[np.ndarray, "rows sites 3"]  # eV/A
    stress: Float[np.ndarray, "rows 3 3"]  # eV/A^3, NaN without a cell volume
    weights_gradient: Float[np.ndarray, "rows weights"]  # eV
    max_force: Float[np.ndarray, "rows"]  # eV/A, over what may move
    max_stress: Float[np.ndarray, "rows"]  # eV/A^3, of the allowed stress plus pressure
    steps: Int[np.ndarray, "rows"]
    converged: Bool[np.ndarray, "rows"]  # True for single points


class Plan(NamedTuple):
    """A sweep that has been checked."""

    weights: Float[np.ndarray, "rows weights"]
    alpha: Float[np.ndarray, "rows"]
    relax: str
    freedom: Freedom
    limits: Limits
    batch: int
    fluctuations: Fluctuations | None


def make_plan(
    potential: Potential,
    system: System,
    compositions,
    relax: str = "cell",
    *,
    alpha=None,
    pressure: float = 0.0,
    cell=True,
    fixed_sites=(),
    fixed_axes=(),
    force_tolerance: float = 0.005,
    stress_tolerance: float = 5e-6,
    max_steps: int = 500,
    batch: int | None = None,
    fluctuations: str = "none",
    supercell=None,
) -> Plan:
    """Check a sweep: arguments as in `relax`, alpha also one for each row.

    `batch` compositions are run at a time, by default what memory allows.

    Errors: ValueError as in `relax`, naming the row of a wrong composition.
    """
    if relax not in RELAX:
        raise ValueError(f"relax = '{relax}' is not understood; use {', '.join(RELAX)}")
    check_kind(potential, Potential)
    check_kind(system, System)
    try:
        compositions = list(compositions)
    except TypeError:
        raise ValueError(f"compositions = {compositions!r} is no list; give one of weights, or of dicts") from None
    if not compositions:
        raise ValueError("no compositions were given; give at least one")
    weights = []
    for row, composition in enumerate(compositions):
        try:
            weights.append(checked_weights(system, composition))
        except ValueError as error:
            raise ValueError(f"composition {row}: {error}") from None
    freedom = make_freedom(
        system.structure,
        positions=relax != "none",
        cell=cell if relax == "cell" else False,
        fixed_sites=fixed_sites,
        fixed_axes=fixed_axes,
    )
    limits = make_limits(
        system, freedom, force=force_tolerance, stress=stress_tolerance, steps=max_steps, pressure=pressure
    )
    each = [alpha] * len(weights) if alpha is None or np.ndim(alpha) == 0 else list(alpha)
    if len(each) != len(weights) or any(np.ndim(a) for a in each):
        raise ValueError(f"alpha is {alpha!r:.80}; give one number, or one for each of {len(weights)} rows")
    alphas = np.array([checked_alpha(system, w, a) for w, a in zip(weights, each, strict=True)])
    symmetric = relax == "none" or keeps_symmetry(cell, fixed_sites, fixed_axes)
    system = with_fluctuations(potential, system, fluctuations, supercell, symmetric=symmetric)
    if batch is None:
        batch = _batch_size(potential, system, relax, len(weights))
    else:
        check_limit("batch", batch)
    return Plan(np.array(weights), alphas, relax, freedom, limits, batch, system.fluctuations)


def _batch_size(potential: Potential, system: System, relax: str, rows: int) -> int:
    topology = topology_of(potential, system, skin=0.0 if relax == "none" else SKIN)
    edges = sum(block.source.size for block in index_arrays(topology).blocks)
    edges *= 1 if potential.dtype == "float32" else 2
    edges *= 1 if system.fluctuations is None else 1 + len(system.fluctuations.variants.site)
    devices = min(len(jax.devices()), rows)
    memory = MEMORY / (devices if jax.default_backend() == "cpu" else 1)  # devices of a CPU share it
    most = devices * max(1, min(LARGEST_BATCH[relax], int(memory / (BYTES_PER_EDGE[relax] * edges))))
    batches = -(-rows // most)
    return devices * -(-rows // (devices * batches))  # of one size, with as few repeated members as possible


def sweep_batches(
    potential: Potential, system: System, plan: Plan, *, done: int = 0, on_steps: Callable | None = None
) -> Iterator[Table]:
    """The batches of a sweep from number `done` on, in order; each is the same whatever came before it."""
    system = for_first_derivatives(system._replace(fluctuations=plan.fluctuations), plan.weights)
    run = _single_points if plan.relax == "none" else _relaxations
    for start in range(done * plan.batch, len(plan.weights), plan.batch):
        part = slice(start, start + plan.batch)
        weights, alpha = plan.weights[part], plan.alpha[part]
        rows = len(weights)
        missing = plan.batch - rows  # the last batch is filled up: one shape, one compilation
        filled = np.concatenate([weights, np.repeat(weights[-1:], missing, axis=0)])
        table = run(potential, system, plan, filled, np.append(alpha, [alpha[-1]] * missing), on_steps)
        yield Table(*(column[:rows] for column in table))


def sweep(potential: Potential, system: System, compositions, relax: str = "cell", **options) -> Table:
    """Energies, relaxed structures and derivatives at many compositions.

    `relax`: "none" (single points at the given structure), "positions", or "cell" (positions and cell). `options` are
    those of `relax`, by name: `alpha` (here also one for each row), `pressure`, `cell`, `fixed_sites`, `fixed_axes`,
    `force_tolerance`, `stress_tolerance`, `max_steps`, `fluctuations` and `supercell`; and `batch`, how many
    compositions are run at a time, by default what memory allows.
    Errors: ValueError as in `relax`, naming the row of a wrong composition; TypeError for another option.
    """
    allowed = [name for name, p in signature(make_plan).parameters.items() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(options) - set(allowed)):
        raise TypeError(f"sweep() has no option '{unknown[0]}'; there are {', '.join(allowed)}")
    plan = make_plan(potential, system, compositions, relax, **options)
    return join(list(sweep_batches(potential, system, plan)))


def join(tables: list[Table]) -> Table:
    """The rows of several tables, one after the other."""
    return Table(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))


def _relaxations(potential, system, plan: Plan, weights, alpha, on_steps) -> Table:
    state = relax_batch(potential, system, weights, alpha, plan.freedom, plan.limits, on_steps)
    double = lambda a: np.asarray(a, np.float64)
    relaxed = [relaxed_structure(system, plan.freedom, state, k) for k in range(len(weights))]
    cells = np.stack([structure.cell for structure in relaxed])
    spaces = _volumes(system, cells)
    return Table(
        weights=weights,
        energy=double(state.energy),
        volume=spaces,
        cell=cells,
        positions=np.stack([structure.positions for structure in relaxed]),
        forces=double(state.forces),
        stress=double(state.virial) / spaces[:, None, None],
        weights_gradient=double(state.weights_gradient),
        max_force=double(state.max_force),
        max_stress=double(state.max_stress),
        steps=state.step,
        converged=state.converged,
    )


def _volumes(system: System, cells) -> np.ndarray:
    return np.array([volume(system.structure._replace(cell=cell)) or np.nan for cell in cells])


@lru_cache(maxsize=32)
def _compiled_points(node_energies, config, mesh: Mesh):
    one, split = jax.P(), jax.P(MEMBERS)
    points = jax.vmap(partial(derivatives, node_energies, config), in_axes=(None, None, None, None, 0, 0))
    return spread(points, mesh, (one, one, one, one, split, split), split)


def _single_points(potential, system, plan: Plan, weights, alpha, on_steps) -> Table:
    mesh = mesh_for(len(weights))
    with precision(potential):
        cast = lambda a: jnp.asarray(a, potential.dtype)
        near = system._replace(structure=wrapped(system.structure))
        config = replace(potential.config, batch=potential.config.batch * len(weights) // mesh.size)
        out: Derivatives = _compiled_points(potential.node_energies, config, mesh)(
            potential.params,
            topology_of(potential, near),
            cast(near.structure.positions),
            cast(near.structure.cell),
            cast(weights),
            cast(alpha),
        )
        out = jax.tree.map(lambda a: np.asarray(a, np.float64), out)
    rows = len(weights)
    repeat = lambda a: np.repeat(np.asarray(a)[None], rows, axis=0)
    structure = system.structure
    spaces = _volumes(system, repeat(structure.cell))
    stress = out.strain / spaces[:, None, None]
    pressure = float(plan.limits.pressure) * np.eye(3)
    return Table(
        weights=weights,
        energy=out.energy,
        volume=spaces,
        cell=repeat(structure.cell),
        positions=repeat(structure.positions),
        forces=-out.positions,
        stress=stress,
        weights_gradient=out.weights,
        max_force=np.linalg.norm(out.positions, axis=-1).max(-1),
        max_stress=np.abs(stress + pressure).max((-2, -1)),
        steps=np.zeros(rows, int),
        converged=np.isfinite(out.energy),
    )
