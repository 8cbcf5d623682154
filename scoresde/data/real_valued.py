"""Integers passed as real numbers: they have no density."""

from __future__ import annotations

import warnings

import numpy as np
from jax import Array

from scoresde.checks import is_concrete


def _grid(values: np.ndarray) -> tuple[float, int] | None:
    """(step, levels) of values that stand on a grid of up to 4096 steps, as scaled pixels do; None of any others."""
    known = np.unique(values).astype(np.float64)
    if not 1 < len(known) <= 4097:
        return None
    step = float(np.diff(known).min())
    places = (known - known[0]) / step
    if places[-1] > 4096.5 or np.max(np.abs(places - np.round(places))) > 0.02:
        return None
    low = -1.0 if known[0] < 0.0 else 0.0
    usual = (
        known[-1] <= 1.0 and abs((known[0] - low) / step % 1.0 - 0.5) > 0.48
    )  # on the grid of [-1, 1] or [0, 1]
    return step, round((1.0 - low) / step if usual else places[-1]) + 1


def check_real_valued(x: Array | np.ndarray, name: str, anew: bool = False) -> None:
    """x is finite, and not integers in disguise, where that can be read now: raw pixels 0 … 255 as float32, or scaled.

    Integers have no density: a model could make it as high as it likes. A handful of whole numbers may be chance, and a
    grid in a few dimensions a picture's. anew: the noise is for `fit` to draw, at every step, which may train on scaled
    pixels, to sample.

    Raises:
        ValueError: if it holds NaN or infinity, or 64 entries and more, all whole, of more than two values, or in 16
            dimensions and more all on one grid.
    """
    if not is_concrete(x):
        return
    values = np.asarray(x)
    if not np.all(np.isfinite(values)):
        rows = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        raise ValueError(
            f"{name} holds NaN or infinity in {len(rows)} of {len(values)} examples, the first in row {rows[0]}: drop "
            f"them, {name}[np.isfinite({name}).reshape(len({name}), -1).all(axis=1)]."
        )
    some = values.reshape(-1)[:: max(1, values.size // 2**16)]
    if len(some) >= 64 and np.array_equal(some, np.round(some)) and len(np.unique(some)) > 2:
        low, high = values.min(), values.max()
        levels = 256 if 17 <= high - min(low, 0) <= 255 else int(high - min(low, 0)) + 1
        shifted = f"{name} + {-low:g}" if low < 0 else name
        line = f"sd.UniformDequantization(levels={levels})"
        line = f"prepare={line}, drawn anew at every step" if anew else f"{line}(key, {shifted})"
        raise ValueError(
            f"{name} holds whole numbers {low:g} … {high:g} and nothing between: they have no density. Write {line}, "
            f"which also scales to [-1, 1]{f', and {shifted} for {name}' if anew and low < 0 else ''}."
        )
    if len(some) >= 64 and values.size >= 16 * len(values) and (grid := _grid(some)) is not None:
        step, levels = grid
        low = -1.0 if values.min() < 0.0 else 0.0
        message = (
            f"{name} takes {len(np.unique(some))} values, {values.min():g} … {values.max():g} in steps of {step:g}, "
            f"and nothing between: they have no density. For likelihoods hand over k = (({name} - {low:g}) / "
            f"{step:g}).round() and {'prepare=' if anew else ''}sd.UniformDequantization(levels={levels})"
            f"{', drawn anew at every step' if anew else '(key, k)'}, which also scales to [-1, 1]."
        )
        if not anew:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
