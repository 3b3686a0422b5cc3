"""Figure of an alloy: concentration waves, short-range order, heat capacity, predicted against explicit energies."""

from collections.abc import Mapping
from math import ceil
from typing import Any

import matplotlib
import numpy as np
from ase.cell import Cell
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from alchemjax.plot import COLOURS, LINEAR, PANEL, STYLE
from alchemjax.tasks.alloy import Alloy
from alchemjax.tasks.ordering import concentration_waves
from alchemjax.tasks.transition import OrderDisorder
from alchemjax.tasks.validate import Validation

MARKERS = {"random": ("o", None), "SQS": ("D", None), "ground state": ("s", "white"), "given": ("^", "white")}
OTHER_NAMES = {"ground state": "predicted ground state", "given": "other order"}  # in a legend
POINTS = 200  # along the path
LINE = 0.19  # inches, of a legend
CHARACTER = 0.026  # width of a character of tick labels, of the axes
SIX_COLOURS = *COLOURS, "#E69F00", "#56B4E9"
SERIES = tuple(zip("osD^vP", SIX_COLOURS, (10, 8.5, 7, 6, 5, 4), ("-", "--", ":") * 2, strict=True))  # small on large
LONG = 24  # characters of which two do not fit side by side
ABOVE: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2, "ncols": 2}  # of data
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4.5}


def plot_alloy(
    alloy: Alloy, columns: Mapping[str, Any], transition: OrderDisorder, validation: Validation | None
) -> Figure:
    """Energies of concentration waves along a path of the zone; Warren-Cowley parameters and heat capacity against
    temperature (`columns` are those of `temperatures.csv`; at most six parameters, those largest in magnitude);
    explicit against predicted energies.
    """
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.04)
        figure = Figure(figsize=(2.2 * PANEL[0], 2 * PANEL[1]), layout=layout)
        panels = figure.subplots(2, 2).ravel()
        if alloy.structure.pbc.any():
            _waves(panels[0], alloy)
        else:
            panels[0].set_axis_off()
            panels[0].text(0.5, 0.5, "no waves: nothing is periodic", ha="center", transform=panels[0].transAxes)
        lines = _order(panels[1], columns)
        figure.set_figheight(2 * PANEL[1] + LINE * lines)
        _heat(panels[2], columns, transition)
        if validation is None:
            panels[3].remove()
        else:
            _energies(panels[3], alloy, validation)
        for letter, axes in zip("abcd" if validation is not None else "abc", panels, strict=False):
            axes.set_title(f"({letter})", loc="left")
    return figure


def _waves(axes, alloy: Alloy) -> None:
    path = Cell(alloy.structure.cell).bandpath(npoints=POINTS, pbc=alloy.structure.pbc)
    x, ticks, labels = path.get_linear_kpoint_axis()
    for relaxed, colour, label, width in ((False, COLOURS[0], "ideal sites", 2.0), (True, COLOURS[1], "relaxed", 1.0)):
        if relaxed and alloy.pair_relaxation is None:
            continue
        energies = 1000 * concentration_waves(alloy, path.kpts, relaxed=relaxed).energy
        energies[1:][np.diff(x) == 0] = np.nan  # where the path jumps, no line
        axes.plot(x, energies, color=colour, linewidth=width)
        axes.plot([], [], color=colour, linewidth=width, label=label)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    for tick in ticks:
        axes.axvline(tick, color="0.85", linewidth=0.6, zorder=0)
    named: dict[float, str] = {}
    for tick, label in zip(ticks.tolist(), labels, strict=True):
        named[tick] = f"{named[tick]}|{label}" if tick in named else label
    shown = [label.replace("G", "Γ") for label in named.values()]
    axes.set_xticks(list(named), _staggered((np.array(list(named)) - x[0]) / (x[-1] - x[0]), shown))
    axes.set_xlim(x[0], x[-1])
    axes.set_ylabel("Concentration waves (meV)")
    axes.legend(**ABOVE)


def _staggered(places, labels: list[str]) -> list[str]:
    """Labels at these fractions of the axis, moved down where they would touch others."""
    ends: list[float] = []  # of every row
    found = []
    for place, label in zip(places, labels, strict=True):
        half = CHARACTER * len(label) / 2
        row = next((r for r, end in enumerate(ends) if place - half > end), len(ends))
        ends[row : row + 1] = [place + half]
        found.append("\n" * row + label)
    return found


