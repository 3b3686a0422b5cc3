"""A file that is not a plain checkpoint is refused in one sentence, whatever it is; nothing in it is run."""

import io
import os
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import (
    PROTO,
    STOP,
    Stored,
    checkpoint,
    emit,
    members,
    named,
    neutral_tensors,
    settings,
    state_dict,
    storage_id,
    tensor,
    zipped,
)

import weights_convert
from weights_convert import archive, inert_pickle, torch_file
from weights_convert.__main__ import main
from weights_convert.sevennet_sources import KNOWN
from weights_convert.three_j import three_j
from weights_convert.torch_file import MAX_PICKLE_BYTES

ROOT = Path(weights_convert.__file__).parents[1]
ONE = emit(Stored(np.ones(4, np.float32)), {})  # the tensor of storage 0, four numbers
FOUR = {"x/data/0": bytes(16)}


def good() -> dict[str, bytes]:
    """The members of a small checkpoint that converts."""
    return members(checkpoint(settings(), state_dict(neutral_tensors(), three_j)))


def stream(opcodes: bytes, stop: bytes = STOP) -> bytes:
    """A torch file of these opcodes, with one storage of four numbers."""
    return zipped({"x/data.pkl": PROTO + opcodes + stop, **FOUR})


def call(module: str, name: str, *arguments: object) -> bytes:
    return named(module, name) + emit(arguments, {}) + b"R"


def deep(times: int, step: bytes) -> bytes:
    return b"N" + step * times


def doubled(times: int) -> bytes:
    """A tuple of itself twice, again and again: 2^times values in a few bytes."""
    return b"Nq\x00" + b"h\x00\x86q\x00" * times


def wide() -> bytes:
    """A list of 99 times the same list of 999 times the same list of 999 values."""
    inner = b"](" + b"N" * 999 + b"eq\x00"
    middle = b"](" + inner + b"h\x00" * 998 + b"eq\x01"
    return b"](" + middle + b"h\x01" * 98 + b"e"


