"""Texts of the command line to arguments of the library. Errors: ValueError saying what is allowed."""

import numpy as np

from alchemjax.system.sites import Sites, weight_names
from alchemjax.system.system import System
from alchemjax.tasks.relax import check_limit
from alchemjax.units import EV_PER_A3_IN_GPA

STRAINS = ("xx", "yy", "zz", "yz", "xz", "xy")
AXES = ("a", "b", "c")


def parse_mix(entries: list[str] | None) -> dict[str, tuple[str, ...]] | None:
    """`--mix Ce=Ce,Zr` to {"Ce": ("Ce", "Zr")}."""
    mix: dict[str, tuple[str, ...]] = {}
    for entry in entries or ():
        selector, equals, species = entry.partition("=")
        selector, symbols = selector.strip(), tuple(s.strip() for s in species.split(","))
        if not equals or not selector or not all(s.isalpha() for s in symbols):
            raise ValueError(
                f"--mix '{entry}' is not understood; give SITES=SPECIES,SPECIES like Ce=Ce,Zr, where SITES is an "
                "element, site numbers like 0,1 or tag:3"
            )
        if len(set(symbols)) != len(symbols):
            raise ValueError(f"--mix '{entry}' lists a species twice; list every species once")
        if selector in mix:
            raise ValueError(f"--mix selects '{selector}' twice; give all its species in one --mix")
        mix[selector] = symbols
    return mix or None


def parse_cell(text: str | None) -> bool | str | tuple[bool, ...]:
    """`--strain all|hydrostatic|xx,yy,...` to what `make_freedom` takes."""
    if text in (None, "all", "hydrostatic"):
        return "hydrostatic" if text == "hydrostatic" else True
    chosen = text.split(",")
    if any(name not in STRAINS for name in chosen):
        raise ValueError(f"--strain '{text}' is not understood; give all, hydrostatic or some of {','.join(STRAINS)}")
    return tuple(name in chosen for name in STRAINS)


def parse_axes(text: str | None) -> tuple[int, ...]:
    """`--fix-axes a,b` to (0, 1)."""
    names = text.split(",") if text else []
    if any(name not in AXES for name in names):
        raise ValueError(f"--fix-axes '{text}' is not understood; give some of a,b,c")
    return tuple(sorted({AXES.index(name) for name in names}))


def parse_supercell(text: str | None):
    """`--supercell 12`, `3,3,3` or nine whole numbers to what `calculate` takes."""
    if text is None:
        return None
    try:
        numbers = [float(text)] if "," not in text else [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3, 9):
        raise ValueError(
            f"--supercell '{text}' is not understood; give a distance in A like 12, or three or nine whole numbers "
            "like 3,3,3"
        )
    return numbers[0] if len(numbers) == 1 else np.array(numbers).reshape(-1, 3).squeeze()


def parse_weights(sites: Sites, text: str | None, option: str = "--weights") -> list[float] | None:
    """`--weights 0.5,0.5` or `Ce=0.5,Zr=0.5` to a flat list; `Ce:Zr=0.5` where several groups hold the species."""
    if text is None:
        return None
    names, given = weight_names(sites), {}
    entries = [entry.strip().rpartition("=") for entry in text.split(",")]
    if len({equals for _, equals, _ in entries}) > 1:
        raise ValueError(f"{option} '{text}' mixes named and unnamed weights; name all of them or none")
    try:
        numbers = [float(number) for _, _, number in entries]
    except ValueError:
        raise ValueError(
            f"{option} '{text}' is not understood; give numbers like 0.5,0.5 or names like Ce=0.5,Zr=0.5"
        ) from None
    if "=" not in text:
        return numbers
    for (name, _, _), number in zip(entries, numbers, strict=True):
        meant = [full for full in names if name.strip() in (full, full.rpartition(":")[2])]
        if len(meant) != 1:
            what = "is not one of" if not meant else "could be several of"
            raise ValueError(f"{option}: '{name.strip()}' {what} {', '.join(names) or '(no site is mixed)'}")
        if meant[0] in given:
            raise ValueError(f"{option} '{text}' names {meant[0]} twice; name every weight once")
        given[meant[0]] = number
    if missing := [name for name in names if name not in given]:
        raise ValueError(
            f"{option} '{text}' leaves out {', '.join(missing)}; name every species (what is missing to 1 is vacancy)"
        )
    return [given[name] for name in names]


def check_relaxation(arguments: dict, *, cell: bool, positions: bool) -> None:
    """Errors: ValueError for options of a relaxation that does not take place, and for numbers out of range."""
    for name in ("pressure", "strain", "fix_axes", "stress_tolerance"):
        if arguments[name] is not None and not cell:
            raise ValueError(f"--{_option(name)} has no effect unless the cell is relaxed; leave it out")
    for name in ("force_tolerance", "max_steps"):
        if arguments[name] is not None and not (positions or cell):
            raise ValueError(f"--{_option(name)} has no effect without a relaxation; leave it out")
    if arguments["supercell"] is not None and arguments["fluctuations"] == "none":
        raise ValueError("--supercell has no effect without --fluctuations site-exact or site; leave it out")
    units = {"pressure": "GPa", "force_tolerance": "eV/A", "stress_tolerance": "GPa", "max_steps": "", "batch": ""}
    for name, unit in units.items():
        if arguments.get(name) is not None:
            check_limit(name, arguments[name], f"--{_option(name)} {arguments[name]:g} {unit}".rstrip())


def _option(name: str) -> str:
    return name.replace("_", "-")


def check_periodic(system: System, file, instead: str) -> None:
    """Errors: ValueError for a cell relaxation of a molecule; `instead` is the option that helps."""
    if not system.structure.pbc.any():
        raise ValueError(f"'{file}' is not periodic in any direction, it has no cell to relax; give {instead}")


def check_mixed(system: System, arguments: dict) -> None:
    """Errors: ValueError for fluctuations of a system without mixed sites."""
    if arguments["fluctuations"] != "none" and not system.sites.groups:
        raise ValueError(
            f"--fluctuations {arguments['fluctuations']} has no effect: no site is mixed; give --mix or leave it out"
        )


def parse_charges(entries: list[str] | None) -> dict[str, float] | None:
    """`--charges Li=1,O=-2` to {"Li": 1.0, "O": -2.0}."""
    charges: dict[str, float] = {}
    for entry in (part for text in entries or () for part in text.split(",")):
        name, _, number = entry.partition("=")
        try:
            charges[name.strip()] = float(number)
        except ValueError:
            raise ValueError(f"--charges '{entry}' is not understood; give oxidation states like Li=1,O=-2") from None
    return charges or None


def relaxation_options(arguments: dict) -> dict:
    """What `relax` and `make_plan` take, in their units; without what was not given."""
    in_gpa = {name: arguments[name] for name in ("pressure", "stress_tolerance")}
    options = {
        "cell": parse_cell(arguments["strain"]),
        "fixed_axes": parse_axes(arguments["fix_axes"]),
        "force_tolerance": arguments["force_tolerance"],
        "max_steps": arguments["max_steps"],
        "fluctuations": str(arguments["fluctuations"]),
        "supercell": parse_supercell(arguments["supercell"]),
    } | {name: value if value is None else value / EV_PER_A3_IN_GPA for name, value in in_gpa.items()}
    return {name: value for name, value in options.items() if value is not None}
