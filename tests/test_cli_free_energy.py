"""alchemjax switch, frenkel-ladd, vacancy and analyse: numbers of the library, runs that survive, and sentences."""

import json

import numpy as np
import pytest
from ase.build import bulk
from harmonic_crystal import harmonic_crystal
from pair_potential import A, lennard_jones
from typer.testing import CliRunner

import alchemjax as aj
from alchemjax.cli import app
from alchemjax.tasks.free_energy.frenkel_ladd import frenkel_ladd, harmonic_stiffness, stiffness_of
from alchemjax.tasks.free_energy.paths import composition_path
from alchemjax.tasks.free_energy.switching import switch
from alchemjax.tasks.free_energy.vacancy import vacancy, without
from alchemjax.tasks.free_energy.windows import windows
from alchemjax.tasks.seeds import seed_of
from alchemjax.units import KELVIN

TIMES = {"temperature": 100.0, "timestep": 4.0, "equilibration": 400.0, "switching": 800.0, "replicas": 4, "seed": 3}
TIMED = [f"--{name}={value}" for name, value in TIMES.items()]
MIX = ["--mix", "Ar=Ar,Kr", "--from", "1,0", "--to", "0,1"]


@pytest.fixture
def crystal(tmp_path):
    atoms = bulk("Ar", "fcc", A, cubic=True)
    atoms.write(tmp_path / "argon.cif")
    return tmp_path / "argon.cif"


@pytest.fixture
def run(monkeypatch, crystal):
    """A command in this process, with a harmonic crystal for a potential."""
    monkeypatch.setattr("alchemjax.commands.free_energy.prepare_jax", lambda: None)
    monkeypatch.setattr("alchemjax.commands.free_energy.load", lambda *a, **k: harmonic_crystal())

    def invoke(command, *options, file=crystal, status=0):
        done = CliRunner().invoke(app, [command, str(file), *map(str, options)], catch_exceptions=False)
        assert done.exit_code == status, done.output
        return done.output

    return invoke


def system_of(crystal, **options):
    import ase.io

    return aj.from_atoms(ase.io.read(crystal), **options)


def report_of(folder, name="switch.json"):
    return json.loads((folder / name).read_text())


def test_a_switch_says_what_the_library_says_and_is_analysed_again(run, crystal, tmp_path):
    said = run("switch", "-o", tmp_path / "out", *MIX, *TIMED)
    system = system_of(crystal, mix={"Ar": ("Ar", "Kr")}, weights=[1.0, 0.0])
    expected = switch(harmonic_crystal(), system, composition_path(system, [1, 0], [0, 1]), every=10, **TIMES)
    report = report_of(tmp_path / "out")
    assert report["difference_eV"]["value"] == pytest.approx(expected.difference.value, abs=1e-9)
    assert report["difference_eV"]["standard_error"] == pytest.approx(expected.difference.error, abs=1e-9)
    assert report["mass_term_eV"] == pytest.approx(expected.mass_term)
    np.testing.assert_allclose(report["forward_works_eV"], expected.forward, atol=1e-9)
    assert report["doubts"] == list(expected.doubts)
    assert f"{expected.difference.value:.5f}" in said and "mass term" in said
    assert (tmp_path / "out" / "switch.png").stat().st_size > 10000
    whole = report_of(tmp_path / "out", "md.json")
    assert whole["finished"] and {"versions", "arguments", "model", "input"} <= set(whole)
    before = (tmp_path / "out" / "switch.json").read_text()
    (tmp_path / "out" / "switch.json").unlink()
    assert f"{expected.difference.value:.5f}" in run("analyse", file=tmp_path / "out")
    assert (tmp_path / "out" / "switch.json").read_text() == before
    log = (tmp_path / "out" / "log.csv").read_text()
    run("switch", "-o", tmp_path / "out", *MIX, *TIMED)
    assert (tmp_path / "out" / "log.csv").read_text() == log


