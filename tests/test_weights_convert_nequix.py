"""Nequix files become neutral models with every number in its place, or are refused in one sentence."""

import hashlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_nequix import NUMBERS, leaves, npy, nqx, repeated, settings

import alchemjax as aj
import weights_convert
from weights_convert import archive
from weights_convert import nequix as converter
from weights_convert.__main__ import main
from weights_convert.nequix_layout import radial_order
from weights_convert.write import model_files

NEQUIX = os.environ.get("ALCHEMJAX_NEQUIX_WEIGHTS")
needs_weights = pytest.mark.skipif(NEQUIX is None, reason="ALCHEMJAX_NEQUIX_WEIGHTS is not a folder of .nqx files")


def convert_bytes(data: bytes, tmp_path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    path = tmp_path / "tiny.nqx"
    path.write_bytes(data)
    return weights_convert.convert_nequix(path)["tiny"]


# --- what arrives -----------------------------------------------------------------------------------------------------


def names_in_file(setting: dict) -> list[str]:
    """Neutral names in the order of the file."""
    names = ["atomic_energies"]
    for t in range(setting["n_layers"]):
        ins, outs = 1 if t == 0 else 4, 1 if t == setting["n_layers"] - 1 else 4
        found = [f"radial.{k}" for k in range(setting["radial_mlp_layers"] + 1)]
        found += [f"linear_1.{l}" for l in range(ins)] + [f"linear_2.{l}" for l in range(outs)]
        found += [f"self_connection.{l}" for l in range(min(ins, outs))] + [f"norm.{l}" for l in range(outs)]
        names += [f"layers.{t}.{name}" for name in found]
    return [*names, "readout"]


def test_every_number_arrives_in_its_place(tmp_path):
    setting = settings()
    arrays = leaves(setting)
    _, tensors = convert_bytes(nqx(setting, arrays), tmp_path)
    names = names_in_file(setting)
    assert sorted(names) == sorted(tensors)
    for name, array in zip(names, arrays, strict=True):
        if name.endswith("radial.2"):
            channels = [[5], [6, 4, 3, 2], [6, 4, 3, 2], [6]][int(name[7]) :]
            order = radial_order(channels[0], 3, channels[1])
            assert sorted(order) == list(range(array.shape[1]))
            array = array[:, order]
        np.testing.assert_array_equal(tensors[name], array, strict=True, err_msg=name)


def test_radial_columns_are_sorted_by_the_sender():
    # the file: (0,0,0) a a, (1,1,0) b, (0,1,1) a a, (1,0,1) b, (1,2,1) b; neutral: all of a, then all of b
    assert radial_order([2, 1], 2, [2, 1]).tolist() == [0, 1, 3, 4, 5, 2, 6]


def test_config_says_what_the_file_says(tmp_path):
    data = nqx(settings())
    config, _ = convert_bytes(data, tmp_path)
    hidden = [6, 4, 3, 2]
    assert config["architecture"] == {
        "cutoff": 4.0,
        "cutoff_p": 6,
        "lmax": 3,
        "multiplicities": [[5], hidden, hidden, [6]],
        "radial_basis": 5,
        "radial_hidden": [7, 7],
        "silu_norm": 1.6765620560798837,
        "avg_num_neighbors": 11.3,
        "scale": 0.7,
        "shift": -1.3,
    }
    assert config["species"] == ["Li", "O", "Na", "Cl", "K"]
    assert (config["family"], config["name"], config["dtype"]) == ("nequix", "tiny", "float32")
    sha256 = hashlib.sha256(data).hexdigest()
    assert config["source"] == {
        "file": "tiny.nqx",
        "sha256": sha256,
        "recognised_as": None,
        "licence": None,
        "url": None,
    }


@pytest.mark.parametrize("end", [b"\n", repeated(settings()), repeated(settings()) + b"\n"])
def test_what_follows_the_weights_in_some_files_adds_nothing(end, tmp_path):
    config, tensors = convert_bytes(nqx(), tmp_path)
    again, same = convert_bytes(nqx(end=end), tmp_path)
    assert again["source"].pop("sha256") != config["source"].pop("sha256")
    assert again == config and all(np.array_equal(same[name], tensors[name]) for name in tensors)


def test_same_file_gives_same_bytes_and_reads_back(tmp_path):
    path = tmp_path / "tiny.nqx"
    path.write_bytes(nqx())
    folders = [weights_convert.convert("nequix", path, tmp_path / out)[0] for out in ("one", "two")]
    for file in ("config.json", "model.safetensors"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
    config, tensors = weights_convert.convert_nequix(path)["tiny"]
    assert json.loads((folders[0] / "config.json").read_text()) == config
    for name, values in load_file(folders[0] / "model.safetensors").items():
        np.testing.assert_array_equal(values, tensors[name], strict=True)


def test_a_file_is_loaded_and_converted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ALCHEMJAX_MODELS", str(tmp_path / "models"))
    (tmp_path / "mine.nqx").write_bytes(nqx())
    potential = aj.load(tmp_path / "mine.nqx", "float64")
    assert (potential.name, potential.cutoff, potential.species) == ("mine", 4.0, ("Li", "O", "Na", "Cl", "K"))
    monkeypatch.setattr(weights_convert, "convert", None)
    assert aj.load(tmp_path / "mine.nqx", "float64").sha256 == potential.sha256


def test_known_file_is_recognised_under_any_file_name(tmp_path, monkeypatch):
    monkeypatch.setitem(converter.KNOWN, "nequix-mp-1", hashlib.sha256(nqx()).hexdigest())
    (tmp_path / "download").write_bytes(nqx())
    ((name, (config, _)),) = weights_convert.convert_nequix(tmp_path / "download").items()
    assert name == config["name"] == config["source"]["recognised_as"] == "nequix-mp-1"
    assert (config["source"]["licence"], config["source"]["url"]) == ("MIT", converter.URL)
    with pytest.raises(weights_convert.RefusedFile, match="'download' is 'nequix-mp-1', not 'other'"):
        weights_convert.convert("nequix", tmp_path / "download", tmp_path / "more", model="other")


@needs_weights
@pytest.mark.parametrize("name", ["nequix-mp-1", "nequix-oam-1"])
def test_published_files_are_converted_whole(name, tmp_path):
    (path,) = weights_convert.convert("nequix", Path(NEQUIX) / f"{name}.nqx", tmp_path / "out")
    config = json.loads((path / "config.json").read_text())
    assert config["name"] == config["source"]["recognised_as"] == name
    assert (len(config["species"]), config["species"][-1]) == (89, "Pu")
    assert config["architecture"]["multiplicities"][1] == [128, 64, 32, 32]
    tensors = load_file(path / "model.safetensors")
    assert sum(array.size for array in tensors.values()) == 707_658 and len(tensors) == 63


# --- what is refused --------------------------------------------------------------------------------------------------


def assert_refused(data: bytes, message: str, tmp_path: Path, capsys) -> None:
    """Both doors refuse: the function by its exception, the command by one line on stderr and status 2."""
    path = tmp_path / "bad.nqx"
    path.write_bytes(data)
    with pytest.raises(weights_convert.RefusedFile, match=message) as refusal:
        weights_convert.convert("nequix", path, tmp_path / "out")
    text = str(refusal.value)
    assert text.isascii() and "\n" not in text and not text.endswith(".") and len(text) < 300
    assert main(["nequix", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr() == ("", f"weights_convert: {text}\n")
    assert [file.name for file in tmp_path.iterdir()] == ["bad.nqx"]


UNSUPPORTED = {
    "indexed skip": ({"index_weights": True}, "^hyper-parameter index_weights = True is not supported, only False"),
    "no layer norm": ({"layer_norm": False}, "^hyper-parameter layer_norm = False is not supported, only True"),
    "number for a flag": ({"layer_norm": 1}, "^hyper-parameter layer_norm = 1 "),
    "flag missing": ({"index_weights": None}, "^hyper-parameter index_weights = None "),
    "unknown": ({"attention": True}, "^hyper-parameter 'attention' is not known; it may change the network"),
    "odd scalars": ({"hidden_irreps": "6x0e + 4x0o"}, "hidden_irreps = .* only 0e, 1o, 2e, ... up to lmax = 3"),
    "unnatural": ({"hidden_irreps": "6x0e + 4x1e"}, "hidden_irreps"),
    "gap": ({"hidden_irreps": "6x0e + 4x2e"}, "hidden_irreps"),
    "above lmax": ({"lmax": 2}, "hidden_irreps = .* up to lmax = 2"),
    "no irreps": ({"hidden_irreps": 128}, "hidden_irreps = 128"),
    "long irreps": ({"hidden_irreps": "1x0e+" * 100_0}, "hidden_irreps"),
    "large l": ({"lmax": 4}, "^hyper-parameter lmax = 4 is not supported, only integers from 0 to 3"),
    "many layers": ({"n_layers": 10**9}, "^hyper-parameter n_layers = 1000000000 "),
    "layers as number": ({"n_layers": 3.0}, "^hyper-parameter n_layers = 3.0 "),
    "no hidden layer": ({"radial_mlp_layers": 0}, "^hyper-parameter radial_mlp_layers = 0 "),
    "wide": ({"radial_mlp_size": 2**40}, "^hyper-parameter radial_mlp_size"),
    "broken exponent": ({"radial_polynomial_p": 5.5}, "radial_polynomial_p = 5.5 .* only whole numbers from 2 to 32"),
    "no cutoff": ({"cutoff": None}, "^hyper-parameter cutoff = None "),
    "cutoff": ({"cutoff": -1.0}, "^hyper-parameter cutoff = -1.0 is not supported, only numbers between 0.0 and"),
    "neighbours": ({"avg_n_neighbors": 0}, "avg_n_neighbors = 0 "),
    "scale": ({"scale": "1"}, "scale = '1' "),
    "huge number": ({"shift": 10**400}, "shift = a huge integer "),
    "unsorted species": ({"atomic_numbers": NUMBERS[::-1]}, "atomic_numbers = a list of 5 .* increasing integers"),
    "species twice": ({"atomic_numbers": [3, 3, 8, 11, 17]}, "atomic_numbers"),
    "unknown species": ({"atomic_numbers": [3, 8, 11, 17, 119]}, "atomic_numbers"),
    "no species": ({"atomic_numbers": []}, "atomic_numbers = a list of 0"),
    "energies of others": ({"atom_energies": {"1": 0.0}}, "atom_energies = a dict of 1 .* a number for each"),
    "energies as text": ({"atom_energies": dict.fromkeys(map(str, NUMBERS), "x")}, "atom_energies = a dict of 5"),
    "other energies": (
        {"atom_energies": {str(z): -z / 7 + (z == 8) / 1000 for z in NUMBERS}},
        "atom_energies of 8 = -1.14.* is not supported, only the value in the arrays, -1.142",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(case, tmp_path, capsys):
    changes, message = UNSUPPORTED[case]
    assert_refused(nqx(settings(**changes), leaves(settings())), message, tmp_path, capsys)


def with_leaf(index: int, array: np.ndarray | bytes | None) -> bytes:
    """The file with one array, or the bytes of it, replaced or (None) left out."""
    arrays = [npy(leaf) for leaf in leaves(settings())]
    arrays[index] = array if isinstance(array, bytes) else b"" if array is None else npy(array)
    return nqx(arrays=[]) + b"".join(arrays)


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode()


def line(text: bytes) -> bytes:
    return text + b"\n" + nqx().split(b"\n", 1)[1]


ODD = np.full((5, 7), 0.5, np.float32)  # stands for leaf 1, a radial matrix
PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 7), }"
FILES = {
    "empty": (lambda: b"", "'bad.nqx' has no first line"),
    "no line": (lambda: b"\0" * 10**6, "has no first line of at most 65536 bytes"),
    "long line": (lambda: b" " * 70_000 + nqx(), "has no first line"),
    "no JSON": (lambda: line(b"{"), "the first line is not JSON, as that of a Nequix file is"),
    "no text": (lambda: line(b"\xff"), "the first line is not JSON"),
    "list": (lambda: line(b"[]"), "the settings are a list of 0, not a JSON object"),
    "deep": (lambda: line(b"[" * 60_000), "the first line is not JSON"),
    "long number": (lambda: line(b'{"scale": ' + b"9" * 60_000 + b"}"), "malformed .ValueError"),
    "infinite": (lambda: nqx(settings(scale=float("inf")), []), "the number Infinity; only finite ones"),
    "overflow": (lambda: line(nqx().split(b"\n")[0].replace(b"0.7,", b"1e999,")), "scale = inf "),
    "key twice": (lambda: line(b'{"lmax": 3, "lmax": 3}'), "the settings have a key twice"),
    "no arrays": (lambda: nqx(arrays=[]), "the header of array atomic_energies is malformed"),
    "array missing": (lambda: with_leaf(1, None), r"radial.0 is \[7, 7\] of '<f4'; \[5, 7\] of <f4 is needed"),
    "last missing": (lambda: with_leaf(-1, None), "the header of array readout is malformed"),
    "shape": (lambda: with_leaf(1, ODD.T.copy()), r"array layers.0.radial.0 is \[7, 5\]"),
    "double": (lambda: with_leaf(1, ODD.astype("f8")), r"is \[5, 7\] of '<f8'; \[5, 7\] of <f4 is needed"),
    "half": (lambda: with_leaf(1, ODD.astype("f2")), "of '<f2'"),
    "big-endian": (lambda: with_leaf(1, ODD.astype(">f4")), "of '>f4'"),
    "Fortran order": (lambda: with_leaf(1, np.asfortranarray(ODD)), "radial.0 is in Fortran order; C order is needed"),
    "not a number": (lambda: with_leaf(1, ODD * np.nan), "radial.0 has values that are not finite"),
    "infinite weight": (lambda: with_leaf(-1, np.full((6, 1), np.inf, "f4")), "readout has values that are not"),
    "truncated": (lambda: nqx()[:-1], "'bad.nqx' ends within array readout, which has 24 bytes"),
    "huge shape": (
        lambda: with_leaf(1, header(PLAIN.replace("5, 7", f"{10**9}, {10**9}"))),
        r"radial.0 is \[1000000000, 1000000000\] of '<f4'",
    ),
    "enormous shape": (lambda: with_leaf(1, header(PLAIN.replace("5, 7", "9" * 400 + ","))), "malformed; it must"),
    "large shape": (lambda: with_leaf(1, header(PLAIN.replace("5, 7", "9" * 18 + ","))), "of 1 dimensions"),
    "negative shape": (lambda: with_leaf(1, header(PLAIN.replace("5,", "-5,"))), "malformed; it must be as"),
    "many axes": (lambda: with_leaf(1, header(PLAIN.replace("5,", "5, " * 200 + "5,"))), "of 202 dimensions"),
    "objects": (lambda: with_leaf(1, header(PLAIN.replace("<f4", "|O"))), r"of '\|O'"),
    "pickle": (lambda: with_leaf(1, b"cposix\nsystem\n(S'touch ran'\ntR."), "malformed"),
    "code as header": (lambda: with_leaf(1, header("__import__('os').system('touch ran')")), "malformed"),
    "nested header": (lambda: with_leaf(1, header("(" * 900)), "malformed"),
    "odd escape": (lambda: with_leaf(1, header(PLAIN.replace("descr", r"\d"))), "malformed"),
    "long header": (lambda: with_leaf(1, header(PLAIN + " " * 2000) + ODD.tobytes()), "malformed"),
    "unordered header": (
        lambda: with_leaf(1, header("{'shape': (5, 7), 'descr': '<f4', 'fortran_order': False, }\n") + ODD.tobytes()),
        "malformed; it must be as numpy writes it",
    ),
    "newer header": (lambda: with_leaf(1, header(PLAIN, b"\x02\x00") + ODD.tobytes()), "of another version; 1.0"),
    "more": (lambda: nqx(end=b"x"), "malformed"),
    "two newlines": (lambda: nqx(end=b"\n\n"), "malformed"),
    "another array": (lambda: nqx(end=npy(ODD)), r"of number 0 in the settings is \[5, 7\]"),
    "numbers and more": (lambda: nqx(end=repeated(settings()) + npy(np.asarray(1.0))), "goes on after its last array"),
    "other numbers": (lambda: nqx(end=repeated(settings(scale=0.8))), "repeats number .* with another value"),
    "numbers of another type": (lambda: nqx(end=npy(np.asarray(1))), r"is \[\] of '<i8'; \[\] of <f8"),
    "flag for a number": (lambda: nqx(end=repeated(settings(scale=True))), r"is \[\] of '\|b1'; \[\] of <f8"),
}


@pytest.mark.parametrize("case", FILES)
def test_broken_or_hostile_file_is_refused_and_nothing_is_run(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, message = FILES[case]
    assert_refused(make(), message, tmp_path, capsys)


def test_no_header_is_compiled(tmp_path):
    """numpy's own reader gives the text of a header to Python's compiler."""
    seen = []
    sys.addaudithook(lambda event, _: seen.append(event) if armed and event in ("compile", "exec", "import") else None)
    data, array = nqx(), io.BytesIO(npy(ODD))
    convert_bytes(data, tmp_path)
    armed.append(True)
    try:
        convert_bytes(data, tmp_path)
        assert not seen
        np.load(array)
        assert seen  # the hook hears it
    finally:
        armed.clear()


armed = []


def test_limits_are_kept(tmp_path, capsys, monkeypatch):
    convert_bytes(nqx(), tmp_path)
    (tmp_path / "tiny.nqx").unlink()
    monkeypatch.setattr(archive, "MAX_BYTES", 50)
    assert_refused(nqx(), "at most 50 are read", tmp_path, capsys)
    for path, message in ((tmp_path / "absent.nqx", "does not exist; a .nqx file is needed"), (tmp_path, "regular")):
        with pytest.raises(weights_convert.RefusedFile, match=message):
            weights_convert.convert_nequix(path)


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    """The file with damage to the settings, to a header or anywhere."""
    data = bytearray(whole + (repeated(settings()) if random.random() < 0.3 else b""))
    first = data.index(b"\n") + 1
    headers, at = [], data.find(b"\x93NUMPY")
    while at >= 0:
        headers.append(at)
        at = data.find(b"\x93NUMPY", at + 1)
    for _ in range(random.integers(1, 3)):
        match random.integers(3):
            case 0:
                at = int(random.integers(first))
            case 1:
                at = int(random.choice(headers)) + int(random.integers(80))
            case 2:
                at = int(random.integers(len(data)))
        match random.integers(5):
            case 0:
                data[at : at + 1] = bytes([(data[at : at + 1] or b"\0")[0] ^ 1 << int(random.integers(8))])
            case 1:
                data[at : at + 1] = bytes([int(random.integers(256))])
            case 2:
                del data[at : at + int(random.integers(1, 9))]
            case 3:
                data[at:at] = data[max(at - 9, 0) : at]
            case 4:
                other = int(random.integers(len(data)))
                data[at : at + 12] = data[other : other + 12]
    if random.random() < 0.1:
        del data[int(random.integers(len(data) + 1)) :]
    return bytes(data)


def assert_sound_or_refused(count: int, seed: int, tmp_path: Path) -> list[str]:
    """Convert damaged files; return what was said about each, nothing for a model that was written."""
    random, outcomes = np.random.default_rng(seed), []
    whole = nqx()
    _, expected = convert_bytes(whole, tmp_path)
    for index in range(count):
        path, out = tmp_path / "tiny.nqx", tmp_path / f"out{index}"
        path.write_bytes(damaged(whole, random))
        try:
            weights_convert.convert("nequix", path, out)
        except weights_convert.RefusedFile as refusal:
            outcomes.append(str(refusal))
            assert outcomes[-1].isascii() and "\n" not in outcomes[-1]
        else:
            outcomes.append("")
            config, tensors = weights_convert.convert_nequix(path)["tiny"]
            for file, data in model_files(config, tensors).items():
                assert (out / file).read_bytes() == data
                (out / file).unlink()
            out.rmdir()
            assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in expected.items()}
        assert [file.name for file in tmp_path.iterdir()] == ["tiny.nqx"]
    return outcomes


def test_damaged_file_is_converted_soundly_or_refused(tmp_path):
    outcomes = assert_sound_or_refused(400, 20250822, tmp_path)
    assert 20 < outcomes.count("") < 380 and len(set(outcomes)) > 60


@pytest.mark.slow
def test_file_damaged_in_thousands_of_ways_is_converted_soundly_or_refused(tmp_path):
    assert len(set(assert_sound_or_refused(4000, 20260129, tmp_path))) > 200
