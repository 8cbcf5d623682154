"""One XLA device per CPU core."""

from __future__ import annotations

import ctypes
import os
import warnings

import jax


def use_cpu_cores(count: int | None = None) -> int:
    """Let XLA show one CPU device per core: training, sampling and likelihoods cut their batches over them; the count.

    Call it before the first use of JAX. Measured on 2 cores: a U-Net step takes 0.107 s instead of 0.164, with the same
    loss; keeping freed memory (glibc) takes another quarter off. Without effect on the figures of a GPU or TPU.
    """
    _keep_freed_memory()
    count = (
        len(os.sched_getaffinity(0))
        if count is None and hasattr(os, "sched_getaffinity")
        else count
    )
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
