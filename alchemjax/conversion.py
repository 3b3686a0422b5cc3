"""What the user sees of a conversion: a bar if it takes a while, and what the file was recognised as."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import weights_convert

PATIENCE = 0.5  # s before a bar appears


@contextmanager
def conversion_bar() -> Iterator[weights_convert.Progress | None]:
    """The `progress` of a conversion: a bar on a terminal, from PATIENCE on until it is over, and None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("reading", total=None)
    timer = Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
    finally:
        timer.cancel()
        timer.join()  # a bar that starts now is stopped below
        bar.stop()


def recognition(folder: Path) -> str:
    """One sentence on what a converted model was recognised as."""
    config = json.loads((folder / "config.json").read_text())
    one = weights_convert.find_official(config["source"].get("recognised_as"))
    if one is None:
        return f"{config['name']} is unrecognised, converted by content: its licence and training are unknown here"
    return f"recognised as {one.name}: licence {one.licence}, {one.functional}, trained on {one.training}"


def say_recognition(path: Path, folders: list[Path]) -> None:
    """Say what was converted where somebody reads it: in a terminal and in a notebook, not in the log of a job."""
    notebook = type(sys.stderr).__module__.startswith("ipykernel")
    if sys.stderr.isatty() or notebook:
        for folder in folders:
            kept = "" if notebook else f"; kept in {folder}"  # notebooks are passed on: no paths of the user's
            print(f"alchemjax: converted {path.name}: {recognition(folder)}{kept}", file=sys.stderr)
