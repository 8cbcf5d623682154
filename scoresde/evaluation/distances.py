"""Distances between two sets of samples, with standard errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from scoresde.evaluation.features import Rows, flat_rows

BLOCK = 2**23  # entries of a kernel matrix in memory at a time: 64 MB


class Estimate(NamedTuple):
    """A figure and its standard error."""

    value: float
    stderr: float


# --- Distances ---


def frechet_distance(x: Rows, y: Rows) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), the squared 2-Wasserstein distance of the fitted Gaussians.

    Dowson & Landau 1982; FID when x and y are Inception features, and only then (Heusel et al. 2017). Float64; fewer
    rows than dimensions are allowed. Biased upwards: two draws of one N(0, I_k), of n and m rows, are about
    k (k + 5) / 4 (1/n + 1/m) apart. Compare values of equal sizes only.
    """
    x, y = _same_space(x, y)
    mean = x.mean(axis=0) - y.mean(axis=0)
    # C = A^T A with A the triangle of the centred rows' QR: no covariance is formed, so none loses digits.
    a, b = (
        np.asarray(np.linalg.qr(z - z.mean(axis=0), mode="r")) / np.sqrt(len(z) - 1) for z in (x, y)
    )
    cross = np.linalg.norm(a @ b.T, "nuc")  # the sum of singular values is tr (C_x C_y)^(1/2)
    return float(mean @ mean + np.sum(a**2) + np.sum(b**2) - 2.0 * cross)


def kernel_distance(x: Rows, y: Rows) -> Estimate:
    """Unbiased squared MMD, E k(x, x') + E k(y, y') - 2 E k(x, y), with k(a, b) = (<a, b> / dim + 1)^3.

    Binkowski et al. 2018 (arXiv:1801.01401); KID when x and y are Inception features. The kernel sees the first three
    moments. Its mean does not depend on the number of rows and is zero for one law, so values can be negative.

    The standard error is over draws of both x and y. A U-statistic of degree 2 splits exactly into uncorrelated parts
    (Hoeffding 1948): effects of single rows, whose variance goes as 1/n, and of pairs, as 1/n^2. The variance of each
    is estimated without bias. Where x and y share their law only the pairs are left; a variance of effects estimated
    below zero counts as zero, so there the error is too large, by at most 40 % (when one kernel eigenvalue rules).
    """
    x, y = _same_space(x, y, least=4)
    n, m = len(x), len(y)
    mean_x, effect_x, pair_x = _within(x)
    mean_y, effect_y, pair_y = _within(y)
    mean_xy, cross_x, cross_y, pair_xy = _across(x, y)
    # The spread of estimated effects, less what pairs add to it.
    row_x = np.var(effect_x - cross_x, ddof=1) - pair_x / (n - 2) - pair_xy / m
    row_y = np.var(effect_y - cross_y, ddof=1) - pair_y / (m - 2) - pair_xy / n
    rows = 4.0 * row_x / n + 4.0 * row_y / m
    pairs = 2.0 * pair_x / (n * (n - 1)) + 2.0 * pair_y / (m * (m - 1)) + 4.0 * pair_xy / (n * m)
    return Estimate(float(mean_x + mean_y - 2.0 * mean_xy), float(np.sqrt(max(rows, 0.0) + pairs)))


