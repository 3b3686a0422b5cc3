"""Figures of sweeps say what the table says."""

import numpy as np
import pytest
from ase.build import bulk

import alchemjax as aj
from alchemjax.commands.alloy_plot import plot_alloy
from alchemjax.plot import PANEL, plot_sweep, vegard_line
from alchemjax.system.supercell import make_supercell
from alchemjax.tasks.alloy import Alloy
from alchemjax.tasks.transition import OrderDisorder


def table(weights, names, *, a, c=None, mixing=None, converged=None, gamma=90.0):
    """Columns of a sweep as sweep.csv has them."""
    weights, rows = np.asarray(weights, float), len(weights)
    c = a if c is None else c
    mixing = 0.1 * (1 - np.sum(weights**2, axis=1)) if mixing is None else mixing
    columns = {name: weights[:, k] for k, name in enumerate(names)}
    columns |= {"energy_per_site_eV": -3 - mixing, "mixing_energy_per_site_eV": mixing, "volume_A3": a * a * c}
    columns |= {"a_A": a, "b_A": a, "c_A": c, "alpha_deg": np.full(rows, 90.0), "beta_deg": np.full(rows, 90.0)}
    columns |= {"gamma_deg": np.full(rows, 1.0) * gamma, "converged": np.ones(rows, int)}
    columns |= {f"dE/d({name})_eV": np.arange(rows) for name in names}
    if converged is not None:
        columns["converged"] = np.asarray(converged, int)
    return columns


X = np.linspace(0, 1, 5)
BINARY = np.stack([1 - X, X], axis=1)
NAMES = ["Ce:Ce", "Ce:Zr"]
TERNARY = np.array([(i, j, 4 - i - j) for i in range(5) for j in range(5 - i)]) / 4


def drawn(axes, style):
    """Coordinates of the curves of one line style that hold points."""
    return [line.get_xydata() for line in axes.lines if line.get_linestyle() == style and len(line.get_xydata())]


def test_vegards_line_is_straight_between_the_end_members_and_absent_without_them():
    values = np.array([5.0, 7.0, 1.0, 9.0, 4.0])
    np.testing.assert_array_equal(vegard_line(X, values), [5.0, 4.75, 4.5, 4.25, 4.0])
    assert vegard_line(X[1:], values[1:]) is None
    assert vegard_line(X, np.where(X == 1, np.nan, values)) is None


def test_a_binary_is_drawn_as_lines_with_vegards_law_dashed():
    a = 5.4 - 0.3 * X + 0.2 * X * (1 - X)
    figure = plot_sweep(table(BINARY, NAMES, a=a))
    lattice, volume, mixing = figure.axes
    assert lattice.get_ylabel() == "Lattice parameters (Å)"
    assert volume.get_ylabel() == "Volume of the cell (Å³)"
    assert mixing.get_ylabel() == "Mixing energy (meV per atom site)"
    assert {axes.get_xlabel() for axes in figure.axes} == {"$x$ in Ce$_{1-x}$Zr$_{x}$"}
    (dashed,) = drawn(lattice, "--")
    np.testing.assert_allclose(dashed, np.stack([X, 5.4 - 0.3 * X], axis=1), rtol=1e-12)
    np.testing.assert_allclose(drawn(lattice, "-")[0], np.stack([X, a], axis=1), rtol=1e-12)
    np.testing.assert_allclose(drawn(mixing, "-")[0][:, 1], 200 * X * (1 - X), atol=1e-10)
    assert not drawn(mixing, "--")
    labels = [text.get_text() for text in lattice.get_legend().get_texts()]
    assert labels == ["$a$ = $b$ = $c$", "Vegard's law"]


def test_rows_in_any_order_make_the_same_lines():
    shuffled = table(BINARY, NAMES, a=5 + X)
    shuffled = {name: np.asarray(column)[[3, 0, 4, 2, 1]] for name, column in shuffled.items()}
    np.testing.assert_allclose(drawn(plot_sweep(shuffled).axes[0], "-")[0], np.stack([X, 5 + X], axis=1))


