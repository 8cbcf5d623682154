"""One mesh axis over the local devices: batches are cut along it, what examples share stands on all of them."""

from __future__ import annotations

import ctypes
import os
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def use_cpu_cores(count: int | None = None) -> int:
    """Let XLA show one CPU device per core: training, sampling and likelihoods cut their batches over them; the count.

    Call it before the first use of JAX. Measured on 2 cores: a U-Net step takes 0.107 s instead of 0.164, with the same
    loss; keeping freed memory (glibc) takes another quarter off. Without effect on the figures of a GPU or TPU.
    """
    _keep_freed_memory()
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


def _keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of handing each back to the kernel, which then clears it again.

    Measured on a 0.7 M-parameter U-Net step: 0.090 s instead of 0.117, CPU time down as much. Elsewhere: nothing.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_max, 0)
    except (OSError, AttributeError):
        pass  # another C library


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


def spread(shared: PyTree, rows: PyTree) -> tuple[PyTree, PyTree]:
    """Arrays of `shared` on every local device, `rows` cut along their batch axis; other leaves as they are."""
    arrays, rest = eqx.partition(shared, eqx.is_array)
    mesh = data_mesh(len(jax.tree.leaves(rows)[0]))
    return eqx.combine(replicate(arrays, mesh), rest), shard_batch(rows, mesh)


def gather(tree: PyTree) -> PyTree:
    """Results as arrays of the default device again, so that they mix with any others."""
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)) if isinstance(a, jax.Array) else a, tree)
