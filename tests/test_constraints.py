"""Allowed compositions, and the nearest of them."""

import numpy as np
import pytest
from conftest import grouped_sites

from alchemjax.system.sites import Group, make_sites
from alchemjax.tasks import constraints


def test_conditions_are_read_as_they_are_written():
    sites = grouped_sites(["Li", "Mg", "Al"], ["Mg", "Zn"], counts=(1, 3))
    weights = np.array([0.2, 0.3, 0.4, 0.5, 0.5])
    texts = ["2*Li + 3Al - g0:Mg = 0.5", "Mg <= 0.4", "-Zn>=-.9"]
    found = constraints.make_constraints(sites, weights, texts)
    np.testing.assert_allclose(found.equal, [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [2, -1, 3, 0, 0]])
    np.testing.assert_allclose(found.equal_to, [0.9, 1.0, 0.5])  # a group keeps its sum, with its vacancies
    np.testing.assert_allclose(found.most, [[0, 0.25, 0, 0.75, 0], [0, 0, 0, 0, 1]])  # means over sites
    np.testing.assert_allclose(found.at_most, [0.4, 0.9])


def test_vacancies_that_are_named_may_change():
    sites, weights = grouped_sites(["Li", "Mg"]), np.array([0.2, 0.6])
    found = constraints.make_constraints(sites, weights, ["vacancy <= 0.3"], {"Li": 1, "Mg": 2, "O": -1.5})
    np.testing.assert_allclose(found.equal, [[1, 2]])
    np.testing.assert_allclose(found.equal_to, [1.5])  # charge of the ordinary atoms
    np.testing.assert_allclose(found.most @ weights - found.at_most, [-0.2, -0.1])
    near = constraints.nearest(found, np.array([1.0, 1.0]))
    np.testing.assert_allclose(near, [0.5, 0.5], atol=1e-9)


@pytest.mark.parametrize("entropic", [False, True])
def test_nearest_compositions_are_allowed_and_nearest(entropic, rng):
    sites = grouped_sites(["Li", "Mg", "Al", "Zn"])
    allowed = constraints.make_constraints(sites, np.full(4, 0.25), ["Zn <= 0.3", "Li + 2*Mg + 3*Al = 1.7"])
    given = np.array([0.9, 0.4, 0.05, 0.7])
    bent, about = 1e3 * np.outer(*[[1, -1, 2, 0.5]] * 2), np.array([0.3, 0.3, 0.2, 0.2])
    if entropic:
        near = constraints.nearest_by_entropy(allowed, given, bent, about)
        distance = lambda w: np.sum(w * np.log(w / given) - w) + (w - about) @ bent @ (w - about) / 2
    else:
        near, distance = constraints.nearest(allowed, given), lambda w: np.sum((w - given) ** 2)
    assert constraints.violation(allowed, near) < 1e-9
    others = constraints.random_weights(allowed, 40, rng)
    assert max(constraints.violation(allowed, one) for one in others) < 1e-9
    others = near + 0.01 * (others - near)  # the problem is convex
    assert all(distance(near) < distance(one) + 1e-12 for one in others)
    assert np.ptp(others, axis=0).min() > 1e-4


@pytest.mark.parametrize(
    ("texts", "charges", "message"),
    [
        (["Li < 0.5"], None, "'Li < 0.5' is not understood"),
        (["Li Mg = 0.5"], None, "is not understood"),
        (["Li = a"], None, "is not understood"),
        (["Zr = 0.5"], None, "'Zr = 0.5' is not understood; .* of Li, Mg, vacancy"),
        (["Li >= 0.6", "Mg >= 0.7"], None, "no composition fulfils all conditions .* comes closest"),
        ([], {"Li": 1, "O": -2}, "charges of Mg are missing"),
        ([], {"Li": 1, "Mg": 2, "O": -2, "K": 1}, "charges name K"),
        ([], {"Li": 1, "Mg": 2, "O": -4}, "charges that add up to nothing.; g0:Li = 0, g0:Mg = 1 comes closest"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(texts, charges, message):
    with pytest.raises(ValueError, match=message):
        constraints.make_constraints(grouped_sites(["Li", "Mg"]), np.array([0.5, 0.5]), texts, charges)


def test_conditions_that_follow_from_others_change_nothing():
    sites = grouped_sites(["Na", "K"])
    once = constraints.make_constraints(sites, np.array([0.5, 0.5]), ["K = 0.3"])
    twice = constraints.make_constraints(
        sites, np.array([0.5, 0.5]), ["K = 0.3", "Na = 0.7", "2 Na + 2K = 2"], {"Na": 1, "K": 1, "O": -1}
    )
    assert len(twice.equal) == 2
    for allowed in (once, twice):
        given = np.array([0.9, 0.8])
        near = constraints.nearest(allowed, given), constraints.nearest_by_entropy(allowed, given, np.eye(2), given)
        np.testing.assert_allclose(near, [[0.7, 0.3]] * 2, atol=1e-9)


def test_names_of_groups_may_hold_anything():
    group = Group("Ce/Zr", (0,), ("Ce", "Zr")), Group("0,1", (1,), ("C", "Ca"))
    sites = make_sites(["H", "H"], group)
    found = constraints.make_constraints(sites, np.full(4, 0.5), ["Ce/Zr:Zr - 0,1:Ca - C <= 0.25", "2*Ca-Ce<=1"])
    np.testing.assert_allclose(found.most, [[0, 1, -1, -1], [-1, 0, 0, 2]])
