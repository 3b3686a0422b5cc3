"""Arrays in numpy's npy format, one after another, without anything that could run: no pickles, sizes checked first."""

import re

import numpy as np

from .archive import RefusedFile, short

MAX_HEADER_BYTES = 1024
NEWLINE = b"\n"
MAGIC = b"\x93NUMPY"
# a Python literal, which numpy's own reader compiles; here it must be the text that numpy writes
HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[|<>=][a-zA-Z][0-9]{0,3})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>|[0-9]{1,18},|[0-9]{1,18}(, [0-9]{1,18})+)\), ?\} *\n?"
)


class Arrays:
    """The arrays that fill the end of a file; each is taken once, with its expected shape and type."""

    def __init__(self, data: bytes, what: str):
        """Start with the bytes `data` of the file called `what` in messages."""
        self._data, self._what, self._at = data, what, 0

    def take(self, name: str, shape: tuple[int, ...], dtype: str = "<f4") -> np.ndarray:
        """Take the next array, which must be finite."""
        found, kind = self._header(name)
        if found != shape or kind != dtype:
            wanted = f"{list(shape)} of {dtype} is needed"
            raise RefusedFile(f"array {name} is {short_shape(found)} of {short(kind)}; {wanted}")
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        raw = self._data[self._at : self._at + size]
        if len(raw) != size:
            raise RefusedFile(f"{self._what} ends within array {name}, which has {size} bytes")
        self._at += size
        array = np.frombuffer(raw, dtype).reshape(shape)
        if not np.isfinite(array).all():
            raise RefusedFile(f"array {name} has values that are not finite; all must be")
        return array

    def _header(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and type of the next array, whose numbers stand in C order."""
        start = self._data[self._at : self._at + MAX_HEADER_BYTES]
        if start.startswith(MAGIC) and start[6:8] != b"\x01\x00":
            raise RefusedFile(f"array {name} has a header of another version; 1.0 is needed")
        size = int.from_bytes(start[8:10], "little")
        found = HEADER.fullmatch(start, 10, 10 + size) if start.startswith(MAGIC) and len(start) >= 10 + size else None
        if not found:
            raise RefusedFile(f"the header of array {name} is malformed; it must be as numpy writes it")
        if found["fortran"] == b"True":
            raise RefusedFile(f"array {name} is in Fortran order; C order is needed")
        self._at += found.end()
        return tuple(map(int, re.findall(rb"[0-9]+", found["shape"]))), found["descr"].decode("ascii")

    def at_end(self) -> bool:
        """Whether nothing is left; older files end with a newline."""
        return self._data[self._at :] in (b"", NEWLINE)


def short_shape(shape: tuple[int, ...]) -> str:
    """Show a shape from a file in bounded length."""
    return str(list(shape)) if len(shape) < 8 and max(shape, default=0) < 10**12 else f"of {len(shape)} dimensions"
