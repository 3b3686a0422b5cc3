"""alchemjax alloy: its files, what they hold, and what it refuses."""

import csv
import json
import re
import shutil

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.geometry import find_mic
from pair_potential import A, lennard_jones
from typer.testing import CliRunner

import alchemjax as aj
from alchemjax.cli import app
from alchemjax.commands import alloy as command
from alchemjax.commands.alloy_tables import describe_instability, interaction_table, temperature_table
from alchemjax.system.supercell import make_supercell
from alchemjax.tasks import clusters
from alchemjax.tasks.alloy import Alloy
from alchemjax.tasks.averages import Shell, Statistics
from alchemjax.tasks.ordering import instability
from alchemjax.tasks.transition import OrderDisorder

QUICK = "--rigid --no-relax --supercell 2,2,2 --box 2,2,2 --sweeps 16 --seeds 2 --temperatures 300,600,1200".split()


def call(file, out, *arguments):
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alchemjax.commands.alloy.prepare_jax", lambda: None)
        return CliRunner().invoke(app, ["alloy", str(file), "-o", str(out), *arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(work, quick_loops):
    """Call the command for rock salt and the small model."""
    standard = ["--mix", "Na=Na,K", "--model", str(work / "model")]
    return lambda out, *arguments: call(work / "nacl.cif", out, *standard, *arguments)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(run, work):
    done = run(work / "alloy", "-x", "0.5", "--validate", "2", *QUICK)
    assert done.exit_code == 0, done.output
    return work / "alloy", done


def test_the_report_says_what_the_library_computes(made, work):
    folder, done = made
    report = json.loads((folder / "alloy.json").read_text())
    system = aj.read(work / "nacl.cif", mix={"Na": ("Na", "K")}, weights=[0.5, 0.5])
    potential = aj.load(work / "model")
    results = report["results"]
    energy = aj.calculate(potential, system, fluctuations="site-exact", supercell=[2, 2, 2]).energy
    assert results["random_alloy_energy_per_site_eV"] == pytest.approx(float(energy) / 2, rel=1e-5)
    assert "random_alloy_energy_with_displacements_per_site_eV" not in results
    assert report["energy"]["kind"] == "random alloy"
    assert "in_smaller_box" not in results["transition"]  # of two cells along every axis none are left out
    assert report["model"]["sha256"] == potential.sha256 and report["arguments"]["x"] == 0.5
    explicit = results["validation"]
    assert [kind for kind in explicit["kinds"] if kind != "SQS"] == ["random", "random", "ground state"]
    assert explicit["message"] in done.output
    assert "random alloy, ideal sites" in done.stdout and "relaxed" not in done.stdout


def test_tables_and_hamiltonian_agree(made):
    folder, _ = made
    rows = rows_of(folder / "temperatures.csv")
    assert [float(row["temperature_K"]) for row in rows] == [300, 600, 1200]
    assert all(float(row["alpha_error_Na-K_3.96A"]) > 0 for row in rows)
    alloy = aj.read_alloy(folder / "hamiltonian.json")
    again = aj.order_disorder(
        aj.lattice_model(alloy, (2, 2, 2)), alloy.weights, [300, 600, 1200], sweeps=16, equilibration=4, seeds=2
    )
    read = lambda name: [float(row[name]) for row in rows]
    np.testing.assert_allclose(read("energy_per_site_eV"), again.equilibrium.energy / 2, rtol=1e-6)
    np.testing.assert_allclose(read("energy_from_random_per_site_eV"), again.random.energy / 2, rtol=1e-6)
    np.testing.assert_allclose(read("free_energy_of_order_per_site_eV"), again.free_energy / 2, rtol=1e-5)
    assert [row["started_from"] == "ordered" for row in rows] == again.stable.tolist()
    report = json.loads((folder / "alloy.json").read_text())["results"]
    assert report["transition"]["kind"] == again.kind
    assert report["ground_state_energy_per_site_eV"] <= min(read("energy_from_ordered_per_site_eV")) + 1e-9
    given = aj.interactions(alloy)
    near = given.energy[np.isclose(given.distance, given.distance.min(), atol=0.01)].mean(0)
    first = rows_of(folder / "interactions.csv")[0]
    assert int(first["pairs_per_cell"]) == 6 and first["states"] == "Na-K"
    assert first["sublattice"] == "Na" and first["exchange"] == "Na-Na + K-K - Na-K - K-Na"
    exchange = near[0, 0] + near[1, 1] - near[0, 1] - near[1, 0]
    assert float(first["rigid_exchange_meV"]) == pytest.approx(1000 * exchange, rel=1e-5)
    pairs = json.loads((folder / "hamiltonian.json").read_text())["pairs"]
    np.testing.assert_allclose(pairs["energy"], given.energy)


def test_ground_state_is_a_structure_of_the_right_composition(made):
    atoms = ase.io.read(made[0] / "ground_state.extxyz")
    assert sorted(atoms.symbols) == ["Cl"] * 8 + ["K"] * 4 + ["Na"] * 4
    assert aj.from_atoms(atoms).sites.groups == ()
    energy = json.loads((made[0] / "alloy.json").read_text())["results"]["ground_state_energy_per_site_eV"]
    assert atoms.info["predicted_energy_eV"] == pytest.approx(16 * energy)
    assert (made[0] / "alloy.png").stat().st_size > 10_000


def test_an_interrupted_hamiltonian_goes_on_where_it_was(made, run, tmp_path, monkeypatch):
    """After an interruption at any pair, and after one that cut the last line short, the numbers are the same."""
    whole, folder = made[0], tmp_path / "alloy"
    settings = ["-x", "0.5", "--validate", "0", "--no-plot", *QUICK]
    known, right, evaluated = folder / "hamiltonian.pairs.jsonl", clusters._beyond_singles, []

    def some(*arguments):
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        evaluated.append(arguments)
        return right(*arguments)

    monkeypatch.setattr(clusters, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(clusters, "_beyond_singles", some)
    stopped = run(folder, *settings)
    assert stopped.exit_code == 130 and "run the same command to continue" in stopped.stderr
    assert [path.name for path in folder.iterdir()] == [known.name]
    lines = known.read_text().splitlines()
    assert len(lines) == 1 + 2
    known.write_text("\n".join(lines)[:-100])
    other = run(folder, "-x", "0.25", *settings[2:])
    assert other.exit_code == 2 and "holds pairs of an unfinished alloy of other input" in other.stderr
    evaluated.clear()
    assert run(folder, *settings).exit_code == 130
    assert len(known.read_text().splitlines()) > len(lines)
    monkeypatch.setattr(
        clusters, "_beyond_singles", lambda *arguments: evaluated.append(arguments) or right(*arguments)
    )
    evaluated.clear()
    done = run(folder, *settings)
    assert done.exit_code == 0, done.output
    assert 0 < len(evaluated) and not known.exists()
    assert (folder / "hamiltonian.json").read_bytes() == (whole / "hamiltonian.json").read_bytes()


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"[]\n", b'{"a": 1}\n', None])
def test_damaged_pairs_are_calculated_again(made, run, tmp_path, monkeypatch, damage):
    folder, right = tmp_path / "alloy", clusters._beyond_singles
    settings = ["-x", "0.5", "--validate", "0", "--no-plot", *QUICK]

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(clusters, "_beyond_singles", stopped)
    assert run(folder, *settings).exit_code == 130
    known = folder / "hamiltonian.pairs.jsonl"
    known.write_bytes(damage or known.read_bytes() + b'{"pair": 0, "found": [1, true]}\n')
    monkeypatch.setattr(clusters, "_beyond_singles", right)
    assert run(folder, *settings).exit_code == 0
    assert (folder / "hamiltonian.json").read_bytes() == (made[0] / "hamiltonian.json").read_bytes()


def test_another_order_is_compared_in_a_box_that_is_quick_to_relax(made):
    found = aj.read_alloy(made[0] / "hamiltonian.json")
    none = OrderDisorder(*[None] * len(OrderDisorder._fields))
    small, large = (none._replace(another=np.zeros((n, n, n, 1), int)) for n in (2, 8))
    assert command._another_order(found, none, None) == (None, False)
    states, quick = command._another_order(found, large, None)
    assert states.shape == (8, 8, 8, 1) and not quick
    for both in ((large, small), (none, small), (small, large)):
        states, quick = command._another_order(found, *both)
        assert states.shape == (2, 2, 2, 1) and quick


def test_pairs_of_another_alloy_are_replaced_when_asked(made, run, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "alloy")
    structure = {"positions": [[0, 0, 0]], "cell": np.eye(3).tolist(), "pbc": [True] * 3}
    other = {"fingerprint": "of another", "unrelaxed_eV_per_A": None, "structure": structure}
    (folder / "hamiltonian.pairs.jsonl").write_text(json.dumps(other) + "\n")
    settings = ["-x", "0.5", "--validate", "0", "--no-plot", *QUICK]
    assert run(folder, *settings).exit_code == 2
    assert run(folder, *settings, "--overwrite").exit_code == 0
    assert not (folder / "hamiltonian.pairs.jsonl").exists()


def test_another_order_is_told_compared_and_kept(made, run, tmp_path, monkeypatch):
    folder = shutil.copytree(made[0], tmp_path / "alloy")
    settings = ["-x", "0.5", "--overwrite", "--no-plot", *QUICK]
    right = aj.order_disorder

    def other(*arguments, **options):
        states = np.indices((2, 2, 2)).sum(0)[..., None] % 2
        return right(*arguments, **options)._replace(another=states.astype(np.int32))

    monkeypatch.setattr(command, "order_disorder", other)
    done = run(folder, *settings, "--validate", "1")
    assert done.exit_code == 0, done.output
    assert "disorder Monte Carlo finds another order (other_order.extxyz)" in " ".join(done.stderr.split())
    report = json.loads((folder / "alloy.json").read_text())["results"]
    assert report["transition"]["another_order"] and report["validation"]["kinds"][-1] == "given"
    atoms = ase.io.read(folder / "other_order.extxyz")
    assert atoms.info["predicted_energy_eV"] == pytest.approx(16 * report["validation"]["predicted_rigid"][-1])
    assert not (made[0] / "other_order.extxyz").exists()
    monkeypatch.undo()
    assert run(folder, *settings, "--validate", "0").exit_code == 0
    assert not (folder / "other_order.extxyz").exists()


def test_second_derivatives_are_calculated_once(made, run):
    folder, _ = made
    stamp = (folder / "hamiltonian.json").stat().st_mtime_ns
    settings = ["--validate", "0", "--no-plot", *QUICK]
    contents = lambda: {path.name: path.read_bytes() for path in folder.iterdir()}
    before = contents()
    refused = run(folder, "-x", "0.5", *settings)
    assert refused.exit_code == 2 and "results of other --temperatures, --sweeps" in refused.stderr
    other = run(folder, "-x", "0.25", *settings)
    assert other.exit_code == 2 and "holds an alloy of other input" in other.stderr
    assert contents() == before
    done = run(folder, "-x", "0.5", "--overwrite", *settings)
    assert done.exit_code == 0, done.output
    assert (folder / "hamiltonian.json").stat().st_mtime_ns == stamp
    assert "validation" not in json.loads((folder / "alloy.json").read_text())["results"]
    assert not (folder / "alloy.png").exists()


def test_the_transition_is_looked_for_in_fewer_cells_of_the_same_composition(made, monkeypatch):
    found, boxes = aj.read_alloy(made[0] / "hamiltonian.json"), []
    monkeypatch.setattr(command, "order_disorder", lambda model, *given, **options: boxes.append(model.pair.shape[:3]))
    of = lambda box, composition: command._in_smaller_box(found, box, composition, None, {})
    half = np.array([[0.5, 0.5]])
    assert of((6, 6, 4), half)[0] == (4, 4, 2) and of((4, 2, 1), half)[0] == (2, 2, 1)
    assert boxes == [(4, 4, 2), (2, 2, 1)]
    assert of((2, 2, 2), half) is None  # none are left out
    assert of((6, 6, 6), half + [[0.01, -0.01]]) is None
    single = found._replace(weights=np.array([[1.0, 0.0]]))
    monkeypatch.setattr(command, "nearest_counts", lambda *given: np.array([[8, 0]]))
    assert command._in_smaller_box(single, (4, 4, 4), np.array([[1.0, 0.0]]), None, {}) is None


def test_earlier_results_stay_until_new_ones_are_there(made, run, tmp_path, monkeypatch):
    folder = shutil.copytree(made[0], tmp_path / "alloy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    settings = ["-x", "0.25", "--overwrite", "--validate", "0", "--no-plot", *QUICK]

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("alchemjax.commands.alloy.order_disorder", stopped)
    assert run(folder, *settings).exit_code == 130
    new = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert new.pop("hamiltonian.new.json") != before["hamiltonian.json"]
    assert new == before
    monkeypatch.undo()
    monkeypatch.setattr("alchemjax.commands.alloy_hamiltonian.alloy", stopped)  # the derivatives are there
    assert run(folder, *settings).exit_code == 0
    assert not (folder / "hamiltonian.new.json").exists()
    weights = aj.read_alloy(folder / "hamiltonian.json").weights
    np.testing.assert_allclose(weights, [[0.75, 0.25]])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-x", "0.5", "--weights", "0.5,0.5"], "-x and --weights were both given"),
        (["-x", "1.5"], "-x 1.5 leaves nothing mixed; give a number between 0 and 1"),
        (["-x", "0.5", "--box", "900,900,900"], "memory holds the interactions of 4444444"),
        ([], "is pure: nothing can be ordered"),
        (["-x", "0.5", "--temperatures", "600,300"], "--temperatures '600,300' is not understood"),
        (["-x", "0.5", "--temperatures", "hot"], "--temperatures 'hot' is not understood"),
        (["-x", "0.5", "--sweeps", "2"], "--sweeps 2 must be a whole number, at least 8"),
        (["-x", "0.5", "--supercell", "a"], "--supercell 'a' is not understood"),
        (["-x", "0.5", "--supercell", "0"], "supercell = 0.0 A must be a distance"),
        (
            ["-x", "0.5", "--box", "2,2", "--rigid", "--no-relax", "--supercell", "1,1,1"],
            "three positive whole numbers",
        ),
        (["-x", "0.5", "--no-relax", "--supercell", "1,1,1"], "unstable at the mean composition"),
    ],
)
def test_wrong_inputs_get_one_sentence_and_leave_nothing(run, tmp_path, arguments, sentence):
    done = run(tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert sentence in done.output
    assert done.output.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))
    assert "unstable" in sentence or not (tmp_path / "out").exists()


