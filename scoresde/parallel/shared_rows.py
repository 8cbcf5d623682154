"""Rows of a batch, shared by the processes of one program: each computes a part, and has all.

n examples, P processes:  process p computes rows p m … (p + 1) m - 1,  m = ceil(n / P)
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from scoresde.checks import is_concrete
from scoresde.parallel.processes import barrier, check_alike

PATIENCE = 600
"""Seconds that a process waits for the others to make the same call."""

PLACE = re.compile(r" at 0x[0-9a-f]+")
"""Where an object lies in memory, in its repr."""


def computed_by_all(
    compute: Callable[[PyTree, int], PyTree], examples: PyTree, batch: int, what: str
) -> PyTree:
    """Returns `compute(examples, batch)`, of whose rows each process computes its share.

    compute: (rows of the examples, their number) → a pytree of arrays whose leading axis is theirs,
    and scalars, of which each process keeps its own. examples: (batch, ...). what: names them.

    Raises:
        RuntimeError: if the other processes do not make this call too.
    """
    share = -(-batch // jax.process_count())
    first = share * jax.process_index()
    rows = np.minimum(np.arange(first, first + share), batch - 1)  # copies fill up the last share
    own = compute(jax.tree.map(lambda a: a[rows], examples), share)

    barrier(what)  # a solve may take one process minutes longer
    return jax.tree.map(lambda a: _of_all(a)[:batch] if jnp.ndim(a) else a, own)


def _of_all(share: jax.Array) -> jax.Array:
    """Returns the shares of all processes, joined along the first axis."""
    from jax.experimental import multihost_utils

    return jnp.asarray(multihost_utils.process_allgather(np.asarray(share), tiled=True))


def check_same_call(arguments: PyTree, batch: int, what: str) -> None:
    """Refuses a call whose arguments are not the same in all processes.

    Raises:
        RuntimeError: if the others do not make it within `PATIENCE` seconds.
        ValueError: in all processes if one differs, as `check_alike`.
    """
    barrier(what, seconds=PATIENCE)
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
