"""The output folder of a run of molecular dynamics: files that grow, and a checkpoint that says how far they count."""

import contextlib
import fcntl
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from alchemjax.commands.session import unwritable
from alchemjax.io import write_atomically
from alchemjax.system.lists import Grid, Neighbours
from alchemjax.tasks.dynamics import State

REPORT, CHECKPOINT, PLOT, LOG = "md.json", "checkpoint.npz", "md.png", "log.csv"
RESULTS = ("switch.json", "switch.png", "windows.json", "windows.png")  # of free energies
TRAJECTORY = re.compile(r"trajectory(-[0-9]+)?[.]extxyz")


class Checkpoint(NamedTuple):
    """Where a run stands."""

    state: State
    grid: Grid
    sizes: dict[str, int]  # bytes of every growing file that belong to it
    seconds: float


def report_of(out: Path) -> dict:
    """What `md.json` says; nothing where there is none."""
    try:
        report = json.loads((out / REPORT).read_text())
        return report if isinstance(report, dict) and {"fingerprint", "steps_done"} <= set(report) else {}
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def opened(out: Path, fingerprint: str, *, resume: bool, overwrite: bool, redo: bool = True) -> Iterator[None]:
    """The folder, ours alone while it is open; `redo`: whether a finished run of ours is overwritten too.

    Errors: ValueError if it holds another run, or nothing to resume, cannot be written or is in use.
    """
    report = report_of(out)
    ours = report.get("fingerprint") == fingerprint
    done = redo and report.get("finished")  # an unfinished run goes on
    again = not ours or (overwrite and (done or _unreadable(out)))
    there = files_of_runs(out)
    if resume and not ours:
        what = "a run of other input, options or versions" if report else "no run"
        raise ValueError(f"'{out}' holds {what}; --resume continues a run that was begun with the same options")
    if not ours and not overwrite and there:
        what = "a run of other input, options or versions" if report else f"a file named {there[0].name}"
        raise ValueError(f"'{out}' holds {what}; use another folder, or --overwrite")
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "w")
    except OSError as error:
        raise unwritable(out, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.fstat(lock.fileno()).st_ino == (out / ".lock").stat().st_ino
        except OSError:
            same = False
        if not same or report_of(out) != report:
            raise ValueError(f"another run is going on in '{out}'; wait for it, or use another folder")
        try:
            for name in (CHECKPOINT, REPORT, PLOT):  # what a killed process was writing
                for path in out.glob(f".*.{name}"):
                    path.unlink()
            if again:
                for path in there:
                    path.unlink(missing_ok=True)
            yield
        finally:
            if report_of(out).get("steps_done") == -1 and not (out / CHECKPOINT).exists():  # nothing came of it
                for path in files_of_runs(out):
                    path.unlink()
            (out / ".lock").unlink(missing_ok=True)
            if made and not any(out.iterdir()):
                out.rmdir()


def files_of_runs(out: Path) -> list[Path]:
    """What is there under the names of the files of a run."""
    named = {REPORT, CHECKPOINT, LOG, PLOT, *RESULTS}
    return sorted(path for path in out.glob("*") if path.name in named or TRAJECTORY.fullmatch(path.name))


def _unreadable(out: Path) -> bool:
    """Whether there is a checkpoint of which nothing can be made, or none, or files have lost what it counts on."""
    try:
        with np.load(out / CHECKPOINT, allow_pickle=False) as file:
            sizes = json.loads(str(file["about"]))["sizes"]
        return any((out / name).stat().st_size < size for name, size in sizes.items())
    except (ValueError, OSError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return True


def append(path: Path, text: str) -> int:
    """Append to a file and see that it is on disk; its size."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def cut(out: Path, sizes: dict[str, int]) -> None:
    """Cut the growing files to what the checkpoint knows of. Errors: ValueError if some of that is missing."""
    for name, size in sizes.items():
        path = out / name
        if not path.exists() or path.stat().st_size < size:
            raise ValueError(f"'{path}' has lost a part that the checkpoint counts on; put it back, or use --overwrite")
        os.truncate(path, size)


def store(out: Path, fingerprint: str, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint; there is always a whole one."""
    leaves = {f"state_{k:02d}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(checkpoint.state))}
    about = {
        "fingerprint": fingerprint,
        "grid": checkpoint.grid._asdict(),
        "sizes": checkpoint.sizes,
        "seconds": checkpoint.seconds,
    }

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **leaves)

    write_atomically(out / CHECKPOINT, write)


def stored(out: Path, fingerprint: str, blocks: int) -> Checkpoint | None:
    """The checkpoint of a run with so many blocks of edges, if there is one.

    Errors: ValueError for a damaged one, or one of another run.
    """
    path = out / CHECKPOINT
    if not path.exists():
        return None
    each = (0,) * blocks
    form = State(*[0] * len(State._fields))._replace(listed=Neighbours(each, each, each, 0, 0, 0))
    structure = jax.tree.structure(form)
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["fingerprint"] != fingerprint:
                raise ValueError("it belongs to another run")
            state = jax.tree.unflatten(structure, [file[f"state_{k:02d}"] for k in range(structure.num_leaves)])
        grid = Grid(**{name: _hashable(value) for name, value in about["grid"].items()})
        return Checkpoint(state, grid, about["sizes"], about["seconds"])
    except (ValueError, OSError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{path}' is damaged ({error}); use --overwrite to start again") from None


def _hashable(value):
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