@pytest.fixture
def argon(tmp_path, monkeypatch, quick_loops):
    """Call the command for argon and krypton."""
    potential = lennard_jones(krypton=(1.5, 1.1))
    monkeypatch.setattr("alchemjax.commands.alloy.load", lambda *_, **options: potential)
    ase.io.write(tmp_path / "argon.cif", bulk("Ar", "fcc", A))
    standard = "--mix Ar=Ar,Kr -x 0.5 --supercell 2,2,2 --box 2,2,2 --sweeps 16 --seeds 1 --temperatures 20,40,80"

    def succeed(*arguments):
        done = call(tmp_path / "argon.cif", tmp_path / "out", *standard.split(), "--no-plot", *arguments)
        assert done.exit_code == 0, done.output
        return done

    return succeed


@pytest.mark.parametrize("exact_pairs", [True, False])
def test_atoms_and_cell_move_with_and_without_exact_pairs(argon, tmp_path, exact_pairs):
    done = argon("--validate", "1", *([] if exact_pairs else ["--no-exact-pairs"]))
    results = json.loads((tmp_path / "out" / "alloy.json").read_text())["results"]
    assert results["random_alloy_energy_with_displacements_per_site_eV"] < results["random_alloy_energy_per_site_eV"]
    assert "strain_by_displacements" in results and "with displacements" in done.output
    found = aj.read_alloy(tmp_path / "out" / "hamiltonian.json")
    assert (found.pair_strain is not None) == exact_pairs
    assert np.isfinite(results["validation"]["predicted_relaxed"]).all()


