"""The train state in a checkpoint of the authors' Flax release of Song et al. 2021.

Such a file is a msgpack of Flax's, nested dicts of arrays:

    step, lr, ema_rate       numbers
    optimizer/target         the parameters
    optimizer/state          Adam's step, and its two moments of each parameter
    params_ema               the average of the parameters
    model_state              statistics of batch norms; empty for these networks
    rng                      the random key
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scoresde.reading import DEEPEST, read_file

KEYS = ("step", "optimizer", "lr", "model_state", "ema_rate", "params_ema", "rng")
"""What a train state holds."""

MOMENTS = ("grad_ema", "grad_sq_ema")
"""The names of Adam's first and second moment."""

LARGEST = 2**33
"""The bytes that a checkpoint may hold: 8 GB, four times the largest that was published."""

MOST_ENTRIES = 10**5
"""The dicts and lists in a checkpoint, and the entries of each of them, at most."""


class CheckpointMismatch(ValueError):
    """A checkpoint that is not the original's, or not of this configuration."""


def read_state(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the train state in a checkpoint's file, as nested dicts of arrays.

    Raises:
        CheckpointMismatch: if Flax did not write the file, or it is not a train state.
    """
    from flax.serialization import msgpack_restore

    content = read_file(Path(file).expanduser(), LARGEST)
    try:
        _check_nesting(content)
        state = msgpack_restore(content)
    except Exception as error:  # msgpack raises many types of its own
        raise CheckpointMismatch(
            f"{file} is not a checkpoint that Flax wrote (msgpack): {type(error).__name__} {error}."
        ) from error

    _check_layout(file, state)
    return _flatten_norms(state)


def _check_nesting(content: bytes) -> None:
    """Refuses a msgpack of very many or deeply nested dicts and lists, without making its arrays.

    Raises:
        ValueError: if it does.
    """
    import msgpack

    count = itertools.count()

    def depth(entries: list[Any] | dict[Any, Any]) -> _Depth:
        """Takes the place of a dict or list, whose entries' places are taken already."""
        inner = entries.values() if isinstance(entries, dict) else entries
        own = 1 + max((entry.levels for entry in inner if isinstance(entry, _Depth)), default=0)
        if own > DEEPEST or next(count) > MOST_ENTRIES:
            raise ValueError(f"more than {DEEPEST} levels, or {MOST_ENTRIES:,} dicts and lists")
        return _Depth(own)

    msgpack.unpackb(
        content,
        raw=False,
        ext_hook=lambda code, data: None,
        list_hook=depth,
        object_hook=depth,
        max_array_len=MOST_ENTRIES,
        max_map_len=MOST_ENTRIES,
    )


@dataclasses.dataclass(frozen=True)
class _Depth:
    """How many levels of dicts and lists a value has."""

    levels: int


def _check_layout(file: str | os.PathLike[str], state: Any) -> None:
    """Refuses what is not laid out as a train state."""
    if not isinstance(state, dict) or set(state) != set(KEYS):
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise CheckpointMismatch(
            f"{file} holds {found}: wanted a train state of the original release, {list(KEYS)}."
        )

    optimizer = state["optimizer"]
    if not isinstance(optimizer, dict) or set(optimizer) != {"target", "state"}:
        held = sorted(map(str, optimizer)) if isinstance(optimizer, dict) else type(optimizer)
        raise CheckpointMismatch(f"{file}: its optimizer holds {held}: wanted target and state.")

    adam = optimizer["state"]
    moments = adam.get("param_states") if isinstance(adam, dict) else None
    trees = {"target": optimizer["target"], "params_ema": state["params_ema"]}
    may_be_missing = {"state": adam, "param_states": moments, "model_state": state["model_state"]}
    trees |= {name: tree for name, tree in may_be_missing.items() if tree is not None}
    for name, tree in trees.items():
        if not isinstance(tree, dict) or not all(_is_leaf(leaf) for _, leaf in leaves_of(tree)):
            raise CheckpointMismatch(
                f"{file}: its {name} is not a tree of arrays: wanted nested dicts, as Flax writes "
                f"them."
            )
    if not _is_leaf(state["rng"]) or np.asarray(state["rng"]).dtype.kind not in "iu":
        raise CheckpointMismatch(f"{file}: its rng is not a random key: wanted whole numbers.")


def _is_leaf(value: Any) -> bool:
    """Whether a value is an array or a number, or None for a parameter that is missing."""
    return value is None or isinstance(value, np.ndarray | np.generic | int | float)


def _flatten_norms(tree: Any, in_norm: bool = False) -> Any:
    """Returns the tree with the scale and bias of each GroupNorm as (C,).

    Flax 0.3, with which the original was written, has them as (1, 1, 1, C).
    """
    if isinstance(tree, dict):
        return {
            name: _flatten_norms(value, in_norm or str(name).startswith("GroupNorm_"))
            for name, value in tree.items()
        }

    if in_norm and np.ndim(tree) > 1 and set(np.shape(tree)[:-1]) == {1}:
        return np.reshape(tree, np.shape(tree)[-1:])
    return tree


# --- Parts of the state ---


def leaves_of(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested dicts: {"Conv_0": {"bias": b}} gives ("Conv_0/bias", b).

    An empty dict is not a leaf.
    """
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves_of(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def adam_moments(state: dict[str, Any]) -> tuple[Any, Any] | None:
    """Returns Adam's two moments as trees like the parameters, or None if the file has none."""
    adam = state["optimizer"]["state"] or {}
    per_parameter = adam.get("param_states") or {}
    if not per_parameter:
        return None

    first, second = MOMENTS
    return _select(per_parameter, first), _select(per_parameter, second)


def _select(tree: Any, name: str) -> Any:
    """Returns the tree with each {name: leaf, ...} replaced by its leaf of this name."""
    if name in tree:
        return tree[name]
    return {key: _select(value, name) for key, value in tree.items()}


def is_from_ddpm(target: Any) -> bool:
    """Returns whether the parameters are those of the original's models/ddpm.py."""
    return any(str(name).startswith("ResnetBlockDDPM_") for name in target)
