"""How the energy changes: energy, forces, stress and composition gradients from one reverse pass."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from alchemjax.energy import batch_energy, energy
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import (
    FLUCTUATIONS,
    Variants,
    index_arrays,
    make_fluctuations,
    without_vacancies,
)
from alchemjax.system.lists import SPARE, Grid, Neighbours, allocate, no_list, renewed, topology
from alchemjax.system.neighbours import find_pairs
from alchemjax.system.sites import check_shape, listed_weights
from alchemjax.system.structure import Structure, completed_cell, volume, wrapped
from alchemjax.system.supercell import repeated
from alchemjax.system.system import System, checked_alpha, checked_weights
from alchemjax.system.topology import Layout, Rule, ShapeOverflow, Topology, block_shapes, make_topology

SEPARATION = 2.0  # of a site from its images in the supercell where it fluctuates, in units of the cutoff
SPARE_ROWS = 1.1  # of lists that are made for every structure, for each that is needed
SKIN = 0.2  # A, beyond the cutoff, of lists that are kept
TRIES = 8  # to make room for a list
MOST_GRIDS = 64
WASTE = 2.0  # how many times as large as needed a grid may be that is taken over


class Output(NamedTuple):
    """Results at one structure and composition."""

    energy: Float[Array, ""]  # eV
    site_energies: Float[Array, "sites"]  # eV
    forces: Float[Array, "sites 3"]  # eV/A
    stress: Float[Array, "3 3"] | None  # eV/A^3, tension positive; None without a cell volume
    weights_gradient: Float[Array, "weights"]  # dE/dw [eV]
    alpha_gradient: Float[Array, ""] | None  # dE/dalpha [eV]; None unless the coupling is `correlated`


class Derivatives(NamedTuple):
    """What the traced evaluation returns."""

    energy: Float[Array, ""]
    site_energies: Float[Array, "sites"]
    positions: Float[Array, "sites 3"]  # dE/dx
    strain: Float[Array, "3 3"]  # dE/dstrain, symmetric
    weights: Float[Array, "weights"]
    alpha: Float[Array, ""]


def derivatives(node_energies, config, params, topology, positions, cell, weights, alpha) -> Derivatives:
    """Energy and all first derivatives from one reverse pass; traced. vmap it over weights: geometry stays shared."""

    def of(positions, strain, weights, alpha):
        return energy(node_energies, config, params, topology, positions, cell, weights, alpha, strain)

    strain = jnp.zeros((3, 3), positions.dtype)
    (total, sites), grads = jax.value_and_grad(of, (0, 1, 2, 3), has_aux=True)(positions, strain, weights, alpha)
    return Derivatives(total, sites, grads[0], (grads[1] + grads[1].T) / 2, grads[2], grads[3])


def batch_derivatives(node_energies, config, params, topology, positions, cell, weights, alpha) -> Derivatives:
    """`derivatives` of a batch of different geometries (a leading axis everywhere)."""

    def of(positions, strain, weights, alpha):
        return batch_energy(node_energies, config, params, topology, positions, cell, weights, alpha, strain)

    strain = jnp.zeros((len(positions), 3, 3), positions.dtype)
    (_, energies), grads = jax.value_and_grad(of, (0, 1, 2, 3), has_aux=True)(positions, strain, weights, alpha)
    virial = (grads[1] + jnp.swapaxes(grads[1], 1, 2)) / 2
    return Derivatives(jnp.sum(energies, axis=1), energies, grads[0], virial, grads[2], grads[3])


@lru_cache(maxsize=32)
def compiled_derivatives(node_energies, config):
    """`derivatives` of one network, compiled once per shape."""
    return jax.jit(lambda *arrays: derivatives(node_energies, config, *arrays))


def listed_derivatives(
    node_energies, config, rule: Rule, grid: Grid, params, layout: Layout, listed, positions, cell, weights, alpha
) -> tuple[Derivatives, Neighbours]:
    """`derivatives` with a neighbour list that is kept, and made again only where it is stale; traced."""
    positions, listed = renewed(grid, rule, layout, config.cutoff, listed, positions, cell)
    arrays = topology(rule, layout, listed)
    return derivatives(node_energies, config, params, arrays, positions, cell, weights, alpha), listed


@lru_cache(maxsize=32)
def compiled_listed_derivatives(node_energies, config, rule: Rule, grid: Grid):
    """`listed_derivatives`, compiled once for all structures that the grid has room for."""
    return jax.jit(partial(listed_derivatives, node_energies, config, rule, grid))


def precision(potential: Potential):
    """Context in which the potential's dtype exists, whatever JAX's global setting."""
    return jax.enable_x64(potential.dtype == "float64")


def check_kind(value, kind: type) -> None:
    """Errors: ValueError unless the value is a `Potential` or `System`, as asked for."""
    if not isinstance(value, kind):
        source = "alchemjax.load" if kind is Potential else "alchemjax.from_atoms or alchemjax.read"
        raise ValueError(
            f"an object {type(value).__name__} was given where a {kind.__name__} is needed; make one with {source} "
            "(first the potential, then the system)"
        )


def species_rows(potential: Potential, system: System) -> dict[str, int]:
    """Row of every species of the system in the potential's table. Errors: ValueError for one it lacks."""
    rows = {s: potential.species.index(s) for s in set(system.sites.node_species) if s in potential.species}
    if missing := sorted(set(system.sites.node_species) - set(rows)):
        raise ValueError(
            f"species '{missing[0]}' is not in {potential.name} ({len(potential.species)} elements); "
            "see alchemjax models"
        )
    return rows


