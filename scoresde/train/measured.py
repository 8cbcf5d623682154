"""What `fit` measures of its data, once before training: their moments, range and finest scale."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import Array

from scoresde.data.pixel_range import PixelRange
from scoresde.data.prepare import without_augmentation
from scoresde.data.source import ArraySource, Source, take
from scoresde.standardization import moments
from scoresde.train.step import Prepare
from scoresde.types import Cond

MOST_ROWS = 10_000
"""The examples of an array that are read, at most, evenly spread."""

MOST_ROWS_OF_SOURCE = 1024
"""The examples of any other source, each of which may have to be decoded."""

MOST_ENTRIES = 2**24
"""The numbers that are read, at most."""


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """Some examples as real numbers, and what is known from them."""

    x: np.ndarray
    """The examples, (n, *data), prepared as held-out examples are."""
    mean: np.ndarray
    """The mean of every entry, (*data)."""
    std: np.ndarray
    """The standard deviation of every entry, (*data); exactly 0 where it is constant."""
    has_bins: bool
    """Whether the examples are integers that were made real numbers."""
    low: float
    """The value that is black in a picture."""
    high: float
    """The value that is white."""
    cond: Cond = None
    """The conditions of some examples, leaves (n, ...)."""


def measure(key: Array, source: Source, prepare: Prepare | None) -> Measured:
    """Reads some examples of a source, evenly spread, and prepares and measures them.

    Examples that are not finite are left out, as steps on them are skipped; where all are, training
    itself says so (`TrainingDiverged`), and 0 is measured.
    """
    x, cond = _some(source)
    held_out, _ = without_augmentation(prepare)
    has_bins = bool(np.issubdtype(x.dtype, np.integer))
    if held_out is not None:
        x = np.asarray(jax.jit(held_out)(key, x))
    x = x.astype(np.float64)

    finite = np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    x = x[finite] if np.any(finite) else np.zeros_like(x[:1])

    mean, std = moments(x.reshape(len(x), -1))
    low, high = _range_of(held_out, x)
    return Measured(
        x, mean.reshape(x.shape[1:]), std.reshape(x.shape[1:]), has_bins, low, high, cond
    )


def _some(source: Source) -> tuple[np.ndarray, Cond]:
    """Returns some examples of a source, evenly spread, and their conditions."""
    most = MOST_ROWS if isinstance(source, ArraySource) else MOST_ROWS_OF_SOURCE
    most = max(1, min(most, len(source), MOST_ENTRIES // int(np.prod(source.shape))))
    rows = np.unique(np.linspace(0, len(source) - 1, most).astype(int))
    return take(source, rows)


def _range_of(prepare: Any, x: np.ndarray) -> tuple[float, float]:
    """Returns the range of the data: that of `prepare` where it says so, else [-1, 1] or [0, 1]
    where all lies in it, else that of the examples."""
    if isinstance(prepare, PixelRange):
        return prepare.low, prepare.high

    low = float(x.min())
    high = float(x.max())
    slack = 1e-6
    for usual_low, usual_high in ((0.0, 1.0), (-1.0, 1.0)):
        if usual_low - slack <= low and high <= usual_high + slack:
            return usual_low, usual_high
    return (low, high) if low < high else (low, low + 1.0)
