"""alchemjax optimise: its files, what they hold, that it goes on after an interruption, and what it refuses."""

import csv
import json
import shutil

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from pair_potential import A, lennard_jones
from typer.testing import CliRunner

import alchemjax as aj
from alchemjax.cli import app
from alchemjax.commands import optimise, optimise_report
from alchemjax.commands.optimise_plot import plot_optimise
from alchemjax.decorate import Explicit, explicitly
from alchemjax.system.sites import Group
from alchemjax.tasks.goals import Goal
from alchemjax.tasks.properties import facts_of

MIX = ("--mix", "Ar=Ar,Kr", "--strain", "hydrostatic", "--dtype", "float64")


@pytest.fixture(scope="module")
def potential():
    return lennard_jones(embedding=0.02, krypton=(1.15, 1.0))


@pytest.fixture(scope="module")
def run(potential, tmp_path_factory):
    """Call the command in this process, for a crystal of argon."""
    folder = tmp_path_factory.mktemp("optimise")
    bulk("Ar", "fcc", 1.025 * A).write(folder / "ar.cif")
    bulk("Kr", "fcc", 1.045 * A).write(folder / "kr.cif")

    def call(out, *arguments, file="ar.cif", mix=MIX):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optimise, "prepare_jax", lambda: None)
            patch.setattr(optimise, "load", lambda *given, **named: potential)
            check = () if "--check" in arguments else ("--check", 0)
            arguments = arguments[:-2] if arguments[-2:] == ("--check", None) else arguments
            given = ["optimise", str(folder / file), "-o", str(out), *mix, *map(str, (*check, *arguments))]
            return CliRunner().invoke(app, given, catch_exceptions=False)

    call.folder = folder
    return call


@pytest.fixture(scope="module")
def made(run):
    out = run.folder / "made"
    standard = ("--weights", "Ar=0.6,Kr=0.4", "--target", "a=3.75", "--starts", 2, "--properties", "mixing_energy")
    done = run(out, *standard, "--check", None)  # as many as there are by default
    assert done.exit_code == 0, done.output
    return out, done, standard


def test_the_report_says_what_the_library_computes(run, made, potential):
    out, done, _ = made
    report = json.loads((out / "optimise.json").read_text())
    results = report["results"]
    system = aj.read(run.folder / "ar.cif", mix={"Ar": ("Ar", "Kr")}, weights=[0.6, 0.4])
    again = aj.optimise(
        potential, system, {"a": 3.75}, starts=2, cell="hydrostatic", properties=[*optimise.ALWAYS, "mixing_energy"]
    )
    assert list(results["weights"]) == ["Ar:Ar", "Ar:Kr"]
    np.testing.assert_allclose(list(results["weights"].values()), again.weights, atol=1e-9)
    for name, value in again.values.items():
        assert results["values"][name] == pytest.approx(value, abs=1e-8), name
    assert results["reached"] and results["converged"] and again.message in done.stdout
    assert not report["warnings"]
    others = again._replace(reasons=("no composition near is allowed", again.reasons[1]))
    goals = [Goal("a", "=", 3.75)]
    (failed,) = optimise_report.report_of(system, goals, tuple(again.values), others, None, [])["warnings"]
    assert failed == "1 of 2 searches failed: no composition near is allowed"
    assert report["arguments"]["target"] == ["a=3.75"] and report["dtype"] == "float64"
    relaxed = ase.io.read(out / "optimum.extxyz")
    assert np.linalg.norm(relaxed.cell[0]) == pytest.approx(3.75, abs=1e-3)
    assert relaxed.info["energy_eV"] == pytest.approx(results["energy_eV"])


