"""The module tree of a MACE file: what shapes the network is understood or refused."""

import re
from typing import Any

import numpy as np

from . import mace_irreps as irreps
from .archive import RefusedFile
from .elements import SYMBOLS
from .mace_layout import convolution_paths, message_channels
from .state_dict import StateDict
from .torch_file import TorchFile
from .torch_module import Module, refusal

MAX_DEGREE = 3  # of messages; features of atoms go to 2
INTERACTIONS = (
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
)
_INTEGERS = ("<i8", "<i4")
_MODEL = {  # attribute: values that are supported, the first of them where it is absent
    "apply_cutoff": (True,),
    "edge_irreps": (None,),
    "use_so3": (False, None),
    "use_agnostic_product": (False, None),
    "use_last_readout_only": (False, None),
    "use_edge_irreps_first": (False, None),
    "embedding_specs": (None,),
    "lammps_mliap": (False, None),
}


class Reader:
    """A module tree and its tensors, read together: parts of the architecture are in either."""

    def __init__(self, file: TorchFile, root: Module, state: StateDict):
        """Start with the whole tree."""
        self.file, self.root, self.state = file, root, state

    def scalar(self, name: str, *dtypes: str) -> int | float:
        """Take a tensor of no axes."""
        return self.state.take(name, (), dtypes=dtypes or None).item()

    def number(self, module: Module, name: str) -> float:
        """Return a positive number that is an attribute."""
        value = self.file.number(module.get(name))
        if value is None or not 0 < value < 1e9:
            raise refusal(module.place(name), module.get(name), "positive numbers")
        return float(value)

    def exponent(self, name: str, floating: str) -> int:
        """Take the exponent of a polynomial envelope, which older files have as a floating-point number."""
        value = self.scalar(name, *_INTEGERS, floating)
        if value != int(value) or not 1 <= value <= 32:
            raise refusal(name, value, "whole numbers from 1 to 32")
        return int(value)


def species(state: StateDict) -> list[int]:
    """Take the atomic numbers in the order of the rows of the embedding."""
    shape = state.shape("atomic_numbers") or (0,)
    count = min(shape[0], len(SYMBOLS))
    numbers = state.take("atomic_numbers", (count,), dtypes=_INTEGERS).tolist()
    if not numbers or len(set(numbers)) != len(numbers) or not all(1 <= z <= len(SYMBOLS) for z in numbers):
        raise refusal("atomic_numbers", numbers, f"different atomic numbers from 1 to {len(SYMBOLS)}")
    return numbers


def architecture(reader: Reader, count: int, floating: str) -> dict[str, Any]:
    """Return the neutral hyper-parameters of a network of `count` species.

    Raises:
        RefusedFile: a module, an attribute or a shape is missing, ill-formed or not supported.
    """
    root, state = reader.root, reader.state
    for name, supported in _MODEL.items():
        root.require(name, *supported)
    heads = _heads(root)
    cutoff = reader.scalar("r_max")
    if not 0 < cutoff < 100:
        raise refusal("r_max", cutoff, "radii from 0 to 100 Angstrom")
    radial = root.child("radial_embedding", "RadialEmbeddingBlock")
    found: dict[str, Any] = {"cutoff": cutoff, "heads": heads}
    found |= _radial(reader, radial, cutoff, floating)
    found["max_ell"] = _max_ell(root)
    found["zbl"] = _zbl(reader, floating)
    embedding = root.child("node_embedding", "LinearNodeEmbeddingBlock").child("linear", "Linear")
    found["channels"] = irreps.channels(embedding, "irreps_out")[0]
    irreps.check_linear(embedding, [count], [found["channels"]])
    root.child("atomic_energies_fn", "AtomicEnergiesBlock")
    if root.kind == "ScaleShiftMACE":
        root.child("scale_shift", "ScaleShiftBlock")
    blocks = root.items("interactions", *INTERACTIONS)
    layers = len(blocks)
    if reader.scalar("num_interactions", *_INTEGERS) != layers:
        raise RefusedFile(f"num_interactions is not the number of interactions, {layers}")
    products = root.items("products", "EquivariantProductBasisBlock", count=layers)
    readouts = root.items("readouts", "LinearReadoutBlock", "NonLinearReadoutBlock", count=layers)
    factors: dict[str, set[float]] = {"radial": set(), "readout": set()}
    found["layers"], inputs = [], [found["channels"]]
    for block, product, readout in zip(blocks, products, readouts, strict=True):
        layer = _interaction(reader, block, inputs, count, found, factors["radial"])
        layer |= _product(state, product, layer, found)
        layer["readout_hidden"] = _readout(reader, readout, layer, len(heads), factors["readout"])
        found["layers"].append(layer)
        inputs = layer["outputs"]
    found["silu_norm"] = {name: _one_factor(name, values) for name, values in factors.items()}
    return found


