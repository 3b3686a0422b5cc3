"""alchemjax optimise: targets in, the composition that reaches them out."""

import time
from pathlib import Path

import jax
import numpy as np
import scipy
from rich.console import Console

import alchemjax
from alchemjax.atoms import to_atoms
from alchemjax.calculate import topology_of, with_fluctuations
from alchemjax.commands.columns import plain
from alchemjax.commands.optimise_report import FILES, WORK, report_of, summary, write
from alchemjax.commands.options import (
    check_mixed,
    check_periodic,
    check_relaxation,
    parse_charges,
    parse_mix,
    parse_weights,
    relaxation_options,
)
from alchemjax.commands.session import bar_of, fingerprint_of, prepare_jax, provenance, read_system, warn
from alchemjax.commands.store import (
    complete,
    finished,
    last_report,
    opened,
    store,
    store_batch,
    stored,
    stored_batches,
)
from alchemjax.decorate import Explicit, check_optimum
from alchemjax.io import load, read
from alchemjax.model.load import Potential
from alchemjax.system.structure import volume
from alchemjax.system.system import System, checked_weights
from alchemjax.tasks.constraints import make_constraints
from alchemjax.tasks.goals import Goal, parse_goals
from alchemjax.tasks.optimise import Evaluation, Optimum, optimise
from alchemjax.tasks.properties import checked_names
from alchemjax.tasks.quasirandom import can_search
from alchemjax.tasks.relax import check_limit, relax

PLANES = {
    "a": ("a",),
    "b": ("b",),
    "c": ("c",),
    "ab": ("a", "b", "gamma"),
    "ac": ("a", "c", "beta"),
    "bc": ("b", "c", "alpha"),
}
PLANES["all"] = ("a", "b", "c", "alpha", "beta", "gamma")
SUPERCELLS = 2  # explicit ones, by default
ALWAYS = ("a", "b", "c", "volume", "density", "energy")


def run(arguments: dict) -> None:
    """Carry out the command; `arguments` are those of `alchemjax.cli.optimise`."""
    mix, out, relaxes = parse_mix(arguments["mix"]), arguments["out"], arguments["relax"]
    check_relaxation(arguments, cell=relaxes == "cell", positions=relaxes != "none")
    targets = list(parse_goals(arguments["target"])) if arguments["target"] else []
    _check_numbers(arguments)
    also = checked_names(name.strip() for name in (arguments["properties"] or "").split(",") if name.strip())
    charges = parse_charges(arguments["charges"])
    prepare_jax()
    needs = arguments["weights"] is None
    system = read_system(arguments["file"], mix, arguments["groups"], arguments["coupling"], needs_weights=needs)
    check_mixed(system, arguments)
    if not system.sites.groups:
        raise ValueError("no site is mixed: give --mix, or a file with partial occupancies")
    given = parse_weights(system.sites, arguments["weights"])
    system = system._replace(weights=checked_weights(system, given))
    if arguments["check"] is None:
        usual = SUPERCELLS if system.coupling == "independent" and system.structure.pbc.any() else 0
        arguments = arguments | {"check": usual}
    if relaxes == "cell":
        check_periodic(system, arguments["file"], "--relax positions")
    make_constraints(system.sites, system.weights, arguments["condition"] or (), charges)
    potential = load(arguments["model"], arguments["dtype"], head=arguments["head"], modality=arguments["modality"])
    topology_of(potential, system)
    _check_supercells(system, arguments)
    options = relaxation_options(arguments)
    if relaxes != "cell":
        options |= {"cell": False, "positions": relaxes == "positions"}
    matched = {}
    if arguments["match"] is not None:
        matched = _lattice_of(potential, arguments, options)
        targets += [Goal(name, "=", matched[name]) for name in PLANES[arguments["plane"]]]
    if not targets:
        raise ValueError("there is nothing to aim at; give --target, like a=5.45, or --match")
    always = ALWAYS if volume(system.structure) is not None else ("energy",)
    names = tuple(dict.fromkeys([*(goal.name for goal in targets), *also, *always]))
    chosen = {name: options[name] for name in ("fluctuations", "supercell") if name in options}
    shown = with_fluctuations(potential, system, chosen.pop("fluctuations", "none"), **chosen)
    search = _fingerprint(potential, system, arguments, targets, options)
    fingerprint = fingerprint_of([search, *(arguments[name] for name in ("evaluations", "check", "sqs"))], ())
    before = last_report(out, WORK)
    done = finished(out, fingerprint, WORK) is not None
    if before.get("search") == search and not (done or arguments["overwrite"]):
        _check_not_less(out, before["arguments"], arguments)
    whole = all((out / name).exists() for name in FILES[: 2 + arguments["plot"]])
    if done and whole and not arguments["overwrite"]:
        print(f"{out} holds this very optimisation, finished; nothing was done (--overwrite calculates it again)")
        return
    with opened(out, search, WORK, overwrite=arguments["overwrite"], own=done, anew=done and whole) as batches:
        found, seconds = _optimise(potential, system, targets, names, arguments, charges, options, batches)
        explicit, why_not = None, []
        if arguments["check"]:
            try:
                explicit = _explicit(potential, system, found, arguments, options, batches, fingerprint)
            except ValueError as error:  # what was found is kept
                why_not = [f"there are no explicit supercells: {error}"]
        report = {"fingerprint": fingerprint, "search": search} | provenance(
            arguments["file"], arguments, potential, shown
        )
        report |= {"wall_time_s": round(seconds, 3), "matched": matched}
        report |= report_of(shown, targets, names, found, explicit, why_not)
        write(out, system, targets, names, found, report, plot=arguments["plot"])
        complete(batches)
    for sentence in report["warnings"]:
        warn(sentence)
    Console(highlight=False, markup=False).print(summary(shown, targets, names, found, explicit))
    if found.message not in report["warnings"]:
        print(found.message)
    print(f"{len(found.path)} evaluations of {len(found.losses)} starts in {seconds:.0f} s: {out / WORK.last}")


