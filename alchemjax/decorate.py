"""From weights back to atoms: ordinary supercells of a composition, and what they say of a prediction."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Bool, Float

from alchemjax.atoms import from_atoms
from alchemjax.calculate import check_kind
from alchemjax.model.load import Potential
from alchemjax.system.sites import by_group
from alchemjax.system.structure import wrapped
from alchemjax.system.supercell import box_for, make_supercell, repeated
from alchemjax.system.symmetry import equal_axes, kinds_of
from alchemjax.system.system import UNBOUNDED, System, checked_weights
from alchemjax.tasks.equilibrium import Equilibrium
from alchemjax.tasks.lattice import whole_counts
from alchemjax.tasks.optimise import Optimum
from alchemjax.tasks.properties import PROPERTIES, Facts, properties_of
from alchemjax.tasks.quasirandom import quasirandom_states
from alchemjax.tasks.relax import Relaxed, check_limit, relax

SITES = 48, 108  # in a supercell
METHODS = ("random", "sqs")
LENGTHS = "abc"


def decorate(
    system: System, weights=None, *, cells=None, number: int = 1, method: str = "random", seed: int = 0
) -> list[Atoms]:
    """Ordinary atoms on the sites of supercells, each group with the composition nearest to its weights.

    `cells`: three whole numbers, by default a box of 48 to 108 sites into which the composition fits. `method`:
    "random" or "sqs" (special quasirandom structures; needs sqsgenerator). Empty places are left out;
    `info["weights"]` has the composition that a supercell holds.
    Errors: ValueError for options that make no sense; ImportError for "sqs" without sqsgenerator.
    """
    check_kind(system, System)
    weights, sites, structure = checked_weights(system, weights), system.sites, system.structure
    if system.coupling == UNBOUNDED:
        raise ValueError("weights of the coupling 'published' are no occupancies; use another coupling")
    if not sites.groups:
        raise ValueError("no site is mixed: there is nothing to decorate")
    if method not in METHODS:
        raise ValueError(f"method = '{method}' is not understood; use {', '.join(METHODS)}")
    check_limit("batch", number, f"number = {number}")
    owner = {site: k for k, group in enumerate(sites.groups) for site in group.sites}
    mixed, parts = np.array(sorted(owner)), by_group(sites, weights)
    held = [np.append(part, max(1 - part.sum(), 0)) for part in parts]
    if cells is None:
        cells = box_for(
            structure, np.concatenate([len(g.sites) * x for g, x in zip(sites.groups, held, strict=True)]), *SITES
        )
    cells = np.asarray(cells)
    if cells.shape != (3,) or cells.dtype.kind not in "iu" or (cells < 1).any() or (cells[~structure.pbc] != 1).any():
        raise ValueError(
            f"cells = {cells.tolist()} is not understood; give three whole numbers, 1 where nothing is periodic"
        )
    supercell = make_supercell(np.diag(cells), len(structure.positions))
    large, sublattice = repeated(structure, supercell), np.array([owner[site] for site in mixed.tolist()])
    symbols = dict(zip(sites.node_site.tolist(), sites.node_species, strict=True))
    rng, found = np.random.default_rng(seed), []
    for _ in range(number):
        states = np.zeros((*cells, len(mixed)), int)
        composition = []
        for k, fractions in enumerate(held):
            on = np.broadcast_to(sublattice == k, states.shape)
            counts = whole_counts(fractions * on.sum(), int(on.sum()))
            states[on] = rng.permutation(np.repeat(np.arange(len(counts)), counts))
            composition.append(counts[:-1] / on.sum())
        if method == "sqs":
            states = quasirandom_states(structure, mixed, sublattice, states, seed=int(rng.integers(2**31)))
        names = [symbols[site] for site in supercell.origin.tolist()]
        here = np.flatnonzero(np.isin(supercell.origin, mixed)).tolist()
        for place, state in zip(here, states.reshape(-1).tolist(), strict=True):
            species = (*sites.groups[owner[int(supercell.origin[place])]].species, "")
            names[place] = species[state]
        kept = [place for place, name in enumerate(names) if name]
        atoms = Atoms(
            [names[place] for place in kept], large.positions[kept], cell=large.cell, pbc=large.pbc,
            info={"weights": np.concatenate(composition)},
        )  # fmt: skip
        found.append(atoms)
    return found


class Explicit(NamedTuple):
    """Properties of explicit supercells, in the units of `PROPERTIES`, per cell of the crystal.

    Lengths a, b, c that the symmetry of the alchemical crystal makes equal are their mean.
    """

    names: tuple[str, ...]  # those of elastic constants are left out
    values: Float[np.ndarray, "supercells properties"]
    predicted: Float[np.ndarray, "properties"]  # of the alchemical crystal of their composition; NaN if unconverged
    weights: Float[np.ndarray, "weights"]  # the composition of all of them, in whole atoms
    energy: Float[np.ndarray, "supercells"]  # per site [eV]
    sites: int  # of a supercell, empty ones included
    converged: Bool[np.ndarray, "supercells"]


def check_optimum(potential: Potential, system: System, found: Optimum, **options) -> Explicit:
    """Explicit supercells of what `optimise` has found: its properties, beside those of ordinary relaxed atoms.

    `options`: `cells`, `number`, `method` and `seed` as in `decorate`, and those of the relaxations of the search.
    """
    near = system._replace(structure=found.structure)
    return explicitly(potential, near, found.weights, found.facts, found.values, **options)


def explicitly(
    potential: Potential,
    system: System,
    weights,
    facts: Facts,
    names: Iterable[str],
    *,
    cells=None,
    number: int = 4,
    method: str = "random",
    seed: int = 0,
    fluctuations: str = "none",
    supercell=None,
    on_supercell: Callable[[int, int], None] | None = None,
    **relaxation,
) -> Explicit:
    """The same properties of explicit supercells of a composition, and what is predicted of their whole atoms.

    `system` with the structure near which all relax; `relaxation`: options of `relax`, for all.
    """
    names = tuple(name for name in names if not PROPERTIES[name].elastic)
    drawn = decorate(system, weights, cells=cells, number=number, method=method, seed=seed)
    whole = np.asarray(drawn[0].info["weights"])
    mean = relax(potential, system, whole, fluctuations=fluctuations, supercell=supercell, **relaxation)
    of = lambda state: np.array([float(value) for value in properties_of(facts, names, state).values()])
    predicted = of(_per_cell(mean, whole, np.ones(3))) if mean.converged else np.full(len(names), np.nan)
    values, energies, converged = [], [], []
    alike = equal_axes(wrapped(mean.structure), kinds_of(system.sites, whole))
    lengths = np.linalg.norm(system.structure.cell, axis=1)
    shape = np.rint(np.linalg.norm(drawn[0].cell.array, axis=1) / np.where(lengths > 0, lengths, np.inf)).clip(1)
    for k, atoms in enumerate(drawn):
        relaxed = relax(potential, from_atoms(atoms), **relaxation)
        state = _per_cell(relaxed, whole, shape)
        own = np.linalg.norm(state.cell, axis=1)
        found = dict(zip(LENGTHS, (own[axes].mean() for axes in alike), strict=True))
        values.append([found.get(name, value) for name, value in zip(names, of(state), strict=True)])
        energies.append(float(state.energy) / len(system.structure.positions))
        converged.append(relaxed.converged)
        if on_supercell is not None:
            on_supercell(k + 1, number)
    return Explicit(
        names=names,
        values=np.array(values).reshape(number, len(names)),
        predicted=predicted,
        weights=whole,
        energy=np.array(energies),
        sites=int(shape.prod()) * len(system.structure.positions),
        converged=np.array(converged),
    )


def _per_cell(relaxed: Relaxed, weights, shape: Float[np.ndarray, "3"]) -> Equilibrium:
    """The state of a relaxed supercell, with cell and energy of one of its cells."""
    return Equilibrium(
        positions=relaxed.structure.positions,
        cell=jnp.asarray(relaxed.structure.cell / shape[:, None]),
        weights=jnp.asarray(weights),
        energy=jnp.asarray(float(relaxed.output.energy) / shape.prod()),
        forces=relaxed.output.forces,
        stress=relaxed.output.stress,
        converged=relaxed.converged,
        steps=relaxed.steps,
        max_force=relaxed.max_force,
        max_stress=relaxed.max_stress,
        listed=True,
    )
