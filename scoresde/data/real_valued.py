"""A check that refuses integers passed as real numbers: they have no density.

Certain are integers 0 … 255 in one of three forms, and those are refused:

    raw        x = k                 (Eq. 1)
    [0, 1]     x = k / 255           (Eq. 2)
    [-1, 1]    x = k / 127.5 - 1     (Eq. 3)

Other values that repeat on a grid are only warned of, for they may be what they seem.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete

FEWEST_ENTRIES = 64
"""Below so many entries, whole or evenly spaced numbers may be chance."""

FEWEST_DIMENSIONS = 16
"""Below so many dimensions, evenly spaced numbers may be the grid of a plot."""

MOST_VALUES = 4096
"""The number of different values beyond which scaled ones are taken for real numbers."""

SCALED = (("(255 * {x}).round()", 255.0, 0.0), ("(127.5 * ({x} + 1)).round()", 127.5, 1.0))
"""The line that gives k back from Eq. 2 and Eq. 3, and k = factor (x + shift)."""


def check_real_valued(x: Array | np.ndarray, name: str, training: bool = False) -> None:
    """Refuses pixels 0 … 255 that are passed as real numbers, and warns of other integers.

    Integers have no density: a model could make it as high as it likes. Traced values pass, because
    they cannot be read.

    Args:
        x: the examples, (batch, *data).
        name: the name of x in the error.
        training: whether x is passed to `fit`, which draws the noise itself, at every step.
            Scaled pixels are then only warned of, since a model may be trained on them in order
            to sample.

    Raises:
        ValueError: if x holds NaN or infinity, or has an integer dtype; if it has 64 or more
            entries, of more than two values, all of them whole numbers 0 … 255; or, in 16 or more
            dimensions, all of them such numbers scaled to [0, 1] or [-1, 1].
    """
    if not is_concrete(x):
        return
    values = np.asarray(x)
    _check_finite(values, name)

    integers = np.issubdtype(values.dtype, np.integer)
    some = values.reshape(-1)[:: max(1, values.size // 2**16)]
    known = np.unique(some).astype(np.float64)
    if not integers and (len(some) < FEWEST_ENTRIES or len(known) < 2):
        return

    if integers or (len(known) > 2 and _is_whole(some)):
        _check_integers(values, integers or _is_levels(known), name, training)
    elif len(known) <= MOST_VALUES and values.size >= FEWEST_DIMENSIONS * len(values):
        _check_not_scaled(known, name, training)


def _is_whole(values: np.ndarray) -> bool:
    """Whether all numbers are whole, and could have been others: large ones always are."""
    whole = np.array_equal(values, np.round(values))
    could_differ = np.abs(values) < 2.0 ** (jnp.finfo(values.dtype).nmant - 1)
    return bool(whole and np.sum(could_differ) >= FEWEST_ENTRIES)


def _check_integers(values: np.ndarray, certain: bool, name: str, training: bool) -> None:
    """Refuses whole numbers that are integers for certain, and warns of others.

    More levels than float32 tells apart are as good as real numbers.
    """
    low = min(0, int(values.min()))
    top = int(values.max()) - low
    levels = 256 if 17 <= top <= 255 else max(2, top + 1)
    said = f"{name} holds whole numbers {int(values.min())} … {int(values.max())}"
    if levels > 2**24:
        if certain:
            raise ValueError(
                f"{said}, more than float32 tells apart: as real numbers they are "
                f"{name}.astype(np.float64), in units of their own (standardize=True)."
            )
        return

    shifted = f"{name} + {-low}" if low else name
    also = f", and {shifted} for {name}" if low and training else ""
    message = (
        f"{said} and nothing between: they have no density. Write "
        f"{_line(levels, shifted, training)}, which also scales to [-1, 1]{also}."
    )
    if certain:
        raise ValueError(message)
    checks.warn(message)


def _check_finite(values: np.ndarray, name: str) -> None:
    if np.all(np.isfinite(values)):
        return
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    rows = np.flatnonzero(~finite)
    raise ValueError(
        f"{name} holds NaN or infinity in {len(rows)} of {len(values)} examples, the first in row "
        f"{rows[0]}: drop them, {name}[np.isfinite({name}).reshape(len({name}), -1).all(axis=1)]."
    )


def _check_not_scaled(known: np.ndarray, name: str, training: bool) -> None:
    """Refuses scaled pixels, in training it warns of them; and warns of any other even grid."""
    said = f"{name} takes {len(known)} values, {known[0]:g} … {known[-1]:g}, and nothing between"
    for line, factor, shift in SCALED:
        if len(known) > 2 and _is_levels(factor * (known + shift)):
            message = (
                f"{said}: they have no density. For likelihoods use k = {line.format(x=name)} and "
                f"{_line(256, 'k', training)}, which also scales to [-1, 1]."
            )
            if not training:
                raise ValueError(message)
            checks.warn(message)
            return

    # Even steps, up to the rounding of a step that was stored in float32.
    step = float(np.diff(known).min())
    places = (known - known[0]) / step
    if np.max(np.abs(places - np.round(places))) > 0.02 or places[-1] > MOST_VALUES:
        return
    checks.warn(
        f"{said}, in steps of {step:g}. If they are integers, they have no density: for "
        f"likelihoods use k = (({name} - {known[0]:.9g}) / {step:.9g}).round() and "
        f"{_line(round(places[-1]) + 1, 'k', training)}, which also scales to [-1, 1]."
    )


def _is_levels(k: np.ndarray) -> bool:
    """Whether all numbers are whole, to float32's rounding, and lie in 0 … 255."""
    whole = np.round(k)
    return bool(np.all(np.abs(k - whole) < 1e-3) and whole[0] >= 0 and whole[-1] <= 255)


def _line(levels: int, name: str, training: bool) -> str:
    """Returns the line to write for integers of this name."""
    line = f"sd.UniformDequantization(levels={levels})"
    return f"prepare={line}, drawn again at every step" if training else f"{line}(key, {name})"
