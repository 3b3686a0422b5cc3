"""Figures of sweeps, without matplotlib's global state; save them with `figure.savefig("sweep.png", dpi=200)`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart with every kind of colour vision; the maps are perceptually uniform
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MAP = "cividis"
LINEAR = "0.15"  # of Vegard's law
DENSE = 36  # compositions; fewer are not enough to colour what lies between them
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.formatter.useoffset": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
}
PANEL = (3.3, 2.9)  # inches


class Curve(NamedTuple):
    """One quantity of a panel."""

    label: str
    values: np.ndarray
    linear: str = ""  # what the straight line between its end members is called, if it has one


class Panel(NamedTuple):
    """One pair of axes."""

    title: str  # quantity and unit
    curves: list[Curve]


def plot_sweep(columns: Mapping[str, Any]) -> Figure:
    """Lattice parameters, volume and mixing energy against composition.

    `columns` are those of `sweep.csv`: `group:species` for every weight, `a_A` and so on; a data frame will do. Lines
    and Vegard's law (dashed: linear between the end members) where one group of two species varies, maps where one of
    three does (a triangle) or two of two (a square), else points by row number. Open markers did not converge. Under a
    pressure the mixing enthalpy takes the place of the mixing energy.
    """
    data = {name: np.asarray(columns[name], np.float64) for name in columns}
    varying = {
        group: names for group, names in _groups(data).items() if any(np.ptp(data[name]) > 1e-9 for name in names)
    }
    groups, axes = list(varying.values()), [names[-1] for names in varying.values()]
    full = all(len(names) == 1 or np.allclose(sum(data[n] for n in names), 1, atol=1e-5) for names in groups)
    sizes = [len(names) for names in groups]
    with matplotlib.rc_context(STYLE):
        if full and sizes in ([1], [2]):
            return _lines(data, groups[0])
        if full and sizes == [3] and _span_area([data[name] for name in groups[0]]):
            return _mapped(data, groups[0], partial(triangle, names=groups[0]))
        if full and len(sizes) == 2 and max(sizes) <= 2 and _span_area([data[name] for name in axes]):
            labels = [_composition_label(names, x) for names, x in zip(groups, "xy", strict=True)]
            return _mapped(data, axes, partial(_square, labels=labels))
        return _rows(data)


def plot_md(columns: Mapping[str, Any]) -> Figure:
    """Temperature, energy, conserved energy, pressure, volume and composition against time.

    `columns` are those of `log.csv`; a data frame will do. Thin lines are samples of every replica, thick ones running
    means over a twentieth of the run, dashed ones targets. What does not change is left out.
    """
    data = {name: np.asarray(columns[name], np.float64) for name in columns}
    sites = [
        Panel("Temperature (K)", [Curve("", data["temperature_K"])]),
        Panel("Potential energy (eV)", [Curve("", data["energy_eV"])]),
        Panel("Conserved energy, change (meV)", [Curve("", 1000 * _since_start(data, "conserved_eV"))]),
    ]
    if np.isfinite(data["pressure_GPa"]).all():
        sites.append(Panel("Pressure (GPa)", [Curve("", data["pressure_GPa"])]))
    if np.isfinite(data["volume_A3"]).all() and np.ptp(data["volume_A3"]) > 1e-6:
        sites.append(Panel("Volume of the cell (Å³)", [Curve("", data["volume_A3"])]))
    moving = [name for names in _groups(data).values() for name in names if np.ptp(data[name]) > 1e-9]
    if moving:
        sites.append(Panel("Composition", [Curve(_species(name), data[name]) for name in moving[: len(COLOURS)]]))
    targets = {"Temperature (K)": "target_temperature_K", "Pressure (GPa)": "target_pressure_GPa"}
    with matplotlib.rc_context(STYLE):
        across = 2 if len(sites) == 4 else 3
        rows = -(-len(sites) // across)
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.04)
        figure = Figure(figsize=(across * PANEL[0], rows * PANEL[1]), layout=layout)
        grid = figure.subplots(rows, across, squeeze=False).ravel()
        for letter, axes, panel in zip("abcdef", grid, sites, strict=False):
            _over_time(axes, data, panel, data.get(targets.get(panel.title, "")))
            _name_panel(axes, letter)
            axes.set_xlabel("Time (ps)")
            axes.set_ylabel(panel.title)
        for axes in grid[len(sites) :]:
            axes.remove()
    return figure


def _since_start(data: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """By how much a quantity of every replica has changed."""
    replicas = int(data["replica"].max()) + 1 if "replica" in data else 1
    return (data[name].reshape(-1, replicas) - data[name][:replicas]).ravel()


def _over_time(axes, data: Mapping[str, np.ndarray], panel: Panel, target: np.ndarray | None) -> None:
    replicas = int(data["replica"].max()) + 1 if "replica" in data else 1
    time = data["time_fs"].reshape(-1, replicas)[:, 0] / 1000
    window = max(1, len(time) // 20)
    for curve, colour in zip(panel.curves, COLOURS, strict=False):
        values = curve.values.reshape(-1, replicas)
        axes.plot(time, values, color=colour, linewidth=0.6, alpha=0.45)
        mean = np.convolve(values.mean(1), np.ones(window) / window, "valid")
        middle = np.convolve(time, np.ones(window) / window, "valid")
        axes.plot(middle, mean, color=colour, label=curve.label or None)
    if target is not None and np.isfinite(target).all():
        axes.plot(time, target.reshape(-1, replicas)[:, 0], "--", color=LINEAR, linewidth=1.0, label="target")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _groups(data: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Columns of the weights by group."""
    groups: dict[str, list[str]] = {}
    for name in data:
        if ":" in name and not name.startswith("dE/d("):
            groups.setdefault(name.rpartition(":")[0], []).append(name)
    return groups


