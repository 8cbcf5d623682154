"""One mesh axis over devices: batches are cut along it, what examples share stands on all of them.

Sampling and likelihoods use the devices of their own process, training those of all processes.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def data_mesh(batch_size: int) -> Mesh:
    """A mesh ("data",) over the local devices: as many of them as divide the batch."""
    return _mesh([jax.local_devices()], batch_size)


def training_mesh(batch_size: int) -> Mesh:
    """A mesh ("data",) over the devices of all processes, process by process: as many of each as divide its share."""
    processes = range(jax.process_count())
    devices = [
        [device for device in jax.devices() if device.process_index == process]
        for process in processes
    ]
    return _mesh(devices, batch_size // len(processes))


def _mesh(devices: list[list[Any]], share: int) -> Mesh:
    """devices: of every process."""
    count = max(n for n in range(1, min(map(len, devices)) + 1) if share % n == 0)
    return Mesh(
        np.asarray([some[:count] for some in devices]).reshape(-1),
        ("data",),
        axis_types=(AxisType.Auto,),
    )


def whole(mesh: Mesh) -> NamedSharding:
    """Every device holds all of an array."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Every leaf whole on every device; over several processes, that of process 0."""
    if not mesh.is_multi_process:
        return jax.device_put(tree, whole(mesh))
    from jax.experimental import multihost_utils

    place = lambda a: jax.make_array_from_callback(a.shape, whole(mesh), lambda index: a[index])  # noqa: E731
    return jax.tree.map(place, multihost_utils.broadcast_one_to_all(tree))


def local(tree: PyTree) -> PyTree:
    """Replicated arrays as arrays of one device of this process; no copies."""
    return jax.tree.map(lambda a: a.addressable_data(0), tree)


def shard_batch(tree: PyTree, mesh: Mesh, axis: int = 0) -> PyTree:
    """Every leaf cut along its batch axis; over several processes, each of them has its share of the rows."""
    cut = NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data"))
    if not mesh.is_multi_process:
        return jax.device_put(tree, cut)

    def joined(a):
        shape = (*a.shape[:axis], a.shape[axis] * jax.process_count(), *a.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(
            cut, a, shape
        )  # waits for nobody: threads may call it

    return jax.tree.map(joined, tree)


def spread(shared: PyTree, rows: PyTree) -> tuple[PyTree, PyTree]:
    """Arrays of `shared` on every local device, `rows` cut along their batch axis; other leaves as they are."""
    arrays, rest = eqx.partition(shared, eqx.is_array)
    mesh = data_mesh(len(jax.tree.leaves(rows)[0]))
    return eqx.combine(replicate(arrays, mesh), rest), shard_batch(rows, mesh)


def gather(tree: PyTree) -> PyTree:
    """Results as arrays of the default device again, so that they mix with any others."""
    return jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a)) if isinstance(a, jax.Array) else a, tree
    )
