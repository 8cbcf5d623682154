"""Meshes of devices, and how arrays lie on them.

Batches are sharded over all devices of a mesh. Parameters, and whatever else examples share, are
replicated on every device; training may shard large parameters too (sharded_state.py). Sampling and
likelihoods use the devices of their own process, and training uses those of all processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from scoresde.checks import is_concrete

# --- Meshes ---


def data_mesh(batch_size: int) -> Mesh:
    """Returns a mesh of local devices: as many as divide the batch evenly."""
    return _mesh([jax.local_devices()], batch_size)


def training_mesh(batch_size: int) -> Mesh:
    """Returns a mesh of the devices of all processes, ordered by process.

    Each process contributes as many devices as divide its share of the batch evenly.
    """
    processes = range(jax.process_count())
    devices = []
    for process in processes:
        devices.append([device for device in jax.devices() if device.process_index == process])
    return _mesh(devices, batch_size // len(processes))


def _mesh(devices: list[list[Any]], share: int) -> Mesh:
    """Returns a mesh, given the devices of every process and the rows that each process holds."""
    fewest = min(len(own) for own in devices)
    count = max(n for n in range(1, fewest + 1) if share % n == 0)
    return mesh_of([device for own in devices for device in own[:count]])


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """Returns a mesh of these devices with two axes, as nearly equal as can be.

    An array whose axes are all shorter than the number of devices can be sharded over all of them
    along two of its axes.
    """
    shorter = max(n for n in range(1, math.isqrt(len(devices)) + 1) if len(devices) % n == 0)
    grid = np.asarray(devices).reshape(shorter, -1)
    return Mesh(grid, ("short", "long"), axis_types=(AxisType.Auto,) * 2)


# --- What examples share: replicated ---


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding under which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies every leaf to every device; with several processes, the leaves of process 0."""
    return place(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Puts every leaf where its sharding says; with several processes, the leaves of process 0."""
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)

    from jax.experimental import multihost_utils

    def put(a, sharding):
        return jax.make_array_from_callback(a.shape, sharding, lambda index: a[index])

    return jax.tree.map(put, multihost_utils.broadcast_one_to_all(tree), shardings)


def local(tree: PyTree) -> PyTree:
    """Returns replicated arrays as arrays of one device of this process, without copying."""
    return jax.tree.map(lambda a: a.addressable_data(0), tree)


def local_parts(array: Array | np.ndarray) -> list[np.ndarray]:
    """Returns the parts of an array that devices of this process hold, each once."""
    if not isinstance(array, jax.Array):
        return [np.asarray(array)]
    parts = {str(shard.index): shard.data for shard in array.addressable_shards}
    return [np.asarray(part) for part in parts.values()]


# --- Batches: sharded ---


def shard_batch(tree: PyTree, mesh: Mesh, axis: int = 0) -> PyTree:
    """Shards every leaf along its batch axis.

    With several processes, each passes its own share of the rows, and no process waits for
    another, so that threads may make this call.
    """
    sharding = NamedSharding(mesh, PartitionSpec(*(None,) * axis, mesh.axis_names))
    if not mesh.is_multi_process:
        return jax.device_put(tree, sharding)

    def join(a):
        shape = list(a.shape)
        shape[axis] *= jax.process_count()
        return jax.make_array_from_process_local_data(sharding, a, tuple(shape))

    return jax.tree.map(join, tree)


# --- Both, for functions of a batch ---


def spread(shared: PyTree, rows: PyTree) -> tuple[PyTree, PyTree]:
    """Replicates the arrays of `shared` on the local devices, and shards `rows` along the batch.

    Leaves of `shared` that are not arrays pass unchanged.
    """
    batch_size = len(jax.tree.leaves(rows)[0])
    mesh = data_mesh(batch_size)

    arrays, rest = eqx.partition(shared, eqx.is_array)
    return eqx.combine(replicate(arrays, mesh), rest), shard_batch(rows, mesh)


def gather(tree: PyTree) -> PyTree:
    """Returns sharded results as arrays of the default device, so that they mix with any others.

    A tracer, from a score that captures one, stays as it is.
    """

    def to_default_device(leaf):
        if isinstance(leaf, jax.Array) and is_concrete(leaf):
            return jnp.asarray(np.asarray(leaf))
        return leaf

    return jax.tree.map(to_default_device, tree)
