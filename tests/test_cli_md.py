"""alchemjax md: files that grow, runs that survive being killed, and sentences."""

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from conftest import ROOT
from typer.testing import CliRunner

import alchemjax as aj
from alchemjax.atoms import from_atoms
from alchemjax.cli import app
from alchemjax.commands.schedule import read_schedule

STEPS = ["--steps", "40", "--log-every", "5", "--frames-every", "10", "--checkpoint-every", "10", "--no-plot"]
MIX = ["--mix", "Na=Na,K", "--weights", "0.5,0.5", "--timestep", "0.2", "--thermostat-time", "20", "--temperature", "9"]


@pytest.fixture
def run(monkeypatch, work):
    """The command in this process."""
    monkeypatch.setattr("alchemjax.commands.md.prepare_jax", lambda: None)

    def invoke(*options, status=0):
        command = ["md", str(work / "nacl.cif"), "--model", str(work / "model"), *map(str, options)]
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == status, done.output
        return done.output

    return invoke


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_files_hold_what_calculate_computes(run, work, tmp_path):
    said = run("-o", tmp_path / "run", *STEPS, *MIX, "--dtype", "float64")
    assert said.startswith("40 steps in ")
    log = table(tmp_path / "run" / "log.csv")
    assert [int(row["step"]) for row in log] == list(range(0, 41, 5))
    frames = ase.io.read(tmp_path / "run" / "trajectory.extxyz", ":")
    assert [atoms.info["step"] for atoms in frames] == [0, 10, 20, 30, 40]
    potential = aj.load(work / "model", dtype="float64")
    for atoms, row in zip(frames, log[::2], strict=True):
        system = from_atoms(atoms)
        out = aj.calculate(potential, system)
        np.testing.assert_allclose([float(row["energy_eV"]), atoms.get_potential_energy()], out.energy, atol=1e-6)
        np.testing.assert_allclose(atoms.get_forces(), out.forces, atol=1e-5)
        np.testing.assert_allclose(float(row["temperature_K"]), atoms.get_temperature() * 6 / 3, rtol=1e-4)  # 3N - 3
        np.testing.assert_allclose(float(row["dE/d(Na:K)_eV"]), out.weights_gradient[1], atol=1e-5)
    assert len({row["energy_eV"] for row in log}) == 9
    report = json.loads((tmp_path / "run" / "md.json").read_text())
    assert report["finished"] and report["steps_done"] == 40 and report["model"]["sha256"] == potential.sha256
    assert {"versions", "arguments", "input", "wall_time_s", "averages", "columns"} <= set(report)
    assert set(report["columns"]) == set(log[0])
    settled = [float(row["temperature_K"]) for row in log if int(row["step"]) > 8]
    np.testing.assert_allclose(report["averages"]["temperature_K"]["mean"], np.mean(settled))


