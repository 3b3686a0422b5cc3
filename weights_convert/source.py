"""The bytes of one checkpoint and what is known about them."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple


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
