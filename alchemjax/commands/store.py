"""The output folder of work in batches: what is there, the batches that are done, and when it is finished."""

import contextlib
import fcntl
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alchemjax.commands.session import unwritable
from alchemjax.io import write_atomically


class Work(NamedTuple):
    """What a folder is for."""

    noun: str  # "sweep"
    last: str  # the file that says that it is finished
    files: tuple[str, ...]  # of results, with the last
    needed: tuple[str, ...]  # entries of the last


def finished(out: Path, fingerprint: str, work: Work) -> dict | None:
    """What the last file says, if the folder holds the results of this very work."""
    report = last_report(out, work)
    return report if report.get("fingerprint") == fingerprint and set(work.needed) <= set(report) else None


def last_report(out: Path, work: Work) -> dict:
    """What the last file says, whatever it is of; nothing where there is none, or a damaged one."""
    try:
        report = json.loads((out / work.last).read_text())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


@contextlib.contextmanager
def opened(
    out: Path, fingerprint: str, work: Work, *, overwrite: bool, own: bool = False, anew: bool = False
) -> Iterator[Path]:
    """The folder of this work's batches, ours alone while it is open; `own`: the results there are of this work.

    Batches of other work are discarded with `overwrite`, and those of this work with `anew`, unless that was
    interrupted. Errors: ValueError if the folder holds something else, cannot be written, or is in use.
    """
    batches = out / f".{work.noun}"
    ours = _fingerprint_of(batches) == fingerprint
    strangers = any(batches.glob("*.npz")) and not ours
    if strangers or (not ours and not own and any((out / name).exists() for name in work.files)):
        done = f"a{'n' * (work.noun[0] in 'aeiou')} {work.noun}"
        what = done if (out / work.last).exists() or not strangers else f"batches of an unfinished {work.noun}"
        if not overwrite:
            raise ValueError(
                f"'{out}' holds {what} of other input, options or versions; use another folder, or --overwrite"
            )
    try:
        batches.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None
    with open(batches / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"another {work.noun} is running in '{out}'; wait for it, or use another folder") from None
        again = batches / "anew"  # while results of before are still there
        if not ours or (anew and not again.exists()):
            for batch in batches.glob("*.npz"):
                batch.unlink()
            again.touch()
            write_atomically(batches / "fingerprint", lambda path: path.write_text(fingerprint))
        try:
            yield batches
        finally:
            if not any(batches.glob("*.npz")):
                _remove(batches)


def _fingerprint_of(batches: Path) -> str | None:
    try:
        return (batches / "fingerprint").read_text()
    except (OSError, UnicodeDecodeError):
        return None


def store_batch(batches: Path, number: int, table, seconds: float) -> None:
    """Keep a batch, a NamedTuple of arrays."""
    store(batches / f"{number:05d}.npz", table, seconds=seconds)


def stored_batches(batches: Path, kind: type) -> tuple[list, float]:
    """The batches that are done, of this kind of NamedTuple, without a gap, and the seconds that they took."""
    tables, seconds = [], 0.0
    while (found := stored(batches / f"{len(tables):05d}.npz", kind)) is not None:
        tables.append(found[0])
        seconds += float(found[1]["seconds"])
    return tables, seconds


def store(path: Path, table, **others) -> None:
    """Keep a NamedTuple of arrays, and what else belongs to it; there is a whole file or none."""

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            np.savez(file, **others, **table._asdict())

    write_atomically(path, write)


def stored(path: Path, kind: type) -> tuple | None:
    """A table that was kept, and everything that is in its file; nothing where it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            entries = dict(file)
            return kind(*(entries[name] for name in kind._fields)), entries
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def complete(batches: Path) -> None:
    """The results of these batches are written."""
    (batches / "anew").unlink(missing_ok=True)


def close(batches: Path) -> None:
    """Remove the batches of finished work."""
    shutil.rmtree(batches)


def _remove(batches: Path) -> None:
    """Leave nothing behind if nothing was done, not even an empty folder."""
    shutil.rmtree(batches, ignore_errors=True)
    with contextlib.suppress(OSError):
        batches.parent.rmdir()
