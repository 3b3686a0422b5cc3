"""SevenNet checkpoints become neutral models with every number in its place, or are refused by name."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import e3nn_jax
import numpy as np
import pytest
from safetensors.numpy import load, load_file
from tiny_checkpoint import (
    FLIPPED,
    Stored,
    checkpoint,
    members,
    neutral_tensors,
    settings,
    state_dict,
    with_old_names,
    zipped,
)

import weights_convert
from weights_convert.__main__ import main
from weights_convert.three_j import three_j
from weights_convert.write import model_files, write_files

SHIPPED = Path(__file__).parents[1] / "alchemjax" / "potentials" / "sevennet-0"
WHEEL = os.environ.get("ALCHEMJAX_SEVENN_WHEEL")
needs_wheel = pytest.mark.skipif(
    WHEEL is None,
    reason="ALCHEMJAX_SEVENN_WHEEL is not the path of a wheel (pip download --no-deps sevenn==0.13.0)",
)
TRAINABLE = {  # numbers that the authors' models train
    "sevennet-0": 842_440,
    "sevennet-0_22May2024": 842_440,
    "sevennet-l3i5": 1_171_144,
    "sevennet-mf-0": 845_896,
}


def tiny(*, modalities: bool = False, old_names: bool = False, changes: dict | None = None) -> bytes:
    """A whole tiny .pth file; `changes` go into its config, None removes a key."""
    config = settings(modalities) | (changes or {})
    config = {key: value for key, value in config.items() if value is not None}
    state = state_dict(neutral_tensors(modalities), three_j)
    return zipped(members(checkpoint(config, with_old_names(state) if old_names else state)))


def tiny_with(tensors: dict[str, Stored | None]) -> bytes:
    """A tiny file with some tensors replaced, added or (None) removed."""
    state = state_dict(neutral_tensors(), three_j) | tensors
    for name in [name for name, tensor in state.items() if tensor is None]:
        del state[name]
    return zipped(members(checkpoint(settings(), state)))


def convert_bytes(data: bytes, tmp_path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    path = tmp_path / "tiny.pth"
    path.write_bytes(data)
    return weights_convert.convert_sevennet(path)["tiny"]


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize("modalities", [False, True])
def test_every_number_arrives_in_its_place(modalities, old_names, tmp_path):
    _, tensors = convert_bytes(tiny(modalities=modalities, old_names=old_names), tmp_path)
    expected = neutral_tensors(modalities)
    assert tensors.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(tensors[name], values, strict=True, err_msg=name)


def test_config_says_what_the_checkpoint_says(tmp_path):
    config, _ = convert_bytes(tiny(modalities=True), tmp_path)
    source = config["source"]
    assert config["species"] == ["O", "Fe", "H"]
    assert config["architecture"] == {
        "cutoff": 4.0,
        "lmax": 2,
        "multiplicities": [[4], [4, 3, 2], [2, 1, 3], [6]],
        "radial_basis": 5,
        "radial_hidden": [6, 7],
        "cutoff_function": {"name": "polynomial", "p": 6},
        "normalize_sph": True,
        "silu_norm": 1.6791767923989418,
        "w3j_signs": {",".join(map(str, path)): -1 for path in FLIPPED},
        "modalities": ["low", "high"],
    }
    assert (config["name"], source["file"], source["recognised_as"]) == ("tiny", "tiny.pth", None)
    assert (source["licence"], source["url"], source["sevenn_version"]) == (None, None, "0.9.2")


def test_xplor_keeps_its_onset(tmp_path):
    function = {"cutoff_function_name": "XPLOR", "cutoff_on": 3.5}
    config, _ = convert_bytes(tiny(changes={"cutoff_function": function}), tmp_path)
    assert config["architecture"]["cutoff_function"] == {"name": "xplor", "on": 3.5}


@pytest.mark.parametrize(("version", "normalized"), [("0.9.1", False), ("0.10.3", True)])
def test_absent_normalisation_means_what_it_meant_in_that_version(version, normalized, tmp_path):
    config, _ = convert_bytes(tiny(changes={"_normalize_sph": None, "version": version}), tmp_path)
    assert config["architecture"]["normalize_sph"] is normalized


def test_one_scale_for_all_species_is_repeated(tmp_path):
    data = tiny_with({"rescale_atomic_energy.scale": Stored(np.array([1.73], np.float32))})
    _, tensors = convert_bytes(data, tmp_path)
    np.testing.assert_array_equal(tensors["scale"], np.full(3, 1.73, np.float32), strict=True)


def test_three_j_symbols_are_those_of_e3nn():
    for l1, l2, l3 in np.ndindex(4, 4, 4):
        if abs(l1 - l2) <= l3 <= l1 + l2:
            other = np.asarray(e3nn_jax.clebsch_gordan(l1, l2, l3))
            np.testing.assert_allclose(three_j(l1, l2, l3), other / np.linalg.norm(other), atol=1e-6)


UNSUPPORTED = {
    "version": "0.11.0",
    "_model_type": "other",
    "dtype": "double",
    "interaction_type": "mace",
    "is_parity": True,
    "self_connection_type": "nequip",
    "use_bias_in_linear": True,
    "readout_as_fcn": True,
    "optimize_by_reduce": False,
    "act_radial": "tanh",
    "act_scalar": {"e": "ssp", "o": "tanh"},
    "act_gate": {"e": "ssp", "o": "tanh"},
    "radial_basis": {"radial_basis_name": "gaussian"},
    "cutoff_function": {"cutoff_function_name": "cosine"},
    "weight_nn_hidden_neurons": [64],
    "cutoff": float("nan"),
    "lmax": 4,
    "lmax_edge": 1,
    "num_convolution_layer": 0,
    "irreps_manual": ["4x0e", "4x0e+3x1o+2x2e", "2x0e+1x1e+3x2e", "6x0e"],
    "_normalize_sph": 1,
    "_type_map": {8: 0, 26: 1, 1: 3},
    "_number_of_species": 4,
    "use_modal_node_embedding": True,
    "use_modal_self_inter_intro": False,
    "use_modal_self_inter_outro": False,
    "use_modal_output_block": False,
    "use_modal_wise_shift": False,
    "use_modal_wise_scale": True,
    "_modal_map": {"low": 0, "high": 2},
    "_number_of_modalities": 3,
    "use_modality": "yes",
    "use_flash_tp": True,
    "use_oeq": True,
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_unsupported_hyper_parameter_is_refused_by_name(key, tmp_path):
    with pytest.raises(weights_convert.RefusedFile, match=rf"^hyper-parameter {key}(_name)? = .* only "):
        convert_bytes(tiny(modalities=True, changes={key: UNSUPPORTED[key]}), tmp_path)


@pytest.mark.parametrize("key", ["is_parity", "self_connection_type", "version", "cutoff", "_type_map"])
def test_absent_hyper_parameter_is_refused_where_the_default_is_unsupported(key, tmp_path):
    with pytest.raises(weights_convert.RefusedFile, match=f"^hyper-parameter {key} = "):
        convert_bytes(tiny(changes={key: None}), tmp_path)


ONE = np.ones(1, np.float32)
SPOILED = {
    "missing": ({"1_convolution.weight_nn.layer1.weight": None}, "layer1.weight is missing"),
    "left over": ({"3_convolution.denominator": Stored(ONE)}, "'3_convolution.denominator' has no place"),
    "bias": ({"1_self_interaction_2.linear.bias": Stored(ONE)}, r"linear.bias is \[1\] of <f4; \[0\]"),
    "old and new name": ({"rescale atomic energy.shift": Stored(ONE)}, "under its old and its new name"),
    "double": ({"0_convolution.denominator": Stored(np.ones(1))}, r"denominator is \[1\] of <f8"),
    "not finite": ({"0_convolution.denominator": Stored(ONE * np.inf)}, "has values that are not finite"),
    "no denominator": ({"0_convolution.denominator": Stored(0 * ONE)}, "denominator that is not positive"),
    "masked": (
        {"0_self_connection_intro.linear.output_mask": Stored(np.ones(28, np.float32))},
        "output_mask is not the mask that follows",
    ),
    "3j symbol": (
        {"1_convolution.convolution._compiled_main_left_right._w3j_1_1_1": Stored(np.ones((3, 3, 3), "f4"))},
        "_w3j_1_1_1 is not the 3j symbol up to one sign",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_tensor_that_does_not_fit_is_refused_by_name(case, tmp_path):
    tensors, message = SPOILED[case]
    with pytest.raises(weights_convert.RefusedFile, match=message):
        convert_bytes(tiny_with(tensors), tmp_path)


def test_same_model_gives_same_bytes_and_reads_back(tmp_path):
    config, tensors = convert_bytes(tiny(modalities=True), tmp_path)
    backwards = {name: np.asfortranarray(tensors[name]) for name in reversed(tensors)}
    files = model_files(config, tensors)
    assert files == model_files(dict(reversed(config.items())), backwards)
    assert json.loads(files["config.json"]) == config
    for name, values in load(files["model.safetensors"]).items():
        np.testing.assert_array_equal(values, tensors[name], strict=True)


def test_model_that_does_not_fit_its_config_is_not_written(tmp_path):
    config, tensors = convert_bytes(tiny(), tmp_path)
    for wrong, message in (
        ({name: tensors[name] for name in tensors if name != "shift"}, "lacks tensor shift"),
        (tensors | {"more": tensors["shift"]}, "also has tensor more"),
        (tensors | {"shift": tensors["shift"].astype(np.float64)}, "tensor shift is .* of float64"),
        (tensors | {"shift": tensors["shift"] * np.float32(np.nan)}, "shift has values that are not finite"),
    ):
        with pytest.raises(weights_convert.RefusedFile, match=message):
            model_files(config, wrong)


def test_full_folder_is_left_alone_without_overwrite(tmp_path, capsys):
    path, out = tmp_path / "tiny.pth", tmp_path / "out"
    path.write_bytes(tiny())
    out.mkdir()
    (out / "LICENSE").write_text("mine")
    assert main(["sevennet", str(path), "-o", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["LICENSE"]
    assert main(["sevennet", str(path), "-o", str(out), "--overwrite"]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["LICENSE", "config.json", "model.safetensors"]
    assert (out / "LICENSE").read_text() == "mine"


def test_nothing_is_left_when_writing_fails_half_way(tmp_path, monkeypatch):
    written = []

    def failing(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError("disk full")
        path.touch()

    monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises(OSError, match="disk full"):
        write_files(tmp_path / "out", {"a": b"1", "b": b"2"})
    assert len(written) == 2 and list(tmp_path.iterdir()) == []


def test_new_folder_appears_at_once(tmp_path, monkeypatch):
    def one_by_one(*paths: Path) -> None:
        raise AssertionError("a new folder is not filled file by file")

    monkeypatch.setattr(os, "replace", one_by_one)
    write_files(tmp_path / "new" / "out", {"a": b"1", "b/c": b"2"})
    assert (tmp_path / "new" / "out" / "b" / "c").read_bytes() == b"2"


def test_single_file_is_converted_only_under_its_own_name(tmp_path):
    path = tmp_path / "tiny.pth"
    path.write_bytes(tiny())
    assert weights_convert.convert("sevennet", path, tmp_path / "out", model="tiny") == [tmp_path / "out"]
    with pytest.raises(weights_convert.RefusedFile, match="'tiny.pth' is 'tiny', not 'sevennet-0'"):
        weights_convert.convert_sevennet(path, model="sevennet-0")


def test_converter_imports_neither_torch_nor_jax_nor_alchemjax():
    code = "import sys, weights_convert.__main__ as m; print(*sys.modules)"
    root = Path(weights_convert.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    modules = {module.split(".")[0] for module in run.stdout.split()}
    assert "weights_convert" in modules
    assert modules.isdisjoint({"torch", "jax", "alchemjax", "sevenn"})


@needs_wheel
def test_wheel_converts_to_the_shipped_bytes_and_all_four_models(tmp_path):
    folders = weights_convert.convert("sevennet", WHEEL, tmp_path / "out")
    assert sorted(folder.name for folder in folders) == sorted(TRAINABLE)
    for folder in folders:
        tensors = load_file(folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        fixed = ("denominators", "shift", "scale")
        assert sum(v.size for name, v in tensors.items() if name not in fixed) == TRAINABLE[folder.name]
        assert (config["name"], config["source"]["recognised_as"]) == (folder.name, folder.name)
        assert len(config["species"]) == 89
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / "sevennet-0" / file).read_bytes() == (SHIPPED / file).read_bytes()


@needs_wheel
def test_model_of_the_wheel_is_picked_by_name(tmp_path):
    (folder,) = weights_convert.convert("sevennet", WHEEL, tmp_path / "out", model="sevennet-mf-0")
    config = json.loads((folder / "config.json").read_text())
    assert folder == tmp_path / "out" and config["architecture"]["modalities"] == ["R2SCAN", "PBE"]


@needs_wheel
def test_known_checkpoint_is_recognised_under_any_file_name(tmp_path):
    with zipfile.ZipFile(WHEEL) as wheel:
        data = wheel.read("sevenn/pretrained_potentials/SevenNet_l3i5/checkpoint_l3i5.pth")
    (tmp_path / "mine.pth").write_bytes(data)
    ((name, (config, _)),) = weights_convert.convert_sevennet(tmp_path / "mine.pth").items()
    assert name == config["name"] == config["source"]["recognised_as"] == "sevennet-l3i5"
    assert (config["source"]["file"], config["source"]["licence"]) == ("mine.pth", "MIT")


@needs_wheel
def test_unpacked_wheel_converts_like_the_wheel(tmp_path):
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(tmp_path, [name for name in wheel.namelist() if name.endswith(".pth")])
    expected = {name: model_files(*model) for name, model in weights_convert.convert_sevennet(WHEEL).items()}
    for folder in (tmp_path, tmp_path / "sevenn"):
        found = weights_convert.convert_sevennet(folder)
        assert {name: model_files(*model) for name, model in found.items()} == expected


def test_shipped_files_are_sound():
    config = json.loads((SHIPPED / "config.json").read_text())
    files = model_files(config, load_file(SHIPPED / "model.safetensors"))
    assert all((SHIPPED / name).read_bytes() == data for name, data in files.items())
    assert "Copyright (c) 2024 Yutack Park" in (SHIPPED / "LICENSE").read_text()
