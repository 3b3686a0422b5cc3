"""The command line: names, types and help; the work is in `alchemjax.commands`, imported when a command runs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from alchemjax.cli_errors import plainly
from alchemjax.cli_free_energy import analyse, frenkel_ladd, stability, switch, vacancy
from alchemjax.cli_optimise import optimise
from alchemjax.cli_options import (
    FLOAT,
    OUT,
    WHOLE,
    Alpha,
    BarostatTime,
    Box,
    BulkModulus,
    CellPressure,
    CheckpointEvery,
    Coupling,
    CouplingOption,
    Dtype,
    ExactPairs,
    File,
    FixAxes,
    Fluctuations,
    FluctuationsOption,
    ForceTolerance,
    Fraction,
    Groups,
    GroupsOption,
    Head,
    LogEvery,
    MaxSteps,
    Mix,
    Modality,
    Model,
    Overwrite,
    OwnFluctuations,
    Precision,
    Pressure,
    Relax,
    Rigid,
    Seed,
    Strain,
    StressTolerance,
    Supercell,
    Temperatures,
    Thermostat,
    Timestep,
    Weights,
)

app = typer.Typer(
    name="alchemjax",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Alchemical interatomic potentials: materials whose composition is a continuous variable.",
)


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
@plainly
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
    fluctuations: FluctuationsOption = Fluctuations.none,
    supercell: Supercell = None,
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
@plainly
def relax(
    file: File,
    out: Annotated[
        Path, Option("--out", "-o", **OUT, help="Relaxed structure (.extxyz, .xyz, .cif); a .json goes beside it.")
    ],
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Weights = None,
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
    fluctuations: FluctuationsOption = Fluctuations.none,
    supercell: Supercell = None,
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
@plainly
def md(
    file: File,
    out: Annotated[Path, Option("--out", "-o", **OUT, help="Folder for log, trajectory, checkpoint, report and plot.")],
    steps: Annotated[int, Option(**WHOLE, help="How many time steps.")],
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Weights = None,
    timestep: Timestep = 1.0,
    temperature: Annotated[float | None, Option(**FLOAT, help="Temperature [K]. [default: 300]")] = None,
    thermostat: Annotated[
        Thermostat,
        Option(help="langevin (BAOAB), nose-hoover (chains), csvr (stochastic velocity rescaling) or none (NVE)."),
    ] = Thermostat.langevin,
    thermostat_time: Annotated[float | None, Option(**FLOAT, help="Its relaxation time [fs]. [default: 100]")] = None,
    strain: Annotated[
        str | None,
        Option(
            metavar="STRAINS",
            help="Let the cell move (NPT, stochastic cell rescaling): hydrostatic, all, or some of xx,yy,zz,yz,xz,xy. "
            "[default: it stays]",
        ),
    ] = None,
    pressure: CellPressure = None,
    barostat_time: BarostatTime = None,
    bulk_modulus: BulkModulus = None,
    fix_axes: FixAxes = None,
    schedule: Annotated[
        Path | None,
        Option(
            metavar="CSV",
            help="What changes along the run: columns time_fs and some of temperature_K, pressure_GPa, alpha and "
            "group:species (all weights or none); linear in between, a repeated time is a jump, an empty cell says "
            "nothing.",
        ),
    ] = None,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
    coupling: CouplingOption = Coupling.independent,
    alpha: Alpha = None,
    fluctuations: OwnFluctuations = Fluctuations.none,
    dtype: Precision = Dtype.float32,
    seed: Seed = 0,
    replicas: Annotated[
        int | None, Option(**WHOLE, help="Runs at once that differ in their seeds, the first has SEED. [default: 1]")
    ] = None,
    log_every: LogEvery = 10,
    frames_every: Annotated[
        int | None,
        Option(**WHOLE, help="Steps from frame to frame of the trajectory, 0 for none. [default: 10 lines of the log]"),
    ] = None,
    checkpoint_every: CheckpointEvery = None,
    plot: Annotated[bool, Option("--plot/--no-plot", help="Draw md.png.")] = True,
    resume: Annotated[
        bool, Option("--resume", help="Continue the run in this folder, also a finished one to more --steps.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Molecular dynamics, also along a path of compositions.

    Killed at any moment, a run continues when the same command is given again, and its log is that of a run which was
    never stopped. Masses are the means of the species on a site; momenta are kept where a composition moves.
    """
    arguments = dict(locals())
    from alchemjax.commands.md import run

    run(arguments)


