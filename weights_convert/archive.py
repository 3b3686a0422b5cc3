"""Zip archives from strangers: bounded sizes, no surprises, one kind of refusal."""

import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_BYTES = 1 << 30  # of a file on disk, and of everything an archive says it unpacks to
MAX_MEMBERS = 20_000
MAX_RATIO = 100  # of a compressed member; weights hardly compress at all
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x2041  # flags: encrypted, strongly encrypted, directory encrypted


class RefusedFile(ValueError):
    """A file that is not converted; the message is one sentence: what came, what is allowed."""


@contextmanager
def refuse_malformed(what: str) -> Iterator[None]:
    """Turn whatever a parser may raise on hostile bytes (MemoryError included) into RefusedFile."""
    try:
        yield
    except RefusedFile:
        raise
    except Exception as error:  # the parsers behind this border raise nearly every built-in kind
        raise RefusedFile(f"{what} is malformed ({type(error).__name__}: {short(str(error))})") from error


def short(value: object) -> str:
    """Show a value from a file in one bounded line of ASCII, whatever it is."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 128 else "a huge integer"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return ascii(value if len(value) <= 80 else value[:77] + "...")
    return f"a {type(value).__name__}"


def read_bytes(path: Path) -> bytes:
    """Read a regular file of at most MAX_BYTES.

    Raises:
        RefusedFile: there is no such file, it is a pipe, a device or a folder, or it is too large.
    """
    with refuse_malformed(short(str(path))):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RefusedFile(f"{short(str(path))} is not a regular file; a checkpoint file is needed")
        if status.st_size > MAX_BYTES:
            raise RefusedFile(f"{short(path.name)} has {status.st_size} bytes; at most {MAX_BYTES} are read")
        return path.read_bytes()


class Archive:
    """Members of a zip in memory; every rule that can be checked without unpacking is checked first."""

    def __init__(self, data: bytes, what: str):
        """Open the archive `data`, called `what` in messages."""
        self.what = what
        # zipfile builds an object per directory entry, so count their signatures before it does
        if data.count(b"PK\x01\x02") > MAX_MEMBERS:
            raise RefusedFile(f"{what} has too many members; at most {MAX_MEMBERS} are allowed")
        try:
            with refuse_malformed(what):
                self._zip = zipfile.ZipFile(io.BytesIO(data))
                members = self._zip.infolist()
        except RefusedFile as error:
            raise RefusedFile(
                f"{what} is not a whole zip archive, as checkpoints (.pth, .model) and wheels (.whl) are; it may be "
                "cut short or another kind of file"
            ) from error
        self.sizes = {member.filename: member.file_size for member in members}
        unpacked = sum(member.file_size for member in members)
        if len(self.sizes) != len(members):
            raise RefusedFile(f"{what} has two members of one name; names must be unique")
        if any(member.flag_bits & _ENCRYPTED for member in members):
            raise RefusedFile(f"{what} is encrypted; only plain archives are read")
        if any(member.compress_type not in _COMPRESSIONS for member in members):
            raise RefusedFile(f"{what} uses an unusual compression; only stored and deflated are read")
        if sum(member.compress_size for member in members) > len(data):
            raise RefusedFile(f"{what} has members that overlap or reach past its end; none may")
        if unpacked > MAX_BYTES:
            raise RefusedFile(f"{what} says it unpacks to {unpacked} bytes; at most {MAX_BYTES} are allowed")

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """Read one whole member of at most `limit` bytes; its size and checksum must be the declared ones."""
        if name not in self.sizes:
            raise RefusedFile(f"{self.what} has no member {short(name)}")
        member = self._zip.getinfo(name)
        if member.file_size > limit:
            raise RefusedFile(f"{short(name)} has {member.file_size} bytes; at most {limit} are allowed")
        if member.file_size > MAX_RATIO * member.compress_size:
            raise RefusedFile(f"{short(name)} unpacks to more than {MAX_RATIO} times its size, a zip bomb")
        with refuse_malformed(f"{short(name)} in {self.what}"), self._zip.open(member) as file:
            data = file.read(member.file_size + 1)
        if len(data) != member.file_size:
            raise RefusedFile(f"{short(name)} has {len(data)} bytes; it declares {member.file_size}")
        return data
