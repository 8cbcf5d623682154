"""Distances between two sets of examples, besides the kernel distance (kernel.py).

    FD = |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))                       (Eq. 1)
    SW = mean_u W_1(<x, u>, <y, u>)                                              (Eq. 2)

m and C are the mean and covariance of a set, u a random unit vector, and W_1 the Wasserstein
distance in one dimension: the mean absolute difference of sorted values.
"""

from __future__ import annotations

import numpy as np

from scoresde.evaluation.rows import Rows, same_space


def frechet_distance(x: Rows, y: Rows) -> float:
    """Returns the squared 2-Wasserstein distance of two fitted Gaussians (Eq. 1).

    The closed form is Dowson & Landau's (1982). It is the FID when x and y are Inception
    features, and only then (Heusel et al. 2017). It is computed in float64, and there may be
    fewer rows than dimensions.

    It is biased upwards: two draws of n and m rows from one N(0, I_k) are about
    k (k + 5) / 4 (1/n + 1/m) apart. Compare values of equal sizes only.

    Raises:
        ValueError: if a set has fewer than 2 rows, or the sets are of different spaces.
    """
    x, y = same_space(x, y)
    mean = x.mean(axis=0) - y.mean(axis=0)
    a = _covariance_factor(x)
    b = _covariance_factor(y)
    cross = np.linalg.norm(a @ b.T, "nuc")  # the sum of singular values is tr (C_x C_y)^(1/2)
    return float(mean @ mean + np.sum(a**2) + np.sum(b**2) - 2.0 * cross)


def sliced_wasserstein(x: Rows, y: Rows, num_directions: int = 128, seed: int = 0) -> float:
    """Returns the mean of W_1 between projections of x and y (Eq. 2; Rabin et al. 2012).

    The directions are the same at every call with one seed. Sets of unequal size are compared at
    the quantiles of the smaller one. Two draws of one law do not have distance zero: report that
    floor, too.

    Args:
        x: one set, (n, ...).
        y: the other, (m, ...).
        num_directions: the number of directions u.
        seed: of the random directions.

    Raises:
        ValueError: if a set has fewer than 2 rows, or the sets are of different spaces.
    """
    x, y = same_space(x, y)
    directions = np.random.default_rng(seed).normal(size=(x.shape[1], num_directions))
    directions /= np.linalg.norm(directions, axis=0)

    # Projections, sorted along each direction: (num_directions, n) and (num_directions, m).
    projections = [np.sort(directions.T @ z.T) for z in (x, y)]
    few, many = sorted(projections, key=np.size)
    return float(np.mean(np.abs(few - _at_quantiles(many, few.shape[1]))))


def _covariance_factor(x: np.ndarray) -> np.ndarray:
    """Returns A with C = A^T A, the triangle of a QR: forming C would lose digits."""
    triangle = np.asarray(np.linalg.qr(x - x.mean(axis=0), mode="r"))
    return triangle / np.sqrt(len(x) - 1)


def _at_quantiles(values: np.ndarray, n: int) -> np.ndarray:
    """Returns n quantiles of sorted values (directions, m), interpolated; for n = m the values."""
    m = values.shape[1]
    position = (np.arange(n) + 0.5) * m / n - 0.5
    low = position.astype(int)
    high = np.minimum(low + 1, m - 1)
    part = position - low
    return (1.0 - part) * values[:, low] + part * values[:, high]
