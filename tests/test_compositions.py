"""Weights and grids of compositions, as given to the command line, and the references of mixing."""

import itertools

import numpy as np
import pytest

from alchemjax.commands import compositions, options
from alchemjax.system import corners
from alchemjax.system.sites import Group, make_sites


def sites_of(*groups):
    entries = [Group(f"g{k}", (k,), tuple(species)) for k, species in enumerate(groups)]
    return make_sites(["H"] * len(groups), tuple(entries))


def test_grids_run_from_the_first_species_to_the_last():
    np.testing.assert_allclose(compositions.grid(sites_of(["Ce", "Zr"]), 3), [[1, 0], [0.5, 0.5], [0, 1]])
    np.testing.assert_allclose(compositions.grid(sites_of(["O"]), 3), [[0], [0.5], [1]])
    ternary = compositions.grid(sites_of(["Na", "K", "Li"]), 5)
    assert len(ternary) == len({tuple(row) for row in ternary}) == 15
    np.testing.assert_allclose(ternary.sum(1), 1)
    assert ternary[0].tolist() == [1, 0, 0]
    assert ternary[-1].tolist() == [0, 0, 1]
    assert len(compositions.grid(sites_of(["Na", "K", "Li"], ["O", "S"]), 3)) == 18


def test_a_grid_that_is_too_large_is_refused_with_its_size():
    with pytest.raises(ValueError, match=r"make 9261 compositions of 3 groups .* more than 5000"):
        compositions.grid(sites_of(["Na", "K"], ["O", "S"], ["F", "Cl"]), 21)


def test_the_reference_of_mixing_is_the_product_over_groups():
    sites = sites_of(["Na", "K"], ["O", "S", "F"])
    rows = corners.with_corners(sites, np.array([[0.3, 0.7, 0.2, 0.5, 0.3], [0.3, 0.7, 0.2, 0.5, 0.2]]))
    assert len(rows) == 8
    values = np.random.default_rng(0).normal(size=8)
    end = {tuple(np.flatnonzero(row).tolist()): value for row, value in zip(rows[2:], values[2:], strict=True)}
    by_hand = sum(rows[0][i] * rows[0][j] * end[i, j] for i in (0, 1) for j in (2, 3, 4))
    ideal = corners.between_corners(sites, rows, values)
    assert ideal[0] == pytest.approx(by_hand, rel=1e-12)
    assert np.isnan(ideal[1])
    np.testing.assert_allclose(ideal[2:], values[2:], rtol=1e-12)
    assert np.isnan(corners.between_corners(sites, rows[:-1], values[:-1])).all()


def test_ordered_arrangements_are_measured_against_the_pure_crystals():
    groups = (Group("a", (0, 1), ("Fe", "Cr")), Group("b", (2,), ("Cr", "Fe")), Group("c", (3,), ("O", "S")))
    sites = make_sites(["H"] * 4, groups)
    ends = corners.corners(sites)
    np.testing.assert_array_equal(ends[:2], [[1, 0, 0, 1, 1, 0], [1, 0, 0, 1, 0, 1]])
    np.testing.assert_array_equal(ends[2:], [[0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 0, 1]])
    ordered = np.array([[1, 0, 1, 0, 1, 0], [0.5, 0.5, 0, 1, 0.25, 0.75], [1, 0, 0.5, 0.4, 1, 0]])
    rows = corners.with_corners(sites, ordered)
    values = np.array([9.0, 9.0, 9.0, 1.0, 2.0, 4.0, 8.0])
    ideal = corners.between_corners(sites, rows, values)
    assert ideal[0] == pytest.approx(2 / 3 * 1 + 1 / 3 * 4, rel=1e-12)
    assert ideal[1] == pytest.approx(2 / 3 * (0.25 * 1 + 0.75 * 2) + 1 / 3 * (0.25 * 4 + 0.75 * 8), rel=1e-12)
    assert np.isnan(ideal[2])
    np.testing.assert_allclose(ideal[3:], values[3:], rtol=1e-12)


def test_too_many_end_members_are_left_out():
    sites = sites_of(*itertools.combinations(["Na", "K", "Li", "Rb", "Cs", "Ag"], 2))
    assert corners.num_corners(sites) == 2**15
    assert corners.corners(sites) is None
    rows = np.full((1, 30), 0.5)
    assert len(corners.with_corners(sites, rows)) == 1
    assert np.isnan(corners.between_corners(sites, rows, np.ones(1))).all()


def test_weights_are_understood_by_number_and_by_name():
    sites = sites_of(["Na", "K"], ["O", "Na"])
    assert options.parse_weights(sites, "0.1,0.2,0.3,0.4") == [0.1, 0.2, 0.3, 0.4]
    assert options.parse_weights(sites, "K=0.5, g0:Na=0.5,O=1,g1:Na=0") == [0.5, 0.5, 1, 0]
    assert options.parse_weights(sites_of(["O"]), "O=0.9") == [0.9]
    for text, message in [
        ("K=0.5,g0:Na=0.5,O=1", r"leaves out g1:Na; name every species \(what is missing to 1 is vacancy\)"),
        ("O=1,g1:Na=0", "leaves out g0:Na, g0:K"),
        ("K=0.5,g0:K=0.5,g0:Na=0.5,O=1,g1:Na=0", "names g0:K twice"),
        ("K=0.5,0.5", "mixes named and unnamed weights"),
        ("Na=1", "'Na' could be several of g0:Na, g0:K, g1:O, g1:Na"),
        ("Fe=1", "'Fe' is not one of g0:Na"),
        ("K=1,K=0", "names g0:K twice"),
        ("half,half", "is not understood"),
        ("K=much", "is not understood"),
    ]:
        with pytest.raises(ValueError, match=message):
            options.parse_weights(sites, text)