def test_a_log_that_lost_samples_or_numbers_is_not_analysed_and_made_again(run, tmp_path):
    out, command = tmp_path / "out", ["switch", "-o", tmp_path / "out", *MIX, *TIMED, "--no-plot"]
    run(*command)
    log, report = (out / "log.csv").read_text(), (out / "switch.json").read_text()
    lines = log.splitlines(keepends=True)
    names, row = lines[0].rstrip().split(","), lines[-1].rstrip().split(",")
    row[names.index("work_eV")] = ""
    empty = [*lines[:-1], ",".join(row) + "\n"]
    for harmed, said in (
        ([*lines[:9], *lines[13:]], "samples are missing"),
        (lines[:-1], "damaged"),
        (empty, "numbers"),
    ):
        (out / "log.csv").write_text("".join(harmed))
        assert said in run("analyse", "--no-plot", file=out, status=2)
        assert (out / "switch.json").read_text() == report
        run(*command, "--overwrite")
        assert (out / "log.csv").read_text() == log


def test_a_stage_that_lost_samples_is_made_again_if_asked_for(run, tmp_path):
    command = ["frenkel-ladd", "-o", tmp_path / "out", *TIMED, "--springs", "hessian", "--no-plot"]
    run(*command)
    before, log = (report_of(tmp_path / "out", "frenkel-ladd.json"), tmp_path / "out" / "switch" / "log.csv")
    whole = log.read_text()
    log.write_text(whole[:-40])
    assert "has lost a part that the checkpoint counts on" in run(*command, status=2)
    run(*command, "--overwrite")
    assert log.read_text() == whole
    assert report_of(tmp_path / "out", "frenkel-ladd.json")["free_energy_eV"] == before["free_energy_eV"]


@pytest.mark.parametrize("fluctuations", ["none", "site"])
def test_a_random_alloy_has_its_own_absolute_free_energy(run, tmp_path, monkeypatch, fluctuations):
    potential = lennard_jones(krypton=(1.5, 1.3), embedding=0.5)
    monkeypatch.setattr("alchemjax.commands.free_energy.load", lambda *a, **k: potential)
    large = tmp_path / "large.cif"
    bulk("Ar", "fcc", A, cubic=True).repeat(2).write(large)
    chosen = ["--mix", "0=Ar,Kr", "--weights", "0.5,0.5", "--stiffness", "2", "--fluctuations", fluctuations]
    run("frenkel-ladd", "-o", tmp_path / "out", *TIMED, *chosen, "--no-quantum", "--no-plot", file=large)
    system = system_of(large, mix={0: ("Ar", "Kr")}, weights=[0.5, 0.5])
    options = {"stiffness": 2.0, "quantum": False, "every": 10, **TIMES}
    of = {kind: frenkel_ladd(potential, system, fluctuations=kind, **options).total for kind in ("none", "site")}
    assert abs(of["none"].value - of["site"].value) > 1e-5  # one site of 32
    report = report_of(tmp_path / "out", "frenkel-ladd.json")
    assert report["free_energy_eV"]["value"] == pytest.approx(of[fluctuations].value, abs=1e-9)
    assert report["quantum_correction_eV"] is None


def test_one_structure_of_several_can_be_named(run, crystal, tmp_path):
    import ase.io

    several = tmp_path / "run.xyz"
    ase.io.write(several, [ase.io.read(crystal)] * 2)
    options = [*TIMED, "--springs", "hessian", "--no-plot"]
    for name in (f"{several}@1", crystal):
        run("frenkel-ladd", "-o", tmp_path / "out", *options, "--overwrite", file=name)
        found = report_of(tmp_path / "out", "frenkel-ladd.json")
        system = system_of(crystal)
        assert found["stiffness_eV_per_A2"] == pytest.approx(harmonic_stiffness(harmonic_crystal(), system))
        assert not (tmp_path / "out" / "springs").exists()
    assert found["input"]["sha256"] and found["input"]["file"] == str(crystal)
    said = run("frenkel-ladd", "-o", tmp_path / "b", *options, "--stiffness", "2", status=2)
    assert "both say it" in said and not (tmp_path / "b").exists()