def test_a_random_alloy_that_did_not_relax_is_called_so_every_time(argon, monkeypatch):
    def stop_early(*arguments, **options):
        return aj.relax(*arguments, **options, max_steps=0)

    monkeypatch.setattr("alchemjax.commands.alloy_hamiltonian.relax", stop_early)
    for done in (argon("--validate", "0", "--rigid"), argon("--validate", "0", "--rigid")):
        assert re.search(r"the random alloy did not relax \([0-9.e-]+ eV/A are left\)", done.output)


# --- tables and words -------------------------------------------------------------------------------------------------


def toy(structure, coupling, sublattice, c=0.5) -> Alloy:
    """Nearest neighbours of unlike kind attract each other by 2 coupling [eV]; a concentration c of A."""
    side, sites = 4, len(sublattice)
    atoms = bulk("W", structure, 3.0, cubic=True)
    supercell = make_supercell(side * np.eye(3, dtype=int), sites)
    cells, places = supercell.shift[::sites] @ atoms.cell[:], atoms.positions
    apart = places + cells[:, None] - places[:, None, None]
    length = find_mic(apart.reshape(-1, 3), side * atoms.cell)[1].reshape(apart.shape[:3])
    near = np.isclose(length, length[length > 1e-6].min())[..., None, None]
    deviation = np.array([1 - c, -c])
    weights, zeros = np.full((sites, 2), [c, 1 - c]), np.zeros((sites, 2))
    states = np.arange(sites), np.array(sublattice), ("A", "B"), weights, weights > 0
    pair = coupling * near * np.outer(deviation, deviation)
    return Alloy(aj.from_atoms(atoms).structure, *states, supercell, 0.0, zeros, zeros, pair, 0.0)


