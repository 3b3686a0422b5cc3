"""Random-weight MACE models in the shapes of published ones and of what lies between; needs no torch to read.

Values are keyword arguments of mace.modules.MACE and ScaleShiftMACE, on top of BASE; names of blocks, irreps and gates
are texts. `elements` is a number (of the elements of MP-0, evenly spread) or a list of symbols, `model` the class.
"""

MP_ELEMENTS = [*range(1, 84), *range(89, 95)]
ORGANIC = [1, 6, 7, 8, 9, 15, 16, 17, 35, 53]
PLAIN, RESIDUAL = "RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock"
DENSITY, BOTH = "RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock"

BASE = {
    "model": "ScaleShiftMACE",
    "dtype": "float64",
    "elements": MP_ELEMENTS,
    "r_max": 6.0,
    "num_bessel": 10,
    "num_polynomial_cutoff": 5,
    "max_ell": 3,
    "interaction_cls": RESIDUAL,
    "interaction_cls_first": RESIDUAL,
    "num_interactions": 2,
    "hidden_irreps": "128x0e",
    "MLP_irreps": "16x0e",
    "avg_num_neighbors": 61.964672446250916,
    "correlation": 3,
    "gate": "silu",
    "atomic_inter_scale": 0.8041538754478097,
    "atomic_inter_shift": 0.16409696359187365,
}
L1, L2 = "128x0e+128x1o", "128x0e+128x1o+128x2e"
ZBL = {"distance_transform": "Agnesi", "pair_repulsion": True, "atomic_inter_shift": 0.0}
ZBL_PLAIN = ZBL | {"interaction_cls_first": PLAIN, "num_bessel": 8}
ZBL_DENSITY = ZBL | {"interaction_cls_first": DENSITY, "interaction_cls": BOTH}

PUBLISHED = {
    "MP-0 small": {"dtype": "float32"},
    "MP-0 medium": {"dtype": "float32", "hidden_irreps": L1},
    "MP-0 large": {"hidden_irreps": "256x0e+256x1o", "r_max": 5.0, "num_bessel": 8},
    "MP-0 L=2": {"hidden_irreps": L2},
    "MP-0b small": ZBL_PLAIN,
    "MP-0b medium": ZBL_PLAIN | {"hidden_irreps": L1},
    "MP-0b2 large": ZBL_DENSITY | {"hidden_irreps": L2, "r_max": 5.0, "num_bessel": 8},
    "MP-0b3, MPA-0": ZBL_DENSITY | {"hidden_irreps": L1},
    "OMAT-0 small": ZBL_DENSITY | {"num_bessel": 8, "atomic_inter_scale": 1.0},
    "OMAT-0 medium, MatPES": ZBL_DENSITY | {"hidden_irreps": L1, "num_bessel": 8, "atomic_inter_scale": 1.0},
    "OFF small": {"elements": ORGANIC, "hidden_irreps": "96x0e", "r_max": 4.5, "num_bessel": 8},
    "OFF medium": {"elements": ORGANIC, "hidden_irreps": L1, "r_max": 5.0, "num_bessel": 8},
    "OFF large": {
        "elements": ORGANIC,
        "hidden_irreps": "192x0e+192x1o+192x2e",
        "r_max": 5.0,
        "num_bessel": 8,
        "dtype": "float32",
    },
}