def _species(name: str) -> str:
    return name.rpartition(":")[2]


def _converged(data: Mapping[str, np.ndarray]) -> np.ndarray:
    rows = len(next(iter(data.values())))
    return data.get("converged", np.ones(rows)) > 0


def _panels(data: Mapping[str, np.ndarray]) -> list[Panel]:
    """What there is to show: quantities without numbers, and cells that do not change, are left out."""
    panels = []
    if (lengths := _distinct(data, {"$a$": "a_A", "$b$": "b_A", "$c$": "c_A"}, 1e-3)) and _changes(lengths, 1e-6):
        panels.append(Panel("Lattice parameters (Å)", lengths))
        angles = _distinct(data, {r"$\alpha$": "alpha_deg", r"$\beta$": "beta_deg", r"$\gamma$": "gamma_deg"}, 0.02)
        if angles and _changes(angles, 0.05):
            panels.append(Panel("Cell angles (degrees)", [curve._replace(linear="") for curve in angles]))
        panels.append(Panel("Volume of the cell (Å³)", [Curve("", data["volume_A3"], "linear")]))
    quantity = "enthalpy" if "enthalpy_per_site_eV" in data else "energy"
    mixing = 1000 * data[f"mixing_{quantity}_per_site_eV"]
    if np.isfinite(mixing).mean() > 0.5:  # with vacancies there is none
        panels.append(Panel(f"Mixing {quantity} (meV per atom site)", [Curve("", mixing)]))
    else:
        panels.append(
            Panel(f"{quantity.capitalize()} (eV per atom site)", [Curve("", data[f"{quantity}_per_site_eV"])])
        )
    return panels


def _distinct(data: Mapping[str, np.ndarray], names: dict[str, str], tolerance: float) -> list[Curve]:
    """Curves of the columns that have numbers; those that agree everywhere share one label, like a = b."""
    curves: list[Curve] = []
    for label, name in names.items():
        values = data[name]
        if not np.isfinite(values).any():
            continue
        same = [k for k, c in enumerate(curves) if np.nanmax(np.abs(c.values - values)) < tolerance]
        if same:
            curves[same[0]] = curves[same[0]]._replace(label=f"{curves[same[0]].label} = {label}")
        else:
            curves.append(Curve(label, values, "Vegard's law"))
    return curves


def _changes(curves: list[Curve], tolerance: float) -> bool:
    return any(np.nanmax(c.values) - np.nanmin(c.values) > tolerance for c in curves)


def _figure(panels: int) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.04)
    return Figure(figsize=(PANEL[0] * panels, PANEL[1]), layout=layout)


