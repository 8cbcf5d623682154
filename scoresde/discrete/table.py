"""Tables: one float64 number per level of a chain, read at indices that may be traced."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from scoresde.checks import is_concrete
from scoresde.types import right_pad


def table_of(name: str, values: np.ndarray) -> np.ndarray:
    """Returns the values as a read-only float64 table, (N,).

    Raises:
        ValueError: if they are not finite numbers of shape (N,), N >= 1.
    """
    table = np.array(values, np.float64)
    if table.ndim != 1 or len(table) < 1 or not np.all(np.isfinite(table)):
        raise ValueError(
            f"{name} has shape {table.shape} and holds {np.sum(~np.isfinite(table))} NaN or "
            f"infinite entries: wanted finite numbers of shape (N,), one per step."
        )
    table.flags.writeable = False
    return table


def shifted(table: np.ndarray, first: float) -> np.ndarray:
    """Returns the table of entries i - 1, with `first` at i = 0; (N,)."""
    return np.concatenate([[first], table[:-1]])


def entries(table: np.ndarray, i: Int[Array, " batch"], x: Array) -> Float[Array, " batch"]:
    """Returns entry i for each example, in the precision of x.

    A traced index cannot be refused: outside the table it gives NaN, where the nearest level's
    number would be wrong without a sign of it.
    """
    if is_concrete(i):
        return jnp.asarray(table[np.asarray(i)], x.dtype)  # the edge has checked the range
    rows = jnp.asarray(table, x.dtype).at[i]
    return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def padded_entries(table: np.ndarray, i: Int[Array, " batch"], x: Array) -> Array:
    """Returns entry i for each example, shaped (batch, 1, …, 1) to multiply x."""
    return right_pad(entries(table, i, x), x)
