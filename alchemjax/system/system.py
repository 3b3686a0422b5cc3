"""A structure, its sites, and how neighbouring sites are coupled."""

from typing import NamedTuple

import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from alchemjax.system.fluctuations import Fluctuations
from alchemjax.system.sites import WEIGHT_TOLERANCE, Sites, flat_weights
from alchemjax.system.structure import Structure
from alchemjax.system.topology import COUPLINGS

UNBOUNDED = "published"  # the coupling that takes any weights


class System(NamedTuple):
    """Everything about the material except the composition that is asked for."""

    structure: Structure
    sites: Sites
    weights: Float[np.ndarray, "weights"]  # the composition used where none is given
    coupling: str = "independent"
    fluctuations: Fluctuations | None = None  # of single sites, about the mean composition


def make_system(structure: Structure, sites: Sites, weights, coupling: str = "independent") -> System:
    """Check and store. Errors: ValueError for an unknown coupling, wrong weights or a wrong number of sites."""
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling '{coupling}' is unknown; allowed are {', '.join(COUPLINGS)}")
    if sites.node_site[-1] + 1 != len(structure.positions):
        raise ValueError(f"{sites.node_site[-1] + 1} sites but {len(structure.positions)} positions were given")
    return System(structure, sites, flat_weights(sites, weights, bounded=coupling != UNBOUNDED), coupling)


def checked_weights(system: System, weights=None) -> np.ndarray:
    """The flat weights that were given, or else the system's own. Errors: ValueError for wrong weights."""
    weights = system.weights if weights is None else weights
    return flat_weights(system.sites, weights, bounded=system.coupling != UNBOUNDED)


def checked_alpha(system: System, weights, alpha):
    """Correlation between sites of one group: 0 for `independent`, the user's for `correlated`, 1 for the others.

    Without `weights`, or with a tracer, only what does not need the values is checked. Errors: ValueError if alpha is
    missing, not asked for, or outside -min_k w_k / (1 - w_k) <= alpha <= 1, vacancies being a species.
    """
    if system.coupling != "correlated":
        if alpha is not None:
            raise ValueError(f"alpha = {alpha} was given with coupling '{system.coupling}'; use coupling 'correlated'")
        return 0.0 if system.coupling == "independent" else 1.0
    if alpha is None:
        raise ValueError("coupling 'correlated' needs alpha, the Warren-Cowley parameter between sites of one group")
    if isinstance(alpha, Tracer):
        return alpha
    alpha = float(alpha)
    if np.isnan(alpha):
        raise ValueError("alpha = nan is not a number; give the Warren-Cowley parameter, at most 1")
    lowest = -np.inf if weights is None else _lowest_alpha(system.sites, weights)
    if not lowest - 1e-9 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha:.6g} makes a probability negative; allowed here is {lowest:.6g} to 1")
    return alpha


def _lowest_alpha(sites: Sites, weights) -> float:
    bounds, start = [-np.inf], 0
    for group in sites.groups:
        w = np.asarray(weights[start : start + len(group.species)])
        start += len(group.species)
        w = np.append(w, 1 - w.sum()) if w.sum() < 1 - WEIGHT_TOLERANCE else w
        bounds += [-max(x, 0.0) / (1 - x) for x in w if x < 1 - WEIGHT_TOLERANCE]
    return max(bounds) + 0.0  # -0.0 becomes 0.0
