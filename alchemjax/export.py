"""The alchemical Hamiltonian as the cluster expansion of other programs: icet and smol.

Their functions of the state of a site, phi_0 = 1 and as many as there are states, span all energies of pairs:

    V[k, l] = sum_ab C_ab phi_a(k) phi_b(l)       C = F^-1 V F'^-T,   F[k, a] = phi_a(k)

A pair gives C_00 to the constant, C_a0 and C_0b to its two sites and the rest to its orbit: nothing is fitted.
J. M. Sanchez, F. Ducastelle, D. Gratias, Physica A 128, 334 (1984).
"""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float

from alchemjax.system.sites import WEIGHT_TOLERANCE
from alchemjax.system.symmetry import TOLERANCE
from alchemjax.system.system import System
from alchemjax.tasks.alloy import Alloy, own_strain_energy, site_energies
from alchemjax.tasks.ordering import Interactions, interactions
from alchemjax.tasks.states import VACANCY

NEGLIGIBLE = 1e-9  # eV, of a pair
MARGIN = 0.01  # A, beyond the farthest pair


class _Space(NamedTuple):
    """Which parameters of a cluster expansion belong to which sites of its cell."""

    number: int
    cell: Float[np.ndarray, "3 3"]  # A
    places: Float[np.ndarray, "sites 3"]  # fractional
    functions: list[dict[str, list[float]]]  # of every site: phi_0, phi_1, ... of its states
    points: dict[int, np.ndarray]  # numbers of the parameters [functions] of a site
    pairs: dict[tuple[int, ...], np.ndarray]  # and [functions, functions] of site, site, cell of the second


def to_icet(alloy: Alloy, system: System | None = None, *, relaxed: bool = True, cutoff: float | None = None):
    """An icet `ClusterExpansion` of the energy per site, as icet's Monte Carlo takes it [eV]; vacancies are atoms X.

    `system`, the one that the alloy was made of, says what sites hold that are not mixed. All pairs of `interactions`
    are there, or those up to the `cutoff` [A]: the others are 0 on average in the random alloy. That a box strains as a
    whole (`lattice_model`) is no interaction of pairs: what the random alloy gains by it is in the constant. Pairs that
    the symmetry of the lattice makes equivalent get their mean.

    Errors: ImportError without icet; ValueError for a crystal that is not periodic in every direction, a cutoff that is
    not positive, a missing or other system, and equivalent sites of different mean weights.
    """
    icet = _package("icet", "icet")
    held, (given, reach) = _held(alloy, system, "X"), _pairs(alloy, relaxed, cutoff)
    cell, positions = alloy.structure.cell, alloy.structure.positions
    atoms = Atoms([states[0] for states in held], positions, cell=cell, pbc=True)
    space = icet.ClusterSpace(atoms, [reach + MARGIN], held, symprec=TOLERANCE)
    parameters = _parameters(alloy, relaxed, given, _icet_space(space)) / len(atoms)
    found = icet.ClusterExpansion(space, parameters, metadata={"unit": "eV per site"})
    found.prune()
    return found


def to_smol(alloy: Alloy, system: System | None = None, *, relaxed: bool = True, cutoff: float | None = None):
    """A smol `ClusterExpansion` of the energy [eV], normalised per cell of the alloy; sites without atom are vacant.

    All else, and the errors, as in `to_icet`. Far cutoffs take smol minutes.
    """
    smol, core = _package("smol.cofe", "smol"), _package("pymatgen.core", "smol")
    held, (given, reach) = _held(alloy, system, VACANCY), _pairs(alloy, relaxed, cutoff)
    occupancies = [{state: 1 / len(states) for state in states if state != VACANCY} for states in held]
    cell, positions = alloy.structure.cell, alloy.structure.positions
    structure = core.Structure(cell, occupancies, positions, coords_are_cartesian=True)
    space = smol.ClusterSubspace.from_cutoffs(structure, {2: reach + MARGIN}, basis="sinusoid")
    parameters = _parameters(alloy, relaxed, given, _smol_space(space))
    return smol.ClusterExpansion(space, parameters)


