"""A pickle reader that can only build plain data.

The stream is never unpickled. A small stack machine carries out the few opcodes of protocol 2 that a torch
file needs. A global is looked up in a closed table of functions of this package; most of these only record
the call. So nothing the file names is imported or run, sizes cannot be amplified (memo indices are dictionary
keys; dictionary keys are texts and small integers), and the result is a bounded tree.
"""

import io
import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .archive import RefusedFile, refuse_malformed, short

MAX_OPCODES = 1_000_000
MAX_NODES = 1_000_000
MAX_DEPTH = 64

Globals = Mapping[str, Callable[[tuple], Any]]

_MARK = object()
_STOP = b"."


class Record:
    """An inert trace of `global(*args)` and of the state it was given; nobody acts on it."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple):
        """Record a call of the global `name`."""
        self.name, self.args = name, args
        self.state: Any = None


class InertClass:
    """An allowed name, good for telling it from others and for records of calls; nothing stands behind it."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        """Stand for the global `name`."""
        self.name = name

    def __call__(self, args: tuple) -> Record:
        """Record a call."""
        return Record(self.name, args)


class OrderedDict(dict):
    """Stands for collections.OrderedDict; only these dictionaries may be given a state, which is dropped."""


def load(data: bytes, allowed: Globals, persistent: Callable[[Any], Any]) -> Any:
    """Build the tree of plain data and records that a pickle stream describes.

    `allowed` maps "module name" to a function of a call's arguments, `persistent` builds the value of an id.

    Raises:
        RefusedFile: a global that is not in `allowed`, an opcode outside the small set, an ill-formed stream.
    """
    machine, stream = _Machine(allowed, persistent), io.BytesIO(data)
    with refuse_malformed("the pickle stream"):
        for _ in range(MAX_OPCODES):
            code = _bytes(stream, 1)
            if code == _STOP:
                break
            if code not in _STEPS:
                raise RefusedFile(f"pickle opcode {code!r} is not allowed; torch files do not need it")
            step, read = _STEPS[code]
            step(machine, read(stream))
        else:
            raise RefusedFile(f"the pickle stream is too long; at most {MAX_OPCODES} opcodes are allowed")
        (top,) = machine.pop(1)
        if machine.stack:
            raise RefusedFile(f"the pickle stream leaves {len(machine.stack)} values too many")
    check_tree(top)
    return top


def check_tree(top: Any) -> None:
    """Refuse what contains itself or is too deep or, written out without sharing, too large."""
    pending, nodes = [(top, 0)], 1
    while pending:
        value, depth = pending.pop()
        children: Collection[Any] = ()
        if isinstance(value, dict):
            children = value.values()
        elif type(value) in (list, tuple):
            children = value
        elif isinstance(value, Record):
            children = (value.args, value.state)
        nodes += len(children)  # before they are listed: sharing can make them exponentially many
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise RefusedFile(f"the pickle stream nests endlessly; {MAX_DEPTH} levels are allowed")
        pending += [(child, depth + 1) for child in children]


class _Machine:
    def __init__(self, allowed: Globals, persistent: Callable[[Any], Any]):
        self.allowed, self.persistent = allowed, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack) or any(value is _MARK for value in self.stack[-count:]):
            raise RefusedFile("the pickle stream takes more values than it has put down")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise RefusedFile("the pickle stream looks for a mark that it has not put down")

    def top(self, kind: type, what: str) -> Any:
        value = self.stack[-1] if self.stack else _MARK
        if value is _MARK or not isinstance(value, kind):
            raise RefusedFile(f"the pickle stream {what} {'nothing' if value is _MARK else short(value)}")
        return value

    def put(self, index: int) -> None:
        self.memo[index] = self.top(object, "remembers")

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise RefusedFile(f"the pickle stream recalls value {index}, which it has not remembered")
        self.push(self.memo[index])

    def integer(self, value: int) -> None:
        if not -(1 << 63) <= value < 1 << 63:  # larger ones can be made to collide as dictionary keys
            raise RefusedFile("the pickle stream has an integer of more than 64 bits; none is needed")
        self.push(value)

    def extend(self, values: list[Any]) -> None:
        self.top(list, "appends to").extend(values)

    def set_items(self, flat: list[Any]) -> None:
        target = self.top(dict, "sets items of")
        if len(flat) % 2:
            raise RefusedFile("the pickle stream sets a key without a value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if type(key) not in (str, int):
                raise RefusedFile(f"a dictionary has {short(key)} as key; only texts and integers may be")
            target[key] = value

    def find_global(self, name: str) -> None:
        if name not in self.allowed:
            raise RefusedFile(f"the file names {short(name.replace(' ', '.'))}, not an allowed global")
        self.push(self.allowed[name])

    def reduce(self, _: None) -> None:
        function, args = self.pop(2)
        known = any(function is entry for entry in self.allowed.values())  # `in` would compare
        if not known or type(args) is not tuple:
            raise RefusedFile(f"the pickle stream calls {short(function)}; only allowed globals are called")
        self.push(function(args))

    def new_object(self, _: None) -> None:
        function, args = self.pop(2)
        if not isinstance(function, InertClass):
            raise RefusedFile(f"pickle opcode b'\\x81' is not allowed on {short(function)}, only on a known class")
        self.stack += [function, args]
        self.reduce(None)

    def build(self, _: None) -> None:
        (state,) = self.pop(1)
        target = self.top(object, "gives a state to")
        if isinstance(target, Record) and target.state is None:
            target.state = state
        elif not isinstance(target, OrderedDict):
            raise RefusedFile(f"the pickle stream gives a state to {short(target)}, which takes none")


def _no_argument(_: io.BytesIO) -> None:
    pass


def _bytes(stream: io.BytesIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise RefusedFile("the pickle stream ends too early")
    return data


def _number(kind: str) -> Callable[[io.BytesIO], Any]:
    return lambda stream: struct.unpack(kind, _bytes(stream, struct.calcsize(kind)))[0]


def _long(stream: io.BytesIO) -> int:
    return int.from_bytes(_bytes(stream, _bytes(stream, 1)[0]), "little", signed=True)


def _text(stream: io.BytesIO) -> str:
    (size,) = struct.unpack("<I", _bytes(stream, 4))
    return _bytes(stream, size).decode("utf-8", "surrogatepass")


def _global_name(stream: io.BytesIO) -> str:
    return " ".join(stream.readline().decode("ascii").removesuffix("\n") for _ in range(2))


# opcode: (what it does, how its argument is read)
_STEPS: dict[bytes, tuple[Callable[[_Machine, Any], Any], Callable[[io.BytesIO], Any]]] = {
    b"\x80": (lambda m, protocol: None, _number("<B")),
    b"(": (lambda m, _: m.push(_MARK), _no_argument),
    b"N": (lambda m, _: m.push(None), _no_argument),
    b"\x88": (lambda m, _: m.push(True), _no_argument),
    b"\x89": (lambda m, _: m.push(False), _no_argument),
    b"J": (_Machine.push, _number("<i")),
    b"K": (_Machine.push, _number("<B")),
    b"M": (_Machine.push, _number("<H")),
    b"\x8a": (_Machine.integer, _long),
    b"G": (_Machine.push, _number(">d")),
    b"X": (_Machine.push, _text),
    b")": (lambda m, _: m.push(()), _no_argument),
    b"]": (lambda m, _: m.push([]), _no_argument),
    b"}": (lambda m, _: m.push({}), _no_argument),
    b"t": (lambda m, _: m.push(tuple(m.pop_to_mark())), _no_argument),
    b"\x85": (lambda m, _: m.push(tuple(m.pop(1))), _no_argument),
    b"\x86": (lambda m, _: m.push(tuple(m.pop(2))), _no_argument),
    b"\x87": (lambda m, _: m.push(tuple(m.pop(3))), _no_argument),
    b"a": (lambda m, _: m.extend(m.pop(1)), _no_argument),
    b"e": (lambda m, _: m.extend(m.pop_to_mark()), _no_argument),
    b"s": (lambda m, _: m.set_items(m.pop(2)), _no_argument),
    b"u": (lambda m, _: m.set_items(m.pop_to_mark()), _no_argument),
    b"q": (_Machine.put, _number("<B")),
    b"r": (_Machine.put, _number("<I")),
    b"h": (_Machine.get, _number("<B")),
    b"j": (_Machine.get, _number("<I")),
    b"c": (_Machine.find_global, _global_name),
    b"Q": (lambda m, _: m.push(m.persistent(*m.pop(1))), _no_argument),
    b"R": (_Machine.reduce, _no_argument),
    b"\x81": (_Machine.new_object, _no_argument),
    b"b": (_Machine.build, _no_argument),
}
