"""Small MACE files with random weights, and ways to change what their pickles say."""

import io
import lzma
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tiny_checkpoint import PROTO, STOP, Raw, emit, named, storage_id, tensor, zipped

from weights_convert import inert_pickle
from weights_convert.inert_pickle import InertClass, Record
from weights_convert.mace_sources import NAMES
from weights_convert.torch_file import Storage, StorageType, Tensor

GOLDEN = Path(__file__).parent / "golden" / "mace"
FILES = sorted(path.name.removesuffix(".model.xz") for path in GOLDEN.glob("*.model.xz"))
_STORAGES = {entry.dtype: name.split()[1] for name, entry in NAMES.items() if isinstance(entry, StorageType)}
_FUNCTIONS = ("_codecs encode", "torch.fx.graph_module reduce_graph_module", "numpy.core.multiarray scalar")


@lru_cache
def model(name: str) -> bytes:
    """The .model file of this name."""
    return lzma.decompress((GOLDEN / f"{name}.model.xz").read_bytes())


@lru_cache
def unzipped(name: str) -> dict[str, bytes]:
    """Its members, data.pkl first."""
    with zipfile.ZipFile(io.BytesIO(model(name))) as file:
        return {member: file.read(member) for member in file.namelist()}


def record(name: str, *args: Any, state: Any = None) -> Record:
    """What a call of a global becomes."""
    made = Record(name, args)
    made.state = state
    return made


class Tree:
    """The object in a file, to be changed and written again."""

    def __init__(self, name: str):
        self.files = dict(unzipped(name))
        self.pickle = next(member for member in self.files if member.endswith("/data.pkl"))
        self.root = inert_pickle.load(self.files[self.pickle], NAMES, self._storage)

    @staticmethod
    def _storage(identity: tuple) -> Storage:
        return Storage(identity[1].dtype, identity[2], identity[4])

    def module(self, path: str) -> Record:
        found = self.root
        for name in path.split(".") if path else ():
            found = found.state["_modules"][name]
        return found

    def set(self, path: str, value: Any) -> None:
        """Give an attribute (module.path.name) another value."""
        path, _, name = path.rpartition(".")
        self.module(path).state[name] = value

    def replace(self, path: str, value: Any) -> None:
        """Put another module or tensor into its place; None removes it."""
        path, _, name = path.rpartition(".")
        state = self.module(path).state
        table = next((t for t in ("_parameters", "_buffers", "_modules") if name in state[t]), "_buffers")
        state[table][name] = value
        if value is None:
            del state[table][name]

    def add(self, array: np.ndarray) -> Tensor:
        """Store an array."""
        key = str(sum("/data/" in member for member in self.files) + 1000)
        array = np.asarray(array, order="C")
        self.files[self.pickle.replace("data.pkl", f"data/{key}")] = array.tobytes()
        dtype = array.dtype.str
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return Tensor(Storage(dtype, key, array.size), 0, array.shape, strides)

    def array(self, stored: Tensor) -> np.ndarray:
        raw = self.files[self.pickle.replace("data.pkl", f"data/{stored.storage.key}")]
        flat = np.frombuffer(raw, stored.storage.dtype)[stored.offset :]
        strides = [stride * flat.itemsize for stride in stored.strides]
        return np.lib.stride_tricks.as_strided(flat, stored.shape, strides) if flat.size else np.empty(stored.shape)

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._walk(self.root, ""))

    def _walk(self, module: Record, prefix: str) -> Iterator[tuple[str, Tensor]]:
        for table in ("_parameters", "_buffers", "_modules"):
            for name, value in (module.state or {}).get(table, {}).items():
                if isinstance(value, Tensor):
                    yield prefix + name, value
                elif isinstance(value, Record):
                    yield from self._walk(value, f"{prefix}{name}.")

    def zipped(self) -> bytes:
        return zipped(self.files | {self.pickle: PROTO + _opcodes(self.root) + STOP})


def _opcodes(value: Any) -> Raw:
    """Opcodes that put down `value`; what was shared is written out."""
    match value:
        case Tensor():
            storage = storage_id(value.storage.key, value.storage.size, _STORAGES[value.storage.dtype])
            return tensor(storage, value.offset, value.shape, value.strides)
        case Record():
            call = b"R" if value.name in _FUNCTIONS or value.name.endswith(" set") else b"\x81"
            state = b"" if value.state is None else _opcodes(value.state) + b"b"
            return Raw(named(*value.name.split()) + _opcodes(value.args) + call + state)
        case InertClass():
            return named(*value.name.split())
        case tuple() | list():
            return Raw(emit(type(value)(_opcodes(item) for item in value), {}))
        case dict():
            return Raw(emit(type(value)((key, _opcodes(item)) for key, item in value.items()), {}))
    return Raw(emit(value, {}))


def changed(name: str, change: Callable[[Tree], Any]) -> bytes:
    """The file of this name after a change of its tree."""
    tree = Tree(name)
    change(tree)
    return tree.zipped()
