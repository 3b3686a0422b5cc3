"""Predictions of the alchemical Hamiltonian against explicit arrangements with the same potential."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from alchemjax.model.load import Potential
from alchemjax.system.neighbours import nearest_distance
from alchemjax.system.sites import Group, make_sites
from alchemjax.system.structure import Structure, completed_cell, volume
from alchemjax.system.supercell import make_supercell, repeated
from alchemjax.system.system import System
from alchemjax.tasks.alloy import Alloy, site_energies
from alchemjax.tasks.lattice import box_strain, checked_states, random_states, total_energy
from alchemjax.tasks.ordering import box_of, lattice_model
from alchemjax.tasks.quasirandom import can_search, quasirandom_states
from alchemjax.tasks.relax import relax
from alchemjax.tasks.sampling import ground_state as ground_state_of
from alchemjax.tasks.states import VACANCY

LIMIT = 0.005  # eV per site: a larger error makes predictions doubtful
SITES = 48, 108  # in the box of explicit arrangements
MOST = 216  # sites in that of the ground state
COMPARED = "rigid", "predicted_rigid", "relaxed", "predicted_relaxed", "volume", "predicted_volume", "displacement"
AWAY = 0.3  # of the distance of neighbours: an atom so far from its site has left it


class Validation(NamedTuple):
    """Energies of arrangements, per site of the crystal [eV]; relaxed ones with atoms and cell free."""

    kinds: tuple[str, ...]  # "random", "SQS", "ground state" or "given"
    states: tuple[Int[np.ndarray, "n1 n2 n3 mixed"], ...]  # that of the ground state in its own smallest box
    rigid: Float[np.ndarray, "arrangements"]
    predicted_rigid: Float[np.ndarray, "arrangements"]
    relaxed: Float[np.ndarray, "arrangements"]  # NaN for an alloy without displacements
    predicted_relaxed: Float[np.ndarray, "arrangements"]
    volume: Float[np.ndarray, "arrangements"]  # of the relaxed ones, per site [A^3]; NaN if not periodic
    predicted_volume: Float[np.ndarray, "arrangements"]
    displacement: Float[np.ndarray, "arrangements"]  # of the atom that is farthest from its site when relaxed [A]
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
    ordered=None,
    arrangements=(),
    limit: float = LIMIT,
    seed: int = 0,
    on_arrangement: Callable[[int, int], None] | None = None,
) -> Validation:
    """Evaluate and relax a few random arrangements in a box of cells, and the predicted ground state, and compare.

    `system` is the one that the alloy was made of. `ordered`: the ground state, by default, or if it repeats nothing
    smaller than 216 sites, what `ground_state` finds in this box or in a small one of even numbers of cells.
    `arrangements`: others [n1, n2, n3, mixed] to compare, each in its own box, such as `another` of an `OrderDisorder`
    or one of the `states` of `Samples`. `limit`: the largest error [eV per site] that counts as valid. `sqs`: also a
    special quasirandom structure, by default if sqsgenerator is installed.
    Errors: ValueError for a wrong shape or number; ImportError for `sqs` without sqsgenerator.
    """
    if random < 0 or random + ground_state + bool(sqs) + len(arrangements) < 1:
        raise ValueError(f"random = {random} arrangements and no ground state leave nothing to compare; ask for more")
    sqs = can_search(alloy.structure) and random > 0 if sqs is None else sqs
    shape = box_of(alloy, *SITES) if shape is None else shape
    model = lattice_model(alloy, shape)
    keys = jax.random.split(jax.random.key(seed), max(random, 1))
    drawn = [np.asarray(random_states(model, alloy.weights, key)) for key in keys]
    states = drawn[:random]
    if sqs:
        states.append(quasirandom_states(alloy.structure, alloy.site, alloy.sublattice, drawn[0], seed=seed))
    if ground_state:
        states.append(_ground_state(alloy, model, ordered, seed))
    for one in arrangements:
        if np.ndim(one) != 4:
            raise ValueError(f"an arrangement has the shape {np.shape(one)}; give states [n1, n2, n3, mixed sites]")
        states.append(checked_states(lattice_model(alloy, np.shape(one)[:3]), one))
    kinds = ("random",) * random + ("SQS",) * sqs + ("ground state",) * ground_state + ("given",) * len(arrangements)
    rows, converged, boxes = [], [], {}
    for number, one in enumerate(states):
        if one.shape not in boxes:
            models = [lattice_model(alloy, one.shape[:3], relaxed=relaxed) for relaxed in (False, True)]
            boxes[one.shape] = explicit_system(system, alloy, one.shape[:3]), models
        row, well = _compared(potential, alloy, one, *boxes[one.shape])
        rows.append(row)
        converged.append(well)
        if on_arrangement is not None:
            on_arrangement(number + 1, len(states))
    columns = dict(zip(COMPARED, np.array(rows).T, strict=True))
    away = AWAY * nearest_distance(alloy.structure)
    valid, message = _verdict(kinds, all(converged), limit, away, **columns)
    return Validation(kinds, tuple(states), **columns, converged=np.array(converged), valid=valid, message=message)


def _ground_state(alloy: Alloy, model, ordered, seed: int) -> Int[np.ndarray, "n1 n2 n3 mixed"]:
    """The ordered arrangement in the smallest box that it repeats; one of the box of `model` if that is too large."""
    found = [] if ordered is None else [_repeated_part(np.asarray(ordered))]
    if ordered is None or found[0][..., 0].size * len(alloy.structure.positions) > MOST:
        small = lattice_model(alloy, box_of(alloy, 1, SITES[1], even=True))
        found = [_repeated_part(ground_state_of(one, alloy.weights, seed=seed)[0]) for one in (model, small)]
    return min(found, key=lambda one: _gained(alloy, one))


def _gained(alloy: Alloy, states) -> float:
    """Energy per cell from that of single sites, the same for all arrangements of one composition."""
    number = states[..., 0].size
    shares = np.stack([(states == k).sum((0, 1, 2)) / number for k in range(alloy.weights.shape[1])], 1)
    for s in np.unique(alloy.sublattice):
        shares[alloy.sublattice == s] = shares[alloy.sublattice == s].mean(0)
    alone = float((shares * site_energies(alloy, relaxed=True)).sum())
    return float(total_energy(lattice_model(alloy, states.shape[:3]), states)) / number - alone


def _repeated_part(states: Int[np.ndarray, "n1 n2 n3 mixed"]) -> Int[np.ndarray, "m1 m2 m3 mixed"]:
    """The smallest box that makes the arrangement when it is repeated."""
    for axis in range(3):
        number = states.shape[axis]
        parts = [part for part in range(1, number + 1) if number % part == 0]
        same = [bool((np.roll(states, part, axis) == states).all()) for part in parts]
        states = np.take(states, range(parts[same.index(True)]), axis)
    return states


def _compared(potential: Potential, alloy: Alloy, states, large: System, models):
    """Energies and volumes per site, as in `Validation`, and whether it relaxed.

    `large` and `models`, rigid and relaxed, are those of its box.
    """
    moves, sites = alloy.displacement is not None, len(large.structure.positions)
    weights = one_hot(large, alloy, states)
    rigid, relaxed = (float(total_energy(model, states)) for model in models)
    start = relax(potential, large, weights, positions=True, max_steps=0)
    end = relax(potential, large, weights, cell=alloy.stiffness is not None) if moves else start
    periodic = large.structure.pbc.all()
    strained = float(np.linalg.det(np.eye(3) + box_strain(models[1], states)))
    volumes = [volume(end.structure), strained * (volume(large.structure) or np.nan)] if periodic else [np.nan] * 2
    after = [float(end.output.energy), relaxed] if moves else [np.nan] * 2
    per_site = np.array([float(start.output.energy), rigid, *after, *volumes]) / sites
    return [*per_site, _largest_displacement(large.structure, end.structure)], end.converged or not moves


def _largest_displacement(ideal: Structure, relaxed: Structure) -> float:
    """But for the strain of the cell, and for what all sites do together [A]."""
    cell, strained = completed_cell(ideal), completed_cell(relaxed)
    moved = relaxed.positions @ np.linalg.inv(strained) - ideal.positions @ np.linalg.inv(cell)
    moved -= np.round(moved) * ideal.pbc
    moved -= moved.mean(0)
    return float(np.linalg.norm(moved @ strained, axis=1).max())


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


def _verdict(kinds, converged: bool, limit: float, away: float, *, volume, predicted_volume, displacement, **energies):
    """Whether the errors of energies are within the limit, and what to say."""
    lengths = np.cbrt(predicted_volume / volume) - 1
    which = "rigid" if np.isnan(energies["relaxed"]).all() else "relaxed"
    errors = energies[f"predicted_{which}"] - energies[which]
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
    if np.isfinite(lengths).all() and np.abs(lengths).max() > 0:
        text += f"; lattice constants are wrong by {100 * np.abs(lengths).max():.2f} per cent at most"
    if abs(errors[worst]) <= limit:
        return True, text
    why = "Pairs of sites are not enough for this alloy"
    if (left := int((displacement > away).sum())) > 0:
        why = (
            f"In {left} of them atoms leave their sites, by up to {displacement.max():.1f} A: relaxed, they are "
            "another crystal, of which the alloy knows nothing"
        )
    return False, (
        f"{text}: more than {1000 * limit:g} meV per site. {why}; take order, transition temperatures and energies "
        "from it with caution"
    )
