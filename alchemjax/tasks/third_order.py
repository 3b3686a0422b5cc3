"""How strain changes the interactions of an alloy: third derivatives of the energy, while atoms follow.

With D_i all that a site i does in a state, its weights and the displacements around it, and D_e all that a strain does,
the strain derivative of an interaction is that of the energy along D_i, D_j and D_e. Displacements of second order are
not needed, for atoms are at rest: the 2n + 1 theorem, X. Gonze, J.-P. Vigneron, Phys. Rev. B 39, 13120 (1989).
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Fluctuations
from alchemjax.tasks.hessian import STRAINS, VOIGT, Crystal, Gradient, by_strains, evaluator, moves_of, row_along
from alchemjax.tasks.states import States, everywhere, symmetric


def strain_of_pairs(
    potential: Potential,
    crystal: Crystal,
    fluctuations: Fluctuations,
    states: States,
    displacement: Float[np.ndarray, "mixed states supersites 3"],
    following: Float[np.ndarray, "supersites 3 6"],
    on_rows: Callable[[int, int], None] | None = None,
):
    """Derivatives by engineering strains of pairs [mixed, cells, mixed, states, states, 6] [eV].

    `following`: displacement per strain [A].
    """
    moves, first = moves_of(crystal, fluctuations)
    place = {site: m for m, site in enumerate(states.site.tolist())}
    rest = np.zeros(len(crystal.site))
    strains = [Gradient(rest, following[..., e], strain) for e, strain in enumerate(STRAINS)]
    directions, varied = [], {}
    for m in sorted({place[first[site]] for site in place}):
        change = lambda k, l, m=m: _change(crystal, states, displacement, m, k, l)
        start, *others = np.flatnonzero(states.allowed[m])
        varied[m] = len(directions) + np.arange(6 * len(others)).reshape(-1, 6)
        directions += [(change(k, start), strain) for k in others for strain in strains]
    stacked = jax.tree.map(lambda *a: np.stack(a), *directions)
    rows = evaluator(potential, crystal)(row_along, stacked, on_rows)

    pair = {}
    with_states = _contracted(rows, crystal, states, displacement)  # [directions, cells, mixed, states]
    for m, which in varied.items():
        allowed = np.flatnonzero(states.allowed[m])
        relative = np.zeros((len(states.species), 6, *with_states.shape[1:]))
        relative[allowed[1:]] = with_states[which]
        relative[allowed] -= np.tensordot(states.weights[m], relative, 1)  # d of the mean is 0
        pair[m] = np.moveaxis(relative, 1, -1)[..., VOIGT]
    return _everywhere_by_symmetry(crystal, states, moves, [place[first[s]] for s in place], pair)


def _change(crystal: Crystal, states: States, displacement, m: int, k: int, l: int) -> Gradient:
    """What mixed site m does as it goes from state l to k."""
    weights = np.zeros(len(crystal.site))
    own = np.flatnonzero(crystal.site == states.site[m])
    weights[own] = (states.deviation[m, k] - states.deviation[m, l])[: len(own)]
    return Gradient(weights, displacement[m, k] - displacement[m, l], np.zeros((3, 3)))


def _contracted(rows: Gradient, crystal: Crystal, states: States, displacement):
    """Derivatives along what every mixed site of the supercell does in a state, [rows, cells, mixed, states]."""
    number, cells = len(rows.weights), crystal.cells
    padded = np.concatenate([rows.weights.reshape(number, cells, -1), np.zeros((number, cells, 1))], axis=2)
    by_weights = np.einsum("rcnv,nkv->rcnk", padded[:, :, states.flat], states.deviation)
    moved = np.moveaxis(everywhere(np.moveaxis(displacement, 2, 1), crystal), 1, 2)
    by_positions = np.tensordot(rows.positions, moved, ((1, 2), (2, 3)))
    return by_weights + by_positions.reshape(by_weights.shape)


def _everywhere_by_symmetry(crystal: Crystal, states: States, moves, source, pair):
    """From the first of equivalent sites to all of them; see `strain_of_pairs`."""
    found = []
    sites = len(moves)
    for m, start in enumerate(source):
        image, turn = moves[states.site[m]]
        kinds = len(states.species)
        there = np.zeros((kinds, crystal.cells, sites, kinds, 3, 3))
        there[:, :, states.site] = np.einsum("ax,...ab,by->...xy", turn, pair[start], turn)
        there = there.reshape(kinds, -1, kinds, 3, 3)
        moved = np.zeros_like(there)
        moved[:, image] = there
        moved = moved.reshape(kinds, crystal.cells, sites, kinds, 3, 3)[:, :, states.site]
        found.append(by_strains(moved.transpose(1, 2, 0, 3, 4, 5)))
    return symmetric(np.stack(found), crystal)
