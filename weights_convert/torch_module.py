"""The tree of a pickled torch module: inert records with attributes, children and tensors."""

from collections.abc import Iterator
from typing import Any

from .archive import RefusedFile, short
from .inert_pickle import Record
from .torch_file import Tensor

_COMPILED = "torch.fx.graph_module reduce_graph_module"


class Module:
    """One module of the tree; children are asked for by name and class, and none may stay unasked."""

    def __init__(self, record: Any, path: str = ""):
        """Look at the state of a record; refuse if it is not that of a module."""
        self.path = path
        if not isinstance(record, Record) or not isinstance(record.state, dict):
            raise RefusedFile(f"{self.label} is not a pickled torch module, as it must be")
        self.kind = record.name.rsplit(" ", 1)[-1]
        state: dict[Any, Any] = record.state
        self._state = state
        self._asked: dict[str, Module] = {}
        for key, hooks in state.items():
            if isinstance(key, str) and key.endswith("_hooks") and hooks:
                raise RefusedFile(f"{self.label} has {short(key)}; modules with hooks are not supported")
        children = self._table("_modules").items()
        self._children = {name: child for name, child in children if child is not None and not _is_compiled(child)}

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"module {short(self.path)}" if self.path else "the file's object"

    def place(self, name: str) -> str:
        """Return the path of something in this module."""
        return f"{self.path}.{name}" if self.path else name

    def _table(self, key: str) -> dict[str, Any]:
        table = self._state.get(key)
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table):
            raise RefusedFile(f"{self.label} has no {key} by name, as a torch module has")
        return table

    def has(self, name: str) -> bool:
        """Say whether there is such a child."""
        return name in self._children

    def child(self, name: str, *kinds: str) -> "Module":
        """Return a child, which must be of one of these classes."""
        if name not in self._children:
            raise RefusedFile(f"module {self.place(name)} is missing; this network needs it")
        module = self._asked[name] = Module(self._children[name], self.place(name))
        if module.kind not in kinds:
            raise RefusedFile(f"module {module.path} is a {short(module.kind)}; only {' or '.join(kinds)} is supported")
        return module

    def items(self, name: str, *kinds: str, count: int | None = None) -> list["Module"]:
        """Return the members of a ModuleList, `count` of them if it is given."""
        members = self.child(name, "ModuleList")
        number = len(members._children)
        if list(members._children) != [str(index) for index in range(number)]:
            raise RefusedFile(f"module {members.path} is not numbered 0, 1, ..., as a ModuleList is")
        if count not in (None, number):
            raise RefusedFile(f"module {members.path} has {number} members; {count} are needed")
        return [members.child(str(index), *kinds) for index in range(number)]

    def get(self, name: str, absent: Any = None) -> Any:
        """Return an attribute that is not a tensor or a module."""
        return self._state.get(name, absent)

    def require(self, name: str, *supported: Any) -> None:
        """Refuse if an attribute has another value than these; they are in use where it is absent."""
        value = self._state.get(name, supported[0])
        if not any(type(value) is type(allowed) and value == allowed for allowed in supported):
            allowed = " or ".join(map(repr, supported))
            raise refusal(self.place(name), value, allowed)

    def tensors(self) -> dict[str, Tensor]:
        """Collect the tensors of this module and all below it, by path."""
        found: dict[str, Tensor] = {}
        for path, tensor in self._walk():
            if path in found or not isinstance(tensor, Tensor):
                raise RefusedFile(f"tensor {short(path)} is there twice or is not a tensor")
            found[path] = tensor
        return found

    def _walk(self) -> Iterator[tuple[str, Any]]:
        for key in ("_parameters", "_buffers"):
            for name, tensor in self._table(key).items():
                if tensor is not None:
                    yield self.place(name), tensor
        for name, child in self._children.items():
            yield from Module(child, self.place(name))._walk()

    def finish(self) -> None:
        """Refuse if a child, here or below, was not asked for."""
        for name in self._children:
            if name not in self._asked:
                raise RefusedFile(f"module {short(self.place(name))} has no place in this network")
            self._asked[name].finish()


def _is_compiled(record: Any) -> bool:
    """Whether a module is code that torch generated for the module it is in; it may hold no tensors then."""
    if not isinstance(record, Record) or record.name != _COMPILED:
        return False
    body = record.args[0] if record.args else None
    if not isinstance(body, dict) or any(body.get(key) for key in ("_parameters", "_buffers", "_modules")):
        raise RefusedFile("a compiled graph has tensors of its own; graphs of these networks have none")
    return True


def refusal(name: str, value: Any, allowed: str) -> RefusedFile:
    """Say that a hyper-parameter is not supported."""
    if isinstance(value, Record):
        value = value.name.rsplit(" ", 1)[-1]
    return RefusedFile(f"hyper-parameter {name} = {short(value)} is not supported, only {allowed}")
