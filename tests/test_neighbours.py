"""Neighbour pairs against a list made by brute force, and the errors of structures that cannot be."""

from itertools import product

import numpy as np
import pytest

from alchemjax.system.neighbours import find_pairs
from alchemjax.system.structure import completed_cell, make_structure, volume

ALL_PBC = list(product([True, False], repeat=3))


def brute_force(positions, cell, pbc, cutoff):
    """The set of (receiver, sender, shift) by looking at every image that could be near."""
    positions, periodic = np.asarray(positions), np.flatnonzero(pbc)
    vectors = np.asarray(cell)[periodic]
    spread = np.linalg.norm(np.ptp(positions, axis=0))
    # |n_k| <= (cutoff + spread) |reciprocal vector k|
    reach = [int((cutoff + spread) * np.linalg.norm(b)) + 1 for b in np.linalg.pinv(vectors).T] if len(vectors) else []
    found = {}
    for images in product(*[range(-n, n + 1) for n in reach]):
        shift = np.zeros(3, int)
        shift[periodic] = images
        r = positions[None] - positions[:, None] + np.array(images) @ vectors
        distance = np.linalg.norm(r, axis=-1)
        for i, j in zip(*np.nonzero(distance < cutoff), strict=True):
            if i != j or any(images):
                found[int(i), int(j), *(int(k) for k in shift)] = distance[i, j]
    return found


def random_cell(rng, lengths):
    cell = np.diag(lengths) @ np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.choice([-1, 1])
    while True:
        skewed = cell + rng.uniform(-0.45, 0.45, (3, 3)) * np.min(lengths)
        if abs(np.linalg.det(skewed)) > 0.3 * np.prod(lengths):
            return skewed


def spread_out(rng, number, cell, pbc, scale=0.5):
    """Unwrapped positions no closer than 0.3 A; the cell must not be too small for them."""
    while True:
        positions = rng.uniform(-scale, 1 + scale, (number, 3)) @ cell
        near = brute_force(positions, cell, pbc, 0.3)
        if not near:
            return positions


def assert_same(structure, cutoff):
    pairs = find_pairs(structure, cutoff)
    rows = np.column_stack([pairs.receiver, pairs.sender, pairs.shift])
    expected = brute_force(structure.positions, structure.cell, structure.pbc, cutoff)
    assert len(rows) == len(expected), "a pair is missing, or listed twice"
    assert {tuple(int(x) for x in row) for row in rows} == set(expected)
    assert (np.diff(pairs.receiver) >= 0).all()
    r = structure.positions[pairs.sender] - structure.positions[pairs.receiver] + pairs.shift @ structure.cell
    assert (np.linalg.norm(r, axis=1) < cutoff).all()
    return len(rows)


@pytest.mark.parametrize("pbc", ALL_PBC, ids=lambda pbc: "".join("FT"[p] for p in pbc))
def test_pairs_of_random_cells_are_those_of_brute_force_whatever_is_periodic(rng, pbc):
    total, left_handed, narrow = 0, 0, 0
    for _ in range(30):
        cell = random_cell(rng, rng.uniform(1.5, 6, 3))
        structure = make_structure(spread_out(rng, rng.integers(1, 8), cell, pbc), cell, pbc)
        cutoff = rng.uniform(1.0, 5.0)
        total += assert_same(structure, cutoff)
        left_handed += np.linalg.det(cell) < 0
        narrow += 1 / np.linalg.norm(np.linalg.inv(cell), axis=0).max() < cutoff
    assert total > 50 and 5 < left_handed < 25 and narrow > 5


@pytest.mark.parametrize("axes", [(2,), (0, 1), (0, 1, 2), (1,)])
def test_zero_vectors_along_directions_that_are_not_periodic_are_allowed(rng, axes):
    pbc = np.ones(3, bool)
    pbc[list(axes)] = False
    total = 0
    for _ in range(15):
        cell = random_cell(rng, rng.uniform(2, 5, 3))
        positions = spread_out(rng, 4, cell, pbc)
        cell[list(axes)] = 0
        structure = make_structure(positions, cell, pbc)
        assert volume(structure) is None
        assert abs(np.linalg.det(completed_cell(structure))) > 1e-3
        total += assert_same(structure, 4.0)
    assert total > 0


