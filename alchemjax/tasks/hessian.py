"""Second derivatives of the energy of a supercell in which every site has weights of its own.

Translations of the crystal make all rows of the Hessian copies of those of one cell; its space group, of those of the
inequivalent sites. A row is the derivative of the gradient along one direction (forward over reverse).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from alchemjax.calculate import precision, topology_of
from alchemjax.energy import energy
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations
from alchemjax.system.structure import completed_cell, wrapped
from alchemjax.system.supercell import Supercell, adjugate, numbering, repeated
from alchemjax.system.system import System

ROWS_AT_ONCE = 4  # between two looks of the host
STRAINS = np.array(  # symmetric; the engineering strains xx, yy, zz, yz, xz, xy
    [np.diag(row) for row in np.eye(3)]
    + [(np.outer(a, b) + np.outer(b, a)) / 2 for a, b in (np.eye(3)[[1, 2]], np.eye(3)[[0, 2]], np.eye(3)[[0, 1]])]
)
VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # the engineering strain of two axes


class Hessian(NamedTuple):
    """Rows of the sites of the first cell; columns over the whole supercell. Strain is one for the whole supercell.

    Weights are counted site after site. Columns of `positions` and `strain` are Cartesian [A] and engineering strains.
    """

    weights_weights: Float[np.ndarray, "weights superweights"]  # eV
    weights_positions: Float[np.ndarray, "weights supersites 3"]  # eV/A
    weights_strain: Float[np.ndarray, "weights 6"]  # eV
    positions_positions: Float[np.ndarray, "sites 3 supersites 3"]  # eV/A^2
    positions_strain: Float[np.ndarray, "sites 3 6"]  # eV/A
    strain_strain: Float[np.ndarray, "6 6"]  # eV, of the supercell


class Gradient(NamedTuple):
    """First derivatives, or a direction to go along."""

    weights: Float[Array, "superweights"]
    positions: Float[Array, "supersites 3"]
    strain: Float[Array, "3 3"]


class Crystal(NamedTuple):
    """The supercell of a random alloy at its mean composition, ready for evaluations."""

    system: System  # of the supercell, every site of it with its own weights
    supercell: Supercell
    site: Int[np.ndarray, "superweights"]  # of the supercell, that a weight belongs to
    cells: int


def make_crystal(system: System, fluctuations: Fluctuations, weights: Float[np.ndarray, "weights"]) -> Crystal:
    """The supercell that `fluctuations` have chosen."""
    supercell, sites = fluctuations.supercell, fluctuations.sites
    own = np.asarray(weights)[fluctuations.variants.weight]
    large = System(repeated(wrapped(system.structure), supercell), sites, own, "independent")
    site = np.repeat([g.sites[0] for g in sites.groups], [len(g.species) for g in sites.groups])
    return Crystal(large, supercell, site, len(supercell.origin) // len(system.structure.positions))


def evaluator(potential: Potential, crystal: Crystal, *, skin: float = 0.0) -> Callable:
    """A function of a traced function of (potential's arrays, point) and of inputs that it is mapped over.

    `skin`: by how much atoms may approach each other [A].

    `evaluate(kind, inputs)` calls `kind(of, point, one)` for every one of the inputs, where `of(weights, positions,
    strain)` are the energy and the site energies [eV] and `point` the crystal's place.
    """
    topology = topology_of(potential, crystal.system, skin=skin)
    structure, dtype = crystal.system.structure, potential.dtype
    arrays = [structure.positions, structure.cell, crystal.system.weights]

    def evaluate(kind: Callable, inputs, on_rows: Callable[[int, int], None] | None = None):
        with precision(potential):
            cast = lambda a: jnp.asarray(a, dtype)
            run = _compiled(potential.node_energies, potential.config, kind)
            total, found = len(jax.tree.leaves(inputs)[0]), []
            some_rows = np.arange(ROWS_AT_ONCE)
            for start in range(0, total, ROWS_AT_ONCE):
                rows = np.minimum(start + some_rows, total - 1)  # of one shape: one compilation
                some = jax.tree.map(lambda a, rows=rows: cast(a[rows]), inputs)
                found.append(jax.tree.map(np.asarray, run(potential.params, topology, *map(cast, arrays), some)))
                if on_rows is not None:
                    on_rows(min(start + ROWS_AT_ONCE, total), total)
        return jax.tree.map(lambda *a: np.concatenate(a)[:total].astype(np.float64), *found)

    return evaluate


@lru_cache(maxsize=32)
def _compiled(node_energies, config, kind: Callable):
    @jax.jit
    def run(params, topology, positions, cell, weights, inputs):
        alpha = jnp.zeros((), positions.dtype)

        def of(weights, positions, strain):
            return energy(node_energies, config, params, topology, positions, cell, weights, alpha, strain)

        point = Gradient(weights, positions, jnp.zeros((3, 3), positions.dtype))
        return jax.lax.map(partial(kind, of, point), inputs)

    return run


def row_along(of, point: Gradient, direction: Gradient) -> Gradient:
    """Of the Hessian: the derivative of the gradient along the direction."""
    slope = jax.grad(lambda *x: of(*x)[0], (0, 1, 2))
    return Gradient(*jax.jvp(slope, tuple(point), tuple(direction))[1])


def make_hessian(
    potential: Potential,
    crystal: Crystal,
    fluctuations: Fluctuations,
    on_rows: Callable[[int, int], None] | None = None,
) -> Hessian:
    """Rows of the inequivalent sites from the potential, those of all other sites of the cell by symmetry.

    `on_rows(done, all)` is called from time to time.
    """
    moves, first = moves_of(crystal, fluctuations)
    supersites, sites = len(crystal.supercell.origin), len(moves)
    own = [np.flatnonzero(crystal.site == site) for site in range(supersites)]
    inequivalent = sorted(set(first))
    directions = [along(crystal, weight=w) for site in inequivalent for w in own[site]]
    directions += [along(crystal, site=site, axis=axis) for site in inequivalent for axis in range(3)]
    directions += [along(crystal, strain=strain) for strain in STRAINS]
    stacked = jax.tree.map(lambda *a: np.stack(a), *directions)
    rows = evaluator(potential, crystal)(row_along, stacked, on_rows)
    number = iter(range(len(directions)))
    weight_row = {w: next(number) for site in inequivalent for w in own[site]}
    site_rows = {site: [next(number) for _ in range(3)] for site in inequivalent}

    num_weights = sum(len(w) for w in own[:sites])
    ww, wu = np.zeros((num_weights, len(crystal.site))), np.zeros((num_weights, supersites, 3))
    we, uu, ue = np.zeros((num_weights, 3, 3)), np.zeros((sites, 3, supersites, 3)), np.zeros((sites, 3, 3, 3))
    for site, (image, turn) in enumerate(moves):
        there = np.concatenate([own[s] for s in image])  # where the columns of the weights go, in order of site
        for w, source in zip(own[site], own[first[site]], strict=True):
            row = weight_row[source]
            ww[w, there] = rows.weights[row]
            wu[w, image] = rows.positions[row] @ turn
            we[w] = turn.T @ rows.strain[row] @ turn
        row = site_rows[first[site]]
        uu[site][:, image] = np.einsum("ax,asb,by->xsy", turn, rows.positions[row], turn)
        ue[site] = np.einsum("ax,by,abc,cz->xyz", turn, turn, rows.strain[row], turn)
    return Hessian(ww, wu, by_strains(we), uu, by_strains(ue), by_strains(rows.strain[-len(STRAINS) :]))


def by_strains(matrices):
    """Derivatives by the engineering strains, of derivatives [..., 3, 3] by the strain."""
    return np.einsum("...ab,kab->...k", matrices, STRAINS)


def along(crystal: Crystal, *, weight=None, site=None, axis=None, strain=None) -> Gradient:
    """The direction of one variable, or none."""
    weights, positions = np.zeros(len(crystal.site)), np.zeros((len(crystal.supercell.origin), 3))
    if weight is not None:
        weights[weight] = 1
    if site is not None:
        positions[site, axis] = 1
    return Gradient(weights, positions, np.zeros((3, 3)) if strain is None else strain)


class Operations(NamedTuple):
    """Those of the space group that take the lattice of the supercell to itself."""

    numbers: Int[np.ndarray, "operations"]  # in that of the crystal
    image: Int[np.ndarray, "operations sites"]
    first: Int[np.ndarray, "sites"]  # first of the sites that are equivalent to each
    of_supercell: Callable  # where one, by its number, takes all sites, bringing the given one into the first cell


def operations_of(crystal: Crystal, fluctuations: Fluctuations) -> Operations:
    """The symmetry of the supercell, which may lack rotations of the crystal."""
    variants, (matrix, origin, _) = fluctuations.variants, crystal.supercell
    sites, structure = len(variants.first), crystal.system.structure
    whole = (matrix @ variants.rotation.transpose(0, 2, 1) @ adjugate(matrix)) % crystal.cells == 0
    numbers = np.flatnonzero(whole.all((1, 2)))
    fractional = structure.positions @ np.linalg.inv(completed_cell(structure)) @ matrix
    cell_of = numbering(crystal.supercell, sites)

    def of_supercell(number: int, site: int) -> Int[np.ndarray, "supersites"]:
        there = variants.image[number][origin]
        moved = fractional @ variants.rotation[number].T + variants.translation[number]
        away = np.round(moved - fractional[there]).astype(int)
        return cell_of(away - away[site]) * sites + there

    image = np.asarray(variants.image)[numbers]
    return Operations(numbers, image, image.min(axis=0), of_supercell)


def moves_of(crystal: Crystal, fluctuations: Fluctuations):
    """For every site of the cell how an operation takes the first of its equivalents there, and which that is.

    An operation is the image of every site of the supercell and the matrix by which row vectors turn.
    """
    cell = np.linalg.inv(crystal.supercell.matrix) @ completed_cell(crystal.system.structure)
    numbers, image, first, of_supercell = operations_of(crystal, fluctuations)
    moves = []
    for site, start in enumerate(first.tolist()):
        number = numbers[np.flatnonzero(image[:, start] == site)[0]]
        turn = np.linalg.inv(cell) @ fluctuations.variants.rotation[number].T @ cell
        moves.append((of_supercell(number, start), turn))
    return moves, first.tolist()
