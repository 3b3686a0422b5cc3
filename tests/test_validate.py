"""Explicit arrangements beside what the Hamiltonian predicts."""

import numpy as np
import pytest
from lattice_models import simple_cubic

from alchemjax.tasks.lattice import total_energy
from alchemjax.tasks.ordering import box_of, lattice_model
from alchemjax.tasks.sampling import ground_state
from alchemjax.tasks.validate import _ground_state as ground_state_for
from alchemjax.tasks.validate import validate

pytestmark = pytest.mark.usefixtures("quick_loops")


def test_validation_says_when_to_trust(argon, relaxed_argon, argon_alloy):
    good = validate(argon, relaxed_argon, argon_alloy, shape=(4, 4, 4), random=2, sqs=False)
    assert good.kinds == ("random", "random", "ground state")
    assert good.valid and good.converged.all()
    assert np.abs(good.rigid - good.predicted_rigid).max() < 0.05 * np.ptp(good.rigid)
    assert np.abs(good.relaxed - good.predicted_relaxed).max() < 0.2 * (good.rigid - good.relaxed).max()
    assert "caution" not in good.message and "3 explicit arrangements" in good.message
    lengths = np.cbrt(good.predicted_volume / good.volume) - 1
    assert np.abs(lengths).max() < 2e-3 and np.ptp(good.volume) > 0 and "lattice constants are wrong by" in good.message
    given = validate(
        argon, relaxed_argon, argon_alloy, random=0, ground_state=False, sqs=False, arrangements=good.states[1:2]
    )
    assert given.kinds == ("given",)
    for name in ("rigid", "predicted_rigid", "relaxed", "predicted_relaxed", "volume", "predicted_volume"):
        assert getattr(given, name) == pytest.approx(getattr(good, name)[1:2], rel=1e-9)
    strict = validate(
        argon, relaxed_argon, argon_alloy, shape=(3, 3, 2), random=1, ground_state=False, limit=1e-9, sqs=False
    )
    assert not strict.valid and "Pairs of sites are not enough" in strict.message and "caution" in strict.message
    assert (0.01 < good.displacement).all() and (good.displacement < 0.3).all()


def test_validation_says_when_atoms_leave_their_sites(argon, relaxed_argon, argon_alloy, monkeypatch):
    """Lattice vectors, the strain of the cell, and what all of them do together do not count."""
    from alchemjax.tasks.validate import _largest_displacement

    start = relaxed_argon.structure._replace(positions=np.array([[0.0, 0, 0], [2.0, 0, 0]]), cell=5 * np.eye(3))
    turned = start._replace(positions=start.positions * 1.1 + [[5.5, 0, 0], [0, 0, 0.4]], cell=5.5 * np.eye(3))
    assert _largest_displacement(start, turned) == pytest.approx(0.2)
    monkeypatch.setattr("alchemjax.tasks.validate.AWAY", 1e-3)
    options = {"shape": (3, 3, 2), "random": 1, "ground_state": False, "limit": 1e-9, "sqs": False}
    found = validate(argon, relaxed_argon, argon_alloy, **options)
    assert not found.valid and f"by up to {found.displacement[0]:.1f} A: relaxed, they are " in found.message


def test_ground_states_are_compared_in_boxes_of_their_own():
    """Order of neighbours along all axes needs even numbers of cells, which the box of the others lacks."""
    alloy = simple_cubic(0.02)
    odd = lattice_model(alloy, (2, 2, 3))
    states = ground_state_for(alloy, odd, None, 0)
    assert states.shape == (2, 2, 2, 1)
    energies = [
        float(total_energy(lattice_model(alloy, one.shape[:3]), one)) / one.size
        for one in (states, np.tile(states, (3, 3, 3, 1)))
    ]
    assert energies == pytest.approx([-3 * 0.02 / 4] * 2)
    assert float(total_energy(odd, ground_state(odd, alloy.weights)[0])) / 12 > energies[0] + 0.003
    layers = np.arange(6).reshape(6, 1, 1, 1) % 2 * np.ones((1, 6, 6, 1), int)
    np.testing.assert_array_equal(ground_state_for(alloy, odd, layers, 0), [[[[0]]], [[[1]]]])
    likes_a = alloy._replace(field=np.array([[-1.0, 1.0]]))  # which does not choose an arrangement
    assert ground_state_for(likes_a, lattice_model(likes_a, (3, 3, 3)), None, 0).shape == (2, 2, 2, 1)
    jumbled = np.random.default_rng(0).permutation(np.arange(512) % 2).reshape(8, 8, 8, 1)
    assert ground_state_for(alloy, odd, jumbled, 0).shape == (2, 2, 2, 1)


def test_box_of_explicit_arrangements_holds_the_composition(argon_alloy):
    shape = box_of(argon_alloy, 48, 128)
    number = np.prod(shape)
    assert 48 <= number <= 128
    assert abs(number * 0.4 - round(number * 0.4)) < 1e-9
    assert box_of(argon_alloy, 400, 700, even=True) == (8, 8, 10)
