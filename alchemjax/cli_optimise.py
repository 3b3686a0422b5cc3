"""The command `optimise`: names, types and help; the work is in `alchemjax.commands.optimise`."""

from pathlib import Path
from typing import Annotated

from typer import Option

from alchemjax.cli_options import (
    FLOAT,
    OUT,
    WHOLE,
    Alpha,
    Coupling,
    CouplingOption,
    Dtype,
    File,
    FixAxes,
    Fluctuations,
    FluctuationsOption,
    ForceTolerance,
    Groups,
    GroupsOption,
    Head,
    MaxSteps,
    Mix,
    Modality,
    Model,
    Optimiser,
    Overwrite,
    Precision,
    Pressure,
    Relax,
    Strain,
    StressTolerance,
    Supercell,
)


def optimise(
    file: File,
    out: Annotated[Path, Option("--out", "-o", **OUT, help="Folder for the optimum, its path and the report.")],
    mix: Mix = None,
    groups: GroupsOption = Groups.shared,
    weights: Annotated[
        str | None,
        Option(
            metavar="WEIGHTS",
            help="Where the first search starts, and the sums that groups keep: 0.5,0.5 or Ce=0.5,Zr=0.5. [default: "
            "the occupancies of the file]",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        Option(
            metavar="TARGET",
            help="What is wanted of a property: a=5.45, 'bulk_modulus>=150', energy=min; again for more. Properties: "
            "a b c [A], alpha beta gamma [degree], volume [A^3], density [g/cm^3], energy mixing_energy [eV per site], "
            "pressure stress_xx..stress_xy bulk_modulus shear_modulus youngs_modulus c11..c66 [GPa], poisson_ratio.",
        ),
    ] = None,
    match: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="A crystal whose lattice is to be matched; it is relaxed first, with the same potential.",
        ),
    ] = None,
    plane: Annotated[
        str, Option(metavar="PLANE", help="Which lattice vectors of --match: ab, ac, bc, a, b, c or all.")
    ] = "ab",
    match_as_given: Annotated[bool, Option("--match-as-given", help="Do not relax the crystal of --match.")] = False,
    condition: Annotated[
        list[str] | None,
        Option(
            metavar="CONDITION",
            help="On fractions of the sites: 'K <= 0.3', 'Na = 0.5', '2*Mg + 3*Al = 2.2', 'vacancy <= 0.1'; again for "
            "more.",
        ),
    ] = None,
    charges: Annotated[
        list[str] | None,
        Option(metavar="Li=1,O=-2,..", help="Oxidation states of all species, for compositions without charge."),
    ] = None,
    starts: Annotated[
        int, Option(**WHOLE, help="Searches side by side: from the weights, and from random compositions.")
    ] = 4,
    optimiser: Annotated[
        Optimiser, Option(help="projected gradient, or mirror descent (exponentiated gradient), with a line search.")
    ] = Optimiser.projected,
    evaluations: Annotated[int, Option(**WHOLE, help="Of every start, at most; with more the search goes on.")] = 60,
    tolerance: Annotated[
        float, Option(**FLOAT, help="A search ends when no weight would change by this much in its next step.")
    ] = 1e-4,
    properties: Annotated[
        str | None, Option(metavar="NAME,NAME,..", help="Other properties that are wanted in the table and the files.")
    ] = None,
    check: Annotated[
        int | None,
        Option(
            **WHOLE,
            help="Explicit supercells of the optimum to relax and compare with; 0 for none. "
            "By default 2 for crystals with the coupling 'independent'.",
        ),
    ] = None,
    sqs: Annotated[
        bool, Option("--sqs", help="Compare with special quasirandom structures (needs sqsgenerator).")
    ] = False,
    seed: Annotated[int, Option(**WHOLE, help="Seed of starts and supercells.")] = 0,
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
    plot: Annotated[bool, Option("--plot/--no-plot", help="Draw optimise.png.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """The composition whose material has wanted properties.

    Searches descend along exact gradients of the relaxed material, several at once. Run again, an interrupted one goes
    on. The first evaluation takes minutes, because programs are compiled; they are kept for the next time.
    """
    arguments = dict(locals())
    from alchemjax.commands.optimise import run

    run(arguments)