def _package(module: str, name: str) -> ModuleType:
    """Errors: ImportError with the command that installs it."""
    try:
        return import_module(module)
    except ImportError:
        raise ImportError(f"this export needs {name}, which cannot be imported; run: pip install {name}") from None


def _held(alloy: Alloy, system: System | None, vacancy: str) -> list[list[str]]:
    """What every site of the cell may hold."""
    if not alloy.structure.pbc.all():
        raise ValueError("icet and smol need a crystal that is periodic in every direction; this one is not")
    sites, mixed = len(alloy.structure.positions), alloy.site.tolist()
    if system is None and len(mixed) < sites:
        raise ValueError(f"{sites - len(mixed)} sites are not mixed: give the system that the alloy was made of")
    if system is not None and len(system.structure.positions) != sites:
        raise ValueError(f"the system has {len(system.structure.positions)} sites, the alloy {sites}; give its own")
    nodes = () if system is None else zip(system.sites.node_site.tolist(), system.sites.node_species, strict=True)
    held = {site: [symbol] for site, symbol in nodes}
    for site, allowed in zip(mixed, alloy.allowed, strict=True):
        states = [state for state, there in zip(alloy.species, allowed, strict=True) if there]
        held[site] = [vacancy if state == VACANCY else state for state in states]
    return [held[site] for site in range(sites)]


