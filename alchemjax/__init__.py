"""alchemjax: materials whose composition is a continuous, differentiable variable."""

from alchemjax.atoms import Calculator as Calculator
from alchemjax.atoms import from_atoms as from_atoms
from alchemjax.atoms import from_pymatgen as from_pymatgen
from alchemjax.atoms import to_atoms as to_atoms
from alchemjax.calculate import Output as Output
from alchemjax.calculate import calculate as calculate
from alchemjax.io import load as load
from alchemjax.io import read as read
from alchemjax.tasks.relax import Relaxed as Relaxed
from alchemjax.tasks.relax import relax as relax
from alchemjax.tasks.sweep import Table as Table
from alchemjax.tasks.sweep import sweep as sweep

__version__ = "0.1.0"
