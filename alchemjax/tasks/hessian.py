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
from jaxtyping import Array, Float

from alchemjax.calculate import precision, topology_of
from alchemjax.energy import energy
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations
from alchemjax.tasks.crystal import Crystal, moves_of

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


def by_two_strains(tensors):
    """The same of second derivatives [..., 3, 3, 3, 3]: [..., 21], in the order of `np.triu_indices`."""
    both = np.einsum("...abcd,kab,lcd->...kl", tensors, STRAINS, STRAINS)
    return both[(..., *np.triu_indices(len(STRAINS)))]


def along(crystal: Crystal, *, weight=None, site=None, axis=None, strain=None) -> Gradient:
    """The direction of one variable."""
    weights, positions = np.zeros(len(crystal.site)), np.zeros((len(crystal.supercell.origin), 3))
    if weight is not None:
        weights[weight] = 1
    if site is not None:
        positions[site, axis] = 1
    return Gradient(weights, positions, np.zeros((3, 3)) if strain is None else strain)
