"""The command line: what it writes is what the library computes, and whatever goes wrong is one sentence."""

import csv
import fcntl
import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import jax
import numpy as np
import platformdirs
import pytest
from ase import Atoms
from typer.testing import CliRunner

import alchemjax as aj
from alchemjax import cli
from alchemjax.cli import app
from alchemjax.commands import compositions, options, results, session, store, sweep
from alchemjax.commands.session import doubts_about
from alchemjax.system.sites import Group, make_sites
from alchemjax.units import EV_PER_A3_IN_GPA

ROOT = Path(__file__).parents[1]
SPECIES = ("Cl", "K", "Li", "Na", "O")
VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


@pytest.fixture
def run(monkeypatch, work):
    """Call the command line in this process, compiling without optimisation and without a cache."""
    monkeypatch.setattr("alchemjax.commands.sweep.prepare_jax", lambda: None)
    monkeypatch.setattr("alchemjax.commands.relax.prepare_jax", lambda: None)
    monkeypatch.setenv("COLUMNS", "200")
    jax.config.update("jax_disable_most_optimizations", True)

    def call(*arguments, status=0):
        result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result

    yield call
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def sweeps(run, work):
    """Call `alchemjax sweep` on rock salt with the tiny model."""
    standard = ["--model", work / "model", "--relax", "none", "--batch", 2, "--no-plot", "--mix", "Na=Na,K"]

    def call(out, *arguments, status=0, file=work / "nacl.cif"):
        return run("sweep", file, *standard, "-o", out, *arguments, status=status)

    return call


def rows_of(folder):
    with open(folder / "sweep.csv", newline="") as file:
        return [{k: float(v) if v else np.nan for k, v in row.items()} for row in csv.DictReader(file)]


