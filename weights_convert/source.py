"""The bytes of one checkpoint and what is known about them."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from .archive import refuse_malformed, short

Progress = Callable[[int, int, str], object]  # steps done, steps there are, what the next one does
Model = TypeVar("Model")


class Source(NamedTuple):
    """One checkpoint; `recognised_as` is its name among the known ones, if it is one."""

    name: str
    file: str
    data: bytes
    sha256: str
    recognised_as: str | None


def make_source(name: str, file: str, data: bytes, known: Mapping[str, str]) -> Source:
    """Recognise a checkpoint by its sum; `known` maps names to sha-256."""
    sha256 = hashlib.sha256(data).hexdigest()
    recognised = next((label for label, entry in known.items() if entry == sha256), None)
    return Source(recognised or name, file, data, sha256, recognised)


def convert_sources(
    path: Path,
    model: str | None,
    find: Callable[[Path, str | None], list[Source]],
    convert: Callable[[Source], Model],
    progress: Progress | None,
) -> dict[str, Model]:
    """Find the checkpoints at `path` and convert each, to {name: model}; reading and writing are steps as well.

    Raises:
        RefusedFile: what `find` or `convert` raises, whatever it is.
    """
    say = progress or (lambda *step: None)
    with refuse_malformed(short(str(path))):
        say(0, 3, f"reading {path.name}")
        sources = find(path, model)
        models = {}
        for done, source in enumerate(sources, start=1):
            say(done, len(sources) + 2, f"converting {source.name}")
            models[source.name] = convert(source)
        return models
