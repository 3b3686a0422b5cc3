"""Relaxation of positions and cell: the host makes neighbour lists, compiled FIRE steps do the rest."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from alchemjax.calculate import (
    Output,
    check_kind,
    for_first_derivatives,
    precision,
    topology_of,
    with_fluctuations,
)
from alchemjax.devices import MEMBERS, mesh_for, on_any, spread
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations, Variants, index_arrays
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.structure import MINIMUM_DISTANCE, Structure, volume, wrapped
from alchemjax.system.system import System, checked_alpha, checked_weights
from alchemjax.system.topology import ShapeOverflow, Topology, block_shapes, full_rows
from alchemjax.tasks.fire import Limits, State, initial_state, run
from alchemjax.tasks.freedom import Freedom, keeps_symmetry, make_freedom

SKIN = 0.3  # A, beyond the cutoff
HEADROOM = 0.02  # linear compression that the arrays of the neighbour list have room for
LARGEST_COMPRESSION = 8.0  # of the volume; what is crushed more has no energy
STEPS_PER_CALL = 50  # between two looks of the host


class Relaxed(NamedTuple):
    """Result of a relaxation."""

    structure: Structure
    weights: Float[np.ndarray, "weights"]
    output: Output  # at the relaxed structure
    converged: bool
    steps: int
    max_force: float  # eV/A, over the free sites
    max_stress: float  # eV/A^3, of the allowed stress plus pressure
    fluctuations: Fluctuations | None = None  # with which the energy was calculated


@lru_cache(maxsize=32)
def _compiled_run(node_energies, config, mesh: Mesh):
    """`run`, every device with its part of the batch, or of the edges of its only member."""
    one, split = jax.P(), jax.P(MEMBERS)
    specs = (one, split, one, one, one, one, split, split, one, split)
    # all devices stop where one member needs a new list: while the host makes it, none of them could go on
    return spread(partial(run, node_energies, config, anywhere=on_any), mesh, specs, split)


def relax_batch(
    potential: Potential,
    system: System,
    weights: Float[np.ndarray, "batch weights"],
    alpha: Float[np.ndarray, "batch"],
    freedom: Freedom,
    limits: Limits,
    on_steps: Callable[[State], None] | None = None,
) -> State:
    """Relax one structure at many compositions; the batch is a multiple of the number of devices.

    `on_steps` is called with the state from time to time. A member whose sites collapse ends unconverged, energy NaN.
    """
    system = system._replace(structure=wrapped(system.structure))
    mesh = mesh_for(len(weights), len(system.structure.positions))
    with precision(potential):
        cast = lambda a: jnp.asarray(a, potential.dtype)
        cell, freedom, limits = cast(system.structure.cell), *jax.tree.map(cast, (freedom, limits))
        limits = limits._replace(steps=limits.steps.astype(int))
        start = initial_state(cast(system.structure.positions), weights.shape[1])
        state = jax.tree.map(lambda a: jnp.repeat(a[None], len(weights), axis=0), start)
        lists = Lists(potential, system, freedom, len(weights))
        step = _compiled_run(potential.node_energies, potential.config, mesh)
        until = 0
        while not np.asarray(state.finished).all():
            state = lists.refresh(state)
            going = ~np.asarray(state.finished)
            until = max(until, int(np.asarray(state.step)[going].min(initial=limits.steps)) + STEPS_PER_CALL)
            topology, skin = lists.stacked(), cast(SKIN)
            arguments = (potential.params, topology, cell, freedom, limits, skin, cast(weights), cast(alpha))
            state = step(*arguments, jnp.asarray(until), state)
            if on_steps is not None:
                on_steps(state)
        return lists.without_collapsed(jax.tree.map(np.asarray, state))


class Lists:
    """Neighbour lists of a batch, all of one shape, so that a new list does not recompile."""

    def __init__(self, potential: Potential, system: System, freedom: Freedom, batch: int, skin: float = SKIN):
        """`skin` [A] is beyond the cutoff."""
        self.potential, self.system, self.strains, self.skin = potential, system, np.asarray(freedom.strains), skin
        self.structures = [system.structure] * batch
        self.shapes = self._roomy_shapes(system.structure)
        self.members = [self._topology(system.structure, self.shapes)] * batch
        self._stack: Topology | Variants | None = None

    def _topology(self, structure: Structure, shapes) -> Topology | Variants:
        return topology_of(self.potential, self.system._replace(structure=structure), skin=self.skin, shapes=shapes)

    def _roomy_shapes(self, structure: Structure):
        scale = 1 - HEADROOM if self.strains.any() else 1.0
        squeezed = structure._replace(positions=structure.positions * scale, cell=structure.cell * scale)
        try:
            return block_shapes(index_arrays(self._topology(squeezed, None)))
        except ValueError:  # sites too close once squeezed
            return block_shapes(index_arrays(self._topology(structure, None)))

    def stacked(self) -> Topology | Variants:
        """All members' lists, along a new first axis."""
        stack = self._stack or jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *self.members)
        self._stack = stack
        return stack

    def refresh(self, state: State) -> State:
        """Make the stale lists again and note where they were made."""
        stale = np.asarray(state.stale & ~state.finished)
        if not stale.any():
            return state
        lost = np.array([bool(stale[k]) and not self._replace(k, state) for k in range(len(stale))])
        made = stale & ~lost
        self._stack = None
        return state._replace(
            listed_reference=jnp.where(made[:, None, None], state.reference, state.listed_reference),
            listed_strain=jnp.where(made[:, None], state.strain, state.listed_strain),
            stale=state.stale & ~stale,
            finished=state.finished | lost,
            energy=jnp.where(lost, jnp.nan, state.energy),
        )

    def _replace(self, k: int, state: State) -> bool:
        """New list of member k; False where there is none: sites on top of each other, or not finite."""
        structure = structure_of(self.system.structure, self.strains, state, k)
        try:
            if self._is_crushed(structure):
                return False
            self.members[k] = self._topology(structure, self.shapes)
            self.structures[k] = structure
        except ShapeOverflow:
            roomy = self._roomy_shapes(structure)
            self.structures[k] = structure
            most = [tuple(map(int, np.maximum(a, b))) for a, b in zip(roomy, self.shapes, strict=True)]
            self.shapes = [(full_rows(*shape), shape[1]) for shape in most]
            self.members = [self._topology(s, self.shapes) for s in self.structures]
        except ValueError:
            return False
        return True

    def _is_crushed(self, structure: Structure) -> bool:
        """Not finite, or a volume so small that its neighbour list would fill the memory."""
        start = abs(np.linalg.det(self.system.structure.cell))
        now = abs(np.linalg.det(structure.cell))
        return not np.isfinite(structure.positions).all() or (start > 0 and not now > start / LARGEST_COMPRESSION)

    def without_collapsed(self, state: State) -> State:
        """Members with sites on top of each other have no energy."""
        bad = np.zeros(len(state.finished), bool)
        for k in range(len(bad)):
            structure = structure_of(self.system.structure, self.strains, state, k)
            bad[k] = self._is_crushed(structure)
            try:
                _ = bad[k] or find_pairs(structure, MINIMUM_DISTANCE)
            except ValueError:
                bad[k] = True
        return state._replace(energy=np.where(bad, np.nan, state.energy), converged=state.converged & ~bad)


