"""Concentration waves, short-range order and separation, from what pairs of sites do to each other."""

import numpy as np
import pytest
from ase.build import bulk
from lattice_models import simple_cubic

import alchemjax as aj
from alchemjax.system.supercell import make_supercell
from alchemjax.tasks.alloy import VOIGT, Alloy, alloy, long_waves, pair_energies
from alchemjax.tasks.lattice import symmetric_index
from alchemjax.tasks.ordering import (
    concentration_waves,
    fourier,
    grid,
    instability,
    interactions,
    lattice_model,
    short_range_order,
    spinodal,
)
from alchemjax.units import KELVIN

pytestmark = pytest.mark.usefixtures("quick_loops")


@pytest.mark.parametrize("c", [0.5, 0.2])
def test_simple_cubic_nearest_neighbours_order_at_the_corner_of_the_zone(c):
    coupling = 0.02
    found = simple_cubic(coupling, (c, 1 - c))
    temperature, wave = instability(found)
    assert temperature == pytest.approx(6 * coupling * c * (1 - c) / KELVIN)
    np.testing.assert_allclose(wave.q, [[0.5, 0.5, 0.5]])
    np.testing.assert_allclose(np.abs(wave.polarisation[0, 0, 0]), (c * (1 - c)) ** 0.5)
    q = np.random.default_rng(0).uniform(size=(5, 3))
    expected = 2 * coupling * c * (1 - c) * np.cos(2 * np.pi * q).sum(1)
    np.testing.assert_allclose(concentration_waves(found, q).energy[:, 0], expected, atol=1e-12)
    separating = instability(simple_cubic(-coupling, (c, 1 - c)))
    assert separating[0] == pytest.approx(temperature)
    np.testing.assert_allclose(separating[1].q, [[0, 0, 0]])


def test_waves_of_the_supercell_are_its_discrete_fourier_transform(argon_alloy):
    """At the wave vectors that fit into it; the smallest multiple of any that is whole is at most 4."""
    fine = grid(argon_alloy, 4)
    q = fine[np.isclose(fine @ argon_alloy.supercell.matrix.T % 1, 0).all(1)]
    assert len(q) == 32
    c = argon_alloy.weights[0, 0]
    energy = pair_energies(argon_alloy)[0, :, 0]
    scalar = (energy[:, 0, 0] - energy[:, 0, 1] - energy[:, 1, 0] + energy[:, 1, 1]) * c * (1 - c)
    scalar[0] = 0
    phases = np.exp(-2j * np.pi * q @ argon_alloy.supercell.shift.T)
    np.testing.assert_allclose(fourier(argon_alloy, q)[:, 0, 0], phases @ scalar, atol=1e-12)


def test_long_waves_have_the_energies_of_elasticity(argon, relaxed_argon):
    found = alloy(argon, relaxed_argon, supercell=[1, 1, 12], exact_pairs=False)
    q = np.array([[0, 0, 1 / 12]])
    gained = (fourier(found, q) - fourier(found, q, relaxed=False))[0, 0, 0].real
    itself = (pair_energies(found) - found.pair)[0, 0, 0]  # is no pair
    gained += 0.4 * 0.6 * (itself[0, 0] - 2 * itself[0, 1] + itself[1, 1])
    direction = q[0] @ np.linalg.inv(found.structure.cell).T
    direction /= np.linalg.norm(direction)
    tensor = found.strain_force[0, 0][VOIGT] - found.strain_force[0, 1][VOIGT]
    stiffness = found.stiffness[VOIGT[:, :, None, None], VOIGT]
    resistance = np.einsum("ijkl,j,l->ik", stiffness, direction, direction)
    force = tensor @ direction
    limit = -0.4 * 0.6 * force @ np.linalg.solve(resistance, force)
    assert abs(limit) > 1e-4
    assert gained == pytest.approx(limit, rel=0.1)  # of the next order in q
    mean = -0.4 * 0.6 * np.mean([
        tensor @ n @ np.linalg.solve(np.einsum("ijkl,j,l->ik", stiffness, n, n), tensor @ n)
        for n in (lambda v: v / np.linalg.norm(v, axis=1)[:, None])(np.random.default_rng(0).normal(size=(4000, 3)))
    ])  # fmt: skip
    waves = long_waves(found).mean(0)[0, 0]
    assert 0.24 * (waves[0, 0] - 2 * waves[0, 1] + waves[1, 1]) == pytest.approx(mean, rel=0.02)  # of the directions


