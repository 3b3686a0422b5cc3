"""The relaxed state as a differentiable function of composition; traced.

At rest the enthalpy G = E + p V has no slope along positions and strain, y. So (implicit function theorem)

    dG/dy (y, w) = 0        dy/dw = -(d2G/dy2)^-1 d2G/dy dw

and the same for the coupling's alpha. The linear equations are solved by conjugate gradients with Hessian-vector
products; what translations, and rotations of molecules and chains, would add is left out. Derivatives of any order and
in both directions go through it.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from alchemjax.calculate import (
    check_kind,
    checked_numbers,
    derivatives,
    precision,
    topology_of,
    with_fluctuations,
)
from alchemjax.energy import energy
from alchemjax.model.load import Potential
from alchemjax.system.fluctuations import Variants
from alchemjax.system.structure import volume, wrapped
from alchemjax.system.system import System
from alchemjax.system.topology import Topology
from alchemjax.tasks.fire import Limits, initial_state, outran, run, strained
from alchemjax.tasks.freedom import Freedom, keeps_symmetry, make_freedom
from alchemjax.tasks.relax import make_limits

REACH = 0.8  # A, skin of the one list of neighbours that a relaxation has
NEWTON = 8  # most steps of Newton's method after FIRE
EXACT = {"float32": 1e-2, "float64": 1e-9}  # of the force tolerance: a slope at which they end, near the noise
SOLVED = {"float32": 1e-5, "float64": 1e-12}  # relative residual at which conjugate gradients end
UNSOLVED = 1e3  # a residual so many times as large is a failure
MOST_SOLVING = 1000  # steps of conjugate gradients
ZERO = 1e-4  # of the largest singular value; what rotates a linear molecule about its axis has less


class Equilibrium(NamedTuple):
    """A relaxed state; all numbers but those that judge it are differentiable. See `relaxed`."""

    positions: Float[Array, "sites 3"]  # A
    cell: Float[Array, "3 3"]  # A
    weights: Float[Array, "weights"]
    energy: Float[Array, ""]  # eV
    forces: Float[Array, "sites 3"]  # eV/A
    stress: Float[Array, "3 3"] | None  # eV/A^3, tension positive; None without a cell volume
    converged: Bool[Array, ""]
    steps: Int[Array, ""]  # of FIRE
    max_force: Float[Array, ""]  # eV/A, over what may move
    max_stress: Float[Array, ""]  # eV/A^3, of the allowed stress plus pressure
    listed: Bool[Array, ""]  # False where sites left their list of neighbours; start nearer to the state


class Verdict(NamedTuple):
    """How good a state is; as in `Equilibrium`."""

    converged: Bool[Array, ""]
    steps: Int[Array, ""]
    max_force: Float[Array, ""]
    max_stress: Float[Array, ""]
    listed: Bool[Array, ""]


class Kind(NamedTuple):
    """What is static under jit."""

    node_energies: Callable
    config: Any
    pbc: tuple[bool, ...]


class Problem(NamedTuple):
    """What the state at rest depends on."""

    params: dict
    topology: Topology | Variants
    positions: Float[Array, "sites 3"]  # reference positions where the topology was made [A]
    strain: Float[Array, "6"]  # and the strain there
    cell: Float[Array, "3 3"]  # unstrained
    freedom: Freedom
    limits: Limits
    weights: Float[Array, "weights"]
    alpha: Float[Array, ""]


class Variables(NamedTuple):
    """What a relaxation moves: x = X (1 + S), cell = cell_0 (1 + S)."""

    reference: Float[Array, "sites 3"]  # X [A]
    strain: Float[Array, "6"]  # amplitudes of the allowed strains, times the square root of the number of sites [A]


def relaxed(
    potential: Potential,
    system: System,
    weights=None,
    *,
    alpha=None,
    positions: bool = True,
    cell=False,
    pressure: float = 0.0,
    fixed_sites=(),
    fixed_axes=(),
    force_tolerance: float = 0.005,
    stress_tolerance: float = 5e-6,
    max_steps: int = 500,
    fluctuations: str = "none",
    supercell=None,
) -> Equilibrium:
    """The state of `relax` as a function of `weights` and `alpha` that JAX differentiates, compiles and maps.

    Arguments as in `relax`; derivatives are those of the exact minimum next to which the relaxation ends (Newton's
    method makes its residual as small as the dtype allows), without and with `jax.jit` and `jax.vmap`. Give `system` a
    structure near the relaxed one, as `relax` finds: the list of neighbours is made there, once, and holds for strains
    of some 7 per cent. A state that needs more has `converged` False, as one that needs more than `max_steps`.
    Derivatives of a state that is not converged are NaN, and so are derivatives that do not exist.

    Errors: ValueError as in `relax`; values of traced weights are not checked.
    """
    free = {"positions": positions, "cell": cell, "fixed_sites": fixed_sites, "fixed_axes": fixed_axes}
    limits = {"force": force_tolerance, "stress": stress_tolerance, "steps": max_steps, "pressure": pressure}
    symmetric = keeps_symmetry(cell, fixed_sites, fixed_axes)
    chosen = {"kind": fluctuations, "supercell": supercell, "symmetric": symmetric}
    found = evaluated(equilibrium, potential, system, weights, alpha, free, limits, chosen)
    return found._replace(stress=None) if volume(system.structure) is None else found


def evaluated(of: Callable, potential: Potential, system: System, weights, alpha, free, limits, fluctuations):
    """`of(kind, problem, offset)` compiled, in NumPy's arrays unless something is traced.

    The last three are arguments of `make_freedom`, `make_limits` and `with_fluctuations`.
    """
    kind, problem, offset, traced = prepared(potential, system, weights, alpha, free, limits, fluctuations)
    with precision(potential):
        found = _compiled(of, kind)(problem, offset)
        return found if traced else jax.tree.map(np.asarray, found)


def prepared(potential: Potential, system: System, weights, alpha, free, limits, fluctuations):
    """Kind, problem, the offset [A] from its sites, near the origin, to the given ones, and whether it is traced."""
    check_kind(potential, Potential)
    check_kind(system, System)
    freedom = make_freedom(system.structure, **free)
    limits = make_limits(system, freedom, **limits)
    system = with_fluctuations(potential, system, **fluctuations)
    weights, alpha, traced = checked_numbers(potential, system, weights, alpha)
    structure = wrapped(system.structure)
    topology = topology_of(potential, system._replace(structure=structure), skin=REACH)
    kind = Kind(potential.node_energies, potential.config, tuple(structure.pbc.tolist()))
    with precision(potential):
        cast = lambda a: jnp.asarray(a, potential.dtype)
        positions, cell = cast(structure.positions), cast(structure.cell)
        freedom, limits, weights, alpha = jax.tree.map(cast, (freedom, limits, weights, alpha))
        limits = limits._replace(steps=limits.steps.astype(int))
        still = jnp.zeros(6, potential.dtype)
        problem = Problem(potential.params, topology, positions, still, cell, freedom, limits, weights, alpha)
        return kind, problem, cast(system.structure.positions - structure.positions), traced


@lru_cache(maxsize=32)
def _compiled(of: Callable, kind: Kind):
    return jax.jit(partial(of, kind))


def equilibrium(kind: Kind, problem: Problem, offset) -> Equilibrium:
    """The relaxed state; traced."""
    return described(kind, problem, offset, *at_rest(kind, problem))


def described(kind: Kind, problem: Problem, offset, y: Variables, verdict: Verdict) -> Equilibrium:
    """What there is to know about a state."""
    out = derivatives(*kind[:2], *problem[:2], *place(problem, y), problem.weights, problem.alpha)
    positions, cell = place(problem, y._replace(reference=y.reference + offset))
    return Equilibrium(
        positions=positions,
        cell=cell,
        weights=problem.weights,
        energy=out.energy,
        forces=-out.positions,
        stress=out.strain / jnp.abs(jnp.linalg.det(cell)),
        **verdict._asdict(),
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def at_rest(kind: Kind, problem: Problem) -> tuple[Variables, Verdict]:
    """Where the slope is zero."""
    one = lambda tree: jax.tree.map(lambda a: a[None], tree)
    state = initial_state(problem.positions, len(problem.weights))
    state = one(state._replace(strain=problem.strain, listed_strain=problem.strain, stale=jnp.zeros((), bool)))
    skin = jnp.asarray(REACH, problem.cell.dtype)
    state = run(
        *kind[:2], problem.params, one(problem.topology), problem.cell, problem.freedom, problem.limits, skin,
        one(problem.weights), one(problem.alpha), problem.limits.steps + 1, state,
    )  # fmt: skip
    state = jax.tree.map(lambda a: a[0], state)
    start = Variables(state.reference, state.strain * scale(problem))
    enough = EXACT[str(start.strain.dtype)] * problem.limits.force

    def newton(carry):
        """Where the last step led becomes the state if it halved the slope; then the next step."""
        y, least, there, _, number = carry
        slope, along = jax.linearize(partial(_slope, kind, problem), there)
        better = _norm(slope) < _norm(least) / 2
        y, least = jax.tree.map(partial(jnp.where, better), (there, slope), (y, least))
        going = better & state.converged & (_norm(slope) > enough)
        left = jax.tree.map(lambda a: jnp.where(going, a, 0), slope)  # of nothing the solution costs nothing
        there = jax.tree.map(jnp.subtract, there, _solution(kind, problem, there, along, left))
        return y, least, there, going, number + 1

    steep = jax.tree.map(lambda a: jnp.full_like(a, jnp.inf), start)
    carry = start, steep, start, jnp.ones((), bool), jnp.zeros((), int)
    y, slope, *_ = lax.while_loop(lambda carry: carry[3] & (carry[4] < NEWTON), newton, carry)
    state = state._replace(reference=y.reference, strain=y.strain / scale(problem))
    force, stress = _left(problem, y, slope)
    listed = ~outran(kind.config.cutoff, skin, problem.cell, problem.freedom, state)
    converged = state.converged & (force <= problem.limits.force) & (stress <= problem.limits.stress) & listed
    return y, Verdict(converged, state.step, force, stress, listed)


@partial(at_rest.defjvp, symbolic_zeros=True)
def _at_rest_jvp(kind: Kind, primals, tangents):
    """dy = -(d2G/dy2)^-1 (d2G/dy dproblem) dproblem"""
    (problem,), (change,) = primals, tangents
    y, verdict = at_rest(kind, problem)
    leaves, tree = jax.tree.flatten(problem)
    changes = tree.flatten_up_to(change)
    moving = [k for k, d in enumerate(changes) if not isinstance(d, SymbolicZero)]

    def slope_with(y, *moved):
        every = dict(enumerate(leaves)) | dict(zip(moving, moved, strict=True))
        return _slope(kind, tree.unflatten(every.values()), y)

    _, along = jax.linearize(slope_with, y, *(leaves[k] for k in moving))
    still = jax.tree.map(jnp.zeros_like, (y, *(leaves[k] for k in moving)))
    pushed = along(still[0], *(changes[k] for k in moving))
    answer = response(kind, problem, y, lambda y: along(y, *still[1:]), pushed)
    sign = jnp.where(verdict.converged, -1, jnp.nan)  # as a factor it also is there backwards
    answer = jax.tree.map(lambda a: sign.astype(a.dtype) * a, answer)
    none = lambda a: jnp.zeros_like(a) if jnp.issubdtype(a.dtype, jnp.floating) else np.zeros((), jax.dtypes.float0)
    return (y, verdict), (answer, jax.tree.map(none, verdict))


def place(problem: Problem, y: Variables):
    """(positions, cell)"""
    return strained(problem.cell, y.reference, y.strain / scale(problem), problem.freedom.strains)


def curvature(kind: Kind, problem: Problem, y: Variables) -> Callable:
    """The Hessian d2G/dy2, a linear function of Variables."""
    return jax.linearize(partial(_slope, kind, problem), y)[1]


def response(kind: Kind, problem: Problem, y: Variables, along: Callable, force: Variables) -> Variables:
    """The solution of along(response) = force, `along` being the curvature; NaN where there is none."""
    flat = lambda y: jnp.concatenate([y.reference.ravel(), y.strain])  # one array: all of it or none is differentiated
    full = lambda a: Variables(a[:-6].reshape(force.reference.shape), a[-6:])
    solve = lambda linear, right: flat(_solution(kind, problem, y, lambda z: full(linear(flat(z))), full(right)))
    return full(lax.custom_linear_solve(lambda a: flat(along(full(a))), flat(force), solve, symmetric=True))


def _slope(kind: Kind, problem: Problem, y: Variables) -> Variables:
    """dG/dy"""

    def enthalpy(y):
        x, cell = place(problem, y)
        total = energy(*kind[:2], problem.params, problem.topology, x, cell, problem.weights, problem.alpha)[0]
        return total + problem.limits.pressure * jnp.abs(jnp.linalg.det(cell))

    by = jax.grad(enthalpy)(y)
    return by._replace(reference=by.reference * problem.freedom.free)


def _left(problem: Problem, y: Variables, slope: Variables):
    """The largest force and stress that are left, over what may move."""
    strains, (_, cell) = problem.freedom.strains, place(problem, y)
    deformation = jnp.eye(3, dtype=cell.dtype) + jnp.einsum("k,kxy->xy", y.strain / scale(problem), strains)
    forces = slope.reference @ jnp.linalg.inv(deformation).T
    space = jnp.abs(jnp.linalg.det(cell))
    stress = jnp.einsum("k,kxy->xy", slope.strain * scale(problem), strains) / jnp.where(space > 0, space, 1.0)
    return jnp.sqrt(jnp.max(jnp.sum(forces**2, axis=-1))), jnp.max(jnp.abs(stress))


def _solution(kind: Kind, problem: Problem, at: Variables, along: Callable, right: Variables) -> Variables:
    """x with along(x) = right, both without fixed sites and what moves all alike; NaN where there is none."""
    tolerance = SOLVED[str(right.strain.dtype)]
    modes = _zero_modes(kind.pbc, problem, at.reference)

    def without(y: Variables) -> Variables:
        free = y.reference * problem.freedom.free  # backwards there are forces on fixed sites
        own = jnp.einsum("msx,sx->m", modes, free)
        return y._replace(reference=free - jnp.einsum("m,msx->sx", own, modes))

    right = without(right)
    goal = tolerance * _norm(right)

    def iterate(carry):
        """A step of conjugate gradients; when those are through, the true residual. One program for both."""
        x, rest, way, _, number = carry
        last = ~(_norm(rest) > goal) | (number >= MOST_SOLVING)
        pushed = without(along(jax.tree.map(partial(jnp.where, last), x, way)))
        square, steep = _norm(rest) ** 2, _dot(way, pushed)
        length = square / jnp.where(steep == 0, 1, steep)
        moved = jax.tree.map(lambda a, b: a + length * b, x, way)
        left = jax.tree.map(lambda a, b: a - length * b, rest, pushed)
        way = jax.tree.map(lambda a, b: a + _norm(left) ** 2 / jnp.where(square == 0, 1, square) * b, left, way)
        missing = _norm(jax.tree.map(jnp.subtract, right, pushed))
        x, rest = jax.tree.map(partial(jnp.where, last), (x, rest), (moved, left))
        return x, rest, way, jnp.where(last, missing, jnp.inf), number + 1

    nothing = jax.tree.map(jnp.zeros_like, right)
    start = nothing, right, right, jnp.asarray(jnp.inf, goal.dtype), jnp.zeros((), int)
    x, _, _, missing, _ = lax.while_loop(lambda carry: jnp.isinf(carry[3]), iterate, start)
    return jax.tree.map(lambda a: jnp.where(missing <= UNSOLVED * goal, a, jnp.nan), x)


def _zero_modes(pbc, problem: Problem, x) -> Float[Array, "modes sites 3"]:
    """Orthonormal displacements that cost no energy: translations, and rotations of molecules and chains."""
    axes = jnp.eye(3, dtype=x.dtype)
    modes = jnp.broadcast_to(axes[:, None], (3, *x.shape))
    if sum(pbc) < 2:
        turning = problem.cell[np.array(pbc)] if any(pbc) else axes
        modes = jnp.concatenate([modes, jnp.cross(turning[:, None], (x - jnp.mean(x, axis=0, keepdims=True))[None])])
    left, size, _ = jnp.linalg.svd(modes.reshape(len(modes), -1).T, full_matrices=False)
    kept = (size > ZERO * size[0]) & (problem.freedom.free == 1).all()
    return (left * kept[None]).T.reshape(-1, *x.shape)


def scale(problem: Problem) -> float:
    """A, of a strain, so that it is about as stiff as a site."""
    return len(problem.positions) ** 0.5


def _dot(one: Variables, two: Variables):
    return jnp.sum(one.reference * two.reference) + jnp.sum(one.strain * two.strain)


def _norm(y: Variables):
    return jnp.sqrt(_dot(y, y))