def structure_of(start: Structure, strains: np.ndarray, state: State, k: int, offset=0.0) -> Structure:
    """Structure of member k of a batch, in float64; `offset` [A] from wrapped to given positions, before strain."""
    deformation = np.eye(3) + np.einsum("k,kxy->xy", np.asarray(state.strain[k], np.float64), strains)
    return start._replace(
        positions=(np.asarray(state.reference[k], np.float64) + offset) @ deformation, cell=start.cell @ deformation
    )


def relaxed_structure(system: System, freedom: Freedom, state: State, k: int) -> Structure:
    """Structure of member k, every site in the periodic image in which it was given."""
    offset = system.structure.positions - wrapped(system.structure).positions
    return structure_of(system.structure, freedom.strains, state, k, offset)


def check_limit(name: str, value, shown: str | None = None) -> None:
    """Errors: ValueError for a tolerance, pressure, step or batch number out of range; `shown` is what it is called."""
    value = np.asarray(value).item() if np.ndim(value) == 0 else value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "pressure":
        allowed, needed = number and np.isfinite(value), "a finite number"
    elif name in ("max_steps", "batch"):
        least = 0 if name == "max_steps" else 1
        whole = number and np.isfinite(value) and value == int(value)
        allowed, needed = whole and value >= least, f"a whole number, at least {least}"
    else:
        allowed, needed = number and value > 0, "a positive number"
    if not allowed:
        raise ValueError(f"{shown or f'{name} = {value!r}'} must be {needed}")


