"""Windows along a path in a folder: run side by side, their energies in all windows in the log, estimated from it."""

from pathlib import Path

import numpy as np

from alchemjax.commands.columns import write_json
from alchemjax.commands.dynamics import Job, carry_out, intervals
from alchemjax.commands.free_energy import (
    FARTHEST,
    LAMBDA,
    SLOPE,
    number,
    say_doubts,
    say_estimate,
    say_terms,
    steps_of_log,
    strain_columns,
    strains_of_log,
    terms,
)
from alchemjax.commands.run_folder import REPORT
from alchemjax.io import write_atomically
from alchemjax.model.load import Potential
from alchemjax.system.system import System
from alchemjax.tasks.free_energy.paths import Path as Way
from alchemjax.tasks.free_energy.windows import (
    WindowFacts,
    WindowRecord,
    WindowRun,
    Windows,
    analyse_windows,
    plan_windows,
    window_record,
)
from alchemjax.tasks.md import Trajectory

RESULT, FIGURE = "windows.json", "windows.png"


def planned(potential: Potential, system: System, path: Way, arguments: dict, options: dict) -> WindowRun:
    """The run that `options` of `plan_switch` and the command's own ask for."""
    own = {name: value for name, value in options.items() if name not in ("switching", "schedule", "replicas")}
    own |= {"windows": arguments["windows"], "rule": str(arguments["rule"]), "sampling": options["switching"]}
    return plan_windows(potential, system, path, **own)


def sampled(run: WindowRun, potential: Potential, arguments: dict) -> Windows:
    """Sample all windows in a folder, or go on there; what they say is in `windows.json` too."""
    found: list[Windows] = []
    out = arguments["out"]

    def columns(trajectory: Trajectory) -> dict:
        settled = trajectory.step > run.facts.settled
        record = window_record(potential, run, Trajectory(*(a[settled] for a in trajectory)))
        shape = trajectory.energy.shape

        def whole(values):
            table = np.full((*shape, *values.shape[2:]), np.nan)
            table[settled] = values
            return table

        energies = {energy_name(at): whole(record.energies[..., k]) for k, at in enumerate(run.facts.states)}
        lambdas = np.broadcast_to(run.facts.lambdas, shape)
        places = {FARTHEST: whole(record.displacement)} | strain_columns(run.plan, whole(record.strain))
        return {LAMBDA: lambdas, SLOPE: whole(record.slope)} | places | energies

    def finish(log: dict[str, np.ndarray]) -> dict:
        found.append(analyse_windows(run.facts, record_of_log(run.facts, log)))
        return {"windows": described(run.facts, found[0])}

    settled = f"settled after {run.facts.settled}"
    job = Job(
        potential, run.plan, arguments, intervals(arguments)[2], columns, about=settled, redo=arguments["overwrite"]
    )
    carry_out(job, finish)
    write(out, run.facts, found[0], plot=arguments["plot"])
    return found[0]


def energy_name(at: float) -> str:
    """Column of the energies at a value of lambda."""
    return f"energy_at_{at:.6f}_eV"


def record_of_log(facts: WindowFacts, log: dict[str, np.ndarray]) -> WindowRecord:
    """What the analysis needs, from the columns of `log.csv`. Errors: ValueError if some of it is missing."""
    table = lambda name: log[name].reshape(-1, len(facts.lambdas))
    steps = steps_of_log(log, len(facts.lambdas), facts.steps)
    settled = steps > facts.settled
    energies = np.stack([table(energy_name(at))[settled] for at in facts.states], axis=-1)
    strain = strains_of_log(log, len(facts.lambdas))[settled]
    record = WindowRecord(energies, table(SLOPE)[settled], table(FARTHEST)[settled], strain)
    if not all(np.isfinite(a).all() for a in record):
        raise ValueError("numbers are missing")
    return record


def again(folder: Path, facts: dict, log: dict[str, np.ndarray], *, plot: bool) -> None:
    """Estimate again from a log, write it, and say it."""
    known = WindowFacts(**facts)
    found = analyse_windows(known, record_of_log(known, log))
    write(folder, known, found, plot=plot)
    print(folder / RESULT)
    say(found)


def described(facts: WindowFacts, found: Windows) -> dict:
    """Windows, for JSON."""
    return {
        "provenance": REPORT,
        "facts": facts._asdict(),
        "difference_eV": number(found.difference),
        **terms(found),
        "thermodynamic_integration_eV": number(found.integral),
        "lambdas": found.lambdas,
        "dE/dlambda_eV": [number(one) for one in found.derivatives],
        "states": found.states,
        "profile_eV": [number(one) for one in found.profile],
        "overlap": found.overlap,
        "doubts": list(found.doubts),
    }


def write(out: Path, facts: WindowFacts, found: Windows, *, plot: bool) -> None:
    """`windows.json`, and `windows.png` if asked for."""
    write_json(out / RESULT, described(facts, found))
    if plot:
        from alchemjax.commands.free_energy_plot import plot_windows

        figure = plot_windows(found)
        write_atomically(out / FIGURE, lambda path: figure.savefig(path, dpi=200, format="png"))


def say(found: Windows) -> None:
    """What windows say, with every doubt."""
    say_estimate("free-energy difference without momenta (MBAR)", found.difference)
    say_terms(found)
    print(f"  thermodynamic integration: {found.integral.value:.5f} +- {found.integral.error:.5f} eV")
    least = min(one.samples for one in found.derivatives)
    print(f"least overlap of neighbours {found.overlap:.2f}, at least {least:.0f} independent samples in a window")
    say_doubts(found.doubts)
