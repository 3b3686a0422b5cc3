"""Names, types and help of the options that commands of the command line share."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


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


class Fluctuations(StrEnum):
    """Which energy a mixture has."""

    none = "none"
    site = "site"
    site_exact = "site-exact"


class Groups(StrEnum):
    """Which sites share their weights."""

    shared = "shared"
    site = "site"


class Thermostat(StrEnum):
    """What keeps the temperature."""

    langevin = "langevin"
    nose_hoover = "nose-hoover"
    csvr = "csvr"
    none = "none"


class Optimiser(StrEnum):
    """How a composition descends."""

    projected = "projected"
    mirror = "mirror"


class Dtype(StrEnum):
    """Precision."""

    float32 = "float32"
    float64 = "float64"


def _number(kind: type) -> Callable:
    """How an option of the command line becomes a number."""

    def parse(text: str | float):  # a default is a number already
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
FluctuationsOption = Annotated[
    Fluctuations,
    Option(
        help="Which energy. none: that of the mean composition (mean field); site-exact: that of a random alloy, every "
        "species in turn on each mixed site; site: the same to second order."
    ),
]
OwnFluctuations = Annotated[
    Fluctuations,
    Option(
        help="Which energy. none: that of the mean composition (mean field); site-exact or site: that of a random "
        "alloy, whose sites fluctuate one at a time in the cell of the file; each costs one evaluation a species."
    ),
]
Supercell = Annotated[
    str | None,
    Option(
        metavar="SIZE",
        help="Where sites fluctuate: the smallest supercell with images this far apart [A], or 3,3,3, or nine whole "
        "numbers. [default: twice the cutoff]",
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
CellPressure = Annotated[float | None, Option(**FLOAT, help="Pressure [GPa] on a moving cell. [default: 0]")]
BarostatTime = Annotated[float | None, Option(**FLOAT, help="Relaxation time of a moving cell [fs]. [default: 1000]")]
BulkModulus = Annotated[
    float | None,
    Option(**FLOAT, help="Of the right order [GPa]; it sets the time scale of a moving cell only. [default: 96]"),
]
Timestep = Annotated[float, Option(**FLOAT, help="Time step [fs].")]
Seed = Annotated[int, Option(**WHOLE, help="Seed of velocities, thermostat and barostat.")]
LogEvery = Annotated[int, Option(**WHOLE, help="Steps from line to line of log.csv.")]
CheckpointEvery = Annotated[
    int | None, Option(**WHOLE, help="Steps that are lost at most when the run is killed. [default: about 100]")
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
Weights = Annotated[
    str | None,
    Option(
        metavar="WEIGHTS",
        help="0.5,0.5 or Ce=0.5,Zr=0.5, every species named; what is missing to 1 is vacancy. "
        "[default: the occupancies of the file]",
    ),
]
Fraction = Annotated[
    float | None, Option("-x", **FLOAT, help="Fraction of the second species, where there is one group of two.")
]
Rigid = Annotated[bool, Option("--rigid", help="Keep atoms on their sites: no static displacements.")]
ExactPairs = Annotated[
    bool,
    Option(
        "--exact-pairs/--no-exact-pairs",
        help="Two sites at a time to all orders, and how strain changes them; else second derivatives alone.",
    ),
]
Box = Annotated[str | None, Option(metavar="N,N,N", help="Cells in Monte Carlo. [default: 200 to 500 mixed sites]")]
Temperatures = Annotated[
    str | None,
    Option(
        metavar="K,K,..",
        help="Of Monte Carlo: 300,600,900, or first, last and number like 300:900:7. [default: 12 about the one at "
        "which the ordered arrangement disorders]",
    ),
]
