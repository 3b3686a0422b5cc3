"""alchemjax: materials whose composition is a continuous, differentiable variable.

The public names are imported when they are first used: `alchemjax --help` need not wait for JAX.
"""

import sys as _sys
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from alchemjax.atoms import Calculator as Calculator
    from alchemjax.atoms import from_atoms as from_atoms
    from alchemjax.atoms import from_pymatgen as from_pymatgen
    from alchemjax.atoms import to_atoms as to_atoms
    from alchemjax.calculate import Output as Output
    from alchemjax.calculate import calculate as calculate
    from alchemjax.io import load as load
    from alchemjax.io import read as read
    from alchemjax.tasks.jax_md import jax_md as jax_md
    from alchemjax.tasks.md import Trajectory as Trajectory
    from alchemjax.tasks.md import md as md
    from alchemjax.tasks.relax import Relaxed as Relaxed
    from alchemjax.tasks.relax import relax as relax
    from alchemjax.tasks.sweep import Table as Table
    from alchemjax.tasks.sweep import sweep as sweep

__version__ = "0.1.0"

_PUBLIC = {
    "load": "io",
    "read": "io",
    "from_atoms": "atoms",
    "from_pymatgen": "atoms",
    "to_atoms": "atoms",
    "calculate": "calculate",
    "Output": "calculate",
    "relax": "tasks.relax",
    "Relaxed": "tasks.relax",
    "sweep": "tasks.sweep",
    "Table": "tasks.sweep",
    "md": "tasks.md",
    "Trajectory": "tasks.md",
    "jax_md": "tasks.jax_md",
    "Calculator": "atoms",
}
__all__ = list(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


class _Package(_ModuleType):
    """A package whose submodule `calculate` does not hide the function of the same name."""

    def __setattr__(self, name, value):
        if not (name in _PUBLIC and isinstance(value, _ModuleType)):
            super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'alchemjax' has no attribute '{name}'")
    value = getattr(_import_module(f"alchemjax.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *_PUBLIC])
