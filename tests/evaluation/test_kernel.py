"""The kernel distance against its definition, and its error against least squares and repeats."""

import math
from itertools import combinations

import numpy as np
import pytest
from repeats import assert_mean, repeat

from scoresde.evaluation.kernel import kernel_distance

RNG = np.random.default_rng(0)


def test_kernel_distance_is_its_definition():
    """Against the double sums over i ≠ j, in unequal numbers."""
    x = RNG.normal(size=(7, 3))
    y = RNG.normal(size=(5, 3)) + 0.5

    def k(a, b):
        return (a @ b / 3 + 1.0) ** 3

    def within(z):
        return np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    want = within(x) + within(y) - 2.0 * np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y).value == pytest.approx(want, rel=1e-12)


def test_kernel_distances_error_is_least_squares():
    """The three tables of kernel values, fitted by NumPy to mean + effects of both rows.

    What is left are the effects of pairs.
    """
    rng = np.random.default_rng(1)  # a draw where the variance of effects is above zero
    x = rng.normal(size=(7, 2))
    y = rng.normal(size=(6, 2)) + 1.0

    def fit(a, b, pairs):
        rows, columns = np.array(pairs).T
        both = np.concatenate([a, b])
        one = np.eye(len(both))
        design = one[rows] + one[columns]
        table = ((both[rows] * both[columns]).sum(axis=1) / 2 + 1.0) ** 3
        effects, _, rank, _ = np.linalg.lstsq(design, table)
        return effects, np.sum((design @ effects - table) ** 2) / (len(table) - rank)

    of_x, pair_x = fit(x, x[:0], list(combinations(range(7), 2)))
    of_y, pair_y = fit(y, y[:0], list(combinations(range(6), 2)))
    of_xy, pair_xy = fit(x, y, [(i, 7 + j) for i in range(7) for j in range(6)])

    variance = 4 * (np.var(of_x - of_xy[:7], ddof=1) - pair_x / 5 - pair_xy / 6) / 7
    variance += 4 * (np.var(of_y - of_xy[7:], ddof=1) - pair_y / 4 - pair_xy / 7) / 6
    assert variance > 0.0
    variance += pair_x * 2 / 42 + pair_y * 2 / 30 + pair_xy * 4 / 42
    assert kernel_distance(x, y).stderr == pytest.approx(np.sqrt(variance), rel=1e-9)


def moments(mean, cov):
    """E x, E x⊗x, E x⊗x⊗x of N(mean, cov)."""
    third = np.einsum("a,b,c->abc", mean, mean, mean)
    for spec in ("a,bc->abc", "b,ac->abc", "c,ab->abc"):
        third += np.einsum(spec, mean, cov)
    return mean, np.outer(mean, mean) + cov, third


@pytest.mark.parametrize("cov", [[[0.5]], [[0.4, 0.1], [0.1, 0.2]]], ids=["1d", "2d"])
def test_kernel_distance_is_unbiased_and_knows_its_error(cov):
    """E[<x, y>^p] is the inner product of p-th moments, so MMD² is a sum over p.

    MMD² = Σ_p (3 choose p) dim^-p |M_p(x) - M_p(y)|². The mean square error is the mean squared
    standard error, both within 5 of their own errors over 1500 repeats.
    """
    cov = np.array(cov)
    k = len(cov)
    mean = np.full(k, 0.5)
    other = 0.5 * np.eye(k)
    gaps = zip(moments(np.zeros(k), other), moments(mean, cov), strict=True)
    want = 0.0
    for p, (a, b) in enumerate(gaps, start=1):
        want += math.comb(3, p) / k**p * np.sum((a - b) ** 2)

    root_x = np.linalg.cholesky(other)
    root_y = np.linalg.cholesky(cov)

    def draw():
        x = RNG.normal(size=(30, k)) @ root_x.T
        y = RNG.normal(size=(50, k)) @ root_y.T + mean
        return x, y

    values, errors = repeat(kernel_distance, draw, 1500)
    excess = (values - want) ** 2 - errors**2
    assert_mean(values, want)
    assert_mean(excess, 0.0)
    assert 5 * np.std(excess) / np.sqrt(1500) < 0.5 * np.var(values)  # it could have failed


def test_kernel_distance_of_one_law():
    """Zero on average; the error is too large by at most √2, and in six dimensions by less."""
    draw = lambda: (0.7 * RNG.normal(size=(30, 6)), 0.7 * RNG.normal(size=(50, 6)))  # noqa: E731
    values, errors = repeat(kernel_distance, draw, 1000)
    ratio = np.sqrt(np.mean(errors**2)) / np.std(values)
    assert_mean(values, 0.0)
    assert 0.95 < ratio < math.sqrt(2.0)  # 5 standard errors are 0.15


def test_kernel_distance_in_pieces_is_the_same(monkeypatch):
    """The kernel matrix three rows at a time, and fewer in the last piece."""
    x = RNG.normal(size=(40, 2))
    y = RNG.normal(size=(50, 2))
    whole = kernel_distance(x, y)
    monkeypatch.setattr("scoresde.evaluation.kernel.BLOCK", 150)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)
