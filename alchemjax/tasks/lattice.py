"""Arrangements of atoms on a lattice with pair interactions, which strains as a whole.

E = cells * energy + sum_i field_i[k_i] + 1/2 sum_(i != j) V_ij[k_i, k_j]         i, j: all sites, k_i: their states
    + min_e (F e + 1/2 e C e) = -1/2 F C^-1 F                F: dE/de, C: d2E/de2, both of the same form as E
h_i[k] = field_i[k] + sum_j V_ij[k, k_j]                                          local fields: what a move costs
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

Arrays = Array | np.ndarray
SOFTEST = 0.2  # no arrangement is softer than so many times the stiffness without its sites and pairs, in any strain


class Strains(NamedTuple):
    """How the energy depends on strain of the whole lattice.

    Terms: first derivatives, behind which second ones may stand, in the order of `np.triu_indices`.
    """

    field: Float[Arrays, "sites states terms"]  # of single sites [eV]
    pair: Float[Arrays, "n1 n2 n3 sites sites states states terms"]  # of pairs [eV]
    stiffness: Float[Arrays, "strains strains"]  # second derivatives of the whole lattice without these [eV]


class LatticeModel(NamedTuple):
    """Sites c of a cell, repeated n1 x n2 x n3 times; every site (R, c) is in one state k: a species, or vacant."""

    energy: Float[Arrays, ""]  # eV per cell
    field: Float[Arrays, "sites states"]  # eV
    pair: Float[Arrays, "n1 n2 n3 sites sites states states"]  # V[R, c, c', k, k'] between (0, c) and (R, c') [eV]
    allowed: Bool[Arrays, "sites states"]  # the same for all sites of a sublattice
    sublattice: Int[Arrays, "sites"]  # 0, 1, ...; atoms are exchanged within a sublattice
    strains: Strains | None = None


class Tables(NamedTuple):
    """Energies, and in further channels their derivatives by strain, ready for use."""

    field: Float[Array, "sites states channels"]
    pair: Float[Array, "n1 n2 n3 sites sites states states channels"]
    kernel: Array  # complex conjugate of the Fourier transform of `pair`
    stiffness: Float[Array, "strains strains"]


def total_energy(model: LatticeModel, states: Int[Arrays, "n1 n2 n3 sites"]) -> Float[Array, ""]:
    """Energy of an arrangement of the whole lattice [eV]. Errors: ValueError for states that do not fit the model."""
    model = checked_model(model)
    states, cells = checked_states(model, states), int(np.prod(model.pair.shape[:3]))
    with precision_of(model):
        tables = make_tables(model)
        totals = totals_of(tables, states, local_fields(tables, jnp.asarray(states)))
        return cells * jnp.asarray(model.energy) + energy_of(tables, totals)


def box_strain(model: LatticeModel, states: Int[Arrays, "n1 n2 n3 sites"]) -> Float[np.ndarray, "3 3"]:
    """By how much the whole lattice strains in this arrangement; 0 for a lattice that keeps its shape.

    Errors: ValueError for states that do not fit the model.
    """
    model = checked_model(model)
    states = checked_states(model, states)
    if model.strains is None:
        return np.zeros((3, 3))
    with precision_of(model):
        tables = make_tables(model)
        totals = totals_of(tables, states, local_fields(tables, jnp.asarray(states)))
        xx, yy, zz, yz, xz, xy = np.asarray(strained(*elastic(tables, totals)))  # engineering strains
    return np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])


def precision_of(model: LatticeModel):
    """A context in which jax has the precision of a checked model."""
    return jax.enable_x64(model.pair.dtype == np.float64)


def local_fields(
    tables: Tables, states: Int[Array, "n1 n2 n3 sites"]
) -> Float[Array, "n1 n2 n3 sites states channels"]:
    """h_i(k): the energy of every site in every state, all others given [eV], and its derivatives by strain."""
    present = jax.nn.one_hot(states, tables.field.shape[1], dtype=tables.field.dtype)
    waves = jnp.fft.fftn(present, axes=(0, 1, 2))
    sums = jnp.einsum("xyzcdkls,xyzdl->xyzcks", tables.kernel, waves)
    return tables.field[None, None, None] + jnp.fft.ifftn(sums, axes=(0, 1, 2)).real


def totals_of(tables: Tables, states, fields) -> Float[Array, "channels"]:
    """Energy without strain and without the constant, and its derivatives; every pair is in two local fields."""
    both = (fields + tables.field[None, None, None]) / 2
    return jnp.take_along_axis(both, jnp.asarray(states)[..., None, None], -2).sum((0, 1, 2, 3, 4))


def energy_of(tables: Tables, totals) -> Float[Array, ""]:
    """At the strain of lowest energy."""
    force, stiffness = elastic(tables, totals)
    return totals[0] + force @ strained(force, stiffness) / 2


def elastic(tables: Tables, totals):
    """First and second derivatives of the energy by strain, [strains] and [strains, strains]."""
    mean = tables.stiffness
    force, more = jnp.split(totals[1:], [len(mean)])
    if not len(more):
        return force, mean
    root = jnp.linalg.cholesky(mean)
    inverse = jax.scipy.linalg.solve_triangular(root, jnp.eye(len(mean), dtype=mean.dtype), lower=True)
    ratios, modes = jnp.linalg.eigh(inverse @ (mean + more[symmetric_index(len(mean))]) @ inverse.T)
    modes = root @ modes
    return force, modes @ (jnp.maximum(ratios, SOFTEST)[:, None] * modes.T)


def strained(force, stiffness):
    """The strain of lowest energy."""
    return -jnp.linalg.solve(stiffness, force)


def powers(strain, xp=jnp):
    """What the terms of `Strains` are to be multiplied by at a strain, to be its energy."""
    one, other = np.triu_indices(len(strain))
    return xp.concatenate([strain, strain[one] * strain[other] / (1 + (one == other))])


def symmetric_index(number: int) -> Int[np.ndarray, "number number"]:
    """Where the elements of a symmetric matrix stand in the list of `np.triu_indices`."""
    table = np.zeros((number, number), int)
    table[np.triu_indices(number)] = np.arange(number * (number + 1) // 2)
    return np.maximum(table, table.T)


def make_tables(model: LatticeModel) -> Tables:
    """Of a checked model, in the precision of its pairs."""
    field, pair, stiffness = model.field[..., None], model.pair[..., None], np.zeros((0, 0))
    if model.strains is not None:
        field = np.concatenate([field, model.strains.field], axis=-1)
        pair, stiffness = np.concatenate([pair, model.strains.pair], axis=-1), model.strains.stiffness
    field, pair, stiffness = (jnp.asarray(a, model.pair.dtype) for a in (field, pair, stiffness))
    return Tables(field, pair, jnp.conj(jnp.fft.fftn(pair, axes=(0, 1, 2))), stiffness)


def with_images(single, pair):
    """Single sites and pairs in a box of a lattice whose pairs were added up in it.

    A site and its own images are one: half of their pairs belongs to the site.
    """
    own = np.arange(len(single))
    single = single + np.moveaxis(np.diagonal(pair[0, 0, 0, own, own], axis1=1, axis2=2), -1, 1) / 2
    pair[0, 0, 0, own, own] = 0
    return single, pair


def smaller(model: LatticeModel, parts) -> LatticeModel:
    """A box that is repeated `parts` times along every vector to make the one of a checked model."""
    size = np.array(model.pair.shape[:3]) // parts
    split = np.stack([parts, size], 1).ravel()
    fold = lambda pair: pair.reshape(*split, *pair.shape[3:]).sum((0, 2, 4))
    field, pair = with_images(model.field, fold(model.pair))
    strains = model.strains
    if strains is not None:
        ends = with_images(strains.field, fold(strains.pair))
        strains = Strains(*ends, strains.stiffness / np.prod(parts))
    return model._replace(field=field, pair=pair, strains=strains)


def random_states(model: LatticeModel, weights, key) -> Int[Array, "n1 n2 n3 sites"]:
    """A random arrangement: on every sublattice the numbers of atoms that are closest to the mean weights of its sites.

    Errors: ValueError for weights that do not fit the model.
    """
    return arranger(checked_model(model), weights)(key)


def counts_of(model: LatticeModel, states) -> Int[np.ndarray, "sublattices states"]:
    """How often an arrangement [n1, n2, n3, sites] holds every state on every sublattice."""
    sublattice, number = np.asarray(model.sublattice), model.field.shape[1]
    states = np.asarray(states)
    held = [states[..., sublattice == which].ravel() for which in range(sublattice.max() + 1)]
    return np.array([np.bincount(own, minlength=number) for own in held])


def whole_counts(wanted: Float[np.ndarray, "states"], total: int) -> Int[np.ndarray, "states"]:
    """The whole numbers next to these that add up to the total."""
    counts = np.floor(wanted + 1e-6).astype(int)
    counts[np.argsort(counts - wanted, kind="stable")[: total - counts.sum()]] += 1
    return counts


def nearest_counts(model: LatticeModel, weights) -> Int[np.ndarray, "sublattices states"]:
    """As `counts_of`, of the arrangements that are closest to the mean weights of the sites of a checked model.

    Errors: ValueError for weights that do not fit the model.
    """
    weights = np.asarray(weights, float)
    check_shape("weights", weights, model.field.shape)
    if (weights < 0).any() or np.abs(weights.sum(1) - 1).max() > 1e-5 or weights[~model.allowed].any():
        raise ValueError("weights must be at least 0, add up to 1 on every site and be 0 where states are not allowed")
    number, found = int(np.prod(model.pair.shape[:3])), []
    for which in range(model.sublattice.max() + 1):
        on = model.sublattice == which
        found.append(whole_counts(number * weights[on].sum(0), number * int(on.sum())))
    return np.array(found)


def arranger(model: LatticeModel, weights) -> Callable:
    """`random_states` of a checked model, as a traced function of the key alone."""
    cells, held = model.pair.shape[:3], nearest_counts(model, weights)
    number = int(np.prod(cells))
    order = np.arange(number * len(model.sublattice)).reshape(number, -1)
    places, atoms = [], []
    for which, counts in enumerate(held):
        places.append(order[:, model.sublattice == which].ravel())
        atoms.append(np.repeat(np.arange(len(counts)), counts).astype(np.int32))

    def arrange(key):
        states = jnp.zeros(order.size, jnp.int32)
        for one, where, what in zip(jax.random.split(key, len(places)), places, atoms, strict=True):
            states = states.at[where].set(jax.random.permutation(one, what))
        return states.reshape(*cells, -1)

    return arrange


def checked_model(model: LatticeModel) -> LatticeModel:
    """The model as numpy arrays.

    Errors: ValueError for shapes that do not fit, a site that interacts with itself, pairs that are not symmetric, and
    sites of one sublattice that differ in the states they allow.
    """
    strains = None if model.strains is None else Strains(*map(np.asarray, model.strains))
    model = LatticeModel(*map(np.asarray, model[:5]), strains=strains)
    sites, states = model.field.shape
    check_shape("pair", model.pair, (*model.pair.shape[:3], sites, sites, states, states))
    check_shape("allowed", model.allowed, (sites, states))
    check_shape("sublattice", model.sublattice, (sites,))
    numbers = sorted(set(model.sublattice.tolist()))
    if numbers != list(range(len(numbers))):
        raise ValueError(f"sublattice has the numbers {numbers}; use 0, 1, ... without gaps")
    if model.pair.dtype not in (np.float32, np.float64):
        raise ValueError(f"pair is of type {model.pair.dtype}; use float32 or float64")
    if not all(np.isfinite(a).all() for a in (*model[:3], *(strains or ()))):
        raise ValueError("the model has an energy that is not finite; forbid states by `allowed` instead")
    _check_symmetric("pair", model.pair[..., None])
    if strains is not None:
        number, stiffness = len(strains.stiffness), strains.stiffness
        terms = strains.field.shape[-1]
        terms = number if terms <= number else number * (number + 3) // 2
        check_shape("strains.field", strains.field, (sites, states, terms))
        check_shape("strains.pair", strains.pair, (*model.pair.shape, terms))
        check_shape("strains.stiffness", stiffness, (number, number))
        _check_symmetric("strains.pair", strains.pair)
        if not np.allclose(stiffness, stiffness.T) or not (np.linalg.eigvalsh(stiffness) > 0).all():
            raise ValueError("strains.stiffness must be symmetric and positive definite: strain has to cost energy")
    first = np.unique(model.sublattice, return_index=True)[1]
    if not model.allowed.any(1).all() or (model.allowed != model.allowed[first[model.sublattice]]).any():
        raise ValueError("all sites of a sublattice must allow the same states, at least one; use more sublattices")
    return model


def checked_states(model: LatticeModel, states) -> Arrays:
    """An arrangement of a checked model; of a traced one only the shape is checked.

    Errors: ValueError for another shape, and for states that are not there or not allowed on their sites.
    """
    check_shape("states", states, (*model.pair.shape[:3], len(model.field)))
    if isinstance(states, Tracer):
        return states
    states, sites, count = np.asarray(states), np.arange(len(model.field)), model.field.shape[1]
    if states.dtype.kind not in "iu" or (states < 0).any() or (states >= count).any():
        raise ValueError(f"states must be whole numbers from 0 to {count - 1}")
    if not model.allowed[sites, states].all():
        raise ValueError("states has a site in a state that the model does not allow there")
    return states


def _check_symmetric(name: str, pair) -> None:
    back = np.roll(pair[::-1, ::-1, ::-1], (1, 1, 1), (0, 1, 2)).swapaxes(3, 4).swapaxes(5, 6)
    limit, own = 1e-5 * max(float(np.abs(pair).max()), 1e-30), np.arange(pair.shape[3])
    if np.abs(back - pair).max() > limit or np.abs(pair[0, 0, 0, own, own]).max() > limit:
        raise ValueError(f"{name} must have V[R, c, c', k, k'] = V[-R, c', c, k', k] and V[0, c, c] = 0; symmetrise it")


def checked_temperatures(temperatures) -> Float[np.ndarray, "temperatures"]:
    """Errors: ValueError for temperatures that are not positive and increasing, or none."""
    try:
        heats = np.atleast_1d(np.asarray(temperatures, float))
    except (TypeError, ValueError):
        heats = np.zeros(1)
    if heats.ndim != 1 or not len(heats) or not (np.isfinite(heats) & (heats > 0)).all() or (np.diff(heats) <= 0).any():
        raise ValueError(
            f"temperatures {temperatures} must be positive and increasing; give at least one in K, each once and sorted"
        )
    return heats


def check_whole(name: str, value, least: int) -> None:
    """Errors: ValueError for what is not a whole number, or less than `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 2**31:
        most = " and less than 2147483648" if isinstance(value, int | np.integer) and value > 0 else ""
        raise ValueError(f"{name} = {value!r} must be a whole number, at least {least}{most}")


def check_shape(name: str, array, shape) -> None:
    """Errors: ValueError for an array of another shape."""
    if np.shape(array) != tuple(shape):
        raise ValueError(f"{name} is of shape {np.shape(array)}; the model needs {tuple(shape)}")