def _heads(root: Module) -> list[str]:
    names = root.get("heads") or ["Default"]
    sound = isinstance(names, list) and len(names) < 1000
    if not sound or not all(isinstance(name, str) and re.fullmatch(r"[ -~]{1,64}", name) for name in names):
        raise refusal("heads", names, "a list of names of 1 to 64 printable characters")
    if len(set(names)) != len(names):
        raise refusal("heads", names, "different names")
    return names


def _radial(reader: Reader, radial: Module, cutoff: float, floating: str) -> dict[str, Any]:
    radial.require("apply_cutoff", True)
    radial.child("bessel_fn", "BesselBasis")
    radial.child("cutoff_fn", "PolynomialCutoff")
    for name in ("bessel_fn", "cutoff_fn"):
        if reader.scalar(f"radial_embedding.{name}.r_max") != cutoff:
            raise RefusedFile(f"radial_embedding.{name}.r_max is not r_max, as it must be")
    shape = reader.state.shape("radial_embedding.bessel_fn.bessel_weights") or ()
    transform = None
    if radial.has("distance_transform"):
        radial.child("distance_transform", "AgnesiTransform")
        transform = {"name": "agnesi"}
    return {
        "radial": {"name": "bessel", "number": shape[0] if shape else 0},
        "cutoff_p": reader.exponent("radial_embedding.cutoff_fn.p", floating),
        "distance_transform": transform,
    }


def _zbl(reader: Reader, floating: str) -> dict[str, Any] | None:
    root = reader.root
    root.require("pair_repulsion", *((True,) if root.has("pair_repulsion_fn") else (False,)))
    if not root.has("pair_repulsion_fn"):
        return None
    if root.get("pair_repulsion") is not True:
        raise refusal("pair_repulsion", root.get("pair_repulsion"), "True where there is a pair_repulsion_fn")
    root.child("pair_repulsion_fn", "ZBLBasis")
    return {"p": reader.exponent("pair_repulsion_fn.p", floating)}


def _max_ell(root: Module) -> int:
    harmonics = root.child("spherical_harmonics", "SphericalHarmonics")
    harmonics.require("normalize", True)
    harmonics.require("normalization", "component")
    found = irreps.channels(harmonics, "irreps_out")
    if found != [1] * len(found) or not 2 <= len(found) <= MAX_DEGREE + 1:
        raise refusal("max_ell", len(found) - 1, f"1 to {MAX_DEGREE}")
    return len(found) - 1


def _silu_factor(reader: Reader, module: Module) -> float:
    """Read the factor of a normalised activation, which must be silu."""
    function = getattr(module.get("f"), "name", None)
    if function != "torch.nn.functional silu":
        raise refusal(module.place("f"), function, "silu")
    module.require("_is_id", False)
    return reader.number(module, "cst")


def _one_factor(name: str, values: set[float]) -> float | None:
    if len(values) > 1:
        raise RefusedFile(f"the silu of the {name} networks have different factors; one is supported")
    return next(iter(values), None)


def _widths(network: Module, inputs: int, factors: set[float] | None, reader: Reader) -> list[int]:
    """Read the widths of a fully connected network; all but its last layer have a silu."""
    widths = network.get("hs")
    if not isinstance(widths, list) or not 2 <= len(widths) <= 16 or widths[0] != inputs:
        raise refusal(network.place("hs"), widths, f"2 to 16 widths, the first of them {inputs}")
    if any(type(width) is not int or not 0 < width <= irreps.MAX_CHANNELS for width in widths):
        raise refusal(network.place("hs"), widths, f"widths from 1 to {irreps.MAX_CHANNELS}")
    for k in range(len(widths) - 1):
        layer = network.child(f"layer{k}", "_Layer")
        layer.require("var_in", 1, 1.0)
        layer.require("var_out", 1, 1.0)
        if k < len(widths) - 2 and factors is not None:
            factors.add(_silu_factor(reader, layer.child("act", "normalize2mom")))
        elif layer.has("act") or layer.get("act") is not None:
            raise refusal(layer.place("act"), layer.get("act"), "no activation of a last layer")
    return widths[1:-1]


