"""alchemjax models and alchemjax convert: the potentials that are here, and how more come."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

import weights_convert
from alchemjax import io

ELSEWHERE = [
    {
        "names": ["sevennet-l3i5", "sevennet-mf-0"],
        "get": "pip download --no-deps sevenn==0.13.0",
        "convert": "alchemjax convert sevennet sevenn-0.13.0-py3-none-any.whl",
    },
    {
        "names": ["nequix-mp-1", "nequix-mp-1-pft", "nequix-omat-1", "nequix-oam-1", "nequix-oam-1-pft"],
        "get": "curl -LO https://github.com/atomicarchitects/nequix/raw/main/models/nequix-mp-1.nqx",
        "convert": "alchemjax convert nequix nequix-mp-1.nqx",
    },
]


def run_models(*, as_json: bool) -> None:
    """Print the models that `--model` finds by name."""
    models = [_with_elements(model) for model in io.list_models()]
    if as_json:
        print(json.dumps({"models": models, "elsewhere": ELSEWHERE}, indent=1))
        return
    table = Table(show_edge=False)
    for name in ("name", "family", "where", "elements", "modalities", "licence", "dtype"):
        table.add_column(name, justify="right" if name == "elements" else "left", overflow="fold")
    for model in models:
        cells = [model[k] for k in ("name", "family", "where", "species", "modalities", "licence", "dtype")]
        table.add_row(*(", ".join(c) if isinstance(c, list) else str(c or "-") for c in cells))
    Console(highlight=False, markup=False).print(table)
    print("\n" + "\n".join(f"{model['name']}: {model['path']}" for model in models))
    for other in ELSEWHERE:
        print(f"\nmore: {', '.join(other['names'])}\n    {other['get']}\n    {other['convert']}")


def _with_elements(model: dict) -> dict:
    config = json.loads((Path(model["path"]) / "config.json").read_text())
    modalities = config.get("architecture", {}).get("modalities") or []
    return model | {"modalities": modalities, "elements": sorted(config["species"])}


def run_convert(family: str, path: Path, out: Path | None, model: str | None, *, overwrite: bool) -> None:
    """Convert, by default into the folder where `--model` finds models by name, and print what was written."""
    if out is None:
        out = io._cache() / (path.resolve().stem if path.suffix else path.resolve().name)
    for folder in weights_convert.convert(family, path, out, model, overwrite=overwrite):
        name = json.loads((folder / "config.json").read_text())["name"]
        print(f"{name}: {folder}")
