"""The commands of free energies: names, types and help; the work is in `alchemjax.commands`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from alchemjax.cli_options import (
    FLOAT,
    OUT,
    WHOLE,
    BarostatTime,
    BulkModulus,
    CellPressure,
    CheckpointEvery,
    Coupling,
    CouplingOption,
    Dtype,
    File,
    FixAxes,
    Fluctuations,
    Groups,
    GroupsOption,
    Head,
    LogEvery,
    Mix,
    Modality,
    Model,
    Overwrite,
    OwnFluctuations,
    Precision,
    Seed,
    Timestep,
    Weights,
)


class Springs(StrEnum):
    """Where springs of Einstein crystals come from."""

    motion = "motion"
    hessian = "hessian"


class Schedule(StrEnum):
    """How lambda goes with time."""

    polynomial = "polynomial"
    linear = "linear"


class Rule(StrEnum):
    """Where windows are."""

    gauss_legendre = "gauss-legendre"
    trapezoid = "trapezoid"


class Route(StrEnum):
    """How a vacancy is made."""

    alchemical = "alchemical"
    absolute = "absolute"


Out = Annotated[Path, Option("--out", "-o", **OUT, help="Folder for results, logs and checkpoints.")]
Temperature = Annotated[float, Option(**FLOAT, help="Temperature [K].")]
Equilibration = Annotated[float, Option(**FLOAT, help="Before every switch and before sampling [fs].")]
Switching = Annotated[float, Option(**FLOAT, help="Of one switch [fs].")]
ScheduleOption = Annotated[
    Schedule, Option(help="How lambda goes with time: polynomial (slow at both ends), or linear.")
]
Replicas = Annotated[int, Option(**WHOLE, help="Independent switches at once, each forward and back.")]
FramesEvery = Annotated[int, Option(**WHOLE, help="Steps from frame to frame of the trajectory, 0 for none.")]
DryRun = Annotated[bool, Option("--dry-run", help="Say what would be done and how long it takes; write nothing.")]
Plot = Annotated[bool, Option("--plot/--no-plot", help="Draw figures (switch.png, windows.png, stability.png).")]
MovingCell = Annotated[
    str | None,
    Option(
        metavar="STRAINS",
        help="Let the cell move (Gibbs energies): hydrostatic, all, or some of xx,yy,zz,yz,xz,xy. [default: it stays]",
    ),
]
Stiffness = Annotated[
    float | None,
    Option(**FLOAT, help="Of the springs [eV/A^2]. [default: 3 kT / <u^2> of every site, measured before]"),
]
Measuring = Annotated[
    float, Option(**FLOAT, help="Time [fs] over which <u^2> is measured, after as much equilibration.")
]
SpringsOption = Annotated[
    Springs,
    Option(help="Springs of equivalent sites from 3 kT / <u^2>: measured in a run (motion), or harmonic (hessian)."),
]


def switch(
    file: File,
    out: Out,
    temperature: Temperature,
    start: Annotated[
        str,
        Option("--from", metavar="WEIGHTS", help="Composition at lambda = 0: 1,0 or Na=1,K=0, every species named."),
    ],
    end: Annotated[str, Option("--to", metavar="WEIGHTS", help="Composition at lambda = 1.")],
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    equilibration: Equilibration = 2000.0,
    switching: Switching = 10000.0,
    schedule: Annotated[
        Schedule | None,
        Option(help="How lambda goes with time: polynomial (slow at both ends), or linear. [default: polynomial]"),
    ] = None,
    replicas: Annotated[
        int | None, Option(**WHOLE, help="Independent switches at once, each forward and back. [default: 8]")
    ] = None,
    windows: Annotated[
        int | None,
        Option(
            **WHOLE,
            help="Do not switch: so many windows in equilibrium, each for as long as --switching (MBAR, "
            "thermodynamic integration).",
        ),
    ] = None,
    rule: Annotated[
        Rule | None, Option(help="Where windows are: gauss-legendre, or trapezoid. [default: gauss-legendre]")
    ] = None,
    timestep: Timestep = 1.0,
    strain: MovingCell = None,
    pressure: CellPressure = None,
    barostat_time: BarostatTime = None,
    bulk_modulus: BulkModulus = None,
    fix_axes: FixAxes = None,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
    coupling: CouplingOption = Coupling.independent,
    fluctuations: OwnFluctuations = Fluctuations.none,
    dtype: Precision = Dtype.float32,
    seed: Seed = 0,
    log_every: LogEvery = 10,
    frames_every: FramesEvery = 0,
    checkpoint_every: CheckpointEvery = None,
    plot: Plot = True,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Free energy between two compositions.

    Molecular dynamics switches from one composition to the other and back, in several replicas at once; works of both
    directions give the difference (Bennett's ratio, and others beside it) with an error and with every reason to doubt
    it. With --windows, runs in equilibrium at several compositions in between do. What momenta and random mixing add
    is reported apart. Killed at any moment, a run continues with the same command.
    """
    arguments = dict(locals())
    from alchemjax.commands.switch import run

    run(arguments)