SMALL = {"elements": [1, 8, 12, 22, 79], "hidden_irreps": "16x0e+16x1o", "num_bessel": 6, "r_max": 5.0}
TWO = {"heads": ["PBE", "r2SCAN"], "atomic_inter_scale": [0.8, 1.1], "atomic_inter_shift": [0.1, -0.2]}
BETWEEN = {
    "plain class": {"model": "MACE"},
    "plain class, float32": {"model": "MACE", "dtype": "float32", "interaction_cls_first": PLAIN},
    "plain class, L=0": {"model": "MACE", "hidden_irreps": "16x0e"},
    "correlation 1": {"correlation": 1},
    "correlation 2": {"correlation": 2, "hidden_irreps": "16x0e+16x1o+16x2e"},
    "correlation 3, 2": {"correlation": [3, 2]},
    "max_ell 1": {"max_ell": 1},
    "max_ell 2": {"max_ell": 2, "hidden_irreps": "16x0e+16x1o+16x2e"},
    "max_ell 1, correlation 1": {"max_ell": 1, "correlation": 1, "hidden_irreps": "16x0e", "dtype": "float32"},
    "full coupling": {"use_reduced_cg": False, "hidden_irreps": "16x0e+16x1o+16x2e"},
    "one layer": {"num_interactions": 1},
    "three layers": {"num_interactions": 3, "hidden_irreps": "8x0e+8x1o+8x2e"},
    "last layer with l = 1": {"keep_last_layer_irreps": True},
    "all layers not residual": {"interaction_cls": PLAIN, "interaction_cls_first": PLAIN},
    "density, not residual": {"interaction_cls": DENSITY, "interaction_cls_first": DENSITY},
    "density, residual": {"interaction_cls": BOTH, "interaction_cls_first": BOTH, "dtype": "float32"},
    "Agnesi without ZBL": {"distance_transform": "Agnesi"},
    "ZBL without Agnesi": {"pair_repulsion": True},
    "ZBL, float32": ZBL_DENSITY | {"dtype": "float32"},
    "two heads": TWO | ZBL_DENSITY | {"atomic_inter_shift": [0.0, 0.0]},
    "two heads, residual": TWO | {"dtype": "float32"},
    "two heads, plain class": TWO | {"model": "MACE"},
    "radial widths": {"radial_MLP": [24, 32], "MLP_irreps": "7x0e", "num_polynomial_cutoff": 6},
    "one element": {"elements": [14]},
}
MODELS = PUBLISHED | {name: SMALL | changes for name, changes in BETWEEN.items()}

# what is not supported, and the words by which it must be refused
REFUSED = {
    "Gaussian basis": ({"radial_type": "gaussian"}, "GaussianBasis"),
    "Chebyshev basis": ({"radial_type": "chebyshev"}, "ChebychevBasis"),
    "soft transform": ({"distance_transform": "Soft"}, "SoftTransform"),
    "cutoff not applied": ({"apply_cutoff": False}, "apply_cutoff"),
    "even parity": ({"use_so3": True, "hidden_irreps": "16x0e+16x1e"}, "use_so3"),
    "agnostic product": ({"use_agnostic_product": True}, "use_agnostic_product"),
    "last readout only": ({"use_last_readout_only": True}, "use_last_readout_only"),
    "edge irreps": ({"edge_irreps": "16x0e"}, "edge_irreps"),
    "tanh gate": ({"gate": "tanh"}, "getattr"),  # by which torch pickles it, and which no file may name
    "correlation 4": ({"correlation": 4, "max_ell": 1}, "correlation"),
    "max_ell 4": ({"max_ell": 4, "correlation": 2}, "max_ell"),
    "l = 3 features": ({"hidden_irreps": "16x0e+16x1o+16x2e+16x3o", "correlation": 2}, "hidden_irreps"),
    "unequal channels": ({"hidden_irreps": "16x0e+8x1o"}, "irreps"),
    "odd scalars": ({"hidden_irreps": "16x0e+16x0o+16x1o", "correlation": 2}, "irreps"),
    "non-linear block": ({"interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock"}, "NonLinear"),
    "attention block": ({"interaction_cls": "RealAgnosticAttResidualInteractionBlock"}, "AttResidual"),
    "total charge": (
        {"embedding_specs": {"charge": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 8}}},
        "embedding_specs",
    ),
    "dipoles": ({"model": "AtomicDipolesMACE", "atomic_energies": None}, "AtomicDipolesMACE"),
    "energy and dipoles": ({"model": "EnergyDipolesMACE"}, "EnergyDipolesMACE"),
    "BOTNet": ({"model": "BOTNet"}, "BOTNet"),
}
REFUSED = {name: (SMALL | changes, words) for name, (changes, words) in REFUSED.items()}
