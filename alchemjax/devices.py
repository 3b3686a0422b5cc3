"""Work shared among devices: a batch by its members, one large structure by the edges of its graph."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

MEMBERS, EDGES = "members", "edges"
SITES_EACH = 16  # fewer do not occupy a device
MOST_FOR_EDGES = 8  # devices for one structure: what belongs to nodes every device does by itself


def mesh_for(batch: int, sites: int = 0) -> Mesh:
    """The devices that share a batch: as many as divide it evenly.

    Where the batch is one structure of so many sites, they share its edges instead.
    """
    every = jax.devices()
    number, axis = max(n for n in range(1, len(every) + 1) if batch % n == 0), MEMBERS
    if batch == 1 and sites >= 2 * SITES_EACH and len(every) > 1:
        number, axis = min(len(every), MOST_FOR_EDGES, sites // SITES_EACH), EDGES
    return Mesh(np.array(every[:number]), (axis,))


def spread(function: Callable, mesh: Mesh, specs, out_specs) -> Callable:
    """`function`, compiled for all devices of the mesh; specs name the axes of arrays that members have.

    Arguments always lie on the devices in the same way, or a second call would compile again.
    """
    if EDGES in mesh.axis_names:
        everywhere, run = jax.NamedSharding(mesh, jax.P()), jax.jit(function)

        def of_edges(*arguments):
            with jax.set_mesh(mesh):
                return run(*jax.device_put(arguments, everywhere))

        return of_edges
    run = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False))
    is_spec = lambda leaf: isinstance(leaf, jax.P)
    places = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs, is_leaf=is_spec)
    return lambda *arguments: run(*jax.device_put(arguments, places))


def working_devices() -> int:
    """How many devices share the work; traced, in a function given to `spread`."""
    return math.prod(jax.sharding.get_abstract_mesh().axis_sizes)


def on_any(flag):
    """Whether it is so on any of the devices that share a batch; traced."""
    if MEMBERS not in jax.sharding.get_abstract_mesh().axis_names:
        return flag
    return jax.lax.pmax(flag.astype(int), MEMBERS) > 0


def sum_over_rows(function: Callable, by_row, target, shared, num_targets: int) -> list:
    """function(by_row, target, shared), a list of sums over rows, by all devices that share edges; traced.

    `target`, of which every row has some, is `num_targets` in rows that are added for an even share.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if EDGES not in mesh.axis_names:
        return function(by_row, target, shared)
    extra = -len(target) % mesh.shape[EDGES]
    if extra:
        by_row = jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], extra, axis=0)]), by_row)
        target = jnp.concatenate([target, jnp.full((extra, *target.shape[1:]), num_targets, target.dtype)])
    share = lambda *arguments: [a[None] for a in function(*arguments)]
    specs = jax.P(EDGES), jax.P(EDGES), jax.P()
    parts = jax.shard_map(share, in_specs=specs, out_specs=jax.P(EDGES), check_vma=False)(by_row, target, shared)
    return [jnp.sum(a, axis=0) for a in parts]