def test_a_switch_that_was_stopped_goes_on_and_ends_with_the_same_numbers(run, tmp_path, monkeypatch):
    from alchemjax.commands import dynamics

    run("switch", "-o", tmp_path / "whole", *MIX, *TIMED, "--no-plot")
    store, calls = dynamics.store, []

    def stops(*arguments):
        calls.append(1)
        if len(calls) in (2, 4):
            raise KeyboardInterrupt
        store(*arguments)

    monkeypatch.setattr(dynamics, "store", stops)
    for _ in range(2):
        said = run("switch", "-o", tmp_path / "cut", *MIX, *TIMED, "--no-plot", status=130)
        assert "run the same command to continue" in said
        assert not (tmp_path / "cut" / "switch.json").exists()
    run("switch", "-o", tmp_path / "cut", *MIX, *TIMED, "--no-plot")
    for name in ("switch.json", "log.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_windows_say_what_the_library_says_and_are_analysed_again(run, crystal, tmp_path):
    halfway = ["--mix", "Ar=Ar,Kr", "--from", "1,0", "--to", "0.5,0.5"]
    timed = [option for option in TIMED if not option.startswith("--replicas")]
    said = run("switch", "-o", tmp_path / "out", *halfway, *timed, "--windows", 4, "--log-every", 4)
    system = system_of(crystal, mix={"Ar": ("Ar", "Kr")}, weights=[1.0, 0.0])
    times = {name: TIMES[name] for name in ("temperature", "timestep", "equilibration", "seed")}
    path = composition_path(system, [1, 0], [0.5, 0.5])
    expected = windows(harmonic_crystal(), system, path, windows=4, every=4, sampling=TIMES["switching"], **times)
    report = report_of(tmp_path / "out", "windows.json")
    for name in ("difference", "integral"):
        there = report[{"difference": "difference_eV", "integral": "thermodynamic_integration_eV"}[name]]
        assert there["value"] == pytest.approx(getattr(expected, name).value, abs=1e-7)
        assert there["standard_error"] == pytest.approx(getattr(expected, name).error, abs=1e-7)
    assert [one["value"] for one in report["profile_eV"]] == pytest.approx(
        [e.value for e in expected.profile], abs=1e-7
    )
    assert report["mixing_term_eV"] == pytest.approx(-4 * 100 * KELVIN * np.log(2))
    assert report["doubts"] == list(expected.doubts) and f"{expected.difference.value:.5f}" in said
    assert "random mixing" in said and "mass term" in said
    assert (tmp_path / "out" / "windows.png").stat().st_size > 10000
    (tmp_path / "out" / "windows.json").unlink()
    assert f"{expected.difference.value:.5f}" in run("analyse", file=tmp_path / "out")
    assert report_of(tmp_path / "out", "windows.json") == report
    about = report_of(tmp_path / "out", "md.json")
    assert about["columns"]["energy_at_0.000000_eV"]["unit"] == "eV"
    assert about["arguments"]["windows"] == 4 and not {"replicas", "schedule"} & set(about["arguments"])
    moved = [option.replace("=400.0", "=416.0").replace("=800.0", "=784.0") for option in timed]
    again = ["switch", "-o", tmp_path / "out", *halfway]
    assert "of other input, options" in run(*again, *moved, "--windows", 4, "--log-every", 4, status=2)
    assert "use another folder" in run(*again, *timed, "--windows", 4, "--log-every", 4, "--switching", "816", status=2)
    log = (tmp_path / "out" / "log.csv").read_text().splitlines(keepends=True)
    holed = log[:-1] + [",".join([*log[-1].split(",")[:-1], "\n"])]
    for harmed in (log[: len(log) // 2], [*log[:9], *log[13:]], log[:-4], holed):
        (tmp_path / "out" / "log.csv").write_text("".join(harmed))
        assert "is damaged" in run("analyse", file=tmp_path / "out", status=2)
    run(*again, *TIMED, "--overwrite", "--no-plot")
    assert (tmp_path / "out" / "switch.json").exists() and not (tmp_path / "out" / "windows.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--windows", "4", "--replicas", "4"], "--replicas 4 has no effect with --windows"),
        (["--windows", "4", "--schedule", "linear"], "--schedule linear has no effect with --windows"),
        (["--rule", "trapezoid"], "--rule trapezoid has no effect without --windows"),
        (["--windows", "1"], "--windows 1 must be a whole number, at least 2"),
    ],
)
def test_windows_and_switches_have_their_own_options(run, tmp_path, options, said):
    timed = [option for option in TIMED if not option.startswith("--replicas")]
    assert said in run("switch", "-o", tmp_path / "out", *MIX, *timed, *options, status=2)
    assert not (tmp_path / "out").exists()