RECIPROCAL = "of the reciprocal lattice of the cell"


@pytest.mark.parametrize(
    ("structure", "sublattice", "coupling", "words"),
    [
        ("sc", [0], 0.02, f"orders at 348 K, wave vector (0.5, 0.5, 0.5) {RECIPROCAL}"),
        ("sc", [0], -0.02, "separates at 348 K"),
        ("bcc", [0, 0], 0.02, f"orders at 464 K, wave vector (0, 0, 0) {RECIPROCAL}, within which sites differ"),
        ("bcc", [0, 0], -0.02, "separates at 464 K"),
        ("bcc", [0, 1], 0.02, "separates at 464 K"),  # the composition of each sublattice changes
        ("sc", [0], 0.0, "no instability"),
    ],
)
def test_separation_is_told_from_order_within_a_cell(structure, sublattice, coupling, words):
    found = toy(structure, coupling, sublattice)
    assert describe_instability(found, *instability(found)) == words


def test_mean_field_order_is_empty_where_it_is_no_probability():
    c, found, temperatures = 0.25, toy("sc", 0.02, [0], 0.25), np.array([60.0, 250.0, 2000.0])
    near = np.isclose(aj.interactions(found).distance, 3)
    alpha = np.array([aj.short_range_order(found, t).alpha[near][:, 0, 1].mean() for t in temperatures])
    assert c * (1 - c) * (1 - alpha[0]) > c > c * (1 - c) * (1 - alpha[1])
    zeros, orders = np.zeros(3), np.zeros((3, 1, 2, 2))
    averages = Statistics(temperatures, *[zeros] * 4, orders, orders, zeros)
    branches = averages, averages, zeros, zeros, "smooth", 0.0, 0.0, 0.0, False, zeros > 0, averages, 0.0, None
    pairs = [Shell(3.0, (0, 0), np.zeros((1, 5), int))]
    columns = temperature_table(found, OrderDisorder(temperatures, *branches), pairs)
    np.testing.assert_allclose(columns["alpha_mean_field_A-B_3.00A"], [np.nan, *alpha[1:]])