def test_separation_with_lattice_constants_of_their_own_comes_first(argon_alloy):
    coherent = -concentration_waves(argon_alloy, [0, 0, 0]).energy[0, 0] / KELVIN
    assert spinodal(argon_alloy) > max(coherent, 0) + 1


def test_the_spinodal_is_that_of_the_mean_field_energy_of_a_large_box(argon_alloy):
    """Its curvature by the composition, at the strain of lowest energy."""
    model, cells = lattice_model(argon_alloy, (8, 8, 8)), 512

    def energy(x):
        held = np.array([x, 1 - x])
        total = lambda field, pair: held @ field[0] + held @ pair.sum((0, 1, 2, 3, 4)).reshape(2, 2) @ held / 2
        terms = np.array([total(model.strains.field[..., e], model.strains.pair[..., e]) for e in range(27)])
        stiffness = model.strains.stiffness / cells + terms[6:][symmetric_index(6)]
        return total(model.field, model.pair) - terms[:6] @ np.linalg.solve(stiffness, terms[:6]) / 2

    h, x = 1e-3, argon_alloy.weights[0, 0]
    curvature = (energy(x + h) + energy(x - h) - 2 * energy(x)) / h**2
    assert spinodal(argon_alloy) == pytest.approx(-x * (1 - x) * curvature / KELVIN, rel=0.01)
    assert spinodal(argon_alloy) > 5


def test_order_within_the_cell_is_no_separation(argon):
    """Nearest neighbours of a cubic cell of a body-centred lattice that favour unlike pairs."""
    weights, near = np.full((2, 2), 0.5), np.array([[0.25, -0.25], [-0.25, 0.25]])
    structure = aj.from_atoms(bulk("W", "bcc", 3.0, cubic=True)).structure
    supercell = make_supercell(2 * np.eye(3, dtype=int), 2)
    pair = np.zeros((2, 8, 2, 2, 2))
    pair[0, :, 1] = pair[1, :, 0] = 0.02 * near  # all eight neighbours are in different cells
    zeros, slopes, more = np.zeros((2, 2)), np.zeros((2, 2, 6)), np.zeros((2, 2, 27))
    elastic = np.zeros_like(pair), np.zeros((2, 2, 16, 3)), zeros, zeros == 0, None, slopes, more, None, np.eye(6)
    states = np.arange(2), np.zeros(2, int), ("A", "B"), weights, weights > 0
    found = Alloy(structure, *states, supercell, 0.0, zeros, zeros, pair, 0.0, *elastic, 1.0)
    temperature, wave = instability(found)
    assert temperature == pytest.approx(8 * 0.02 / 4 / KELVIN)
    np.testing.assert_allclose(wave.q, 0)
    assert spinodal(found) == 0
    assert spinodal(found._replace(pair=-pair)) == pytest.approx(temperature)


@pytest.mark.parametrize("c", [0.5, 0.3])
def test_short_range_order_of_hot_alloys_and_its_sum_rule(c):
    found = simple_cubic(0.02, (c, 1 - c))
    hot = 1e5
    given, order = interactions(found), short_range_order(found, hot)
    near = np.isclose(given.distance, 3.0)
    expected = -0.02 * c * (1 - c) / (KELVIN * hot)
    np.testing.assert_allclose(order.alpha[near][:, 0, 1], expected, rtol=0.02)
    cold = short_range_order(found, 1.05 * instability(found)[0])
    assert cold.alpha[near][0, 0, 1] < 10 * expected
    # alpha is a correlation: the mean of the spectrum is 1, and P_kl is normalised
    weights = found.weights[0]
    probability = weights[:, None] * weights * (1 - cold.alpha[near][0])
    np.testing.assert_allclose(probability.sum(0), weights, atol=1e-9)
    assert (probability > 0).all()


def test_spectrum_has_mean_1_below_the_mean_field_temperature_too():
    from alchemjax.tasks.ordering import _on_shell

    found = simple_cubic(0.02)
    for temperature in (0.8, 1.0, 3.0):
        heat = temperature * instability(found)[0] * KELVIN
        spectrum = _on_shell(1 + fourier(found, grid(found, 8)) / heat, np.ones((1, 1), bool))
        assert spectrum.real.mean() == pytest.approx(1, abs=1e-6)
        assert spectrum.real.min() > 0
