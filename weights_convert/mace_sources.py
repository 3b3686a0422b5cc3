"""Published MACE files that are known by their sum, and the names their pickles may mention."""

from pathlib import Path

from .archive import RefusedFile, read_bytes, short
from .inert_pickle import Globals, InertClass
from .official import known_sums
from .source import Source, make_source
from .torch_file import ALLOWED

URL = "https://github.com/ACEsuit/mace-foundations"
KNOWN = known_sums("mace")

# whatever is not read here is still inert, and refused by its name where it stands in the network
_NAMES = {
    "__builtin__": "set",
    "builtins": "set",
    "e3nn.math._normalize_activation": "normalize2mom",
    "e3nn.nn._activation": "Activation",
    "e3nn.nn._fc": "FullyConnectedNet _Layer",
    "e3nn.nn._gate": "Gate",
    "e3nn.o3._irreps": "Irrep Irreps _MulIr",
    "e3nn.o3._linear": "Instruction Linear",
    "e3nn.o3._spherical_harmonics": "SphericalHarmonics",
    "e3nn.o3._tensor_product._instruction": "Instruction",
    "e3nn.o3._tensor_product._sub": "FullyConnectedTensorProduct",
    "e3nn.o3._tensor_product._tensor_product": "TensorProduct",
    "mace.modules.blocks": "AtomicEnergiesBlock EquivariantProductBasisBlock LinearNodeEmbeddingBlock "
    "LinearReadoutBlock NonLinearReadoutBlock NonLinearBiasReadoutBlock LinearDipoleReadoutBlock "
    "NonLinearDipoleReadoutBlock LinearDipolePolarReadoutBlock NonLinearDipolePolarReadoutBlock "
    "RadialEmbeddingBlock RealAgnosticInteractionBlock RealAgnosticResidualInteractionBlock "
    "RealAgnosticDensityInteractionBlock RealAgnosticDensityResidualInteractionBlock "
    "RealAgnosticAttResidualInteractionBlock RealAgnosticResidualNonLinearInteractionBlock "
    "AgnosticNonlinearInteractionBlock AgnosticResidualNonlinearInteractionBlock "
    "ResidualElementDependentInteractionBlock TensorProductWeightsBlock ScaleShiftBlock",
    "mace.modules.embeddings": "GenericJointEmbedding",
    "mace.modules.gate": "GatedEquivariantBlock",
    "mace.modules.irreps_tools": "reshape_irreps",
    "mace.modules.models": "MACE ScaleShiftMACE BOTNet ScaleShiftBOTNet AtomicDipolesMACE "
    "AtomicDielectricMACE EnergyDipolesMACE",
    "mace.modules.radial": "AgnesiTransform SoftTransform BesselBasis ChebychevBasis GaussianBasis "
    "PolynomialCutoff RadialMLP ZBLBasis",
    "mace.modules.symmetric_contraction": "Contraction SymmetricContraction",
    "mace.modules.wrapper_ops": "CuEquivarianceConfig OEQConfig",
    "torch": "tanh",
    "torch.fx._symbolic_trace": "Tracer",
    "torch.fx.graph_module": "reduce_graph_module",
    "torch.nn.functional": "sigmoid silu",
    "torch.nn.modules.activation": "SiLU",
    "torch.nn.modules.container": "ModuleList ParameterList Sequential",
    "torch.nn.modules.linear": "Linear",
    "torch.nn.modules.normalization": "LayerNorm",
}
NAMES: Globals = {
    **ALLOWED,
    **{
        f"{module} {name}": InertClass(f"{module} {name}") for module, names in _NAMES.items() for name in names.split()
    },
}


def find_models(path: Path, model: str | None) -> list[Source]:
    """Read the file at `path`; `model` must be its name, if given.

    Raises:
        RefusedFile: there is no such file, or it has another name.
    """
    if not path.exists():
        raise RefusedFile(f"{short(str(path))} does not exist; a .model file is needed")
    source = make_source(path.name.removesuffix(".model"), path.name, read_bytes(path), KNOWN)
    if model not in (None, source.name):
        raise RefusedFile(f"{short(path.name)} is {short(source.name)}, not {short(model)}")
    return [source]
