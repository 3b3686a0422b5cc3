"""The `config` of a SevenNet checkpoint: what shapes the network is understood or refused."""

import math
import re
from typing import Any

from .archive import RefusedFile, short
from .elements import SYMBOLS

SILU_NORM = 1.6791767923989418  # e3nn's estimate from 10^6 samples; the weights were trained with it
MAX_DEGREE = 3
_VERSION = r"([0-9]{1,4})\.([0-9]{1,4})\.[0-9]{1,4}(\.[a-z0-9]{1,20})?"

# key: (value the original assumes when the key is absent, values that are supported)
_FIXED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "_model_type": ("E3_equivariant_model", ("E3_equivariant_model",)),
    "dtype": ("single", ("single",)),
    "interaction_type": ("nequip", ("nequip",)),
    "is_parity": (True, (False,)),
    "act_radial": ("silu", ("silu",)),
    "use_bias_in_linear": (False, (False,)),
    "readout_as_fcn": (False, (False,)),
    "optimize_by_reduce": (True, (True,)),
    "use_flash_tp": (False, (False,)),
    "use_oeq": (False, (False,)),
}
_FIXED_WITH_MODALITIES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "use_modal_node_embedding": (False, (False,)),
    "use_modal_self_inter_intro": (False, (True,)),
    "use_modal_self_inter_outro": (False, (True,)),
    "use_modal_output_block": (False, (True,)),
    "use_modal_wise_shift": (False, (True,)),
    "use_modal_wise_scale": (False, (False,)),
}


def _refuse(key: str, value: Any, allowed: str) -> RefusedFile:
    return RefusedFile(f"hyper-parameter {key} = {short(value)} is not supported, only {allowed}")


def _check_fixed(config: dict, table: dict[str, tuple[Any, tuple[Any, ...]]]) -> None:
    for key, (absent, supported) in table.items():
        value = config.get(key, absent)
        if not any(type(value) is type(allowed) and value == allowed for allowed in supported):
            raise _refuse(key, value, " or ".join(map(repr, supported)))


def _integer(config: dict, key: str, low: int, high: int, absent: int | None = None) -> int:
    value = config.get(key, absent)
    if type(value) is not int or not low <= value <= high:
        raise _refuse(key, value, f"integers from {low} to {high}" if low < high else str(low))
    return value


def _number(config: dict, key: str, low: float, high: float) -> float:
    value = config.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low < value < high:
        raise _refuse(key, value, f"numbers between {low} and {high}")
    return float(value)


def _dictionary(config: dict, key: str) -> dict:
    value = config.get(key)
    if not isinstance(value, dict):
        raise _refuse(key, value, "a dictionary")
    return value


def sevenn_version(config: dict) -> str:
    """Return the version of sevenn that wrote the file; from 0.11 on the weights lie in another order."""
    version = config.get("version")
    match = re.fullmatch(_VERSION, version if isinstance(version, str) else "")
    if not match or (int(match[1]), int(match[2])) >= (0, 11):
        raise _refuse("version", version, "versions below 0.11")
    return match[0]


def species(config: dict) -> list[str]:
    """Return the symbols in the order of the rows of the embedding."""
    rows = _dictionary(config, "_type_map")
    numbers = sorted(rows, key=lambda number: (type(rows[number]) is int and rows[number], 0))
    if not rows or [rows[number] for number in numbers] != list(range(len(rows))):
        raise _refuse("_type_map", rows, "a dictionary from atomic numbers to rows counted from 0")
    if any(type(number) is not int or not 1 <= number <= len(SYMBOLS) for number in numbers):
        raise _refuse("_type_map", rows, f"atomic numbers from 1 to {len(SYMBOLS)}")
    _integer(config, "_number_of_species", len(rows), len(rows))
    return [SYMBOLS[number - 1] for number in numbers]


def _irreps(text: Any) -> list[int]:
    """Return [128, 64, 32] for '128x0e+64x1e+32x2e'."""
    multiplicities = []
    for degree, block in enumerate(text.split("+") if isinstance(text, str) and len(text) < 200 else [""]):
        match = re.fullmatch(r"([1-9][0-9]{0,5})x([0-9])e", block.strip())
        if not match or int(match[2]) != degree:
            raise _refuse("irreps_manual", text, "even irreps of l = 0, 1, ..., each once and in order")
        multiplicities.append(int(match[1]))
    return multiplicities


