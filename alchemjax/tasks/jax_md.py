"""The potential as a pair of functions for jax-md: neighbour lists and energy, in fractional coordinates."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from alchemjax.calculate import SKIN, check_kind, check_traceable, energy, precision, species_rows, traced_weights
from alchemjax.model.load import Potential
from alchemjax.system.lists import SPARE, Grid, Neighbours, allocate, no_list, renewed, topology
from alchemjax.system.masses import node_masses
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import listed_weights
from alchemjax.system.structure import completed_cell, volume
from alchemjax.system.system import System, checked_alpha, checked_weights
from alchemjax.system.topology import make_layout
from alchemjax.tasks.thermostats import site_masses


class NeighbourFns(NamedTuple):
    """What goes with the energy function. Positions are fractional; the columns of a box are lattice vectors."""

    allocate: Callable  # (positions, extra_capacity=0, *, box=None) -> NeighbourList; on the host
    update: Callable  # (positions, neighbours, *, box=None) -> NeighbourList; traced
    shift: Callable  # (positions, Cartesian displacements, *, box=None) -> positions, wrapped where periodic
    masses: Callable  # (weights=None) -> [sites, 1] in amu
    position: Float[np.ndarray, "sites 3"]  # of the system
    box: Float[np.ndarray, "3 3"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["listed", "box", "did_buffer_overflow"],
    meta_fields=["grid", "points", "update_fn"],
)
@dataclass(frozen=True)
class NeighbourList:
    """Pairs within cutoff and skin, of the image of every site nearest to its reference position.

    `did_buffer_overflow` stays set until the list is allocated again.
    """

    listed: Neighbours
    box: Float[Array, "*lists 3 3"]
    did_buffer_overflow: Bool[Array, "*lists"]
    grid: Grid
    points: int
    update_fn: Callable

    def update(self, position, **options) -> "NeighbourList":
        """The list for these positions, made again only if sites or box have moved too far."""
        return self.update_fn(position, self, **options)

    @property
    def reference_position(self) -> Float[Array, "*lists sites 3"]:
        """Fractional positions where the list was made, in the box along its periodic directions."""
        return self.listed.positions @ jnp.linalg.inv(self.listed.cell)

    @property
    def idx(self):
        """(receivers, senders), both of all blocks of edges; the number of points where there is no pair."""
        receivers = [jnp.broadcast_to(r[:, None], s.shape) for r, s in zip(*self.listed[1::-1], strict=True)]
        senders = [jnp.ravel(s) for s in self.listed.sender]
        masked = [
            jnp.where(s < self.points, jnp.ravel(r), self.points) for r, s in zip(receivers, senders, strict=True)
        ]
        return jnp.concatenate(masked), jnp.concatenate(senders)

    @property
    def shifts(self):
        """Whole lattice vectors that belong to the senders, [pairs, 3]."""
        return jnp.concatenate([shift.reshape(-1, 3) for shift in self.listed.shift])


def jax_md(
    potential: Potential,
    system: System,
    weights=None,
    alpha=None,
    *,
    box=None,
    dr_threshold: float = SKIN,
    capacity_multiplier: float = SPARE,
) -> tuple[NeighbourFns, Callable]:
    """(neighbour_fn, energy_fn) for `jax_md.simulate`, `minimize`, `quantity` and `elasticity`.

    energy_fn(R, neighbor, *, box=None, perturbation=None, weights=None, alpha=None, **unused) is the energy [eV] at the
    fractional positions R [sites, 3]; its gradient in R is minus the Cartesian force. `weights` and `alpha`, here or at
    every step, are those of `calculate`. The columns of `box` are lattice vectors (the transpose of ASE's cell); it may
    change from step to step, also without a new list. `dr_threshold` is the skin [A] beyond the cutoff.

    Lists are right for every cell that can be inverted, periodic in the directions of the system. Between two updates a
    site may not move by half the box. jax-md's time unit with these units is A (amu/eV)^(1/2) = 10.18 fs; the sign of
    `jax_md.quantity.stress` is opposite to that of `calculate`.

    Errors: ValueError as in `calculate`, and for a box without volume or a negative threshold.
    """
    check_kind(potential, Potential)
    check_kind(system, System)
    check_traceable(potential)
    if not (np.isfinite(dr_threshold) and dr_threshold >= 0):
        raise ValueError(f"dr_threshold = {dr_threshold} must be at least 0 (skin in A)")
    structure, sites = system.structure, system.sites
    pbc = tuple(map(bool, structure.pbc))
    start = structure.cell if volume(structure) is not None else completed_cell(structure)
    start = start.T if box is None else _matrix(np.asarray(box, np.float64))
    if volume(structure._replace(cell=start.T)) is None:
        raise ValueError(f"the box {start.tolist()} has no volume; its columns must be three independent vectors")
    rule, layout = make_layout(sites, species_rows(potential, system), system.coupling, per_node=potential.per_node)
    arrays = jax.tree.map(jnp.asarray, layout)  # for traced indices
    default = checked_weights(system, weights)
    default_alpha = checked_alpha(system, default, alpha)
    node_mass, number = node_masses(sites), len(structure.positions)
    cutoff, dtype = float(potential.cutoff), potential.dtype
    periodic = jnp.asarray(pbc)[None]

    def cell_of(box, otherwise):
        return jnp.asarray(otherwise if box is None else _matrix(jnp.asarray(box))).T

    def allocate_fn(position, extra_capacity: int = 0, *, box=None, **unused) -> NeighbourList:
        if isinstance(position, Tracer):
            raise ValueError("allocate looks at values and cannot be traced; call it outside jit, update inside")
        position = np.asarray(position, np.float64)
        _check_position(structure, position, start)
        cell = np.asarray(cell_of(box, start), np.float64)
        atoms = structure._replace(positions=position @ cell, cell=cell)
        find_pairs(atoms, cutoff)  # refuses sites on top of each other
        grid = allocate(rule, layout, [atoms], cutoff + dr_threshold, spare=capacity_multiplier)
        grid = grid._replace(shapes=tuple((rows + int(extra_capacity), width) for rows, width in grid.shapes))
        with precision(potential):
            blank = NeighbourList(
                jax.tree.map(jnp.asarray, no_list(grid, rule, number, dtype)),
                jnp.asarray(cell.T, dtype),
                jnp.zeros((), bool),
                grid,
                rule.points,
                update_fn,
            )
            return _jitted_update(update_fn)(jnp.asarray(position, dtype), blank)

    def update_fn(position, neighbours: NeighbourList, *, box=None, **unused) -> NeighbourList:
        cell = cell_of(box, neighbours.box).astype(dtype)
        here = jnp.asarray(position, dtype) @ cell
        _, listed = renewed(neighbours.grid, rule, arrays, cutoff, neighbours.listed, here, cell)
        overflow = neighbours.did_buffer_overflow | listed.overflow
        return replace(neighbours, listed=listed, box=cell.T, did_buffer_overflow=overflow)

    def energy_fn(
        position, neighbor: NeighbourList, *, box=None, perturbation=None, weights=None, alpha=None, **unused
    ):
        from jax_md import space

        box = cell_of(box, neighbor.box).astype(dtype).T
        position = jnp.asarray(position, dtype)
        # the image that the list is of: its lattice shifts stay valid however positions are wrapped
        turns = lax.stop_gradient(jnp.round(position - neighbor.reference_position))
        here = position - jnp.where(periodic, turns, 0)
        strain = None
        if perturbation is not None:  # acts on columns; a number or a matrix, 1 for no strain
            strain = (
                jnp.asarray(perturbation, dtype) * jnp.eye(3, dtype=dtype)
                if jnp.ndim(perturbation) == 0
                else (jnp.asarray(perturbation, dtype).T)
            )
            strain = strain - jnp.eye(3, dtype=dtype)
        w = traced_weights(potential, system, default if weights is None else listed_weights(sites, weights))
        a = default_alpha if alpha is None else checked_alpha(system, None, alpha)
        return energy(
            potential.node_energies,
            potential.config,
            potential.params,
            topology(rule, arrays, neighbor.listed),
            space.transform(box, here),
            box.T,
            w.astype(dtype),
            jnp.asarray(a, dtype),
            strain,
        )[0]

    def shift_fn(position, displacement, *, box=None, **unused):
        from jax_md import space

        box = cell_of(box, start).T.astype(position.dtype)
        moved = position + space.raw_transform(jnp.linalg.inv(box), displacement)
        return moved - jnp.where(periodic, jnp.floor(moved), 0)

    def masses(weights=None):
        given = default if weights is None else listed_weights(sites, weights)
        w = jnp.append(jnp.asarray(given, dtype), jnp.ones((), dtype))
        return site_masses(w[arrays.rest.node_weight], jnp.asarray(node_mass, dtype), arrays.rest.node_site, number)[
            :, None
        ]

    position = structure.positions @ np.linalg.inv(start.T)
    return NeighbourFns(allocate_fn, update_fn, shift_fn, masses, position, start), energy_fn


@lru_cache(maxsize=32)
def _jitted_update(update_fn):
    return jax.jit(update_fn)


def _matrix(box):
    """jax-md also writes an orthogonal box as a vector and a cube as a number."""
    return box if box.ndim == 2 else box * np.eye(3) if box.ndim == 0 else box[:, None] * np.eye(3)


def _check_position(structure, position, box) -> None:
    if position.shape != structure.positions.shape:
        raise ValueError(f"positions have shape {position.shape}; this system has {len(structure.positions)} sites")
    if not np.isfinite(position).all():
        raise ValueError("positions contain NaN or infinity; give finite fractional coordinates")
    fractional = structure.positions @ np.linalg.inv(box.T)
    if np.allclose(position, structure.positions) and not np.allclose(position, fractional):
        raise ValueError(
            "these are the Cartesian positions of the system; give fractional ones (neighbour_fn.position)"
        )
