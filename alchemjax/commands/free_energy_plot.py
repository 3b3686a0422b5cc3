"""Figure of switches: the derivative along the path, and the works forward and back."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from alchemjax.plot import COLOURS, PANEL, STYLE
from alchemjax.tasks.free_energy.estimators import interval, sure
from alchemjax.tasks.free_energy.stability import Curve, Stability
from alchemjax.tasks.free_energy.switching import Facts, Switching
from alchemjax.tasks.free_energy.windows import Windows

BINS = 12


def plot_switch(log: dict[str, np.ndarray], facts: Facts, found: Switching) -> Figure:
    """(a) dE/dlambda against lambda, mean of the replicas; (b) distributions of works, and the difference."""
    with matplotlib.rc_context(STYLE):
        figure = _two_panels()
        _along_path(figure.add_subplot(1, 2, 1), log, facts)
        _works(figure.add_subplot(1, 2, 2), facts, found)
    return figure


def _two_panels() -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.04)
    return Figure(figsize=(PANEL[0] * 2, PANEL[1]), layout=layout)


def _along_path(axes, log: dict[str, np.ndarray], facts: Facts) -> None:
    ends = facts.steps
    stretches = {"forward": (ends[0], ends[1]), "backward": (ends[2], ends[3])}
    for colour, (name, (first, last)) in zip(COLOURS, stretches.items(), strict=False):
        chosen = (log["step"] >= first) & (log["step"] <= last)
        steps, place = np.unique(log["step"][chosen], return_inverse=True)
        mean = lambda column, place=place, chosen=chosen: np.bincount(place, column[chosen]) / np.bincount(place)
        axes.plot(mean(log["lambda"]), mean(log["dE/dlambda_eV"]), color=colour, label=name, linewidth=1)
    axes.set_xlabel("λ")
    axes.set_ylabel("dE/dλ (eV)")
    axes.set_title("(a)", loc="left")
    axes.legend(frameon=False)


def _works(axes, facts: Facts, found: Switching) -> None:
    works = {"forward": found.forward - facts.momenta, "− backward": -found.backward - facts.momenta}
    every = np.concatenate(list(works.values()))
    width = max(float(np.ptp(every)), 1e-6)
    bins = np.linspace(every.min() - 0.05 * width, every.max() + 0.05 * width, BINS + 1)
    most = 1
    for colour, (name, values) in zip(COLOURS, works.items(), strict=False):
        heights = axes.hist(values, bins=bins, color=colour, alpha=0.5, label=name)[0]
        most = max(most, heights.max())
    axes.axvline(found.difference.value, color="black", linewidth=1, label="free energy (BAR)")
    if np.isfinite(found.difference.error):
        axes.axvspan(*interval(found.difference), color="black", alpha=0.15, linewidth=0)
    axes.set_ylim(0, 1.5 * most)  # room for the legend
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("Work without momenta (eV)")
    axes.set_ylabel("Switches")
    axes.set_title("(b)", loc="left")
    axes.legend(frameon=False, loc="upper left")


def plot_windows(found: Windows) -> Figure:
    """(a) dE/dlambda of the windows; (b) free energy without momenta and mixing; both with 95 % intervals."""
    with matplotlib.rc_context(STYLE):
        figure = _two_panels()
        panels = {
            "dE/dλ (eV)": (found.lambdas, found.derivatives),
            "Free energy from λ = 0 (eV)": (found.states, found.profile),
        }
        for k, (label, (x, estimates)) in enumerate(panels.items()):
            axes, style = figure.add_subplot(1, 2, k + 1), {"marker": "o", "markersize": 3, "capsize": 2}
            errors = [interval(one)[1] - one.value for one in estimates]
            axes.errorbar(x, [one.value for one in estimates], errors, color=COLOURS[k], linewidth=1, **style)
            axes.set_xlabel("λ")
            axes.set_ylabel(label)
            axes.set_title(f"({'ab'[k]})", loc="left")
    return figure


def plot_stability(names: list[str], curves: list[Curve], found: Stability, unit: str) -> Figure:
    """(a) Gibbs energies of both phases from that of the first at the reference; (b) their difference; 95 %."""
    with matplotlib.rc_context(STYLE):
        figure = _two_panels()
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        zero, short = curves[0].reference.value, {"formula unit": "f.u."}.get(unit, unit)
        for colour, name, curve in zip(COLOURS, names, curves, strict=False):
            half = sure(curve.reference.samples) * curve.error
            _band(left, curve.temperatures, curve.gibbs - zero, half, colour, name)
        left.set_ylabel(f"G − G({curves[0].reference_temperature:g} K) (eV/{short})")
        left.set_title("(a)", loc="left")
        left.legend(frameon=False)
        half = 1000 * sure(min(curve.reference.samples for curve in curves)) * found.error
        _band(right, found.temperatures, 1000 * found.difference, half, COLOURS[2], None)
        right.axhline(0, color="black", linewidth=0.8)
        if found.transition is not None:
            right.axvline(found.transition.value, color="black", linewidth=0.8, linestyle=":")
            if np.isfinite(found.transition.error):
                right.axvspan(*interval(found.transition), color="black", alpha=0.1, linewidth=0)
        right.set_ylabel(f"G({names[1]}) − G({names[0]}) (meV/{short})")
        right.set_title("(b)", loc="left")
        for axes in (left, right):
            axes.set_xlabel("Temperature (K)")
    return figure


def _band(axes, x, y, half, colour, name) -> None:
    axes.plot(x, y, color=colour, label=name)
    axes.fill_between(x, y - half, y + half, color=colour, alpha=0.25, linewidth=0)