def test_different_lengths_and_changing_angles_are_all_shown():
    figure = plot_sweep(table(BINARY, NAMES, a=4 + X, c=6 - X, gamma=90 + X))
    assert [axes.get_ylabel() for axes in figure.axes][1] == "Cell angles (degrees)"
    assert len(drawn(figure.axes[0], "--")) == 2
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[:2] == ["$a$ = $b$", "$c$"]


def test_a_cell_that_does_not_change_is_not_drawn():
    figure = plot_sweep(table(BINARY, NAMES, a=np.full(5, 4.0)))
    assert [axes.get_ylabel() for axes in figure.axes] == ["Mixing energy (meV per atom site)"]


@pytest.mark.parametrize("weights, names", [(BINARY, NAMES), (TERNARY, ["Na:Na", "Na:K", "Na:Li"])])
def test_what_did_not_converge_is_marked_and_named(weights, names):
    def legends(converged):
        figure = plot_sweep(table(weights, names, a=5 + weights[:, 1], converged=converged))
        held = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        return [text.get_text() for legend in held for text in legend.get_texts()]

    rows = len(weights)
    assert "not converged" in legends([1, 0] + [1] * (rows - 2))
    assert "not converged" not in legends([1] * rows)


def test_a_ternary_is_a_map_of_the_lattice_parameter_and_of_the_mixing_energy():
    figure = plot_sweep(table(TERNARY, ["Na:Na", "Na:K", "Na:Li"], a=5 + TERNARY[:, 1]))
    maps = [axes for axes in figure.axes if axes.name == "ternary"]
    bars = [axes.get_ylabel() for axes in figure.axes if axes.name != "ternary"]
    assert bars == ["Lattice parameter $a$ (Å)", "Mixing energy (meV per atom site)"]
    for axes in maps:
        assert [axes.get_tlabel(), axes.get_llabel(), axes.get_rlabel()] == ["Na", "K", "Li"]


def test_a_ternary_of_unequal_axes_shows_the_cube_root_of_the_volume():
    figure = plot_sweep(table(TERNARY, ["Na:Na", "Na:K", "Na:Li"], a=5 + TERNARY[:, 1], c=3 + TERNARY[:, 0]))
    assert "Cube root of the volume (Å)" in [axes.get_ylabel() for axes in figure.axes]


GRID = np.array([(*a, *b) for a in BINARY for b in BINARY])


@pytest.mark.parametrize("weights", [GRID, np.concatenate([GRID, GRID * 0.5 + 0.25])])
def test_two_groups_are_maps_over_both_compositions(weights):
    figure = plot_sweep(table(weights, ["a:Ce", "a:Zr", "b:O", "b:S"], a=5 + weights[:, 1]))
    maps, bars = figure.axes[::2], figure.axes[1::2]
    assert [axes.get_ylabel() for axes in bars] == ["Lattice parameter $a$ (Å)", "Mixing energy (meV per atom site)"]
    for axes in maps:
        assert axes.get_xlabel() == "$x$ in Ce$_{1-x}$Zr$_{x}$ (group a)"
        assert axes.get_ylabel() == "$y$ in O$_{1-y}$S$_{y}$ (group b)"
    (coloured,) = maps[0].collections
    np.testing.assert_allclose(coloured.get_array(), 5 + weights[:, 1])
    points = coloured.get_offsets() if len(weights) < 36 else drawn(maps[0], "None")[0]
    np.testing.assert_allclose(points, weights[:, [1, 3]])


def test_a_vacancy_and_a_binary_are_maps_too():
    weights = GRID[:, [0, 1, 3]]
    figure = plot_sweep(table(weights, ["a:Ce", "a:Zr", "b:O"], a=5 + weights[:, 1], mixing=np.full(25, np.nan)))
    assert figure.axes[0].get_ylabel() == "Occupancy of O (group b)"


