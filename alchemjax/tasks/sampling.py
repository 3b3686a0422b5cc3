"""Arrangements on a lattice by Metropolis Monte Carlo: canonical or semi-grand, parallel tempering, annealing.

An accepted move adds rows of V to the local fields; they are computed afresh after every sweep, so that round-off does
not accumulate. Strain is drawn from its Gaussian before every sweep and held during it; what is measured is at the
strain of lowest energy. Arrangements that are softer leave strain more room, and are likelier by that. Exchange between
temperatures: K. Hukushima, K. Nemoto, J. Phys. Soc. Jpn. 65, 1604 (1996).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from alchemjax.tasks.lattice import (
    Arrays,
    LatticeModel,
    Tables,
    arranger,
    check_shape,
    check_whole,
    checked_model,
    checked_states,
    checked_temperatures,
    elastic,
    energy_of,
    local_fields,
    make_tables,
    powers,
    precision_of,
    smaller,
    strained,
    total_energy,
    totals_of,
)
from alchemjax.units import KELVIN

WHOLE = 1e-6  # how exactly a number of atoms is whole
BLOCKS = 8  # per chain, of averages: what error bars are made of
AT_ONCE = 300_000  # moves of all chains in one call of compiled code, which nothing interrupts


class Samples(NamedTuple):
    """One chain per temperature and seed; what is measured belongs to the temperature, whatever was exchanged.

    Correlations P[R, c, c', k, k']: probability that (0, c) is in state k and (R, c') in k', the mean over all cells.
    """

    temperatures: Float[np.ndarray, "temperatures"]  # K
    energy: Float[np.ndarray, "temperatures seeds sweeps"]  # eV per cell, after every sweep
    grand: Float[np.ndarray, "temperatures seeds sweeps"]  # eV per cell: energy - sum_k mu_k N_k; canonical: energy
    composition: Float[np.ndarray, "temperatures seeds sweeps sublattices states"]  # fractions of the sublattice
    correlations: Float[np.ndarray, "temperatures seeds blocks n1 n2 n3 sites sites states states"]  # see below
    states: Int[np.ndarray, "temperatures seeds n1 n2 n3 sites"]  # after the last sweep
    sublattice: Int[np.ndarray, "sites"]
    moved: Float[np.ndarray, "temperatures"]  # accepted fraction of moves
    exchanged: Float[np.ndarray, "intervals"] | None  # accepted fraction, between neighbours in temperature


class _Moves(NamedTuple):
    """What may move where."""

    sites: Int[Arrays, "movable"]  # of the cell
    members: Int[Arrays, "sites most"]  # all sites of the sublattice, filled up
    count: Int[Arrays, "sites"]  # of members
    options: Int[Arrays, "sites states"]  # the allowed states, then the others
    rank: Int[Arrays, "sites states"]  # of a state among the options
    choices: Int[Arrays, "sites"]  # number of allowed states


def _rows(pair):
    """V of (0, c) in state k, repeated: [sites, states, 2 n1, 2 n2, 2 n3, sites, states]."""
    return jnp.tile(jnp.moveaxis(pair, (3, 5), (0, 1)), (1, 1, 2, 2, 2, 1, 1))


def _row(rows, site, state):
    """What an atom on a site adds to all local fields: V rolled by the cell of the site."""
    *cells, sites, states = rows.shape[2:]
    cells = [twice // 2 for twice in cells]
    place = jnp.unravel_index(site // sites, cells)
    start = (site % sites, state, *(n - x for n, x in zip(cells, place, strict=True)), *[jnp.zeros_like(site)] * 2)
    return jax.lax.dynamic_slice(rows, start, (1, 1, *cells, sites, states)).reshape(-1, states)


def _draw(move, moves: _Moves, key, cells: int, sites: int, dtype):
    """The moves of one sweep: sites, partners or new states, and how large a change is accepted [kT]."""
    movable = len(moves.sites)
    where, what, luck = jax.random.bits(key, (3, cells * movable), jnp.uint32)
    place = (where % (cells * movable)).astype(jnp.int32)  # some places are likelier by 1e-6, and still reversible
    site = moves.sites[place % movable]
    last = cells * moves.count[site] if move is _swap else moves.choices[site] - 1
    other = (what % last.astype(jnp.uint32)).astype(jnp.int32)
    if move is _swap:
        count = moves.count[site]
        other = other // count * sites + moves.members[site, other % count]
    return place // movable * sites + site, other, -jnp.log((luck.astype(dtype) + 0.5) / 2.0**32)


def _swap(rows, moves: _Moves, heat, carry, drawn):
    """Two sites of one sublattice exchange their states."""
    states, fields = carry
    one, two, patience = drawn
    both = jnp.stack([one, two])
    old = states[both]
    new = old[::-1]
    first, second = (_row(rows, both[i], new[i]) - _row(rows, both[i], old[i]) for i in (0, 1))
    gain = fields[both, new] - fields[both, old]
    change = gain.sum() + first[two, new[1]] - first[two, old[1]]  # the second site has seen the first one change
    accept = (change < heat * patience) & (old[0] != old[1])
    return (states.at[both].set(jnp.where(accept, new, old)), fields + jnp.where(accept, first + second, 0)), accept


def _flip(rows, moves: _Moves, heat, carry, drawn):
    """A site changes to another of its states."""
    states, fields = carry
    site, step, patience = drawn
    old, c = states[site], site % len(rows)
    new = moves.options[c, (moves.rank[c, old] + 1 + step) % moves.choices[c]]
    accept = fields[site, new] - fields[site, old] < heat * patience
    difference = _row(rows, site, new) - _row(rows, site, old)
    return (states.at[site].set(jnp.where(accept, new, old)), fields + jnp.where(accept, difference, 0)), accept


def _sweep(move, tables: Tables, moves: _Moves, states, fields, key, heat):
    """One move for every site that may move; returns states, their local fields, energy, and the accepted fraction."""
    shape, dtype = states.shape, fields.dtype
    drawn = _draw(move, moves, key, states[..., 0].size, shape[-1], dtype)
    force, stiffness = elastic(tables, totals_of(tables, states, fields))
    luck = jax.random.normal(jax.random.fold_in(key, 0), force.shape, dtype) * jnp.sqrt(heat)
    luck = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(stiffness), luck, lower=True, trans=1)
    strain = strained(force, stiffness) + luck
    channels = jnp.concatenate([jnp.ones(1, dtype), powers(strain)])[: tables.field.shape[-1]]
    start = states.reshape(-1), (fields @ channels).reshape(-1, fields.shape[-2])
    # without strain all chains share one table
    pair = tables.pair @ channels if len(force) else tables.pair[..., 0]
    (states, _), accepted = jax.lax.scan(partial(move, _rows(pair), moves, heat), start, drawn)
    states = states.reshape(shape)
    fields = local_fields(tables, states)
    return states, fields, energy_of(tables, totals_of(tables, states, fields)), accepted.mean(dtype=dtype)


def _exchange(heats, energy, patience, number):
    """From which temperature every chain continues; even and odd pairs of neighbours take turns."""
    own = jnp.arange(len(heats))
    partner = own + 1 - 2 * ((own + number) % 2)
    partner = jnp.where((partner < 0) | (partner >= len(heats)), own, partner)
    loss = (1 / heats - 1 / heats[partner])[:, None] * (energy[partner] - energy)
    accept = loss < patience[jnp.minimum(own, partner)]
    tried = (partner > own)[:, None]
    return jnp.where(accept, partner[:, None], own[:, None]), jnp.where(tried, accept, jnp.nan)


def _measured(states, count: int, dtype):
    """Fourier transform of the pair correlations, times the number of cells."""
    waves = jnp.fft.fftn(jax.nn.one_hot(states, count, dtype=dtype), axes=(-5, -4, -3))
    return jnp.einsum("...ck,...dl->...cdkl", jnp.conj(waves), waves)


@partial(jax.jit, static_argnames=("move", "exchange", "equilibration", "length", "every"))
def _run(
    tables, potential, member, moves, heats, keys, carry, numbers, *, move, exchange, equilibration, length, every
):
    """Sweeps of these numbers; `carry`: states, their local fields, and sums of correlations in Fourier space."""
    cells = carry[0][0, 0, ..., 0].size
    sweeps = jax.vmap(jax.vmap(partial(_sweep, move, tables, moves), (0, 0, 0, None)))
    kinds, dtype = tables.field.shape[1], tables.field.dtype

    def step(carry, number):
        states, fields, waves = carry
        split = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number), len(heats) + 1))(keys)
        states, fields, energy, moved = sweeps(states, fields, split[:, 1:].swapaxes(0, 1), heats)
        exchanged = jnp.full(energy.shape, jnp.nan, energy.dtype)
        if exchange:
            luck = jax.vmap(lambda key: jax.random.exponential(key, heats.shape, heats.dtype), out_axes=1)(split[:, 0])
            source, exchanged = _exchange(heats, energy, luck, number)
            take = lambda a: jnp.take_along_axis(a, source.reshape(*source.shape, *[1] * (a.ndim - 2)), 0)
            states, fields, energy = take(states), take(fields), take(energy)
        block, inside = jnp.divmod(number - equilibration, length)
        add = lambda waves: waves.at[block].add(_measured(states, kinds, dtype))
        waves = jax.lax.cond((block >= 0) & (inside % every == 0), add, lambda waves: waves, waves)
        counts = jax.nn.one_hot(states, kinds, dtype=dtype).sum((2, 3, 4))
        work = (counts * potential[None, None]).sum((2, 3))
        composition = jnp.einsum("mc,tsck->tsmk", member, counts) / cells
        return (states, fields, waves), (energy, work, composition, moved, exchanged)

    return jax.lax.scan(step, carry, numbers)


@jax.jit
def _begin(tables, states):
    """What the first of all sweeps starts from."""
    waves = jnp.zeros((BLOCKS, *states.shape[:2], *tables.pair.shape[:-1]), tables.kernel.dtype)
    return states, jax.vmap(jax.vmap(partial(local_fields, tables)))(states), waves


def sample(
    model: LatticeModel,
    temperatures,
    weights=None,
    *,
    kind: str = "canonical",
    chemical_potentials=None,
    states=None,
    sweeps: int = 2000,
    equilibration: int = 500,
    seeds: int = 4,
    seed: int = 0,
    exchange: bool = True,
    every: int = 5,
    on_sweeps: Callable[[int, int], None] | None = None,
) -> Samples:
    """Chains at all temperatures [K] for a number of seeds, from `states` or from random arrangements with the weights.

    "canonical" swaps atoms within sublattices, of numbers next to the weights; "semi-grand" changes them one by one, at
    chemical potentials [eV] of the states, or of sites and states. A sweep is one move for every site that may move;
    `sweeps` is rounded up to whole blocks, `equilibration` to whole calls of compiled code; correlations are measured
    after one in `every`. Seeds are independent, and so are temperatures without exchange. `on_sweeps(done, number)` is
    called after every few sweeps.

    Errors: ValueError for arguments that do not fit the model.
    """
    model = checked_model(model)
    heats = checked_temperatures(temperatures)
    for name, value, least in (("sweeps", sweeps, BLOCKS), ("equilibration", equilibration, 0), ("seeds", seeds, 1)):
        check_whole(name, value, least)
    check_whole("seed", seed, 0)
    check_whole("every", every, 1)
    exchange = bool(exchange) and len(heats) > 1
    cast = lambda a: jnp.asarray(a, model.pair.dtype)
    move, potential = _checked_kind(model, kind, chemical_potentials)
    with precision_of(model):
        keys = jax.random.split(jax.random.key(seed), seeds + 1)
        begin = _starts(model, weights, states, move, keys[0], (len(heats), seeds))
        member = model.sublattice == np.unique(model.sublattice)[:, None]
        tables, length, potential = make_tables(model), -(-int(sweeps) // BLOCKS), cast(potential)
        tables = tables._replace(field=tables.field.at[..., 0].add(-potential))
        fixed = (
            tables,
            potential,
            cast(member / member.sum(1, keepdims=True)),
            _moves(model, move),
            cast(KELVIN * heats),
        )
        carry, parts, total = _begin(tables, begin), [], int(equilibration) + BLOCKS * length
        calls, at_once = _calls(total, begin.size)
        equilibration = at_once * calls - BLOCKS * length
        how = {"move": move, "exchange": exchange, "length": length, "every": int(every)}
        for start in range(0, at_once * calls, at_once):
            numbers = jnp.arange(start, start + at_once)
            carry, series = _run(*fixed, keys[1:], carry, numbers, equilibration=equilibration, **how)
            parts.append(jax.device_get(series))
            if on_sweeps is not None:
                on_sweeps(start + at_once, at_once * calls)
        final, _, waves = jax.device_get(carry)
    series = (np.concatenate(column) for column in zip(*parts, strict=True))
    energy, work, composition, moved, exchanged = (a[equilibration:].astype(float) for a in series)
    cells = final[0, 0, ..., 0].size
    correlations = np.moveaxis(np.fft.ifftn(waves, axes=(3, 4, 5)).real, 0, 2) / (cells * -(-length // every))
    per_cell = lambda a: float(model.energy) + np.moveaxis(a, 0, -1) / cells
    composition = np.moveaxis(composition, 0, 2)
    rates = moved.mean((0, 2)), np.nanmean(exchanged[:, :-1], axis=(0, 2)) if exchange else None
    energies = per_cell(energy + work), per_cell(energy)
    return Samples(heats, *energies, composition, correlations, final, model.sublattice, *rates)


def _calls(sweeps: int, sites: int) -> tuple[int, int]:
    """Calls of compiled code for at least so many sweeps of all chains together, and how many a call makes."""
    calls = -(-sweeps // max(1, AT_ONCE // sites))
    return calls, -(-sweeps // calls)


def anneal(
    model: LatticeModel,
    weights,
    *,
    hot: float | None = None,
    cold: float | None = None,
    sweeps: int = 1000,
    chains: int = 16,
    seed: int = 0,
) -> tuple[Int[np.ndarray, "n1 n2 n3 sites"], float]:
    """The arrangement of lowest energy that many chains meet as they cool geometrically, and its energy [eV].

    Canonical; energies are compared after every sweep. By default it cools from the largest step of local fields to
    1/1000 of it. S. Kirkpatrick, C. D. Gelatt, M. P. Vecchi, Science 220, 671 (1983).

    Errors: ValueError for arguments that do not fit the model.
    """
    model = checked_model(model)
    for name, value, least in (("sweeps", sweeps, 1), ("chains", chains, 1), ("seed", seed, 0)):
        check_whole(name, value, least)
    with precision_of(model):
        keys = jax.random.split(jax.random.key(seed), chains + 1)
        begin = _starts(model, weights, None, _swap, keys[0], (chains,))
        tables = make_tables(model)
        if hot is None:
            fields = np.where(model.allowed, local_fields(tables, begin[0])[..., 0], np.nan)
            hot = max(float(np.nanmax(np.nanmax(fields, -1) - np.nanmin(fields, -1))), 1e-6) / KELVIN
        cold = hot / 1000 if cold is None else cold
        if not 0 < cold <= hot < np.inf:
            raise ValueError(f"anneal cools from {hot:g} K to {cold:g} K; give hot >= cold > 0")
        calls, at_once = _calls(int(sweeps), begin.size)
        heats = jnp.asarray(KELVIN * np.geomspace(hot, cold, calls * at_once), model.pair.dtype)
        carry = _before_cooling(tables, begin)
        for start in range(0, len(heats), at_once):
            some = slice(start, start + at_once)
            carry = _cool(tables, _moves(model, _swap), heats[some], jnp.arange(len(heats))[some], carry, keys[1:])
        _, _, energies, best = carry
        states = np.asarray(best[jnp.argmin(energies)])
        return states, float(total_energy(model, states))


def ground_state(
    model: LatticeModel, weights, *, sweeps: int = 1000, chains: int = 16, seed: int = 0
) -> tuple[Int[np.ndarray, "n1 n2 n3 sites"], float]:
    """The arrangement of lowest energy that `anneal` finds in the box, or in smaller ones that fill it, and its energy.

    A large box is left in domains; small ones order at once. Those are tried that hold the composition and are a
    fraction of the box, the same along all vectors that it divides.
    Errors: ValueError for arguments that do not fit the model.
    """
    model, found = checked_model(model), []
    shape, weights = np.array(model.pair.shape[:3]), np.asarray(weights, float)
    check_shape("weights", weights, model.field.shape)
    numbers = np.stack([weights[model.sublattice == s].sum(0) for s in np.unique(model.sublattice)])
    for part in range(1, max(shape) + 1):
        parts = np.where(shape % part == 0, part, 1)
        held = numbers * (shape // parts).prod()
        if part > 1 and (parts.max() == 1 or np.abs(held - np.round(held)).max() > WHOLE):
            continue
        states, _ = anneal(smaller(model, parts), weights, sweeps=sweeps, chains=chains, seed=seed)
        repeated = np.tile(states, (*parts, 1))
        found.append((float(total_energy(model, repeated)), len(found), repeated))
    energy, _, states = min(found)
    return states, energy


@jax.jit
def _before_cooling(tables, states):
    """States, their local fields, the lowest energy so far and the states that had it."""
    fields = jax.vmap(partial(local_fields, tables))(states)
    energy = jax.vmap(lambda *one: energy_of(tables, totals_of(tables, *one)))(states, fields)
    return states, fields, energy, states


@jax.jit
def _cool(tables, moves, heats, numbers, carry, keys):

    def step(carry, now):
        (states, fields, least, best), (heat, number) = carry, now
        turn = jax.random.fold_in
        run = lambda states, fields, key: _sweep(_swap, tables, moves, states, fields, turn(key, number), heat)
        states, fields, energy, _ = jax.vmap(run)(states, fields, keys)
        better = (energy < least).reshape(-1, 1, 1, 1, 1)
        return (states, fields, jnp.minimum(energy, least), jnp.where(better, states, best)), None

    return jax.lax.scan(step, carry, (heats, numbers))[0]


def _starts(model: LatticeModel, weights, states, move, key, shape):
    if (weights is None) == (states is None) and (move is _swap or states is not None):
        raise ValueError("give either weights [sites, states] or states [n1, n2, n3, sites] to start from")
    if states is None:
        weights = model.allowed / model.allowed.sum(1, keepdims=True) if weights is None else weights
        many = jax.vmap(arranger(model, weights))(jax.random.split(key, int(np.prod(shape))))
        return many.reshape(*shape, *many.shape[1:])
    states = jnp.asarray(checked_states(model, states), jnp.int32)
    return jnp.broadcast_to(states, (*shape, *states.shape))


def _moves(model: LatticeModel, move) -> _Moves:
    members = [np.flatnonzero(model.sublattice == own) for own in model.sublattice]
    filled = np.array([np.resize(m, max(map(len, members))) for m in members])
    options = np.argsort(~model.allowed, axis=1, kind="stable")
    choices = model.allowed.sum(1)
    sites = np.flatnonzero(choices > 1)
    if not len(sites):
        raise ValueError("every site allows one state only, and nothing can move; allow more")
    whole = (sites, filled, [len(m) for m in members], options, np.argsort(options, axis=1), choices)
    return _Moves(*(jnp.asarray(a, jnp.int32) for a in whole))


def _checked_kind(model: LatticeModel, kind, chemical_potentials):
    if kind not in ("canonical", "semi-grand"):
        raise ValueError(f"kind = {kind!r} is not understood; use 'canonical' or 'semi-grand'")
    if (kind == "canonical") != (chemical_potentials is None):
        raise ValueError(f"{kind} sampling {'has no' if kind == 'canonical' else 'needs'} chemical_potentials")
    if kind == "canonical":
        return _swap, np.zeros_like(model.field)
    given = np.asarray(chemical_potentials, float)
    if given.shape not in (model.field.shape, model.field.shape[1:]) or not np.isfinite(given).all():
        raise ValueError(f"chemical_potentials must be finite numbers, [states] or [sites, states], not {given}")
    return _flip, np.broadcast_to(given, model.field.shape)
