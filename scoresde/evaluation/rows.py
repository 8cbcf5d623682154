"""Examples as rows of numbers: one row an example, flattened to float64."""

from __future__ import annotations

import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks

Rows = Float[Array | np.ndarray, " _ *data"]


def flat_rows(x: Rows, name: str, least: int = 2, dim: int | None = None) -> np.ndarray:
    """Returns examples (n, ...) as float64 (n, dim).

    Args:
        x: the examples.
        name: the name of x in the error.
        least: the smallest number of examples that is accepted.
        dim: how many numbers an example must have; None accepts any.

    Raises:
        ValueError: if there are too few examples, an example has another number of entries than
            dim, or one holds NaN or infinity."""
    shape = np.shape(x)
    if len(shape) < 1 or shape[0] < least:
        raise ValueError(
            f"{name} has shape {shape}: wanted at least {least} rows, with one example in each."
        )

    x = checks.plain_array(x, name).astype(np.float64).reshape(shape[0], -1)
    if dim is not None and x.shape[1] != dim:
        raise ValueError(
            f"{name} has shape {shape}, that is {x.shape[1]} numbers an example: wanted {dim}. "
            f"Pass examples shaped like the training data, batch first."
        )

    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} has {shape[0]} rows, {bad.sum()} of them with NaN or infinity, the first at "
            f"{np.argmax(bad)}. Leave failed samples out, out.x[out.success], and report how many "
            f"there were."
        )
    return x


def same_space(x: Rows, y: Rows, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets as float64, (n, dim) and (m, dim).

    Raises:
        ValueError: as `flat_rows`; if examples of x and y differ in the number of entries.
    """
    flat_x = flat_rows(x, "x", least)
    flat_y = flat_rows(y, "y", least)
    if flat_x.shape[1] != flat_y.shape[1]:
        raise ValueError(
            f"x has shape {np.shape(x)}, y has {np.shape(y)}, that is {flat_x.shape[1]} and "
            f"{flat_y.shape[1]} dimensions: wanted the same space for both. Take the same features "
            f"of both, f.features(x) and f.features(y)."
        )
    return flat_x, flat_y
