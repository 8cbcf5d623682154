"""A check that refuses integers passed as real numbers: they have no density."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete

FEWEST_ENTRIES = 64
"""Below so many entries, whole or evenly spaced numbers may be chance."""


def check_real_valued(x: Array | np.ndarray, name: str, training: bool = False) -> None:
    """Refuses integers in disguise: raw pixels 0 … 255 in float32, or pixels that were scaled.

    Integers have no density: a model could make it as high as it likes. A handful of whole
    numbers may be chance, and evenly spaced values in a few dimensions may be the grid of a
    plot. Traced values pass, because they cannot be read.

    Args:
        x: the examples, (batch, *data).
        name: the name of x in the error.
        training: whether x is passed to `fit`, which draws the noise itself, at every step.
            Scaled pixels are then only warned of, since a model may be trained on them in order
            to sample.

    Raises:
        ValueError: if x holds NaN or infinity; if it has 64 or more entries, all of them whole,
            and of more than two values; or, in 16 or more dimensions, if all entries lie on one
            grid."""
    if not is_concrete(x):
        return

    values = np.asarray(x)
    _check_finite(values, name)

    some = values.reshape(-1)[:: max(1, values.size // 2**16)]
    if len(some) < FEWEST_ENTRIES:
        return
    _check_not_whole(values, some, name, training)
    _check_no_grid(values, some, name, training)


def _check_finite(values: np.ndarray, name: str) -> None:
    if np.all(np.isfinite(values)):
        return
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    rows = np.flatnonzero(~finite)
    raise ValueError(
        f"{name} holds NaN or infinity in {len(rows)} of {len(values)} examples, the first in row "
        f"{rows[0]}: drop them, {name}[np.isfinite({name}).reshape(len({name}), -1).all(axis=1)]."
    )


def _check_not_whole(values: np.ndarray, some: np.ndarray, name: str, training: bool) -> None:
    """Refuses whole numbers of more than two values."""
    if not np.array_equal(some, np.round(some)) or len(np.unique(some)) <= 2:
        return

    low = values.min()
    high = values.max()
    top = high - min(low, 0)
    levels = 256 if 17 <= top <= 255 else int(top) + 1
    shifted = f"{name} + {-low:g}" if low < 0 else name

    line = f"sd.UniformDequantization(levels={levels})"
    also = ""
    if training:
        line = f"prepare={line}, drawn again at every step"
        also = f", and {shifted} for {name}" if low < 0 else ""
    else:
        line = f"{line}(key, {shifted})"
    raise ValueError(
        f"{name} holds whole numbers {low:g} … {high:g} and nothing between: they have no density. "
        f"Write {line}, which also scales to [-1, 1]{also}."
    )


def _check_no_grid(values: np.ndarray, some: np.ndarray, name: str, training: bool) -> None:
    """Refuses values on a grid in 16 or more dimensions; in training it warns of them."""
    if values.size < 16 * len(values):
        return
    grid = _grid(some)
    if grid is None:
        return

    low = -1.0 if values.min() < 0.0 else 0.0
    line = f"sd.UniformDequantization(levels={grid.levels})"
    line = f"prepare={line}, drawn again at every step" if training else f"{line}(key, k)"
    message = (
        f"{name} takes {len(np.unique(some))} values, {values.min():g} … {values.max():g} in steps "
        f"of {grid.step:g}, and nothing between: they have no density. For likelihoods use "
        f"k = (({name} - {low:g}) / {grid.step:g}).round() and {line}, which also scales to "
        f"[-1, 1]."
    )
    if not training:
        raise ValueError(message)
    checks.warn(message)


class _Grid(NamedTuple):
    """Evenly spaced values: their distance, and how many there are."""

    step: float
    levels: int


def _grid(values: np.ndarray) -> _Grid | None:
    """Returns the grid of at most 4096 steps on which all values lie, or None."""
    known = np.unique(values).astype(np.float64)
    if not 1 < len(known) <= 4097:
        return None

    step = float(np.diff(known).min())
    places = (known - known[0]) / step
    off_grid = np.abs(places - np.round(places))
    if places[-1] > 4096.5 or np.max(off_grid) > 0.02:
        return None

    # Where the ends of [-1, 1] or [0, 1] lie on the grid, it is counted up to them: the values may
    # not reach them.
    low = -1.0 if known[0] < 0.0 else 0.0
    reaches_low = abs((known[0] - low) / step % 1.0 - 0.5) > 0.48
    if known[-1] <= 1.0 and reaches_low:
        return _Grid(step, round((1.0 - low) / step) + 1)
    return _Grid(step, round(places[-1]) + 1)
