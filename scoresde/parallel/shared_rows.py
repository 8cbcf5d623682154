"""Rows of a batch, shared by the processes of one program: each computes a part, and has all.

n examples, P processes:  process p computes rows p m … (p + 1) m - 1,  m = ceil(n / P)
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from scoresde.checks import is_concrete
from scoresde.parallel.processes import any_process, barrier, check_alike

PATIENCE = 600
"""Seconds that a process waits for the others to make the same call."""

PLACE = re.compile(r" at 0x[0-9a-f]+")
"""Where an object lies in memory, in its repr."""


def own_share(examples: PyTree, batch: int) -> tuple[PyTree, int]:
    """Returns the rows that this process computes, and their number, which is the same in all
    processes: copies of the last row fill up the last share."""
    share = -(-batch // jax.process_count())
    first = share * jax.process_index()
    rows = np.minimum(np.arange(first, first + share), batch - 1)
    return jax.tree.map(lambda a: a[rows], examples), share


def of_all_processes(own: PyTree, batch: int) -> PyTree:
    """Returns the rows that all processes have computed. Scalars are those of this process."""
    from jax.experimental import multihost_utils

    def joined(share: jax.Array) -> jax.Array:
        if jnp.ndim(share) == 0:
            return share
        rows = multihost_utils.process_allgather(np.asarray(share), tiled=True)
        return jnp.asarray(rows[:batch])

    return jax.tree.map(joined, own)


@contextmanager
def failing_together(what: str) -> Iterator[None]:
    """Fails in all processes if the block fails in one, so that none waits for its rows.

    Raises:
        RuntimeError: in the other processes.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error

    barrier(f"{what}, computed")  # a solve may take one process minutes longer
    if any_process(failure is not None):
        raise failure or RuntimeError(
            f"another process failed while it computed its share of the {what}: its own message "
            f"says why."
        )


def check_same_call(shared: PyTree, examples: PyTree, batch: int, what: str) -> None:
    """Refuses a call whose arguments are not the same in all processes.

    shared: (settings, sde, score). examples: (keys, data, cond).

    Raises:
        RuntimeError: if the others do not make it within `PATIENCE` seconds.
        ValueError: in all processes if one differs, as `check_alike`.
    """
    barrier(what, seconds=PATIENCE)
    names = ("settings", "sde", "score", "key", "data", "cond")
    arguments = dict(zip(names, (*shared, *examples), strict=True))
    about = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(arguments):
        about[jax.tree_util.keystr(path, simple=True, separator="/")] = _described(leaf)
    check_alike(
        {what: batch} | about,
        "pass the same key, score and data to all of them, or let each compute its own in a block "
        "`with sd.one_process():`",
    )


def _described(leaf: Any) -> str:
    """Returns the content of an array as a checksum, and of a setting as its repr."""
    if not hasattr(leaf, "dtype"):
        return PLACE.sub("", repr(leaf))
    if not is_concrete(leaf):
        return repr(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    content = np.ascontiguousarray(leaf)
    return f"{content.dtype}{list(content.shape)} {zlib.crc32(content.tobytes()):08x}"
