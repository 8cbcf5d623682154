"""Calling a score under jit and in chunks: weights become arguments, one compilation per shape."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree
from tqdm import tqdm

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.parallel.mesh import gather, spread
from scoresde.sde.base import SDE
from scoresde.types import Cond


def check_score(sde: SDE, score: Any, cond: Cond) -> None:
    """The score was made for this SDE, and labels are rows of its network's table, where that can be read.

    Raises:
        ValueError: if a label is none of the network's classes; the one after the last stands for "no label".
    """
    own = getattr(score, "sde", None)
    if isinstance(own, SDE) and not _alike(own, sde):
        warnings.warn(
            f"the score is that of {own}, and is used under {sde}: hand over the same SDE, its .sde.",
            stacklevel=3,
        )
    classes = getattr(score, "num_classes", None)
    if classes is None:
        return
    if cond is None:
        warnings.warn(
            f"the network has {classes} classes and no cond arrived: it takes its row for no label, which "
            f"`fit` does not train. Write cond=labels, 0 … {classes - 1}.",
            stacklevel=3,
        )
    elif is_concrete(cond) and np.size(cond) and not 0 <= np.min(cond) <= np.max(cond) <= classes:
        raise ValueError(
            f"cond holds {np.min(cond)} … {np.max(cond)}: wanted labels 0 … {classes - 1}."
        )


def _alike(a: SDE, b: SDE) -> bool:
    """Of one type and settings, or a setting is not known yet."""
    leaves = jax.tree.leaves(a), jax.tree.leaves(b)
    if type(a) is not type(b) or len(leaves[0]) != len(leaves[1]):
        return False
    known = is_concrete(*leaves[0], *leaves[1])
    return not known or all(
        np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=1e-5)
        for x, y in zip(*leaves, strict=True)
    )


def warn_of_failures(success: Array, what: str, goal: str, stacklevel: int = 3) -> None:
    """Name the rows that failed, where that can be read now."""
    failed = np.flatnonzero(~np.asarray(success)) if is_concrete(success) else []
    if len(failed):
        named = ", ".join(map(str, failed[:10])) + (", …" if len(failed) > 10 else "")
        warnings.warn(
            f"{len(failed)} of {len(success)} {what} did not reach {goal}, rows {named}: they are NaN and success is "
            f"False. Try a looser tolerance, more max_steps, or check the score for NaN.",
            stacklevel=stacklevel,
        )


def in_chunks(
    function: Callable[..., PyTree],
    shared: PyTree,
    rows: PyTree,
    batch: int,
    batch_size: int | None,
    progress: str | None = None,
) -> PyTree:
    """`function(shared, rows)` in chunks of `batch_size` examples, each cut over the local devices.

    rows: leaves (batch, ...). Chunks are of one size that the devices divide, so one shape is compiled, and as equal as
    can be: the last one is padded with a few copies of the last example. Every leaf of the result with a leading axis
    is cut and joined along it; others are the last chunk's. progress: the bar's label, or None for no bar.
    """
    if batch_size is not None:
        checks.count("batch_size", batch_size)
    if batch == 0:
        raise ValueError("there is no example: the batch axis has length 0.")
    chunk = batch if batch_size is None else min(batch_size, batch)
    devices = jax.local_device_count()
    arrays = jax.tree.leaves((eqx.filter(shared, eqx.is_array), rows))
    spreads = devices > 1 and is_concrete(
        *arrays, jnp.zeros(())
    )  # zeros: a tracer where all this is being traced
    chunk = -(-batch // -(-batch // chunk))  # 65 examples in chunks of at most 64: 33 and 32
    size = -(-chunk // devices) * devices if spreads and chunk >= devices else chunk
    if size == batch and not spreads:
        return function(shared, rows)
    results = []
    for start in tqdm(
        range(0, batch, size),
        desc=progress,
        disable=progress is None or size >= batch,
        unit="chunk",
    ):
        index = np.minimum(
            np.arange(start, start + size), batch - 1
        )  # padding repeats the last example
        part = jax.tree.map(lambda a, index=index: a[index], rows)
        results.append(
            gather(function(*spread(shared, part))) if spreads else function(shared, part)
        )
    return jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves)[:batch] if jnp.ndim(leaves[0]) else leaves[-1],
        *results,
    )
