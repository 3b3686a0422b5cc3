"""A file that is not a plain MACE model is refused in one sentence, whatever it is; nothing in it is run."""

import io
import struct
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import PROTO, STOP, Raw, emit, named, storage_id, tensor, zipped
from tiny_mace import changed, model, record, unzipped

import weights_convert
from weights_convert import archive, inert_pickle, torch_file
from weights_convert.__main__ import main
from weights_convert.torch_file import MAX_PICKLE_BYTES
from weights_convert.write import model_files

TINY = "tiny_odd"
PICKLE = next(name for name in unzipped(TINY) if name.endswith("/data.pkl"))
CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def stream(opcodes: bytes, stop: bytes = STOP) -> bytes:
    """A torch file of these opcodes, with one storage of four numbers."""
    return zipped({"x/data.pkl": PROTO + opcodes + stop, "x/data/0": bytes(16)})


def call(module: str, name: str, *arguments: object, code: bytes = b"R") -> bytes:
    return named(module, name) + emit(arguments, {}) + code


def module(**state: object) -> bytes:
    """A pickled ScaleShiftMACE with this state; values are opcodes."""
    tables = {"_parameters": Raw(b"}"), "_buffers": Raw(b"}"), "_modules": Raw(b"}")}
    made = call("mace.modules.models", "ScaleShiftMACE", code=b"\x81")
    return made + emit(tables | state, {}) + b"b"


