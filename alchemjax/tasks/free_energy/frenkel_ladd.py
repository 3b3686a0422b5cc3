"""Absolute free energies of crystals: Frenkel and Ladd's path to an Einstein crystal, with every term of its own."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from alchemjax.calculate import precision, topology_of
from alchemjax.energy import energy
from alchemjax.model.load import Potential
from alchemjax.system.masses import node_masses
from alchemjax.system.structure import volume, wrapped
from alchemjax.system.symmetry import TOLERANCE, find_symmetry, kinds_of
from alchemjax.system.system import System, checked_alpha, checked_weights
from alchemjax.tasks.free_energy.estimators import Estimate
from alchemjax.tasks.free_energy.paths import Path, einstein_path, mixing_entropy
from alchemjax.tasks.free_energy.switching import Switching, log_masses, squared_displacements, switch
from alchemjax.tasks.free_energy.windows import Windows, windows
from alchemjax.tasks.md import recorded_run
from alchemjax.tasks.md_plan import make_plan, masses_of
from alchemjax.tasks.seeds import seed_of
from alchemjax.units import FS, KELVIN

HBAR = 0.6582119569 * FS  # eV times the unit of time in which eV, A and amu are units (CODATA 2018: eV fs)
METHODS: dict[str, Callable] = {"switch": switch, "windows": windows}
LOOSE = 0.05  # A
MEASURED = 9  # number of the seed of the run that measures springs
NOISE = 1e-6  # of the largest frequency, squared
AT_ONCE = 8  # columns of a dynamical matrix


class FreeEnergy(NamedTuple):
    """Helmholtz free energy of a crystal at one volume, classical, and its parts [eV]: `einstein` + `difference`."""

    total: Estimate
    einstein: float  # of springs and momenta, the centre of mass in the volume of a primitive cell included
    centre: float  # of it what the centre of mass adds, which springs leave free
    difference: float  # of the crystal from the springs
    quantum: float | None  # what a harmonic crystal gains from quantum mechanics; not in `total`
    mixing: float  # -T S of mixed sites that are occupied independently; not in `total`
    stiffness: Float[np.ndarray, "sites"]  # of the springs [eV/A^2]
    cells: int  # primitive ones
    path: Switching | Windows  # how the difference was found
    doubts: tuple[str, ...]


def einstein_free_energy(stiffness, share, masses, cell_volume: float, kT: float) -> float:
    """Classical free energy of springs about a free centre, which has the volume of a primitive cell to itself [eV].

    F/kT = sum_i 3 ln L_i - 3/2 sum_i ln(2 pi kT / k_i) + 3/2 ln(2 pi kT sum_i c_i^2 / k_i) - ln V_p,
    L_i = h / sqrt(2 pi m_i kT)

    J. M. Polson, E. Trizac, S. Pronk, D. Frenkel, J. Chem. Phys. 112, 5339 (2000), eqs. (14)-(20), for springs that
    leave the displacement sum_i c_i u_i free. Errors: ValueError for springs that are not positive.
    """
    k, m = (np.asarray(a, np.float64) for a in (stiffness, masses))
    if not (k > 0).all():
        raise ValueError("every site of an Einstein crystal needs a spring; stiffness must be positive")
    return float(np.sum(tied_free_energy(k, m, kT)) + centre_free_energy(k, share, cell_volume, kT))


def centre_free_energy(stiffness, share, cell_volume: float, kT: float) -> float:
    """What the free centre adds to an Einstein crystal, the last two terms of `einstein_free_energy` [eV]."""
    spread = np.sum(np.asarray(share, np.float64) ** 2 / stiffness)
    return float(kT * (1.5 * np.log(2 * np.pi * kT * spread) - np.log(cell_volume)))


def tied_free_energy(stiffness, mass, kT: float):
    """Classical free energy of an atom that only a spring holds: 3 kT ln(hbar omega / kT), omega^2 = k/m [eV]."""
    return 1.5 * kT * np.log(HBAR**2 * stiffness / (mass * kT**2))


def frenkel_ladd(
    potential: Potential,
    system: System,
    weights=None,
    *,
    temperature: float,
    stiffness=None,
    measuring: float = 2000.0,
    method: str = "switch",
    quantum: bool = True,
    cells: int | None = None,
    on_chunk: Callable | None = None,
    timestep: float = 1.0,
    seed: int = 0,
    **options,
) -> FreeEnergy:
    """Helmholtz free energy of a crystal in the cell that it has.

    `stiffness` [eV/A^2], one or one for each site; by default 3 kT / <u^2>, the mean over equivalent sites in a run of
    `measuring` fs; "hessian": the same of the harmonic crystal, without a run.
    `method`: "switch" with `options` of `plan_switch`, or "windows" with those of `plan_windows`.
    `quantum`: whether to calculate frequencies of the structure as it is, for the correction (not with
    `fluctuations`, of which there are none). `cells`: how many
    primitive cells the lattice has, by default those of the structure's pure translations.

    D. Frenkel, A. J. C. Ladd, J. Chem. Phys. 81, 3188 (1984); R. Freitas, M. Asta, M. de Koning, Comput. Mater. Sci.
    112, 333 (2016). Errors: ValueError as in `md`, or without a volume.
    """
    if method not in METHODS:
        raise ValueError(f"method '{method}' is unknown; use {', '.join(METHODS)}")
    if "cell" in options:
        raise ValueError("the cell stays as it is on the way to springs; find its mean size before, with md")
    kT = temperature * KELVIN
    check_volume(system)
    weights = checked_weights(system, system.weights if weights is None else weights)
    system = system._replace(weights=weights)
    common = {"temperature": temperature, "timestep": timestep, "seed": seed}
    if stiffness is None:
        stiffness = measured_stiffness(potential, system, duration=measuring, **common)
    elif isinstance(stiffness, str):
        stiffness = harmonic_stiffness(potential, system, stiffness)
    path = einstein_path(system, stiffness, weights)
    found = METHODS[method](potential, system, path, on_chunk=on_chunk, **common, **options)
    quantum = quantum and options.get("fluctuations", "none") == "none"  # it is that of the mean field
    return assembled(potential, system, path, found, kT, quantum=quantum, cells=cells)


def assembled(
    potential: Potential, system: System, path: Path, found, kT: float, *, quantum: bool, cells: int | None = None
) -> FreeEnergy:
    """The free energy from the difference that a `Switching` or `Windows` has found along the path to springs."""
    masses = np.exp(log_masses(system, path.weights[0]))
    space = check_volume(system)
    doubts = found.doubts
    if cells is None:
        cells, loose = primitive_cells(system), primitive_cells(system, LOOSE)
        if loose != cells:
            doubts = (
                *doubts,
                f"the structure has {cells} primitive cells, but {loose} if sites may be {LOOSE:g} A away: symmetrise "
                "it (or, in Python, give cells); the free energy has a term -kT ln(V / cells)",
            )
    reference = einstein_free_energy(path.stiffness[-1], path.share, masses, space / cells, kT)
    way, correction = found.difference, None
    if quantum:
        try:
            correction = quantum_correction(potential, system, kT)
        except ValueError as error:
            doubts = (*doubts, f"no quantum correction: {error}")
    return FreeEnergy(
        total=way._replace(value=reference - way.value),
        einstein=reference,
        centre=centre_free_energy(path.stiffness[-1], path.share, space / cells, kT),
        difference=-way.value,
        quantum=correction,
        mixing=-kT / KELVIN * mixing_entropy(system, path.weights[0]),
        stiffness=path.stiffness[-1],
        cells=cells,
        path=found,
        doubts=doubts,
    )


def check_volume(system: System) -> float:
    """Volume of the cell [A^3]. Errors: ValueError unless the structure is periodic in all directions."""
    space = volume(system.structure)
    if space is None or not system.structure.pbc.all():
        raise ValueError("the free energy of a crystal needs one that is periodic in all directions; this is none")
    return space


def primitive_cells(system: System, tolerance: float = TOLERANCE) -> int:
    """How many primitive cells the structure has: its pure translations, to a tolerance [A]."""
    found = find_symmetry(wrapped(system.structure), kinds_of(system.sites, system.weights), tolerance)
    return int((found.rotation == np.eye(3, dtype=int)).all((1, 2)).sum())


def measured_stiffness(
    potential: Potential, system: System, *, temperature: float, duration: float, timestep: float, seed: int
) -> np.ndarray:
    """Springs [eV/A^2] of `stiffness_of` from a run of half equilibration and half measurement, `duration` fs each."""
    every = max(1, round(20 / timestep))
    steps = max(2 * every, round(duration / timestep / every) * every)
    common = {"timestep": timestep, "temperature": temperature, "every": every, "seed": seed_of(seed, MEASURED)}
    plan = make_plan(potential, system, steps=2 * steps, replicas=2, **common)
    run = recorded_run(potential, plan)
    squares = squared_displacements(plan, run)
    return stiffness_of(system, squares[run.step > steps].mean((0, 1)), temperature * KELVIN)


def stiffness_of(system: System, squares: Float[np.ndarray, "sites"], kT: float) -> Float[np.ndarray, "sites"]:
    """k = 3 kT / <u^2> [eV/A^2], mean-square displacements averaged over equivalent sites."""
    first = find_symmetry(wrapped(system.structure), kinds_of(system.sites, system.weights)).first
    mean = np.bincount(first, squares, len(first)) / np.maximum(np.bincount(first, minlength=len(first)), 1)
    return 3 * kT / mean[first]


def harmonic_stiffness(potential: Potential, system: System, name: str = "hessian") -> Float[np.ndarray, "sites"]:
    """Springs [eV/A^2] of `stiffness_of` with <u^2> = kT trace of a site's block of the inverse Hessian.

    Errors: ValueError for another name, and for a structure that is no minimum of the energy.
    """
    if name != "hessian":
        raise ValueError(f"stiffness = {name!r:.40} is not understood; give numbers [eV/A^2], or 'hessian'")
    sites = len(system.structure.positions)
    inner = _inner(np.ones(sites))
    values, modes = np.linalg.eigh(inner @ hessian_of(potential, system) @ inner.T)
    if not values[0] > NOISE * values[-1]:
        raise ValueError(
            "the structure has imaginary frequencies, or soft ones, so that no springs follow from its Hessian; relax "
            "it, or let a run measure displacements (--springs motion; in Python stiffness=None)"
        )
    squares = np.sum((modes.T @ inner) ** 2 / values[:, None], axis=0).reshape(sites, 3).sum(axis=1)
    return stiffness_of(system, squares, 1.0)


# --- quantum mechanics ------------------------------------------------------------------------------------------------


def quantum_correction(potential: Potential, system: System, kT: float) -> float:
    """kT sum ln(2 sinh(x/2) / x), x = hbar omega / kT, over the vibrations of the structure [eV].

    Errors: ValueError for a structure with imaginary frequencies.
    """
    squares = squared_frequencies(potential, system)
    if (squares < -1e-3 * squares.max()).any():
        raise ValueError(
            "the structure has imaginary frequencies, so that no harmonic crystal is near; relax its positions, if it "
            "has a minimum"
        )
    x = HBAR * np.sqrt(squares[squares > NOISE * squares.max()]) / kT
    return float(kT * np.sum(x / 2 + np.log(-np.expm1(-x)) - np.log(x)))


def squared_frequencies(potential: Potential, system: System) -> Float[np.ndarray, "modes"]:
    """Of the vibrations of the structure without those of all sites together [1/time^2], ascending."""
    masses = masses_of(system, checked_weights(system), node_masses(system.sites))
    three = np.repeat(masses, 3)
    inner = _inner(np.sqrt(masses))
    return np.linalg.eigvalsh(inner @ (hessian_of(potential, system) / np.sqrt(np.outer(three, three))) @ inner.T)


def _inner(amounts: Float[np.ndarray, "sites"]) -> Float[np.ndarray, "modes coordinates"]:
    """Orthonormal directions other than those in which all sites move together, by these amounts."""
    rigid = np.kron(amounts[:, None], np.eye(3))
    return np.linalg.svd(np.linalg.qr(rigid)[0].T)[2][3:]


def hessian_of(potential: Potential, system: System) -> Float[np.ndarray, "coordinates coordinates"]:
    """Second derivatives of the energy by positions [eV/A^2]."""
    structure = wrapped(system.structure)
    weights = checked_weights(system, system.weights)
    topology = topology_of(potential, system._replace(structure=structure))
    with precision(potential):
        numbers = (structure.positions, structure.cell, weights, checked_alpha(system, weights, None))
        run = _compiled(potential.node_energies, potential.config)
        matrix = np.asarray(run(potential.params, topology, *(jnp.asarray(a, potential.dtype) for a in numbers)))
    matrix = np.asarray(matrix, np.float64).reshape(3 * len(structure.positions), -1)
    return (matrix + matrix.T) / 2


@lru_cache(maxsize=32)
def _compiled(node_energies, config):
    def of(params, topology, positions, cell, weights, alpha):
        slope = jax.grad(lambda x: energy(node_energies, config, params, topology, x, cell, weights, alpha)[0])
        column = lambda direction: jax.jvp(slope, (positions,), (direction.reshape(positions.shape),))[1]
        return jax.lax.map(column, jnp.eye(positions.size, dtype=positions.dtype), batch_size=AT_ONCE)

    return jax.jit(of)


# --- sizes ------------------------------------------------------------------------------------------------------------


def infinite(sites, energies, errors, *, temperature: float) -> Estimate:
    """Free energy per site of the infinite crystal [eV], from free energies per site of crystals of several sizes.

    Its `samples` are infinite: its error follows from those that are given, whatever is behind them.

    F/N = f - kT ln(N) / 2N + b/N, fitted by f and b: a free centre of mass and the long waves that are missing give the
    logarithm. J. M. Polson et al., J. Chem. Phys. 112, 5339 (2000), who have ln(N)/N from the ideal gas.

    Errors: ValueError for fewer than two sizes.
    """
    sites, energies, errors = (np.asarray(a, np.float64) for a in (sites, energies, errors))
    if len(set(sites.tolist())) < 2:
        raise ValueError("one size says nothing of the infinite crystal; give the free energies of at least two")
    matrix = np.stack([np.ones_like(sites), 1 / sites], axis=1) / errors[:, None]
    spread = np.linalg.inv(matrix.T @ matrix)
    linear = energies + temperature * KELVIN * np.log(sites) / (2 * sites)
    value = (spread @ matrix.T @ (linear / errors))[0]
    return Estimate(float(value), float(np.sqrt(spread[0, 0])), np.inf)