# --- what is asked for ------------------------------------------------------------------------------------------------


def _check_numbers(arguments: dict) -> None:
    """Errors: ValueError for numbers out of range, and for options that need others."""
    for name in ("starts", "evaluations"):
        check_limit("batch", arguments[name], f"--{name} {arguments[name]}")
    if arguments["check"] is not None:
        check_limit("max_steps", arguments["check"], f"--check {arguments['check']}")
    check_limit("tolerance", arguments["tolerance"], f"--tolerance {arguments['tolerance']:g}")
    if arguments["seed"] < 0:
        raise ValueError(f"--seed {arguments['seed']} must be a whole number, at least 0")
    if arguments["match"] is None and (arguments["match_as_given"] or arguments["plane"] != "ab"):
        raise ValueError("--plane and --match-as-given have no effect without --match; leave them out")
    if arguments["plane"] not in PLANES:
        raise ValueError(f"--plane '{arguments['plane']}' is not understood; give one of {', '.join(PLANES)}")


def _check_supercells(system: System, arguments: dict) -> None:
    """Errors: ValueError for supercells that will not be made."""
    if arguments["sqs"] and not arguments["check"]:
        raise ValueError("--sqs has no effect without --check; give the number of supercells, or leave it out")
    if arguments["sqs"] and not can_search(system.structure):
        raise ValueError("--sqs needs sqsgenerator (pip install sqsgenerator) and three periodic directions")
    if arguments["check"] and system.coupling != "independent":
        raise ValueError(
            f"explicit supercells are not those of the coupling '{system.coupling}'; leave out --check, or it"
        )


def _check_not_less(out: Path, before: dict, arguments: dict) -> None:
    """Errors: ValueError where results of fewer evaluations, or without supercells, would replace others."""
    supercells = before["check"] and (before["check"], before["sqs"]) != (arguments["check"], arguments["sqs"])
    if supercells or before["evaluations"] > arguments["evaluations"]:
        raise ValueError(
            f"'{out}' holds results of --evaluations {before['evaluations']} and --check {before['check']}; give at "
            "least as many evaluations and the same supercells, use another folder, or --overwrite"
        )


