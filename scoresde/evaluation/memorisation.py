"""The nearest training example of every sample: whether a model remembers its data.

    i(x) = argmin_i |x - y_i|                                                             (Eq. 1)
    remembered = share of samples nearer to the training set than all but a share q of
                 held-out examples are                                                    (Eq. 2)

A model that draws the data's law has `remembered` = q; one that repeats training examples has 1.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from scoresde.evaluation.rows import Rows, same_space

ROWS = 256
"""Rows whose distances to the whole training set are held at once."""


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The nearest training example of every row (Eq. 1)."""

    index: np.ndarray
    """(n,), rows of the training set."""
    distance: np.ndarray
    """(n,), Euclidean, in the units of the data."""


def nearest(x: Rows, train: Rows) -> Nearest:
    """Returns the nearest training example of every row of x (Eq. 1).

    Args:
        x: samples, (n, ...).
        train: training examples, (m, ...).

    Raises:
        ValueError: if the two are of different spaces.
    """
    x, train = same_space(x, train)
    squares = np.sum(train**2, axis=1)

    index = np.zeros(len(x), int)
    for start in range(0, len(x), ROWS):
        part = slice(start, start + ROWS)
        index[part] = np.argmin(squares - 2.0 * x[part] @ train.T, axis=1)  # plus |x|^2, the same
    return Nearest(index, np.linalg.norm(x - train[index], axis=1))


def remembered(x: Nearest, held_out: Nearest, share: float = 0.01) -> float:
    """Returns the share of samples that lie nearer to the training set than held-out examples do.

    share: q of Eq. 2, the share of held-out examples that lie nearer still.
    """
    return float(np.mean(x.distance < np.quantile(held_out.distance, share)))
