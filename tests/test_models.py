"""The official files are listed as they are, and a foreign file is converted once, visibly, whole or not at all."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_checkpoint import checkpoint, members, neutral_tensors, settings, state_dict, zipped
from typer.testing import CliRunner

import alchemjax as aj
import weights_convert
from alchemjax import conversion
from alchemjax.cli import app
from alchemjax.io import FOREIGN, list_models
from weights_convert import OFFICIAL, mace_sources, nequix, official, sevennet_sources
from weights_convert.three_j import three_j

BY_NAME = {one.name: one for one in OFFICIAL}
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def tiny(tmp_path):
    """A SevenNet checkpoint of H, O and Fe."""
    path = tmp_path / "tiny.pth"
    path.write_bytes(zipped(members(checkpoint(settings(), state_dict(neutral_tensors(), three_j)))))
    return path


@pytest.fixture
def known(tiny, monkeypatch):
    """The tiny checkpoint, recognised as an official one."""
    entry = sevennet_sources.KNOWN["sevennet-l3i5"]._replace(sha256=hashlib.sha256(tiny.read_bytes()).hexdigest())
    monkeypatch.setitem(sevennet_sources.KNOWN, "sevennet-l3i5", entry)
    return tiny


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def run(*arguments, status=0, columns=None):
    environment = {} if columns is None else {"COLUMNS": str(columns)}
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, env=environment)
    assert result.exit_code == status, result.output
    return result


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_official_file_is_described_consistently():
    assert len(BY_NAME) == len(OFFICIAL) and {one.family for one in OFFICIAL} == set(weights_convert.FAMILIES)
    sums = [one.sha256 for one in OFFICIAL if one.sha256]
    assert len(set(sums)) == len(sums) and all(re.fullmatch("[0-9a-f]{64}", one) for one in sums)
    for one in OFFICIAL:
        assert one.url.startswith("https://github.com/") and not one.url.endswith(".whl")
        assert official.SUFFIXES[Path(one.url).suffix] == one.family
        assert one.status in ("tested", "untried", "refused") and (one.status != "refused" or one.note)
        assert one.licence in ("MIT", "ASL", None) and (one.functional or one.status == "refused")
        assert (one.f1 is None or 0 < one.f1 < 1) and (one.kappa is None or 0 < one.kappa < 2)
        assert not one.name.startswith("mace-") or one.status != "tested"


@pytest.mark.parametrize(
    "name, licence, functional",
    [
        ("sevennet-mf-0", "MIT", "PBE+U, r2SCAN"),
        ("nequix-oam-1-pft", "MIT", "PBE+U"),
        ("mace-mp-0-medium", "MIT", "PBE+U"),
        ("mace-mp-0b3-medium", "MIT", "PBE+U"),
        ("mace-omat-0-small", "ASL", "PBE+U"),
        ("mace-matpes-pbe-0", "ASL", "PBE"),
        ("mace-matpes-r2scan-0", "ASL", "r2SCAN"),
        ("mace-off23-large", "ASL", "wB97M-D3"),
        ("sevennet-mf-ompa", None, "PBE+U"),
    ],
)
def test_licence_and_functional_are_those_the_authors_state(name, licence, functional):
    assert (BY_NAME[name].licence, BY_NAME[name].functional) == (licence, functional)


def test_files_are_recognised_by_the_sums_of_the_table():
    known = {name: entry.sha256 for name, entry in sevennet_sources.KNOWN.items()}
    known |= nequix.KNOWN | mace_sources.KNOWN
    assert known == {one.name: one.sha256 for one in OFFICIAL if one.sha256}
    (shipped,) = list_models()
    assert shipped["sha256"] == BY_NAME["sevennet-0"].sha256


def test_every_licence_has_its_text():
    for one in OFFICIAL:
        text = official.licence_text(one.name)
        assert (text is None) == (one.licence is None)
        if one.licence == "MIT":
            assert text.startswith("MIT License") and "Permission is hereby granted" in text
        elif one.licence == "ASL":
            assert one.name in text and one.url in text and "not for commercial use" in text


# --- alchemjax models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_tables_stay_within_the_width_and_name_every_official_file_on_a_line(columns):
    lines = run("models", columns=columns).stdout.splitlines()
    paths = {f"{model['name']}: {model['path']}" for model in list_models()}
    assert max(len(line) for line in lines if line not in paths) <= min(columns, 100)
    rows = {line.split()[0]: line for line in lines if "│" in line and line[0] != " "}
    assert set(BY_NAME) <= set(rows)
    assert "│ASL " in rows["mace-omat-0-small"] and "0.852" in rows["mace-mpa-0-medium"]
    text = " ".join(" ".join(lines).split())
    assert "refused: mace-mh-1, mace-omol-0: RealAgnosticResidualNonLinear blocks" in text
    assert "https://github.com/ACEsuit/mace-off" in text and "families: sevennet" in text


def test_what_is_here_is_marked_with_its_functional_and_licence(known):
    assert _status("sevennet-0") == "here" and _status("sevennet-l3i5") == "tested"
    aj.load(known)
    assert _status("sevennet-l3i5") == "here"
    found = json.loads(run("models", "--json").stdout)
    (model,) = [m for m in found["models"] if m["name"] == "sevennet-l3i5"]
    assert (model["functional"], model["licence"], model["recognised_as"]) == ("PBE+U", "MIT", "sevennet-l3i5")
    assert {one["name"]: one["here"] for one in found["official"]}["sevennet-l3i5"] == [model["path"]]


def _status(name):
    (row,) = [line for line in run("models", columns=100).stdout.splitlines() if line.startswith(f"{name} ")][-1:]
    return row.split("│")[1].strip()


def test_json_has_every_fact_of_every_official_file():
    official_files = {one["name"]: one for one in json.loads(run("models", "--json").stdout)["official"]}
    assert set(official_files) == set(BY_NAME)
    for name, one in BY_NAME.items():
        assert official_files[name].items() >= one._asdict().items()
        assert bool(official_files[name]["commands"]) == (one.status != "refused")


def test_one_name_gives_the_address_and_what_to_type():
    for one in OFFICIAL:
        text = run("models", one.name).stdout
        assert f"url: {one.url}\n" in text and f"status: {one.status}\n" in text
    text = run("models", "mace-mp-0-medium").stdout
    assert f"\n    curl -fL -o mace-mp-0-medium.model {BY_NAME['mace-mp-0-medium'].url}\n" in text
    assert "\n    alchemjax convert mace mace-mp-0-medium.model\n" in text
    assert all(FOREIGN[suffix] == family for suffix, family in official.SUFFIXES.items())
    error = run("models", "gnome", status=2).stderr
    assert error.startswith("alchemjax: no model is called 'gnome'") and error.count("\n") == 1


def test_official_name_that_is_not_here_says_how_to_get_it_or_why_not():
    with pytest.raises(ValueError, match="'mace-mpa-0-medium' is not here yet; `alchemjax models mace-mpa-0-medium`"):
        aj.load("mace-mpa-0-medium")
    with pytest.raises(ValueError, match="'mace-mh-1' is not supported: it has RealAgnosticResidualNonLinear blocks"):
        aj.load("mace-mh-1")


# --- conversion: seen, once, whole or not at all ----------------------------------------------------------------------


def test_licence_stays_beside_recognised_weights_only(known, tmp_path):
    result = run("convert", "sevennet", known, "-o", tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text() == official.licence_text("sevennet-l3i5")
    assert result.stdout == f"sevennet-l3i5: {tmp_path / 'out'}\n"
    assert "recognised as sevennet-l3i5: licence MIT, PBE+U, trained on MPtrj" in result.stderr


def test_unrecognised_weights_do_not_keep_the_licence_of_those_they_replace(known, tmp_path):
    out = tmp_path / "out"
    run("convert", "sevennet", known, "-o", out)
    (out / "thesis.txt").write_text("keep")
    assert (out / "LICENSE").is_file()
    other = tmp_path / "other.pth"
    other.write_bytes(known.read_bytes() + b"\0")
    run("convert", "sevennet", other, "-o", out, "--overwrite")
    assert not (out / "LICENSE").exists() and (out / "thesis.txt").read_text() == "keep"


def test_unrecognised_weights_have_no_licence_and_say_so(tiny, tmp_path, cache):
    result = run("convert", "sevennet", tiny)
    assert "tiny is unrecognised, converted by content: its licence and training are unknown" in result.stderr
    assert {path.name for path in (cache / "tiny").iterdir()} == {"config.json", "model.safetensors"}
    assert "(unrecognised, converted by content)" in run("models").stdout


def test_file_that_was_converted_under_a_name_is_not_converted_again(tiny, conversions, cache):
    run("convert", "sevennet", tiny)
    assert len(conversions) == 1
    assert aj.load(tiny).sha256 == aj.load("tiny").sha256
    assert len(conversions) == 1 and [path.name for path in cache.iterdir()] == ["tiny"]


def test_every_step_is_told_before_it_is_done(tiny, tmp_path):
    steps = []
    weights_convert.convert("sevennet", tiny, tmp_path / "out", progress=lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == [0, 1, 2, 3] and {total for _, total, _ in steps} == {3}
    assert [what.split()[0] for _, _, what in steps] == ["reading", "converting", "writing", "converted"]


@pytest.mark.parametrize("patience, seen", [(0.0, True), (60.0, False)])
def test_bar_is_shown_on_a_terminal_once_it_takes_a_while(patience, seen, tiny, monkeypatch):
    convert = weights_convert.convert

    def slow(*arguments, progress, **options):
        progress(0, 3, "reading slowly")
        time.sleep(0.3)
        return convert(*arguments, progress=progress, **options)

    monkeypatch.setattr(weights_convert, "convert", slow)
    monkeypatch.setattr(conversion, "PATIENCE", patience)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    aj.load(tiny)
    assert ("reading slowly" in terminal.getvalue()) == seen
    assert "alchemjax: converted tiny.pth: tiny is unrecognised, converted by content" in terminal.getvalue()


def test_nothing_is_printed_where_stderr_is_no_terminal(tiny, capsys):
    aj.load(tiny)
    assert capsys.readouterr() == ("", "")


def test_notebook_gets_a_line_and_no_bar(known, monkeypatch):
    monkeypatch.setattr(
        sys, "stderr", stream := type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    )
    monkeypatch.setattr(conversion, "PATIENCE", 0.0)
    aj.load(known)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("alchemjax: converted tiny.pth: recognised as sevennet-l3i5: licence MIT")


@pytest.mark.parametrize("step", range(4))
def test_interrupted_conversion_leaves_a_whole_model_or_nothing(step, tiny, cache, monkeypatch):
    convert = weights_convert.convert

    def interrupted(*arguments, progress, **options):
        def stop(done, total, what):
            if done == step:
                raise KeyboardInterrupt

        return convert(*arguments, progress=stop, **options)

    with monkeypatch.context() as patch:
        patch.setattr(weights_convert, "convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            aj.load(tiny)
    assert [m["name"] for m in list_models()] == ["sevennet-0", "tiny"][: 1 + (step == 3)]
    assert not list(cache.glob(".*")) and aj.load(tiny).name == "tiny"


def test_replacing_files_ends_with_the_one_that_says_what_they_are(tiny, cache, monkeypatch):
    aj.load(tiny)
    (folder,) = cache.iterdir()
    config = (folder / "config.json").read_text().replace('"version": "', '"version": "0.')
    (folder / "config.json").write_text(config)
    replaced, replace = [], os.replace

    def failing(source, target):
        replaced.append(Path(target).name)
        if len(replaced) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(KeyboardInterrupt):
            aj.load(tiny)
    assert replaced == ["model.safetensors", "config.json"]
    assert (folder / "config.json").read_text() == config  # still another converter's: it is converted again
    aj.load(tiny)
    assert (folder / "config.json").read_text() != config


def test_model_without_weights_is_converted_again(tiny, cache, conversions):
    aj.load(tiny)
    (folder,) = cache.iterdir()
    (folder / "model.safetensors").unlink()
    assert aj.load(tiny).name == "tiny" and len(conversions) == 2


def test_what_is_being_written_is_no_model_and_is_removed_when_it_is_old(tiny, cache, tmp_path):
    aj.load(tiny)
    (folder,) = cache.iterdir()
    partial, fresh = (cache / f".{folder.name}.{number}.partial" for number in ("00000000", "11111111"))
    folder.rename(partial)
    assert [m["name"] for m in list_models()] == ["sevennet-0"]
    os.utime(partial, (time.time() - 7200,) * 2)
    fresh.mkdir()
    aj.load(tiny)
    assert sorted(path.name for path in cache.iterdir()) == [fresh.name, folder.name]


def test_the_faster_of_two_conversions_wins(tiny, cache, monkeypatch):
    rename, convert = Path.rename, weights_convert.convert

    def late(path, target):
        monkeypatch.setattr(Path, "rename", rename)
        convert("sevennet", tiny, target, overwrite=True)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    assert aj.load(tiny).name == "tiny"
    assert len(list(cache.iterdir())) == 1 and len(list_models()) == 2


def test_two_processes_may_convert_one_file_at_once(tiny, cache):
    code = "import sys; from pathlib import Path; from alchemjax import io; print(io._convert(Path(sys.argv[1])))"
    start = [sys.executable, "-c", code, str(tiny)]
    both = [subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in "ab"]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0] == said[1] and len(list(cache.iterdir())) == 1


def test_converter_needs_neither_rich_nor_alchemjax():
    code = "import sys, weights_convert.__main__; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {name.split(".")[0] for name in found.stdout.split()}.isdisjoint({"rich", "alchemjax", "jax"})
