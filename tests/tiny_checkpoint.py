"""Torch files written opcode by opcode, and a SevenNet checkpoint small enough to know every number of it."""

import io
import itertools
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

PROTO, STOP = b"\x80\x02", b"."


class Raw(bytes):
    """Opcodes that go into the stream as they are."""


class Stored(NamedTuple):
    """An array as a tensor whose storage has its axes in the order `axes`, after `offset` other numbers."""

    array: np.ndarray
    axes: tuple[int, ...] | None = None
    offset: int = 0


def named(module: str, name: str) -> Raw:
    return Raw(f"c{module}\n{name}\n".encode())


def emit(value: Any, storages: dict[str, bytes]) -> bytes:
    """Opcodes of pickle protocol 2 that put down `value`; storages of tensors are collected on the way."""
    match value:
        case Raw():
            return value
        case Stored():
            return _emit_tensor(value, storages)
        case np.ndarray():
            return pickle.dumps(value, 2)[2:-1]
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(emit(item, storages) for item in value) + b"t"
        case list():
            return b"](" + b"".join(emit(item, storages) for item in value) + b"e"
        case dict():
            start = named("collections", "OrderedDict") + b")R" if isinstance(value, OrderedDict) else b"}"
            pairs = b"".join(emit(item, storages) for pair in value.items() for item in pair)
            state = b"}b" if isinstance(value, OrderedDict) else b""
            return start + b"(" + pairs + b"u" + state
    raise TypeError(type(value))


def storage_id(key: str, size: int, kind: str = "FloatStorage") -> Raw:
    return Raw(emit(("storage", named("torch", kind), key, "cpu", size), {}) + b"Q")


def tensor(storage: bytes, offset: Any, shape: Any, strides: Any) -> Raw:
    hooks = named("collections", "OrderedDict") + b")R"
    arguments = (Raw(storage), offset, shape, strides, False, Raw(hooks))
    return Raw(named("torch._utils", "_rebuild_tensor_v2") + emit(arguments, {}) + b"R")


def _emit_tensor(stored: Stored, storages: dict[str, bytes]) -> bytes:
    array, key = stored.array, str(len(storages))
    axes = stored.axes or tuple(range(array.ndim))
    kind = {"f4": "FloatStorage", "f8": "DoubleStorage"}[array.dtype.str[1:]]
    strides = [0] * array.ndim
    for place, axis in enumerate(axes):
        strides[axis] = math.prod(array.shape[later] for later in axes[place + 1 :])
    before = np.full(stored.offset, 777, array.dtype)
    storages[key] = before.tobytes() + array.transpose(axes).tobytes()
    number = storage_id(key, stored.offset + array.size, kind)
    return tensor(number, stored.offset, array.shape, tuple(strides))


def members(top: Any, root: str = "tiny") -> dict[str, bytes]:
    """The members of the torch file of `top`."""
    storages: dict[str, bytes] = {}
    pickled = PROTO + emit(top, storages) + STOP
    data = {f"{root}/data/{key}": raw for key, raw in storages.items()}
    return {f"{root}/data.pkl": pickled, f"{root}/byteorder": b"little", **data, f"{root}/version": b"3\n"}


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


