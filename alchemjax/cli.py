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


class Groups(StrEnum):
    """Which sites share their weights."""

    shared = "shared"
    site = "site"


class Dtype(StrEnum):
    """Precision."""

    float32 = "float32"
    float64 = "float64"


File = Annotated[Path, Argument(help="A structure: CIF (partial occupancies welcome) or anything that ASE reads.")]
Mix = Annotated[
    list[str] | None,
    Option("--mix", metavar="SITES=SPECIES,..", help="Species on sites: Ce=Ce,Zr. SITES may also be 0,1 or tag:3."),
]
GroupsOption = Annotated[Groups, Option(help="One set of weights for every --mix, or one for every site.")]
Model = Annotated[str, Option(help="Name (see alchemjax models) or path of the potential.")]
Modality = Annotated[str | None, Option(help="Which one, for a potential with several.")]
CouplingOption = Annotated[Coupling, Option(help="How neighbouring mixed sites see each other.")]
Alpha = Annotated[float | None, Option(help="Short-range order; with --coupling correlated.")]
Precision = Annotated[Dtype, Option(help="Precision of the potential.")]
Pressure = Annotated[float | None, Option(metavar="GPA", help="Pressure [GPa] at which the cell is relaxed.")]
FixAxes = Annotated[str | None, Option(metavar="a,b,c", help="Lattice vectors that stay as they are.")]
MaxSteps = Annotated[int | None, Option(help="Steps of a relaxation. [default: 500]")]
ForceTolerance = Annotated[float | None, Option(help="Largest force on a site [eV/A]. [default: 0.005]")]
StressTolerance = Annotated[float | None, Option(help="Largest stress [GPa]. [default: 0.0032]")]
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
    return " ".join(str(error).split())


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
    out: Annotated[Path, Option("--out", "-o", help="Folder for the results.")],
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    points: Annotated[int | None, Option(help="Points per edge of every group's simplex. [default: 21]")] = None,
    compositions: Annotated[
        Path | None, Option(metavar="CSV", help="Compositions instead of a grid: columns group:species, like Ce:Zr.")
    ] = None,
    relax: Annotated[Relax, Option(help="What is relaxed; cell means positions and cell.")] = Relax.cell,
    model: Model = "sevennet-0",
    modality: Modality = None,
    coupling: CouplingOption = Coupling.independent,
    alpha: Alpha = None,
    dtype: Precision = Dtype.float32,
    pressure: Pressure = None,
    cell: Annotated[
        str | None, Option(metavar="STRAINS", help="all, hydrostatic, or some of xx,yy,zz,yz,xz,xy. [default: all]")
    ] = None,
    fix_axes: FixAxes = None,
    max_steps: MaxSteps = None,
    force_tolerance: ForceTolerance = None,
    stress_tolerance: StressTolerance = None,
    batch: Annotated[int | None, Option(help="Compositions at a time. [default: what memory allows]")] = None,
    plot: Annotated[bool, Option("--plot/--no-plot", help="Draw sweep.png.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Energies and relaxed structures over compositions; an interrupted sweep continues when run again."""
    arguments = dict(locals())
    from alchemjax.commands.sweep import run

    run(arguments)


@app.command()
@_plainly
def relax(
    file: File,
    out: Annotated[
        Path, Option("--out", "-o", help="Relaxed structure (.extxyz, .xyz, .cif); a .json goes beside it.")
    ],
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Annotated[
        str | None, Option(metavar="WEIGHTS", help="0.5,0.5 or Ce=0.5,Zr=0.5. [default: the occupancies of the file]")
    ] = None,
    positions: Annotated[bool, Option("--positions/--no-positions", help="Relax the positions.")] = True,
    cell: Annotated[bool, Option("--cell/--no-cell", help="Relax the cell.")] = True,
    strain: Annotated[
        str | None, Option(metavar="STRAINS", help="all, hydrostatic, or some of xx,yy,zz,yz,xz,xy. [default: all]")
    ] = None,
    fix_axes: FixAxes = None,
    pressure: Pressure = None,
    model: Model = "sevennet-0",
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
    modality: Modality = None,
) -> None:
    """What a file contains, and the order of its weights."""
    from alchemjax.commands.info import run

    run(file, mix, groups, model, modality)


@app.command()
@_plainly
def models(json: Annotated[bool, Option("--json", help="For programs.")] = False) -> None:
    """The potentials that are here, and where to get others."""
    from alchemjax.commands.models import run_models

    run_models(as_json=json)


@app.command()
@_plainly
def convert(
    family: Annotated[str, Argument(help="Kind of the checkpoint: sevennet, nequix.")],
    path: Annotated[Path, Argument(help="Checkpoint (.pth, .nqx), wheel or folder.")],
    out: Annotated[
        Path | None, Option("--out", "-o", help="Folder to write. [default: where --model finds models by name]")
    ] = None,
    model: Annotated[str | None, Option(help="Which one of several in a wheel or folder. [default: all]")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a foreign checkpoint, without running anything from it."""
    from alchemjax.commands.models import run_convert

    run_convert(family, path, out, model, overwrite=overwrite)


# typer's base class of these errors, wherever it comes from: click, or typer's own copy of it
UnreadableCommand = typer.BadParameter.__mro__[2]


def main() -> None:
    """Entry point."""
    # XLA reports an error, wrongly, whenever compiled code comes from the cache; it looks here when jax is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        status = app(standalone_mode=False)
    except UnreadableCommand as error:
        print(f"alchemjax: {' '.join(error.format_message().split())} (see --help)", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