def test_vectors_along_directions_that_are_not_periodic_do_not_matter(rng):
    cell = random_cell(rng, (3.0, 4.0, 5.0))
    positions = rng.uniform(0, 4, (3, 3))
    one = find_pairs(make_structure(positions, cell, [True, False, True]), 4.0)
    for other in (cell[0] + cell[2], 1e-9 * cell[1], 300 * cell[1], -cell[1]):
        changed = np.array([cell[0], other, cell[2]])
        two = find_pairs(make_structure(positions, changed, [True, False, True]), 4.0)
        assert len(one.receiver) > 10
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_sites_far_outside_the_cell_have_the_same_neighbours(rng):
    cell = random_cell(rng, (3.0, 4.0, 5.0))
    positions = spread_out(rng, 4, cell, [True] * 3, scale=0)
    moved = rng.integers(-40, 41, (4, 3))
    inside = find_pairs(make_structure(positions, cell, True), 4.0)
    outside = find_pairs(make_structure(positions + moved @ cell, cell, True), 4.0)
    rows = lambda pairs, shift: sorted(zip(pairs.receiver, pairs.sender, map(tuple, shift), strict=True))
    assert len(inside.receiver) > 20
    assert rows(inside, inside.shift) == rows(outside, outside.shift + moved[outside.sender] - moved[outside.receiver])
    assert rows(inside, inside.shift) != rows(outside, outside.shift)


@pytest.mark.parametrize("lengths", [(1.1, 1.4, 30.0), (0.9, 20.0, 25.0), (2.0, 2.0, 2.0)])
def test_long_thin_and_tiny_cells(rng, lengths):
    total = 0
    for _ in range(8):
        cell = random_cell(rng, lengths)
        total += assert_same(make_structure(spread_out(rng, 3, cell, [True] * 3), cell, True), 4.5)
    assert total > 200


def test_molecules_and_single_atoms(rng):
    for number in (1, 2, 3, 10, 40):
        positions = spread_out(rng, number, np.eye(3) * 1.4 * number ** (1 / 3), [False] * 3, scale=0)
        found = assert_same(make_structure(positions), 2.5)
        assert (found > 0) == (number > 1)


def test_pairs_come_in_both_directions(rng):
    cell = random_cell(rng, (2.5, 4.0, 5.0))
    pairs = find_pairs(make_structure(spread_out(rng, 4, cell, [True] * 3), cell, True), 4.0)
    forward = set(zip(pairs.receiver, pairs.sender, map(tuple, pairs.shift), strict=True))
    backward = set(zip(pairs.sender, pairs.receiver, map(tuple, -pairs.shift), strict=True))
    assert forward == backward
    assert any(i == j for i, j, _ in forward), "images of a site itself are neighbours"


def test_sites_closer_than_a_tenth_of_an_angstrom_are_refused_by_number(rng):
    cell = np.diag([4.0, 4.0, 4.0])
    with pytest.raises(ValueError, match=r"sites [12] and [12] are 0.09 A apart.*at least 0.1 A"):
        find_pairs(make_structure([[0, 0, 0], [2, 2, 2], [2, 2, 2.09]], cell, True), 3.0)
    with pytest.raises(ValueError, match=r"sites . and . are 0.05 A apart \(image .*1"):
        find_pairs(make_structure([[0, 0, 0], [0, 0, 3.95]], cell, True), 3.0)
    find_pairs(make_structure([[0, 0, 0], [0, 0, 0.11]], cell, True), 3.0)


@pytest.mark.parametrize(
    "cell, pbc",
    [
        (np.zeros((3, 3)), True),
        ([[3, 0, 0], [0, 3, 0], [3, 3, 0]], True),
        ([[3, 0, 0], [0, 3, 0], [0, 0, 0]], True),
        ([[0, 0, 0], [0, 3, 0], [0, 0, 3]], [True, False, False]),
        ([[3, 0, 0], [6, 0, 0], [0, 0, 3]], [True, True, False]),
        (np.diag([3, 3, 1e-5]), True),
    ],
)
def test_periodic_vectors_without_volume_are_refused(cell, pbc):
    with pytest.raises(ValueError, match="span no volume; give linearly independent vectors, or make the missing"):
        make_structure(np.zeros((1, 3)), cell, pbc)
    make_structure(np.zeros((1, 3)), cell, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    cell = np.eye(3) * 4
    with pytest.raises(ValueError, match="NaN or infinity"):
        make_structure([[0, 0, bad]], cell, True)
    cell[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        make_structure([[0, 0, 0]], cell, True)


@pytest.mark.parametrize("positions", [np.zeros((0, 3)), np.zeros(3), np.zeros((2, 2)), np.zeros((1, 3, 3))])
def test_positions_that_are_not_rows_of_three_are_refused(positions):
    with pytest.raises(ValueError, match="one row of three coordinates per site"):
        make_structure(positions, np.eye(3), True)


def test_volume_of_a_left_handed_cell_is_positive(rng):
    cell = random_cell(rng, (3.0, 4.0, 5.0))
    one, two = (volume(make_structure(np.zeros((1, 3)), c, True)) for c in (cell, cell[[1, 0, 2]]))
    assert np.linalg.det(cell) * np.linalg.det(cell[[1, 0, 2]]) < 0
    assert one == pytest.approx(two) and one == pytest.approx(abs(np.linalg.det(cell)))
