"""The settings in the first line of a Nequix file: what shapes the network is understood or refused."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from .archive import RefusedFile, short
from .elements import SYMBOLS

# e3nn_jax.normalize_function(silu) in double precision; in single precision, as trained, it is 1.67656477
SILU_NORM = 1.6765620560798837
MAX_DEGREE = 3
MAX_CHANNELS = 10**6

# settings of the network with one supported value
_FIXED = {"index_weights": False, "layer_norm": True}
_READ = (
    "atom_energies atomic_numbers avg_n_neighbors cutoff hidden_irreps lmax n_layers radial_basis_size "
    "radial_mlp_layers radial_mlp_size radial_polynomial_p scale shift"
).split()
# settings of the training and of the program that runs the network
_IGNORED = (
    "avg_n_edges avg_n_nodes batch_size cache_dir checkpoint_grad_energy ema_decay energy_weight extra_energy_weight "
    "extra_force_weight extra_stress_weight extra_train_path extra_train_steps extra_val_frac extra_val_path "
    "finetune_from force_weight grad_clip_norm hessian_weight kernel learning_rate log_every loss_type max_n_edges "
    "max_n_nodes mlp_init_scale n_epochs n_graph optimizer readout_initialization resume_from state_path "
    "stress_weight train_path val_every val_path valid_frac valid_path wandb_run_id warmup_epochs warmup_factor "
    "weight_decay"
).split()


def read_settings(line: bytes) -> dict[str, Any]:
    """Read the JSON object.

    Raises:
        RefusedFile: it is none, has a key twice, a number that is not finite, or a key that is not known.
    """

    def constant(text: str) -> None:
        raise RefusedFile(f"the settings have the number {text}; only finite ones are allowed")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise RefusedFile("the settings have a key twice; each is allowed once")
        return dict(pairs)

    try:
        settings = json.loads(line.decode("utf-8"), parse_constant=constant, object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise RefusedFile("the first line is not JSON, as that of a Nequix file is") from None
    if not isinstance(settings, dict):
        raise RefusedFile(f"the settings are {short(settings)}, not a JSON object")
    for key in settings:
        if key not in (*_FIXED, *_READ, *_IGNORED):
            raise RefusedFile(f"hyper-parameter {short(key)} is not known; it may change the network")
    return settings


def numbers(value: Any) -> Iterator[bool | int | float]:
    """All numbers of the settings, keys sorted: what files of later programs repeat after the weights."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from numbers(value[key])
    elif isinstance(value, list):
        for entry in value:
            yield from numbers(entry)
    elif isinstance(value, (bool, int, float)):
        yield value


def _refuse(key: str, value: Any, allowed: str) -> RefusedFile:
    return RefusedFile(f"hyper-parameter {key} = {short(value)} is not supported, only {allowed}")


def _integer(settings: dict, key: str, low: int, high: int) -> int:
    value = settings.get(key)
    if type(value) is not int or not low <= value <= high:
        raise _refuse(key, value, f"integers from {low} to {high}")
    return value


def _number(settings: dict, key: str, low: float, high: float) -> float:
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise _refuse(key, value, f"numbers between {low} and {high}")
    return float(value)


def atomic_numbers(settings: dict) -> list[int]:
    """Return the atomic numbers in the order of the one-hot input."""
    found = settings.get("atomic_numbers")
    if isinstance(found, list) and 0 < len(found) <= len(SYMBOLS) and all(type(z) is int for z in found):
        if found == sorted(set(found)) and 1 <= found[0] <= found[-1] <= len(SYMBOLS):
            return found
    raise _refuse("atomic_numbers", found, f"a list of increasing integers from 1 to {len(SYMBOLS)}")


def check_atom_energies(settings: dict, in_arrays: list[float]) -> None:
    """Refuse energies that differ by more than rounding from those in the arrays, which count."""
    energies = settings.get("atom_energies")
    keys = [str(z) for z in settings["atomic_numbers"]]
    if not isinstance(energies, dict) or sorted(energies) != sorted(keys):
        raise _refuse("atom_energies", energies, "a number for each of the atomic numbers")
    if any(type(value) not in (int, float) for value in energies.values()):
        raise _refuse("atom_energies", energies, "a number for each of the atomic numbers")
    for key, stored in zip(keys, in_arrays, strict=True):
        if not math.isclose(energies[key], stored, rel_tol=1e-5, abs_tol=1e-5):
            raise _refuse(f"atom_energies of {key}", float(energies[key]), f"the value in the arrays, {stored}")


def _multiplicities(settings: dict, lmax: int) -> list[int]:
    """Return [128, 64, 32, 32] for '128x0e + 64x1o + 32x2e + 32x3o'."""
    text = settings.get("hidden_irreps")
    found = []
    for degree, block in enumerate(text.split("+") if isinstance(text, str) and len(text) < 200 else [""]):
        match = re.fullmatch(r" *([1-9][0-9]{0,5})x([0-9])([eo]) *", block)
        if not match or int(match[2]) != degree or match[3] != "eo"[degree % 2] or degree > lmax:
            raise _refuse("hidden_irreps", text, f"0e, 1o, 2e, ... up to lmax = {lmax}, each once and in order")
        found.append(int(match[1]))
    return found


def architecture(settings: dict) -> dict[str, Any]:
    """Return the neutral hyper-parameters.

    Raises:
        RefusedFile: a hyper-parameter is missing, ill-formed or has a value that is not supported.
    """
    for key, supported in _FIXED.items():
        if settings.get(key) is not supported:
            raise _refuse(key, settings.get(key), repr(supported))
    species = len(atomic_numbers(settings))
    lmax = _integer(settings, "lmax", 0, MAX_DEGREE)
    hidden = _multiplicities(settings, lmax)
    layers = _integer(settings, "n_layers", 1, 32)
    exponent = _number(settings, "radial_polynomial_p", 1, 33)
    if exponent != int(exponent):
        raise _refuse("radial_polynomial_p", exponent, "whole numbers from 2 to 32")
    width = _integer(settings, "radial_mlp_size", 1, MAX_CHANNELS)
    return {
        "cutoff": _number(settings, "cutoff", 0.0, 100.0),
        "cutoff_p": int(exponent),
        "lmax": lmax,
        "multiplicities": [[species], *[hidden] * (layers - 1), hidden[:1]],
        "radial_basis": _integer(settings, "radial_basis_size", 1, 256),
        "radial_hidden": [width] * _integer(settings, "radial_mlp_layers", 1, 16),
        "silu_norm": SILU_NORM,
        "avg_num_neighbors": _number(settings, "avg_n_neighbors", 0.0, 1e9),
        "scale": _number(settings, "scale", -1e9, 1e9),
        "shift": _number(settings, "shift", -1e9, 1e9),
    }