def in_shell(work, *arguments, code="from alchemjax.cli import main; main()", **environment):
    """Run Python with these arguments in a process of its own; the processes of one session share a cache."""
    settings = {
        "XDG_CACHE_HOME": str(work / "cache"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    environment = os.environ | settings | environment
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)


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
    assert doubts_about(np.array([0.0019, -0.0019, 0])) == []
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
    assert set(before) == set(store.RESULTS)
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


# --- compositions -----------------------------------------------------------------------------------------------------


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
    rows = compositions.with_corners(sites, np.array([[0.3, 0.7, 0.2, 0.5, 0.3], [0.3, 0.7, 0.2, 0.5, 0.2]]))
    assert len(rows) == 8
    values = np.random.default_rng(0).normal(size=8)
    end = {tuple(np.flatnonzero(row).tolist()): value for row, value in zip(rows[2:], values[2:], strict=True)}
    by_hand = sum(rows[0][i] * rows[0][j] * end[i, j] for i in (0, 1) for j in (2, 3, 4))
    ideal = compositions.between_corners(sites, rows, values)
    assert ideal[0] == pytest.approx(by_hand, rel=1e-12)
    assert np.isnan(ideal[1])
    np.testing.assert_allclose(ideal[2:], values[2:], rtol=1e-12)
    assert np.isnan(compositions.between_corners(sites, rows[:-1], values[:-1])).all()


def test_ordered_arrangements_are_measured_against_the_pure_crystals():
    groups = (Group("a", (0, 1), ("Fe", "Cr")), Group("b", (2,), ("Cr", "Fe")), Group("c", (3,), ("O", "S")))
    sites = make_sites(["H"] * 4, groups)
    ends = compositions.corners(sites)
    np.testing.assert_array_equal(ends[:2], [[1, 0, 0, 1, 1, 0], [1, 0, 0, 1, 0, 1]])
    np.testing.assert_array_equal(ends[2:], [[0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 0, 1]])
    ordered = np.array([[1, 0, 1, 0, 1, 0], [0.5, 0.5, 0, 1, 0.25, 0.75], [1, 0, 0.5, 0.4, 1, 0]])
    rows = compositions.with_corners(sites, ordered)
    values = np.array([9.0, 9.0, 9.0, 1.0, 2.0, 4.0, 8.0])
    ideal = compositions.between_corners(sites, rows, values)
    assert ideal[0] == pytest.approx(2 / 3 * 1 + 1 / 3 * 4, rel=1e-12)
    assert ideal[1] == pytest.approx(2 / 3 * (0.25 * 1 + 0.75 * 2) + 1 / 3 * (0.25 * 4 + 0.75 * 8), rel=1e-12)
    assert np.isnan(ideal[2])
    np.testing.assert_allclose(ideal[3:], values[3:], rtol=1e-12)


def test_too_many_end_members_are_left_out():
    sites = sites_of(*itertools.combinations(["Na", "K", "Li", "Rb", "Cs", "Ag"], 2))
    assert compositions.num_corners(sites) == 2**15
    assert compositions.corners(sites) is None
    rows = np.full((1, 30), 0.5)
    assert len(compositions.with_corners(sites, rows)) == 1
    assert np.isnan(compositions.between_corners(sites, rows, np.ones(1))).all()


# --- interruption -----------------------------------------------------------------------------------------------------

STOP = """
import os, signal, alchemjax.commands.sweep as s
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background do not get it
store = s.store_batch
def store_and_stop(*arguments):
    store(*arguments)
    os.kill(os.getpid(), signal.{signal})
s.store_batch = store_and_stop
from alchemjax.cli import main
main()
"""


@pytest.fixture(scope="session")
def slow_sweep(work):
    """Arguments of a sweep in three batches, and its table when nothing stops it."""
    command = ["sweep", work / "nacl.cif", "--mix", "Na=Na,K", "--model", work / "model", "--points", 5, "--batch", 2]
    command += ["--relax", "positions", "--max-steps", 2, "--no-plot"]
    assert in_shell(work, *command, "-o", work / "whole").returncode == 0
    return command, (work / "whole" / "sweep.csv").read_bytes()


@pytest.mark.parametrize("signal, status", [("SIGKILL", -9), pytest.param("SIGINT", 130, marks=pytest.mark.slow)])
def test_a_sweep_that_was_stopped_continues_to_the_same_table(work, tmp_path, slow_sweep, signal, status):
    command, whole = slow_sweep
    stopped = in_shell(work, *command, "-o", tmp_path / "stopped", code=STOP.format(signal=signal))
    assert stopped.returncode == status
    assert sorted(path.name for path in (tmp_path / "stopped" / ".batches").glob("*.npz")) == ["00000.npz"]
    assert not (tmp_path / "stopped" / "sweep.csv").exists()
    if signal == "SIGINT":
        assert stopped.stderr == "alchemjax: interrupted; run the same command to continue\n"
    before = (tmp_path / "stopped" / ".batches" / "00000.npz").stat().st_mtime_ns
    code = f"""
import os, alchemjax.commands.sweep as s
read = s.stored_batches
def noted(folder):
    assert os.stat(folder / "00000.npz").st_mtime_ns == {before}
    tables, seconds = read(folder)
    assert len(tables) == 1
    return tables, seconds
s.stored_batches = noted
from alchemjax.cli import main
main()
"""
    assert in_shell(work, *command, "-o", tmp_path / "stopped", code=code).returncode == 0
    assert (tmp_path / "stopped" / "sweep.csv").read_bytes() == whole
    assert len(rows_of(tmp_path / "stopped")) == 5
    assert not (tmp_path / "stopped" / ".batches").exists()


def test_an_unfinished_sweep_is_not_mixed_with_another(sweeps, tmp_path, monkeypatch):
    keep, stored = sweep.store_batch, []

    def stop(*arguments):
        keep(*arguments)
        stored.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "store_batch", stop)
    assert "interrupted; run the same command to continue" in sweeps(tmp_path, "--points", 5, status=130).stderr
    monkeypatch.setattr(sweep, "store_batch", keep)
    assert len(stored) == 1
    assert "holds batches of an unfinished sweep" in sweeps(tmp_path, "--points", 6, status=2).stderr
    sweeps(tmp_path, "--points", 6, "--overwrite")
    assert [row["Na:K"] for row in rows_of(tmp_path)] == [0, 0.2, 0.4, 0.6, 0.8, 1]


