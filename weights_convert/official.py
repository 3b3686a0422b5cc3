"""The official files (official.toml) and the licences that stay beside what is converted from them."""

import tomllib
from pathlib import Path
from typing import NamedTuple

WHEEL = "sevenn-0.13.0-py3-none-any.whl"
SUFFIXES = {".pth": "sevennet", ".whl": "sevennet", ".nqx": "nequix", ".model": "mace"}  # to families


class Official(NamedTuple):
    """One official file; the comments in official.toml say where each entry comes from."""

    name: str
    family: str
    training: str  # data sets
    url: str
    status: str  # tested, untried or refused
    functional: str | None = None
    licence: str | None = None
    sha256: str | None = None
    f1: float | None = None  # of predicting stability: 1 is perfect
    kappa: float | None = None  # error of thermal conductivities (SRME): 0 is perfect, 2 the worst
    note: str | None = None


def _read() -> tuple[Official, ...]:
    rows = tomllib.loads(Path(__file__).with_name("official.toml").read_text("utf-8"))["model"]
    return tuple(Official(**row) for row in rows)


OFFICIAL = _read()


def known_sums(family: str) -> dict[str, str]:
    """SHA-256 of every official file of a family that is recognised, by name."""
    return {one.name: one.sha256 for one in OFFICIAL if one.family == family and one.sha256}


def find_official(name: str | None) -> Official | None:
    """The official file of this name."""
    return next((one for one in OFFICIAL if one.name == name), None)


def licence_of(name: str | None) -> str | None:
    """Short name of the licence of an official file."""
    return one.licence if (one := find_official(name)) else None


def licence_text(name: str | None) -> str | None:
    """What must stay beside converted weights, for the name under which their file was recognised."""
    one = find_official(name)
    if one is None or one.licence is None:
        return None
    text = Path(__file__).with_name("licences") / f"{one.family}-{one.licence}.txt"
    return text.read_text("ascii").replace("{name}", one.name).replace("{url}", one.url)


def commands(one: Official) -> list[str]:
    """What to type to get and to convert an official file; nothing for one that is refused."""
    if one.status == "refused":
        return []
    if one.family == "sevennet" and one.sha256:  # its wheel holds them
        return ["pip download --no-deps sevenn==0.13.0", f"alchemjax convert sevennet {WHEEL}"]
    file = one.name + next(suffix for suffix, family in SUFFIXES.items() if family == one.family)
    return [f"curl -fL -o {file} {one.url}", f"alchemjax convert {one.family} {file}"]