def test_a_site_that_would_fluctuate_with_its_images_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr("alchemjax.commands.free_energy.load", lambda *a, **k: lennard_jones())
    said = run("switch", "-o", tmp_path / "out", *MIX, *TIMED, "--fluctuations", "site", status=2)
    assert "fluctuations = 'site': sites fluctuate together with their images, which are nearer than the cutoff" in said


def test_frenkel_ladd_says_what_the_library_says(run, crystal, tmp_path):
    options = [*TIMED, "--measuring", "800", "--no-plot"]
    said = run("frenkel-ladd", "-o", tmp_path / "out", *options)
    report = report_of(tmp_path / "out", "frenkel-ladd.json")
    stiffness = report["stiffness_eV_per_A2"]
    harmonic = harmonic_stiffness(harmonic_crystal(), system_of(crystal))[0]
    assert len(set(stiffness)) == 1 and 0.6 < stiffness[0] / harmonic < 1.6
    expected = frenkel_ladd(harmonic_crystal(), system_of(crystal), stiffness=stiffness, every=10, **TIMES)
    assert report["free_energy_eV"]["value"] == pytest.approx(expected.total.value, abs=1e-7)
    assert report["einstein_eV"] == pytest.approx(expected.einstein)
    assert report["centre_of_mass_eV"] == pytest.approx(expected.centre) != 0
    pushed = expected.path.pressure.value
    assert report["pressure_GPa"]["value"] == pytest.approx(160.21766208 * pushed, abs=1e-7) != 0
    assert report["PV_eV"] == pytest.approx(pushed * A**3, abs=1e-7)
    assert report["quantum_correction_eV"] == pytest.approx(expected.quantum)
    assert report["sites"] == 4 and report["primitive_cells"] == 4
    assert "harmonic quantum correction" in said
    logs = [tmp_path / "out" / name / "log.csv" for name in ("springs", "switch")]
    before = [path.stat().st_ino for path in logs]
    said = run("frenkel-ladd", "-o", tmp_path / "out", *options, "--switching=400", status=2)
    assert "holds results of other input, options or versions; use another folder, or --overwrite" in said
    run("frenkel-ladd", "-o", tmp_path / "out", *options, "--overwrite")
    assert [path.stat().st_ino for path in logs] == before, "finished stages are kept"
    run("frenkel-ladd", "-o", tmp_path / "out", *options, "--switching=400", "--overwrite")
    after = report_of(tmp_path / "out", "frenkel-ladd.json")
    assert after["stiffness_eV_per_A2"] == stiffness and after["free_energy_eV"] != report["free_energy_eV"]