def vegard_line(x: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """The straight line through the values at x = 0 and x = 1, at every x; None where an end member is missing."""
    ends = [np.flatnonzero((np.abs(x - end) < 1e-9) & np.isfinite(values)) for end in (0, 1)]
    if not all(len(end) for end in ends):
        return None
    first, last = (values[end[0]] for end in ends)
    return first + (last - first) * x


def _lines(data: Mapping[str, np.ndarray], names: list[str]) -> Figure:
    panels = _panels(data)
    figure = _figure(len(panels))
    order = np.argsort(data[names[-1]], kind="stable")
    x, converged = data[names[-1]][order], _converged(data)[order]
    for letter, axes, panel in zip("abcd", figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=False):
        drawn = ""
        for curve, colour in zip(panel.curves, COLOURS, strict=False):
            values = curve.values[order]
            axes.plot(x, values, "-", color=colour, linewidth=1.2)
            _points(axes, x, values, converged, colour, curve.label)
            if curve.linear and (line := vegard_line(x, values)) is not None:
                axes.plot(x, line, "--", color=LINEAR, linewidth=1.2, zorder=3)  # above the markers, or they hide it
                drawn = curve.linear
        if drawn:
            axes.plot([], [], "--", color=LINEAR, linewidth=1.2, label=drawn)
        _name_panel(axes, letter)
        _finish(axes, _composition_label(names), panel.title, converged)
        axes.set_xlim(-0.03, 1.03)
    return figure


def _points(axes, x, values, converged, colour: str, label: str = "") -> None:
    """Full markers, open ones where a relaxation did not converge."""
    axes.plot(x[converged], values[converged], "o", color=colour, label=label or None)
    axes.plot(x[~converged], values[~converged], "o", markerfacecolor="white", color=colour)


def _finish(axes, xlabel: str, ylabel: str, converged: np.ndarray) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    if ylabel.startswith("Mixing"):
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    if not converged.all():
        axes.plot([], [], "o", color="0.3", markerfacecolor="white", label="not converged")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", handlelength=1.8)


def _name_panel(axes, letter: str) -> None:
    axes.set_title(f"({letter})", loc="left")


def _composition_label(names: list[str], variable: str = "") -> str:
    """x in A(1-x)B(x), or occupancy of a single species, which can only be missing; with a variable also the group."""
    group = f" (group {names[0].rpartition(':')[0]})" if variable else ""
    if len(names) == 1:
        return f"Occupancy of {_species(names[0])}{group}"
    (first, second), x = map(_species, names), variable or "x"
    return rf"${x}$ in {first}$_{{1-{x}}}${second}$_{{{x}}}${group}"


def _rows(data: Mapping[str, np.ndarray]) -> Figure:
    panels = _panels(data)
    figure = _figure(len(panels))
    converged = _converged(data)
    rows = np.arange(1, len(converged) + 1)
    for letter, axes, panel in zip("abcd", figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=False):
        for curve, colour in zip(panel.curves, COLOURS, strict=False):
            _points(axes, rows, curve.values, converged, colour, curve.label)
        _name_panel(axes, letter)
        _finish(axes, "Row of the table", panel.title, converged)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _span_area(weights: list[np.ndarray]) -> bool:
    points = np.stack(weights[:2], axis=1)
    return len(points) > 2 and np.linalg.matrix_rank(points - points.mean(0), tol=1e-6) == 2


def _mapped(data: Mapping[str, np.ndarray], names: list[str], make_axes: Callable) -> Figure:
    """Maps over the weights `names`; colours fill the space between compositions only where these are dense."""
    maps = _maps(data)
    figure = Figure(figsize=(4.1 * len(maps), 3.4), layout="constrained")
    converged = _converged(data)
    places = [data[name] for name in names]
    for number, (title, values) in enumerate(maps):
        axes = make_axes(figure, (1, len(maps), number + 1))
        known = np.isfinite(values)
        shown = [w[known] for w in places]
        dense = known.sum() >= DENSE and _span_area(shown)
        if not dense:
            filled = axes.scatter(
                *shown, c=values[known], s=90, cmap=MAP, edgecolors="0.2", linewidths=0.4, clip_on=False
            )
        else:
            filled = axes.tripcolor(*shown, values[known], shading="gouraud", cmap=MAP, rasterized=True)
            dot = {"markersize": 2, "color": "white", "markeredgecolor": "0.2", "markeredgewidth": 0.4}
            axes.plot(*(w[converged & known] for w in places), "o", clip_on=False, **dot)
        if not converged.all():
            ring = {"markersize": 5 if dense else 12, "markerfacecolor": "none", "color": COLOURS[1]}
            label = "not converged" if number == 0 else None
            axes.plot(*(w[~converged] for w in places), "o", clip_on=False, label=label, **ring)
        _name_panel(axes, "abcd"[number])
        bar = figure.colorbar(filled, ax=axes, shrink=0.8, pad=0.08)
        bar.set_label(title)
        bar.outline.set_linewidth(0.6)
    if not converged.all():
        figure.legend(loc="outside lower center")
    return figure


def _square(figure: Figure, position: tuple, labels: list[str]):
    axes = figure.add_subplot(*position)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    return axes


def triangle(figure: Figure, position: tuple, names: list[str]):
    """Axes over three weights."""
    import mpltern  # noqa: F401  registers the projection

    axes: Any = figure.add_subplot(*position, projection="ternary")
    _name_corners(axes, names)
    return axes


def _name_corners(axes, names: list[str]) -> None:
    for side, name in zip("tlr", names, strict=True):
        getattr(axes, f"set_{side}label")(_species(name))
        getattr(axes, f"{side}axis").set_label_rotation_mode("horizontal")
    axes.grid(color="white", alpha=0.25, linewidth=0.5)


def _maps(data: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """The size of the cell, by a where that is all there is to it, and the mixing energy."""
    maps = []
    panels = _panels(data)
    if panels[0].title.startswith("Lattice"):
        lengths = panels[0].curves
        cubic = len(lengths) == 1
        maps.append(
            ("Lattice parameter $a$ (Å)", lengths[0].values)
            if cubic
            else ("Cube root of the volume (Å)", np.cbrt(data["volume_A3"]))
        )
    curve = panels[-1]
    return [*maps, (curve.title, curve.curves[0].values)]