def test_more_groups_are_drawn_by_row_number_with_all_quantities():
    weights = np.concatenate([GRID, BINARY[np.arange(25) % 5]], axis=1)
    a = 5 + weights[:, 1]
    figure = plot_sweep(table(weights, [*NAMES, "O:O", "O:S", "H:H", "H:F"], a=a, c=a + 1))
    labels = ["Lattice parameters (Å)", "Volume of the cell (Å³)", "Mixing energy (meV per atom site)"]
    assert [axes.get_ylabel() for axes in figure.axes] == labels
    assert {axes.get_xlabel() for axes in figure.axes} == {"Row of the table"}
    curves = drawn(figure.axes[0], "None")
    np.testing.assert_allclose([curve[:, 1] for curve in curves], [a, a + 1])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["(a)", "(b)", "(c)"]


def test_few_compositions_of_a_ternary_do_not_colour_what_lies_between_them():
    fine = np.array([(i, j, 10 - i - j) for i in range(11) for j in range(11 - i)]) / 10
    for weights, kind in ((TERNARY, "PathCollection"), (fine, "TriMesh")):
        figure = plot_sweep(table(weights, ["Na:Na", "Na:K", "Na:Li"], a=5 + weights[:, 1]))
        assert [type(c).__name__ for c in figure.axes[0].collections] == [kind]


def test_under_pressure_the_mixing_enthalpy_is_drawn():
    columns = table(BINARY, NAMES, a=5 + X)
    columns |= {"enthalpy_per_site_eV": X, "mixing_enthalpy_per_site_eV": 0.002 * X * (1 - X)}
    mixing = plot_sweep(columns).axes[-1]
    assert mixing.get_ylabel() == "Mixing enthalpy (meV per atom site)"
    np.testing.assert_allclose(drawn(mixing, "-")[0][:, 1], 2 * X * (1 - X), atol=1e-12)


def test_vacancies_are_drawn_against_the_occupancy_with_the_energy():
    nothing = np.where(X == 1, 0, np.nan)
    columns = table(X[:, None], ["O:O"], a=4 + X, mixing=nothing) | {"energy_per_site_eV": -X}
    figure = plot_sweep(columns)
    assert figure.axes[-1].get_ylabel() == "Energy (eV per atom site)"
    assert figure.axes[-1].get_xlabel() == "Occupancy of O"


def test_drawing_leaves_matplotlibs_settings_and_backend_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    for weights, names in ((BINARY, NAMES), (TERNARY, ["Na:Na", "Na:K", "Na:Li"])):
        plot_sweep(table(weights, names, a=5 + weights[:, 1])).savefig(tmp_path / "figure.png")
    assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def last_line(text):
    """Of an upright text, its box."""
    box, lines = text.get_window_extent(), text.get_text().count("\n") + 1
    return box.from_extents(box.x0, box.y0, box.x1, box.y0 + box.height / lines)


def assert_texts_are_apart(figure):
    """And within the figure; only the last line of a text counts."""
    figure.draw_without_rendering()
    boxes = []
    for axes in figure.axes:
        sides = ("taxis", "laxis", "raxis") if axes.name == "ternary" else ("xaxis", "yaxis")
        for axis in (getattr(axes, side) for side in sides):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick.label2 if tick.label2.get_visible() else tick.label1 for tick in axis.get_major_ticks()]
            places = zip(ticks, axis.get_majorticklocs(), strict=True)
            inside = [tick for tick, place in places if low <= place <= high and axes.name != "ternary"]
            boxes += [last_line(text) for text in (axis.label, *inside) if text.get_text()]
        boxes += [text.get_window_extent() for text in (axes.get_legend().get_texts() if axes.get_legend() else [])]
    assert len(boxes) > 10
    assert not [(a, b) for k, a in enumerate(boxes) for b in boxes[:k] if a.overlaps(b)]
    width, height = figure.get_size_inches() * figure.dpi
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)


@pytest.mark.parametrize("weights, names", [(BINARY, NAMES), (TERNARY, ["Na:Na", "Na:K", "Na:Li"])])
def test_no_text_lies_on_other_text(weights, names):
    rows = len(weights)
    assert_texts_are_apart(plot_sweep(table(weights, names, a=5 + weights[:, 1], converged=[0] + [1] * (rows - 1))))


# --- alloys -----------------------------------------------------------------------------------------------------------


