"""`alchemjax sweep`: what it writes is what the library computes, and whatever goes wrong is one sentence."""

import csv
import hashlib
import json

import ase.io
import jax
import numpy as np
import pytest
from conftest import assert_one_sentence, rows_of

import alchemjax as aj
from alchemjax.commands import results, sweep
from alchemjax.commands.session import doubts_about
from alchemjax.units import EV_PER_A3_IN_GPA

VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_holds_what_calculate_computes(sweeps, work, tmp_path):
    sweeps(tmp_path / "out", "--points", 3)
    potential = aj.load(work / "model")
    system = aj.read(work / "nacl.cif", {"Na": ("Na", "K")})
    rows = rows_of(tmp_path / "out")
    assert [row["Na:K"] for row in rows] == [0, 0.5, 1]
    for row in rows:
        out = aj.calculate(potential, system, [row["Na:Na"], row["Na:K"]])
        assert row["energy_eV"] == pytest.approx(float(out.energy), rel=2e-6)
        assert row["energy_per_site_eV"] == pytest.approx(row["energy_eV"] / 2, rel=1e-9)
        stress = [out.stress[ij] * EV_PER_A3_IN_GPA for ij in VOIGT]
        names = [f"stress_{name}_GPa" for name in ("xx", "yy", "zz", "yz", "xz", "xy")]
        np.testing.assert_allclose([row[name] for name in names], stress, rtol=1e-4, atol=1e-3)
        assert row["pressure_GPa"] == pytest.approx(-np.mean(stress[:3]), rel=1e-4)
        gradient = [row["dE/d(Na:Na)_eV"], row["dE/d(Na:K)_eV"]]
        np.testing.assert_allclose(gradient, out.weights_gradient, rtol=1e-4, atol=1e-5)
        assert row["max_force_eV_per_A"] == pytest.approx(np.linalg.norm(out.forces, axis=1).max(), abs=1e-4)
        assert row["volume_A3"] == pytest.approx(5.6**3 / 4)
        assert [row["a_A"], row["gamma_deg"]] == pytest.approx([5.6 / 2**0.5, 60])
    first, middle, last = (row["energy_eV"] for row in rows)
    assert abs(middle - (first + last) / 2) > 1e-3
    assert rows[1]["mixing_energy_per_site_eV"] == pytest.approx((middle - (first + last) / 2) / 2, rel=1e-6)
    assert rows[0]["mixing_energy_per_site_eV"] == rows[2]["mixing_energy_per_site_eV"] == 0


def test_the_json_file_says_where_the_numbers_come_from(sweeps, work, tmp_path):
    sweeps(tmp_path, "--points", 3, "--coupling", "correlated", "--alpha", 0)
    report = json.loads((tmp_path / "sweep.json").read_text())
    model = (work / "model" / "model.safetensors").read_bytes()
    assert report["model"]["sha256"] == hashlib.sha256(model).hexdigest()
    assert report["input"]["sha256"] == hashlib.sha256((work / "nacl.cif").read_bytes()).hexdigest()
    assert {"alchemjax", "jax", "numpy", "python"} == set(report["versions"])
    assert (report["coupling"], report["dtype"], report["model"]["name"]) == ("correlated", "float32", "tiny")
    assert report["arguments"]["mix"] == ["Na=Na,K"]
    assert report["arguments"]["points"] == 3
    assert set(report["columns"]) == set(report["table"]) == set(rows_of(tmp_path)[0])
    assert report["columns"]["stress_xy_GPa"]["unit"] == "GPa"
    for name, column in report["table"].items():
        np.testing.assert_allclose(column, [row[name] for row in rows_of(tmp_path)], rtol=1e-10, atol=1e-12)