@app.command()
@plainly
def alloy(
    file: File,
    out: Annotated[Path, Option("--out", "-o", **OUT, help="Folder for tables, plot, report and Hamiltonian.")],
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Weights = None,
    x: Fraction = None,
    temperatures: Temperatures = None,
    relax: Annotated[
        bool, Option("--relax/--no-relax", help="Relax cell and positions of the random alloy before.")
    ] = True,
    rigid: Rigid = False,
    exact_pairs: ExactPairs = True,
    supercell: Supercell = None,
    box: Box = None,
    sweeps: Annotated[int, Option(**WHOLE, help="Of Monte Carlo, at every temperature; a quarter more before.")] = 500,
    seeds: Annotated[
        int, Option(**WHOLE, help="Monte Carlo runs from random arrangements, and as many from the ordered one.")
    ] = 2,
    seed: Annotated[int, Option(**WHOLE, help="Seed of Monte Carlo and of random arrangements.")] = 0,
    validate: Annotated[
        int,
        Option(
            **WHOLE,
            help="Random arrangements to compare with, the ground state, another order if Monte Carlo finds one, and a "
            "special quasirandom structure if sqsgenerator is there; 0 for none.",
        ),
    ] = 4,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
    dtype: Precision = Dtype.float32,
    plot: Annotated[bool, Option("--plot/--no-plot", help="Draw alloy.png.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Order, disorder and displacements at one composition.

    From derivatives of the energy and pairs of sites in the mean of the alloy: random alloy with static displacements,
    pair interactions, short-range order, heat capacity, order-disorder transition and ground state, and a comparison
    with explicit arrangements that says how far to trust them. Monte Carlo starts from random arrangements and from the
    ordered one: where a transition is of first order, free energies of both decide. Killed at any moment, a run goes on
    when the same command is given again; derivatives and pairs that are finished are taken from the folder.
    """
    arguments = dict(locals())
    from alchemjax.commands.alloy import run

    run(arguments)


app.command()(plainly(optimise))
app.command()(plainly(switch))
app.command("frenkel-ladd")(plainly(frenkel_ladd))
app.command()(plainly(vacancy))
app.command()(plainly(stability))
app.command()(plainly(analyse))


@app.command()
@plainly
def info(
    file: File,
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Weights = None,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
    convergence: Annotated[
        bool,
        Option(
            "--convergence",
            help="Calculate the energy of the random alloy (--fluctuations site-exact) at these weights in larger and "
            "larger supercells.",
        ),
    ] = False,
) -> None:
    """What a file contains, and the order of its weights."""
    arguments = dict(locals())
    from alchemjax.commands.info import run

    run(arguments)


@app.command()
@plainly
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
@plainly
def convert(
    family: Annotated[str, Argument(help="Kind of the checkpoint: sevennet, nequix or mace.")],
    path: Annotated[Path, Argument(help="Checkpoint (.pth, .nqx, .model), wheel or folder.")],
    out: Annotated[
        Path | None, Option("--out", "-o", **OUT, help="Folder to write. [default: where --model finds models by name]")
    ] = None,
    model: Annotated[str | None, Option(help="Which one of several in a wheel or folder. [default: all]")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a foreign checkpoint, running nothing from it.

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
        said = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
        print(f"alchemjax: {said} (see --help)", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