def test_a_finished_sweep_is_kept_repeated_or_replaced(sweeps, tmp_path):
    sweeps(tmp_path, "--points", 3)
    table = (tmp_path / "sweep.csv").read_text()
    written = (tmp_path / "sweep.json").stat().st_mtime_ns
    assert "nothing was done" in sweeps(tmp_path, "--points", 3).stdout
    (tmp_path / "sweep.csv").unlink()
    assert "sweep.csv, sweep.png made from its numbers" in sweeps(tmp_path, "--points", 3, "--plot").stdout
    assert (tmp_path / "sweep.csv").read_text() == table
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "nothing was done" in sweeps(tmp_path, "--points", 3, "--plot").stdout
    assert (tmp_path / "sweep.json").stat().st_mtime_ns == written
    assert "holds a sweep of other input" in sweeps(tmp_path, "--points", 5, status=2).stderr
    assert (tmp_path / "sweep.csv").read_text() == table
    sweeps(tmp_path, "--points", 5, "--overwrite")
    assert len(rows_of(tmp_path)) == 5
    sweeps(tmp_path, "--points", 3, "--overwrite")
    assert (tmp_path / "sweep.csv").read_text() == table


def test_two_sweeps_cannot_use_one_folder_at_a_time(sweeps, tmp_path):
    (tmp_path / ".batches").mkdir()
    with open(tmp_path / ".batches" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another sweep is running" in sweeps(tmp_path, "--points", 3, status=2).stderr
    sweeps(tmp_path, "--points", 3)


@pytest.mark.parametrize(
    "change", ["cell", "weights", "alpha", "name", "sha256", "dtype", "coupling", "batch", "limits", "fluctuations"]
)
def test_whatever_changes_the_numbers_changes_the_fingerprint(change, work):
    potential = aj.load(work / "model")
    system = aj.read(work / "nacl.cif", {"Na": ("Na", "K")})
    plan = sweep.make_plan(potential, system, [[1, 0]], "none", batch=1)
    before = sweep._fingerprint(potential, system, plan)
    assert before == sweep._fingerprint(potential, system, plan)
    match change:
        case "cell":
            system = system._replace(structure=system.structure._replace(cell=system.structure.cell * (1 + 1e-15)))
        case "coupling":
            system = system._replace(coupling="paired")
        case "name" | "sha256" | "dtype":
            potential = potential._replace(**{change: "float64"})
        case "fluctuations":
            plans = [
                sweep.make_plan(potential, system, [[1, 0]], "none", batch=1, fluctuations=kind, supercell=supercell)
                for kind, supercell in (("site", [1, 1, 2]), ("site-exact", [1, 1, 2]), ("site", [1, 2, 1]))
            ]
            assert len({sweep._fingerprint(potential, system, p) for p in plans}) == 3
            plan = plans[0]
        case "batch":
            plan = plan._replace(batch=2)
        case "limits":
            plan = plan._replace(limits=plan.limits._replace(steps=np.asarray(7)))
        case _:
            plan = plan._replace(**{change: getattr(plan, change) + 1e-15})
    assert before != sweep._fingerprint(potential, system, plan)


def test_a_sweep_that_fails_leaves_nothing_behind(sweeps, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(sweep, "store_batch", fail)
    assert "'somewhere': No space left on device" in sweeps(tmp_path / "out", "--points", 3, status=2).stderr
    assert not (tmp_path / "out").exists()


def test_batches_are_whole_and_in_order(tmp_path):
    table = sweep.Table(*(np.arange(2.0) for _ in sweep.Table._fields))
    store.store_batch(tmp_path, 0, table, 1.5)
    store.store_batch(tmp_path, 2, table, 1.0)
    tables, seconds = store.stored_batches(tmp_path)
    assert (len(tables), seconds) == (1, 1.5)
    np.testing.assert_array_equal(tables[0].energy, table.energy)


# --- the other commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".cif", ".extxyz"])
def test_a_relaxed_structure_keeps_its_occupancies(run, work, tmp_path, suffix):
    mix = ["--mix", "Na=Na,K,Li", "--model", work / "model", "--max-steps", 2]
    weights = [1 / 3, 1 / 3, 1 / 3 - 1e-4]
    out = tmp_path / f"relaxed{suffix}"
    result = run("relax", work / "nacl.cif", *mix, "--weights", ",".join(map(str, weights)), "--no-cell", "-o", out)
    assert "energy (eV)" in result.stdout
    system, report = aj.read(out), json.loads(out.with_suffix(".json").read_text())
    np.testing.assert_allclose(sorted(system.weights), sorted(weights), atol=1e-9)
    assert report["results"]["weights"]["Na:Li"] == weights[2]
    wrapped = np.array(report["results"]["positions_A"]) @ np.linalg.inv(report["results"]["cell_A"])
    apart = system.structure.positions @ np.linalg.inv(system.structure.cell) - wrapped
    np.testing.assert_allclose(apart - np.rint(apart), 0, atol=1e-7)
    potential = aj.load(work / "model")
    again = aj.calculate(potential, aj.read(work / "nacl.cif", {"Na": ("Na", "K", "Li")}), weights)
    assert report["results"]["steps"] == 0  # by symmetry there are no forces
    assert report["results"]["energy_eV"] == pytest.approx(float(again.energy), rel=1e-5)
    assert "exists" in run("relax", work / "nacl.cif", *mix, "-o", out, status=2).stderr


def test_a_molecule_has_no_cell_to_relax_and_the_way_out_is_named(run, sweeps, work, bad, tmp_path):
    molecule, model = bad / "molecule.extxyz", ["--model", work / "model"]
    result = run("relax", molecule, *model, "-o", tmp_path / "out.extxyz", status=2)
    assert "it has no cell to relax; give --no-cell\n" in result.stderr
    result = sweeps(tmp_path / "out", "--relax", "cell", file=molecule, status=2)
    assert "it has no cell to relax; give --relax positions\n" in result.stderr


def test_a_single_point_is_called_so_and_shows_its_largest_force(run, work, tmp_path, monkeypatch):
    system = aj.read(work / "nacl.cif", {"Na": ("Na", "K")}, weights=[0.5, 0.25])
    forces = np.array([[0, 0, 0.25], [0.3, 0, 0.4]])
    output = aj.Output(*map(np.asarray, (-1.0, [-0.5, -0.5], forces, np.zeros((3, 3)), [0.0, 0.0])), None)
    relaxed = aj.Relaxed(system.structure, system.weights, output, True, 0, 0.0, 0.0)
    monkeypatch.setattr("alchemjax.commands.relax.relax", lambda *arguments, **options: relaxed)
    command = ["relax", work / "nacl.cif", "--mix", "Na=Na,K", "--weights", "0.5,0.25", "--model", work / "model"]
    result = run(*command, "--no-cell", "--no-positions", "-o", tmp_path / "out.cif")
    assert "single point" in result.stdout and "converged" not in result.stdout
    assert [line.split()[-1] for line in result.stdout.splitlines() if "largest force" in line] == ["0.5"]
    assert "group Na (Na/K): 25 % vacant\n" in result.stdout
    assert json.loads((tmp_path / "out.json").read_text())["results"]["max_force_eV_per_A"] == 0.5


def test_info_tells_formula_space_group_and_the_order_of_the_weights(run, work):
    result = run("info", work / "nacl.cif", "--mix", "Na=Na,Fe", "--model", work / "model")
    lines = {line.split("  ")[0].strip(): line for line in result.stdout.splitlines()}
    assert "Na Cl" in lines["formula"]
    assert "Fm-3m (225)" in lines["space group"]
    assert "Fe" in lines["not in the model"]
    pairs = len(aj.read(work / "nacl.cif").structure.positions) * (6 + 12 + 8)
    assert f"{pairs} directed pairs" in lines["neighbours"]
    assert result.stdout.index("Na:Na") < result.stdout.index("Na:Fe")


def test_models_are_listed_for_people_and_programs(run, monkeypatch, tmp_path):
    monkeypatch.setenv("ALCHEMJAX_MODELS", str(tmp_path))
    assert "sevennet-0" in run("models").stdout
    assert "pip download --no-deps sevenn==0.13.0" in run("models").stdout
    (shipped,) = json.loads(run("models", "--json").stdout)["models"]
    assert (shipped["name"], len(shipped["elements"]), shipped["modalities"]) == ("sevennet-0", 89, [])


def test_a_converted_model_is_found_by_its_name(run, monkeypatch, tmp_path):
    import weights_convert

    def convert(family, path, out, model, *, overwrite, progress):
        assert (family, Path(path).name, model, overwrite) == ("sevennet", "mine.pth", None, False)
        out.mkdir(parents=True)
        config = {"name": "mine", "family": "sevennet", "species": ["H"], "dtype": "float32", "source": {}}
        (out / "config.json").write_text(json.dumps(config))
        return [out]

    monkeypatch.setenv("ALCHEMJAX_MODELS", str(tmp_path / "models"))
    with monkeypatch.context() as patch:
        patch.setattr(weights_convert, "convert", convert)
        result = run("convert", "sevennet", tmp_path / "mine.pth")
    assert result.stdout == f"mine: {tmp_path / 'models' / 'mine'}\n"
    assert "mine is unrecognised, converted by content: its licence and training are unknown" in result.stderr
    assert "mine: " in (listed := run("models").stdout) and "(unrecognised, converted by content)" in listed
    assert {m["name"] for m in json.loads(run("models", "--json").stdout)["models"]} == {"sevennet-0", "mine"}
    assert "'gnome' is not supported" in run("convert", "gnome", tmp_path / "x", status=2).stderr
    assert "alchemjax: " in run("convert", "sevennet", tmp_path / "missing.pth", status=2).stderr


@pytest.fixture
def main(monkeypatch, capsys):
    """Call the entry point of the command line; status, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["alchemjax", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return call


def test_without_arguments_the_help_is_printed_as_it_is(main):
    status, out, err = main()
    assert (status, out, err) == main("--help")
    lines = [line.split(maxsplit=1) for line in out.split("Commands:\n")[1].splitlines()]
    assert [name for name, _ in lines] == ["sweep", "relax", "md", "alloy", "info", "models", "convert"]
    assert all(text.endswith(".") and "..." not in text for _, text in lines)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sweep", "a.cif", "-o", ""], "an empty name was given"),
        (["relax", "a.cif", "-o", " "], "an empty name was given"),
        (["sweep", "a.cif", "-o", "x", "--points", "abc"], "'--points': 'abc' is not a whole number"),
        (["sweep", "a.cif", "-o", "x", "--pressure", "high"], "'--pressure': 'high' is not a number"),
        (["sweep", "a.cif", "-o", "x", "--dtype", "float16"], "'float16' is not one of 'float32', 'float64'"),
    ],
)
def test_a_value_that_is_not_understood_is_shown_in_one_sentence(main, arguments, message):
    status, out, err = main(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("alchemjax: ") and message in err


def test_the_version_is_the_packages(run):
    assert run("--version").stdout == f"alchemjax {aj.__version__}\n"


def test_help_imports_nothing_that_takes_time():
    code = """
import sys, types
package = types.ModuleType("alchemjax")  # what importing the package itself costs is not the command line's
package.__path__ = ["alchemjax"]
sys.modules["alchemjax"] = package
from alchemjax.cli import app
try:
    app(["sweep", "--help"])
finally:
    slow = {"jax", "numpy", "ase", "matplotlib", "jax_md", "pymatgen", "scipy", "weights_convert"} & set(sys.modules)
    assert not slow, slow
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "--compositions" in result.stdout
    assert "[eV/A]" in result.stdout


def test_the_compiler_is_checked_once_for_every_version_of_jax(monkeypatch, tmp_path):
    checks, settings = [], {}
    monkeypatch.setattr(session, "check_compiler", lambda: checks.append(1))
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    session.prepare_jax()
    session.prepare_jax()
    assert len(checks) == 1
    assert Path(settings["jax_compilation_cache_dir"]).is_relative_to(tmp_path / "alchemjax" / "jax")
    monkeypatch.setattr(jax, "__version__", "99.0")
    session.prepare_jax()
    assert len(checks) == 2

    def fail():
        raise RuntimeError("jax 100.0 computes wrong numbers")

    monkeypatch.setattr(session, "check_compiler", fail)
    monkeypatch.setattr(jax, "__version__", "100.0")
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong numbers"):
            session.prepare_jax()


# --- errors -----------------------------------------------------------------------------------------------------------


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


@pytest.fixture(scope="session")
def bad(work):
    """Files with something wrong in each."""
    folder = work / "bad"
    folder.mkdir()
    (folder / "empty.cif").write_text("")
    (folder / "broken.cif").write_text("data_x\n_cell_length_a 3.0\nloop_\n_atom_site_label\nNa1 what\n")
    ase.io.write(folder / "flat.extxyz", Atoms("NaCl", [[0, 0, 0], [2, 0, 0]], cell=np.diag([4, 4, 0]), pbc=True))
    ase.io.write(folder / "near.extxyz", Atoms("NaCl", [[0, 0, 0], [0.05, 0, 0]], cell=np.eye(3) * 5, pbc=True))
    ase.io.write(folder / "molecule.extxyz", Atoms("NaCl", [[0, 0, 0], [2.5, 0, 0]]))
    (folder / "file").write_text("not a folder")
    for name, text in {
        "names": "Na:Na,Ce:Zr\n1,0\n",
        "number": "Na:Na,Na:K\n1,0\nhalf,0\n",
        "over": "Na:Na,Na:K\n0.7,0.7\n",
        "negative": "Na:Na,Na:K\n1.5,-0.5\n",
        "nan": "Na:Na,Na:K\nnan,0\n",
        "short": "Na:Na,Na:K\n1\n",
        "none": "Na:Na,Na:K\n",
        "empty": "",
    }.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


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
        (["--compositions", "{bad}/missing.csv"], "missing.csv': No such file"),
        (["--compositions", "{bad}/names.csv"], "has the columns Na:Na, Ce:Zr; this system takes exactly Na:Na, Na:K"),
        (["--compositions", "{bad}/number.csv"], "line 3, column Na:Na: 'half' is not a number"),
        (["--compositions", "{bad}/over.csv"], "line 2: weights of group 'Na' sum to 1.4"),
        (["--compositions", "{bad}/negative.csv"], "may not be negative"),
        (["--compositions", "{bad}/nan.csv"], "contain NaN"),
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
        (["--fluctuations", "site", "--supercell", "0,1,1"], "holds 0 cells; allowed are 1 to 4000"),
        (["--fluctuations", "site", "--supercell", -3], "must be a distance between 0 and 100 A"),
        (["--fluctuations", "site", "--coupling", "paired"], "the coupling is 'paired'; use coupling 'independent'"),
        (["--batch", 0], ": --batch 0 must be a whole number, at least 1\n"),
        (["--model", "gnome"], "'gnome' is neither the name of a model nor a file"),
        (["--modality", "mpa"], "has no modalities"),
        (["--head", "mp_pbe"], "has no heads"),
        (["-o", "{bad}/file"], "file"),
        (["-o", "{bad}/file/below"], "Not a directory"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_no_folder(sweeps, bad, tmp_path, arguments, message):
    given = [str(a).format(bad=bad) for a in arguments]
    result = sweeps(tmp_path / "out", *given, status=2)
    assert result.stderr.startswith("alchemjax: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
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
    assert result.stderr.startswith("alchemjax: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights", "0.5"], "weights have shape (1,); this system takes 2 numbers (Na: Na/K)"),
        (["--weights", "0.7,0.7"], "sum to 1.4"),
        (["--weights", "1.5,-0.5"], "may not be negative"),
        (["--weights", "nan,0"], "contain NaN"),
        (["--no-cell", "--pressure", "1"], "--pressure has no effect"),
        (["--no-cell", "--strain", "xx"], "--strain has no effect"),
        (["--weights", "Na=0.5"], "leaves out Na:K"),
        (["-o", "{bad}/out.png"], "has the suffix '.png'"),
        (["-o", "{bad}/file/out.cif"], "could not be written"),
        (["-o", "{bad}/missing/out.cif"], "could not be written"),
    ],
)
def test_a_wrong_relaxation_is_one_sentence_and_no_file(run, work, bad, tmp_path, arguments, message):
    given = [str(a).format(bad=bad) for a in arguments]
    command = ["relax", work / "nacl.cif", "--mix", "Na=Na,K", "--model", work / "model", "-o", tmp_path / "out.cif"]
    result = run(*command, *given, status=2)
    assert result.stderr.startswith("alchemjax: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_errors_of_a_process_have_a_status_and_a_traceback_only_on_request(work, tmp_path):
    command = ["sweep", work / "nacl.cif", "--mix", "Na", "-o", tmp_path / "out"]
    plain = in_shell(work, *command)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith("alchemjax: --mix 'Na' is not understood")
    assert plain.stderr.count("\n") == 1
    asked = in_shell(work, *command, ALCHEMJAX_TRACEBACK="1")
    assert asked.returncode != 0
    assert "Traceback" in asked.stderr


def test_running_out_of_memory_is_one_sentence(sweeps, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")

    monkeypatch.setattr(sweep, "sweep_batches", fail)
    assert "not enough memory; try fewer at once (--batch" in sweeps(tmp_path / "out", status=2).stderr