# Three layers: [4] -> [4, 3, 2] -> [2, 1, 3] -> [6] channels, lmax 2; the shapes are worked out by hand.
FLIPPED = [(1, 2, 2), (2, 2, 1)]
_SHAPES = {
    "embedding": (3, 4),
    "bessel_frequencies": (5,),
    "denominators": (3,),
    "shift": (3,),
    "scale": (3,),
    "readout.0": (6, 3),
    "readout.1": (3, 1),
    "layers.0.self_connection.0": (4, 9),
    "layers.0.linear_1.0": (4, 4),
    "layers.0.radial.0": (5, 6),
    "layers.0.radial.1": (6, 7),
    "layers.0.radial.2": (7, 12),
    "layers.0.linear_2.0": (4, 9),
    "layers.0.linear_2.1": (4, 3),
    "layers.0.linear_2.2": (4, 2),
    "layers.1.self_connection.0": (4, 6),
    "layers.1.self_connection.1": (3, 1),
    "layers.1.self_connection.2": (2, 3),
    "layers.1.linear_1.0": (4, 4),
    "layers.1.linear_1.1": (3, 3),
    "layers.1.linear_1.2": (2, 2),
    "layers.1.radial.0": (5, 6),
    "layers.1.radial.1": (6, 7),
    "layers.1.radial.2": (7, 42),
    "layers.1.linear_2.0": (9, 6),
    "layers.1.linear_2.1": (17, 1),
    "layers.1.linear_2.2": (16, 3),
    "layers.2.self_connection.0": (2, 6),
    "layers.2.linear_1.0": (2, 2),
    "layers.2.linear_1.1": (1, 1),
    "layers.2.linear_1.2": (3, 3),
    "layers.2.radial.0": (5, 6),
    "layers.2.radial.1": (6, 7),
    "layers.2.radial.2": (7, 6),
    "layers.2.linear_2.0": (6, 6),
}
_MODAL_SHAPES = {
    "shift": (2, 3),
    "readout.modality": (2, 3),
    "layers.0.linear_1.modality": (2, 4),
    "layers.0.linear_2.modality": (2, 9),
    "layers.1.linear_1.modality": (2, 4),
    "layers.1.linear_2.modality": (2, 6),
    "layers.2.linear_1.modality": (2, 2),
    "layers.2.linear_2.modality": (2, 6),
}
# features that a mask covers, and how many of them (from the front) something leads to
_MASKS = {
    "onehot_to_feature_x.linear": (4, 4),
    "0_self_connection_intro.linear": (28, 9),
    "0_self_interaction_1.linear": (4, 4),
    "0_convolution.convolution": (36, 36),
    "0_self_interaction_2.linear": (28, 28),
    "0_equivariant_gate.gate.mul": (19, 19),
    "1_self_connection_intro.linear": (24, 24),
    "1_self_interaction_1.linear": (23, 23),
    "1_convolution.convolution": (140, 140),
    "1_self_interaction_2.linear": (24, 24),
    "1_equivariant_gate.gate.mul": (18, 18),
    "2_self_connection_intro.linear": (6, 6),
    "2_self_interaction_1.linear": (20, 20),
    "2_convolution.convolution": (6, 6),
    "2_self_interaction_2.linear": (6, 6),
    "2_equivariant_gate.gate.mul": (0, 0),
    "reduce_input_to_hidden.linear": (3, 3),
    "reduce_hidden_to_energy.linear": (1, 1),
}
_LINEAR = {
    "self_connection_intro": "self_connection",
    "self_interaction_1": "linear_1",
    "self_interaction_2": "linear_2",
}


def neutral_tensors(modalities: bool = False) -> dict[str, np.ndarray]:
    """What the converter should find: no number occurs twice."""
    shapes = _SHAPES | (_MODAL_SHAPES if modalities else {})
    tensors, start = {}, 1
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        tensors[name] = np.arange(start, stop, dtype=np.float32).reshape(shape)
        start = stop
    return tensors


def state_dict(tensors: dict[str, np.ndarray], three_j: Any) -> OrderedDict[str, Any]:
    """The tensors as sevenn stores them; 3j symbols and radial weights with their axes in another order."""
    state: dict[str, Any] = {
        "edge_embedding.basis_function.coeffs": tensors["bessel_frequencies"],
        "onehot_to_feature_x.linear.weight": tensors["embedding"].ravel(),
        "reduce_input_to_hidden.linear.weight": _flat(tensors, "readout.0", "readout.modality"),
        "reduce_hidden_to_energy.linear.weight": tensors["readout.1"].ravel(),
        "rescale_atomic_energy.shift": tensors["shift"],
        "rescale_atomic_energy.scale": tensors["scale"],
    }
    for t in range(3):
        state[f"{t}_convolution.denominator"] = tensors["denominators"][t : t + 1]
        for k in range(3):
            radial = Stored(tensors[f"layers.{t}.radial.{k}"], (1, 0), offset=k)
            state[f"{t}_convolution.weight_nn.layer{k}.weight"] = radial
        for module, name in _LINEAR.items():
            blocks = [f"layers.{t}.{name}.{block}" for block in (0, 1, 2, "modality")]
            state[f"{t}_{module}.linear.weight"] = _flat(tensors, *blocks)
    for path in itertools.product((1, 2), repeat=3):
        symbol = np.float32(-1 if path in FLIPPED else 1) * three_j(*path).astype(np.float32)
        name = "1_convolution.convolution._compiled_main_left_right._w3j_{}_{}_{}".format(*path)
        state[name] = Stored(symbol, (1, 2, 0))
    for module, (size, fed) in _MASKS.items():
        state[f"{module}.output_mask"] = (np.arange(size) < fed).astype(np.float32)
        empty = "bias" if module.endswith("linear") else "weight"
        state[f"{module}.{empty}"] = np.zeros(0, np.float32)
    stored = {name: value if isinstance(value, Stored) else Stored(value) for name, value in state.items()}
    return OrderedDict(sorted(stored.items()))


