"""Tables of an alloy: what depends on temperature, pair interactions by shell; and its instability in words."""

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np

from alchemjax.tasks.alloy import Alloy
from alchemjax.tasks.ordering import Waves, interactions, short_range_order
from alchemjax.tasks.transition import OrderDisorder

SAME_DISTANCE = 1e-2  # A
TINY = 1e-9  # of a probability


def temperature_table(found: Alloy, transition: OrderDisorder, pairs, names: Sequence[str] | None = None) -> dict:
    """The table over temperatures: of the stable branch, and the energies of both.

    `names` of the groups are used for sublattices, else their numbers. `alpha_mean_field` (Krivoglaz, Clapp, Moss) is
    NaN where it is none of a probability: max(0, w_k + w_l - 1) <= P_kl = (1 - alpha_kl) w_k w_l <= min(w_k, w_l).
    """
    sites, mixed, averages = len(found.structure.positions), len(found.site), transition.equilibrium
    columns = {
        "temperature_K": averages.temperatures,
        "started_from": np.where(transition.stable, "ordered", "random"),
        "energy_per_site_eV": averages.energy / sites,
        "energy_error_eV": averages.energy_error / sites,
        "heat_capacity_per_mixed_site_kB": averages.heat_capacity / mixed,
        "heat_capacity_error_kB": averages.heat_capacity_error / mixed,
        "energy_from_random_per_site_eV": transition.random.energy / sites,
        "energy_from_ordered_per_site_eV": transition.ordered.energy / sites,
        "free_energy_of_order_per_site_eV": transition.free_energy / sites,
        "free_energy_error_eV": transition.free_energy_error / sites,
    }
    given = interactions(found)
    waves = [_mean_field_order(found, temperature) for temperature in averages.temperatures]
    for number, shell in enumerate(pairs):
        near = np.abs(given.distance - shell.distance) < SAME_DISTANCE
        near &= (found.sublattice[given.first] == shell.sublattices[0]) & (
            found.sublattice[given.second] == shell.sublattices[1]
        )
        one, two = (found.weights[found.sublattice == s].mean(0) for s in shell.sublattices)
        where = _between(found, shell.sublattices, names)
        for k, m in _unlike(found, shell.sublattices):
            name = f"{found.species[k]}-{found.species[m]}_{shell.distance:.2f}A{where}"
            name += f"_shell_{number}" if f"alpha_{name}" in columns else ""  # at almost the same distance
            columns[f"alpha_{name}"] = averages.warren_cowley[:, number, k, m]
            columns[f"alpha_error_{name}"] = averages.warren_cowley_error[:, number, k, m]
            of = lambda wave, near=near, k=k, m=m: wave.alpha[near][:, k, m].mean() if near.any() else np.nan
            columns[f"alpha_mean_field_{name}"] = _possible(np.array([of(wave) for wave in waves]), one[k], two[m])
    return columns


def _possible(alpha, k: float, m: float):
    """NaN where no pair of states with these mean weights can have such a Warren-Cowley parameter."""
    probability = (1 - alpha) * k * m
    inside = (probability > max(0, k + m - 1) - TINY) & (probability < min(k, m) + TINY)
    return np.where(inside, alpha, np.nan)


def _mean_field_order(found: Alloy, temperature: float):
    """Short-range order, or NaN where the sum rule cannot be reached."""
    try:
        return short_range_order(found, temperature)
    except ValueError:
        hot = short_range_order(found, 1e6)
        return hot._replace(alpha=np.full_like(hot.alpha, np.nan))


def _unlike(found: Alloy, sublattices) -> list[tuple[int, int]]:
    """Pairs of different states that two sublattices hold."""
    one, two = (_held(found, s) for s in sublattices)
    same = sublattices[0] == sublattices[1]
    return [(k, m) for k in one for m in two if k < m or (k != m and not same)]


