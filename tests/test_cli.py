"""The command line: its help, `info`, `relax`, `models` and `convert`; whatever goes wrong is one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import platformdirs
import pytest
from conftest import ROOT, assert_one_sentence, in_shell

import alchemjax as aj
from alchemjax import cli
from alchemjax.commands import session


@pytest.mark.parametrize("command", [["relax", "-o", "out.cif"], ["sweep", "-o", "out"]])
def test_fluctuations_without_mixed_sites_are_refused(run, work, command):
    result = run(*command, work / "nacl.cif", "--model", work / "model", "--fluctuations", "site-exact", status=2)
    assert_one_sentence(result, "--fluctuations site-exact has no effect: no site is mixed; give --mix or leave it out")


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
    free = ["switch", "frenkel-ladd", "vacancy", "stability", "analyse"]
    names = ["sweep", "relax", "md", "alloy", "optimise", *free, "info", "models", "convert"]
    assert [name for name, _ in lines] == names
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


def test_the_package_is_a_command_too():
    command = [sys.executable, "-m", "alchemjax", "swep"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("alchemjax: No such command 'swep'")
    assert len(done.stderr.splitlines()) == 1


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
        (["-o", "{bad}/missing/out.cif"], "could not be written: No such file or directory; give another place"),
        (["-o", "{bad}", "--overwrite"], "bad' is a folder; give the name of a file, like '"),
        (["-o", "{bad}/reported.cif", "--overwrite"], "reported.json' is a folder, and the report goes there"),
    ],
)
def test_a_wrong_relaxation_is_one_sentence_and_no_file(run, work, bad, tmp_path, arguments, message):
    given = [str(a).format(bad=bad) for a in arguments]
    command = ["relax", work / "nacl.cif", "--mix", "Na=Na,K", "--model", work / "model", "-o", tmp_path / "out.cif"]
    result = run(*command, *given, status=2)
    assert_one_sentence(result, message)
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