def test_the_path_has_a_row_for_every_evaluation_of_every_start(made):
    out, *_ = made
    report = json.loads((out / "optimise.json").read_text())
    with open(out / "path.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(report["path"])
    assert [(int(row["evaluation"]), int(row["start"])) for row in rows] == [
        (k, start) for k in range(len(rows) // 2) for start in range(2)
    ]
    least = min(rows, key=lambda row: float(row["loss"]))
    assert float(least["a"]) == pytest.approx(report["results"]["values"]["a"], rel=1e-9)
    assert (out / "optimise.png").stat().st_size > 10_000


def test_explicit_supercells_are_relaxed_atoms_of_that_composition(run, made, potential):
    out, done, _ = made
    results = json.loads((out / "optimise.json").read_text())["results"]
    explicit, weights = results["explicit"], list(results["weights"].values())
    system = aj.read(run.folder / "ar.cif", mix={"Ar": ("Ar", "Kr")}, weights=weights)
    for k, atoms in enumerate(aj.decorate(system, number=2)):
        assert len(atoms) == explicit["sites"]
        share = atoms.symbols.count("Kr") / len(atoms)
        assert share == pytest.approx(weights[1], abs=0.5 / len(atoms)) and share == explicit["weights"][1]
        relaxed = aj.relax(potential, aj.from_atoms(atoms), cell="hydrostatic")
        cells = len(atoms) ** (1 / 3) / np.linalg.det(relaxed.structure.cell) ** (1 / 3)
        assert explicit["values"]["a"][k] == pytest.approx(2**0.5 / 2 * 4 ** (1 / 3) / cells, rel=1e-4)
        assert explicit["values"]["energy"][k] == pytest.approx(float(relaxed.output.energy) / len(atoms), abs=1e-5)
    assert explicit["mean"]["a"] == pytest.approx(np.mean(explicit["values"]["a"]))
    found = aj.optimise(potential, system, {"a": 3.75}, starts=1, cell="hydrostatic", properties=["energy"])
    own = aj.check_optimum(potential, system, found, number=2, cell="hydrostatic")
    assert own.names == ("a", "energy")
    for name, column in zip(own.names, own.values.T, strict=True):
        np.testing.assert_allclose(column, explicit["values"][name], rtol=1e-5)
    alchemical = aj.relax(potential, system, explicit["weights"], cell="hydrostatic")
    assert explicit["predicted"]["a"] == pytest.approx(np.linalg.norm(alchemical.structure.cell[0]), rel=1e-4)
    assert explicit["predicted"]["energy"] == pytest.approx(float(alchemical.output.energy), abs=1e-5)
    assert "±" in done.stdout
    (row,) = (line for line in done.stdout.splitlines() if line.strip().startswith("Ar:Kr"))
    assert f"{explicit['weights'][1]:.5f}" in row


@pytest.mark.parametrize("mean_field", [True, False])
def test_explicit_supercells_that_miss_a_target_are_told(potential, mean_field):
    system = aj.from_atoms(bulk("Ar", "fcc", A), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    found = aj.optimise(potential, system, "a=3.75", starts=1, cell="hydrostatic")
    own, near, far = found.values["a"], np.array([[3.76], [3.74]]), np.array([[3.806], [3.802]])
    explicit = Explicit(("a",), near, np.array([3.75]), system.weights, np.zeros(2), 48, np.ones(2, bool))
    tell = lambda **new: optimise_report._misses_explicitly(
        [Goal("a", new.pop("sign", "="), 3.75)], found, explicit._replace(**new), mean_field=mean_field
    )
    assert tell() == []
    (sentence,) = tell(values=far)
    assert "differ by +0.054 A in a from what is predicted" in sentence
    assert f"at the optimum it is {own + 0.054 - 3.75:+.2g} from the target (+1.44 %)" in sentence
    assert ("site-exact aims at random alloys" in sentence) == mean_field == ("atoms around" not in sentence)
    assert len(tell(values=far, sign="<=")) == 1 and tell(values=far, sign=">=") == []
    wide = far + np.array([[0.1], [-0.1]])
    assert tell(values=wide) == []  # within twice the standard error


def test_what_is_finished_is_not_done_again_and_what_differs_is_refused(run, made):
    out, _, standard = made
    contents = lambda: {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    before = contents()
    again = run(out, *standard, "--check", 2)
    assert again.exit_code == 0 and "nothing was done" in again.stdout
    without = run(out, *standard, "--check", 0)
    assert without.exit_code == 2 and "holds results of --evaluations 60 and --check 2" in without.stderr
    other = run(out, *standard, "--check", 2, "--seed", 1)
    assert other.exit_code == 2 and "holds an optimisation of other input, options or versions" in other.stderr
    assert contents() == before


def test_more_evaluations_go_on_and_lost_files_are_made_again(run, made, monkeypatch):
    out, _, standard = made
    stored, store = [], optimise.store_batch
    monkeypatch.setattr(optimise, "store_batch", lambda *given: (stored.append(given[1]), store(*given)))
    place, standard = run.folder / "short", (*standard, "--check", 0)
    few = run(place, *standard, "--evaluations", 2)
    assert few.exit_code == 0 and stored == [0, 1]
    assert "with more --evaluations the searches go on" in few.stderr
    assert run(place, *standard).exit_code == 0 and stored[:3] == [0, 1, 2] and stored.count(0) == 1
    assert (place / "path.csv").read_bytes() == (out / "path.csv").read_bytes()
    fewer = run(place, *standard, "--evaluations", 2)
    assert fewer.exit_code == 2 and "holds results of --evaluations 60 and --check 0; give at least" in fewer.stderr
    (place / "path.csv").unlink()
    number = len(stored)
    assert run(place, *standard).exit_code == 0 and len(stored) == number
    assert (place / "path.csv").read_bytes() == (out / "path.csv").read_bytes()
    assert run(place, *standard, "--overwrite").exit_code == 0 and stored[number:] == stored[:number]


def test_supercells_that_are_relaxed_are_not_relaxed_again(run, made, monkeypatch):
    out, _, standard = made
    place = shutil.copytree(out, run.folder / "lost")
    (place / "path.csv").unlink()
    monkeypatch.setattr(optimise, "check_optimum", None)  # whoever calls it fails
    assert run(place, *standard, "--check", 2).exit_code == 0
    assert (place / "path.csv").read_bytes() == (out / "path.csv").read_bytes()
    results = [json.loads((folder / "optimise.json").read_text())["results"] for folder in (out, place)]
    assert results[0] == results[1] and len(results[0]["explicit"]["values"]["a"]) == 2


def interrupt_after_two(monkeypatch):
    """Numbers of the evaluations that are stored, to which later ones are added too."""
    stored, store = [], optimise.store_batch

    def stop(*given):
        store(*given)
        stored.append(given[1])
        if len(stored) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(optimise, "store_batch", stop)
    return stored


def test_an_interrupted_search_goes_on(run, made, monkeypatch):
    out, _, standard = made
    kept = interrupt_after_two(monkeypatch)
    place = run.folder / "interrupted"
    assert run(place, *standard, "--check", 0).exit_code == 130
    assert not (place / "optimise.json").exists()
    done = run(place, *standard, "--check", 0)
    assert done.exit_code == 0 and kept[:3] == [0, 1, 2]
    assert (place / "path.csv").read_bytes() == (out / "path.csv").read_bytes()


def test_interrupted_replacements_go_on_and_leave_the_old_results(run, made, monkeypatch):
    out, _, standard = made
    place = shutil.copytree(out, run.folder / "again")
    before, stored = (place / "optimise.json").read_bytes(), interrupt_after_two(monkeypatch)
    assert run(place, *standard, "--check", 2, "--overwrite").exit_code == 130
    assert stored == [0, 1] and (place / "optimise.json").read_bytes() == before
    assert run(place, *standard, "--check", 2, "--overwrite").exit_code == 0 and stored[2] == 2
    assert (place / "path.csv").read_bytes() == (out / "path.csv").read_bytes()


def test_lattices_are_matched_after_relaxation_or_as_given(run, potential):
    kr = aj.from_atoms(bulk("Kr", "fcc", 1.045 * A))
    own = float(np.linalg.norm(aj.relax(potential, kr, cell=True).structure.cell[0]))
    standard = ("--weights", "0.5,0.5", "--starts", 1, "--match", run.folder / "kr.cif", "--no-plot")
    done = run(run.folder / "match", *standard, "--plane", "a")
    report = json.loads((run.folder / "match" / "optimise.json").read_text())
    assert done.exit_code == 0 and not (run.folder / "match" / "optimise.png").exists()
    assert report["matched"]["a"] == pytest.approx(own, abs=1e-4)
    assert report["results"]["weights"]["Ar:Kr"] == pytest.approx(1, abs=5e-3)
    given = run(run.folder / "given", *standard, "--plane", "ab", "--match-as-given")
    report = json.loads((run.folder / "given" / "optimise.json").read_text())
    assert given.exit_code == 0 and [goal["name"] for goal in report["results"]["targets"]] == ["a", "b", "gamma"]
    assert report["matched"]["a"] == pytest.approx(1.045 * A / 2**0.5)


def test_targets_that_are_not_reached_are_warned_of(run):
    done = run(run.folder / "far", "--weights", "0.5,0.5", "--target", "a=9", "--starts", 1, "--condition", "Kr<=0.7")
    assert done.exit_code == 0
    assert "warning: a = 9 A is not reached, the closest is 3.8" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to aim at; give --target"),
        (("--target", "a=big"), "target 'a=big' is not understood"),
        (("--target", "hardness=3"), "'hardness' is no property; there are a, b, c"),
        (("--target", "a=3.7", "--starts", 0), "--starts 0 must be a whole number, at least 1"),
        (("--target", "a=3.7", "--evaluations", 0), "--evaluations 0 must be"),
        (("--target", "a=3.7", "--check", -1), "--check -1 must be a whole number, at least 0"),
        (("--target", "a=3.7", "--tolerance", 0), "--tolerance 0 must be a positive number"),
        (("--target", "a=3.7", "--seed", -1), "--seed -1 must be"),
        (("--target", "a=3.7", "--plane", "a"), "no effect without --match"),
        (("--match", "kr.cif", "--plane", "xy"), "--plane 'xy' is not understood; give one of a, b, c, ab"),
        (("--match", "nothing.cif"), "nothing.cif"),
        (("--target", "a=3.7", "--condition", "Kr < 3"), "condition 'Kr < 3' is not understood"),
        (("--target", "a=3.7", "--condition", "Kr >= 3"), "no composition fulfils all conditions"),
        (("--target", "a=3.7", "--charges", "Ar=one"), "--charges 'Ar=one' is not understood"),
        (("--target", "a=3.7", "--charges", "Ar=1"), "charges of Kr are missing"),
        (("--target", "c11=3"), "relaxed in positions and cell"),
        (("--target", "a=3.7", "--properties", "colour"), "'colour' is no property"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(run, tmp_path, arguments, message):
    weights = () if "--weights" in arguments else ("--weights", "0.5,0.5")
    done = run(tmp_path / "out", *weights, *arguments)
    assert done.exit_code == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_figures_draw_any_number_of_species(run, potential):
    system = aj.read(run.folder / "ar.cif", mix={"Ar": ("Ar", "Kr")}, weights=[0.6, 0.4])
    found = aj.optimise(potential, system, {"a": 3.75, "energy": "min"}, evaluations=2, starts=2, cell="hydrostatic")
    targets, names = [Goal("a", "=", 3.75), Goal("energy", "min", 0.0)], list(found.values)
    figure = plot_optimise(system.sites.groups, targets, names, found)
    assert [axes.get_ylabel() for axes in figure.axes] == ["$a$ (Å)", "Energy (eV/site)", "Weight (best start)"]
    one = found.path[0]
    still = tuple(one._replace(values=one.values[:1] + np.full((2, 1), change)) for change in (0, 1e-5))
    quiet = plot_optimise(system.sites.groups, targets, names, found._replace(path=still))
    room = [np.ptp(axes.get_ylim()) for axes in quiet.axes]
    assert room[0] > 0.009 and 1e-5 < room[1] < 2e-5  # noise looks like noise, but of an extreme all is shown
    labels = lambda figure: [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert labels(figure) == ["Ar", "Kr"]
    each = [Group(f"Ar[{k}]", (k,), ("Ar",)) for k in range(2)]
    assert labels(plot_optimise(each, targets, names, found)) == ["Ar[0]:Ar", "Ar[1]:Ar"]
    always = [*targets[:1], Goal("b", "=", 3.75), Goal("gamma", "=", 60.0)]  # b is a, and gamma stays what it is
    more = found._replace(path=tuple(one._replace(values=one.values[:, [0, 1, 0, 0]]) for one in found.path))
    more = more._replace(
        path=tuple(
            one._replace(values=np.column_stack([one.values[:, :3], np.full(2, 60.0 + 1e-6)])) for one in more.path
        )
    )
    figure = plot_optimise(system.sites.groups, always, ["a", "energy", "b", "gamma"], more)
    assert [axes.get_ylabel() for axes in figure.axes] == ["$a$ (Å)", "Weight (best start)"]
    three = lambda w: np.column_stack([0.5 * w, 0.5 * w[:, :1] + w[:, 1:] / 2])
    path = tuple(one._replace(weights=three(one.weights), gradient=three(one.gradient)) for one in found.path)
    ternary = found._replace(path=path, weights=three(found.weights[None])[0])
    figure = plot_optimise([Group("Ar", (0,), ("Ar", "Kr", "Xe"))], targets[:1], names, ternary)
    assert figure.axes[1].name == "ternary" and len(figure.axes[1].lines) == 4


# --- supercells -------------------------------------------------------------------------------------------------------


def test_supercells_hold_the_composition_in_whole_atoms_group_by_group(rng):
    salt = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    weights = [0.7, 0.2, 0.5, 0.5]
    system = aj.from_atoms(salt, mix={"Na": ("Na", "K"), "Cl": ("Cl", "Br")}, weights=weights)
    one, two = aj.decorate(system, cells=(2, 2, 2), number=2)
    assert one.symbols.count("Na") == 22 and one.symbols.count("K") == 7 and one.symbols.count("Br") == 16  # 3 empty
    np.testing.assert_allclose(one.info["weights"], [22 / 32, 7 / 32, 0.5, 0.5])
    assert str(one.symbols) != str(two.symbols)
    np.testing.assert_allclose(one.cell.array, 2 * salt.cell.array)
    places = one.get_scaled_positions()[one.symbols == "Br"] * 4
    assert (np.rint(places.sum(1)) % 2 == 1).all()  # sites of chlorine
    again = aj.decorate(system, cells=(2, 2, 2))[0]
    assert str(again.symbols) == str(one.symbols)
    assert 48 <= len(aj.decorate(system, [0.5, 0.5, 0.5, 0.5])[0]) <= 108


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": (2, 2)}, "give three whole numbers"),
        ({"cells": (2, 2, 0)}, "give three whole numbers"),
        ({"method": "best"}, "method = 'best' is not understood"),
        ({"number": 0}, "number = 0 must be"),
        ({"weights": [0.9, 0.9]}, "may sum to at most 1"),
    ],
)
def test_supercells_that_make_no_sense_are_refused(options, message):
    system = aj.from_atoms(bulk("Ar", "fcc", A), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    with pytest.raises(ValueError, match=message):
        aj.decorate(system, **options)


def test_a_pure_composition_is_explicitly_what_it_is_in_one_cell(potential):
    system = aj.from_atoms(bulk("Ar", "fcc", 1.02 * A), mix={"Ar": ("Ar", "Kr")}, weights=[0.0, 1.0])
    names, tight = (
        ["a", "gamma", "volume", "density", "energy"],
        {"cell": True, "force_tolerance": 1e-5, "stress_tolerance": 1e-8},
    )
    facts = facts_of(potential, system, names)
    found = explicitly(potential, system, None, facts, names, number=1, cells=(2, 3, 2), **tight)
    state = aj.relaxed(potential, system, cell=True)
    expected = [np.linalg.norm(state.cell[0]), 60, np.linalg.det(state.cell)]
    np.testing.assert_allclose(found.values[0, :3], expected, rtol=1e-4)
    assert found.values[0, 3] == pytest.approx(1.66053906660 * 83.798 / expected[2], rel=1e-4)
    assert found.values[0, 4] == pytest.approx(float(state.energy), abs=1e-6) and found.sites == 12


def test_lattice_vectors_that_symmetry_makes_equal_get_their_mean(potential):
    system = aj.from_atoms(bulk("Ar", "hcp", 1.02 * A / 2**0.5), mix={"Ar": ("Ar", "Kr")}, weights=[0.5, 0.5])
    names = ["a", "b", "c", "volume"]
    facts = facts_of(potential, system, names)
    found = explicitly(potential, system, None, facts, names, number=1, cells=(2, 2, 1), cell=True)
    (atoms,) = aj.decorate(system, cells=(2, 2, 1))
    own = np.linalg.norm(aj.relax(potential, aj.from_atoms(atoms), cell=True).structure.cell, axis=1) / [2, 2, 1]
    assert abs(own[0] - own[1]) > 1e-4
    np.testing.assert_allclose(found.values[0, :3], [own[:2].mean(), own[:2].mean(), own[2]], rtol=1e-6)
    (one,) = explicitly(potential, system, None, facts, ["b"], number=1, cells=(2, 2, 1), cell=True).values
    assert one == pytest.approx(own[:2].mean(), rel=1e-6)


def test_what_is_predicted_is_that_of_whole_atoms(potential):
    system = aj.from_atoms(bulk("Ar", "fcc", 1.02 * A), mix={"Ar": ("Ar", "Kr")}, weights=[0.45, 0.55])
    facts = facts_of(potential, system, ["a"])
    found = explicitly(potential, system, None, facts, ["a"], number=1, cells=(2, 2, 2), cell=True)
    whole, own = (
        np.linalg.norm(aj.relax(potential, system, w, cell=True).structure.cell[0]) for w in ([0.5, 0.5], [0.45, 0.55])
    )
    np.testing.assert_allclose(found.weights, 0.5)
    assert found.predicted[0] == pytest.approx(whole, rel=1e-5) and abs(whole - own) > 1e-3 * own