def _held(found: Alloy, sublattice: int) -> list[int]:
    """The states that a sublattice holds."""
    return np.flatnonzero((found.weights[found.sublattice == sublattice] > 0).any(axis=0)).tolist()


def _between(found: Alloy, sublattices, names: Sequence[str] | None) -> str:
    """Which sublattices, where there are several."""
    if (found.sublattice == found.sublattice[0]).all():
        return ""
    return "_sublattices_" + "-".join(_called(s, names) for s in sublattices)


def _called(sublattice: int, names: Sequence[str] | None) -> str:
    return str(sublattice) if names is None else names[sublattice]


def _shell_distances(distance):
    """The mean distance of its shell for every pair."""
    order = np.argsort(distance)
    shell = np.concatenate([[0], np.cumsum(np.diff(distance[order]) > SAME_DISTANCE)])
    means = np.bincount(shell, distance[order]) / np.bincount(shell)
    return means[shell][np.argsort(order)]


def _exchanges(found: Alloy, one: int, two: int) -> list:
    """Two states of each of two sublattices; of one and the same, the same two."""
    pairs = [list(combinations(_held(found, s), 2)) for s in (one, two)]
    return [(pair, pair) for pair in pairs[0]] if one == two else list(product(*pairs))


def interaction_table(found: Alloy, names: Sequence[str] | None = None) -> dict:
    """By shell, the mean of E_km + E_ln - E_kn - E_lm, k, l being states of one site and m, n of the other.

    With k = m and l = n it is positive where unlike neighbours are favoured. The column `exchange` says it in words:
    `Cu-Cu + Au-Au - Cu-Au - Au-Cu`. `names` of the groups are used for sublattices, else their numbers.
    """
    rows: list[dict] = []
    parts = ("rigid",) if found.pair_relaxation is None else ("rigid", "relaxed")
    given = {name: interactions(found, relaxed=name == "relaxed") for name in parts}
    of = lambda *states: "-".join(found.species[state] for state in states)
    distance = _shell_distances(given["rigid"].distance)
    kinds = np.stack([found.sublattice[given["rigid"].first], found.sublattice[given["rigid"].second]], 1)
    for d in np.unique(distance):
        for one, two in np.unique(kinds[distance == d], axis=0):
            if one > two:
                continue
            here = (distance == d) & (kinds == (one, two)).all(1)
            for (k, l), (m, n) in _exchanges(found, one, two):
                row = {
                    "distance_A": d,
                    "sublattice": _called(one, names),
                    "other": _called(two, names),
                    "pairs_per_cell": here.sum() / (1 + (one == two)),
                    "states": "/".join(dict.fromkeys([of(k, l), of(m, n)])),
                    "exchange": f"{of(k, m)} + {of(l, n)} - {of(k, n)} - {of(l, m)}",
                }
                for name, part in given.items():
                    e = part.energy[here]
                    exchange = e[:, k, m] + e[:, l, n] - e[:, k, n] - e[:, l, m]
                    row[f"{name}_exchange_meV"] = 1000 * exchange.mean()
                rows.append(row)
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {"distance_A": []}


def describe_instability(found: Alloy, temperature: float, wave: Waves) -> str:
    """What `instability` found: the alloy separates where the compositions of whole sublattices change, else orders.

    In a cell of several mixed sites order within the cell has q = 0 too; there the mean change of a sublattice is 0.
    """
    if not temperature >= 0.5:  # K, shown as 0
        return "no instability"
    q, change = wave.q[0], wave.polarisation[0, 0]
    means = np.stack([change[found.sublattice == s].mean(0) for s in found.sublattice])
    uniform = np.allclose(q, np.round(q))
    if uniform and np.linalg.norm(means) ** 2 > np.linalg.norm(change) ** 2 / 2:
        return f"separates at {temperature:.0f} K"
    text = f"orders at {temperature:.0f} K, wave vector ({', '.join(f'{x:.3g}' for x in q)}) of the reciprocal lattice"
    return text + (" of the cell, within which sites differ" if uniform else " of the cell")
