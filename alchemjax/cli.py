"""The command line: names, types and help; the work is in `alchemjax.commands`, imported when a command runs."""

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

app = typer.Typer(
    name="alchemjax",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Alchemical interatomic potentials: materials whose composition is a continuous variable.",
)


class Relax(StrEnum):
    """What a sweep relaxes."""

    cell = "cell"
    positions = "positions"
    none = "none"


class Coupling(StrEnum):
    """How neighbouring mixed sites see each other."""

    independent = "independent"
    paired = "paired"
    correlated = "correlated"
    published = "published"


class Groups(StrEnum):
    """Which sites share their weights."""

    shared = "shared"
    site = "site"


class Dtype(StrEnum):
    """Precision."""

    float32 = "float32"
    float64 = "float64"


def _number(kind: type) -> Callable:
    """How an option of the command line becomes a number."""

    def parse(text: str):
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise typer.BadParameter(f"'{text}' is not {what}") from None

    return parse


def _place(text: str) -> Path:
    """Where results go."""
    if not text.strip():
        raise typer.BadParameter("an empty name was given; name a place for the results ('.' is this folder)")
    return Path(text)


WHOLE = {"parser": _number(int), "metavar": "INTEGER"}
FLOAT = {"parser": _number(float), "metavar": "FLOAT"}
OUT = {"parser": _place, "metavar": "PATH"}
File = Annotated[Path, Argument(help="A structure: CIF (partial occupancies welcome) or anything that ASE reads.")]
Mix = Annotated[
    list[str] | None,
    Option("--mix", metavar="SITES=SPECIES,..", help="Species on sites: Ce=Ce,Zr. SITES may also be 0,1 or tag:3."),
]
GroupsOption = Annotated[Groups, Option(help="One set of weights for every --mix, or one for every site.")]
Model = Annotated[str, Option(help="Name (see alchemjax models) or path of the potential, also of a foreign file.")]
Head = Annotated[str | None, Option(help="Head of a model trained on several data sets (MACE). [default: its default]")]
Modality = Annotated[
    str | None, Option(help="Which level of theory, of a potential trained on several (alchemjax models lists them).")
]
CouplingOption = Annotated[
    Coupling,
    Option(
        help="How mixed neighbours see each other. independent: random mean-field alloy; paired: like sees like; "
        "correlated: order set by --alpha; published: as the published code, for comparison: its pure end points are "
        "wrong where sites of different groups are neighbours."
    ),
]
Alpha = Annotated[
    float | None,
    Option(
        **FLOAT,
        help="Short-range order with --coupling correlated, at most 1: 0 random, positive prefers like neighbours, "
        "negative unlike ones (how far down depends on the composition).",
    ),
]
Precision = Annotated[Dtype, Option(help="Precision of the potential.")]
Pressure = Annotated[
    float | None,
    Option(
        parser=_number(float),
        metavar="GPA",
        help="Pressure [GPa] at which the cell is relaxed (enthalpy). [default: 0]",
    ),
]
Strain = Annotated[
    str | None,
    Option(metavar="STRAINS", help="Free strains: all, hydrostatic, or some of xx,yy,zz,yz,xz,xy. [default: all]"),
]
FixAxes = Annotated[str | None, Option(metavar="a,b,c", help="Lattice vectors that stay as they are.")]
MaxSteps = Annotated[int | None, Option(**WHOLE, help="Steps of a relaxation. [default: 500]")]
ForceTolerance = Annotated[float | None, Option(**FLOAT, help="Largest force on a site [eV/A]. [default: 0.005]")]
StressTolerance = Annotated[float | None, Option(**FLOAT, help="Largest stress [GPa]. [default: 0.0032]")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace earlier results.")]


def _plainly(command: Callable) -> Callable:
    """Errors as one sentence and a status; the whole traceback with ALCHEMJAX_TRACEBACK=1."""

    @wraps(command)
    def run(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            again = "; run the same command to continue" if command.__name__ == "sweep" else ""
            print(f"alchemjax: interrupted{again}", file=sys.stderr)
            raise typer.Exit(130) from None
        except (ValueError, OSError, RuntimeError) as error:
            sentence = _sentence(error)
            if sentence is None or os.environ.get("ALCHEMJAX_TRACEBACK") == "1":
                raise
            print(f"alchemjax: {sentence}", file=sys.stderr)
            raise typer.Exit(2) from None

    return run


def _sentence(error: Exception) -> str | None:
    """What to say of an error; None for one that only a traceback explains."""
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    if isinstance(error, RuntimeError):
        full = "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
        return "not enough memory; try a smaller --batch, --dtype float32 or a smaller cell" if full else None
    sentence = " ".join(str(error).split())
    for option in ("modality", "head"):  # the library speaks of its arguments
        sentence = sentence.replace(f"pass {option}=", f"give --{option}").replace(
            f"leave {option}", f"leave --{option}"
        )
    return sentence


def _version(wanted: bool) -> bool:
    if wanted:
        import alchemjax

        print(f"alchemjax {alchemjax.__version__}")
        raise typer.Exit()
    return wanted


@app.callback()
def common(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options that belong to no command."""


@app.command()
@_plainly
def sweep(
    file: File,
    out: Annotated[Path, Option("--out", "-o", **OUT, help="Folder for the results.")],
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    points: Annotated[
        int | None,
        Option(
            **WHOLE,
            help="Compositions per edge of the grid: 21 are steps of 5 % between two species. Several groups multiply. "
            "[default: 21]",
        ),
    ] = None,
    compositions: Annotated[
        Path | None,
        Option(
            metavar="CSV",
            help="Compositions instead of a grid: columns group:species, like Ce:Zr; what is missing to 1 is vacancy. "
            "End members that are not among them are calculated too, after them (added_end_member is 1).",
        ),
    ] = None,
    relax: Annotated[Relax, Option(help="What is relaxed; cell means positions and cell.")] = Relax.cell,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
    coupling: CouplingOption = Coupling.independent,
    alpha: Alpha = None,
    dtype: Precision = Dtype.float32,
    pressure: Pressure = None,
    strain: Strain = None,
    fix_axes: FixAxes = None,
    max_steps: MaxSteps = None,
    force_tolerance: ForceTolerance = None,
    stress_tolerance: StressTolerance = None,
    batch: Annotated[int | None, Option(**WHOLE, help="Compositions at a time. [default: what memory allows]")] = None,
    plot: Annotated[bool, Option("--plot/--no-plot", help="Draw sweep.png.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Energies and relaxed structures over compositions.

    Run again, an interrupted sweep continues, and files of a finished one that are missing are made from sweep.json.
    With --pressure the table and the plot show enthalpies too.
    """
    arguments = dict(locals())
    from alchemjax.commands.sweep import run

    run(arguments)


@app.command()
@_plainly
def relax(
    file: File,
    out: Annotated[
        Path, Option("--out", "-o", **OUT, help="Relaxed structure (.extxyz, .xyz, .cif); a .json goes beside it.")
    ],
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Annotated[
        str | None,
        Option(
            metavar="WEIGHTS",
            help="0.5,0.5 or Ce=0.5,Zr=0.5, every species named; what is missing to 1 is vacancy. "
            "[default: the occupancies of the file]",
        ),
    ] = None,
    positions: Annotated[bool, Option("--positions/--no-positions", help="Relax the positions.")] = True,
    cell: Annotated[bool, Option("--cell/--no-cell", help="Relax the cell.")] = True,
    strain: Strain = None,
    fix_axes: FixAxes = None,
    pressure: Pressure = None,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
    coupling: CouplingOption = Coupling.independent,
    alpha: Alpha = None,
    dtype: Precision = Dtype.float32,
    max_steps: MaxSteps = None,
    force_tolerance: ForceTolerance = None,
    stress_tolerance: StressTolerance = None,
    overwrite: Overwrite = False,
) -> None:
    """Relax one composition of one structure."""
    arguments = dict(locals())
    from alchemjax.commands.relax import run

    run(arguments)


@app.command()
@_plainly
def info(
    file: File,
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
) -> None:
    """What a file contains, and the order of its weights."""
    from alchemjax.commands.info import run

    run(file, mix, groups, model, head, modality)


@app.command()
@_plainly
def models(
    name: Annotated[str | None, Argument(help="All about this one: address, licence, what to type to get it.")] = None,
    json: Annotated[
        bool, Option("--json", help="Print JSON, with paths, elements, addresses and commands, instead of tables.")
    ] = False,
) -> None:
    """The potentials that are here, and where to get others."""
    from alchemjax.commands.models import run_models

    run_models(name, as_json=json)


@app.command()
@_plainly
def convert(
    family: Annotated[str, Argument(help="Kind of the checkpoint: sevennet, nequix or mace.")],
    path: Annotated[Path, Argument(help="Checkpoint (.pth, .nqx, .model), wheel or folder.")],
    out: Annotated[
        Path | None, Option("--out", "-o", **OUT, help="Folder to write. [default: where --model finds models by name]")
    ] = None,
    model: Annotated[str | None, Option(help="Which one of several in a wheel or folder. [default: all]")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a foreign checkpoint, without running anything from it.

    --model of the other commands takes such a file as well, and converts it once. Official files are recognised; their
    licence is kept beside the converted model.
    """
    from alchemjax.commands.models import run_convert

    run_convert(family, path, out, model, overwrite=overwrite)


# typer's base class of these errors, wherever it comes from: click, or typer's own copy of it
UnreadableCommand = typer.BadParameter.__mro__[2]


def main() -> None:
    """Entry point."""
    # XLA reports an error, wrongly, whenever compiled code comes from the cache; it looks here when jax is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UnreadableCommand as error:  # pyright: ignore[reportGeneralTypeIssues]
        print(f"alchemjax: {' '.join(error.format_message().split())} (see --help)", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