def make_limits(
    system: System, freedom: Freedom, *, force: float, stress: float, steps: int, pressure: float
) -> Limits:
    """Checked stopping rules. Errors: ValueError as in `check_limit`, and for a pressure on a cell that stays."""
    named = {"force_tolerance": force, "stress_tolerance": stress, "max_steps": steps, "pressure": pressure}
    for name, value in named.items():
        check_limit(name, value)
    strained = freedom.strains.any()
    if pressure and not strained:
        raise ValueError(
            f"pressure = {pressure} has no effect unless the cell is relaxed; leave it out, or relax the cell"
        )
    if strained and volume(system.structure) is None:
        raise ValueError(
            "stress needs a cell with a volume; give the non-periodic direction a lattice vector, or relax only "
            "the positions"
        )
    return Limits(*(np.asarray(x) for x in (force, stress, steps, pressure)))


def relax(
    potential: Potential,
    system: System,
    weights=None,
    *,
    alpha=None,
    positions: bool = True,
    cell=False,
    pressure: float = 0.0,
    fixed_sites=(),
    fixed_axes=(),
    force_tolerance: float = 0.005,
    stress_tolerance: float = 5e-6,
    max_steps: int = 500,
    fluctuations: str = "none",
    supercell=None,
    on_steps: Callable[[State], None] | None = None,
) -> Relaxed:
    """Minimise the enthalpy E + p V over positions and/or cell at one composition.

    `fluctuations` and `supercell` choose the energy as in `calculate`. `cell` is True, False, "hydrostatic" or six
    flags (xx yy zz yz xz xy); `pressure` in eV/A^3; tolerances in eV/A (norm of a site's force) and eV/A^3 (component
    of the allowed stress). `converged` tells if `max_steps` were enough.
    Errors: ValueError as in `calculate`, and for a freedom that makes no sense.
    """
    check_kind(potential, Potential)
    check_kind(system, System)
    weights = checked_weights(system, weights)
    alpha = checked_alpha(system, weights, alpha)
    freedom = make_freedom(
        system.structure, positions=positions, cell=cell, fixed_sites=fixed_sites, fixed_axes=fixed_axes
    )
    limits = make_limits(
        system, freedom, force=force_tolerance, stress=stress_tolerance, steps=max_steps, pressure=pressure
    )
    symmetric = keeps_symmetry(cell, fixed_sites, fixed_axes)
    system = with_fluctuations(potential, system, fluctuations, supercell, symmetric=symmetric)
    system = for_first_derivatives(system, weights)
    state = relax_batch(potential, system, weights[None], np.array([alpha]), freedom, limits, on_steps)
    return relaxed_member(system, freedom, weights, state, 0)


def relaxed_member(system: System, freedom: Freedom, weights, state: State, k: int) -> Relaxed:
    """Result of member k of a batch."""
    structure = relaxed_structure(system, freedom, state, k)
    space = volume(structure)
    output = Output(
        energy=state.energy[k],
        site_energies=state.site_energies[k],
        forces=state.forces[k],
        stress=None if space is None else state.virial[k] / state.virial.dtype.type(space),
        weights_gradient=state.weights_gradient[k],
        alpha_gradient=state.alpha_gradient[k] if system.coupling == "correlated" else None,
    )
    return Relaxed(
        structure=structure,
        weights=weights,
        output=output,
        converged=bool(state.converged[k]),
        steps=int(state.step[k]),
        max_force=float(state.max_force[k]),
        max_stress=float(state.max_stress[k]),
        fluctuations=system.fluctuations,
    )
