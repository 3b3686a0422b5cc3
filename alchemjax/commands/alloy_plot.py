"""Figure of an alloy: concentration waves, short-range order, heat capacity, predicted against explicit energies."""

from collections.abc import Mapping
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

MARKERS = {"random": ("o", None), "SQS": ("D", None), "ground state": ("s", "white")}
POINTS = 200  # along the path


def plot_alloy(
    alloy: Alloy, columns: Mapping[str, Any], transition: OrderDisorder, validation: Validation | None
) -> Figure:
    """Energies of concentration waves along a path of the zone; Warren-Cowley parameters and heat capacity against
    temperature (`columns` are those of `temperatures.csv`); explicit against predicted energies.
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
        _order(panels[1], columns)
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
    for relaxed, colour, label in ((False, COLOURS[0], "ideal sites"), (True, COLOURS[1], "relaxed")):
        if relaxed and alloy.pair_relaxation is None:
            continue
        energies = 1000 * concentration_waves(alloy, path.kpts, relaxed=relaxed).energy
        energies[1:][np.diff(x) == 0] = np.nan  # where the path jumps, no line
        axes.plot(x, energies, color=colour, linewidth=1.2)
        axes.plot([], [], color=colour, label=label)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    for tick in ticks:
        axes.axvline(tick, color="0.85", linewidth=0.6, zorder=0)
    named: dict[float, str] = {}
    for tick, label in zip(ticks.tolist(), labels, strict=True):
        named[tick] = f"{named[tick]}|{label}" if tick in named else label
    axes.set_xticks(list(named), [label.replace("G", "Γ") for label in named.values()])
    axes.set_xlim(x[0], x[-1])
    axes.set_ylabel("Energy of concentration waves (meV)")
    axes.legend()


def _order(axes, columns: Mapping[str, Any]) -> None:
    temperatures = np.asarray(columns["temperature_K"])
    names = [name for name in columns if name.startswith("alpha_") and f"alpha_error_{name[6:]}" in columns]
    for number, name in enumerate(names):
        colour, marker = COLOURS[number % len(COLOURS)], "osD^v<>"[number // len(COLOURS) % 7]
        own = name[6:]
        pair, rest = own.split("_", 1)
        distance, where = rest.split("A", 1)
        between = where.replace("_sublattices_", ", sites ").replace("_", " ")
        axes.errorbar(
            temperatures, columns[name], columns[f"alpha_error_{own}"], color=colour, fmt=marker, capsize=2,
            label=f"{pair}, {distance} Å{between}",
        )  # fmt: skip
        axes.plot(temperatures, columns[f"alpha_mean_field_{own}"], color=colour, linewidth=1.0)
    axes.plot([], [], color=LINEAR, linewidth=1.0, label="Krivoglaz-Clapp-Moss")
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel("Temperature (K)")
    axes.set_ylabel("Warren-Cowley parameter")
    axes.legend(fontsize="x-small" if len(names) > len(COLOURS) else None, ncols=1 + len(names) // 6)


def _heat(axes, columns: Mapping[str, Any], transition: OrderDisorder) -> None:
    name = "heat_capacity_per_mixed_site_kB"
    axes.errorbar(
        columns["temperature_K"], columns[name], columns["heat_capacity_error_kB"], color=COLOURS[0], fmt="o", capsize=2
    )
    if np.isfinite(transition.temperature) and not transition.at_edge:
        low, high = transition.temperature - transition.error, transition.temperature + transition.error
        axes.axvspan(low, high, color=COLOURS[1], alpha=0.3, linewidth=0)
        axes.axvline(transition.temperature, color=COLOURS[1], label=f"{transition.temperature:.0f} K")
        axes.legend()
    axes.set_xlabel("Temperature (K)")
    axes.set_ylabel("Heat capacity ($k_B$ per mixed site)")
    axes.set_ylim(bottom=0)


def _energies(axes, alloy: Alloy, validation: Validation) -> None:
    mean = alloy.energy / len(alloy.structure.positions)
    ends = []
    for found, predicted, colour, label in (
        (validation.rigid, validation.predicted_rigid, COLOURS[0], "ideal sites"),
        (validation.relaxed, validation.predicted_relaxed, COLOURS[1], "relaxed"),
    ):
        if np.isnan(found).all():
            continue
        x, y = 1000 * (found - mean), 1000 * (predicted - mean)
        ends += [*x, *y]
        for kind, (marker, face) in MARKERS.items():
            here = np.array([own == kind for own in validation.kinds])
            axes.plot(x[here], y[here], marker, color=colour, markerfacecolor=face or colour)
        axes.plot([], [], "o", color=colour, label=label)
    for kind, (marker, face) in MARKERS.items():
        if kind != "random" and kind in validation.kinds:
            label = f"predicted {kind}" if kind == "ground state" else kind
            axes.plot([], [], marker, color="0.3", markerfacecolor=face or "0.3", label=label)
    margin = 0.05 * (max(ends) - min(ends)) + 1
    both = [min(ends) - margin, max(ends) + margin]
    axes.plot(both, both, "--", color=LINEAR, linewidth=1.0, zorder=0)
    axes.set(xlim=both, ylim=both)
    axes.set_xlabel("Explicit energy (meV per site)")
    axes.set_ylabel("Predicted energy (meV per site)")
    axes.legend()