@pytest.mark.parametrize("route", ["alchemical", "absolute"])
def test_a_vacancy_is_what_the_library_says(run, crystal, tmp_path, route):
    options = ["--site", "3", "--route", route, "--measuring", "800", "--no-plot"]
    said = run("vacancy", "-o", tmp_path / "out", *TIMED, *options)
    report = report_of(tmp_path / "out", "vacancy.json")
    system, potential = system_of(crystal), harmonic_crystal()
    stiffness = stiffness_in(tmp_path / "out" / "springs", system)
    whole = frenkel_ladd(potential, system, stiffness=stiffness, every=10, quantum=False, **TIMES)
    mu = (whole.total.value + whole.path.pressure.value * A**3) / 4
    options = {"every": 10, "crystal": whole} | TIMES
    if route == "absolute":
        empty = without(system, 3)
        other = TIMES | {"seed": seed_of(TIMES["seed"], 1)}
        left = frenkel_ladd(potential, empty, stiffness=stiffness[:3], every=10, cells=4, quantum=False, **other)
        expected = left.total.value - whole.total.value + mu
    else:
        expected = vacancy(potential, system, 3, stiffness=float(stiffness[3]), **options).formation.value
    assert report["formation_eV"]["value"] == pytest.approx(expected, abs=1e-7)
    assert report["chemical_potential_eV"]["value"] == pytest.approx(mu, abs=1e-7)
    assert f"{expected:.5f}" in said and "is not part of it" in said