def _pairs(alloy: Alloy, relaxed: bool, cutoff: float | None) -> tuple[Interactions, float]:
    """Those to be exported, and the longest distance between them [A]."""
    if cutoff is not None and not (np.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff = {cutoff} A must be positive")
    given = interactions(alloy, relaxed=relaxed)
    there = np.abs(given.energy).max((1, 2), initial=0) > NEGLIGIBLE
    if cutoff is not None:
        there &= given.distance <= cutoff
    given = Interactions(*(values[there] for values in given))
    return given, float(given.distance.max(initial=0))


def _parameters(alloy: Alloy, relaxed: bool, given: Interactions, space: _Space) -> Float[np.ndarray, "parameters"]:
    """All parameters, times how often their functions are in a cell of the alloy [eV]."""
    inverse = np.linalg.inv(space.cell)
    site, away = _located(alloy.structure.positions[alloy.site] @ inverse, space)
    points = [space.points.get(s, np.zeros(0, int)) for s in site]
    _check_equivalent(alloy, points)
    most = len(alloy.species)
    shares = np.zeros((len(site), most, most))  # of the functions in the states
    for m, allowed in enumerate(alloy.allowed):
        functions = [space.functions[site[m]][alloy.species[k]] for k in np.flatnonzero(allowed)]
        shares[m, : len(functions), allowed] = np.linalg.inv(functions).T
    parameters = np.zeros(space.number)
    parameters[0] = alloy.energy + (own_strain_energy(alloy) if relaxed else 0.0)
    field = site_energies(alloy, relaxed=relaxed)
    for own, part in zip(points, np.einsum("mak,mk->ma", shares, field), strict=True):
        parameters[[0, *own]] += part[: len(own) + 1]
    vectors = np.round(alloy.structure.cell @ inverse).astype(int)
    apart = away[given.second] + given.cell @ vectors - away[given.first]
    parts = np.einsum("pak,pkl,pbl->pab", shares[given.first], given.energy, shares[given.second], optimize=True) / 2
    for m, n, cell, part in zip(given.first, given.second, apart.tolist(), parts, strict=True):
        one, two = points[m], points[n]
        parameters[[0, *one]] += part[: len(one) + 1, 0]
        parameters[two] += part[0, 1 : len(two) + 1]
        if len(one) and len(two):
            between = space.pairs[site[m], site[n], *cell]
            np.add.at(parameters, between, part[1 : len(one) + 1, 1 : len(two) + 1])
    return parameters


def _located(fractional, space: _Space):
    """At which sites of the expansion's cell these are, and how many of its cells away."""
    apart = fractional - space.places[:, None]
    site = np.linalg.norm((apart - np.round(apart)) @ space.cell, axis=-1).argmin(0)
    return site.tolist(), np.round(apart[site, range(len(site))]).astype(int)


def _check_equivalent(alloy: Alloy, points) -> None:
    """Errors: ValueError for sites of common parameters and different weights."""
    first: dict[tuple, int] = {}
    for m, own in enumerate(points):
        one = first.setdefault(tuple(own), m)
        if len(own) and np.abs(alloy.weights[m] - alloy.weights[one]).max() > WEIGHT_TOLERANCE:
            raise ValueError(
                f"sites {alloy.site[one]} and {alloy.site[m]} differ by their mean weights alone; cluster expansions "
                "know them as equivalent and cannot hold this Hamiltonian"
            )


# --- the parameters of the two programs, in their order ---------------------------------------------------------------


def _icet_space(space) -> _Space:
    """Of an icet ClusterSpace, of which the cell may be smaller than that of the alloy."""
    functions = []
    for numbers in space.species_maps:
        most = len(numbers)
        rows = {k: [1.0, *(space.evaluate_cluster_function(most, a, k) for a in range(most - 1))] for k in range(most)}
        functions.append({_state(chemical_symbols[number]): rows[k] for number, k in numbers.items()})
    primitive, number, orbits = space.primitive_structure, 1, []
    for orbit in space.orbit_list.orbits:
        own = {}
        for element in orbit.cluster_vector_elements:
            which = element["multicomponent_vector"]
            own |= {tuple(which[k] for k in order): number for order in element["site_permutations"]}
            number += 1
        sites = [cluster.lattice_sites for cluster in orbit.clusters]
        orbits.append((own, [([s.index for s in one], [s.unitcell_offset for s in one]) for one in sites]))
    places = primitive.positions @ np.linalg.inv(primitive.cell.array)
    return _Space(number, primitive.cell.array, places, functions, *_tables(orbits))


def _smol_space(space) -> _Space:
    """Of a smol ClusterSubspace; its sites are those with several states."""
    structure, orbits, functions = space.expansion_structure, [], {}
    found = _Space(len(space), structure.lattice.matrix, structure.frac_coords, [], {}, {})
    for orbit in space.orbits:
        own = {tuple(which): orbit.bit_id + k for k, alike in enumerate(orbit.bit_combos) for which in alike.tolist()}
        clusters = [_located(cluster.frac_coords, found) for cluster in orbit.clusters]
        orbits.append((own, clusters))
        for basis, site in [(orbit.site_bases[0], one[0]) for one, _ in clusters if len(one) == 1]:
            values = zip(basis.species, basis.function_array.T.tolist(), strict=True)
            functions[site] = {_state(str(state)): [1.0, *row] for state, row in values}
    points, pairs = _tables(orbits)
    return found._replace(functions=[functions[s] for s in range(len(structure))], points=points, pairs=pairs)


def _state(symbol: str) -> str:
    return VACANCY if symbol == "X" or symbol.startswith("vac") else symbol


def _tables(orbits):
    """`points` and `pairs` of orbits: numbers of parameters by functions, and clusters as sites and cells."""
    points, pairs = {}, {}
    for own, clusters in orbits:
        numbers = np.zeros(np.max(list(own), axis=0) + 1, int)
        for which, number in own.items():
            numbers[which] = number
        for sites, cells in clusters:
            if len(sites) == 1:
                points[sites[0]] = numbers
            else:
                apart = np.subtract(cells[1], cells[0])
                pairs[sites[0], sites[1], *apart.tolist()] = numbers
                pairs[sites[1], sites[0], *(-apart).tolist()] = numbers.T
    return points, pairs
