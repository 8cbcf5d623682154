"""A training state whose large arrays are sharded over the devices of a mesh.

Each device keeps 1/n of every large parameter, of its moving average and of its moments. A step
collects a parameter when it is used, forwards and again backwards, and gives back its gradient in
shards (ZeRO 3, Rajbhandari et al. 2020, arXiv:1910.02054; fully sharded data parallelism):

    theta      = all_gather(shards of theta)                                    (1)
    shards of grad L = reduce_scatter(grad of each device's examples)           (2)

What a device computes is that of replicated parameters, but for the order in which sums are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from scoresde.parallel.mesh import replicated

# --- Which arrays, and along which axes ---


def state_shardings(state: PyTree, mesh: Mesh, shard_above: int | None) -> PyTree:
    """Returns where each array of a state lies: sharded if it has at least `shard_above` elements
    and axes that the devices divide, and replicated otherwise, as constants are."""

    def sharding(path: tuple[Any, ...], array: Any) -> NamedSharding:
        is_constant = path[:1] == (jax.tree_util.DictKey("constants"),)
        if shard_above is None or is_constant or math.prod(array.shape) < shard_above:
            return replicated(mesh)
        return NamedSharding(mesh, _axes(tuple(array.shape), mesh))

    return jax.tree_util.tree_map_with_path(sharding, state)


def _axes(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns the axes of an array over which the devices divide it.

    That is its longest one over all of them, or else two axes, each over one axis of the mesh.
    """
    along: list[Any] = [None] * len(shape)
    by_length = sorted(range(len(shape)), key=lambda axis: -shape[axis])

    for axis in by_length:
        if shape[axis] % mesh.size == 0:
            along[axis] = mesh.axis_names
            return PartitionSpec(*along)

    short, long = mesh.axis_names
    for name in (long, short):
        fitting = [axis for axis in by_length if shape[axis] % mesh.shape[name] == 0]
        free = [axis for axis in fitting if along[axis] is None]
        if not free:
            return PartitionSpec()
        along[free[0]] = name
    return PartitionSpec(*along)


# --- Collecting them ---


def collector(shardings: PyTree, mesh: Mesh) -> Callable[[PyTree], PyTree]:
    """Returns the function that makes whole parameters of sharded ones (Eq. 1), whose derivative is
    sharded as they are (Eq. 2). Replicated ones pass unchanged."""

    def collect(params: PyTree) -> PyTree:
        return jax.tree.map(partial(_collect, mesh), params, shardings)

    return collect


def _collect(mesh: Mesh, param: jax.Array, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_replicated:
        return param

    @jax.custom_vjp
    def collected(param):
        return jax.lax.with_sharding_constraint(param, replicated(mesh))

    def backward(_, gradient):
        return (jax.lax.with_sharding_constraint(gradient, sharding),)

    collected.defvjp(lambda param: (collected(param), None), backward)
    return collected(param)


def collecting_again(
    function: Callable[..., Any], collect: Callable[[PyTree], PyTree]
) -> Callable[..., Any]:
    """Returns the function of whole parameters as one of sharded ones, its first argument.

    Its derivative collects them again, rather than keeping them from the forward pass: they would
    be whole on every device at once.
    """

    def is_kept(primitive: Any, *_: Any, **__: Any) -> bool:
        return not primitive.name.startswith("custom_vjp_call")  # that of `_collect`

    def of_shards(params: PyTree, *rest: Any) -> Any:
        return function(collect(params), *rest)

    return jax.checkpoint(of_shards, policy=is_kept)
