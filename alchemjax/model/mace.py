"""MACE: messages as in NequIP, then products of several neighbours' at every node; edge vectors to node energies.

I. Batatia et al., NeurIPS 35, 11423 (2022); I. Batatia et al., arXiv 2401.00096 (the foundation models).
Features are lists over l of arrays [nodes, 2l+1, channels], the nodes in rows of one species each, so that what belongs
to a species is fetched once for many nodes. Parity is natural, (-1)^l. The species enters at nodes (embedding, skip,
product, reference energy); between nodes it does only in models with the Agnesi transform of distances or with ZBL
repulsion, whose graph has edges between nodes (`per_node`).
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alchemjax.model import symmetric
from alchemjax.model.elements import SYMBOLS
from alchemjax.model.messages import Geometry, by_species, mix, read, received
from alchemjax.system.graph import Edges, Graph

COULOMB = 14.3996  # e^2 / (4 pi epsilon_0) [eV A], the digits of the original
BOHR = 0.529  # A, the digits of the original
ZBL_DECAY = (3.2, 0.9423, 0.4028, 0.2016)


@dataclass(frozen=True)
class Layer:
    """Hyper-parameters of one layer."""

    l_in: int  # largest l of the features
    l_out: int
    residual: bool
    neighbours: float | None  # the sum over neighbours is divided by this; None: by 1 + density
    correlation: int


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of one MACE model."""

    cutoff: float  # A
    lmax: int
    layers: tuple[Layer, ...]
    envelope: int  # exponent p
    agnesi: bool
    zbl: tuple[int, tuple[int, ...]] | None  # exponent p of its envelope, atomic numbers in the order of species
    silu_norm: tuple[float, float]  # in the radial network, in the readout
    rounded_w3j: bool  # the 3j symbols of the convolution were float32
    head: int
    batch: int = 1  # compositions under one vmap: chunks are smaller then; changes no result

    @property
    def per_node(self) -> bool:
        """Whether edges see the species at both ends."""
        return self.agnesi or self.zbl is not None


def read_config(architecture: dict, head: int | None) -> Config:
    """The config from the `architecture` entry of config.json, `dtype` and `species` added."""
    zbl, norm = architecture["zbl"], architecture["silu_norm"]
    return Config(
        cutoff=float(architecture["cutoff"]),
        lmax=int(architecture["max_ell"]),
        layers=tuple(
            Layer(
                l_in=len(layer["inputs"]) - 1,
                l_out=len(layer["outputs"]) - 1,
                residual=bool(layer["residual"]),
                neighbours=None if layer["density"] else float(layer["avg_num_neighbors"]),
                correlation=int(layer["correlation"]),
            )
            for layer in architecture["layers"]
        ),
        envelope=int(architecture["cutoff_p"]),
        agnesi=architecture["distance_transform"] is not None,
        zbl=zbl and (int(zbl["p"]), tuple(SYMBOLS.index(s) + 1 for s in architecture["species"])),
        silu_norm=(float(norm["radial"]), float(norm["readout"] or 0.0)),
        rounded_w3j=architecture["dtype"] == "float32",
        head=head or 0,
    )