def _kernel_sums(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Sums of k(x_i, y_j) over rows, over columns, and of its squares."""
    rows, columns, squares = np.empty(len(x)), np.zeros(len(y)), 0.0
    step = max(1, BLOCK // len(y))
    for start in range(0, len(x), step):
        base = x[start : start + step] @ y.T / x.shape[1] + 1.0
        kernel = base * base * base
        rows[start : start + step] = kernel.sum(axis=1)
        columns += kernel.sum(axis=0)
        squares += float(np.vdot(kernel, kernel))
    return rows, columns, squares


def _within(x: np.ndarray) -> tuple[float, np.ndarray, float]:
    """k(x_i, x_j) = mean + effect_i + effect_j + rest, i ≠ j, by least squares: mean, effects, variance of the rest."""
    n = len(x)
    rows, _, squares = _kernel_sums(x, x)
    diagonal = (np.sum(x**2, axis=1) / x.shape[1] + 1.0) ** 3
    rows, squares = rows - diagonal, squares - np.sum(diagonal**2)
    mean = np.sum(rows) / (n * (n - 1))
    effect = (rows - (n - 1) * mean) / (n - 2)
    rest = 0.5 * squares - 0.5 * n * (n - 1) * mean**2 - (n - 2) * np.sum(effect**2)
    return mean, effect, max(rest, 0.0) / (0.5 * n * (n - 3))


def _across(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, float]:
    """k(x_i, y_j) = mean + effect_i + effect_j + rest by least squares: mean, both effects, variance of the rest."""
    n, m = len(x), len(y)
    rows, columns, squares = _kernel_sums(x, y)
    mean = np.sum(rows) / (n * m)
    effect_x, effect_y = rows / m - mean, columns / n - mean
    rest = squares - n * m * mean**2 - m * np.sum(effect_x**2) - n * np.sum(effect_y**2)
    return mean, effect_x, effect_y, max(rest, 0.0) / ((n - 1) * (m - 1))


def sliced_wasserstein(x: Rows, y: Rows, num_directions: int = 128, seed: int = 0) -> float:
    """Mean over fixed directions u of W_1 between the projections <x, u> and <y, u> (Rabin et al. 2012).

    W_1 in one dimension is the mean absolute difference of sorted values; samples of unequal size meet at the
    quantiles of the smaller one. Not zero for two draws of one law: report it beside that floor.
    """
    x, y = _same_space(x, y)
    directions = np.random.default_rng(seed).normal(size=(x.shape[1], num_directions))
    directions /= np.linalg.norm(directions, axis=0)
    few, many = sorted((np.sort(directions.T @ z.T) for z in (x, y)), key=np.size)
    n, m = few.shape[1], many.shape[1]
    position = (
        np.arange(n) + 0.5
    ) * m / n - 0.5  # the quantiles of `few` among `many`; in equal numbers 0, 1, ...
    low = position.astype(int)
    part = position - low
    many = (1.0 - part) * many[:, low] + part * many[:, np.minimum(low + 1, m - 1)]
    return float(np.mean(np.abs(few - many)))


def jackknife(
    distance: Callable[[Any, Any], float], x: Rows, y: Rows, groups: int = 20
) -> Estimate:
    """The distance of all rows, with the grouped jackknife's standard error over draws of both x and y.

    Its square is (g - 1) / g times the sum of squared deviations when each of g random groups of rows is left out in
    turn, for x and then for y. Right where the laws differ. Where they are equal a distance is quadratic in the noise
    and the error too large by 40 to 50 %, on the safe side (Efron & Stein 1981). The bias that goes with the number of
    rows is no part of it.
    """
    x, y = _same_space(x, y, least=3)
    if groups < 2:
        raise ValueError(f"groups is {groups}: to leave one out takes at least 2. Write groups=20.")

    def variance(rows: np.ndarray, of: Callable[[np.ndarray], float]) -> float:
        g = min(groups, len(rows))
        group = np.random.default_rng(0).permutation(len(rows)) % g
        return (g - 1) ** 2 / g * float(np.var([of(rows[group != i]) for i in range(g)], ddof=1))

    spread = variance(x, lambda rows: distance(rows, y)) + variance(
        y, lambda rows: distance(x, rows)
    )
    return Estimate(distance(x, y), float(np.sqrt(spread)))


# --- Checks ---


def _same_space(x: Rows, y: Rows, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    shapes = np.shape(x), np.shape(y)
    x, y = flat_rows(x, "x", least), flat_rows(y, "y", least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x has shape {shapes[0]}, y has {shapes[1]}: {x.shape[1]} and {y.shape[1]} dimensions are compared. Both "
            "must be of the same space: take the same features of both, f.features(x) and f.features(y)."
        )
    return x, y
