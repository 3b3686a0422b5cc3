"""Predictions of the alchemical Hamiltonian against explicit arrangements with the same potential."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from alchemjax.model.load import Potential
from alchemjax.system.sites import Group, make_sites
from alchemjax.system.structure import volume
from alchemjax.system.supercell import make_supercell, repeated
from alchemjax.system.system import System
from alchemjax.tasks.alloy import Alloy
from alchemjax.tasks.lattice import random_states, total_energy
from alchemjax.tasks.ordering import box_of, lattice_model
from alchemjax.tasks.quasirandom import can_search, quasirandom_states
from alchemjax.tasks.relax import relax
from alchemjax.tasks.sampling import ground_state as ground_state_of
from alchemjax.tasks.states import VACANCY

LIMIT = 0.005  # eV per site: a larger error makes predictions doubtful
SITES = 48, 108  # in the box of explicit arrangements


class Validation(NamedTuple):
    """Energies of arrangements, per site of the crystal [eV]; relaxed ones with atoms and cell free."""

    kinds: tuple[str, ...]  # "random", "SQS" or "ground state"
    states: Int[np.ndarray, "arrangements n1 n2 n3 mixed"]
    rigid: Float[np.ndarray, "arrangements"]
    predicted_rigid: Float[np.ndarray, "arrangements"]
    relaxed: Float[np.ndarray, "arrangements"]  # NaN for an alloy without displacements
    predicted_relaxed: Float[np.ndarray, "arrangements"]
    volume: Float[np.ndarray, "arrangements"]  # of the relaxed ones, per site [A^3]
    converged: Bool[np.ndarray, "arrangements"]
    valid: bool
    message: str


def validate(
    potential: Potential,
    system: System,
    alloy: Alloy,
    *,
    shape=None,
    random: int = 4,
    sqs: bool | None = None,
    ground_state: bool = True,
    limit: float = LIMIT,
    seed: int = 0,
    on_arrangement: Callable[[int, int], None] | None = None,
) -> Validation:
    """Evaluate and relax a few random arrangements and the predicted ground state in a box of cells, and compare.

    `system` is the one that the alloy was made of. `limit`: the largest error [eV per site] that counts
    as valid. `sqs`: also a special quasirandom structure, by default if sqsgenerator is installed.
    Errors: ValueError for a wrong shape or number; ImportError for `sqs` without sqsgenerator.
    """
    if random < 0 or random + ground_state + bool(sqs) < 1:
        raise ValueError(f"random = {random} arrangements and no ground state leave nothing to compare; ask for more")
    sqs = can_search(alloy.structure) and random > 0 if sqs is None else sqs
    shape = box_of(alloy, *SITES) if shape is None else shape
    models = {relaxed: lattice_model(alloy, shape, relaxed=relaxed) for relaxed in (False, True)}
    keys = jax.random.split(jax.random.key(seed), max(random, 1))
    drawn = [np.asarray(random_states(models[True], alloy.weights, key)) for key in keys]
    states = drawn[:random]
    if sqs:
        states.append(quasirandom_states(alloy.structure, alloy.site, alloy.sublattice, drawn[0], seed=seed))
    if ground_state:
        states.append(ground_state_of(models[True], alloy.weights, seed=seed)[0])
    kinds = ("random",) * random + ("SQS",) * sqs + ("ground state",) * ground_state
    sites = len(alloy.structure.positions) * int(np.prod(shape))
    large = explicit_system(system, alloy, shape)
    rigid, relaxed, volumes, converged = [], [], [], []
    for number, one in enumerate(states):
        weights = one_hot(large, alloy, one)
        start = relax(potential, large, weights, positions=True, max_steps=0)
        rigid.append(float(start.output.energy))
        end = start
        if alloy.displacement is not None:
            end = relax(potential, large, weights, cell=alloy.stiffness is not None)
        relaxed.append(float(end.output.energy) if alloy.displacement is not None else np.nan)
        volumes.append((volume(end.structure) or np.nan) if large.structure.pbc.all() else np.nan)
        converged.append(end.converged or alloy.displacement is None)
        if on_arrangement is not None:
            on_arrangement(number + 1, len(states))
    per_site = lambda energies: np.array(energies, float) / sites
    predicted = [per_site([total_energy(models[r], one) for one in states]) for r in (False, True)]
    if alloy.displacement is None:
        predicted[1] = np.full_like(predicted[1], np.nan)
    energies = per_site(rigid), predicted[0], per_site(relaxed), predicted[1]
    valid, message = _verdict(kinds, *energies, all(converged), limit)
    return Validation(kinds, np.stack(states), *energies, per_site(volumes), np.array(converged), valid, message)


def explicit_system(system: System, alloy: Alloy, shape) -> System:
    """A box of cells in which every mixed site has weights of its own, in the order of the alloy's states."""
    supercell = make_supercell(np.diag(shape), len(alloy.structure.positions))
    symbols = dict(zip(system.sites.node_site.tolist(), system.sites.node_species, strict=True))
    mixed = {site: m for m, site in enumerate(alloy.site.tolist())}
    groups = []
    for number, origin in enumerate(supercell.origin.tolist()):
        if origin in mixed:
            held = zip(alloy.species, alloy.allowed[mixed[origin]], strict=True)
            groups.append(Group(str(number), (number,), tuple(s for s, there in held if there and s != VACANCY)))
    sites = make_sites([symbols[origin] for origin in supercell.origin.tolist()], tuple(groups))
    size = sum(len(group.species) for group in groups)
    return System(repeated(alloy.structure, supercell), sites, np.zeros(size), "independent")


def one_hot(large: System, alloy: Alloy, states) -> Float[np.ndarray, "weights"]:
    """The weights of an arrangement [n1, n2, n3, mixed]: cells in the order of the box."""
    held = [alloy.species[k] for k in np.asarray(states).reshape(-1)]
    rows = [[float(s == own) for s in group.species] for group, own in zip(large.sites.groups, held, strict=True)]
    return np.concatenate(rows)


def _verdict(kinds, rigid, predicted_rigid, relaxed, predicted_relaxed, converged: bool, limit: float):
    """Whether the errors are within the limit, and what to say."""
    use, predicted = (rigid, predicted_rigid) if np.isnan(relaxed).all() else (relaxed, predicted_relaxed)
    errors = predicted - use
    if not (converged and np.isfinite(errors).all()):
        return False, (
            f"of {len(errors)} explicit arrangements some did not relax: they say nothing; look at their structures"
        )
    worst = int(np.argmax(np.abs(errors)))
    mean = np.sqrt((errors**2).mean())
    text = (
        f"{len(errors)} explicit arrangements: root mean square error {1000 * mean:.1f} meV per site, largest "
        f"{1000 * errors[worst]:+.1f} ({kinds[worst]})"
    )
    if abs(errors[worst]) <= limit:
        return True, text
    return False, (
        f"{text}: more than {1000 * limit:g} meV per site. The second order is not enough for this alloy; take order, "
        "transition temperatures and energies from it with caution"
    )
