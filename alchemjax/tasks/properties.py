"""Properties of the relaxed material as functions of its state; traced, differentiable in composition."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alchemjax.model.load import Potential
from alchemjax.system.corners import FULL, amount_means, corner_fractions, corners
from alchemjax.system.masses import node_masses
from alchemjax.system.sites import by_group
from alchemjax.system.structure import volume
from alchemjax.system.system import System
from alchemjax.tasks.elasticity import Elasticity
from alchemjax.tasks.equilibrium import Equilibrium
from alchemjax.tasks.relax import relax
from alchemjax.units import EV_PER_A3_IN_GPA

AMU_PER_A3 = 1.66053906660  # in g/cm^3 (CODATA 2018)
STRESSES = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}


class Facts(NamedTuple):
    """What properties need to know of a system besides its state."""

    masses: Float[Array | np.ndarray, "weights"]  # of all sites that a weight drives [amu]
    mass: Float[Array | np.ndarray, ""]  # of ordinary atoms
    sites: Float[Array | np.ndarray, ""]  # their number
    means: tuple = ()  # of weights to amounts, as `corner_fractions` takes them
    ends: Float[Array | np.ndarray, "corners"] | None = None  # enthalpies of the end members [eV]
    pressure: Float[Array | np.ndarray, ""] | float = 0.0  # eV/A^3


class Property(NamedTuple):
    """A number that can be a target."""

    of: Callable[[Facts, Equilibrium, Elasticity | None], Float[Array, ""]]
    unit: str
    tolerance: float  # within which a target counts as reached
    meaning: str
    elastic: bool = False  # whether elastic constants are needed
    needs_cell: bool = True


def _length(k: int) -> Callable:
    return lambda facts, state, elastic: jnp.linalg.norm(state.cell[k])


def _angle(i: int, j: int) -> Callable:
    def of(facts, state, elastic):
        a, b = state.cell[i], state.cell[j]
        return jnp.degrees(jnp.arccos(a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))))

    return of


def _volume(facts, state, elastic):
    return jnp.abs(jnp.linalg.det(state.cell))


def _density(facts: Facts, state, elastic):
    return AMU_PER_A3 * (facts.mass + state.weights @ facts.masses) / _volume(facts, state, elastic)


def _energy(facts: Facts, state, elastic):
    return state.energy / facts.sites


def _mixing_energy(facts: Facts, state, elastic):
    enthalpy = state.energy + facts.pressure * _volume(facts, state, elastic)
    return (enthalpy - corner_fractions(facts.means, state.weights) @ facts.ends) / facts.sites


def _pressure(facts, state, elastic):
    return -EV_PER_A3_IN_GPA * jnp.trace(state.stress) / 3


def _stress(place: tuple[int, int]) -> Callable:
    return lambda facts, state, elastic: EV_PER_A3_IN_GPA * state.stress[place]


def _modulus(name: str) -> Callable:
    unit = 1.0 if name == "poisson" else EV_PER_A3_IN_GPA
    return lambda facts, state, elastic: unit * getattr(elastic, name)


def _constant(i: int, j: int) -> Callable:
    return lambda facts, state, elastic: EV_PER_A3_IN_GPA * elastic.tensor[i, j]


PROPERTIES: dict[str, Property] = {
    **{name: Property(_length(k), "A", 1e-3, f"length of the lattice vector {name}") for k, name in enumerate("abc")},
    "alpha": Property(_angle(1, 2), "degree", 0.01, "angle between the lattice vectors b and c"),
    "beta": Property(_angle(0, 2), "degree", 0.01, "angle between the lattice vectors a and c"),
    "gamma": Property(_angle(0, 1), "degree", 0.01, "angle between the lattice vectors a and b"),
    "volume": Property(_volume, "A^3", 0.05, "volume of the cell"),
    "density": Property(_density, "g/cm^3", 1e-3, "mass by volume"),
    "energy": Property(_energy, "eV/site", 1e-3, "energy per site", needs_cell=False),
    "mixing_energy": Property(
        _mixing_energy,
        "eV/site",
        1e-3,
        "energy per site (under a pressure: enthalpy) minus that of the end members, weighted",
        needs_cell=False,
    ),
    "pressure": Property(_pressure, "GPa", 0.01, "minus a third of the trace of the stress"),
    **{
        f"stress_{name}": Property(_stress(place), "GPa", 0.01, f"stress {name}, tension positive")
        for name, place in STRESSES.items()
    },
    "bulk_modulus": Property(_modulus("bulk_hill"), "GPa", 0.5, "bulk modulus of the polycrystal (Hill)", True),
    "shear_modulus": Property(_modulus("shear_hill"), "GPa", 0.5, "shear modulus of the polycrystal (Hill)", True),
    "youngs_modulus": Property(_modulus("young"), "GPa", 0.5, "Young's modulus of the polycrystal (Hill)", True),
    "poisson_ratio": Property(_modulus("poisson"), "1", 2e-3, "Poisson's ratio of the polycrystal (Hill)", True),
    **{
        f"c{i + 1}{j + 1}": Property(_constant(i, j), "GPa", 0.5, f"elastic constant C{i + 1}{j + 1}", True)
        for i in range(6)
        for j in range(i, 6)
    },
}


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """Errors: ValueError for a name that is no property."""
    names = tuple(names)
    if unknown := [name for name in names if name not in PROPERTIES]:
        raise ValueError(f"'{unknown[0]}' is no property; there are {', '.join(n for n in PROPERTIES)}")
    return names


def facts_of(
    potential: Potential, system: System, names: Iterable[str], *, pressure: float = 0.0, **relaxation
) -> Facts:
    """What the named properties need to know; for the mixing energy all end members are relaxed.

    `relaxation`: options of `relax`. Errors: ValueError where a property does not exist.
    """
    names, sites = set(names), system.sites
    masses = np.zeros(len(system.weights) + 1)
    np.add.at(masses, sites.node_weight, node_masses(sites))
    facts = Facts(masses[:-1], np.asarray(masses[-1]), np.asarray(float(len(system.structure.positions))))
    if any(PROPERTIES[name].needs_cell for name in names) and volume(system.structure) is None:
        raise ValueError("lattice parameters, stress and elastic constants need a cell with a volume")
    if "mixing_energy" not in names:
        return facts
    ends = corners(sites)
    sums = [np.sum(part) for part in by_group(sites, system.weights)]
    if ends is None or np.abs(np.array(sums) - 1).max(initial=0) > FULL:
        raise ValueError("a mixing energy needs weights that sum to 1 in every group, and not too many end members")
    enthalpies = []
    for end in ends:
        relaxed = relax(potential, system, end, pressure=pressure, **relaxation)
        if not relaxed.converged:
            raise ValueError(f"the end member {end.tolist()} did not relax, which a mixing energy needs")
        space = volume(relaxed.structure) or 0.0
        enthalpies.append(float(relaxed.output.energy) + pressure * space)
    return facts._replace(means=amount_means(sites), ends=np.array(enthalpies), pressure=np.asarray(float(pressure)))


def properties_of(facts: Facts, names: Iterable[str], material: Equilibrium | Elasticity) -> dict:
    """The named numbers, in the units of `PROPERTIES`."""
    elastic = material if isinstance(material, Elasticity) else None
    state = material.state if isinstance(material, Elasticity) else material
    return {name: PROPERTIES[name].of(facts, state, elastic) for name in names}
