"""How much energy: at the mean composition, and with fluctuations of one site at a time; traced.

A random alloy has, to first order in fluctuations of one site at a time (equivalent sites i have the same correction),

    E = E(mean) + sum_i sum_k w_ik (E(mean, site i = k) - E(mean))            exactly, k over species and vacancy
    E = E(mean) + sum_i sum_{k<l} w_ik w_il D^2 E[e_ik - e_il] / 2            to second order, = tr(C_i d2E/dw_i2) / 2

with C_i[k,l] = w_ik delta_kl - w_ik w_il and D^2 E[d] the second derivative along d.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alchemjax.system.fluctuations import Variants
from alchemjax.system.graph import make_graph, union
from alchemjax.system.topology import Topology


def energy(
    node_energies, config, params, topology: Topology | Variants, positions, cell, weights, alpha, strain=None
) -> tuple[Float[Array, ""], Float[Array, "sites"]]:
    """E = sum_n w_n e_n [eV] and its parts by site; traced, differentiable in every array."""
    if isinstance(topology, Variants):
        place = embedded(topology, positions, cell, strain)

        def of(weights):
            x, cell, strain = place
            return energy(node_energies, config, params, topology.topology, x, cell, weights, alpha, strain)[1]

        sites = _fluctuating(of, topology, weights)
        return jnp.sum(sites), sites
    graph = make_graph(topology, positions, cell, weights, alpha, far=2 * config.cutoff, strain=strain)
    nodes = graph.node_weight * node_energies(params, config, graph)
    sites = jax.ops.segment_sum(nodes, graph.node_site, len(positions))
    return jnp.sum(sites), sites


def batch_energy(
    node_energies, config, params, topology: Topology | Variants, positions, cell, weights, alpha, strain
) -> tuple[Float[Array, ""], Float[Array, "batch sites"]]:
    """Sum and site energies of different geometries (a leading axis everywhere), run as one large structure."""
    if isinstance(topology, Variants):
        one = jax.tree.map(lambda a: a[0], topology._replace(topology=None))  # all but the neighbours is the same
        place = jax.vmap(partial(embedded, one))(positions, cell, strain)

        def of(weights):
            x, cell, strain = place
            return batch_energy(node_energies, config, params, topology.topology, x, cell, weights, alpha, strain)[1]

        sites = _fluctuating(of, one, weights)
        return jnp.sum(sites), sites
    batch, num_sites = positions.shape[:2]
    graphs = jax.vmap(partial(make_graph, far=2 * config.cutoff))
    graph = union(graphs(topology, positions, cell, weights, alpha, strain=strain), num_sites)
    nodes = graph.node_weight * node_energies(params, config, graph)
    sites = jax.ops.segment_sum(nodes, graph.node_site, batch * num_sites).reshape(batch, num_sites)
    return jnp.sum(sites), sites


def embedded(variants: Variants, positions, cell, strain):
    """Positions, cell and strain of the supercell, made symmetric: derivatives are those of all equivalent sites."""
    if len(variants.rotation) > 1:
        positions, strain = _symmetrised(variants, positions, cell, strain)
    shift = variants.shift.astype(cell.dtype)
    return positions[variants.origin] + shift @ cell, variants.matrix.astype(cell.dtype) @ cell, strain


def _symmetrised(variants: Variants, positions, cell, strain):
    """Means over the images under the operations of the space group."""
    inverse = jnp.linalg.inv(cell)
    fractional = positions @ inverse
    rotation = variants.rotation.astype(cell.dtype)
    moved = jnp.einsum("gab,ib->gia", rotation, fractional) + variants.translation.astype(cell.dtype)[:, None]
    away = moved - fractional[variants.image]
    away = (away - jnp.round(away)).reshape(-1, 3) / len(rotation)
    fractional = fractional + jax.ops.segment_sum(away, variants.image.reshape(-1), len(positions))
    if strain is not None:
        turn = jnp.einsum("ab,gcb,cd->gad", inverse, rotation, cell)  # of Cartesian rows
        strain = jnp.einsum("gba,bc,gcd->ad", turn, strain, turn) / len(rotation)
    return fractional @ cell, strain


def _fluctuating(of: Callable, variants: Variants, weights: Float[Array, "*batch weights"]):
    """Energies [*batch, sites] of the cell; `of` takes own weights of the supercell's sites to their energies."""
    mean = weights[..., variants.weight]
    every = (len(variants.site), *mean.shape)
    along = lambda a: jnp.broadcast_to(a.astype(mean.dtype).reshape(len(a), *[1] * (mean.ndim - 1), -1), every)
    if variants.kept is None:
        at_mean, part = _curvatures(of, mean, along(variants.change))
    else:
        varied = jnp.broadcast_to(mean, every) * along(variants.kept) + along(variants.change)
        occupied = jnp.concatenate([mean[None], varied])
        last = len(occupied) - (0 if variants.filled is None else len(variants.filled))
        energies = jax.vmap(of)(occupied[:last])
        if variants.filled is not None:  # all that counts of a vacancy is its energy, for the derivative by its chance
            energies = jnp.concatenate([energies, jax.lax.stop_gradient(jax.vmap(of)(occupied[last:]))])
        at_mean, part = energies[0], jnp.sum(energies[1:] - energies[:1], axis=-1)
    vacancies = 1 - weights @ variants.members.astype(mean.dtype).T
    chance = jnp.prod(jnp.concatenate([weights, vacancies], axis=-1)[..., variants.chance], axis=-1)
    here = variants.site[:, None] == variants.first[None]
    copies = at_mean.reshape(*at_mean.shape[:-1], -1, len(variants.first))
    return jnp.mean(copies, axis=-2) + (chance * jnp.moveaxis(part, 0, -1)) @ here.astype(mean.dtype)


def _curvatures(of: Callable, mean, directions):
    """Site energies at the mean, and half the second derivative of the energy along every direction."""

    def along(direction):
        once = lambda w: jax.jvp(of, (w,), (direction,))
        (energies, _), (_, second) = jax.jvp(once, (mean,), (direction,))
        return energies, jnp.sum(second, axis=-1) / 2

    return jax.vmap(along, out_axes=(None, 0))(directions)
