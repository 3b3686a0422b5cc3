"""Free energy of vacancy formation, by making a site disappear, and by two absolute free energies."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from alchemjax.model.load import Potential
from alchemjax.system.masses import ATOMIC_MASSES
from alchemjax.system.sites import Group, make_sites
from alchemjax.system.structure import volume
from alchemjax.system.system import System, make_system
from alchemjax.tasks.free_energy.doubts import doubts_of_pressure
from alchemjax.tasks.free_energy.estimators import Estimate
from alchemjax.tasks.free_energy.frenkel_ladd import (
    METHODS,
    FreeEnergy,
    frenkel_ladd,
    harmonic_stiffness,
    measured_stiffness,
    primitive_cells,
    tied_free_energy,
)
from alchemjax.tasks.free_energy.paths import vacancy_path
from alchemjax.tasks.free_energy.switching import Switching
from alchemjax.tasks.free_energy.windows import Windows
from alchemjax.tasks.md_plan import BULK_MODULUS, distance_of_images
from alchemjax.tasks.seeds import seed_of
from alchemjax.units import KELVIN

ROUTES = ("alchemical", "absolute")


class Vacancy(NamedTuple):
    """Free energy of formation of a vacancy on one given site, without the entropy of where it is [eV]."""

    formation: Estimate  # F(vacancy) - F(crystal) + mu; with a moving cell, Gibbs energies
    removal: Estimate  # F(vacancy) - F(crystal)
    chemical_potential: Estimate  # mu of the species; (F + PV) / N of a crystal of one species, not of infinite size
    ghost: float  # free energy of the atom that its spring alone holds; part of the alchemical route
    path: Switching | Windows | FreeEnergy  # the alchemical switch, or the free energy of the crystal with the vacancy
    crystal: FreeEnergy | None  # of the perfect crystal, where it was needed
    doubts: tuple[str, ...]


def vacancy(
    potential: Potential,
    system: System,
    site: int,
    *,
    temperature: float,
    chemical_potential: float | None = None,
    route: str = "alchemical",
    stiffness: float | str | None = None,
    method: str = "switch",
    crystal: FreeEnergy | None = None,
    seed: int = 0,
    timestep: float = 1.0,
    on_chunk: Callable | None = None,
    measuring: float = 2000.0,
    cell=False,
    pressure: float = 0.0,
    **options,
) -> Vacancy:
    """Take one site away.

    `route`: "alchemical" makes the species of the site disappear while a spring ties its place to the others, of
    `stiffness` [eV/A^2], or "hessian" (then the crystal's own springs, too, are those of `harmonic_stiffness`);
    "absolute" goes to Einstein crystals with and without the site. `chemical_potential` [eV] of the species, on the
    potential's scale with classical momenta (3 kT ln of the thermal wavelength), as F / N of `frenkel_ladd` has them; a
    crystal of one species has its own, from `crystal`, or from Frenkel and Ladd's method.
    `options` of `plan_switch`, or `plan_windows` with method "windows"; `cell` and `pressure` for the alchemical route:
    then the system should have the mean cell at this temperature and pressure.

    Errors: ValueError for a site that is mixed, or without a chemical potential where it is not known.
    """
    species = species_of(system, site)
    check_route(system, species, route, chemical_potential, moving=cell is not False)
    common = {"temperature": temperature, "timestep": timestep}
    other = seed_of(seed, 1)  # the same noise would not be independent
    of_cells = {name: options.pop(name) for name in ("bulk_modulus", "barostat_time", "fixed_axes") if name in options}
    absolute: Callable = partial(
        frenkel_ladd,
        potential,
        method=method,
        measuring=measuring,
        on_chunk=on_chunk,
        quantum=False,
        **common,
        **options,
    )
    if crystal is None and (chemical_potential is None or route == "absolute"):
        crystal = absolute(system, seed=seed, stiffness=stiffness if isinstance(stiffness, str) else None)
    if isinstance(stiffness, str):
        stiffness = float(harmonic_stiffness(potential, system, stiffness)[site])
    elif stiffness is None and crystal is not None:
        stiffness = float(crystal.stiffness[site])
    elif stiffness is None:
        stiffness = float(measured_stiffness(potential, system, duration=measuring, seed=seed, **common)[site])
    ghost = ghost_energy(species, stiffness, temperature * KELVIN)
    if route == "alchemical":
        grouped, number = with_group(system, site, species)
        path = vacancy_path(grouped, stiffness, number)
        moving = {} if cell is False else {"cell": cell, "pressure": pressure} | of_cells
        found = METHODS[method](potential, grouped, path, on_chunk=on_chunk, seed=other, **common, **moving, **options)
    else:
        assert crystal is not None
        left = np.delete(crystal.stiffness, site)
        found = absolute(without(system, site), seed=other, stiffness=left, cells=primitive_cells(system))
    imposed, bulk = (None, None) if cell is False else (pressure, of_cells.get("bulk_modulus"))
    removal = removed(found, crystal, ghost)
    return formed(potential, system, found, removal, ghost, crystal, chemical_potential, imposed, bulk)


def _doubts_of_images(potential: Potential, system: System) -> list[str]:
    """Whether vacancies in neighbouring cells see the same atoms."""
    away, wanted = distance_of_images(potential, system)
    if away >= wanted:
        return []
    return [
        f"vacancies are {away:.1f} A from their images, and what is around them sees both, which it hardly does from "
        f"{wanted:g} A on: repeat the cell, or compare with a larger one"
    ]


def check_route(system: System, species: str, route: str, chemical_potential: float | None, *, moving: bool) -> None:
    """Errors: ValueError for an unknown route, one that does not go, or a chemical potential that is missing."""
    if route not in ROUTES:
        raise ValueError(f"route '{route}' is unknown; use {', '.join(ROUTES)}")
    if route == "absolute" and moving:
        raise ValueError(
            "absolute free energies are those of a fixed cell; let the cell stay, or use the alchemical route"
        )
    if chemical_potential is None and len(set(system.sites.node_species)) > 1:
        raise ValueError(
            f"the chemical potential of {species} in a crystal of several species depends on what surrounds it; give "
            "the chemical potential [eV], on the scale of the potential's energies and with momenta, as absolute free "
            "energies (frenkel-ladd) have them"
        )


def ghost_energy(species: str, stiffness: float, kT: float) -> float:
    """Classical free energy of an atom that only a spring holds [eV]."""
    return float(tied_free_energy(stiffness, ATOMIC_MASSES[species], kT))


def removed(found: Switching | Windows | FreeEnergy, crystal: FreeEnergy | None, ghost: float) -> Estimate:
    """F(vacancy) - F(crystal), from a switch that leaves a ghost, or from both free energies."""
    if not isinstance(found, FreeEnergy):
        return found.difference._replace(value=found.difference.value - ghost)
    assert crystal is not None
    one, two = found.total, crystal.total
    return Estimate(one.value - two.value, float(np.hypot(one.error, two.error)), min(one.samples, two.samples))


def formed(
    potential: Potential,
    system: System,
    found,
    removal: Estimate,
    ghost: float,
    crystal: FreeEnergy | None,
    mu: float | None,
    pressure: float | None,
    bulk_modulus: float | None = None,
) -> Vacancy:
    """The vacancy, with the chemical potential that was given or that of the crystal, (F + PV) / N.

    P [eV/A^3] is the one that is imposed, or in a cell that stays the one that the crystal has there. The bulk modulus
    [eV/A^3] says how much it counts if the crystal's is another than the one imposed.
    """
    sites = len(system.structure.positions)
    doubts = (*found.doubts, *(() if crystal is None else crystal.doubts))
    if mu is not None:
        chemical_potential, error = Estimate(float(mu), 0.0, np.inf), removal.error
    else:
        assert crystal is not None
        space = volume(system.structure) or 0.0
        pushed = Estimate(pressure or 0.0, 0.0, np.inf)
        if pressure is None and isinstance(crystal.path, Switching):
            pushed = crystal.path.pressure
        elif pressure is None:
            doubts = (*doubts, "windows tell no pressure; the chemical potential is F / N without PV")
        value = (crystal.total.value + pushed.value * space) / sites
        own, push = crystal.total.error / sites, pushed.error * space / sites
        chemical_potential = Estimate(value, float(np.hypot(own, push)), crystal.total.samples)
        if isinstance(found, FreeEnergy):  # F of the crystal is in both terms, with a factor of (N - 1) / N in all
            error = float(np.linalg.norm([found.total.error, own * (sites - 1), push]))
        else:
            error = float(np.linalg.norm([removal.error, own, push]))
        if pressure is not None and isinstance(crystal.path, Switching):
            stiff, least = bulk_modulus or BULK_MODULUS, sites * error
            doubts = (*doubts, *doubts_of_pressure(crystal.path.pressure, pressure, space, stiff, least))
    doubts = (*doubts, *_doubts_of_images(potential, system))
    least = min(removal.samples, chemical_potential.samples)
    return Vacancy(
        formation=Estimate(removal.value + chemical_potential.value, error, least),
        removal=removal,
        chemical_potential=chemical_potential,
        ghost=ghost,
        path=found,
        crystal=crystal,
        doubts=doubts,
    )


def species_of(system: System, site: int) -> str:
    """Errors: ValueError for a site that is not there, or that is mixed."""
    sites = len(system.structure.positions)
    if not (isinstance(site, int | np.integer) and 0 <= site < sites):
        raise ValueError(f"site {site!r} does not exist; sites run from 0 to {sites - 1}")
    if sites < 3:
        raise ValueError(f"a crystal of {sites} sites has no room for a vacancy; repeat the cell")
    if any(site in group.sites for group in system.sites.groups):
        raise ValueError(f"site {site} is mixed; a vacancy is made of one species: take a site that is not mixed")
    return system.sites.node_species[int(np.flatnonzero(system.sites.node_site == site)[0])]


def _symbols(system: System) -> list[str]:
    """The first species of every site."""
    first = np.unique(system.sites.node_site, return_index=True)[1]
    return [system.sites.node_species[k] for k in first]


def with_group(system: System, site: int, species: str) -> tuple[System, int]:
    """The system with a weight for the species of a site, and the number of its group."""
    if system.coupling == "published" and system.sites.groups:
        raise ValueError(
            "with the coupling 'published' sites of different groups do not see each other, so that a site of its "
            "own would be cut off; use another coupling"
        )
    groups = (*system.sites.groups, Group("vacancy", (site,), (species,)))
    sites = make_sites(_symbols(system), groups)
    return make_system(system.structure, sites, np.append(system.weights, 1.0), system.coupling), len(groups) - 1


def without(system: System, site: int) -> System:
    """The system without a site."""
    left = lambda k: k - (k > site)
    groups = tuple(g._replace(sites=tuple(left(k) for k in g.sites)) for g in system.sites.groups)
    symbols = [s for k, s in enumerate(_symbols(system)) if k != site]
    structure = system.structure._replace(positions=np.delete(system.structure.positions, site, axis=0))
    return make_system(structure, make_sites(symbols, groups), system.weights, system.coupling)
