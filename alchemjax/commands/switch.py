"""alchemjax switch and analyse: free energy along a path of compositions, by switches or windows."""

from functools import partial
from pathlib import Path

from alchemjax.commands import windows
from alchemjax.commands.columns import write_json
from alchemjax.commands.dynamics import read_log
from alchemjax.commands.free_energy import (
    RESULT,
    described,
    draw,
    loaded,
    opened_system,
    options_of,
    plan_only,
    record_of_log,
    say_switch,
    switched,
)
from alchemjax.commands.options import parse_weights
from alchemjax.commands.run_folder import LOG, REPORT, report_of
from alchemjax.tasks.free_energy.paths import composition_path
from alchemjax.tasks.free_energy.switching import Facts, analyse, plan_switch

OF_SWITCHES, OF_WINDOWS = {"replicas": 8, "schedule": "polynomial"}, {"rule": "gauss-legendre"}


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli_free_energy.switch`."""
    arguments = completed(arguments)
    system = opened_system(arguments, needs_weights=False)
    if not system.sites.groups:
        raise ValueError("nothing is mixed, so that there is no composition to switch; give --mix")
    given = {"start": "--from", "end": "--to"}
    start, end = (parse_weights(system.sites, arguments[name], option) for name, option in given.items())
    path = composition_path(system, start, end)
    system = system._replace(weights=path.weights[0])
    potential, options, out = loaded(arguments), options_of(OF_SWITCHES | arguments), arguments["out"]
    if arguments["windows"] is None:
        name, planned = "switching", partial(plan_switch, potential, system, path, **options)
    else:
        name = "windows, besides their energies in all windows"
        planned = partial(windows.planned, potential, system, path, arguments, options)
    if arguments["dry_run"]:
        plan = planned().plan
        plan_only(potential, [(name, int(plan.constants.steps), len(plan.seeds))], system, options)
    elif arguments["windows"] is None:
        done, found = switched(potential, system, path, arguments, options, out, redo=arguments["overwrite"])
        print(out / RESULT)
        say_switch(done.facts, found)
    else:
        found = windows.sampled(planned(), potential, arguments)
        print(out / windows.RESULT)
        windows.say(found)


def completed(arguments: dict) -> dict:
    """With defaults. Errors: ValueError for an option that has no effect."""
    in_windows = arguments["windows"] is not None
    if in_windows and arguments["windows"] < 2:
        raise ValueError(f"--windows {arguments['windows']} must be a whole number, at least 2")
    ours, others = (OF_WINDOWS, OF_SWITCHES) if in_windows else (OF_SWITCHES, OF_WINDOWS)
    for name in others:
        if arguments[name] is not None:
            place = "with" if in_windows else "without"
            raise ValueError(f"--{name} {arguments[name]} has no effect {place} --windows; leave it out")
    given = {name: value for name, value in arguments.items() if name not in others}
    return given | {name: default for name, default in ours.items() if given[name] is None}


def run_analyse(folder: Path, *, plot: bool) -> None:
    """Estimate again from the log of a finished switch, or of finished windows."""
    report = report_of(folder)
    kind = next((name for name in ("switch", "windows") if name in report), None)
    if not report.get("finished") or kind is None:
        raise ValueError(
            f"'{folder}' holds no finished switch or windows (no {REPORT} that says so); give the folder of alchemjax "
            "switch, or the one of a stage of frenkel-ladd, vacancy or stability"
        )
    try:
        log, facts = read_log(folder), report[kind]["facts"]
        if kind == "windows":
            windows.again(folder, facts, log, plot=plot)
            return
        facts = Facts(**facts)
        found = analyse(facts, record_of_log(log, facts.steps[-1]))
        if plot:
            draw(folder, log, facts, found)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        damaged = f"'{folder / LOG}' is damaged, or of another version ({error})"
        raise ValueError(f"{damaged}; remove the folder and make the run again") from None
    write_json(folder / RESULT, described(facts, found))
    print(folder / RESULT)
    say_switch(facts, found)
