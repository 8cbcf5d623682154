"""One mesh axis over the local devices: batches are cut along it, parameters stand on all of them."""

from __future__ import annotations

import os
import warnings

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def use_cpu_cores(count: int | None = None) -> int:
    """Let XLA show one CPU device per core, so that training shards its batches over them; returns how many.

    Call it before the first use of JAX. Measured on 2 cores: a U-Net step takes 0.107 s instead of 0.164, with the same
    loss. Without effect on the figures of a GPU or TPU.
    """
    count = len(os.sched_getaffinity(0)) if count is None and hasattr(os, "sched_getaffinity") else count
    count = count or os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if jax.local_device_count("cpu") != count:
            warnings.warn(
                f"JAX already runs with {jax.local_device_count('cpu')} CPU devices: call use_cpu_cores() before any "
                f"other use of JAX to train on {count}.",
                stacklevel=2,
            )
    return jax.local_device_count("cpu")


def data_mesh(batch_size: int) -> Mesh:
    """A mesh ("data",) over the local devices: as many of them as divide the batch."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return Mesh(np.asarray(devices[:count]), ("data",), axis_types=(AxisType.Auto,))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Every leaf whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(tree: PyTree, mesh: Mesh, axis: int = 0) -> PyTree:
    """Every leaf cut along its batch axis."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data")))