def _lattice_of(potential: Potential, arguments: dict, options: dict) -> dict[str, float]:
    """Lengths [A] and angles [degree] of the crystal to match, relaxed with the same potential and limits."""
    other = read(arguments["match"])
    check_periodic(other, arguments["match"], "a crystal to --match")
    if other.sites.groups:
        raise ValueError(f"'{arguments['match']}' has partial occupancies; --match takes an ordinary crystal")
    structure = other.structure
    if not arguments["match_as_given"]:
        limits = "pressure", "force_tolerance", "stress_tolerance", "max_steps"
        relaxed = relax(potential, other, cell=True, **{name: options[name] for name in limits if name in options})
        if not relaxed.converged:
            raise ValueError(f"'{arguments['match']}' did not relax; relax it, and give it with --match-as-given")
        structure = relaxed.structure
    lattice = to_atoms(other._replace(structure=structure)).cell.cellpar()
    return dict(zip(PLANES["all"], lattice.tolist(), strict=True))


def _fingerprint(potential: Potential, system: System, arguments: dict, targets, options: dict) -> str:
    settings = [alchemjax.__version__, jax.__version__, jax.default_backend(), jax.device_count()]
    settings += [potential.name, potential.sha256, potential.dtype, system.coupling, targets, plain(options)]
    asked = ("condition", "charges", "starts", "optimiser", "tolerance", "seed", "alpha", "properties")
    settings += [np.__version__, scipy.__version__] + [arguments[name] for name in asked]
    settings += [[g.name, g.sites, g.species] for g in system.sites.groups] + [list(system.sites.node_species)]
    return fingerprint_of(settings, (*system.structure, system.weights))


# --- what is calculated -----------------------------------------------------------------------------------------------


def _optimise(potential, system, targets, names, arguments: dict, charges, options: dict, batches: Path):
    """The optimum and the seconds it took, with a progress bar; evaluations that are stored are not done again."""
    recorded, seconds = stored_batches(batches, Evaluation)
    done, bar = bar_of("evaluations")
    with bar:
        done(len(recorded), arguments["evaluations"])
        clock = [time.monotonic(), seconds]

        def on_evaluation(number: int, found: Evaluation, searches) -> None:
            elapsed, clock[0] = time.monotonic() - clock[0], time.monotonic()
            store_batch(batches, number, found, elapsed)
            clock[1] += elapsed
            going = sum(not search.done for search in searches)
            done(number + 1, arguments["evaluations"])
            bar.update(bar.task_ids[0], description=f"evaluations, {going} of {len(searches)} starts going")

        found = optimise(
            potential,
            system,
            targets,
            starts=arguments["starts"],
            conditions=arguments["condition"] or (),
            charges=charges,
            optimiser=str(arguments["optimiser"]),
            properties=names,
            evaluations=arguments["evaluations"],
            tolerance=arguments["tolerance"],
            seed=arguments["seed"],
            alpha=arguments["alpha"],
            recorded=recorded,
            on_evaluation=on_evaluation,
            **options,
        )
    return found, clock[1]


def _explicit(
    potential, system: System, found: Optimum, arguments: dict, options: dict, batches: Path, fingerprint: str
) -> Explicit:
    """The same properties of explicit supercells; those of this very work that are stored are not relaxed again."""
    path = batches / "explicit.npz"
    before = stored(path, Explicit)
    if before is not None and before[1]["fingerprint"] == fingerprint:
        return before[0]._replace(names=tuple(before[0].names.tolist()), sites=int(before[0].sites))
    pure = ((found.weights == 0) | (found.weights == 1)).all()  # all supercells would be the same
    number = 1 if pure else arguments["check"]
    on, bar = bar_of("explicit supercells")
    with bar:
        explicit = check_optimum(
            potential,
            system,
            found,
            number=number,
            method="sqs" if arguments["sqs"] else "random",
            seed=arguments["seed"],
            on_supercell=on,
            **options,
        )
    store(path, explicit, fingerprint=fingerprint)
    return explicit
