"""alchemjax switch and analyse: free energy along a path of compositions, from switches forward and back."""

from pathlib import Path

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


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli_free_energy.switch`."""
    system = opened_system(arguments, needs_weights=False)
    if not system.sites.groups:
        raise ValueError("nothing is mixed, so that there is no composition to switch; give --mix")
    given = {"start": "--from", "end": "--to"}
    start, end = (parse_weights(system.sites, arguments[name], option) for name, option in given.items())
    path = composition_path(system, start, end)
    system = system._replace(weights=path.weights[0])
    potential, options = loaded(arguments), options_of(arguments)
    if arguments["dry_run"]:
        plan = plan_switch(potential, system, path, **options).plan
        plan_only(potential, [("switching", int(plan.constants.steps), len(plan.seeds))], system, options)
        return
    done, found = switched(potential, system, path, arguments, options, arguments["out"])
    print(f"{arguments['out'] / RESULT}")
    say_switch(done.facts, found)


def run_analyse(folder: Path, *, plot: bool) -> None:
    """Estimate again from the log of a finished switch."""
    report = report_of(folder)
    if not report.get("finished") or "switch" not in report:
        raise ValueError(
            f"'{folder}' holds no finished switch (no {REPORT} that says so); give the folder of alchemjax switch, or "
            "the one of a stage of frenkel-ladd, vacancy or stability"
        )
    try:
        facts = Facts(**report["switch"]["facts"])
        log = read_log(folder)
        found = analyse(facts, record_of_log(log))
        if plot:
            draw(folder, log, facts, found)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ValueError(f"'{folder / LOG}' is damaged ({error}); run the switch again") from None
    write_json(folder / RESULT, described(facts, found))
    print(folder / RESULT)
    say_switch(facts, found)