STREAMS = {
    "command": (call("posix", "system", "touch ran"), "'posix.system', not an allowed global"),
    "eval": (call("builtins", "eval", "open('ran', 'w')"), "'builtins.eval', not an allowed"),
    "function by a path": (call("torch._utils", "os.system", "touch ran"), "not an allowed global"),
    "stack global": (b"\x8c\x05posix\x8c\x06system\x93", r"opcode b'\\x8c' is not allowed"),
    "instance": (b"(X\x09\0\0\0touch raniposix\nsystem\n", "opcode b'i' is not allowed"),
    "object": (b"(" + named("posix", "system") + b"o", "'posix.system', not an allowed"),
    "new object": (named("collections", "OrderedDict") + b")\x81", r"opcode b'\\x81' is not allowed"),
    "extension": (b"\x82\x01", r"opcode b'\\x82' is not allowed"),
    "state of a class": (named("torch", "FloatStorage") + b"}b", "gives a state to a StorageType of 1"),
    "state of a function": (named("collections", "OrderedDict") + b"}b", "gives a state to a function"),
    "state of a plain dictionary": (b"}}b", "gives a state to a dict of 0, which takes none"),
    "state of a tensor": (ONE + b"}b", "gives a state to a Tensor of 4"),
    "second state": (call("numpy", "dtype", "f4") + b"}b}b", "gives a state to a Record, which takes none"),
    "call of a text": (b"X\x01\0\0\0a)R", "calls 'a'; only allowed globals"),
    "call of a look-alike": (emit(("<f4",), {}) + b")R", "calls a tuple of 1; only allowed globals"),
    "call of a storage": (named("torch", "FloatStorage") + b")R", "calls a storage class"),
    "call with a list": (named("torch", "device") + b"]R", "only allowed globals"),
    "filled dictionary": (call("collections", "OrderedDict", [("a", 1)]), "fills an OrderedDict"),
    "list in itself": (b"]q\x00h\x00a", "nests endlessly"),
    "dictionary in itself": (b"}q\x00X\x01\0\0\0ah\x00s", "nests endlessly"),
    "state in itself": (call("numpy", "dtype") + b"q\x00h\x00b", "nests endlessly"),
    "deep": (deep(1000, b"\x85"), "nests endlessly"),
    "doubled": (doubled(60), "nests endlessly"),
    "wide": (wide(), "nests endlessly"),
    "doubled as key": (b"}" + doubled(60) + b"Ns", "has a tuple of 2 as key"),
    "boolean as key": (b"}\x88Ns", "has True as key"),
    "huge memo index": (b"Nr\xff\xff\xff\x7f", "no dictionary `config`"),
    "unknown memo": (b"h\x07", "recalls value 7"),
    "huge text": (b"X\xff\xff\xff\xff", "ends too early"),
    "huge bytes": (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", r"opcode b'\\x8e' is not"),
    "huge integer": (b"\x8a\xff" + b"\x7f" * 255, "more than 64 bits"),
    "decimal integer": (b"I" + b"9" * 10_000 + b"\n", "opcode b'I' is not allowed"),
    "unknown opcode": (b"\xff", r"opcode b'\\xff' is not allowed"),
    "text that is not one": (b"X\x01\0\0\0\xff", "the pickle stream is malformed .UnicodeDecodeError"),
    "empty stream": (b"", "more values than it has put down"),
    "two values": (b"NN", "leaves 1 values too many"),
    "underflow": (b"\x86", "more values than it has put down"),
    "mark as value": (b"(\x85", "more values than it has put down"),
    "no mark": (b"Nt", "a mark that it has not put down"),
    "append to nothing": (b"(Na", "appends to nothing"),
    "append to a tuple": (b")Na", "appends to a tuple of 0"),
    "items of a list": (b"]X\x01\0\0\0aNs", "sets items of a list"),
    "key without value": (b"}(Nu", "a key without a value"),
    "text as storage": (b"X\x01\0\0\0aQ", "persistent id 'a' is not that of a storage"),
    "path as storage": (storage_id("../0", 4), "is not that of a storage"),
    "look-alike storage": (emit(("storage", ("<f4",), "0", "cpu", 4), {}) + b"Q", "is not that of a storage"),
    "unknown storage class": (storage_id("0", 4, "QInt8Storage"), "not an allowed global"),
    "missing storage": (storage_id("1", 4), "storage '1' is missing; 4 numbers"),
    "too small storage": (storage_id("0", 5), "storage '0' has 16 bytes; 5 numbers"),
    "too large storage": (storage_id("0", 3), "storage '0' has 16 bytes; 3 numbers"),
    "oversized storage": (storage_id("0", 2**31 - 1), "storage '0' has 16 bytes"),
    "negative storage": (storage_id("0", -4), "storage '0' has 16 bytes"),
    "storage of another type": (storage_id("0", 4, "DoubleStorage"), "storage '0' has 16 bytes"),
    "tensor beyond storage": (tensor(storage_id("0", 4), 2, (3,), (1,)), "element 4 of a storage of 4"),
    "tensor before storage": (tensor(storage_id("0", 4), -1, (3,), (1,)), "not an integer of at least 0"),
    "negative stride": (tensor(storage_id("0", 4), 3, (3,), (-1,)), "not an integer of at least 0"),
    "stride bomb": (tensor(storage_id("0", 4), 0, (10**6, 10**6), (0, 0)), "more elements than the 4"),
    "boolean size": (tensor(storage_id("0", 4), 0, (True,), (1,)), "not an integer of at least 0"),
    "list as shape": (tensor(storage_id("0", 4), 0, [4], (1,)), "not described by a storage"),
    "stride missing": (tensor(storage_id("0", 4), 0, (2, 2), (1,)), "2 sizes and 1 strides"),
    "many dimensions": (tensor(storage_id("0", 4), 0, (1,) * 17, (1,) * 17), "17 sizes and 17 strides"),
    "tensor of a text": (tensor(b"X\x01\0\0\0a", 0, (1,), (1,)), "not described by a storage"),
    "tensor of too little": (call("torch._utils", "_rebuild_tensor_v2", 1), "described by 1 values"),
    "not a dictionary": (b"]", "no dictionary `config`"),
    "no config": (b"}", "no dictionary `config`"),
    "no state": (emit({"config": settings()}, {}), "model_state_dict is not a dictionary of tensors"),
    "numbers as state": (
        emit({"config": settings(), "model_state_dict": OrderedDict(a=1)}, {}),
        "model_state_dict is not a dictionary of tensors",
    ),
}


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite bytes of every zip header of this kind."""
    out, at = bytearray(data), data.find(signature)
    while at >= 0:
        out[at + offset : at + offset + len(value)] = value
        at = data.find(signature, at + 4)
    return bytes(out)


def duplicated() -> bytes:
    buffer = io.BytesIO(zipped(good()))
    with zipfile.ZipFile(buffer, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("tiny/data.pkl", b"other")
    return buffer.getvalue()


def changed(**changes: bytes | None) -> bytes:
    files = good()
    for name, data in changes.items():
        files |= {f"tiny/{name}": data}
    return zipped({name: data for name, data in files.items() if data is not None})


CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
FILES = {
    "empty": (lambda: b"", "is not a whole zip archive, as checkpoints .* are; it may be cut short"),
    "text": (lambda: b"\x80\x02N.", "is not a whole zip archive, as checkpoints .* are; it may be cut short"),
    "truncated": (
        lambda: zipped(good())[:-200],
        "is not a whole zip archive, as checkpoints .* are; it may be cut short",
    ),
    "truncated at the front": (lambda: zipped(good())[3000:], "malformed|zip"),
    "hole": (lambda: (z := zipped(good()))[:2000] + z[2100:], "malformed"),
    "flipped weight": (lambda: zipped(good()).replace(b"\0\0\x80\x40", b"\0\0\x80\x41"), "Bad CRC-32"),
    "encrypted": (lambda: patched(zipped(good()), CENTRAL, 8, b"\x01\0"), "is encrypted"),
    "duplicate members": (duplicated, "two members of one name"),
    "unusual compression": (lambda: zipped(good(), zipfile.ZIP_LZMA), "unusual compression"),
    "bomb": (lambda: zipped({"x/data.pkl": bytes(10**7)}, zipfile.ZIP_DEFLATED), "a zip bomb"),
    "declared bomb": (
        lambda: patched(zipped(good()), CENTRAL, 24, b"\xf0\xff\xff\xff"),
        "unpacks to .* bytes; at most",
    ),
    "overlap": (lambda: patched(zipped(good()), CENTRAL, 20, b"\0\0\x01\0"), "overlap or reach past its end"),
    "wrong sizes": (lambda: patched(zipped(good()), CENTRAL, 24, b"\x09\0\0\0"), "malformed|bytes"),
    "renamed inside": (lambda: patched(zipped(good()), LOCAL, 30, b"evil"), "malformed"),
    "large pickle": (lambda: zipped({"x/data.pkl": bytes(MAX_PICKLE_BYTES + 1)}), "at most 16777216"),
    "no pickle": (lambda: changed(**{"data.pkl": None}), "has 0 members <root>/data.pkl"),
    "two pickles": (lambda: zipped(good() | {"other/data.pkl": b"N."}), "has 2 members <root>/data.pkl"),
    "big-endian": (lambda: changed(byteorder=b"big"), "little-endian"),
    "storage gone": (lambda: changed(**{"data/3": None}), "storage '3' is missing"),
    "storage short": (lambda: changed(**{"data/3": b"\0\0\0"}), "storage '3' has 3 bytes"),
    "no stop": (lambda: stream(b"N", stop=b""), "ends too early"),
    "nested pickle": (lambda: changed(**{"data.pkl": zipped(good())}), "pickle"),
}


def assert_refused(path: Path, message: str | None, tmp_path: Path, capsys) -> None:
    """Both doors refuse: the function by its exception, the command by one line on stderr and status 2."""
    with pytest.raises(weights_convert.RefusedFile, match=message) as refusal:
        weights_convert.convert_sevennet(path)
    text = str(refusal.value)
    assert text.isascii() and "\n" not in text and not text.endswith(".") and len(text) < 300
    before = sorted(tmp_path.rglob("*"))
    assert main(["sevennet", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr() == ("", f"weights_convert: {text}\n")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("case", STREAMS)
def test_hostile_pickle_is_refused_and_not_run(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opcodes, message = STREAMS[case]
    (tmp_path / "bad.pth").write_bytes(stream(opcodes))
    assert_refused(tmp_path / "bad.pth", message, tmp_path, capsys)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("case", FILES)
def test_broken_archive_is_refused(case, tmp_path, capsys):
    make, message = FILES[case]
    (tmp_path / "bad.pth").write_bytes(make())
    assert_refused(tmp_path / "bad.pth", message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("module", "limit", "message"),
    [
        (archive, "MAX_BYTES", "at most 50 are read"),
        (archive, "MAX_MEMBERS", "has too many members; at most 50 are allowed"),
        (inert_pickle, "MAX_OPCODES", "at most 50 opcodes"),
        (inert_pickle, "MAX_NODES", "nests endlessly"),
        (torch_file, "MAX_TENSOR_BYTES", "the tensors have together more than 50 bytes"),
    ],
)
def test_limits_are_kept(module, limit, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "tiny.pth").write_bytes(zipped(good()))
    weights_convert.convert_sevennet(tmp_path / "tiny.pth")
    monkeypatch.setattr(module, limit, 50)
    assert_refused(tmp_path / "tiny.pth", message, tmp_path, capsys)


def test_nothing_but_a_file_or_folder_with_checkpoints_is_read(tmp_path, capsys):
    assert_refused(tmp_path / "absent.pth", "does not exist", tmp_path, capsys)
    (tmp_path / "folder").mkdir()
    assert_refused(tmp_path / "folder", "has no checkpoint of sevennet-0 or", tmp_path, capsys)
    os.mkfifo(tmp_path / "pipe.pth")
    assert_refused(tmp_path / "pipe.pth", "is not a regular file", tmp_path, capsys)


def test_wheel_gives_only_known_checkpoints(tmp_path, capsys):
    member = f"sevenn/pretrained_potentials/{KNOWN['sevennet-0'].member}"
    wheel = tmp_path / "sevenn.whl"
    for files, compression, message in (
        ({"sevenn/__init__.py": b""}, zipfile.ZIP_STORED, "has no checkpoint of sevennet-0 or"),
        ({member: zipped(good())}, zipfile.ZIP_DEFLATED, "is not the file known as sevennet-0"),
        ({member: bytes(10**7)}, zipfile.ZIP_DEFLATED, "a zip bomb"),
    ):
        wheel.write_bytes(zipped(files, compression))
        assert_refused(wheel, message, tmp_path, capsys)
    with pytest.raises(weights_convert.RefusedFile, match="model 'sevennet-9' is not known; sevennet-0, "):
        weights_convert.convert_sevennet(wheel, model="sevennet-9")


def test_command_says_one_sentence_and_no_traceback(tmp_path):
    (tmp_path / "bad.pth").write_bytes(stream(call("posix", "system", "touch ran")))
    for arguments in (["sevennet", "bad.pth", "-o", "out"], ["other", "bad.pth", "-o", "out"], ["sevennet"]):
        command = [sys.executable, "-m", "weights_convert", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
        assert run.stderr.startswith("weights_convert: ")
    assert [file.name for file in tmp_path.iterdir()] == ["bad.pth"]


def mutated(files: dict[str, bytes], random: np.random.Generator) -> bytes:
    """Damage the zip itself, or (checksums then fit) the pickle or a storage inside it."""
    kind = random.integers(4)
    name = "tiny/data.pkl" if kind < 2 else str(random.choice(sorted(files)))
    data = bytearray(zipped(files) if kind == 3 else files[name])
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(len(data) + 1))
        match random.integers(4):
            case 0 if at < len(data):
                data[at] ^= 1 << int(random.integers(8))
            case 1 if at < len(data):
                data[at] = int(random.integers(256))
            case 2:
                del data[at : at + int(random.integers(1, 9))]
            case 3:
                data[at:at] = data[at - 9 : at] or struct.pack("<I", random.integers(2**32))
    if random.random() < 0.1:
        del data[int(random.integers(len(data) + 1)) :]
    return bytes(data) if kind == 3 else zipped(files | {name: bytes(data)})


def test_damaged_checkpoint_is_converted_soundly_or_refused(tmp_path):
    files, random, outcomes = good(), np.random.default_rng(20240711), []
    expected = neutral_tensors()
    for _ in range(600):
        (tmp_path / "tiny.pth").write_bytes(mutated(files, random))
        try:
            ((_, tensors),) = weights_convert.convert_sevennet(tmp_path / "tiny.pth").values()
        except weights_convert.RefusedFile as refusal:
            outcomes.append(str(refusal))
        else:
            outcomes.append("")
            assert {name: array.shape for name, array in tensors.items()} == {
                name: array.shape for name, array in expected.items()
            }
            assert all(np.isfinite(array).all() for array in tensors.values())
    assert 20 < outcomes.count("") < 580 and len(set(outcomes)) > 100
