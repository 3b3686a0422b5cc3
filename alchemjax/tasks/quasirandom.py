"""Special quasirandom structures: near pairs are as frequent as in a random alloy, as far as a box allows.

A. Zunger, S.-H. Wei, L. G. Ferreira, J. E. Bernard, Phys. Rev. Lett. 65, 353 (1990). They are found by sqsgenerator:
D. Gehringer, M. Friak, D. Holec, Comput. Phys. Commun. 286, 108664 (2023).
"""

from importlib.util import find_spec

import numpy as np
from jaxtyping import Int

from alchemjax.system.structure import Structure

SHELLS = 3  # of neighbours, weighted by 1, 1/2, 1/3
TRIES = 300_000  # a few seconds
APART = 0.05  # A, of distances in different shells


def can_search(structure: Structure) -> bool:
    """Whether sqsgenerator is installed, and the crystal one that it takes."""
    return find_spec("sqsgenerator") is not None and bool(structure.pbc.all())


def quasirandom_states(
    structure: Structure, mixed, sublattice, states: Int[np.ndarray, "n1 n2 n3 mixed"], *, seed: int = 0
) -> Int[np.ndarray, "n1 n2 n3 mixed"]:
    """The atoms of an arrangement in a quasirandom order on every sublattice, of which each is random to the others.

    `mixed` and `sublattice`: the sites of the cell that states stand for, and to which sublattice each belongs.
    Errors: ImportError without sqsgenerator; ValueError for a crystal that is not periodic in every direction.
    """
    if not structure.pbc.all():
        raise ValueError("a quasirandom arrangement needs a crystal that is periodic in every direction")
    try:
        from sqsgenerator import optimize  # pyright: ignore[reportMissingImports]
        from sqsgenerator.core import Atom, LogLevel  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError("a quasirandom arrangement needs sqsgenerator; run: pip install sqsgenerator") from None
    cells, shape = states.shape[:3], np.array(states.shape[:3])
    place = structure.positions[mixed] @ np.linalg.inv(structure.cell)
    fractional = (np.moveaxis(np.indices(cells), 0, -1)[..., None, :] + place) / shape
    box, found = shape[:, None] * structure.cell, np.array(states)
    for which in np.unique(sublattice):
        on = np.broadcast_to(sublattice == which, states.shape)
        kinds, counts = np.unique(states[on], return_counts=True)
        if len(kinds) < 2:
            continue
        radii, number = _radii(fractional[on], box), int(on.sum())
        elements = {Atom.from_z(int(k) + 1).symbol: int(count) for k, count in zip(kinds, counts, strict=True)}
        settings = {
            "structure": {"lattice": box.tolist(), "coords": fractional[on].tolist(), "species": ["H"] * number},
            "composition": [{"sites": list(range(number)), **elements}],  # elements stand for states
            "shell_radii": [0.0, *radii],
            "shell_weights": {k + 1: 1 / (k + 1) for k in range(len(radii))},
            "iterations": TRIES,
            "iteration_mode": "random",
            "sublattice_mode": "interact",
            "max_results_per_objective": TRIES,
            "seed": seed,
            "thread_config": 1,  # a seed needs it
        }
        _, equals = optimize(settings, level=LogLevel.error)[0]  # equally good ones come in any order
        found[on] = np.array(min(list(one.structure().species) for one in equals)) - 1
    return found


def _radii(fractional, box) -> list[float]:
    """Between the shells of neighbours [A]."""
    apart = fractional - fractional[:, None]
    apart -= np.round(apart)
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    distance = np.min([np.linalg.norm((apart + image) @ box, axis=-1) for image in images], axis=0)
    distance = np.sort(distance[~np.eye(len(distance), dtype=bool)])
    ends = np.append(np.flatnonzero(np.diff(distance) > APART), len(distance) - 1)[:SHELLS]
    beyond = np.append(distance, distance[-1] + 1)
    return [float(beyond[end] + beyond[end + 1]) / 2 for end in ends]
