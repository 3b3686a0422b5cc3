"""alchemjax: materials whose composition is a continuous, differentiable variable."""

from alchemjax.calculate import Output as Output
from alchemjax.calculate import calculate as calculate

__version__ = "0.1.0"
