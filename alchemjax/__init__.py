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
    from alchemjax.commands.alloy_file import read_alloy as read_alloy
    from alchemjax.commands.alloy_file import write_alloy as write_alloy
    from alchemjax.decorate import Explicit as Explicit
    from alchemjax.decorate import check_optimum as check_optimum
    from alchemjax.decorate import decorate as decorate
    from alchemjax.export import to_icet as to_icet
    from alchemjax.export import to_smol as to_smol
    from alchemjax.io import load as load
    from alchemjax.io import read as read
    from alchemjax.tasks.alloy import Alloy as Alloy
    from alchemjax.tasks.alloy import alloy as alloy
    from alchemjax.tasks.alloy import doubts as doubts
    from alchemjax.tasks.alloy import mean_square_displacements as mean_square_displacements
    from alchemjax.tasks.alloy import random_energy as random_energy
    from alchemjax.tasks.alloy import strain_by_displacements as strain_by_displacements
    from alchemjax.tasks.averages import long_range_order as long_range_order
    from alchemjax.tasks.averages import shells as shells
    from alchemjax.tasks.averages import statistics as statistics
    from alchemjax.tasks.averages import transition_temperature as transition_temperature
    from alchemjax.tasks.descent import exponentiated_gradient as exponentiated_gradient
    from alchemjax.tasks.elasticity import Elasticity as Elasticity
    from alchemjax.tasks.elasticity import elasticity as elasticity
    from alchemjax.tasks.equilibrium import Equilibrium as Equilibrium
    from alchemjax.tasks.equilibrium import relaxed as relaxed
    from alchemjax.tasks.free_energy.estimators import Estimate as Estimate
    from alchemjax.tasks.free_energy.estimators import interval as interval
    from alchemjax.tasks.free_energy.frenkel_ladd import FreeEnergy as FreeEnergy
    from alchemjax.tasks.free_energy.frenkel_ladd import frenkel_ladd as frenkel_ladd
    from alchemjax.tasks.free_energy.frenkel_ladd import infinite as infinite
    from alchemjax.tasks.free_energy.paths import Path as Path
    from alchemjax.tasks.free_energy.paths import composition_path as composition_path
    from alchemjax.tasks.free_energy.paths import einstein_path as einstein_path
    from alchemjax.tasks.free_energy.paths import mixing_entropy as mixing_entropy
    from alchemjax.tasks.free_energy.paths import vacancy_path as vacancy_path
    from alchemjax.tasks.free_energy.stability import Curve as Curve
    from alchemjax.tasks.free_energy.stability import Stability as Stability
    from alchemjax.tasks.free_energy.stability import compare as compare
    from alchemjax.tasks.free_energy.stability import phase as phase
    from alchemjax.tasks.free_energy.switching import Switching as Switching
    from alchemjax.tasks.free_energy.switching import switch as switch
    from alchemjax.tasks.free_energy.vacancy import Vacancy as Vacancy
    from alchemjax.tasks.free_energy.vacancy import vacancy as vacancy
    from alchemjax.tasks.free_energy.windows import Windows as Windows
    from alchemjax.tasks.free_energy.windows import windows as windows
    from alchemjax.tasks.jax_md import jax_md as jax_md
    from alchemjax.tasks.lattice import box_strain as box_strain
    from alchemjax.tasks.lattice import total_energy as total_energy
    from alchemjax.tasks.md import Trajectory as Trajectory
    from alchemjax.tasks.md import md as md
    from alchemjax.tasks.optimise import Optimum as Optimum
    from alchemjax.tasks.optimise import optimise as optimise
    from alchemjax.tasks.order import Order as Order
    from alchemjax.tasks.order import order as order
    from alchemjax.tasks.ordering import concentration_waves as concentration_waves
    from alchemjax.tasks.ordering import instability as instability
    from alchemjax.tasks.ordering import interactions as interactions
    from alchemjax.tasks.ordering import lattice_model as lattice_model
    from alchemjax.tasks.ordering import short_range_order as short_range_order
    from alchemjax.tasks.ordering import spinodal as spinodal
    from alchemjax.tasks.pairs import pair_fluctuations as pair_fluctuations
    from alchemjax.tasks.relax import Relaxed as Relaxed
    from alchemjax.tasks.relax import relax as relax
    from alchemjax.tasks.sampling import anneal as anneal
    from alchemjax.tasks.sampling import ground_state as ground_state
    from alchemjax.tasks.sampling import sample as sample
    from alchemjax.tasks.sweep import Table as Table
    from alchemjax.tasks.sweep import sweep as sweep
    from alchemjax.tasks.transition import order_disorder as order_disorder
    from alchemjax.tasks.validate import validate as validate

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
    "elasticity": "tasks.elasticity",
    "Elasticity": "tasks.elasticity",
    "relaxed": "tasks.equilibrium",
    "Equilibrium": "tasks.equilibrium",
    "order": "tasks.order",
    "Order": "tasks.order",
    "optimise": "tasks.optimise",
    "Optimum": "tasks.optimise",
    "exponentiated_gradient": "tasks.descent",
    "decorate": "decorate",
    "check_optimum": "decorate",
    "Explicit": "decorate",
    "sweep": "tasks.sweep",
    "Table": "tasks.sweep",
    "md": "tasks.md",
    "Trajectory": "tasks.md",
    "jax_md": "tasks.jax_md",
    "Calculator": "atoms",
    "alloy": "tasks.alloy",
    "Alloy": "tasks.alloy",
    "doubts": "tasks.alloy",
    "random_energy": "tasks.alloy",
    "mean_square_displacements": "tasks.alloy",
    "strain_by_displacements": "tasks.alloy",
    "pair_fluctuations": "tasks.pairs",
    "interactions": "tasks.ordering",
    "concentration_waves": "tasks.ordering",
    "instability": "tasks.ordering",
    "spinodal": "tasks.ordering",
    "short_range_order": "tasks.ordering",
    "lattice_model": "tasks.ordering",
    "total_energy": "tasks.lattice",
    "box_strain": "tasks.lattice",
    "sample": "tasks.sampling",
    "anneal": "tasks.sampling",
    "ground_state": "tasks.sampling",
    "shells": "tasks.averages",
    "statistics": "tasks.averages",
    "long_range_order": "tasks.averages",
    "transition_temperature": "tasks.averages",
    "order_disorder": "tasks.transition",
    "validate": "tasks.validate",
    "Path": "tasks.free_energy.paths",
    "composition_path": "tasks.free_energy.paths",
    "mixing_entropy": "tasks.free_energy.paths",
    "einstein_path": "tasks.free_energy.paths",
    "vacancy_path": "tasks.free_energy.paths",
    "switch": "tasks.free_energy.switching",
    "Switching": "tasks.free_energy.switching",
    "windows": "tasks.free_energy.windows",
    "Windows": "tasks.free_energy.windows",
    "frenkel_ladd": "tasks.free_energy.frenkel_ladd",
    "FreeEnergy": "tasks.free_energy.frenkel_ladd",
    "infinite": "tasks.free_energy.frenkel_ladd",
    "phase": "tasks.free_energy.stability",
    "compare": "tasks.free_energy.stability",
    "Curve": "tasks.free_energy.stability",
    "Stability": "tasks.free_energy.stability",
    "vacancy": "tasks.free_energy.vacancy",
    "Vacancy": "tasks.free_energy.vacancy",
    "Estimate": "tasks.free_energy.estimators",
    "interval": "tasks.free_energy.estimators",
    "write_alloy": "commands.alloy_file",
    "read_alloy": "commands.alloy_file",
    "to_icet": "export",
    "to_smol": "export",
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
