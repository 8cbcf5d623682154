"""Checks at the public edge: what arrived, what was wanted, and the line to write."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde.types import Cond, Time

# --- Checks at the public edge: they run while tracing and cost nothing afterwards ---


def is_concrete(*values: Any) -> bool:
    """Whether every value can be read now: none is a tracer, or one of JAX's structural stand-ins."""
    return all(
        isinstance(value, (int, float, np.generic, np.ndarray, jax.Array))
        and not isinstance(value, jax.core.Tracer)
        for value in values
    )


def check_setting(
    name: str, value: Any, low: float, high: float = math.inf, inclusive: bool = True
) -> None:
    """A number in [low, high) (or (low, high)); tracers and traced structures pass."""
    if isinstance(value, (str, bytes, bool)) or value is None:
        raise TypeError(f"{name} is {value!r}: wanted a number.")
    if not is_concrete(value):
        return
    value = np.asarray(value)
    if not np.all(
        np.isfinite(value) & ((value >= low) if inclusive else (value > low)) & (value < high)
    ):
        bound = f"finite and {'≥' if inclusive else '>'} {low:g}" + (
            "" if high == math.inf else f" and < {high:g}"
        )
        raise ValueError(f"{name} = {value} is out of range: it must be {bound}.")


def check_count(name: str, value: Any, low: int = 1) -> None:
    """A whole number, at least `low`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"{name} = {value!r}: wanted a whole number, at least {low}.")


def check_time(t: Any, name: str = "t") -> None:
    """Times lie in [0, 1], 0 = data and 1 = prior; read only where the value is known now."""
    if is_concrete(t):
        value = np.asarray(t)
        if not np.all((value >= 0.0) & (value <= 1.0)):
            raise ValueError(
                f"{name} holds {value.min():g} … {value.max():g}: times lie in [0, 1], 0 = data and 1 = prior. "
                f"For a table's index i of N write (i + 1) / N."
            )


def check_x_t(x: Array, t: Time, name: str = "x") -> None:
    """x: (batch, *data) of floats, t: a scalar or one time per example."""
    check_batch(x, name)
    if jnp.ndim(t) != 0 and jnp.shape(t) != x.shape[:1]:
        raise ValueError(
            f"t has shape {jnp.shape(t)}, {name} has {x.shape}: wanted one time, or one per example. "
            f"For a single time use jnp.full({x.shape[:1]}, t)."
        )
    check_time(t)


def check_batch(x: Array, name: str = "x") -> None:
    """x has a batch axis and holds floating-point numbers."""
    if not hasattr(x, "shape"):
        raise TypeError(
            f"{name} is a {type(x).__name__}: wanted an array (batch, *data). Write jnp.asarray({name})."
        )
    if len(x.shape) < 1:
        raise ValueError(
            f"{name} is a scalar: wanted (batch, *data). For one example write {name}[None]."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {x.dtype}: wanted floating-point numbers. Write {name}.astype(jnp.float32); "
            f"integer images go through sd.UniformDequantization(levels=256) first."
        )


def check_numbers(array: np.ndarray, name: str) -> None:
    """Finite whole or real numbers, one example a row.

    Raises:
        ValueError: if they are of another type, or one is NaN or infinite.
    """
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"{name} has dtype {array.dtype}: wanted numbers. Write {name}.astype(np.float32)."
        )
    if not np.all(np.isfinite(array)):
        bad = int(np.sum(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
        raise ValueError(
            f"{name} holds NaN or infinity in {bad} of {len(array)} examples: drop or mend them first."
        )


def check_cond(cond: Cond, batch: int) -> None:
    """Every leaf of a condition has the leading batch axis."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        if jnp.ndim(leaf) < 1 or jnp.shape(leaf)[0] != batch:
            raise ValueError(
                f"cond{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)} for {batch} examples: conditions are "
                f"per example. For one condition on all write jnp.broadcast_to(c, ({batch},) + c.shape)."
            )
