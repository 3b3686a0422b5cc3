"""Figure of an optimisation: how the targets are approached, and the way through composition."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from alchemjax.plot import COLOURS, LINEAR, PANEL, STYLE, triangle
from alchemjax.system.sites import Group
from alchemjax.tasks.goals import Goal
from alchemjax.tasks.optimise import Optimum
from alchemjax.tasks.properties import PROPERTIES

MOST_TARGETS = 3
ARROW = 0.12  # length of the longest arrow, of the side of the triangle
LABELS = {"g/cm^3": "g/cm³", "A^3": "Å³", "A": "Å", "degree": "°"}


def plot_optimise(groups: Sequence[Group], targets: Sequence[Goal], names: Sequence[str], found: Optimum) -> Figure:
    """Every target's property of every start against evaluations, and the compositions of these groups that were seen.

    Of one group of three species the way is drawn in a triangle, with arrows along the steepest descent of the loss;
    of others the weights of the best start are drawn against evaluations.
    """
    names_of = [s if len(groups) == 1 else f"{group.name}:{s}" for group in groups for s in group.species]
    shown = _shown(targets, names, found)[:MOST_TARGETS]
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.04)
        figure = Figure(figsize=(PANEL[0] * (len(shown) + 1), PANEL[1]), layout=layout)
        for k, goal in enumerate(shown):
            axes = figure.add_subplot(1, len(shown) + 1, k + 1)
            _approach(axes, goal, np.array([one.values[:, names.index(goal.name)] for one in found.path]), found)
            axes.set_title(f"({'abcd'[k]})", loc="left")
        place: tuple[int, int, int] = (1, len(shown) + 1, len(shown) + 1)
        if [len(group.species) for group in groups] == [3]:
            axes = _triangle(figure, place, groups[0].species, found)
        else:
            axes = figure.add_subplot(*place)
            _weights(axes, names_of, found)
        axes.set_title(f"({'abcd'[len(shown)]})", loc="left")
    return figure


def _shown(targets: Sequence[Goal], names: Sequence[str], found: Optimum) -> list[Goal]:
    """Targets without those whose property is that of one before (b of a hexagonal cell), or never misses."""
    kept: list[tuple[Goal, np.ndarray]] = []
    for goal in targets:
        own, near = (
            np.array([one.values[:, names.index(goal.name)] for one in found.path]),
            PROPERTIES[goal.name].tolerance,
        )
        same = [other for _, other in kept if np.nanmax(np.abs(other - own)) < near]
        idle = goal.sign == "=" and np.nanmax(np.abs(own - goal.value)) < near
        if not same and not idle:
            kept.append((goal, own))
    return [goal for goal, _ in kept] or list(targets[:1])


def _best(found: Optimum) -> int:
    return int(np.argmin(found.losses))


def _approach(axes, goal: Goal, values: np.ndarray, found: Optimum) -> None:
    converged, steps = np.array([one.converged for one in found.path]), np.arange(len(found.path))
    values, best = np.where(converged, values, np.nan), _best(found)
    for lane in range(values.shape[1]):
        colour, above = (COLOURS[0], 3) if lane == best else ("0.6", 2)
        label = "best start" if lane == best else "other starts" if lane == (best == 0) else None
        axes.plot(steps, values[:, lane], "-o", color=colour, markersize=3, zorder=above, label=label)
    if goal.sign not in ("min", "max"):
        sign = {"=": "", "<=": "at most ", ">=": "at least "}[goal.sign]
        axes.axhline(goal.value, linestyle="--", color=LINEAR, linewidth=1.0, label=f"target ({sign}{goal.value:g})")
    low, high = axes.get_ylim()
    least = 0 if goal.sign in ("min", "max") else 5 * PROPERTIES[goal.name].tolerance  # noise is to look like noise
    room = max(0.0, least - (high - low) / 2)
    axes.set(xlabel="Evaluation", ylim=(low - room, high + room))
    unit = PROPERTIES[goal.name].unit
    symbol = {"alpha": "α", "beta": "β", "gamma": "γ", **{name: f"${name}$" for name in "abc"}}
    axes.set_ylabel(symbol.get(goal.name) or goal.name.replace("_", " ").capitalize())
    if unit != "1":
        axes.set_ylabel(f"{axes.get_ylabel()} ({LABELS.get(unit, unit)})")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend()


def _weights(axes, names: list[str], found: Optimum) -> None:
    """Weights of the best start."""
    best = _best(found)
    weights = np.array([one.weights[best] for one in found.path])
    colours = [*COLOURS, "#E69F00", "#56B4E9", "0.3", "0.6"]
    for k, (name, column) in enumerate(zip(names, weights.T, strict=True)):
        style = ("-o", "--s", ":^", "-.v")[k // len(colours) % 4]
        axes.plot(column, style, color=colours[k % len(colours)], markersize=3, label=name)
    axes.set(xlabel="Evaluation", ylabel="Weight (best start)", ylim=(-0.03, 1.03))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(ncols=2 if len(names) > 4 else 1)


def _triangle(figure: Figure, place: tuple[int, int, int], species: Sequence[str], found: Optimum):
    axes = triangle(figure, place, list(species))
    axes.grid(color="0.85", alpha=1, linewidth=0.5)
    best = _best(found)
    weights = np.array([one.weights for one in found.path])
    totals = np.maximum(weights.sum(-1, keepdims=True), 1e-9)
    downhill = -np.array([one.gradient for one in found.path])
    downhill -= downhill.mean(-1, keepdims=True)  # along the triangle
    known = np.array([one.converged for one in found.path])
    size = np.linalg.norm(downhill, axis=-1, keepdims=True)
    # long arrows where the loss is steep, on a logarithmic scale: it falls by orders of magnitude
    decades = np.log10(np.maximum(size, 1e-300) / max(float(np.nanmax(size, initial=1e-300)), 1e-300))
    arrows = downhill / np.maximum(size, 1e-300) * ARROW * np.clip(1 + decades / 4, 0.25, 1)
    for lane in range(weights.shape[1]):
        colour, above = (COLOURS[0], 4) if lane == best else ("0.6", 3)
        way = (weights / totals)[:, lane]
        axes.plot(*way.T, "-o", color=colour, markersize=3, zorder=above, clip_on=False)
        here = known[:, lane]
        axes.quiver(
            *way[here].T,
            *arrows[:, lane][here].T,
            color=COLOURS[1],
            width=0.006,
            zorder=5,
            scale=1,
            scale_units="width",
        )
    end = found.weights / max(found.weights.sum(), 1e-9)
    axes.plot(*end[:, None], "*", color=COLOURS[2], markersize=11, zorder=6, label="optimum", clip_on=False)
    axes.plot([], [], [], "-", color=COLOURS[1], label="descent of the loss")
    axes.legend(loc="upper left", bbox_to_anchor=(0.72, 1.0))
    return axes
