"""alchemjax frenkel-ladd: absolute free energy of a crystal."""

from pathlib import Path

import numpy as np

from alchemjax.commands.columns import write_json
from alchemjax.commands.free_energy import (
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
from alchemjax.commands.options import check_mixed
from alchemjax.commands.session import provenance
from alchemjax.model.load import Potential
from alchemjax.system.system import System
from alchemjax.tasks.free_energy.frenkel_ladd import FreeEnergy, assembled, check_volume
from alchemjax.tasks.free_energy.paths import einstein_path
from alchemjax.tasks.free_energy.switching import Switching, plan_switch
from alchemjax.units import EV_PER_A3_IN_GPA

RESULT = "frenkel-ladd.json"


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli_free_energy.frenkel_ladd`."""
    system = starting_system(arguments, arguments["weights"])
    check_mixed(system, arguments)
    potential = loaded(arguments)
    options, out, stiffness = options_of(arguments), arguments["out"], arguments["stiffness"]
    check_volume(system)
    if stiffness is not None and str(arguments["springs"]) != "motion":
        raise ValueError(
            f"--stiffness {stiffness:g} and --springs {arguments['springs']} both say it; give one of them"
        )
    path = einstein_path(system, 1.0 if stiffness is None else stiffness)
    plan = plan_switch(potential, system, path, **options).plan
    if arguments["dry_run"]:
        stages = [("switching to springs and back", int(plan.constants.steps), len(plan.seeds))]
        if stiffness is None:
            stages = [*measuring_stages(arguments, options), *stages]
        plan_only(potential, stages, system, options)
        return
    quantum = arguments["quantum"] and options["fluctuations"] == "none"  # it is that of the mean field
    fingerprint = guard(out, RESULT, arguments, [arguments["file"]])
    if stiffness is None:
        stiffness = springs(potential, system, arguments, options, out / "springs")
    free = carried_out(potential, system, arguments, options, out / "switch", stiffness, quantum=quantum)
    found = free.path
    assert isinstance(found, Switching)
    sites, space = len(system.structure.positions), check_volume(system)
    in_gpa = EV_PER_A3_IN_GPA
    pressure = found.pressure._replace(value=found.pressure.value * in_gpa, error=found.pressure.error * in_gpa)
    report = {
        "fingerprint": fingerprint,
        "free_energy_eV": number(free.total),
        "free_energy_per_site_eV": free.total.value / sites,
        "einstein_eV": free.einstein,
        "centre_of_mass_eV": free.centre,
        "difference_eV": free.difference,
        "quantum_correction_eV": free.quantum,
        "mixing_eV": free.mixing,
        "stiffness_eV_per_A2": free.stiffness,
        "pressure_GPa": number(pressure),
        "PV_eV": pressure.value / EV_PER_A3_IN_GPA * space,
        "sites": sites,
        "primitive_cells": free.cells,
        "doubts": list(free.doubts),
    }
    write_json(out / RESULT, provenance(arguments["file"], arguments, potential, system) | report)
    print(out / RESULT)
    say_estimate("classical free energy", free.total)
    print(f"per site: {free.total.value / sites:.6f} +- {free.total.error / sites:.6f} eV")
    stiff = ", ".join(map(str, np.unique(np.round(free.stiffness, 3))[:6]))
    print(f"of it the Einstein crystal: {free.einstein:.5f} eV (springs {stiff} eV/A^2)")
    print(f"of that the free centre of mass: {free.centre:+.5f} eV")
    print(f"PV, not part of it: {report['PV_eV']:+.5f} eV, at {pressure.value:.3f} +- {pressure.error:.3f} GPa")
    if free.quantum is not None:
        print(f"harmonic quantum correction, not part of it: {free.quantum:+.5f} eV")
    if free.mixing:
        print(f"random mixing -T S, not part of it: {free.mixing:+.5f} eV")
    say_works(found)
    say_doubts(free.doubts)


def carried_out(
    potential: Potential,
    system: System,
    arguments: dict,
    options: dict,
    out: Path,
    stiffness,
    *,
    quantum: bool = False,
    cells: int | None = None,
) -> FreeEnergy:
    """Switch a crystal to springs in a folder, or go on there."""
    path = einstein_path(system, stiffness)
    run, found = switched(potential, system, path, arguments, options, out)
    return assembled(potential, system, path, found, run.facts.kT, quantum=quantum, cells=cells)
