"""A sweep that was interrupted continues; what is in a folder is kept."""

import fcntl

import numpy as np
import pytest
from conftest import in_shell, rows_of

import alchemjax as aj
from alchemjax.commands import store, sweep

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
    assert sorted(path.name for path in (tmp_path / "stopped" / ".sweep").glob("*.npz")) == ["00000.npz"]
    assert not (tmp_path / "stopped" / "sweep.csv").exists()
    if signal == "SIGINT":
        assert stopped.stderr == "alchemjax: interrupted; run the same command to continue\n"
    before = (tmp_path / "stopped" / ".sweep" / "00000.npz").stat().st_mtime_ns
    code = f"""
import os, alchemjax.commands.sweep as s
read = s.stored_batches
def noted(folder, kind):
    assert os.stat(folder / "00000.npz").st_mtime_ns == {before}
    tables, seconds = read(folder, kind)
    assert len(tables) == 1
    return tables, seconds
s.stored_batches = noted
from alchemjax.cli import main
main()
"""
    assert in_shell(work, *command, "-o", tmp_path / "stopped", code=code).returncode == 0
    assert (tmp_path / "stopped" / "sweep.csv").read_bytes() == whole
    assert len(rows_of(tmp_path / "stopped")) == 5
    assert not (tmp_path / "stopped" / ".sweep").exists()


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
    (tmp_path / ".sweep").mkdir()
    with open(tmp_path / ".sweep" / "lock", "w") as lock:
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
    tables, seconds = store.stored_batches(tmp_path, sweep.Table)
    assert (len(tables), seconds) == (1, 1.5)
    np.testing.assert_array_equal(tables[0].energy, table.energy)