def _flat(tensors: dict[str, np.ndarray], *names: str) -> np.ndarray:
    return np.concatenate([tensors[name].ravel() for name in names if name in tensors])


def settings(modalities: bool = False) -> dict[str, Any]:
    """The `config` of the checkpoint, with some of the ballast of real ones."""
    modal = {
        "use_modality": True,
        "_modal_map": {"high": 1, "low": 0},
        "_number_of_modalities": 2,
        "use_modal_node_embedding": False,
        "use_modal_self_inter_intro": True,
        "use_modal_self_inter_outro": True,
        "use_modal_output_block": True,
        "use_modal_wise_shift": True,
        "use_modal_wise_scale": False,
    }
    return {
        "version": "0.9.2",
        "_model_type": "E3_equivariant_model",
        "cutoff": 4.0,
        "num_convolution_layer": 3,
        "lmax": 2,
        "lmax_edge": -1,
        "irreps_manual": ["4x0e", "4x0e+3x1e+2x2e", "2x0e+1x1e+3x2e", "6x0e"],
        "is_parity": False,
        "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6},
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5},
        "weight_nn_hidden_neurons": [6, 7],
        "act_radial": "silu",
        "act_scalar": {"e": "silu", "o": "tanh"},
        "act_gate": {"e": "silu", "o": "tanh"},
        "self_connection_type": "linear",
        "use_bias_in_linear": False,
        "readout_as_fcn": False,
        "_normalize_sph": True,
        "_number_of_species": 3,
        "_type_map": {1: 2, 8: 0, 26: 1},
        "shift": np.arange(3.0, dtype=np.float32),
        "device": Raw(named("torch", "device") + emit(("cuda",), {}) + b"R"),
        "optim_param": {"lr": 0.01},
        **(modal if modalities else {"use_modality": False}),
    }


def with_old_names(state: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
    """The names that sevenn used before April 2024."""
    old = {
        "edge_embedding": "EdgeEmbedding",
        "reduce_input_to_hidden": "reducing nn input to hidden",
        "reduce_hidden_to_energy": "reducing nn hidden to energy",
        "rescale_atomic_energy": "rescale atomic energy",
    }
    for t in range(3):
        for module in ("convolution", "self_connection_intro", "self_interaction_2", "equivariant_gate"):
            old[f"{t}_{module}"] = f"{t} {module.replace('_', ' ')}"
    renamed = OrderedDict()
    for name, value in state.items():
        module, rest = name.split(".", 1)
        renamed[f"{old.get(module, module)}.{rest.replace('denominator', 'denumerator')}"] = value
    return renamed


def checkpoint(config: dict[str, Any], state: OrderedDict[str, Any]) -> dict[str, Any]:
    """The top-level dictionary of a checkpoint, with an optimiser state that nobody should read."""
    moments = {0: {"step": 3, "exp_avg": Stored(np.full(4, np.nan, np.float32))}}
    return {
        "model_state_dict": state,
        "optimizer_state_dict": {"state": moments, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "scheduler_state_dict": {"factors": [1.0, None], "done": True},
        "config": config,
        "epoch": 600,
    }
