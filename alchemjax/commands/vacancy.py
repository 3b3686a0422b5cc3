"""alchemjax vacancy: free energy of formation of a vacancy on one site."""

import numpy as np

from alchemjax.commands.columns import write_json
from alchemjax.commands.free_energy import (
    fixed_cell,
    guard,
    loaded,
    measuring_stages,
    number,
    options_of,
    plan_only,
    say_doubts,
    say_estimate,
    say_works,
    springs,
    starting_system,
    switched,
)
from alchemjax.commands.frenkel_ladd import carried_out
from alchemjax.commands.session import provenance
from alchemjax.tasks.free_energy.frenkel_ladd import FreeEnergy, check_volume, primitive_cells
from alchemjax.tasks.free_energy.paths import einstein_path, vacancy_path
from alchemjax.tasks.free_energy.switching import plan_switch
from alchemjax.tasks.free_energy.vacancy import (
    check_route,
    formed,
    ghost_energy,
    removed,
    species_of,
    with_group,
    without,
)
from alchemjax.tasks.seeds import seed_of
from alchemjax.units import KELVIN

RESULT = "vacancy.json"


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli_free_energy.vacancy`."""
    system = starting_system(arguments, arguments["weights"])
    potential = loaded(arguments)
    options, out, route, site = options_of(arguments), arguments["out"], str(arguments["route"]), arguments["site"]
    mu, tether = arguments["chemical_potential"], arguments["stiffness"]
    moving = options.get("cell", False) is not False
    species = species_of(system, site)
    check_route(system, species, route, mu, moving=moving)
    fixed = fixed_cell(options)
    absolute = mu is None or route == "absolute"
    if route == "absolute" and tether is not None:
        raise ValueError("--stiffness holds the site that disappears; leave it out with --route absolute")
    check_volume(system)
    whole = plan_switch(potential, system, einstein_path(system, 1.0), **fixed).plan
    grouped, group = with_group(system, site, species)
    plan_switch(potential, grouped, vacancy_path(grouped, 1.0 if tether is None else tether, group), **options)
    measures = absolute or tether is None
    if arguments["dry_run"]:
        steps, replicas = int(whole.constants.steps), len(whole.seeds)
        other = "the crystal with the vacancy to springs and back"
        stages = measuring_stages(arguments, options) if measures else []
        stages += [("the crystal to springs and back", steps, replicas)] if absolute else []
        stages += [("the site to a vacancy and back" if route == "alchemical" else other, steps, replicas)]
        plan_only(potential, stages, system, options)
        return
    fingerprint = guard(out, RESULT, arguments, [arguments["file"]])
    measured, crystal, stiffness = np.zeros(0), None, tether
    if measures:
        measured = springs(potential, system, arguments, fixed, out / "springs")
        stiffness = float(measured[site]) if tether is None else tether
    if absolute:
        crystal = carried_out(potential, system, arguments, fixed, out / "crystal", measured)
    kT = options["temperature"] * KELVIN
    other = options | {"seed": seed_of(options["seed"], 1)}  # the same noise would not be independent
    if route == "alchemical":
        path = vacancy_path(grouped, stiffness, group)
        found = switched(potential, grouped, path, arguments, other, out / "vacancy")[1]
    else:
        empty = without(system, site)
        left = [k for k in range(len(measured)) if k != site]
        cells = primitive_cells(system)
        way = fixed_cell(other)
        found = carried_out(potential, empty, arguments, way, out / "vacancy", measured[left], cells=cells)
    ghost = ghost_energy(species, stiffness, kT)
    pressure = options.get("pressure", 0.0) if moving else None
    bulk = options.get("bulk_modulus")
    removal = removed(found, crystal, ghost)
    result = formed(potential, system, found, removal, ghost, crystal, mu, pressure, bulk)
    report = {
        "fingerprint": fingerprint,
        "formation_eV": number(result.formation),
        "removal_eV": number(result.removal),
        "chemical_potential_eV": number(result.chemical_potential),
        "ghost_eV": result.ghost if route == "alchemical" else None,
        "stiffness_eV_per_A2": stiffness if route == "alchemical" else measured,
        "crystal_free_energy_eV": None if crystal is None else number(crystal.total),
        "species": species,
        "site": site,
        "route": route,
        "doubts": list(result.doubts),
    }
    write_json(out / RESULT, provenance(arguments["file"], arguments, potential, system) | report)
    print(out / RESULT)
    what = "Gibbs energy" if moving else "free energy"
    say_estimate(f"{what} of formation of a vacancy of {species} on site {site}", result.formation)
    say_estimate(f"  of it the removal of {species}", result.removal)
    say_estimate(f"  and its chemical potential{'' if mu is None else ' (given)'}", result.chemical_potential)
    if not isinstance(found, FreeEnergy):
        say_works(found)
    print("the entropy of where the vacancy is (k_B ln of the number of sites) is not part of it")
    say_doubts(result.doubts)