def test_energies_of_a_random_alloy_are_those_of_calculate_and_called_so(sweeps, run, work, tmp_path):
    options = ["--fluctuations", "site-exact", "--supercell", "1,1,2"]
    said = sweeps(tmp_path / "mean", "--points", 3).stdout
    assert "mean field energies: " in said and "random alloy" not in said
    assert "random alloy energies: " in sweeps(tmp_path / "out", "--points", 3, *options).stdout
    report = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert report["energy"] == {
        "kind": "random alloy",
        "fluctuations": "site-exact",
        "supercell": {"sites": 4, "matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 2]]},
        "fluctuating_sites": [0],
    }
    assert json.loads((tmp_path / "mean" / "sweep.json").read_text())["energy"] == {"kind": "mean field"}
    potential, system = aj.load(work / "model"), aj.read(work / "nacl.cif", {"Na": ("Na", "K")})
    energies = [
        aj.calculate(potential, system, [0.5, 0.5], fluctuations=kind, supercell=supercell).energy
        for kind, supercell in (("none", None), ("site-exact", [1, 1, 2]))
    ]
    assert abs(energies[0] - energies[1]) > 1e-4
    for folder, expected in zip(("mean", "out"), energies, strict=True):
        assert rows_of(tmp_path / folder)[1]["energy_eV"] == pytest.approx(float(expected), rel=2e-6)
    pairs = aj.pair_fluctuations(potential, system, [0.5, 0.5], supercell=[1, 1, 2]) / 2
    assert [row["pair_fluctuations_per_site_eV"] for row in rows_of(tmp_path / "out")] == pytest.approx(
        [0, pairs, 0], abs=1e-7
    )
    assert "pair_fluctuations_per_site_eV" not in rows_of(tmp_path / "mean")[1]
    sweeps(tmp_path / "out", "--points", 3, "--fluctuations", "site", "--supercell", "1,1,2", status=2)
    command = ["relax", work / "nacl.cif", "--mix", "Na=Na,K", "--weights", "0.5,0.5", "--model", work / "model"]
    said = run(*command, "--no-cell", "--no-positions", *options, "-o", tmp_path / "out.cif").stdout
    assert "random alloy" in said.split("kind of energy")[1].splitlines()[0]
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["energy"]["supercell"]["sites"] == 4
    assert report["results"]["energy_eV"] == pytest.approx(float(energies[1]), rel=2e-6)
    assert report["results"]["pair_fluctuations_per_site_eV"] == pytest.approx(pairs, abs=1e-7)


def test_an_energy_of_a_random_alloy_is_called_uncertain_where_pairs_would_add_much():
    assert doubts_about(np.array([0.0009, -0.0009, 0])) == []
    (sentence,) = doubts_about(np.array([0.001, -0.0044, 0.0021, np.nan]))
    assert sentence.startswith("at 2 of 4 compositions") and "(up to -4.4)" in sentence
    assert doubts_about(np.array([0.003]))[0].startswith("fluctuations of two sites")


def test_the_structures_keep_weights_energies_and_forces(sweeps, tmp_path):
    sweeps(tmp_path, "--points", 3)
    images = ase.io.read(tmp_path / "structures.extxyz", ":")
    for atoms, row in zip(images, rows_of(tmp_path), strict=True):
        np.testing.assert_allclose(aj.from_atoms(atoms).weights, [row["Na:Na"], row["Na:K"]])
        assert atoms.get_potential_energy() == pytest.approx(row["energy_eV"])
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() == pytest.approx(row["max_force_eV_per_A"], abs=1e-7)
        assert atoms.info["weights"] == {"Na:Na": row["Na:Na"], "Na:K": row["Na:K"]}


def test_end_members_are_added_to_compositions_of_a_file(sweeps, tmp_path):
    (tmp_path / "some.csv").write_text("Na:K,Na:Na\n0.25,0.75\n0.5,0.4\n1,0\n")
    result = sweeps(tmp_path / "out", "--compositions", tmp_path / "some.csv")
    assert result.stdout.startswith("3 compositions + 1 end member in ")
    assert result.stdout.endswith("group Na (Na/K): up to 10 % vacant\n")
    rows = rows_of(tmp_path / "out")
    assert [row["added_end_member"] for row in rows] == [0, 0, 0, 1]
    assert [(row["Na:Na"], row["Na:K"]) for row in rows] == [(0.75, 0.25), (0.4, 0.5), (0, 1), (1, 0)]
    expected = (rows[0]["energy_eV"] - 0.75 * rows[3]["energy_eV"] - 0.25 * rows[2]["energy_eV"]) / 2
    assert rows[0]["mixing_energy_per_site_eV"] == pytest.approx(expected, rel=1e-6)
    assert np.isnan(rows[1]["mixing_energy_per_site_eV"])


def test_a_negative_alpha_is_allowed_where_only_the_end_members_forbid_it(sweeps, tmp_path):
    (tmp_path / "half.csv").write_text("Na:Na,Na:K\n0.5,0.5\n")
    options = ["--compositions", tmp_path / "half.csv", "--coupling", "correlated", "--alpha"]
    sweeps(tmp_path / "ordered", *options, -0.5)
    sweeps(tmp_path / "random", *options, 0)
    ordered, random = rows_of(tmp_path / "ordered"), rows_of(tmp_path / "random")
    assert [row["correlation_alpha"] for row in ordered] == [-0.5, 0, 0]
    assert abs(ordered[0]["energy_eV"] - random[0]["energy_eV"]) > 1e-4
    assert [row["energy_eV"] for row in ordered[1:]] == [row["energy_eV"] for row in random[1:]]
    assert "composition [0.9" in sweeps(tmp_path / "x", "--points", 11, *options[2:], -0.5, status=2).stderr


@pytest.fixture
def pressed(work):
    """A plan under pressure for rock salt, and made-up results of it."""
    system, rows = aj.read(work / "nacl.cif", {"Na": ("Na", "K")}), np.array([[1, 0], [0.5, 0.5], [0, 1.0]])
    plan = sweep.make_plan(aj.load(work / "model"), system, rows, "cell", pressure=0.1, batch=1)
    shapes = {"weights": (2,), "weights_gradient": (2,), "positions": (2, 3), "forces": (2, 3)}
    shapes |= {"cell": (3, 3), "stress": (3, 3)}
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=(3, *shapes.get(name, ()))) for name in sweep.Table._fields}
    columns |= {"weights": rows, "steps": np.arange(3), "converged": np.array([True, False, True])}
    return system, plan, sweep.Table(**columns)