@pytest.mark.parametrize(
    ("k", "m", "least", "most"), [(0.5, 0.5, -1, 1), (0.25, 0.75, -1 / 3, 1), (0.75, 0.75, -1 / 3, 1 / 9)]
)
def test_limits_of_warren_cowley_parameters_are_those_of_probabilities(k, m, least, most):
    from alchemjax.commands.alloy_tables import _possible

    given = np.array([least - 1e-3, least, 0, most, most + 1e-3])
    np.testing.assert_array_equal(np.isfinite(_possible(given, k, m)), [False, True, True, True, False])


def test_interactions_are_named_and_relaxed_only_where_they_are():
    found = toy("bcc", 0.02, [0, 1])
    table = interaction_table(found, ["corner", "centre"])
    row = {name: column[0] for name, column in table.items()}
    assert row.pop("rigid_exchange_meV") == pytest.approx(20)
    assert row == {
        "distance_A": pytest.approx(3 * 0.75**0.5),
        "sublattice": "corner",
        "other": "centre",
        "pairs_per_cell": 8,
        "states": "A-B",
        "exchange": "A-A + B-B - A-B - B-A",
    }
    assert interaction_table(found)["other"][0] == "1"
    relaxed = interaction_table(found._replace(pair_relaxation=-found.pair / 4))
    assert relaxed["relaxed_exchange_meV"][0] == pytest.approx(15)
