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

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

KEYS = ("step", "optimizer", "lr", "model_state", "ema_rate", "params_ema", "rng")
"""What a train state holds."""

MOMENTS = ("grad_ema", "grad_sq_ema")
"""The names of Adam's first and second moment."""


class CheckpointMismatch(ValueError):
    """A checkpoint that is not the original's, or not of this configuration."""


def read_state(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the train state in a checkpoint's file, as nested dicts of arrays.

    Raises:
        CheckpointMismatch: if Flax did not write the file, or it is not a train state.
    """
    from flax.serialization import msgpack_restore

    content = Path(file).expanduser().read_bytes()
    try:
        state = msgpack_restore(content)
    except Exception as error:  # msgpack raises many types of its own
        raise CheckpointMismatch(
            f"{file} is not a checkpoint that Flax wrote (msgpack): {type(error).__name__}."
        ) from error

    _check_layout(file, state)
    return _flatten_norms(state)


def _check_layout(file: str | os.PathLike[str], state: Any) -> None:
    """Refuses what is not laid out as a train state."""
    if not isinstance(state, dict) or set(state) != set(KEYS):
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise CheckpointMismatch(
            f"{file} holds {found}: wanted a train state of the original release, {list(KEYS)}."
        )

    optimizer = state["optimizer"]
    if not isinstance(optimizer, dict) or set(optimizer) != {"target", "state"}:
        raise CheckpointMismatch(
            f"{file}: its optimizer holds {sorted(optimizer or {})}: wanted target and state."
        )

    target = optimizer["target"]
    adam = optimizer["state"] or {}
    if not isinstance(target, dict) or not isinstance(adam, dict):
        raise CheckpointMismatch(
            f"{file}: its optimizer's target and state are not trees of arrays: wanted nested "
            f"dicts, as Flax writes them."
        )


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