def _order(axes, columns: Mapping[str, Any]) -> int:
    """Draw short-range order; how many lines the legend below has."""
    temperatures = np.asarray(columns["temperature_K"])
    names = [name[6:] for name in columns if name.startswith("alpha_") and f"alpha_error_{name[6:]}" in columns]
    size = {name: np.abs(np.nan_to_num(np.asarray(columns[f"alpha_{name}"], float))).max() for name in names}
    largest = sorted(names, key=lambda name: -size[name])[: len(SERIES)]
    labels = []
    for name, (marker, colour, width, line) in zip([n for n in names if n in largest], SERIES, strict=False):
        pair, rest = name.split("_", 1)
        distance, where = rest.split("A", 1)
        labels.append(f"{pair}, {distance} Å" + where.replace("_sublattices_", ", on ").replace("_", " "))
        axes.errorbar(
            temperatures, columns[f"alpha_{name}"], columns[f"alpha_error_{name}"], color=colour, fmt=marker,
            markersize=width, markerfacecolor="none", label=labels[-1],
        )  # fmt: skip
        style = {"color": colour, "linewidth": width / 5, "linestyle": line, "markersize": width / 2}
        axes.plot(temperatures, columns[f"alpha_mean_field_{name}"], marker=".", **style)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel("Temperature (K)")
    axes.set_ylabel("Warren-Cowley parameter")
    if not labels:
        return 0
    title = "open symbols: Monte Carlo\ndots and lines: Krivoglaz-Clapp-Moss"
    if len(names) > len(labels):
        title += f"\nthe {len(labels)} largest; {len(names) - len(labels)} more are in temperatures.csv"
    across = 1 if max(map(len, labels)) > LONG else 2
    axes.legend(title=title, title_fontsize=8, ncols=across, **BELOW)
    return title.count("\n") + 1 + ceil(len(labels) / across)


def _heat(axes, columns: Mapping[str, Any], transition: OrderDisorder) -> None:
    name = "heat_capacity_per_mixed_site_kB"
    axes.errorbar(
        columns["temperature_K"], columns[name], columns["heat_capacity_error_kB"], color=COLOURS[0], fmt="o", capsize=2
    )
    if np.isfinite(transition.temperature) and not transition.at_edge:
        low, high = transition.temperature - transition.error, transition.temperature + transition.error
        axes.axvspan(low, high, color=COLOURS[1], alpha=0.3, linewidth=0)
        axes.axvline(transition.temperature, color=COLOURS[1], label=f"{transition.temperature:.0f} K")
        axes.legend(**ABOVE)
    axes.set_xlabel("Temperature (K)")
    axes.set_ylabel("Heat capacity ($k_B$ per mixed site)")
    axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # symbols at 0 are whole


def _energies(axes, alloy: Alloy, validation: Validation) -> None:
    mean = alloy.energy / len(alloy.structure.positions)
    ends = []
    for found, predicted, colour, size, label in (
        (validation.rigid, validation.predicted_rigid, COLOURS[0], 6, "ideal sites"),
        (validation.relaxed, validation.predicted_relaxed, COLOURS[1], 4, "relaxed"),
    ):
        if np.isnan(found).all():
            continue
        x, y = 1000 * (found - mean), 1000 * (predicted - mean)
        ends += [*x, *y]
        for kind, (marker, face) in MARKERS.items():
            here = np.array([own == kind for own in validation.kinds])
            axes.plot(x[here], y[here], marker, color=colour, markersize=size, markerfacecolor=face or colour)
        axes.plot([], [], "o", color=colour, markersize=size, label=label)
    for kind, (marker, face) in MARKERS.items():
        if kind != "random" and kind in validation.kinds:
            label = OTHER_NAMES.get(kind, kind)
            axes.plot([], [], marker, color="0.3", markerfacecolor=face or "0.3", label=label)
    margin = 0.05 * (max(ends) - min(ends)) + 1
    both = [min(ends) - margin, max(ends) + margin]
    axes.plot(both, both, "--", color=LINEAR, linewidth=1.0, zorder=0)
    axes.set(xlim=both, ylim=both)
    axes.set_xlabel("Explicit energy (meV per site)")
    axes.set_ylabel("Predicted energy (meV per site)")
    axes.legend()
