"""Arrays that a score holds itself, such as labels: one row for all examples, or one per example.

A core that maps over examples, a chunk of them or a shard on a device must take the same rows of
them as of x. So they are marked where they are held, and every edge moves them into the condition,
which is sliced, mapped and sharded with x:

    (score holding rows, cond)  →  (score without them, (rows, cond))        (Eq. 1)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from scoresde import checks
from scoresde.types import Cond, ScoreFn, pytree_dataclass


@pytree_dataclass()
class PerExample:
    """An array held by a score, whose row i belongs to example i; empty where it was moved out."""

    rows: Any


def held(value: Any, name: str) -> PyTree:
    """Returns a condition as a score holds it: leaves with one row for all examples, (1, ...), or
    one per example, marked.

    value: a number, which is for all examples, or a pytree whose leaves have a leading axis of 1 or
    of the batch.

    Raises:
        ValueError: if leaves have different numbers of examples, or lose something as plain arrays.
    """
    lengths = set()

    def hold(path: Any, leaf: Any) -> Any:
        checks.nothing_is_lost(leaf, f"{name}{jax.tree_util.keystr(path)}")
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if leaf.ndim == 0:
            return leaf[None]
        if leaf.shape[0] == 1:
            return leaf
        lengths.add(leaf.shape[0])
        return PerExample(leaf)

    value = jax.tree_util.tree_map_with_path(hold, value)
    if len(lengths) > 1:
        raise ValueError(
            f"{name} has leaves of {', '.join(map(str, sorted(lengths)))} rows: wanted one row for "
            f"all examples, (1, ...), or one per example in every leaf."
        )
    return value


def rows_for(value: PyTree, batch: int, name: str) -> PyTree:
    """Returns what `held` made, with one row for each of `batch` examples.

    Raises:
        ValueError: if it holds rows for another number of examples.
    """

    def rows(leaf: Any) -> Array:
        if not isinstance(leaf, PerExample):
            return jnp.broadcast_to(leaf, (batch, *leaf.shape[1:]))
        _check_rows(leaf.rows, batch, name)
        return jnp.asarray(leaf.rows)

    return jax.tree.map(rows, value, is_leaf=_is_marked)


def num_rows(value: PyTree) -> int:
    """Returns the number of examples that `held` made rows for: 1 where one row is for all."""
    leaves = jax.tree.leaves(value)
    return max((len(leaf) for leaf in leaves), default=1)


def repeat_held(score: ScoreFn, times: int) -> ScoreFn:
    """Returns a score for a batch in which every example is repeated: of the rows that it holds,
    i, i, … belong to example i."""

    def repeat(leaf: Any) -> Any:
        if not isinstance(leaf, PerExample):
            return leaf
        return PerExample(jnp.repeat(leaf.rows, times, axis=0))

    return jax.tree.map(repeat, score, is_leaf=_is_marked)


def move_out(score: Any, cond: Cond, batch: int) -> tuple[Any, Cond]:
    """Moves the rows that a score holds into the condition (Eq. 1); both as they are without any.

    Raises:
        ValueError: if the score holds rows for another number of examples.
    """
    leaves, structure = jax.tree.flatten(score, is_leaf=_is_marked)
    rows = [leaf.rows for leaf in leaves if isinstance(leaf, PerExample)]
    if not rows or rows[0] is None:  # none, or moved out already by an edge around this one
        return score, cond
    for array in rows:
        _check_rows(array, batch, "a condition or weight that the score holds")

    empty = [PerExample(None) if isinstance(leaf, PerExample) else leaf for leaf in leaves]
    return WithRows(jax.tree.unflatten(structure, empty)), (rows, cond)


def moved_back(score: Any, cond: Cond) -> tuple[Any, Cond]:
    """Returns the score with the rows that `move_out` moved, and the condition without them."""
    if not isinstance(score, WithRows):
        return score, cond
    return score.filled(cond)


@pytree_dataclass()
class WithRows:
    """A score whose rows arrive in the condition: (x, t, (rows, cond))."""

    score: Any

    def __call__(self, x: Array, t: Array, cond: Cond) -> Array:
        """Returns the score of the examples whose rows arrived."""
        score, arguments = self._filled(x, t, cond)
        return score(*arguments)

    def check_cond(self, cond: Any, batch: int) -> None:
        """Refuses what the score itself refuses, with its rows.

        Raises:
            ValueError: as the score.
        """
        score, arguments = self._filled(None, None, cond)
        check = getattr(score, "check_cond", None)
        if check is not None:
            check(arguments[2] if len(arguments) > 2 else None, batch)

    def __getattr__(self, name: str) -> Any:
        """Offers what the score offers: `denoise`, `sde` and the others."""
        if name == "score":  # not set yet, while JAX rebuilds the pytree
            raise AttributeError(name)
        value = getattr(self.score, name)
        return partial(self._called, name) if name in ("denoise", "data_and_noise") else value

    def _called(self, name: str, x: Array, t: Array, cond: Cond) -> Any:
        score, arguments = self._filled(x, t, cond)
        return getattr(score, name)(*arguments)

    def _filled(self, x: Any, t: Any, cond: Any) -> tuple[Any, tuple[Any, ...]]:
        """Returns the score with its rows, and its arguments."""
        score, inner = self.filled(cond)
        return score, ((x, t) if inner is None else (x, t, inner))

    def filled(self, cond: Any) -> tuple[Any, Cond]:
        """Returns the score with its rows, and the condition that is left."""
        rows, inner = cond
        rows = iter(rows)
        score = jax.tree.map(
            lambda leaf: PerExample(next(rows)) if _is_marked(leaf) else leaf,
            self.score,
            is_leaf=_is_marked,
        )
        return score, inner


def _is_marked(leaf: Any) -> bool:
    return isinstance(leaf, PerExample)


def _check_rows(rows: Any, batch: int, name: str) -> None:
    if len(rows) != batch:
        raise ValueError(
            f"{name} has {len(rows)} rows, and there are {batch} examples: wanted one row per "
            f"example, or one for all of them. Where it has no batch axis write {name}[None]."
        )
