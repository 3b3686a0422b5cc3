"""alchemjax models and alchemjax convert: the potentials that are here, and how more come."""

import difflib
import json
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

import weights_convert
from alchemjax import io
from alchemjax.conversion import conversion_bar, recognition
from weights_convert import OFFICIAL, Official

FAMILIES = {
    "sevennet": ("SevenNet", ".pth files, the wheel of sevenn or its folder"),
    "nequix": ("Nequix", ".nqx files"),
    "mace": ("MACE", ".model files"),
}
WIDTH = 100  # characters at most
LEGEND = """status: here; tested: the official file was converted and agrees with the
    original program; untried: the official file was not at hand; refused: above
licence: ASL, the Academic Software Licence, forbids commercial use; -: unknown
F1: of predicting stability, 1 is perfect; kappa: error of thermal conductivity,
    0 is perfect, 2 the worst (Matbench Discovery, July 2026)
alchemjax models NAME: its address, and what to type to get and convert it"""


def run_models(name: str | None, *, as_json: bool) -> None:
    """Print the models that `--model` finds by name and the official ones, or all about those of one name.

    Errors: ValueError for a name that is unknown.
    """
    models = [_described(model) for model in io.list_models()]
    official = [_with_commands(one, models) for one in OFFICIAL]
    if name is not None:
        known = [one["name"] for one in (*models, *official)]
        models = [m for m in models if name in (m["name"], Path(m["path"]).name)]
        official = [one for one in official if one["name"] == name]
        if not models and not official:
            near = difflib.get_close_matches(name.lower(), known, cutoff=0.5)
            hint = f"; do you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"no model is called '{name}'; `alchemjax models` lists those here and the official ones{hint}"
            )
    if as_json:
        print(json.dumps({"models": models, "official": official}, indent=1))
    elif name is not None:
        _print_all(models, official)
    else:
        _print_tables(models, official)


def _described(model: dict) -> dict:
    """What the model's config and the table of official files add."""
    config = json.loads((Path(model["path"]) / "config.json").read_text())
    architecture, source = config.get("architecture", {}), config["source"]
    official = weights_convert.find_official(source.get("recognised_as"))
    more = {key: architecture.get(key) or [] for key in ("modalities", "heads")}
    more |= {"functional": official and official.functional, "training": official and official.training}
    return model | more | {"recognised_as": source.get("recognised_as"), "elements": sorted(config["species"])}


def _with_commands(one: Official, models: list[dict]) -> dict:
    here = [model["path"] for model in models if model["recognised_as"] == one.name]
    return one._asdict() | {"here": here, "commands": weights_convert.commands(one)}


def _print_tables(models: list[dict], official: list[dict]) -> None:
    console = Console(highlight=False, markup=False)
    console.width = min(console.width, WIDTH)
    console.print("families: " + "; ".join(f"{family} ({what})" for family, (_, what) in FAMILIES.items()) + "\n")
    console.print(_table_here(models))
    for model in models:
        note = "" if model["recognised_as"] else " (unrecognised, converted by content)"
        print(f"{model['name']}: {model['path']}{note}")
    for family, (title, _) in FAMILIES.items():
        own = [one for one in official if one["family"] == family]
        print()
        console.print(_table_official(title, own))
        console.print("from " + ", ".join(dict.fromkeys("/".join(one["url"].split("/")[:5]) for one in own)))
        if family == "sevennet":
            console.print("the tested ones: " + "; ".join(own[0]["commands"]))
        for note in dict.fromkeys(one["note"] for one in own if one["status"] == "refused"):
            refused = [one["name"] for one in own if one["note"] == note]
            console.print(f"refused: {', '.join(refused)}: {note}")
    print(f"\n{LEGEND}")


def _table_here(models: list[dict]) -> Table:
    table = _table("models here", "name", "family", "where", "elements", "functional", "choices", "licence", "dtype")
    for model in models:
        choices = model["modalities"] or (model["heads"] if len(model["heads"]) > 1 else [])
        cells = [model[key] for key in ("name", "family", "where", "species", "functional")]
        table.add_row(*map(_cell, [*cells, ", ".join(choices), model["licence"], model["dtype"]]))
    return table


def _table_official(title: str, official: list[dict]) -> Table:
    columns = "name", "status", "functional", "trained on", "licence", "F1", "kappa"
    table = _table(f"official files of {title}", *columns)
    for one in official:
        facts = [one[key] for key in ("functional", "training", "licence", "f1", "kappa")]
        table.add_row(*map(_cell, [one["name"], "here" if one["here"] else one["status"], *facts]))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        right = column in ("elements", "F1", "kappa")
        folds = column in ("functional", "trained on", "choices") or (column == "name" and title == "models here")
        table.add_column(
            column, justify="right" if right else "left", overflow="fold", no_wrap=not folds, min_width=len(column)
        )
    return table


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value or "-")


def _print_all(models: list[dict], official: list[dict]) -> None:
    """Every fact, one a line, then the commands."""
    for facts in [*official, *models]:
        for key, value in facts.items():
            if value not in (None, []) and key not in ("commands", "species"):
                print(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
        if facts.get("status") == "refused":
            print("this model cannot be used here")
        for command in [] if facts.get("here") else facts.get("commands", []):
            print(f"    {command}")
        print()


def run_convert(family: str, path: Path, out: Path | None, model: str | None, *, overwrite: bool) -> None:
    """Convert, by default into the folder where `--model` finds models by name, and print what was written."""
    if out is None:
        out = io._cache() / (model or (Path(os.path.abspath(path)).stem if path.suffix else path.resolve().name))
    with conversion_bar() as progress:
        folders = weights_convert.convert(family, path, out, model, overwrite=overwrite, progress=progress)
    for folder in folders:
        name = json.loads((folder / "config.json").read_text())["name"]
        print(f"{name}: {folder}")
        print(f"alchemjax: {recognition(folder)}", file=sys.stderr)
