"""The file of an alloy: it comes back as it was, or what is wrong with it is said."""

import json

import numpy as np
import pytest
from jax import tree

import alchemjax as aj
from alchemjax.commands.alloy_file import about_file
from alchemjax.system.structure import make_structure
from alchemjax.system.supercell import make_supercell
from alchemjax.tasks.alloy import Alloy


def some_alloy(rng, relaxed=True) -> Alloy:
    """Two mixed sites of three states, and one that is not, in a supercell of eight cells; its numbers mean nothing."""
    structure = make_structure(rng.uniform(size=(3, 3)), 3 * np.eye(3), True)
    supercell = make_supercell(2 * np.eye(3, dtype=int), 3)
    one, pairs = (2, 3), (2, 8, 2, 3, 3)
    given = (np.array([0, 2]), np.array([0, 0]), ("Na", "K", "vacancy"), np.full(one, 1 / 3), np.ones(one, bool))
    energies = -1.5, rng.normal(size=one), rng.normal(size=one), rng.normal(size=pairs)
    shapes = pairs, (*one, 24, 3), one, one, pairs, (*one, 6), (*one, 27), (*pairs, 27), (6, 6)
    parts = (*(rng.normal(size=shape) for shape in shapes), 0.3, rng.normal(size=6)) if relaxed else ()
    found = Alloy(structure, *given, supercell, *energies, 0.01, *parts)
    if not relaxed:
        return found
    return found._replace(at_rest=found.relaxation > 0, pair_at_rest=found.pair_relaxation > 0, round_off=1e-5)


@pytest.mark.parametrize("relaxed", [True, False])
def test_an_alloy_comes_back_from_its_file(rng, tmp_path, relaxed):
    written, path = some_alloy(rng, relaxed), tmp_path / "a.json"
    aj.write_alloy(path, written, fingerprint="abc")
    back = aj.read_alloy(path)
    assert tree.structure(back) == tree.structure(written)
    tree.map(np.testing.assert_array_equal, back, written)
    assert about_file(path)["fingerprint"] == "abc" and "alloy" not in about_file(path)
    assert about_file(tmp_path / "missing.json") == {}


def half(content):
    content["alloy"]["field"] = content["alloy"]["field"][:1]


def ragged(content):
    content["alloy"]["pair"][0][0].pop()


def words(content):
    content["alloy"]["stiffness"] = [["stiff"] * 6] * 6


def few_cells(content):
    content["alloy"]["pair"] = [site[:4] for site in content["alloy"]["pair"]]
    for name in ("pair_relaxation", "pair_at_rest", "pair_strain"):
        content["alloy"][name] = [site[:4] for site in content["alloy"][name]]


DAMAGES = {
    "it lacks pair": lambda content: content["alloy"].pop("pair"),
    "it lacks shift": lambda content: content["alloy"]["supercell"].pop("shift"),
    "it lacks alloy": lambda content: content.pop("alloy"),
    r"its field, of shape \(1, 3\), does not fit the rest": half,
    r"its stiffness, of shape \(6, 6\), does not fit": words,
    r"its weights, of shape \(\), does not fit": lambda content: content["alloy"].update(weights=None),
    r"its energy, of shape \(\), does not fit": lambda content: content["alloy"].update(energy=None),
    "its numbers of species, sites and cells": lambda content: content["alloy"]["species"].pop(),
    "its numbers of species, sites and cells do not fit": few_cells,
    "its alloy is not understood": ragged,
    "its alloy is not understood; delete it": lambda content: content.update(alloy=[1, 2]),
}


@pytest.mark.parametrize("read", [aj.read_alloy, about_file])
@pytest.mark.parametrize("sentence", DAMAGES)
def test_what_is_wrong_with_a_damaged_file_is_said(rng, tmp_path, read, sentence):
    path = tmp_path / "a.json"
    aj.write_alloy(path, some_alloy(rng))
    content = json.loads(path.read_text())
    DAMAGES[sentence](content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"a.json' is damaged: {sentence}") as caught:
        read(path)
    assert str(caught.value).endswith("; delete it and make it again, on the command line with --overwrite")


@pytest.mark.parametrize("text", ["", '{"format": 3, "alloy": {"ener', "\udcff", "[1]"])
def test_a_file_that_is_cut_short_is_damaged_and_no_alloy_of_other_input(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, errors="surrogateescape")
    for read in (aj.read_alloy, about_file):
        with pytest.raises(ValueError, match="a.json' is damaged: it .*; delete it and make it again"):
            read(path)


def test_what_is_no_file_of_an_alloy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give the file of the alloy in it, like '.*/hamiltonian.json'"):
        aj.read_alloy(tmp_path)
    with pytest.raises(FileNotFoundError):
        aj.read_alloy(tmp_path / "missing.json")
    (tmp_path / "other.json").write_text('{"format": 1, "fingerprint": "abc"}')
    with pytest.raises(ValueError, match="holds no alloy of format 5; delete it and make it again"):
        aj.read_alloy(tmp_path / "other.json")
    assert about_file(tmp_path / "other.json")["fingerprint"] == "abc"  # of another version, not damaged
