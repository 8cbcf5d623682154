"""How much of the data samples cover, and how far apart they lie.

    coverage = share of real rows y_j within whose k-th neighbour's distance lies a sample   (Eq. 1)
    spread   = mean over classes of sqrt(mean |x - m|^2),   m the class's mean               (Eq. 2)

Coverage is Naeem et al.'s (2020, arXiv:2002.09797, Eq. 4): distances are those between real rows.
"""

from __future__ import annotations

import math

import numpy as np

from scoresde.evaluation.rows import Rows, same_space


def coverage(x: Rows, real: Rows, neighbours: int = 5) -> float:
    """Returns the share of real rows that have a sample among their neighbours (Eq. 1).

    Two draws of n rows of one law cover 1 - Π (n - 1 - i) / (2 n - 1 - i) on average, for i = 0 …
    k - 1: about 0.97 with 5 neighbours.

    Args:
        x: samples, (n, ...).
        real: data, (m, ...).
        neighbours: k, the rank of the real neighbour whose distance counts.

    Raises:
        ValueError: if the sets are of different spaces, or there are too few real rows.
    """
    from scipy.spatial import KDTree

    x, real = same_space(x, real)
    if not 1 <= neighbours < len(real):
        raise ValueError(
            f"neighbours = {neighbours} of {len(real)} real rows: wanted 1 … {len(real) - 1}."
        )
    distance, _ = KDTree(real).query(real, k=neighbours + 1)  # the first is the row itself
    nearest, _ = KDTree(x).query(real, k=1)
    return float(np.mean(nearest <= distance[:, -1]))


def expected_coverage(samples: int, real: int, neighbours: int = 5) -> float:
    """Returns the average coverage of so many samples and real rows of one law.

    A row is not covered where its k nearest, among all other rows, are all real.
    """
    others = real - 1
    misses = [(others - i) / (others + samples - i) for i in range(neighbours)]
    return 1.0 - math.prod(misses)


def class_spread(x: Rows, labels: np.ndarray) -> float:
    """Returns the mean over classes of the root mean squared distance to the class's mean (Eq. 2).

    x: (n, ...). labels: (n,).

    Raises:
        ValueError: if there is not one label per row.
    """
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    labels = np.asarray(labels)
    if labels.shape != (len(x),):
        raise ValueError(f"labels has shape {labels.shape} for {len(x)} rows: wanted ({len(x)},).")
    spreads = [
        np.sqrt(np.mean(np.sum((rows - rows.mean(axis=0)) ** 2, axis=1)))
        for rows in (x[labels == label] for label in np.unique(labels))
    ]
    return float(np.mean(spreads))