def topology_of(potential: Potential, system: System, *, skin: float = 0.0, shapes=None) -> Topology | Variants:
    """Neighbour pairs within the cutoff plus skin [A], as index arrays of the alchemical graph."""
    rows, per_node = species_rows(potential, system), potential.per_node
    structure, sites, fluctuations = system.structure, system.sites, system.fluctuations
    if fluctuations is not None:
        structure, sites = repeated(structure, fluctuations.supercell), fluctuations.sites
    pairs = find_pairs(structure, potential.cutoff + skin)
    topology = make_topology(sites, pairs, rows, system.coupling, per_node=per_node, shapes=shapes)
    return topology if fluctuations is None else fluctuations.variants._replace(topology=topology)


def fitting_topology(potential: Potential, system: System, shapes: list[tuple[int, ...]] | None) -> Topology | Variants:
    """`topology_of` in arrays of these shapes, or of larger ones with room to spare where it does not fit."""
    try:
        return topology_of(potential, system, shapes=shapes)
    except ShapeOverflow:
        return topology_of(potential, system, shapes=roomy_shapes(potential, system))


def roomy_shapes(potential: Potential, system: System) -> list[tuple[int, ...]]:
    """Shapes of the arrays of `topology_of`, with room to spare."""
    needed = block_shapes(index_arrays(topology_of(potential, system)))
    return [(int(SPARE_ROWS * rows) + 1, width) for rows, width in needed]


def with_fluctuations(
    potential: Potential, system: System, kind: str, supercell=None, *, symmetric: bool = True
) -> System:
    """The system whose energy is that of a random alloy: see `alchemjax.energy`.

    `supercell` as in `calculate`; without `symmetric` sites and cell may then move in any way. Errors: ValueError for
    another kind, coupling or supercell.
    """
    if kind not in FLUCTUATIONS:
        raise ValueError(f"fluctuations = {kind!r} is not understood; use {', '.join(FLUCTUATIONS)}")
    if kind == "none":
        if supercell is not None:
            raise ValueError(f"supercell = {supercell} has no effect unless fluctuations = 'site-exact' or 'site'")
        return system
    if system.coupling != "independent":
        raise ValueError(
            f"fluctuations = '{kind}' are those of a random alloy, but the coupling is '{system.coupling}'; "
            "use coupling 'independent'"
        )
    if not system.sites.groups:
        return system  # nothing fluctuates
    supercell = SEPARATION * potential.cutoff if supercell is None else supercell
    fluctuations = make_fluctuations(system.structure, system.sites, kind, supercell, symmetric=symmetric)
    return system._replace(fluctuations=fluctuations)


def for_first_derivatives(system: System, weights) -> System:
    """The system for compositions [..., weights] that are known, of which no second derivatives are taken."""
    if system.fluctuations is None:
        return system
    variants = without_vacancies(system.fluctuations.variants, weights)
    return system._replace(fluctuations=system.fluctuations._replace(variants=variants))


def check_traceable(potential: Potential) -> None:
    """Errors: ValueError if derivatives of a float64 potential are taken where JAX has 32 bits only."""
    if potential.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "jit, vmap and grad through a float64 potential need JAX's 64-bit mode: call "
            "jax.config.update('jax_enable_x64', True) first, or load the potential in float32"
        )


def traced_weights(potential: Potential, system: System, weights):
    """The flat weights as one array, of which only the shape is checked. Errors: ValueError for a wrong one."""
    check_traceable(potential)
    weights = (
        jnp.stack([jnp.asarray(w) for w in weights]) if isinstance(weights, list | tuple) else jnp.asarray(weights)
    )
    check_shape(system.sites, weights.shape)
    return weights


def checked_numbers(potential: Potential, system: System, weights, alpha):
    """Weights, alpha and whether one of them is traced; then only shapes are checked. Errors: ValueError as in both."""
    weights = listed_weights(system.sites, system.weights if weights is None else weights)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((weights, alpha))):
        return traced_weights(potential, system, weights), checked_alpha(system, None, alpha), True
    weights = checked_weights(system, weights)
    return weights, checked_alpha(system, weights, alpha), False