def test_a_finished_run_is_left_alone_and_continued_by_resume(run, tmp_path):
    out = tmp_path / "run"
    run("-o", out, *STEPS, *MIX)
    before = (out / "log.csv").read_text()
    run("-o", out, *STEPS, *MIX)
    assert (out / "log.csv").read_text() == before
    longer = ["--steps", "60", *STEPS[2:], *MIX]
    assert "finished after 40 steps; 60 were asked for: --resume" in run("-o", out, *longer, status=2)
    run("-o", out, *longer, "--resume")
    whole = tmp_path / "whole"
    run("-o", whole, *longer)
    assert (out / "log.csv").read_text().startswith(before)
    for name in ("log.csv", "trajectory.extxyz"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert "give at least as many" in run("-o", out, *STEPS, *MIX, status=2)


def test_a_run_that_was_stopped_goes_on_and_its_files_are_those_of_a_run_that_was_not(run, tmp_path, monkeypatch):
    from alchemjax.commands import dynamics

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [*STEPS, *MIX, "--replicas", "2", "--strain", "all"]
    run("-o", whole, *options)
    store, calls = dynamics.store, []

    def stops(*arguments):
        calls.append(1)
        if len(calls) in (2, 3):  # after the files have grown, before the checkpoint says so
            raise KeyboardInterrupt
        store(*arguments)

    monkeypatch.setattr(dynamics, "store", stops)
    assert "interrupted; run the same command to continue" in run("-o", cut, *options, status=130)
    assert not json.loads((cut / "md.json").read_text())["finished"]
    run("-o", cut, *options, status=130)
    run("-o", cut, *options)
    assert len(calls) > 4
    for name in ("log.csv", "trajectory-0.extxyz", "trajectory-1.extxyz"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert {row["replica"] for row in table(cut / "log.csv")} == {"0", "1"}


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(run, tmp_path, monkeypatch):
    from alchemjax.commands import dynamics

    run("-o", tmp_path / "whole", *STEPS, *MIX)
    append, out, calls = dynamics.append, tmp_path / "run", []

    def full(path, text):
        calls.append(path)
        if len(calls) in (4, 6):  # once in the middle of the run, once at the first file after that
            append(path, text[: len(text) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return append(path, text)

    monkeypatch.setattr(dynamics, "append", full)
    for _ in range(2):
        said = run("-o", out, *STEPS, *MIX, status=2)
        assert said.strip() == f"alchemjax: '{calls[-1]}': No space left on device"
        assert not json.loads((out / "md.json").read_text())["finished"]
    run("-o", out, *STEPS, *MIX)
    for name in ("log.csv", "trajectory.extxyz"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_second_process_in_the_same_folder_is_refused(run, tmp_path, monkeypatch):
    from alchemjax.commands import dynamics

    store, said, out = dynamics.store, [], tmp_path / "run"

    def meanwhile(*arguments):
        store(*arguments)
        if not said:
            said.append("")  # the second run does not come so far
            said[0] = run("-o", out, *STEPS, *MIX, *options, status=2)

    monkeypatch.setattr(dynamics, "store", meanwhile)
    for options in ([], ["--overwrite"]):
        said.clear()
        run("-o", out, *STEPS, *MIX, *options)
        assert said == [f"alchemjax: another run is going on in '{out}'; wait for it, or use another folder\n"]
        assert len(table(out / "log.csv")) == 9


KILLED = """
import sys
from alchemjax.cli import main
sys.argv = ["alchemjax", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_a_run_killed_at_random_times_ends_with_the_log_of_one_that_was_not(work, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    options = ["--steps", "2400", "--log-every", "5", "--checkpoint-every", "20", "--no-plot", *MIX, "--strain", "all"]
    command = [sys.executable, "-c", KILLED, "md", str(work / "nacl.cif"), "--model", str(work / "model"), *options]
    whole = subprocess.run([*command, "-o", str(tmp_path / "whole")], env=environment, capture_output=True, timeout=300)
    assert whole.returncode == 0, whole.stderr
    random.seed(5)
    kills, steps = 0, []
    log = tmp_path / "cut" / "log.csv"
    while True:
        process = subprocess.Popen([*command, "-o", str(tmp_path / "cut")], env=environment, stderr=subprocess.PIPE)
        grown = log.stat().st_size if log.exists() else 0
        begun = time.monotonic()
        while kills < 2 and process.poll() is None and time.monotonic() < begun + 120:
            if log.exists() and log.stat().st_size > grown + 200:  # it is running, not compiling
                time.sleep(random.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        error = process.communicate(timeout=300)[1]
        if process.returncode != -signal.SIGKILL:
            break
        kills += 1
        steps.append(len(log.read_text().splitlines()))
    assert process.returncode == 0, error
    assert kills == 2 and steps == sorted(steps) and steps[0] < 550, "it was killed while it ran"
    for name in ("log.csv", "trajectory.extxyz"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "cut").glob(".*"))


def test_schedule_moves_composition_temperature_and_pressure(run, tmp_path):
    schedule = tmp_path / "schedule.csv"
    schedule.write_text("time_fs,temperature_K,pressure_GPa,Na:Na,Na:K\n0,100,0,1,0\n4,,1,,\n8,300,1,0.2,0.8\n")
    options = ["--mix", "Na=Na,K", "--timestep", "0.2", "--schedule", schedule, "--strain", "hydrostatic"]
    run("-o", tmp_path / "run", *STEPS, *options)
    log = table(tmp_path / "run" / "log.csv")
    column = lambda name: [float(row[name]) for row in log]
    np.testing.assert_allclose(column("Na:K"), np.linspace(0, 0.8, 9), atol=1e-6)
    np.testing.assert_allclose(column("target_temperature_K"), np.linspace(100, 300, 9), rtol=1e-5)
    np.testing.assert_allclose(column("target_pressure_GPa"), np.minimum(np.linspace(0, 2, 9), 1), atol=1e-5)
    assert column("work_eV")[0] == 0 and abs(column("work_eV")[-1]) > 1e-3
    assert len(set(column("volume_A3"))) > 5


BAD_SCHEDULES = {
    "temperature_K\n300\n": "has the columns temperature_K; give time_fs and some of",
    "time_fs,colour\n0,1\n": "has the columns time_fs, colour",
    "time_fs,Na:Na\n0,1\n": "has the weights Na:Na; give all of Na:Na, Na:K",
    "time_fs,Na:Na,Na:K\n0,1,\n": "line 2: some weights are empty",
    "time_fs,alpha\n0,x\n": "line 2, column alpha: 'x' is not a number",
    "time_fs,alpha\n,1\n": "line 2: time_fs is empty",
    "time_fs,alpha\n0\n": "line 2: 1 values for 2 columns",
    "time_fs,alpha\n": "imposes nothing",
    "": r"has the columns \(none\)",
}


@pytest.mark.parametrize("text", BAD_SCHEDULES)
def test_a_wrong_schedule_is_one_sentence(text, tmp_path):
    from alchemjax.system.sites import Group, make_sites

    path = tmp_path / "schedule.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=BAD_SCHEDULES[text]):
        read_schedule(make_sites(["Na", "Cl"], (Group("Na", (0,), ("Na", "K")),)), path)


BAD = {
    "--resume continues a run that was begun": ["--resume"],
    "--resume and --overwrite were both given": ["--resume", "--overwrite"],
    "--pressure has no effect unless the cell moves; give --strain": ["--pressure", "1"],
    "--barostat-time has no effect": ["--barostat-time", "1"],
    "sites fluctuate together with their images, which are nearer than": ["--fluctuations", "site-exact"],
    "--thermostat-time has no effect with --thermostat none": ["--thermostat", "none", "--thermostat-time", "1"],
    "--frames-every 7 must be a multiple of --log-every 5": ["--frames-every", "7"],
    "--checkpoint-every 7 must be a multiple of --log-every 5": ["--checkpoint-every", "7"],
    "--log-every 0 must be at least 1": ["--log-every", "0"],
    "timestep = -1.0 must be a positive number": ["--timestep", "-1"],
    "temperature = -1 K must be positive": ["--temperature", "-1"],
    "a moving cell needs a thermostat": ["--thermostat", "none", "--strain", "all"],
    "--strain 'zz,up' is not understood": ["--strain", "zz,up"],
    "'hot' is not a number": ["--temperature", "hot"],
    "the dynamics went wrong at step": ["--temperature", "1e9", "--timestep", "5"],
}


@pytest.mark.parametrize("sentence", BAD)
def test_what_cannot_be_done_is_one_sentence_and_leaves_no_folder(sentence, run, tmp_path):
    options = [*STEPS[:4], "--no-plot", "--mix", "Na=Na,K", "--weights", "1,0", *BAD[sentence]]
    said = run("-o", tmp_path / "run", *options, status=2)
    assert sentence in said and ("hot" in sentence or len(said.strip().splitlines()) == 1)
    assert not (tmp_path / "run").exists()


def test_another_run_in_the_same_folder_is_refused_and_replaced_on_demand(run, tmp_path):
    out = tmp_path / "run"
    run("-o", out, *STEPS, *MIX)
    other = [*STEPS, *MIX, "--seed", "1"]
    before = (out / "log.csv").read_text()
    assert "holds a run of other input, options or versions" in run("-o", out, *other, status=2)
    assert (out / "log.csv").read_text() == before
    run("-o", out, *other, "--overwrite")
    assert (out / "log.csv").read_text() != before
    (out / "checkpoint.npz").write_bytes(b"PK broken")
    longer = ["--steps", "50", *other[2:], "--resume"]
    assert "checkpoint.npz' is damaged" in run("-o", out, *longer, status=2)


@pytest.mark.parametrize("name", ["trajectory.extxyz", "trajectory-3.extxyz", "md.png", "log.csv"])
def test_files_that_are_not_of_a_run_are_kept(name, run, tmp_path):
    (tmp_path / name).write_text("precious")
    (tmp_path / "trajectory-mine.extxyz").write_text("precious")
    said = run("-o", tmp_path, *STEPS, *MIX, status=2)
    assert said == f"alchemjax: '{tmp_path}' holds a file named {name}; use another folder, or --overwrite\n"
    assert (tmp_path / name).read_text() == "precious"
    run("-o", tmp_path, *STEPS, *MIX, "--overwrite")
    assert (tmp_path / "trajectory-mine.extxyz").read_text() == "precious"
    assert not (tmp_path / "trajectory-3.extxyz").exists()


def test_a_log_that_lost_lines_is_not_continued(run, tmp_path):
    out = tmp_path / "run"
    run("-o", out, *STEPS, *MIX)
    (out / "log.csv").write_text("step\n")
    assert "has lost a part that the checkpoint counts on" in run(
        "-o", out, "--steps", "60", *STEPS[2:], *MIX, "--resume", status=2
    )


def test_a_plot_is_drawn_with_a_panel_for_each_thing_that_changes(run, tmp_path):
    from alchemjax.plot import plot_md

    run("-o", tmp_path / "run", *[x for x in STEPS if x != "--no-plot"], *MIX, "--strain", "all")
    assert (tmp_path / "run" / "md.png").stat().st_size > 10_000
    log = {
        name: [float(row[name]) for row in table(tmp_path / "run" / "log.csv")]
        for name in table(tmp_path / "run" / "log.csv")[0]
    }
    figure = plot_md(log)
    assert [axes.get_ylabel().split(" (")[0] for axes in figure.axes] == [
        "Temperature", "Potential energy", "Conserved energy, change", "Pressure", "Volume of the cell",
    ]  # fmt: skip
    fixed = {name: np.full(9, values[0]) for name, values in log.items()} | {"time_fs": log["time_fs"]}
    assert len(plot_md(fixed).axes) == 4


def test_slabs_keep_their_vacuum_and_molecules_have_no_pressure(run, work, tmp_path):
    from ase import Atoms
    from ase.build import bulk

    slab = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    slab.cell[2] = [0, 0, 20]
    slab.pbc = (True, True, False)
    ase.io.write(tmp_path / "slab.extxyz", slab)
    ase.io.write(tmp_path / "pair.xyz", Atoms("NaCl", [[0, 0, 0], [2.4, 0, 0]]))
    common = ["--model", str(work / "model"), *STEPS, "--timestep", "0.2"]
    for name, options in (("slab.extxyz", ["--strain", "all"]), ("pair.xyz", [])):
        done = CliRunner().invoke(app, ["md", str(tmp_path / name), "-o", str(tmp_path / name[:4]), *common, *options])
        assert done.exit_code == 0, done.output
    last = ase.io.read(tmp_path / "slab" / "trajectory.extxyz", "-1")
    np.testing.assert_allclose(last.cell[2], [0, 0, 20])
    assert last.pbc.tolist() == [True, True, False] and abs(last.cell[0, 0] - 5.6) > 1e-6
    assert {row["pressure_GPa"] for row in table(tmp_path / "pair" / "log.csv")} == {""}


def test_overwrite_does_not_destroy_a_run_of_its_own_that_was_stopped(run, tmp_path, monkeypatch):
    from alchemjax.commands import dynamics

    out, store, calls = tmp_path / "run", dynamics.store, []

    def stops(*arguments):
        store(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(dynamics, "store", stops)
    run("-o", out, *STEPS, *MIX, "--overwrite", status=130)
    (out / ".0123abcd.checkpoint.npz").write_bytes(b"what a killed process was writing")
    run("-o", out, *STEPS, *MIX, "--overwrite")
    assert len(calls) == 5, "0 to 5, 15, 25, 35 and 40, once each"
    assert not list(out.glob(".*"))
    run("-o", out, *STEPS, *MIX, "--overwrite")
    assert len(calls) == 10, "a finished one is calculated again"


def test_a_finished_run_without_its_checkpoint_or_with_a_part_lost_stays_as_it_is(run, tmp_path):
    out = tmp_path / "run"
    run("-o", out, *STEPS, *MIX)
    report = (out / "md.json").read_bytes()
    (out / "trajectory.extxyz").rename(tmp_path / "kept")
    assert "has lost a part" in run("-o", out, *STEPS, *MIX, status=2)
    (tmp_path / "kept").rename(out / "trajectory.extxyz")
    checkpoint = (out / "checkpoint.npz").read_bytes()
    (out / "checkpoint.npz").unlink()
    assert "checkpoint.npz' is missing; put it back" in run("-o", out, *STEPS, *MIX, status=2)
    assert (out / "md.json").read_bytes() == report and len(table(out / "log.csv")) == 9
    (out / "checkpoint.npz").write_bytes(checkpoint)
    run("-o", out, *STEPS, *MIX)


def test_a_schedule_without_weights_needs_weights_from_elsewhere(run, tmp_path):
    schedule = tmp_path / "schedule.csv"
    schedule.write_text("time_fs,temperature_K\n0,100\n4,200\n")
    said = run("-o", tmp_path / "run", *STEPS, "--mix", "Na=K,Li", "--schedule", schedule, status=2)
    assert "give --weights" in said
