"""Small Nequix files, and the network in e3nn-jax's own words, as the original program has it."""

import io
import json
from functools import partial

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from e3nn_jax import FunctionalLinear

NUMBERS = [3, 8, 11, 17, 19]  # Li O Na Cl K


def settings(**changes) -> dict:
    """The first line of a file; None removes a key."""
    found = {
        "state_path": "state.pkl",
        "resume_from": None,
        "cutoff": 4.0,
        "train_path": ["data/a", "data/b"],
        "atomic_numbers": NUMBERS,
        "atom_energies": {str(z): -float(z) / 7 for z in NUMBERS},
        "avg_n_neighbors": 11.3,
        "scale": 0.7,
        "shift": -1.3,
        "hidden_irreps": "6x0e + 4x1o + 3x2e + 2x3o",
        "lmax": 3,
        "n_layers": 3,
        "radial_basis_size": 5,
        "radial_mlp_size": 7,
        "radial_mlp_layers": 2,
        "radial_polynomial_p": 6.0,
        "mlp_init_scale": 4.0,
        "index_weights": False,
        "layer_norm": True,
        "n_epochs": 100,
    } | changes
    return {key: value for key, value in found.items() if value is not None or key == "resume_from"}


def layers(setting: dict) -> list[tuple[e3nn.Irreps, e3nn.Irreps, e3nn.Irreps, e3nn.Irreps]]:
    """Irreps of the input, of the messages, before and after the gate, of every layer."""
    hidden = e3nn.Irreps(setting["hidden_irreps"])
    scalars = hidden.filter("0e")
    inputs = e3nn.Irreps(f"{len(setting['atomic_numbers'])}x0e")
    harmonics = e3nn.s2_irreps(setting["lmax"])
    out = []
    for t in range(setting["n_layers"]):
        outputs = hidden if t < setting["n_layers"] - 1 else scalars
        messages = e3nn.tensor_product(inputs, harmonics, filter_ir_out=[ir for _, ir in outputs])
        gates = e3nn.Irreps(f"{outputs.num_irreps - outputs.count('0e')}x0e")
        out.append((inputs, messages, (outputs + gates).regroup(), outputs))
        inputs = outputs
    return out


def leaves(setting: dict, seed: int = 0) -> list[np.ndarray]:
    """Arrays in the order of the file, random but for the energies."""
    random = np.random.default_rng(seed)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)
    matrices = lambda *irreps: [draw(*i.path_shape) for i in FunctionalLinear(*irreps).instructions]
    out = [np.array([setting["atom_energies"][str(z)] for z in setting["atomic_numbers"]], np.float32)]
    for inputs, messages, gated, _ in layers(setting):
        widths = [setting["radial_basis_size"], *[setting["radial_mlp_size"]] * setting["radial_mlp_layers"]]
        widths = [*widths, messages.num_irreps]
        out += [draw(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        out += [*matrices(inputs, inputs), *matrices(messages, gated), *matrices(inputs, gated)]
        out += [draw(mul) for mul, _ in gated]
    return [*out, draw(layers(setting)[-1][3].dim, 1)]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def repeated(value) -> bytes:
    """All numbers in a JSON value, as some files have them after the weights."""
    if isinstance(value, dict):
        return b"".join(repeated(value[key]) for key in sorted(value))
    if isinstance(value, list):
        return b"".join(map(repeated, value))
    return b"" if value is None or isinstance(value, str) else npy(np.asarray(value))


def nqx(setting: dict | None = None, arrays: list[np.ndarray] | None = None, end: bytes = b"") -> bytes:
    """A whole file."""
    setting = settings() if setting is None else setting
    arrays = leaves(setting) if arrays is None else arrays
    return json.dumps(setting).encode() + b"\n" + b"".join(map(npy, arrays)) + end


def node_energies(setting: dict, arrays: list[np.ndarray], species, vectors, senders, receivers):
    """Energies of the atoms; vectors point from receivers to senders."""
    left = [jnp.asarray(array, vectors.dtype) for array in arrays]
    take = lambda count: [left.pop(0) for _ in range(count)]
    (energies,) = take(1)
    r = jnp.linalg.norm(vectors, axis=-1)
    basis, cutoff, p = setting["radial_basis_size"], setting["cutoff"], setting["radial_polynomial_p"]
    x = r / cutoff
    envelope = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    waves = jnp.sin(jnp.arange(1, basis + 1)[None] * jnp.pi * x[:, None]) / r[:, None]
    radial = 2 / cutoff * waves * (envelope * (x < 1))[:, None]
    harmonics = e3nn.spherical_harmonics(e3nn.s2_irreps(setting["lmax"]), vectors, True, normalization="component")
    features = e3nn.IrrepsArray(f"{len(energies)}x0e", jnp.eye(len(energies))[species])
    for inputs, messages, gated, outputs in layers(setting):
        hidden = radial
        *matrices, last = take(setting["radial_mlp_layers"] + 1)
        for matrix in matrices:
            hidden = jax.nn.silu(hidden @ matrix)
        maps = [FunctionalLinear(*ends) for ends in ((inputs, inputs), (messages, gated), (inputs, gated))]
        one, two, skip = [jax.vmap(partial(each, take(len(each.instructions)))) for each in maps]
        sent = e3nn.tensor_product(one(features)[senders], harmonics, filter_ir_out=[ir for _, ir in outputs])
        received = e3nn.scatter_sum(sent * (hidden @ last), dst=receivers, output_size=len(species))
        features = two(received / jnp.sqrt(setting["avg_n_neighbors"])) + skip(features)
        parts = list(zip(features.chunks, gated, take(len(gated)), strict=True))
        squares = [(x**2 / ir.dim / len(gated)).sum(1).mean(1) for x, (_, ir), _ in parts]
        factor = ((sum(squares) + 1e-12) ** -0.5)[:, None, None]
        scaled = [x * factor * scale[None, :, None] for x, _, scale in parts]
        features = e3nn.gate(e3nn.from_chunks(gated, scaled, (len(species),)), jax.nn.silu, jnp.tanh, jax.nn.silu)
    (readout,) = take(1)
    assert not left
    energy = jax.vmap(partial(FunctionalLinear(outputs, e3nn.Irreps("0e")), [readout]))(features).array[:, 0]
    return energy * setting["scale"] + setting["shift"] + energies[species]