def parameter_shapes(architecture: dict, num_species: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of the weights file."""
    channels, heads = architecture["channels"], len(architecture["heads"])
    basis, zbl = architecture["radial"]["number"], architecture["zbl"]
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (num_species, channels),
        "bessel_weights": (basis,),
        "prefactor": (),
        "atomic_energies": (heads, num_species),
        "scale": (heads,),
        "shift": (heads,),
    }
    if architecture["distance_transform"]:
        shapes["agnesi"] = (3,)
    if zbl:
        shapes |= {"zbl.c": (4,), "zbl.a_exp": (), "zbl.a_prefactor": ()}
    if architecture["distance_transform"] or zbl:
        shapes["covalent_radii"] = (num_species,)
    for t, layer in enumerate(architecture["layers"]):
        own = _layer_shapes(architecture, layer, num_species)
        shapes |= {f"layers.{t}.{name}": shape for name, shape in own.items()}
        width = layer["readout_hidden"]
        if width is None:
            shapes[f"readouts.{t}.linear"] = (channels, heads)
        else:
            shapes |= {f"readouts.{t}.0": (channels, heads * width), f"readouts.{t}.1": (heads * width, heads)}
    return shapes


def _layer_shapes(architecture: dict, layer: dict, num_species: int) -> dict[str, tuple[int, ...]]:
    channels, lmax = architecture["channels"], architecture["max_ell"]
    l_in, l_out = len(layer["inputs"]) - 1, len(layer["outputs"]) - 1
    paths = _paths(l_in, lmax)
    widths = [architecture["radial"]["number"], *layer["radial_hidden"], channels * len(paths)]
    shapes: dict[str, tuple[int, ...]] = {f"radial.{k}": (widths[k], widths[k + 1]) for k in range(len(widths) - 1)}
    shapes |= {f"linear_up.{l}": (channels, channels) for l in range(l_in + 1)}
    shapes |= {f"linear.{l}": (channels * sum(p[2] == l for p in paths), channels) for l in range(lmax + 1)}
    if layer["density"]:
        shapes["density"] = (widths[0], 1)
    skipped = min(l_in, l_out) if layer["residual"] else lmax
    shapes |= {f"skip.{l}": (channels, num_species, channels) for l in range(skipped + 1)}
    for l, numbers in enumerate(layer["paths"]):
        for nu, number in enumerate(numbers, start=1):
            outputs = (2 * l + 1,) if l else ()
            shapes[f"product.{l}.U.{nu}"] = (*outputs, *[(lmax + 1) ** 2] * nu, number)
            shapes[f"product.{l}.W.{nu}"] = (num_species, number, channels)
        shapes[f"product.linear.{l}"] = (channels, channels)
    return shapes


def prepare(architecture: dict, tensors: dict[str, Any]) -> dict[str, Any]:
    """Parameters from the arrays of the weights file, on the host: what no structure changes is done once.

    Linear maps get their normalisation 1/sqrt(fan in), and those that follow one another become one: the embedding and
    the maps of the first layer, the messages' map and the skip of a layer that is not residual, the last layer's maps
    and the readout. U and W of every product become one polynomial per species. Maps of a species are
    [species, in, out]. The columns of the last radial matrix, which the file orders by l3, are ordered by l1.
    Errors: ValueError for U that is not equivariant.
    """
    flat = {name: np.asarray(a, np.float64) for name, a in tensors.items()}
    embedding = flat.pop("embedding") / sqrt(len(flat["atomic_energies"][0]))
    layers = architecture["layers"]
    for t, layer in enumerate(layers):
        own = _of_layer(architecture, layer, _taken(flat, f"layers.{t}."))
        readout = _readout_maps(_taken(flat, f"readouts.{t}."))
        if t == 0:
            own["linear_up.0"] = embedding @ own["linear_up.0"]
            if layer["residual"]:
                own["skip.0"] = np.einsum("si,sio->so", embedding, own["skip.0"])
        if t == len(layers) - 1:
            first = readout.pop("0")
            own |= {name: own[name] @ first for name in ("skip.0", "product.linear.0") if name in own}
        flat |= {f"layers.{t}.{name}": a for name, a in own.items()}
        flat |= {f"readouts.{t}.{name}": a for name, a in readout.items()}
    return flat


def _taken(flat: dict, prefix: str) -> dict:
    """The arrays whose names begin so, without that, taken out."""
    return {name.removeprefix(prefix): flat.pop(name) for name in list(flat) if name.startswith(prefix)}


def _of_layer(architecture: dict, layer: dict, own: dict) -> dict:
    """The arrays of one layer as `prepare` says, before they are joined with what is outside of the layer."""
    for name, a in own.items():
        if name.startswith(("linear", "product.linear", "radial", "density")):
            own[name] = a / sqrt(len(a))
        elif name.startswith("skip"):
            own[name] = np.moveaxis(a, 1, 0) / sqrt(a.shape[0] * a.shape[1])
    if not layer["residual"]:
        for l in range(architecture["max_ell"] + 1):
            own[f"linear.{l}"] = own[f"linear.{l}"] @ own.pop(f"skip.{l}")
    nus = range(1, layer["correlation"] + 1)
    for l in range(len(layer["outputs"])):
        u, w = ({nu: own.pop(f"product.{l}.{name}.{nu}") for nu in nus} for name in "UW")
        own[f"product.{l}"] = symmetric.coefficients(u, w, l)
    paths = _paths(len(layer["inputs"]) - 1, architecture["max_ell"])
    name = f"radial.{len(layer['radial_hidden'])}"
    blocks = np.split(own[name], len(paths), axis=1)
    in_file = sorted(range(len(paths)), key=lambda i: paths[i][2])  # path of every block
    own[name] = np.concatenate([blocks[in_file.index(i)] for i in range(len(paths))], axis=1)
    return own


def _readout_maps(readout: dict) -> dict:
    """`0`: to what is wanted of every head; `1`: where that is not yet the energy, from there to the energy."""
    if "linear" in readout:
        return {"0": readout["linear"] / sqrt(len(readout["linear"]))}
    return {name: a / sqrt(len(a)) for name, a in readout.items()}


def node_energies(params: dict, config: Config, graph: Graph) -> Float[Array, "nodes"]:
    """Energy of every node [eV], reference energy included, not yet weighted.

    Errors: ValueError if the model needs edges between nodes and the graph has edges between sites.
    """
    species, head = graph.node_species, config.head
    if config.per_node and any(edges.weight is None for edges in graph.blocks):
        raise ValueError("this model needs a graph with edges between nodes: make_topology(..., per_node=True)")
    graph = by_species(graph)
    species, kinds = graph.node_species, graph.node_species[graph.species_nodes[:, 0]]
    geometry = [_geometry(params, config, graph, edges) for edges in graph.blocks]
    radial = {name: params[name] for name in ("bessel_weights", "prefactor", "agnesi") if name in params}
    energy = _zbl(params, config, graph, geometry) if config.zbl else 0.0
    x = []  # the first layer sees species alone: its maps are tables
    for t, layer in enumerate(config.layers):
        own = params["layers"][str(t)]
        sent = _linear(own["linear_up"], x) if t > 0 else _table(own["linear_up"], species)
        skipped = []
        if layer.residual:
            skipped = _linear_of_kinds(own["skip"], kinds, x) if t > 0 else _table(own["skip"], species)
        paths = _paths(layer.l_in, config.lmax)
        *hidden, last = (own["radial"][str(k)] for k in range(len(own["radial"])))
        network = radial | {"hidden": hidden, "last": last}
        heard = received(_hidden, config, paths, network, graph, geometry, [mix(graph, a) for a in sent])
        heard = [read(graph, a) for a in (_linear(own["linear"], heard) if layer.residual else heard)]
        neighbours = layer.neighbours
        if neighbours is None:
            density = jnp.asarray(_density(config, own["density"], radial, graph, geometry))
            neighbours = 1 + density[:, None, None]
        heard = [a / neighbours for a in heard]
        if not layer.residual:
            heard = _linear_of_kinds(own["linear"], kinds, heard)
        x = _linear(own["product"]["linear"], _product(config, layer, own["product"], kinds, heard))
        x = [a + skipped[l] if l < len(skipped) else a for l, a in enumerate(x)]
        energy = energy + _readout(config, params.get("readouts", {}).get(str(t), {}), x[0][:, 0])
    energy = params["scale"][head] * energy + params["shift"][head] + params["atomic_energies"][head][species]
    return energy[graph.node_place]


# --- nodes ------------------------------------------------------------------------------------------------------------


def _linear(weights: dict, x: list) -> list:
    """One matrix per l."""
    return [a @ weights[str(l)] for l, a in enumerate(x)]


def _table(weights: dict, species) -> list:
    """A linear map of what depends on the species alone: scalars."""
    return [weights["0"][species][:, None, :]]


def _linear_of_kinds(weights: dict, kinds, x: list) -> list:
    """One matrix per l and species; the nodes are in rows of one species each."""
    matrices = [weights[str(l)][kinds] for l in range(len(weights))]
    return [
        jnp.matmul(a.reshape(len(kinds), -1, a.shape[-1]), matrix).reshape(*a.shape[:2], -1)
        for a, matrix in zip(x, matrices, strict=False)
    ]


def _product(config: Config, layer: Layer, weights: dict, kinds, x: list) -> list:
    """Symmetric contraction of the messages, for every l of the output."""
    components = jnp.concatenate(x, axis=1)
    in_rows = components.reshape(len(kinds), -1, *components.shape[1:])
    products = (
        symmetric.contract(config.lmax, l, layer.correlation, weights[str(l)][kinds][:, None], in_rows)
        for l in range(layer.l_out + 1)
    )
    return [a.reshape(-1, *a.shape[2:]) for a in products]


def _readout(config: Config, weights: dict, x):
    """Energy of one head, from scalars [nodes, channels]; in the last layer `prepare` has done the first map."""
    if "0" in weights:
        x = x @ weights["0"]
    if "1" not in weights:
        return x[:, config.head]
    width = weights["1"].shape[0] // weights["1"].shape[1]
    columns = slice(width * config.head, width * (config.head + 1))
    return config.silu_norm[1] * jax.nn.silu(x[:, columns]) @ weights["1"][columns, config.head]


# --- angular part -----------------------------------------------------------------------------------------------------


def _paths(l_in: int, lmax: int) -> list[tuple[int, int, int]]:
    """(l1, l2, l3) of the tensor product, ordered by l1; for every l3 this is the order of the rows of `linear`."""
    return [
        (l1, l2, l3)
        for l1 in range(l_in + 1)
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, lmax) + 1, 2)
    ]


def _angular(config: Config, vectors) -> dict:
    """Y_l2(r) contracted with the 3j symbols: {(l1, l2, l3): [rows, width, 2l1+1, 2l3+1]}, once for all layers."""
    irreps = e3nn.Irreps([(1, (l, (-1) ** l)) for l in range(config.lmax + 1)])
    y = e3nn.spherical_harmonics(irreps, vectors, normalize=True, normalization="component").array
    y = [y[..., l**2 : (l + 1) ** 2] for l in range(config.lmax + 1)]
    tensors = {}
    for path in _paths(max(layer.l_in for layer in config.layers), config.lmax):
        w3j = np.array(e3nn.clebsch_gordan(*path))
        w3j /= np.linalg.norm(w3j)
        if config.rounded_w3j and 0 not in path:
            w3j = w3j.astype(np.float32).astype(np.float64)
        w3j = jnp.asarray(sqrt(2 * path[2] + 1) * w3j, vectors.dtype)
        tensors[path] = jnp.einsum("abc,rwb->rwac", w3j, y[path[1]])
    return tensors


# --- functions of distance --------------------------------------------------------------------------------------------


def _species_of_ends(graph: Graph, edges: Edges):
    """Rows in the species table of the sender [rows, width] and the receiver [rows, 1]; of edges between nodes."""
    receiver = jnp.asarray(graph.target_node).at[edges.target[0]].get(mode="clip")
    species, sender = jnp.asarray(graph.node_species), jnp.asarray(graph.source_node)[edges.source[0]]
    return species[sender], species[receiver][:, None]


def _geometry(params: dict, config: Config, graph: Graph, edges: Edges) -> Geometry:
    """The edges of one block; with the Agnesi transform their r0, the mean radius of both ends [A]."""
    radial = {}
    if config.agnesi:
        sender, receiver = (params["covalent_radii"][ends] for ends in _species_of_ends(graph, edges))
        radial["r0"] = (sender + receiver) / 2
    return Geometry(jnp.linalg.norm(edges.vectors, axis=-1), _angular(config, edges.vectors), radial)


def _basis(config: Config, radial: dict, r):
    """Bessel functions of the (transformed) distance times the envelope: [..., number]."""
    x = r
    if config.agnesi:
        a, q, p = radial["agnesi"]
        t = r / radial["r0"]
        x = 1 / (1 + a * t**q / (1 + t ** (q - p)))
    frequencies = jnp.expand_dims(radial["bessel_weights"], tuple(range(r.ndim)))
    bessel = radial["prefactor"] * jnp.sin(frequencies * x[..., None]) / x[..., None]
    return bessel * envelope(r / config.cutoff, config.envelope)[..., None]


def envelope(x, p: int):
    """1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) for x < 1, and 0 from there on.

    J. Gasteiger, J. Gross, S. Guennemann, ICLR (2020), eq. (8).
    """
    inside = jnp.minimum(x, 1.0)  # (1 - x)^3 sum_k (k+1)(k+2)/2 x^k: the same without cancellation near x = 1
    series = sum((k + 1) * (k + 2) / 2 * inside**k for k in range(p))
    return jnp.where(x < 1, (1 - inside) ** 3 * series, 0.0)


def _hidden(config: Config, radial: dict, r):
    """The basis through all but the last layer of the radial network."""
    x = _basis(config, radial, r)
    for matrix in radial["hidden"]:
        x = config.silu_norm[0] * jax.nn.silu(x @ matrix)
    return x


def _sum_edges(graph: Graph, values: list):
    """Sum over the neighbours of every node of numbers [worlds, rows, width] by block."""
    targets = 0.0
    for edges, a in zip(graph.blocks, values, strict=True):
        if edges.weight is not None:
            a = edges.weight[None] * a
        targets += jax.ops.segment_sum(a.sum(-1).reshape(-1), edges.target.reshape(-1), len(graph.target_node))
    return read(graph, targets)


def _density(config: Config, matrix, radial: dict, graph: Graph, geometry: list[Geometry]):
    """sum_j P(j) tanh((basis . w)^2); a source counts with the sum of the weights it mixes."""
    heard = jax.ops.segment_sum(graph.mix_weight, graph.mix_source, len(graph.source_node))
    values = []
    for edges, known in zip(graph.blocks, geometry, strict=True):
        summed = (_basis(config, radial | known.radial, known.distance) @ matrix)[..., 0]
        values.append(heard[edges.source] * jnp.tanh(summed**2)[None])
    return _sum_edges(graph, values)


def _zbl(params: dict, config: Config, graph: Graph, geometry: list[Geometry]):
    """Half of the screened repulsion of the nuclei with every neighbour [eV].

    J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Matter (1985).
    """
    assert config.zbl
    p, numbers = config.zbl
    zbl, charges = params["zbl"], jnp.asarray(numbers, params["covalent_radii"].dtype)
    values = []
    for edges, known in zip(graph.blocks, geometry, strict=True):
        r = known.distance
        sender, receiver = _species_of_ends(graph, edges)
        z, z_own = charges[sender], charges[receiver]
        s = r * (z ** zbl["a_exp"] + z_own ** zbl["a_exp"]) / (zbl["a_prefactor"] * BOHR)
        screening = sum(c * jnp.exp(-decay * s) for c, decay in zip(zbl["c"], ZBL_DECAY, strict=True))
        reach = params["covalent_radii"][sender] + params["covalent_radii"][receiver]
        pair = COULOMB / 2 * z * z_own / r * screening * envelope(r / reach, p)
        values.append(jnp.where(r < config.cutoff, pair, 0.0)[None])  # the radii may reach farther, into the skin
    return _sum_edges(graph, values)