def _multiplicities(config: dict, layers: int, lmax: int) -> list[list[int]]:
    texts = config.get("irreps_manual")
    if not isinstance(texts, list) or len(texts) != layers + 1:
        raise _refuse("irreps_manual", texts, f"a list of {layers + 1} texts, one more than there are layers")
    multiplicities = [_irreps(text) for text in texts]
    if len(multiplicities[0]) != 1 or len(multiplicities[-1]) != 1:
        raise _refuse("irreps_manual", texts, "scalars before the first and after the last layer")
    if max(map(len, multiplicities)) > lmax + 1:
        raise _refuse("irreps_manual", texts, f"irreps up to lmax = {lmax}")
    if multiplicities[-1][0] % 2:
        raise _refuse("irreps_manual", texts, "an even number of channels after the last layer")
    return multiplicities


def _cutoff_function(config: dict, cutoff: float) -> dict[str, Any]:
    options = _dictionary(config, "cutoff_function")
    name = options.get("cutoff_function_name")
    if name == "XPLOR":
        return {"name": "xplor", "on": _number(options, "cutoff_on", 0.0, cutoff)}
    if name == "poly_cut":
        return {"name": "polynomial", "p": _integer(options, "poly_cut_p_value", 2, 32, absent=6)}
    raise _refuse("cutoff_function_name", name, "'XPLOR' or 'poly_cut'")


def _modalities(config: dict) -> list[str] | None:
    use = config.get("use_modality", False)
    if use is False:
        return None
    if use is not True:
        raise _refuse("use_modality", use, "True or False")
    _check_fixed(config, _FIXED_WITH_MODALITIES)
    rows = _dictionary(config, "_modal_map")
    if not all(isinstance(name, str) and re.fullmatch(r"[!-~]{1,64}", name) for name in rows):
        raise _refuse("_modal_map", rows, "names of 1 to 64 printable characters")
    names = sorted(rows, key=lambda name: (type(rows[name]) is int and rows[name], name))
    if len(names) < 2 or [rows[name] for name in names] != list(range(len(names))):
        raise _refuse("_modal_map", rows, "at least two names with rows counted from 0")
    _integer(config, "_number_of_modalities", len(names), len(names))
    return names


def architecture(config: dict) -> dict[str, Any]:
    """Return the neutral hyper-parameters, without the 3j signs, which are found in the tensors.

    Raises:
        RefusedFile: a hyper-parameter is missing, ill-formed or has a value that is not supported.
    """
    _check_fixed(config, _FIXED)
    for key in ("act_scalar", "act_gate"):  # the odd activations act on nothing: there are no odd features
        even = _dictionary(config, key) if key in config else {"e": "silu"}
        if even.get("e") != "silu":
            raise _refuse(key, even.get("e"), "'silu'")
    kinds = config.get("self_connection_type", "nequip")
    if kinds != "linear":
        raise _refuse("self_connection_type", kinds, "'linear'")
    basis = _dictionary(config, "radial_basis")
    if basis.get("radial_basis_name") != "bessel":
        raise _refuse("radial_basis_name", basis.get("radial_basis_name"), "'bessel'")
    hidden = config.get("weight_nn_hidden_neurons")
    if not isinstance(hidden, list) or len(hidden) != 2:
        raise _refuse("weight_nn_hidden_neurons", hidden, "a list of two widths")
    if any(type(width) is not int or not 0 < width < 10**6 for width in hidden):
        raise _refuse("weight_nn_hidden_neurons", hidden, "widths from 1 to 999999")
    lmax = _integer(config, "lmax", 1, MAX_DEGREE)
    if config.get("lmax_edge", -1) not in (-1, 0, lmax):
        raise _refuse("lmax_edge", config["lmax_edge"], f"-1 or lmax = {lmax}")
    cutoff = _number(config, "cutoff", 0.0, math.inf)
    minor = int(sevenn_version(config).split(".")[1])
    normalize = config.get("_normalize_sph", minor > 9)  # what sevenn assumes when the key is absent
    if type(normalize) is not bool:
        raise _refuse("_normalize_sph", normalize, "True or False")
    return {
        "cutoff": cutoff,
        "lmax": lmax,
        "multiplicities": _multiplicities(config, _integer(config, "num_convolution_layer", 1, 32), lmax),
        "radial_basis": _integer(basis, "bessel_basis_num", 1, 256, absent=8),
        "radial_hidden": hidden,
        "cutoff_function": _cutoff_function(config, cutoff),
        "normalize_sph": normalize,
        "silu_norm": SILU_NORM,
        "modalities": _modalities(config),
    }
