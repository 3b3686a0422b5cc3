"""MACE files become neutral models with every number in its place, or are refused by name."""

import hashlib
import json
import lzma
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file
from tiny_mace import FILES, Tree, changed, model, record

import weights_convert
from weights_convert import mace_sources
from weights_convert.__main__ import main
from weights_convert.mace_layout import convolution_paths
from weights_convert.mace_sources import NAMES
from weights_convert.write import model_files

FOLDER = os.environ.get("ALCHEMJAX_MACE_MODELS")
needs_folder = pytest.mark.skipif(FOLDER is None, reason="ALCHEMJAX_MACE_MODELS is not a folder of .model.xz files")
UNUSED = re.compile(
    r"atomic_numbers|num_interactions|(.*\.)?r_max|.*\.(bias|output_mask|conv_tp\.weight)|.*_zeroed|.*_fn\.p"
)


def convert_bytes(data: bytes, tmp_path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    path = tmp_path / "tiny.model"
    path.write_bytes(data)
    return weights_convert.convert_mace(path)["tiny"]


def sources(config: dict) -> dict[str, list[str]]:
    """For every tensor of the file the neutral ones that hold its numbers, one after another."""
    architecture = config["architecture"]
    degrees = range(architecture["max_ell"] + 1)
    found = {
        "node_embedding.linear.weight": ["embedding"],
        "radial_embedding.bessel_fn.bessel_weights": ["bessel_weights"],
        "radial_embedding.bessel_fn.prefactor": ["prefactor"],
        "atomic_energies_fn.atomic_energies": ["atomic_energies"],
        "scale_shift.scale": ["scale"],
        "scale_shift.shift": ["shift"],
    }
    if architecture["zbl"]:
        found |= {f"pair_repulsion_fn.{name}": [f"zbl.{name}"] for name in ("c", "a_exp", "a_prefactor")}
    for t, layer in enumerate(architecture["layers"]):
        block, product, new = f"interactions.{t}", f"products.{t}", f"layers.{t}"
        ins, outs = range(len(layer["inputs"])), range(len(layer["outputs"]))
        shared = range(min(len(ins), len(outs))) if layer["residual"] else degrees
        found[f"{block}.linear_up.weight"] = [f"{new}.linear_up.{l}" for l in ins]
        found[f"{block}.linear.weight"] = [f"{new}.linear.{l}" for l in degrees]
        found[f"{block}.skip_tp.weight"] = [f"{new}.skip.{l}" for l in shared]
        found[f"{product}.linear.weight"] = [f"{new}.product.linear.{l}" for l in outs]
        for k in range(len(layer["radial_hidden"]) + 1):
            found[f"{block}.conv_tp_weights.layer{k}.weight"] = [f"{new}.radial.{k}"]
        if layer["density"]:
            found[f"{block}.density_fn.layer0.weight"] = [f"{new}.density"]
        for l in outs:
            part, largest = f"{product}.symmetric_contractions.contractions.{l}", layer["correlation"]
            found[f"{part}.weights_max"] = [f"{new}.product.{l}.W.{largest}"]
            for nu in range(1, largest + 1):
                found[f"{part}.U_matrix_{nu}"] = [f"{new}.product.{l}.U.{nu}"]
            for i in range(largest - 1):
                found[f"{part}.weights.{i}"] = [f"{new}.product.{l}.W.{largest - 1 - i}"]
        if layer["readout_hidden"] is None:
            found[f"readouts.{t}.linear.weight"] = [f"readouts.{t}.linear"]
        else:
            found |= {f"readouts.{t}.linear_{k + 1}.weight": [f"readouts.{t}.{k}"] for k in (0, 1)}
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_number_arrives_in_its_place(name, tmp_path):
    config, tensors = convert_bytes(model(name), tmp_path)
    tree = Tree(name)
    stored = tree.tensors()
    places = sources(config)
    for source, targets in places.items():
        flat = np.concatenate([tensors.pop(target).ravel() for target in targets])
        np.testing.assert_array_equal(flat, tree.array(stored[source]).ravel(), strict=True, err_msg=source)
    left = {source for source in stored.keys() - places if not UNUSED.fullmatch(source)}
    if config["architecture"]["distance_transform"]:
        pick = tree.array(stored["atomic_numbers"])
        for module in ("radial_embedding.distance_transform", "pair_repulsion_fn"):
            radii = tree.array(stored[f"{module}.covalent_radii"])[pick]
            np.testing.assert_array_equal(tensors["covalent_radii"], radii, strict=True)
            left.remove(f"{module}.covalent_radii")
        del tensors["covalent_radii"]
        for number, letter in zip(tensors.pop("agnesi"), "aqp", strict=True):
            source = f"radial_embedding.distance_transform.{letter}"
            assert number == tree.array(stored[source])
            left.remove(source)
    assert not left and not tensors


def test_config_says_what_a_two_headed_density_model_says(tmp_path):
    config, tensors = convert_bytes(model("tiny_2head"), tmp_path)
    first = {
        "residual": False,
        "density": True,
        "avg_num_neighbors": None,
        "inputs": [8],
        "outputs": [8, 8],
        "correlation": 3,
        "paths": [[1, 4, 23], [1, 6, 51]],
        "radial_hidden": [16, 16, 16],
        "readout_hidden": None,
    }
    last = first | {"residual": True, "inputs": [8, 8], "outputs": [8], "paths": [[1, 4, 23]], "readout_hidden": 16}
    assert config["architecture"] == {
        "cutoff": 5.0,
        "cutoff_p": 5,
        "channels": 8,
        "max_ell": 3,
        "heads": ["pt_head", "Default"],
        "radial": {"name": "bessel", "number": 8},
        "distance_transform": {"name": "agnesi"},
        "zbl": {"p": 5},
        "silu_norm": {"radial": 1.6791767923989418, "readout": 1.6791767923989418},
        "layers": [first, last],
    }
    assert config["species"] == ["Li", "O", "Na", "Cl", "K", "Ce"]
    assert (config["family"], config["name"], config["dtype"]) == ("mace", "tiny", "float64")
    assert config["source"] == {
        "file": "tiny.model",
        "sha256": hashlib.sha256(model("tiny_2head")).hexdigest(),
        "recognised_as": None,
        "model_class": "ScaleShiftMACE",
        "layout": "current",
        "licence": None,
        "url": None,
    }
    np.testing.assert_array_equal(tensors["scale"], [0.9, 1.1])


def test_older_layout_and_other_sizes_are_read(tmp_path):
    old, _ = convert_bytes(model("era034_tiny_alch_L1"), tmp_path)
    assert (old["source"]["layout"], old["architecture"]["heads"]) == ("early", ["Default"])
    assert old["architecture"]["layers"][1]["avg_num_neighbors"] == 20.0
    odd, _ = convert_bytes(model("tiny_odd"), tmp_path)
    layers = odd["architecture"]["layers"]
    assert [layer["outputs"] for layer in layers] == [[6, 6], [6, 6], [6]]
    assert [layer["readout_hidden"] for layer in layers] == [None, None, 5]
    assert (layers[0]["correlation"], odd["architecture"]["cutoff_p"]) == (2, 6)
    single, tensors = convert_bytes(model("tiny_L1_f32"), tmp_path)
    assert single["dtype"] == "float32" and {array.dtype.name for array in tensors.values()} == {"float32"}


def test_paths_are_sorted_by_the_message():
    assert convolution_paths([5, 5], 2) == [
        *[(0, 0, 0), (1, 1, 0)],
        *[(0, 1, 1), (1, 0, 1), (1, 2, 1)],
        *[(0, 2, 2), (1, 1, 2)],
    ]


@pytest.mark.parametrize("name", FILES)
def test_tree_written_again_is_the_same_model(name, tmp_path):
    config, tensors = convert_bytes(model(name), tmp_path)
    again, same = convert_bytes(changed(name, lambda tree: None), tmp_path)
    assert again["source"].pop("sha256") != config["source"].pop("sha256")
    assert again == config and all(np.array_equal(same[key], tensors[key]) for key in tensors)


def test_model_without_scale_and_shift_has_one_and_nought(tmp_path):
    def plain(tree: Tree) -> None:
        tree.replace("scale_shift", None)
        tree.root.name = "mace.modules.models MACE"

    config, tensors = convert_bytes(changed("tiny_2head", plain), tmp_path)
    assert config["source"]["model_class"] == "MACE"
    np.testing.assert_array_equal(tensors["scale"], np.ones(2), strict=True)
    np.testing.assert_array_equal(tensors["shift"], np.zeros(2), strict=True)


def test_layer_without_a_residual_may_say_that_it_adds_one(tmp_path):
    """Later layers say so whatever their interaction is; the original adds nothing where there is nothing to add."""
    expected = convert_bytes(changed("tiny_2head", lambda tree: None), tmp_path)[1]
    config, tensors = convert_bytes(changed("tiny_2head", set_to("products.0.use_sc", True)), tmp_path)
    assert [layer["residual"] for layer in config["architecture"]["layers"]] == [False, True]
    assert all(np.array_equal(expected[name], tensors[name]) for name in expected)


def test_number_of_neighbours_may_be_a_numpy_or_torch_scalar(tmp_path):
    kind = record("numpy dtype", "f8", False, True, state=(3, "<", None, None, None, -1, -1, 0))
    raw = record("_codecs encode", np.float64(61.9646).tobytes().decode("latin1"), "latin1")
    for make in (
        lambda tree: record("numpy.core.multiarray scalar", kind, raw),
        lambda tree: tree.add(np.array(61.9646)),
    ):
        data = changed("tiny_odd", lambda tree, make=make: tree.set("interactions.1.avg_num_neighbors", make(tree)))
        config, _ = convert_bytes(data, tmp_path)
        assert config["architecture"]["layers"][1]["avg_num_neighbors"] == 61.9646


def test_trained_radial_functions_are_parameters(tmp_path):
    def trained(tree: Tree) -> None:
        for path in ("radial_embedding.bessel_fn", "radial_embedding.distance_transform", "pair_repulsion_fn"):
            state = tree.module(path).state
            names = [name for name in ("bessel_weights", "a", "q", "p", "a_exp") if name in state["_buffers"]]
            state["_parameters"] = {name: state["_buffers"].pop(name) for name in names}

    config, tensors = convert_bytes(model("tiny_2head"), tmp_path)
    again, same = convert_bytes(changed("tiny_2head", trained), tmp_path)
    assert again["architecture"] == config["architecture"]
    assert all(np.array_equal(same[key], tensors[key]) for key in tensors)


def unnatural(text: str):
    return lambda tree: tree.set("interactions.0.hidden_irreps", text)


def set_to(path: str, value):
    return lambda tree: tree.set(path, value)


def renamed(path: str, name: str):
    return lambda tree: setattr(tree.module(path), "name", name)


def put(path: str, array):
    return lambda tree: tree.replace(path, None if array is None else tree.add(np.asarray(array)))


def instruction(path: str, index: int, place: int, value):
    def change(tree: Tree) -> None:
        step = tree.module(path).state["instructions"][index]
        step.args = (*step.args[:place], value, *step.args[place + 1 :])

    return change


def child(path: str, module: str):
    """Put an empty module of this class there."""
    empty = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    parent, _, name = path.rpartition(".")
    return lambda tree: tree.module(parent).state["_modules"].update({name: record(module, state=dict(empty))})


BLOCKS, RADIAL = "mace.modules.blocks", "mace.modules.radial"
PART = "products.0.symmetric_contractions.contractions.0"
UNSUPPORTED = {
    "apply_cutoff": (set_to("apply_cutoff", False), "^hyper-parameter apply_cutoff = False .* only True"),
    "apply_cutoff of the radial part": (
        set_to("radial_embedding.apply_cutoff", False),
        "radial_embedding.apply_cutoff",
    ),
    "edge_irreps": (set_to("edge_irreps", "4x0e"), "^hyper-parameter edge_irreps = '4x0e' .* only None"),
    "edge_irreps of a layer": (set_to("interactions.1.edge_irreps", "4x0e"), "edge_irreps do not fit the network"),
    "use_so3": (set_to("use_so3", True), "^hyper-parameter use_so3 = True"),
    "use_agnostic_product": (set_to("use_agnostic_product", True), "^hyper-parameter use_agnostic_product = True"),
    "agnostic product": (set_to("products.1.use_agnostic_product", True), "products.1.use_agnostic_product = True"),
    "use_last_readout_only": (set_to("use_last_readout_only", True), "use_last_readout_only = True"),
    "embedding_specs": (set_to("embedding_specs", {"charge": {}}), "embedding_specs = a dict of 1"),
    "lammps": (set_to("lammps_mliap", True), "lammps_mliap = True"),
    "cuequivariance": (set_to("interactions.0.cueq_config", {"enabled": True}), "interactions.0.cueq_config"),
    "heads": (set_to("heads", ["a", "a"]), "heads = a list of 2 is not supported, only different names"),
    "heads that are not names": (set_to("heads", [1]), "heads = a list of 1 is not supported, only a list of names"),
    "too many heads": (set_to("heads", ["a", "b"]), "irreps readouts.0.linear.irreps_out do not fit"),
    "model": (renamed("", "mace.modules.models AtomicDipolesMACE"), "is a 'AtomicDipolesMACE'; only ScaleShiftMACE"),
    "interaction": (
        renamed("interactions.1", f"{BLOCKS} RealAgnosticResidualNonLinearInteractionBlock"),
        "module interactions.1 is a 'RealAgnosticResidualNonLinearInteractionBlock'; only RealAgnosticInteractionBlock",
    ),
    "soft transform": (
        child("radial_embedding.distance_transform", f"{RADIAL} SoftTransform"),
        "radial_embedding.distance_transform is a 'SoftTransform'; only AgnesiTransform",
    ),
    "gaussian basis": (renamed("radial_embedding.bessel_fn", f"{RADIAL} GaussianBasis"), "bessel_fn is a 'GaussianB"),
    "chebychev basis": (renamed("radial_embedding.bessel_fn", f"{RADIAL} ChebychevBasis"), "is a 'ChebychevBasis'"),
    "readout": (renamed("readouts.0", f"{BLOCKS} LinearDipoleReadoutBlock"), "is a 'LinearDipoleReadoutBlock'"),
    "activation": (
        lambda tree: tree.module("readouts.2.non_linearity.acts.0").state.update(f=NAMES["torch tanh"]),
        "readouts.2.non_linearity.acts.0.f = 'torch tanh' is not supported, only silu",
    ),
    "norm of the activation": (
        set_to("readouts.2.non_linearity.acts.0.cst", -1.0),
        r"acts.0.cst = -1.0 .* positive numbers",
    ),
    "two norms": (
        set_to("interactions.0.conv_tp_weights.layer0.act.cst", 1.5),
        "silu of the radial networks have different factors",
    ),
    "variance": (set_to("interactions.0.conv_tp_weights.layer1.var_in", 2), "layer1.var_in = 2"),
    "harmonics": (set_to("spherical_harmonics.normalization", "norm"), "spherical_harmonics.normalization = 'norm'"),
    "unnormalised harmonics": (set_to("spherical_harmonics.normalize", False), "spherical_harmonics.normalize"),
    "max_ell": (set_to("spherical_harmonics.irreps_out", "1x0e+1x1o+1x2e+1x3o+1x4e"), "max_ell = 4 .* only 1 to 3"),
    "parity": (unnatural("6x0e+6x1e"), "hidden_irreps = '6x0e.6x1e' is not supported, only irreps 0e, 1o, 2e"),
    "unequal channels": (unnatural("6x0e+4x1o"), "hidden_irreps = .* only equal channels of l = 0, 1, 2"),
    "missing l": (unnatural("6x0e+6x2e"), "hidden_irreps = .* only irreps of all l from 0"),
    "order of irreps": (unnatural("6x1o+6x0e"), "hidden_irreps = .* in this order"),
    "irreps that are none": (unnatural("6x0e+"), "hidden_irreps"),
    "irreps of another class": (set_to("interactions.0.hidden_irreps", 6), "hidden_irreps = 6"),
    "many irreps": (unnatural("+".join(["1x0e"] * 38)), "hidden_irreps = .* only equal channels"),
    "correlation": (set_to(f"{PART}.correlation", 4), "correlation = 4 is not supported, only 1 to 3"),
    "two correlations": (set_to(f"{PART}.correlation", 1), "correlation = .* only one for all l of a layer"),
    "use_sc": (set_to("products.0.use_sc", False), "products.0.use_sc = False is not supported, only True"),
    "neighbours": (set_to("interactions.0.avg_num_neighbors", 0), "avg_num_neighbors = 0 .* only positive numbers"),
    "neighbours as text": (set_to("interactions.0.avg_num_neighbors", "20"), "avg_num_neighbors = '20'"),
    "order of paths": (instruction("interactions.1.conv_tp", 0, 0, 1), "conv_tp has other paths or norms"),
    "norm of a path": (instruction("interactions.1.conv_tp", 3, 5, 1.5), "conv_tp has other paths or norms"),
    "norm of a linear map": (instruction("interactions.1.linear", 0, 3, 1.5), "linear has other paths or norms"),
    "norm of a skip": (instruction("interactions.1.skip_tp", 0, 5, 1.5), "skip_tp has other paths or norms"),
    "path too few": (lambda tree: tree.module("interactions.1.conv_tp").state["instructions"].pop(), "has not the 7"),
    "hook": (set_to("interactions.0._forward_hooks", {1: "x"}), "'_forward_hooks'; modules with hooks"),
    "module too many": (
        child("interactions.0.more", f"{BLOCKS} ScaleShiftBlock"),
        "module 'interactions.0.more' has no place in this network",
    ),
    "module missing": (lambda tree: tree.replace("interactions.0.reshape", None), "module interactions.0.reshape is"),
    "readout missing": (lambda tree: tree.replace("readouts.2", None), "readouts has 2 members; 3 are needed"),
    "number of interactions": (put("num_interactions", 2), "num_interactions is not the number of interactions, 3"),
    "species": (put("atomic_numbers", [3, 8, 8, 17]), "atomic_numbers = a list of 4 .* different atomic numbers"),
    "unknown species": (put("atomic_numbers", [3, 8, 17, 119]), "atomic_numbers"),
    "cutoff": (put("r_max", -1.0), "r_max = -1.0 is not supported, only radii"),
    "two cutoffs": (put("radial_embedding.bessel_fn.r_max", 4.0), "radial_embedding.bessel_fn.r_max is not r_max"),
    "broken exponent": (put("radial_embedding.cutoff_fn.p", 5.5), "cutoff_fn.p = 5.5 .* only whole numbers from 1"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(case, tmp_path):
    change, message = UNSUPPORTED[case]
    with pytest.raises(weights_convert.RefusedFile, match=message):
        convert_bytes(changed("tiny_odd", change), tmp_path)


WEIGHT = "interactions.0.linear_up.weight"
SPOILED = {
    "missing": (put(WEIGHT, None), f"tensor {WEIGHT} is missing"),
    "left over": (put("radial_embedding.more", [1.0]), "tensor 'radial_embedding.more' has no place"),
    "shape": (put(WEIGHT, np.ones(35)), rf"tensor {WEIGHT} is \[35\] of <f8; \[36\] of <f8 is needed"),
    "single": (put(WEIGHT, np.ones(36, "f4")), rf"tensor {WEIGHT} is \[36\] of <f4"),
    "half": (put("node_embedding.linear.weight", np.ones(24, "f2")), "has weights of <f2; float32 and float64 are"),
    "integers": (put("node_embedding.linear.weight", np.ones(24, "i8")), "has weights of <i8"),
    "no embedding": (put("node_embedding.linear.weight", None), "has weights of None"),
    "not finite": (put(WEIGHT, np.full(36, np.nan)), f"tensor {WEIGHT} has values that are not finite"),
    "bias": (put("interactions.0.linear.bias", [1.0]), r"linear.bias is \[1\] of <f8; \[0\]"),
    "masked": (put("interactions.0.conv_tp.output_mask", np.zeros(54)), "output_mask is not the mask that follows"),
    "energies of two heads": (put("atomic_energies_fn.atomic_energies", np.ones((2, 4))), r"is \[2, 4\] of <f8"),
    "scale of two heads": (put("scale_shift.scale", np.ones(2)), r"scale_shift.scale is \[2\]"),
    "coupling": (put(f"{PART}.U_matrix_2", np.ones((9, 8, 3))), r"U_matrix_2 is \[9, 8, 3\]"),
    "number of paths": (put(f"{PART}.U_matrix_2", np.zeros((9, 9, 2))), r"weights_max is \[4, 3, 6\]"),
    "no coupling": (put(f"{PART}.U_matrix_2", None), "U_matrix_2 is missing"),
    "no Bessel functions": (put("radial_embedding.bessel_fn.bessel_weights", 1.0), "hs = a list of 4"),
    "text for a tensor": (lambda tree: tree.replace(WEIGHT, "x"), f"tensor '{WEIGHT}' is there twice or is not"),
    "twice": (
        lambda tree: (
            tree.module("radial_embedding")
            .state["_buffers"]
            .update({"bessel_fn.r_max": tree.module("").state["_buffers"]["r_max"]})
        ),
        "tensor 'radial_embedding.bessel_fn.r_max' is there twice",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_tensor_that_does_not_fit_is_refused_by_name(case, tmp_path):
    change, message = SPOILED[case]
    with pytest.raises(weights_convert.RefusedFile, match=message):
        convert_bytes(changed("tiny_odd", change), tmp_path)


PAIR = {
    "other radii": (put("pair_repulsion_fn.covalent_radii", np.ones(119)), "have different covalent_radii"),
    "short radii": (put("pair_repulsion_fn.covalent_radii", np.ones(90)), r"covalent_radii is \[90\]"),
    "flag without ZBL": (lambda tree: tree.replace("pair_repulsion_fn", None), "pair_repulsion = True"),
    "ZBL without flag": (set_to("pair_repulsion", False), "pair_repulsion = False"),
    "layers of the density": (set_to("interactions.0.density_fn.hs", [8, 4, 1]), "density_fn.layer1 is missing"),
    "readout of three heads": (set_to("readouts.1.num_heads", 3), "readouts.1.hidden_irreps = .* for each head"),
}


@pytest.mark.parametrize("case", PAIR)
def test_density_and_pair_terms_that_do_not_fit_are_refused_by_name(case, tmp_path):
    change, message = PAIR[case]
    with pytest.raises(weights_convert.RefusedFile, match=message):
        convert_bytes(changed("tiny_2head", change), tmp_path)


def test_same_file_gives_same_bytes_and_reads_back(tmp_path):
    path = tmp_path / "tiny.model"
    path.write_bytes(model("tiny_2head"))
    folders = [weights_convert.convert("mace", path, tmp_path / out)[0] for out in ("one", "two")]
    for file in ("config.json", "model.safetensors"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
    config, tensors = weights_convert.convert_mace(path)["tiny"]
    assert json.loads((folders[0] / "config.json").read_text()) == config
    for name, values in load_file(folders[0] / "model.safetensors").items():
        np.testing.assert_array_equal(values, tensors[name], strict=True)
    wrong = tensors | {"scale": tensors["scale"].astype(np.float32)}
    with pytest.raises(weights_convert.RefusedFile, match=r"tensor scale is \[2\] of float32; \[2\] of float64"):
        model_files(config, wrong)


def test_known_file_is_recognised_under_any_file_name(tmp_path, monkeypatch):
    sums = {"mace-omat-0-small": hashlib.sha256(model("tiny_odd")).hexdigest()}
    monkeypatch.setattr(mace_sources, "KNOWN", mace_sources.KNOWN | sums)
    (tmp_path / "20231210macemodel").write_bytes(model("tiny_odd"))
    ((name, (config, _)),) = weights_convert.convert_mace(tmp_path / "20231210macemodel").items()
    assert name == config["name"] == config["source"]["recognised_as"] == "mace-omat-0-small"
    assert (config["source"]["file"], config["source"]["licence"]) == ("20231210macemodel", "ASL")


def test_command_writes_a_model_and_says_where(tmp_path, capsys):
    path, out = tmp_path / "tiny.model", tmp_path / "out"
    path.write_bytes(model("tiny_odd"))
    assert main(["mace", str(path), "-o", str(out)]) == 0
    assert capsys.readouterr() == (f"{out}\n", "")
    assert sorted(file.name for file in out.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(weights_convert.RefusedFile, match="'tiny.model' is 'tiny', not 'other'"):
        weights_convert.convert("mace", path, tmp_path / "more", model="other")


@needs_folder
def test_all_models_of_the_folder_convert(tmp_path):
    files = sorted(Path(FOLDER).glob("*.model.xz"))
    assert len(files) >= len(FILES)
    for file in files:
        config, tensors = convert_bytes(lzma.decompress(file.read_bytes()), tmp_path)
        assert load(model_files(config, tensors)["model.safetensors"]).keys() == tensors.keys()