def figure_of_alloy(temperatures, alphas, mean_field=0.1):
    """Of a hexagonal crystal, of which the path through the zone has jumps; `alphas` by name."""
    weights, near = np.full((2, 2), 0.5), np.array([[0.25, -0.25], [-0.25, 0.25]])
    structure = aj.from_atoms(bulk("Mg", "hcp", 3.2, c=5.2)).structure
    pair = np.zeros((2, 8, 2, 2, 2))
    pair[0, :, 1] = pair[1, :, 0] = 0.02 * near
    states = np.arange(2), np.zeros(2, int), ("A", "B"), weights, weights > 0
    parts = np.zeros((2, 2)), np.zeros((2, 2)), pair, 0.0, -pair / 2
    found = Alloy(structure, *states, make_supercell(2 * np.eye(3, dtype=int), 2), 0.0, *parts)
    zeros = np.zeros(len(temperatures))
    columns = {"temperature_K": temperatures}
    columns |= {"heat_capacity_per_mixed_site_kB": zeros, "heat_capacity_error_kB": zeros}
    for name, alpha in alphas.items():
        columns |= {f"alpha_{name}": zeros + alpha, f"alpha_error_{name}": zeros}
        columns |= {f"alpha_mean_field_{name}": zeros + mean_field}
    branches = None, None, zeros, zeros, "smooth", 700.0, 50.0, 0.0, False, zeros > 0, None, 0.0, None
    return plot_alloy(found, columns, OrderDisorder(temperatures, *branches), None)


MANY = {f"{name}_{d:.2f}A_sublattices_Ga-N": 0.1 * k for k, (name, d) in enumerate(
    (f"{a}-{b}", d) for d in (1.95, 3.18) for a in ("Ga", "Al", "vacancy") for b in ("N", "P")
)}  # fmt: skip


def test_of_many_pairs_the_six_most_ordered_are_drawn_and_the_others_counted():
    _, order, _ = figure_of_alloy(np.array([300.0, 600.0]), MANY).axes
    labels = [text.get_text() for text in order.get_legend().get_texts()]
    assert labels == [f"{a}-{b}, 3.18 Å, on Ga-N" for a in ("Ga", "Al", "vacancy") for b in ("N", "P")]
    assert "6 more are in temperatures.csv" in order.get_legend().get_title().get_text()
    drawn = [line for line in order.lines if np.ndim(line.get_xdata()) and len(line.get_xdata()) == 2]
    assert len({(line.get_color(), line.get_markersize()) for line in drawn if line.get_marker() in "osD^vP"}) == 6


@pytest.mark.parametrize("number", [1, 12])
def test_texts_of_an_alloy_lie_beside_each_other_and_legends_beside_data(number):
    figure = figure_of_alloy(np.array([300.0, 600.0]), dict(list(MANY.items())[:number]))
    assert_texts_are_apart(figure)
    width, _ = figure.get_size_inches() * figure.dpi
    for axes in figure.axes:
        box = axes.get_legend().get_window_extent()
        assert axes.get_window_extent().height > 0.65 * PANEL[1] * figure.dpi
        assert not box.overlaps(axes.get_window_extent()) and 0 <= box.x0 < box.x1 <= width and box.y0 >= 0
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert "A|L" in labels and "\nM|K" in labels


def test_one_temperature_and_pairs_alike_are_visible():
    _, order, heat = figure_of_alloy(np.array([500.0]), {"A-B_2.00A": -0.3, "A-B_3.00A": -0.3}, -0.3).axes
    symbols = [line for line in order.lines if line.get_marker() in "osD^vP."]
    assert len(symbols) == 4 and len({(line.get_marker(), line.get_markersize()) for line in symbols}) == 4
    assert {line.get_markerfacecolor() for line in symbols if line.get_marker() != "."} == {"none"}
    assert heat.get_ylim()[0] < 0
    _, order, _ = figure_of_alloy(np.array([500.0]), {"A-B_2.00A": -0.3}, np.nan).axes
    (dots,) = [line for line in order.lines if line.get_marker() == "."]
    assert np.isnan(dots.get_ydata()).all()
