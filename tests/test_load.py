"""Potentials are found, converted once and kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SHIPPED, WHEEL
from tiny_checkpoint import checkpoint, members, neutral_tensors, settings, state_dict, zipped

import alchemjax as aj
from alchemjax.io import list_models
from weights_convert.three_j import three_j

pytestmark = pytest.mark.usefixtures("cache")


def tiny_checkpoint(path, **changes):
    """A tiny .pth file with elements H, O and Fe."""
    config = settings() | changes
    path.write_bytes(zipped(members(checkpoint(config, state_dict(neutral_tensors(), three_j)))))
    return path


def test_shipped_model_loads_by_name_in_either_precision():
    potential = aj.load("sevennet-0")
    assert (potential.name, potential.dtype, len(potential.species)) == ("sevennet-0", "float32", 89)
    assert potential.params["shift"].dtype == np.float32
    potential = aj.load("sevennet-0", dtype="float64")
    assert potential.params["shift"].dtype == np.float64


@pytest.mark.parametrize("file", ["", "config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", [str, Path])
def test_converted_model_loads_from_its_folder_or_files(file, kind, tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "mine")
    assert aj.load(kind(tmp_path / "mine" / file)).sha256 == aj.load("sevennet-0").sha256


def test_folder_with_the_name_of_a_model_is_taken_as_a_path_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sevennet-0").mkdir()
    assert aj.load("sevennet-0").name == "sevennet-0"
    with pytest.raises(ValueError):
        aj.load(Path("sevennet-0"))


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"head": "mp"}, "sevennet-0 has no heads; 'mp' was asked for: leave head out"),
        ({"modality": "PBE"}, "sevennet-0 has no modalities; 'PBE' was asked for"),
        ({"dtype": "float16"}, "dtype 'float16' is not supported; allowed are float32 and float64"),
    ],
)
def test_options_that_the_model_lacks_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        aj.load("sevennet-0", **arguments)


def test_empty_names_and_folders_without_one_model_are_refused(cache, tmp_path):
    with pytest.raises(ValueError, match="the name of the potential is empty; give a name or a path"):
        aj.load(" ")
    with pytest.raises(ValueError, match="holds no model: it has no config.json"):
        aj.load(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(SHIPPED, tmp_path / "both" / name)
    with pytest.raises(ValueError, match="holds several models, one, two: give the path of one"):
        aj.load(tmp_path / "both")


@pytest.mark.parametrize("name", ["mace-9", "a/b.pth", "~/nothing", "../potentials", ""])
def test_unknown_name_is_refused_with_the_models_that_are_there(name, cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SHIPPED, cache / "mine")
    _rename(cache / "mine", "other")
    with pytest.raises(ValueError) as caught:
        aj.load(name) if name else aj.load("nothing")
    message = str(caught.value)
    assert "is neither the name of a model nor a file; models here: sevennet-0, other" in message


def _rename(folder, name):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"name": name}))


def test_checkpoint_is_converted_once_and_found_under_any_file_name(tmp_path, cache, conversions):
    path = tiny_checkpoint(tmp_path / "fine-tuned.pth")
    potential = aj.load(path)
    assert potential.name == "fine-tuned" and potential.species == ("O", "Fe", "H")
    again = aj.load(str(path.rename(tmp_path / "moved.pth")))
    assert again.sha256 == potential.sha256 and len(conversions) == 1
    assert aj.load("fine-tuned").sha256 == potential.sha256
    (folder,) = cache.iterdir()
    assert aj.load(folder.name).sha256 == potential.sha256
    assert len(conversions) == 1


def test_another_checkpoint_of_one_name_is_another_model(tmp_path, conversions):
    one = aj.load(tiny_checkpoint(tmp_path / "a.pth"))
    other = aj.load(tiny_checkpoint(tmp_path / "a.pth", cutoff=4.5))
    assert (one.cutoff, other.cutoff) == (4.0, 4.5) and len(conversions) == 2
    with pytest.raises(ValueError, match="'a' is the name of 2 models; give .* or .*"):
        aj.load("a")
    assert aj.load(tmp_path / "a.pth").cutoff == 4.5


def test_model_of_another_converter_is_converted_again(tmp_path, cache, conversions):
    path = tiny_checkpoint(tmp_path / "a.pth")
    aj.load(path)
    (folder,) = cache.iterdir()
    config = json.loads((folder / "config.json").read_text())
    config["converter"]["version"], config["species"] = "0.0.0", ["O", "Fe", "Li"]
    (folder / "config.json").write_text(json.dumps(config))
    assert aj.load(path).species == ("O", "Fe", "H")
    assert len(conversions) == 2


def test_two_copies_of_one_checkpoint_are_one_model(tmp_path, cache):
    potential = aj.load(tiny_checkpoint(tmp_path / "a.pth"))
    (folder,) = cache.iterdir()
    shutil.copytree(folder, cache / "copy")
    assert aj.load("a").sha256 == potential.sha256


@pytest.mark.parametrize("damage", ["{", "[]", '{"converter": {}}', None])
def test_damaged_cache_is_made_again(damage, tmp_path, cache, conversions):
    path = tiny_checkpoint(tmp_path / "a.pth")
    aj.load(path)
    (folder,) = cache.iterdir()
    (folder / "config.json").write_text(damage) if damage else (folder / "config.json").unlink()
    assert aj.load(path).name == "a" and len(conversions) == 2


def test_file_that_is_no_checkpoint_is_refused_and_leaves_nothing(tmp_path, cache):
    for name, sentence in [
        ("a.pth", "."),
        ("a.whl", "."),
        (
            "a.cif",
            "'.*a.cif' is not a model; give a converted model's folder, .pth, .whl, .nqx, .model, or",
        ),
        ("empty", "."),
    ]:
        path = tmp_path / name
        path.write_bytes(b"not a zip archive") if "." in name else path.mkdir()
        with pytest.raises(ValueError, match=sentence) as caught:
            aj.load(path)
        assert "\n" not in str(caught.value)
    assert not cache.exists()


def test_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path, monkeypatch):
    path = tiny_checkpoint(tmp_path / "a.pth")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALCHEMJAX_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(ValueError, match="could not be written to '.*file/models.*set ALCHEMJAX_MODELS to a folder"):
        aj.load(path)


def test_cache_is_in_the_users_data_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("ALCHEMJAX_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / "data" / name)
    aj.load(tiny_checkpoint(tmp_path / "a.pth"))
    assert len(list((tmp_path / "data" / "alchemjax" / "models").glob("*/model.safetensors"))) == 1


def test_models_are_listed_with_where_they_are(tmp_path, cache):
    aj.load(tiny_checkpoint(tmp_path / "a.pth"))
    (cache / "broken").mkdir()
    (cache / "broken" / "config.json").write_text("{")
    (cache / "other").mkdir()
    (cache / "other" / "config.json").write_text('{"name": "x"}')
    shipped, cached = list_models()
    facts = {"name": "sevennet-0", "family": "sevennet", "where": "shipped", "species": 89, "licence": "MIT"}
    assert shipped.pop("sha256").startswith("7052cb42")
    assert shipped == facts | {"dtype": "float32", "path": str(SHIPPED)}
    assert (cached["name"], cached["where"], cached["species"], cached["licence"]) == ("a", "cached", 3, None)
    assert cached["path"].startswith(str(cache)) and aj.load(cached["path"]).name == "a"


@pytest.mark.skipif(WHEEL is None, reason="ALCHEMJAX_SEVENN_WHEEL is not the path of a wheel of sevenn 0.13.0")
def test_models_of_a_wheel_are_converted_once_and_then_load_by_name(conversions):
    for _ in range(2):
        with pytest.raises(ValueError, match="holds several models, now converted: load one .*sevennet-l3i5"):
            aj.load(WHEEL)
    assert len(conversions) == 1
    assert [m["name"] for m in list_models()].count("sevennet-0") == 2
    assert aj.load("sevennet-0").sha256 == aj.load(SHIPPED).sha256
    assert aj.load("sevennet-l3i5").name == "sevennet-l3i5"
    assert aj.load("sevennet-mf-0", modality="PBE").name == "sevennet-mf-0/PBE"


@pytest.mark.skipif(WHEEL is None, reason="ALCHEMJAX_SEVENN_WHEEL is not the path of a wheel of sevenn 0.13.0")
def test_one_model_of_a_wheel_is_chosen_by_its_name(conversions):
    for name in ("sevennet-l3i5", "sevennet-0"):
        assert aj.load(f"{WHEEL}@{name}").name == name
    assert aj.load(f"{WHEEL}@sevennet-mf-0", modality="R2SCAN").name == "sevennet-mf-0/R2SCAN"
    assert len(conversions) == 1
    with pytest.raises(ValueError, match="holds no model 'sevennet-9'; it holds sevennet-0, .*sevennet-l3i5"):
        aj.load(f"{WHEEL}@sevennet-9")


def test_the_only_model_of_a_file_is_chosen_by_its_own_name_alone(tmp_path, conversions):
    (tmp_path / "at@night").mkdir()
    path = tiny_checkpoint(tmp_path / "at@night" / "tuned.pth")
    assert aj.load(path).name == aj.load(f"{path}@tuned").name == "tuned"
    with pytest.raises(ValueError, match="'.*at@night/tuned.pth' holds no model 'night'; it holds tuned$"):
        aj.load(f"{path}@night")
    assert len(conversions) == 1
    with pytest.raises(ValueError, match="'.*gone.pth@tuned' is neither the name of a model nor a file"):
        aj.load(tmp_path / "gone.pth@tuned")