def test_two_copies_of_a_phase_are_equally_stable(run, crystal, tmp_path):
    options = ["--temperatures", "80,100,120", "--heating", "8000", "--equilibration=800", "--switching=2000"]
    options += ["--replicas=8", "--timestep=4", "--measuring=2000", "--bulk-modulus=5", "--barostat-time=400"]
    small = tmp_path / "small.cif"
    bulk("Ar", "fcc", A, cubic=True).write(small)
    said = run("stability", small, "-o", tmp_path / "out", *options, "--strain", "hydrostatic")
    report = report_of(tmp_path / "out", "stability.json")
    apart, error = np.array(report["difference_eV"]), np.array(report["standard_error_eV"])
    assert (np.abs(apart) < 4 * error).all() and (error < 2e-3).all() and (error > 0).all()
    assert "G of the second phase at 100 K" in said
    assert (tmp_path / "out" / "stability.png").stat().st_size > 10000
    table = np.genfromtxt(tmp_path / "out" / "stability.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["difference_eV"], apart, atol=1e-9)
    first = (tmp_path / "out" / "stability.csv").read_text()
    assert report["unit"] == "formula unit" and [phase["units_in_cell"] for phase in report["phases"]] == [4, 4]
    run("stability", small, "-o", tmp_path / "out", *options, "--strain", "hydrostatic")
    assert (tmp_path / "out" / "stability.csv").read_text() == first


def test_phases_of_different_compositions_are_refused(run, crystal, tmp_path):
    atoms = bulk("Ar", "fcc", A, cubic=True)
    atoms.symbols[0] = "Kr"
    atoms.write(tmp_path / "other.cif")
    options = ["--temperatures", "80:120:3", "-o", tmp_path / "out"]
    said = run("stability", tmp_path / "other.cif", *options, status=2)
    assert "give two phases of one composition" in said and not (tmp_path / "out").exists()
    assert "--from and --to go together" in run("stability", crystal, *options, "--to", "0,1", status=2)
    assert "do not make a curve" in run(
        "stability", crystal, *options[2:], "--temperatures", "80,90", "--reference", "80", status=2
    )


def stiffness_in(folder, system):
    rows = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    settled = rows[rows["step"] > rows["step"].max() / 2]
    squares = np.array([settled[f"squared_displacement_{k}_A2"].mean() for k in range(4)])
    return stiffness_of(system, squares, 100 * KELVIN)


def test_a_dry_run_plans_and_writes_nothing(run, tmp_path):
    said = run("switch", "-o", tmp_path / "out", *MIX, *TIMED, "--dry-run")
    assert "switching: 600 steps of 4 replicas" in said and "nothing was written" in said
    said = run("vacancy", "-o", tmp_path / "out", *TIMED, "--site", "0", "--dry-run")
    assert "the crystal to springs and back" in said and "the site to a vacancy and back" in said
    said = run("frenkel-ladd", "-o", tmp_path / "out", *TIMED, "--dry-run")
    assert "measuring displacements: 1000 steps of 2 replicas" in said
    assert not (tmp_path / "out").exists()


WRONG = {
    "nothing mixed": (["switch", *MIX[2:]], "nothing is mixed"),
    "a path that leaves the simplex": (["switch", *MIX[:4], "--to", "0.7,0.7"], "they may sum to at most 1"),
    "two equal ends": (["switch", *MIX[:4], "--to", "1,0"], "both ends of the path"),
    "a pressure on a fixed cell": (["switch", *MIX, "--pressure", "1"], "--pressure has no effect unless the cell"),
    "a switch shorter than a line": (
        ["switch", *MIX, "--switching", "20"],
        "--switching 20 fs must be a multiple",
    ),
    "no springs": (["frenkel-ladd", "--stiffness", "0"], "--stiffness 0 must be a positive number"),
    "fluctuations of ordinary sites": (["frenkel-ladd", "--fluctuations", "site"], "no site is mixed"),
    "no temperature": (["switch", *MIX, "--temperature=0"], "--temperature 0 must be a positive number"),
    "no time": (["frenkel-ladd", "--timestep=0"], "--timestep 0 must be a positive number"),
    "a measurement between lines": (["frenkel-ladd", "--measuring", "50"], "--measuring 50 fs must be a multiple"),
    "one replica": (["switch", *MIX, "--replicas=1"], "--replicas 1 has no error to show; give at least 2"),
    "correlated sites": (["switch", *MIX, "--coupling", "correlated"], "not correlated"),
    "a chemical potential that is no number": (
        ["vacancy", "--site", "0", "--chemical-potential", "nan"],
        "--chemical-potential nan must be a finite number",
    ),
    "a site that is not there": (["vacancy", "--site", "4"], "site 4 does not exist; sites run from 0 to 3"),
    "a mixed site": (["vacancy", "--site", "0", "--mix", "0=Ar,Kr"], "site 0 is mixed; a vacancy is made of one"),
    "no chemical potential": (
        ["vacancy", "--site", "0", "--mix", "1=Ar,Kr", "--weights", "0.5,0.5"],
        "give the chemical potential",
    ),
    "an absolute route at a pressure": (
        ["vacancy", "--site", "0", "--route", "absolute", "--strain", "all"],
        "absolute free energies are those of a fixed cell",
    ),
    "a spring without a ghost": (
        ["vacancy", "--site", "0", "--route", "absolute", "--stiffness", "2"],
        "leave it out with --route absolute",
    ),
    "an element that the model lacks": (["switch", "--mix", "Ar=Ar,Xe", *MIX[2:]], "species 'Xe' is not in harmonic"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_gets_a_sentence(run, tmp_path, name):
    (command, *options), said = WRONG[name]
    given = [o for o in TIMED if o.split("=")[0] not in [one.split("=")[0] for one in options]]
    output = run(command, "-o", tmp_path / "out", *given, *options, status=2)
    assert said in output and output.startswith("alchemjax: ") and output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_options_in_the_same_folder_are_refused_and_nothing_is_lost(run, tmp_path):
    run("switch", "-o", tmp_path / "out", *MIX, *TIMED, "--no-plot")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    said = run("switch", "-o", tmp_path / "out", *MIX, *TIMED[:-1], "--seed=4", "--no-plot", status=2)
    assert "holds a run of other input, options or versions" in said
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("harm", ["no folder", "an unfinished run", "a log without works"])
def test_what_cannot_be_analysed_is_said(run, tmp_path, harm):
    folder = tmp_path / "out"
    if harm != "no folder":
        run("switch", "-o", folder, *MIX, *TIMED, "--no-plot")
    if harm == "an unfinished run":
        report = report_of(folder, "md.json") | {"finished": False}
        (folder / "md.json").write_text(json.dumps(report))
    if harm == "a log without works":
        (folder / "log.csv").write_text("step,replica\n0,0\n")
    said = run("analyse", file=folder, status=2)
    assert ("is damaged" if harm == "a log without works" else "holds no finished switch") in said