def calculate(
    potential: Potential,
    system: System,
    weights=None,
    alpha=None,
    *,
    fluctuations: str = "none",
    supercell=None,
) -> Output:
    """Energy, forces, stress and composition gradients at the composition `weights`.

    `fluctuations`: "none" for the mean field, "site-exact" or "site" for a random alloy (`alchemjax.energy`).
    `supercell`, in which a site fluctuates: a distance [A] that it is away from its images (the smallest such supercell
    is taken; by default twice the cutoff), or three or 3 x 3 whole numbers.

    stress = (1/|V|) dE/dstrain, strain acting on vectors from the right, tension positive. `weights` may be a tracer:
    jit, vmap and grad go through. Errors: ValueError for wrong weights or alpha, a species that the potential
    lacks, sites closer than 0.1 A.

    Nam, Peng, Gomez-Bombarelli, Nat. Commun. 16, 4350 (2025), eqs. (3)-(7).
    """
    check_kind(potential, Potential)
    check_kind(system, System)
    system = with_fluctuations(potential, system, fluctuations, supercell)
    weights, alpha, traced = checked_numbers(potential, system, weights, alpha)
    if not traced:
        system = for_first_derivatives(system, weights)
    system = system._replace(structure=wrapped(system.structure))
    with precision(potential):
        cast = lambda a: jnp.asarray(a, potential.dtype)
        out = compiled_derivatives(potential.node_energies, potential.config)(
            potential.params,
            topology_of(potential, system),
            cast(system.structure.positions),
            cast(system.structure.cell),
            cast(weights),
            cast(alpha),
        )
        space = volume(system.structure)
        result = Output(
            energy=out.energy,
            site_energies=out.site_energies,
            forces=-out.positions,
            stress=None if space is None else out.strain / space,
            weights_gradient=out.weights,
            alpha_gradient=out.alpha if system.coupling == "correlated" else None,
        )
        return result if traced else jax.tree.map(np.asarray, result)


def fluctuating_derivatives(
    potential: Potential, system: System, weights, alpha, shapes: list[tuple[int, ...]] | None
) -> tuple[Derivatives, list[tuple[int, ...]]]:
    """Derivatives in float64 and the shapes of the lists, for the next structure of this kind to need no compilation.

    Errors: ValueError for sites closer than 0.1 A.
    """
    system = system._replace(structure=wrapped(system.structure))
    topology = fitting_topology(potential, system, shapes)
    with precision(potential):
        cast = lambda a: jnp.asarray(a, potential.dtype)
        numbers = map(cast, (system.structure.positions, system.structure.cell, weights, alpha))
        out = compiled_derivatives(potential.node_energies, potential.config)(potential.params, topology, *numbers)
        return Derivatives(*(np.asarray(a, np.float64) for a in out)), block_shapes(index_arrays(topology))


# --- one structure after another --------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """What one calculation leaves for the next."""

    kind: tuple  # of the calculation; those of one kind may share a grid and what is compiled for it
    grid: Grid
    neighbours: Neighbours


_GRIDS: dict[tuple, Grid] = {}  # of every kind the newest


def calculate_next(
    potential: Potential, rule: Rule, layout: Layout, structure: Structure, weights, alpha, kept: Kept | None = None
) -> tuple[Derivatives, Kept]:
    """Derivatives in float64, with the neighbour list of the calculation before as long as it holds.

    Structures of one kind share compiled programs, whoever calculates them. Errors: ValueError for sites closer than
    0.1 A.
    """
    structure = wrapped(structure)
    find_pairs(structure, 2.0)  # refuses sites on top of each other; with narrower bins the search is slower
    structure = structure._replace(cell=completed_cell(structure))
    shapes = tuple(a.shape for a in jax.tree.leaves(layout))
    kind = (potential.node_energies, potential.config, potential.dtype, rule, tuple(structure.pbc.tolist()), shapes)

    def start(outgrown: Grid | None, tries: int) -> Kept:
        own = allocate(rule, layout, [structure], potential.cutoff + SKIN, spare=SPARE * 1.1**tries)
        grid = _shared_grid(kind, own, outgrown)
        return Kept(kind, grid, no_list(grid, rule, len(structure.positions), potential.dtype))

    kept = kept if kept is not None and kept.kind == kind else start(None, 0)
    with precision(potential):
        arrays = [np.asarray(a, potential.dtype) for a in (structure.positions, structure.cell, weights, alpha)]
        for tries in range(1, TRIES + 1):
            run = compiled_listed_derivatives(potential.node_energies, potential.config, rule, kept.grid)
            out, neighbours = run(potential.params, layout, kept.neighbours, *arrays)
            if not neighbours.overflow:
                return Derivatives(*(np.asarray(a, np.float64) for a in out)), kept._replace(neighbours=neighbours)
            kept = start(kept.grid, tries)
    raise ValueError("the sites are so close together that there is no room for their neighbours; move them apart")


def _shared_grid(kind: tuple, own: Grid, outgrown: Grid | None) -> Grid:
    """The grid that calculations of this kind use, or `own` where that one is too small or far too large."""
    size = lambda grid: sum(rows * width for rows, width in grid.shapes)
    grid = _GRIDS.pop(kind, own)
    grid = own if grid == outgrown or size(grid) > WASTE * size(own) else grid
    if len(_GRIDS) >= MOST_GRIDS:
        del _GRIDS[next(iter(_GRIDS))]  # the one that was asked for longest ago
    _GRIDS[kind] = grid
    return grid
