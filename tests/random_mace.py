"""Small MACE networks with random parameters; only U is not random, for it carries the symmetry."""

from functools import lru_cache

import e3nn_jax as e3nn
import jax
import numpy as np

from alchemjax.model import mace
from alchemjax.model.load import Potential, _nested


@lru_cache
def couplings(max_l: int, degree: int) -> tuple:
    """Every way to couple `degree` factors X, one after another: (l, tensor [2l+1, d, ..., d])."""
    size = (max_l + 1) ** 2
    blocks = [(l, np.eye(size)[l**2 : (l + 1) ** 2]) for l in range(max_l + 1)]
    if degree == 1:
        return tuple(blocks)
    coupled = []
    for l_left, left in couplings(max_l, degree - 1):
        for l, block in blocks:
            for l_out in range(abs(l_left - l), l_left + l + 1):
                cg = np.array(e3nn.clebsch_gordan(l_left, l, l_out))
                coupled.append((l_out, np.einsum("i...,jb,ijk->k...b", left, block, cg)))
    return tuple(coupled)


def u_tensor(max_l: int, l: int, degree: int, paths: int) -> np.ndarray:
    """U of some paths of natural parity: (2l+1), d, ..., d, paths."""
    natural = []
    for l_out, tensor in couplings(max_l, degree):
        if l_out == l and tensor_parity(tensor, max_l) == (-1) ** l:
            natural.append(tensor)
    mixing = np.random.default_rng(degree).normal(size=(len(natural), paths))
    u = np.einsum("k...,kp->...p", np.stack(natural), mixing)
    return u[0] if l == 0 else u


def tensor_parity(tensor: np.ndarray, max_l: int) -> int:
    """(-1) to the power of the sum of the input l, the same for all elements that are not 0."""
    degrees = np.repeat(np.arange(max_l + 1), 2 * np.arange(max_l + 1) + 1)
    where = np.argwhere(abs(tensor) > 1e-9)[0][1:]
    return (-1) ** int(degrees[where].sum())


def layer(inputs: int, outputs: int, correlation: int, *, residual: bool, density: bool, readout=None) -> dict:
    """A layer with `inputs` and `outputs` as the largest l."""
    return {
        "residual": residual,
        "density": density,
        "avg_num_neighbors": None if density else 0.9,
        "inputs": [3] * (inputs + 1),
        "outputs": [3] * (outputs + 1),
        "correlation": correlation,
        "paths": [[2] * correlation for _ in range(outputs + 1)],
        "radial_hidden": (11, 17),
        "readout_hidden": readout,
    }


def random_mace(species, cutoff: float, layers: list[dict], max_ell: int, *, pairs: bool, seed: int) -> Potential:
    """Two heads, the second one chosen; with `pairs` the radial functions see the species of both ends."""
    architecture = {
        "cutoff": cutoff,
        "cutoff_p": 5,
        "channels": 3,
        "max_ell": max_ell,
        "radial": {"name": "bessel", "number": 4},
        "distance_transform": {"name": "agnesi"} if pairs else None,
        "zbl": {"p": 6} if pairs else None,
        "silu_norm": {"radial": 1.679, "readout": 1.7},
        "heads": ["one", "two"],
        "layers": layers,
        "species": species,
        "dtype": "float64",
    }
    rng = np.random.default_rng(seed)
    shapes = mace.parameter_shapes(architecture, len(species))
    tensors = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    for t, one in enumerate(layers):
        for l, paths in enumerate(one["paths"]):
            for nu, number in enumerate(paths, start=1):
                tensors[f"layers.{t}.product.{l}.U.{nu}"] = u_tensor(max_ell, l, nu, number) / 2**nu
    tensors["bessel_weights"] = np.pi / cutoff * np.array([0.8, 1.9, 3.1, 4.0])
    tensors["prefactor"] = np.array(1.3)
    tensors["atomic_energies"] = 3 * tensors["atomic_energies"]  # eV; E0 differs by several eV between species
    tensors["scale"] = np.array([0.7, 6.0])
    if pairs:
        tensors["agnesi"] = np.array([1.08, 0.92, 4.58])
        tensors["covalent_radii"] = rng.uniform(0.8, 1.3, len(species))
        tensors |= {"zbl.c": np.array([0.18, 0.51, 0.28, 0.03]), "zbl.a_exp": np.array(0.3)}
        tensors["zbl.a_prefactor"] = np.array(0.45)
    prepared = mace.prepare(architecture, tensors)
    config = mace.read_config(architecture, 1)
    return Potential(
        name="tiny",
        params=_nested({name: jax.numpy.asarray(value) for name, value in prepared.items()}),
        config=config,
        node_energies=mace.node_energies,
        species=tuple(species),
        cutoff=cutoff,
        dtype="float64",
        sha256="",
        source={},
        per_node=config.per_node,
    )
