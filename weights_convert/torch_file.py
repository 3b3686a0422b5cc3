"""Read what `torch.save` writes, without torch and without running anything from the file.

A torch file is a zip of `<root>/data.pkl` (a pickle), `<root>/data/<key>` (raw storages) and a few small
members. The pickle is read by `inert_pickle` against the closed table ALLOWED. Tensors stay descriptions of
parts of storages until `TorchFile.array` is asked for one, so what nobody needs (the state of an optimiser)
is never unpacked.
"""

import math
import re
from typing import Any, NamedTuple

import numpy as np

from .archive import Archive, RefusedFile, refuse_malformed, short
from .inert_pickle import Globals, InertClass, OrderedDict, Record, load

MAX_PICKLE_BYTES = 16 << 20
MAX_DIMENSIONS = 16
MAX_TENSOR_BYTES = 1 << 30  # of all tensors that are read: they may share a storage, so its size is no limit


class Storage(NamedTuple):
    """A flat run of numbers in the archive, not yet read."""

    dtype: str
    key: str
    size: int


class Tensor(NamedTuple):
    """A strided part of a storage, checked to lie inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class StorageType(NamedTuple):
    """An allowed torch storage class, good for nothing but persistent ids."""

    dtype: str

    def __call__(self, args: tuple) -> Any:
        """Refuse: storages are named, not made."""
        raise RefusedFile("the file calls a storage class; storages come by persistent id only")


def _ordered_dict(args: tuple) -> OrderedDict:
    if args:
        raise RefusedFile("the file fills an OrderedDict when it makes it; torch fills it item by item")
    return OrderedDict()


def _rebuild_tensor(args: tuple) -> Tensor:
    """Check the geometry here: a numpy view with these strides would not."""
    if not 4 <= len(args) <= 7:
        raise RefusedFile(f"a tensor is described by {len(args)} values; 4 to 7 are allowed")
    storage, offset, shape, strides = args[:4]
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise RefusedFile("a tensor is not described by a storage, an offset, a shape and strides")
    if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
        raise RefusedFile("a tensor has an offset, a size or a stride that is not an integer of at least 0")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise RefusedFile(f"a tensor has {len(shape)} sizes and {len(strides)} strides; they must match")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.size:
        raise RefusedFile(f"a tensor reaches element {last} of a storage of {storage.size}")
    if math.prod(shape) > storage.size:
        raise RefusedFile(f"a tensor has more elements than the {storage.size} of its storage")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(args: tuple) -> Tensor:
    """A parameter is the tensor it holds: whether it was trained and its hooks do not matter here."""
    if len(args) != 3 or not isinstance(args[0], Tensor):
        raise RefusedFile("a parameter is not described by a tensor, a flag and hooks")
    return args[0]


_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
_INERT = (
    "torch device",
    "numpy ndarray",
    "numpy dtype",
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray scalar",
    "_codecs encode",
)
ALLOWED: Globals = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    **{f"torch {name}": StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{name: InertClass(name) for name in _INERT},
}


class TorchFile:
    """The tree of a torch file in `top`, and its tensors as arrays on demand."""

    def __init__(self, data: bytes, what: str, allowed: Globals = ALLOWED):
        """Read the tree of the torch file `data`, called `what` in messages."""
        self._archive = Archive(data, what)
        self._read: dict[str, np.ndarray] = {}
        self._tensor_bytes = 0
        pickles = [name for name in self._archive.sizes if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise RefusedFile(f"{what} has {len(pickles)} members <root>/data.pkl; a torch file has one")
        self._root = pickles[0].removesuffix("data.pkl")
        order = self._root + "byteorder"
        if order in self._archive.sizes and self._archive.read(order, 16).strip() != b"little":
            raise RefusedFile(f"{what} was not written with little-endian numbers; only those are read")
        self.top = load(self._archive.read(pickles[0], MAX_PICKLE_BYTES), allowed, self._storage)

    def _storage(self, persistent_id: Any) -> Storage:
        match persistent_id:
            case ("storage", StorageType(dtype), str(key), str(), int(size)) if re.fullmatch("[0-9]+", key):
                pass
            case _:
                raise RefusedFile(f"the persistent id {short(persistent_id)} is not that of a storage")
        declared = self._archive.sizes.get(f"{self._root}data/{key}")
        if declared != size * np.dtype(dtype).itemsize:
            have = "is missing" if declared is None else f"has {declared} bytes"
            raise RefusedFile(f"storage {short(key)} {have}; {size} numbers of type {dtype} are needed")
        return Storage(dtype, key, size)

    def array(self, tensor: Tensor) -> np.ndarray:
        """Copy a tensor out of its storage, C-contiguous and in the byte order of this machine."""
        dtype, key, _ = tensor.storage
        self._tensor_bytes += math.prod(tensor.shape) * np.dtype(dtype).itemsize
        if self._tensor_bytes > MAX_TENSOR_BYTES:
            raise RefusedFile(f"the tensors have together more than {MAX_TENSOR_BYTES} bytes; no more are read")
        if key not in self._read:
            raw = self._archive.read(f"{self._root}data/{key}")
            self._read[key] = np.frombuffer(raw, np.uint8)
        flat = self._read[key].view(dtype)
        with refuse_malformed("a tensor"):
            if 0 in tensor.shape:
                return np.empty(tensor.shape, flat.dtype.newbyteorder("="))
            part = flat[tensor.offset :]
            steps = tuple(stride * flat.itemsize for stride in tensor.strides)
            view = np.lib.stride_tricks.as_strided(part, tensor.shape, steps, writeable=False)
            return np.array(view, flat.dtype.newbyteorder("="), order="C")

    def number(self, value: Any) -> int | float | None:
        """Return a number that the file has as such, as a numpy scalar or as a tensor; None for anything else."""
        match value:
            case bool():
                return None
            case int() | float():
                return value
            case Tensor(shape=()):
                return self.array(value).item()
            case Record(
                name="numpy.core.multiarray scalar" | "numpy._core.multiarray scalar",
                args=(
                    Record(name="numpy dtype", args=("f4" | "f8" | "i4" | "i8" as kind, *_)),
                    Record(name="_codecs encode", args=(str(text), "latin1")),
                ),
            ):
                with refuse_malformed("a numpy scalar"):
                    (number,) = np.frombuffer(text.encode("latin1"), f"<{kind}")
                    return number.item()
        return None