MADE = call("mace.modules.models", "ScaleShiftMACE", code=b"\x81")
DOUBLED = b"Nq\x00" + b"h\x00\x86q\x00" * 60
STREAMS = {
    "command": (call("posix", "system", "touch ran"), "'posix.system', not an allowed global"),
    "command of os": (call("os", "system", "touch ran"), "'os.system', not an allowed global"),
    "process": (call("subprocess", "Popen", "touch ran"), "'subprocess.Popen', not an allowed"),
    "eval": (call("builtins", "eval", "open('ran', 'w')"), "'builtins.eval', not an allowed"),
    "exec of Python 2": (call("__builtin__", "exec", "open('ran', 'w')"), "'__builtin__.exec', not an allowed"),
    "getattr": (call("builtins", "getattr", "a", "b"), "'builtins.getattr', not an allowed global"),
    "import": (call("importlib", "import_module", "os"), "'importlib.import_module', not an allowed"),
    "torch hub": (call("torch.hub", "load", "x"), "'torch.hub.load', not an allowed global"),
    "torch load": (call("torch", "load", "x"), "'torch.load', not an allowed global"),
    "jit": (call("torch.jit", "load", "x"), "'torch.jit.load', not an allowed global"),
    "storage from bytes": (call("torch.storage", "_load_from_bytes", "x"), "not an allowed global"),
    "unknown block": (named("mace.modules.blocks", "Evil") + b")\x81", "'mace.modules.blocks.Evil', not an allowed"),
    "path in a name": (named("mace.modules.blocks", "sys.modules"), "'mace.modules.blocks.sys.modules', not an"),
    "new object of a function": (named("collections", "OrderedDict") + b")\x81", r"opcode b'\\x81' is not allowed on"),
    "new object of a storage": (named("torch", "FloatStorage") + b")\x81", r"opcode b'\\x81' is not allowed on"),
    "new object of a text": (b"X\x01\0\0\0a)\x81", r"opcode b'\\x81' is not allowed on 'a', only on a known class"),
    "new object of a record": (MADE + b")\x81", r"opcode b'\\x81' is not allowed on a Record"),
    "new object without a tuple": (named("mace.modules.models", "MACE") + b"]\x81", "only allowed globals are called"),
    "new object with keywords": (named("mace.modules.models", "MACE") + b")}\x92", r"opcode b'\\x92' is not allowed"),
    "call of a record": (MADE + b")R", "calls a Record; only allowed globals are called"),
    "state of a class": (named("mace.modules.models", "MACE") + b"}b", "gives a state to a InertClass"),
    "state of a parameter": (
        call("torch._utils", "_rebuild_parameter", Raw(tensor(storage_id("0", 4), 0, (4,), (1,))), True, {}) + b"}b",
        "gives a state to a Tensor of 4",
    ),
    "second state": (module() + b"}b", "gives a state to a Record, which takes none"),
    "parameter of a text": (call("torch._utils", "_rebuild_parameter", "x", True, {}), "a parameter is not described"),
    "parameter of little": (call("torch._utils", "_rebuild_parameter"), "a parameter is not described"),
    "compiled graph": (
        module(_modules=Raw(emit({"g": Raw(call("torch.fx.graph_module", "reduce_graph_module", "import os"))}, {}))),
        "a compiled graph has tensors of its own",
    ),
    "module in itself": (MADE + b"q\x00}X\x01\0\0\0ah\x00sb", "nests endlessly"),
    "module among its modules": (MADE + b"q\x00}X\x08\0\0\0_modules}X\x01\0\0\0ah\x00ssb", "nests endlessly"),
    "doubled": (DOUBLED, "nests endlessly"),
    "doubled modules": (module(_modules=Raw(DOUBLED)), "nests endlessly"),
    "deep modules": (b"N" + b"\x85" * 1000, "nests endlessly"),
    "huge text": (b"X\xff\xff\xff\xff", "ends too early"),
    "huge integer": (b"\x8a\xff" + b"\x7f" * 255, "more than 64 bits"),
    "storage larger than the file": (storage_id("0", 2**31 - 1), "storage '0' has 16 bytes; 2147483647 numbers"),
    "storage of another type": (storage_id("0", 4, "DoubleStorage"), "storage '0' has 16 bytes"),
    "storage of a path": (storage_id("../x", 4), "is not that of a storage"),
    "brain floats": (storage_id("0", 8, "BFloat16Storage"), "'torch.BFloat16Storage', not an allowed"),
    "tensor beyond storage": (tensor(storage_id("0", 4), 2, (3,), (1,)), "element 4 of a storage of 4"),
    "tensor of no stride": (tensor(storage_id("0", 4), 0, (10**6, 10**6), (0, 0)), "more elements than the 4"),
    "dictionary": (b"}", "the file's object is not a pickled torch module"),
    "class": (named("mace.modules.models", "MACE"), "the file's object is not a pickled torch module"),
    "module without state": (MADE, "the file's object is not a pickled torch module"),
    "state that is a list": (MADE + b"]b", "the file's object is not a pickled torch module"),
    "state without tables": (MADE + b"}b", "the file's object has no _modules by name"),
    "numbered tables": (module(_modules=Raw(emit({1: None}, {}))), "the file's object has no _modules by name"),
    "empty model": (module(), "has weights of None"),
    "another module": (call("torch.nn.modules.container", "ModuleList", code=b"\x81") + module()[len(MADE) :], "only"),
    "nothing": (b"", "more values than it has put down"),
}


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite bytes of every zip header of this kind."""
    out, at = bytearray(data), data.find(signature)
    while at >= 0:
        out[at + offset : at + offset + len(value)] = value
        at = data.find(signature, at + 4)
    return bytes(out)


def duplicated() -> bytes:
    buffer = io.BytesIO(model(TINY))
    with zipfile.ZipFile(buffer, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(PICKLE, b"other")
    return buffer.getvalue()


def with_member(name: str, data: bytes | None) -> bytes:
    files = unzipped(TINY) | {PICKLE.replace("data.pkl", name): data}
    return zipped({name: data for name, data in files.items() if data is not None})


FILES = {
    "empty": (lambda: b"", "is not a whole zip archive"),
    "bare pickle": (lambda: unzipped(TINY)[PICKLE], "is not a whole zip archive"),
    "truncated": (lambda: model(TINY)[:-200], "is not a whole zip archive"),
    "half": (lambda: model(TINY)[: len(model(TINY)) // 2], "is not a whole zip archive"),
    "hole": (lambda: model(TINY)[:200_000] + model(TINY)[200_100:], "malformed"),
    "flipped bit": (lambda: patched(model(TINY), LOCAL, 300, b"\xff"), "is not a whole zip archive"),
    "duplicate members": (duplicated, "two members of one name"),
    "encrypted": (lambda: patched(model(TINY), CENTRAL, 8, b"\x01\0"), "is encrypted"),
    "bomb": (lambda: zipped({"x/data.pkl": bytes(10**7)}, zipfile.ZIP_DEFLATED), "a zip bomb"),
    "declared bomb": (lambda: patched(model(TINY), CENTRAL, 24, b"\xf0\xff\xff\xff"), "unpacks to .* bytes; at most"),
    "overlap": (lambda: patched(model(TINY), CENTRAL, 20, b"\0\0\x01\0"), "overlap or reach past its end"),
    "huge pickle": (lambda: zipped({"x/data.pkl": bytes(MAX_PICKLE_BYTES + 1)}), "at most 16777216"),
    "two pickles": (lambda: zipped(unzipped(TINY) | {"other/data.pkl": b"N."}), "has 2 members <root>/data.pkl"),
    "no pickle": (lambda: with_member("data.pkl", None), "has 0 members <root>/data.pkl"),
    "big-endian": (lambda: with_member("byteorder", b"big"), "little-endian"),
    "storage gone": (lambda: with_member("data/3", None), "storage '3' is missing"),
    "storage short": (lambda: with_member("data/3", b"\0\0\0"), "storage '3' has 3 bytes"),
    "container in the pickle's place": (lambda: with_member("data.pkl", model(TINY)), "pickle"),
    "many blocks": (
        lambda: changed(TINY, lambda tree: tree.set("interactions.0.hidden_irreps", many_blocks(20_000))),
        "only irreps 0e, 1o, 2e",
    ),
    "wide layer": (
        lambda: changed(TINY, lambda tree: tree.set("interactions.0.conv_tp_weights.hs", [6, 2**30, 18])),
        "hs = a list of 3 is not supported, only widths from 1 to",
    ),
    "zero-dimensional species": (
        lambda: changed(TINY, lambda tree: tree.replace("atomic_numbers", tree.add(np.zeros(10**6, "i8")))),
        r"atomic_numbers is \[1000000\]",
    ),
}


def many_blocks(count: int):
    """Irreps of so many blocks."""
    return record(
        "e3nn.o3._irreps Irreps",
        tuple(
            record("e3nn.o3._irreps _MulIr", (1, record("e3nn.o3._irreps Irrep", (l, (-1) ** l)))) for l in range(count)
        ),
    )


def assert_refused(path: Path, message: str, tmp_path: Path, capsys) -> None:
    """Both doors refuse: the function by its exception, the command by one line on stderr and status 2."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(weights_convert.RefusedFile, match=message) as refusal:
        weights_convert.convert("mace", path, tmp_path / "out")
    text = str(refusal.value)
    assert text.isascii() and "\n" not in text and not text.endswith(".") and len(text) < 300
    assert main(["mace", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr() == ("", f"weights_convert: {text}\n")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("case", STREAMS)
def test_hostile_pickle_is_refused_and_not_run(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opcodes, message = STREAMS[case]
    (tmp_path / "bad.model").write_bytes(stream(opcodes))
    assert_refused(tmp_path / "bad.model", message, tmp_path, capsys)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("case", FILES)
def test_broken_file_is_refused(case, tmp_path, capsys):
    make, message = FILES[case]
    (tmp_path / "bad.model").write_bytes(make())
    assert_refused(tmp_path / "bad.model", message, tmp_path, capsys)


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
    (tmp_path / "tiny.model").write_bytes(model(TINY))
    monkeypatch.setattr(module, limit, 50)
    assert_refused(tmp_path / "tiny.model", message, tmp_path, capsys)


def test_tensors_that_share_a_storage_are_counted_one_by_one(tmp_path, capsys, monkeypatch):
    """A small file may describe any number of large tensors."""
    size = sum(array.nbytes for array in converted(model(TINY), tmp_path).values())
    monkeypatch.setattr(torch_file, "MAX_TENSOR_BYTES", 2 * size)
    converted(model(TINY), tmp_path)
    monkeypatch.setattr(torch_file, "MAX_TENSOR_BYTES", size)
    (tmp_path / "bad.model").write_bytes(model(TINY))
    assert_refused(tmp_path / "bad.model", "the tensors have together more than", tmp_path, capsys)


def converted(data: bytes, tmp_path: Path) -> dict[str, np.ndarray]:
    (tmp_path / "good.model").write_bytes(data)
    ((_, tensors),) = weights_convert.convert_mace(tmp_path / "good.model").values()
    (tmp_path / "good.model").unlink()
    return tensors


def with_basis(output: int, nu: int, change) -> bytes:
    """The file with U of the first layer replaced by a function of it."""
    name = f"products.0.symmetric_contractions.contractions.{output}.U_matrix_{nu}"

    def replace(tree):
        tree.replace(name, tree.add(change(tree.array(tree.tensors()[name]).copy())))

    return changed(TINY, replace)


@pytest.mark.parametrize(("output", "nu"), [(0, 1), (0, 2), (1, 1), (1, 2)])
def test_symmetric_basis_that_is_not_equivariant_is_refused(output, nu, tmp_path, capsys):
    def perturbed(place, by):
        def change(u):
            flat = u.reshape(-1, u.shape[-1])
            entries = np.flatnonzero(flat[:, -1] if place == "full" else flat[:, -1] == 0)
            flat[entries[len(entries) // 2], -1] += by
            return u

        return change

    converted(with_basis(output, nu, lambda u: -2 * u), tmp_path)  # another basis of the same space
    for place in ("full", "empty"):
        converted(with_basis(output, nu, perturbed(place, 1e-9)), tmp_path)
        if place == "empty" or nu > 1 or output:  # a scalar alone may have any size
            (tmp_path / "bad.model").write_bytes(with_basis(output, nu, perturbed(place, 1e-3)))
            assert_refused(tmp_path / "bad.model", "U_matrix_. is not equivariant", tmp_path, capsys)


def test_only_a_file_is_read(tmp_path, capsys):
    assert_refused(tmp_path / "absent.model", "does not exist; a .model file is needed", tmp_path, capsys)
    (tmp_path / "folder").mkdir()
    assert_refused(tmp_path / "folder", "is not a regular file", tmp_path, capsys)


def test_code_in_a_compiled_graph_is_neither_run_nor_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = "products.0.symmetric_contractions.contractions.0.graph_opt_main"
    code = "def forward(self):\n    open('ran', 'w')\nopen('ran', 'w')\n"
    data = changed(TINY, lambda tree: tree.module(graph).args[0].update(_code=code))
    assert b"open('ran'" in data
    (tmp_path / "tiny.model").write_bytes(data)
    ((_, (config, tensors)),) = weights_convert.convert_mace(tmp_path / "tiny.model").items()
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.model"]
    assert not any(b"open(" in data for data in model_files(config, tensors).values())


@lru_cache
def bare() -> dict[str, bytes]:
    """The members of the file without compiled code, which is most of its pickle, so that damage hits the rest."""

    def strip(part: inert_pickle.Record) -> None:
        if part.state is None:  # a compiled graph
            part.args[0]["_code"] = ""
        else:
            part.state.pop("__codegen__", None)
            for below in part.state["_modules"].values():
                if below is not None:
                    strip(below)

    with zipfile.ZipFile(io.BytesIO(changed(TINY, lambda tree: strip(tree.root)))) as file:
        return {name: file.read(name) for name in file.namelist()}


def damaged(random: np.random.Generator) -> bytes:
    """A real file with damage to the zip itself or (checksums then fit) to the pickle or a storage inside it."""
    files = unzipped(TINY) if random.random() < 0.5 else bare()
    kind = random.integers(5)
    name = PICKLE if kind < 3 else str(random.choice(sorted(files)))
    data = bytearray(model(TINY) if kind == 4 else files[name])
    end = len(data)
    # the directory of a zip is at its end
    start = end - 12_000 if kind == 4 and random.random() < 0.7 else 0
    for _ in range(random.integers(1, 3)):
        at = int(random.integers(start, len(data) + 1))
        match random.integers(5):
            case 0 if at < len(data):
                data[at] ^= 1 << int(random.integers(8))
            case 1 if at < len(data):
                data[at] = int(random.integers(256))
            case 2:
                del data[at : at + int(random.integers(1, 9))]
            case 3:
                data[at:at] = data[max(at - 9, 0) : at] or struct.pack("<I", random.integers(2**32))
            case 4:
                other = int(random.integers(len(data) + 1))
                data[at : at + 12] = data[other : other + 12]
    if random.random() < 0.1:
        del data[int(random.integers(len(data) + 1)) :]
    return bytes(data) if kind == 4 else zipped(files | {name: bytes(data)})


def assert_sound_or_refused(count: int, seed: int, tmp_path: Path) -> list[str]:
    """Convert damaged files; return what was said about each, nothing for a model that was written."""
    random, outcomes = np.random.default_rng(seed), []
    (tmp_path / "original.model").write_bytes(model(TINY))
    ((_, (_, expected)),) = weights_convert.convert_mace(tmp_path / "original.model").items()
    for index in range(count):
        path, out = tmp_path / "tiny.model", tmp_path / f"out{index}"
        path.write_bytes(damaged(random))
        try:
            weights_convert.convert("mace", path, out)
        except weights_convert.RefusedFile as refusal:
            outcomes.append(str(refusal))
            assert outcomes[-1].isascii() and "\n" not in outcomes[-1]
        else:
            outcomes.append("")
            ((_, (config, tensors)),) = weights_convert.convert_mace(path).items()
            for file, data in model_files(config, tensors).items():
                assert (out / file).read_bytes() == data
                (out / file).unlink()
            out.rmdir()
            assert {name: array.shape for name, array in tensors.items()} == {
                name: array.shape for name, array in expected.items()
            }
        assert {file.name for file in tmp_path.iterdir()} == {"original.model", "tiny.model"}
    return outcomes


def test_damaged_model_is_converted_soundly_or_refused(tmp_path):
    outcomes = assert_sound_or_refused(400, 20231203, tmp_path)
    assert 20 < outcomes.count("") < 380 and len(set(outcomes)) > 60


@pytest.mark.slow
def test_model_damaged_in_many_ways_is_converted_soundly_or_refused(tmp_path):
    outcomes = assert_sound_or_refused(1000, 20240107, tmp_path)
    assert len(set(outcomes)) > 100
