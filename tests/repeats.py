"""Draws whose moments are known, and the mean of a statistic over repeated draws."""

import numpy as np


def with_moments(rng, mean, cov, n=400):
    """Rows whose sample mean and covariance are exactly these."""
    x = rng.normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    white = np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)))
    return x @ white.T @ np.linalg.cholesky(cov).T + mean


def repeat(distance, draw, times):
    """Values and standard errors of so many fresh pairs of draws."""
    return np.array([distance(*draw()) for _ in range(times)]).T


def assert_mean(values, want, errors=5.0):
    """The mean of independent values is `want`, within so many of its standard errors."""
    stderr = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - want) < errors * stderr, (np.mean(values), want, stderr)
