"""The kernel distance, an unbiased squared maximum mean discrepancy (MMD), with its standard error.

    k(a, b) = (<a, b> / dim + 1)^3                                                    (Eq. 1)
    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)                                     (Eq. 2)

Within x, within y, and between x and y, least squares splits the kernel values into a
mean, effects of single rows and a rest of variance P:

    k(x_i, x_j) = mean_x + a_i + a_j + rest,   i ≠ j
    k(x_i, y_j) = mean_xy + c_i + d_j + rest                                          (Eq. 3)
    V_x = var_i(a_i - c_i) - P_x / (n - 2) - P_xy / m,     and V_y alike              (Eq. 4)
    stderr^2 = 4 V_x / n + 4 V_y / m
               + 2 P_x / (n (n - 1)) + 2 P_y / (m (m - 1)) + 4 P_xy / (n m)           (Eq. 5)

A U-statistic of degree 2 splits exactly into such uncorrelated parts (Hoeffding 1948): effects
of single rows, whose variance falls as 1/n, and of pairs, as 1/n^2. Eq. 4 subtracts what pairs
add to the spread of estimated effects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scoresde.evaluation.rows import Rows, same_space
from scoresde.evaluation.standard_error import Estimate

BLOCK = 2**23
"""The number of entries of a kernel matrix in memory at a time: 64 MB."""


def kernel_distance(x: Rows, y: Rows) -> Estimate:
    """Returns the unbiased squared MMD with a cubic kernel (Eq. 2), and its error (Eq. 5).

    It is the KID when x and y are Inception features (Binkowski et al. 2018, arXiv:1801.01401).
    The kernel sees the first three moments. Its mean does not depend on the number of rows, and
    is zero for one law, so values can be negative.

    The standard error is over draws of both x and y, and each variance in it is estimated
    without bias. Where x and y share their law, only the effects of pairs are left; a variance
    of effects that is estimated below zero counts as zero, so that the error is then too large,
    by at most 40 % (when one eigenvalue of the kernel dominates).

    Raises:
        ValueError: if a set has fewer than 4 rows, or the sets are of different spaces.
    """
    x, y = same_space(x, y, least=4)
    n = len(x)
    m = len(y)
    within_x = _within(x)
    within_y = _within(y)
    between = _between(x, y)

    # Eq. 4.
    gap_x = within_x.effect - between.effect_x
    gap_y = within_y.effect - between.effect_y
    row_x = np.var(gap_x, ddof=1) - within_x.pair / (n - 2) - between.pair / m
    row_y = np.var(gap_y, ddof=1) - within_y.pair / (m - 2) - between.pair / n

    # Eq. 5.
    rows = 4.0 * row_x / n + 4.0 * row_y / m
    pairs_x = 2.0 * within_x.pair / (n * (n - 1))
    pairs_y = 2.0 * within_y.pair / (m * (m - 1))
    pairs = pairs_x + pairs_y + 4.0 * between.pair / (n * m)

    value = float(within_x.mean + within_y.mean - 2.0 * between.mean)
    return Estimate(value, float(np.sqrt(max(rows, 0.0) + pairs)))


# --- Eq. 3 by least squares ---


class _Within(NamedTuple):
    """The mean, the effects of the rows of one set, and the variance of the rest P."""

    mean: float
    effect: np.ndarray
    pair: float


class _Between(NamedTuple):
    """The mean, the effects of the rows of both sets, and the variance of the rest P."""

    mean: float
    effect_x: np.ndarray
    effect_y: np.ndarray
    pair: float


def _within(x: np.ndarray) -> _Within:
    n = len(x)
    rows, _, squares = _kernel_sums(x, x)
    diagonal = (np.sum(x**2, axis=1) / x.shape[1] + 1.0) ** 3
    rows = rows - diagonal
    squares = squares - np.sum(diagonal**2)

    mean = np.sum(rows) / (n * (n - 1))
    effect = (rows - (n - 1) * mean) / (n - 2)
    rest = 0.5 * squares - 0.5 * n * (n - 1) * mean**2 - (n - 2) * np.sum(effect**2)
    return _Within(mean, effect, max(rest, 0.0) / (0.5 * n * (n - 3)))


def _between(x: np.ndarray, y: np.ndarray) -> _Between:
    n = len(x)
    m = len(y)
    rows, columns, squares = _kernel_sums(x, y)

    mean = np.sum(rows) / (n * m)
    effect_x = rows / m - mean
    effect_y = columns / n - mean
    rest = squares - n * m * mean**2 - m * np.sum(effect_x**2) - n * np.sum(effect_y**2)
    return _Between(mean, effect_x, effect_y, max(rest, 0.0) / ((n - 1) * (m - 1)))


def _kernel_sums(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the sums of k(x_i, y_j) over each row and each column, and of all squares."""
    rows = np.empty(len(x))
    columns = np.zeros(len(y))
    squares = 0.0

    step = max(1, BLOCK // len(y))
    for start in range(0, len(x), step):
        base = x[start : start + step] @ y.T / x.shape[1] + 1.0
        kernel = base * base * base
        rows[start : start + step] = kernel.sum(axis=1)
        columns += kernel.sum(axis=0)
        squares += float(np.vdot(kernel, kernel))
    return rows, columns, squares