def _interaction(
    reader: Reader, block: Module, inputs: list[int], count: int, found: dict[str, Any], factors: set[float]
) -> dict[str, Any]:
    max_ell, number = found["max_ell"], found["radial"]["number"]
    messages = [found["channels"]] * (max_ell + 1)
    for name in ("cueq_config", "oeq_config"):
        block.require(name, None)
    if block.get("edge_irreps") is not None:
        irreps.check_channels(block, "edge_irreps", inputs)
    outputs = irreps.channels(block, "hidden_irreps")
    if outputs != [found["channels"]] * min(len(outputs), MAX_DEGREE, max_ell + 1):
        raise refusal(block.place("hidden_irreps"), block.get("hidden_irreps"), "equal channels of l = 0, 1, 2")
    for name, expected in (("node_feats_irreps", inputs), ("target_irreps", messages)):
        irreps.check_channels(block, name, expected)
    layer: dict[str, Any] = {"residual": "Residual" in block.kind, "density": "Density" in block.kind}
    layer |= {"inputs": inputs, "outputs": outputs}
    layer["avg_num_neighbors"] = None if layer["density"] else reader.number(block, "avg_num_neighbors")
    irreps.check_linear(block.child("linear_up", "Linear"), inputs, inputs)
    convolution = block.child("conv_tp", "TensorProduct")
    irreps.check_convolution(convolution, inputs, max_ell, convolution_paths(inputs, max_ell))
    layer["radial_hidden"] = _widths(block.child("conv_tp_weights", "FullyConnectedNet"), number, factors, reader)
    irreps.check_linear(block.child("linear", "Linear"), message_channels(layer, max_ell), messages)
    skip = (inputs, outputs) if layer["residual"] else (messages, messages)
    irreps.check_skip(block.child("skip_tp", "FullyConnectedTensorProduct"), skip[0], count, skip[1])
    if layer["density"] and _widths(block.child("density_fn", "FullyConnectedNet"), number, None, reader):
        raise refusal(block.place("density_fn"), "a network of several layers", "one layer")
    reshape = block.child("reshape", "reshape_irreps")
    reshape.require("cueq_config", None)
    irreps.check_channels(reshape, "irreps", messages)
    return layer


def _product(state: StateDict, product: Module, layer: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Read the correlation and the numbers of paths of the symmetric contractions."""
    product.require("use_agnostic_product", False, None)
    product.require("cueq_config", None)
    # without a residual there is nothing to add: later layers have True nevertheless
    product.require("use_sc", *((True,) if layer["residual"] else (False, True)))
    irreps.check_linear(product.child("linear", "Linear"), layer["outputs"], layer["outputs"])
    contractions = product.child("symmetric_contractions", "SymmetricContraction")
    irreps.check_channels(contractions, "irreps_in", [found["channels"]] * (found["max_ell"] + 1))
    irreps.check_channels(contractions, "irreps_out", layer["outputs"])
    correlations, paths = set(), []
    for part in contractions.items("contractions", "Contraction", count=len(layer["outputs"])):
        for name in ("contractions_weighting", "contractions_features"):
            part.child(name, "ModuleList")  # compiled forms, empty but for graphs
        part.child("weights", "ParameterList")
        irreps.check_channels(part, "coupling_irreps", [1] * (found["max_ell"] + 1))
        correlation = part.get("correlation")
        if type(correlation) is not int or not 1 <= correlation <= 3:
            raise refusal(part.place("correlation"), correlation, "1 to 3")
        correlations.add(correlation)
        shapes = [state.shape(f"{part.path}.U_matrix_{nu}") for nu in range(1, correlation + 1)]
        paths.append([shape[-1] if shape else 0 for shape in shapes])
    if len(correlations) != 1:
        raise refusal(contractions.place("correlation"), sorted(correlations), "one for all l of a layer")
    return {"correlation": correlations.pop(), "paths": paths}


def _readout(reader: Reader, readout: Module, layer: dict[str, Any], heads: int, factors: set[float]) -> int | None:
    if readout.kind == "LinearReadoutBlock":
        irreps.check_linear(readout.child("linear", "Linear"), layer["outputs"], [heads])
        return None
    hidden = irreps.channels(readout, "hidden_irreps")
    number = readout.get("num_heads", 1)
    if len(hidden) != 1 or hidden[0] % heads or number != heads:
        raise refusal(readout.place("hidden_irreps"), readout.get("hidden_irreps"), "scalars, the same for each head")
    irreps.check_linear(readout.child("linear_1", "Linear"), layer["outputs"], hidden)
    irreps.check_linear(readout.child("linear_2", "Linear"), hidden, [heads])
    activation = readout.child("non_linearity", "Activation")
    (function,) = activation.items("acts", "normalize2mom", count=1)
    factors.add(_silu_factor(reader, function))
    return hidden[0] // heads


def covalent_radii(arrays: list[np.ndarray], numbers: list[int]) -> np.ndarray:
    """Pick the radii of the species; several tables must agree on them."""
    picked = [array[numbers] for array in arrays]
    if any(not np.array_equal(picked[0], other) for other in picked[1:]):
        raise RefusedFile("the distance transform and the ZBL repulsion have different covalent_radii")
    if not (picked[0] > 0).all():
        raise RefusedFile("covalent_radii of a species is not positive, as it must be")
    return picked[0]
