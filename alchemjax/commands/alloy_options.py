"""What may be asked of `alchemjax alloy`."""

import numpy as np

from alchemjax.commands.options import parse_weights
from alchemjax.system.system import System

LARGEST_BOX = 4e7  # numbers of every kind of table of interactions


def given_weights(system: System, arguments: dict):
    """What -x or --weights say, or None. Errors: ValueError for both, and for an -x that does not fit."""
    if arguments["x"] is None:
        return parse_weights(system.sites, arguments["weights"])
    if arguments["weights"] is not None:
        raise ValueError("-x and --weights were both given; give one of them")
    if not 0 < arguments["x"] < 1:
        raise ValueError(f"-x {arguments['x']:g} leaves nothing mixed; give a number between 0 and 1")
    if [len(group.species) for group in system.sites.groups] != [2]:
        raise ValueError(f"-x {arguments['x']:g} is for one group of two species; give --weights")
    return [1 - arguments["x"], arguments["x"]]


def parse_temperatures(text: str | None):
    """`300,600` or `300:900:7` to K; None for a choice of ours."""
    if text is None:
        return None
    try:
        if ":" in text:
            first, last, number = text.split(":")
            values = np.linspace(float(first), float(last), int(number))
        else:
            values = np.array([float(part) for part in text.split(",")])
        if len(values) and np.isfinite(values).all() and (values > 0).all() and (np.diff(values) > 0).all():
            return values
    except ValueError:
        pass
    raise ValueError(
        f"--temperatures '{text}' is not understood; give increasing temperatures in K like 300,600,900, or first, "
        "last and number like 300:900:7"
    )


def parse_box(text: str) -> tuple[int, ...]:
    """`8,8,8` to numbers of cells."""
    parts = text.split(",")
    if len(parts) == 3 and all(part.isdecimal() and int(part) > 0 for part in parts):
        return tuple(int(part) for part in parts)
    raise ValueError(f"--box '{text}' is not understood; give three positive whole numbers of cells like 8,8,8")


def check_numbers(arguments: dict) -> None:
    """Errors: ValueError for whole numbers out of range."""
    for name, least in (("sweeps", 8), ("seeds", 1), ("seed", 0), ("validate", 0)):
        if arguments[name] < least:
            raise ValueError(f"--{name} {arguments[name]} must be a whole number, at least {least}")


def check_size(system: System, box, shown: str) -> None:
    """Errors: ValueError for a box whose interactions would fill the memory."""
    mixed = sum(len(group.sites) for group in system.sites.groups)
    states = 1 + len({species for group in system.sites.groups for species in group.species})
    most = int(LARGEST_BOX / (mixed * states) ** 2)
    if (cells := int(np.prod(box, dtype=object))) > most:
        raise ValueError(f"--box {shown} are {cells} cells, and memory holds the interactions of {most}; give fewer")