def test_under_pressure_the_table_has_enthalpies_and_without_it_none(pressed):
    system, plan, table = pressed
    columns = sweep._report(system, plan, table, 3)["table"]
    enthalpy = table.energy + 0.1 * table.volume
    np.testing.assert_allclose(columns["enthalpy_per_site_eV"], enthalpy / 2, rtol=1e-12)
    mixing = (enthalpy[1] - (enthalpy[0] + enthalpy[2]) / 2) / 2
    np.testing.assert_allclose(columns["mixing_enthalpy_per_site_eV"], [0, mixing, 0], rtol=1e-12)
    assert abs(mixing - columns["mixing_energy_per_site_eV"][1]) > 1e-4
    free = plan._replace(limits=plan.limits._replace(pressure=np.asarray(0.0)))
    assert set(columns) - set(sweep._report(system, free, table, 3)["table"]) == {
        "enthalpy_per_site_eV",
        "mixing_enthalpy_per_site_eV",
    }


def test_every_file_comes_again_from_what_the_json_file_says(pressed, tmp_path):
    system, plan, table = pressed
    table.energy[1] = table.stress[1, 0, 0] = np.nan
    report = sweep._report(system, plan, table, 3)
    results.write_all(tmp_path, system, report, plot=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == set(sweep.WORK.files)
    stored = json.loads((tmp_path / "sweep.json").read_text())
    for name in results.FILES:
        (tmp_path / name).unlink()
    results.write_files(tmp_path, system, stored, results.FILES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with open(tmp_path / "sweep.csv", newline="") as file:
        assert [row["energy_eV"] for row in csv.DictReader(file)][1] == ""
    images = ase.io.read(tmp_path / "structures.extxyz", ":")
    np.testing.assert_allclose(images[2].positions, table.positions[2], atol=1e-7)
    np.testing.assert_allclose(images[2].get_forces(), table.forces[2], atol=1e-7)


def test_compositions_that_do_not_converge_are_counted_and_marked(sweeps, tmp_path):
    options = ["--points", 3, "--relax", "cell", "--max-steps", 1, "--stress-tolerance", 1e-9, "--plot"]
    result = sweeps(tmp_path, *options)
    assert "warning: 3 of 3 compositions did not converge" in result.stderr
    assert "3 of them not converged" in result.stdout
    assert [row["converged"] for row in rows_of(tmp_path)] == [0, 0, 0]
    assert "3 of 3" in json.loads((tmp_path / "sweep.json").read_text())["warnings"][0]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert len({row["a_A"] for row in rows_of(tmp_path)}) == 3


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--mix", "Cl=Cl,Xx"], "species 'Xx' is not a chemical element"),
        (["--mix", "Cl=Cl,Fe"], "species 'Fe' is not in tiny"),
        (["--mix", "Fe=Fe,Cl"], "'Fe' selects no site"),
        (["--mix", "Cl"], "--mix 'Cl' is not understood"),
        (["--mix", "Cl="], "--mix 'Cl=' is not understood"),
        (["--mix", "Cl=Cl,,O"], "is not understood"),
        (["--mix", "Cl=O,O"], "lists a species twice"),
        (["--mix", "Na=Na,Li"], "selects 'Na' twice"),
        (["--mix", "0=Na,Li"], "both select site 0"),
        (["--points", 1], "--points 1 is too few"),
        (["--mix", "Cl=Cl,O", "--points", 100], "make 10000 compositions of 2 groups"),
        (["--points", 3, "--compositions", "{bad}/over.csv"], "both given"),
        (
            ["--compositions", "{bad}/missing.csv"],
            "missing.csv' could not be read: No such file or directory; give the name",
        ),
        (["--compositions", "{bad}/names.csv"], "this system takes exactly Na:Na, Na:K; give every one"),
        (["--compositions", "{bad}/number.csv"], "line 3, column Na:Na: 'half' is not a number"),
        (["--compositions", "{bad}/over.csv"], "line 2: weights of group 'Na' sum to 1.4"),
        (["--compositions", "{bad}/negative.csv"], "may not be negative"),
        (["--compositions", "{bad}/nan.csv"], "contain NaN or infinity: [nan, 0.0]; give numbers from 0 to 1"),
        (["--compositions", "{bad}/short.csv"], "line 2: 1 values for 2 columns"),
        (["--compositions", "{bad}/none.csv"], "has no compositions"),
        (["--compositions", "{bad}/empty.csv"], "has the columns (none)"),
        (["--compositions", "{bad}/../nacl.cif"], "has the columns"),
        (["--alpha", 0.5], "alpha = 0.5 was given with coupling 'independent'"),
        (["--coupling", "correlated"], "needs alpha"),
        (["--coupling", "correlated", "--alpha", 2], "allowed here is"),
        (["--pressure", 1], "--pressure has no effect unless the cell is relaxed"),
        (["--pressure", 1, "--relax", "positions"], "--pressure has no effect unless the cell is relaxed"),
        (["--strain", "hydrostatic"], "--strain has no effect"),
        (["--fix-axes", "a"], "--fix-axes has no effect"),
        (["--max-steps", 5], "--max-steps has no effect"),
        (["--relax", "cell", "--strain", "xx,up"], "--strain 'xx,up' is not understood"),
        (["--relax", "cell", "--fix-axes", "d"], "--fix-axes 'd' is not understood"),
        (["--relax", "cell", "--fix-axes", "a,b,c"], "no strain is left free"),
        (["--relax", "cell", "--stress-tolerance", -1], ": --stress-tolerance -1 GPa must be a positive number\n"),
        (["--relax", "cell", "--stress-tolerance", "nan"], ": --stress-tolerance nan GPa must be a positive number\n"),
        (["--relax", "cell", "--force-tolerance", 0], ": --force-tolerance 0 eV/A must be a positive number\n"),
        (["--relax", "cell", "--max-steps", -1], ": --max-steps -1 must be a whole number, at least 0\n"),
        (["--relax", "cell", "--pressure", "nan"], ": --pressure nan GPa must be a finite number\n"),
        (["--coupling", "correlated", "--alpha", "nan"], "alpha = nan is not a number"),
        (["--supercell", "2,2,2"], ": --supercell has no effect without --fluctuations site-exact or site"),
        (["--fluctuations", "site", "--supercell", "2,2"], "--supercell '2,2' is not understood; give a distance"),
        (["--fluctuations", "site", "--supercell", "big"], "--supercell 'big' is not understood"),
        (["--fluctuations", "site", "--supercell", "0,1,1"], "supercell = [0, 1, 1] spans no volume; give"),
        (
            ["--fluctuations", "site", "--supercell", "50,50,50"],
            "= [50, 50, 50] holds 125000 cells; allowed are 1 to 4000",
        ),
        (["--fluctuations", "site", "--supercell", -3], "must be a distance between 0 and 100 A"),
        (["--fluctuations", "site", "--coupling", "paired"], "the coupling is 'paired'; use coupling 'independent'"),
        (["--batch", 0], ": --batch 0 must be a whole number, at least 1\n"),
        (["--model", "gnome"], "'gnome' is neither the name of a model nor a file"),
        (["--modality", "mpa"], "has no modalities"),
        (["--head", "mp_pbe"], "has no heads"),
        (["-o", "{bad}/file"], "file' is a file; give another name with --out"),
        (["-o", "{bad}/file/below"], "bad/file' is a file; give another name with --out"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_no_folder(sweeps, bad, tmp_path, arguments, message):
    given = [str(a).format(bad=bad) for a in arguments]
    result = sweeps(tmp_path / "out", *given, status=2)
    assert_one_sentence(result, message)
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()
    assert (bad / "file").read_text() == "not a folder"


@pytest.mark.parametrize(
    "name, message",
    [
        ("empty.cif", "empty.cif"),
        ("broken.cif", "broken.cif' holds no structure"),
        ("missing.cif", "missing.cif' does not exist"),
        ("flat.extxyz", "span no volume"),
        ("near.extxyz", "sites must be at least 0.1 A apart"),
    ],
)
def test_a_wrong_structure_is_one_sentence_and_no_folder(sweeps, bad, tmp_path, name, message):
    result = sweeps(tmp_path / "out", "--points", 3, file=bad / name, status=2)
    assert_one_sentence(result, message)
    assert not (tmp_path / "out").exists()


def test_running_out_of_memory_is_one_sentence(sweeps, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")

    monkeypatch.setattr(sweep, "sweep_batches", fail)
    assert "not enough memory; try fewer at once (--batch" in sweeps(tmp_path / "out", status=2).stderr
