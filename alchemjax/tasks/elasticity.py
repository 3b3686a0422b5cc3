"""Elastic constants of the relaxed crystal, atoms relaxed within the strained cell; differentiable in composition.

    C = (d2G/dS2 - d2G/dS du (d2G/du2)^-1 d2G/du dS) / V        G = E + p V

with S the engineering strains and u the displacements. Under a pressure these are the coefficients of stress and strain
(D. C. Wallace, Thermodynamics of Crystals (1972), ch. 2).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alchemjax.model.load import Potential
from alchemjax.system.system import System
from alchemjax.tasks.equilibrium import (
    Equilibrium,
    Kind,
    Problem,
    Variables,
    Verdict,
    at_rest,
    curvature,
    described,
    evaluated,
    place,
    response,
    scale,
)
from alchemjax.tasks.freedom import Freedom
from alchemjax.tasks.hessian import STRAINS


class Elasticity(NamedTuple):
    """Elastic constants in eV/A^3, Voigt order xx yy zz yz xz xy, and means over orientations of grains."""

    tensor: Float[Array, "6 6"]  # atoms relaxed
    clamped: Float[Array, "6 6"]  # atoms strained as the cell
    bulk_voigt: Float[Array, ""]
    bulk_reuss: Float[Array, ""]  # of a single crystal under hydrostatic pressure: -V dp/dV
    bulk_hill: Float[Array, ""]
    shear_voigt: Float[Array, ""]
    shear_reuss: Float[Array, ""]
    shear_hill: Float[Array, ""]
    young: Float[Array, ""]  # of the polycrystal, Hill
    poisson: Float[Array, ""]
    state: Equilibrium


def elasticity(
    potential: Potential,
    system: System,
    weights=None,
    *,
    alpha=None,
    pressure: float = 0.0,
    force_tolerance: float = 0.005,
    stress_tolerance: float = 5e-6,
    max_steps: int = 500,
    fluctuations: str = "none",
    supercell=None,
) -> Elasticity:
    """Elastic constants at 0 K of the crystal relaxed under `pressure` [eV/A^3], positions and cell.

    Traced and differentiable as `relaxed`, which see for the arguments. Everything is NaN if the relaxation did not
    converge. Errors: ValueError as in `relaxed`, and for a direction that is not periodic.

    R. Hill, Proc. Phys. Soc. A 65, 349 (1952), on the means of Voigt and Reuss.
    """
    check_crystal(system)
    limits = {"force": force_tolerance, "stress": stress_tolerance, "steps": max_steps, "pressure": pressure}
    chosen = {"kind": fluctuations, "supercell": supercell, "symmetric": False}  # all strains, also those that lower it
    return evaluated(_elasticity, potential, system, weights, alpha, {"cell": True}, limits, chosen)


def check_crystal(system: System) -> None:
    """Errors: ValueError for a direction that is not periodic."""
    if not system.structure.pbc.all():
        raise ValueError("elastic constants need a crystal that is periodic in all three directions")


def _elasticity(kind: Kind, problem: Problem, offset) -> Elasticity:
    return elasticity_at(kind, problem, offset, *at_rest(kind, problem))


def elasticity_at(kind: Kind, problem: Problem, offset, y: Variables, verdict: Verdict) -> Elasticity:
    """Elastic constants of a state, as `described` gives its energy; traced."""
    known = jnp.where(verdict.converged, 1, jnp.nan).astype(problem.cell.dtype)  # a factor: derivatives are NaN too
    clamped, relaxed = (known * tensor for tensor in _tensors(kind, problem, *place(problem, y)))
    return Elasticity(relaxed, clamped, *moduli(relaxed), described(kind, problem, offset, y, verdict))


def _tensors(kind: Kind, problem: Problem, x, cell):
    """Elastic constants with atoms clamped, and relaxed."""
    strains, everywhere = jnp.asarray(STRAINS, x.dtype), jnp.ones_like(x)
    here = problem._replace(positions=x, strain=jnp.zeros(6, x.dtype), cell=cell, freedom=Freedom(everywhere, strains))
    size = scale(here)  # of the strain in Variables
    along = jax.vmap(lambda e: Variables(jnp.zeros_like(x), size * e))(jnp.eye(6, dtype=x.dtype))
    start = Variables(x, jnp.zeros(6, x.dtype))
    curve = curvature(kind, here, start)
    pushed = jax.vmap(curve)(along)
    within = lambda y: y._replace(strain=jnp.zeros_like(y.strain))
    moved = jax.vmap(partial(response, kind, here, start, lambda y: within(curve(within(y)))))(within(pushed))
    volume, rigid = jnp.abs(jnp.linalg.det(cell)), size * pushed.strain
    softened = rigid - jnp.einsum("ksx,lsx->kl", pushed.reference, moved.reference)
    return rigid / volume, (softened + softened.T) / (2 * volume)


def moduli(tensor: Float[Array | np.ndarray, "6 6"]):
    """Bulk modulus (Voigt, Reuss, Hill), shear modulus (the same), Young's modulus and Poisson's ratio (Hill)."""
    compliance = jnp.linalg.inv(tensor)
    three = lambda c: (jnp.trace(c[:3, :3]), jnp.sum(c[:3, :3]) - jnp.trace(c[:3, :3]), jnp.trace(c[3:, 3:]))
    axial, cross, shear = three(tensor)
    bulk, stiff = (axial + cross) / 9, (axial - cross / 2) / 15 + shear / 5
    axial, cross, shear = three(compliance)
    soft_bulk, soft = 1 / (axial + cross), 15 / (4 * axial - 2 * cross + 3 * shear)
    bulk_hill, shear_hill = (bulk + soft_bulk) / 2, (stiff + soft) / 2
    young = 9 * bulk_hill * shear_hill / (3 * bulk_hill + shear_hill)
    poisson = (3 * bulk_hill - 2 * shear_hill) / (6 * bulk_hill + 2 * shear_hill)
    return bulk, soft_bulk, bulk_hill, stiff, soft, shear_hill, young, poisson