def frenkel_ladd(
    file: File,
    out: Out,
    temperature: Temperature,
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Weights = None,
    stiffness: Stiffness = None,
    springs: SpringsOption = Springs.motion,
    measuring: Measuring = 2000.0,
    equilibration: Equilibration = 2000.0,
    switching: Switching = 10000.0,
    schedule: ScheduleOption = Schedule.polynomial,
    replicas: Replicas = 8,
    timestep: Timestep = 1.0,
    quantum: Annotated[bool, Option("--quantum/--no-quantum", help="Harmonic quantum correction (mean field).")] = True,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
    coupling: CouplingOption = Coupling.independent,
    fluctuations: OwnFluctuations = Fluctuations.none,
    dtype: Precision = Dtype.float32,
    seed: Seed = 0,
    log_every: LogEvery = 10,
    frames_every: FramesEvery = 0,
    checkpoint_every: CheckpointEvery = None,
    plot: Plot = True,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Absolute free energy of a crystal in the cell of the file.

    The crystal is switched to springs about a free centre and back (Frenkel and Ladd); all terms of the Einstein
    crystal are exact. Give the cell that the crystal has at this temperature. The free energy is classical; a harmonic
    quantum correction is reported apart.
    """
    arguments = dict(locals())
    from alchemjax.commands.frenkel_ladd import run

    run(arguments)


def vacancy(
    file: File,
    out: Out,
    temperature: Temperature,
    site: Annotated[int, Option(**WHOLE, help="The site that becomes empty, counted from 0 (see alchemjax info).")],
    chemical_potential: Annotated[
        float | None,
        Option(
            **FLOAT,
            help="Of the species [eV], on the scale of the potential's energies and with momenta, as absolute free "
            "energies (frenkel-ladd) have them; needed where the crystal has several species. [default: that of the "
            "crystal]",
        ),
    ] = None,
    route: Annotated[
        Route,
        Option(
            help="alchemical: the atom disappears while a spring ties its place to the others; absolute: two absolute "
            "free energies."
        ),
    ] = Route.alchemical,
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Weights = None,
    stiffness: Annotated[
        float | None,
        Option(**FLOAT, help="Of the spring of the site [eV/A^2]. [default: 3 kT / <u^2>, measured before]"),
    ] = None,
    springs: SpringsOption = Springs.motion,
    measuring: Measuring = 2000.0,
    equilibration: Equilibration = 2000.0,
    switching: Switching = 10000.0,
    schedule: ScheduleOption = Schedule.polynomial,
    replicas: Replicas = 8,
    timestep: Timestep = 1.0,
    strain: MovingCell = None,
    pressure: CellPressure = None,
    barostat_time: BarostatTime = None,
    bulk_modulus: BulkModulus = None,
    fix_axes: FixAxes = None,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
    coupling: CouplingOption = Coupling.independent,
    dtype: Precision = Dtype.float32,
    seed: Seed = 0,
    log_every: LogEvery = 10,
    frames_every: FramesEvery = 0,
    checkpoint_every: CheckpointEvery = None,
    plot: Plot = True,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Free energy of formation of a vacancy on one site.

    Give a supercell: its images of the vacancy must be far apart. By default in the cell of the file (Helmholtz);
    with --strain the vacancy forms at a pressure (Gibbs), and the file should have the mean cell at this temperature.
    The entropy of where the vacancy is does not belong to it.
    """
    arguments = dict(locals())
    from alchemjax.commands.vacancy import run

    run(arguments)


def stability(
    file: File,
    other: Annotated[Path, Argument(help="The other phase, of the same composition.")],
    out: Out,
    temperatures: Annotated[
        str, Option(metavar="K,K,..", help="Of the runs: 300,600,900, or first, last and number like 300:900:7.")
    ],
    reference: Annotated[
        float | None, Option(**FLOAT, help="Temperature of the absolute free energies [K]. [default: the middle one]")
    ] = None,
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Weights = None,
    start: Annotated[
        str | None,
        Option("--from", metavar="WEIGHTS", help="Composition of the absolute free energies, with --to."),
    ] = None,
    end: Annotated[
        str | None, Option("--to", metavar="WEIGHTS", help="Composition of the curves, reached by switching.")
    ] = None,
    heating: Annotated[float, Option(**FLOAT, help="Sampling at every temperature [fs].")] = 8000.0,
    springs: SpringsOption = Springs.motion,
    measuring: Measuring = 2000.0,
    equilibration: Equilibration = 2000.0,
    switching: Switching = 10000.0,
    schedule: ScheduleOption = Schedule.polynomial,
    replicas: Replicas = 8,
    timestep: Timestep = 1.0,
    strain: Annotated[
        str, Option(metavar="STRAINS", help="How cells move: hydrostatic, all, or some of xx,yy,zz,yz,xz,xy.")
    ] = "all",
    pressure: CellPressure = None,
    barostat_time: BarostatTime = None,
    bulk_modulus: BulkModulus = None,
    fix_axes: FixAxes = None,
    model: Model = "sevennet-0",
    head: Head = None,
    modality: Modality = None,
    coupling: CouplingOption = Coupling.independent,
    dtype: Precision = Dtype.float32,
    seed: Seed = 0,
    log_every: LogEvery = 10,
    frames_every: FramesEvery = 0,
    checkpoint_every: CheckpointEvery = None,
    plot: Plot = True,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Which of two phases is stable at what temperature.

    Each phase is run at all temperatures at once; its absolute free energy in the mean cell at one of them (Frenkel and
    Ladd) and the enthalpies (Gibbs and Helmholtz) give its curve, per formula unit; where curves cross is the
    transition. With --from and --to the curves are those of the second composition. Energies are classical, and of the
    mean field; the entropy of mixing of sites that are mixed is added, and told apart.
    """
    arguments = dict(locals())
    from alchemjax.commands.stability import run

    run(arguments)


def analyse(
    folder: Annotated[Path, Argument(help="Folder of a finished switch, or of windows.")],
    plot: Plot = True,
) -> None:
    """Estimate a free energy again, from its log.

    For a folder of frenkel-ladd, name the folder `switch` in it, for others the one of a stage; what they sum up is
    estimated again when the same command is given again: finished stages are not run a second time.
    """
    from alchemjax.commands.switch import run_analyse

    run_analyse(folder, plot=plot)
