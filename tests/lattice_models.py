"""Hamiltonians of arrangements, and alloys, that are written down."""

from itertools import product

import numpy as np
from ase.build import bulk

import alchemjax as aj
from alchemjax.system.supercell import make_supercell
from alchemjax.tasks.alloy import Alloy
from alchemjax.tasks.lattice import LatticeModel, Strains

J = 0.01  # eV
CRITICAL = {2: 2 / np.log(1 + np.sqrt(2)), 3: 4.5115}  # kT/J of the square (L. Onsager) and the simple cubic lattice
WEIGHTS = np.array([[0.5, 1 / 6, 1 / 3], [1 / 6, 0.5, 1 / 3], [0, 2 / 3, 1 / 3], [1, 0, 0]])
POTENTIALS = [0.02, -0.01, 0.0]


def random_model(shape=(3, 1, 1), *, scale=0.02, seed=0, dtype=float) -> LatticeModel:
    """Two sites of three states, one of two, and one that never changes; two strains."""
    rng = np.random.default_rng(seed)

    def symmetric(size):
        pair = rng.normal(size=(*shape, 4, 4, 3, 3, size))
        pair = pair + np.roll(pair[::-1, ::-1, ::-1], (1, 1, 1), (0, 1, 2)).swapaxes(3, 4).swapaxes(5, 6)
        pair[0, 0, 0, range(4), range(4)] = 0
        return pair

    pair = symmetric(1)[..., 0] * scale
    allowed = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 0, 0]], bool)
    field = rng.normal(size=(4, 3)) * scale
    stiffness = np.linalg.inv(np.array([[2, 0.5], [0.5, 1]]) * scale / 100) * np.prod(shape)
    second = 0.03 * stiffness.max() / np.prod(shape)  # derivatives by two strains: xx xx, xx yy, yy yy
    strains = (
        np.concatenate([0.3 * rng.normal(size=(4, 3, 2)), second * rng.normal(size=(4, 3, 3))], -1),
        np.concatenate([symmetric(2), second * symmetric(3) / 4], -1),
        stiffness,
    )
    energies = (a.astype(dtype) for a in (np.array(-1.3), field, pair))
    return LatticeModel(*energies, allowed, np.array([0, 0, 1, 2]), Strains(*(a.astype(dtype) for a in strains)))


def free_model(shape=(2, 3, 2)) -> LatticeModel:
    """The same, but every site may be in every state."""
    return random_model(shape)._replace(allowed=np.ones((4, 3), bool))


def ising(shape, sign=1) -> LatticeModel:
    """-J for like neighbours, J for unlike ones; no neighbours along directions of length 1."""
    pair = np.zeros((*shape, 1, 1, 2, 2))
    for axis, step in product(np.flatnonzero(np.array(shape) > 1), (1, -1)):
        pair[tuple(np.roll([step, 0, 0], axis) % shape)] += sign * J * np.array([[-1, 1], [1, -1]])
    return LatticeModel(np.array(0.0), np.zeros((1, 2)), pair, np.ones((1, 2), bool), np.array([0]))


def checkerboard(shape):
    return np.indices(shape).sum(0)[..., None] % 2


def simple_cubic(coupling, weights=(0.5, 0.5)):
    """Nearest neighbours of unlike kind attract each other by 2 coupling [eV]."""
    weights = np.array([weights])
    deviation = np.array([weights[0, 1], -weights[0, 0]])
    near = np.outer(deviation, deviation)
    side = 4
    shift = np.array(np.meshgrid(*[np.arange(side)] * 3, indexing="ij")).reshape(3, -1).T
    wrapped = np.minimum(shift, side - shift)
    pair = np.where((wrapped.sum(1) == 1)[:, None, None], coupling * near, 0)[None, :, None]
    atoms = bulk("Po", "sc", 3.0)
    structure = aj.from_atoms(atoms).structure
    zeros = np.zeros_like(weights)
    supercell, one = make_supercell(side * np.eye(3, dtype=int), 1), np.zeros(1, int)
    states = one, one, ("A", "B"), weights, weights > 0
    return Alloy(structure, *states, supercell, 0.0, zeros, zeros, pair, 0.0)
