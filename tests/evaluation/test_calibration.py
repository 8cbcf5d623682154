"""Ranks and bands against SciPy, exact posteriors of a Gaussian, and false-alarm rates."""

import numpy as np
import pytest
from scipy import stats

from scoresde.evaluation.calibration import rank_test, ranks

RNG = np.random.default_rng(0)


def experiment(n, num_draws, dim=1, width=1.0, shift=0.0, rng=RNG):
    """Ranks under theta ~ N(0, 1), y ~ N(theta, 1), whose posterior is N(y / 2, 1 / 2).

    The posterior is made so many times as wide, and shifted by so many standard deviations.
    """
    theta = rng.normal(size=(n, dim))
    y = theta + rng.normal(size=(n, dim))
    noise = width * rng.normal(size=(n, num_draws, dim)) + shift
    return ranks(theta, 0.5 * y[:, None] + np.sqrt(0.5) * noise)


# --- Ranks ---


def test_ranks_are_scipys():
    true = RNG.normal(size=(5, 3))
    draws = RNG.normal(size=(5, 7, 3))
    both = np.concatenate([true[:, None], draws], axis=1)
    want = stats.rankdata(both, axis=1)[:, 0] - 1
    found = ranks(true, draws)
    np.testing.assert_array_equal(found, want)
    assert found.dtype.kind == "i"


def test_ranks_of_an_exact_posterior_are_uniform():
    """Each of the 0 ... L is equally likely, by SciPy's chi-squared."""
    found = experiment(5000, 9, dim=2)
    counts = np.stack([np.bincount(column, minlength=10) for column in found.T])
    assert counts.shape == (2, 10)
    assert np.all(stats.chisquare(counts, axis=1).pvalue > 1e-3)


def test_ranks_of_discrete_parameters_are_uniform():
    """Ties are broken at random, in every row by itself and again by the same seed."""
    true = RNG.integers(3, size=(5000, 1))
    draws = RNG.integers(3, size=(5000, 9, 1))
    found = ranks(true, draws)
    assert stats.chisquare(np.bincount(found[:, 0], minlength=10)).pvalue > 1e-3
    np.testing.assert_array_equal(found, ranks(true, draws))
    assert np.any(found != ranks(true, draws, seed=1))
    below = np.sum(draws < true[:, None], axis=1)
    assert np.all((below <= found) & (found <= below + np.sum(draws == true[:, None], axis=1)))


# --- The test ---


def test_histograms_and_p_values_are_scipys():
    found = experiment(400, 19, dim=2)
    test = rank_test(found, 19, bins=10)
    for i, column in enumerate(found.T):
        counts = np.bincount(column // 2, minlength=10)
        np.testing.assert_array_equal(test.counts[i], counts)
        assert test.p_values[i] == pytest.approx(stats.chisquare(counts).pvalue, rel=1e-9)
    np.testing.assert_array_equal(test.edges, 2 * np.arange(11))
    np.testing.assert_array_equal(test.expected, np.full(10, 40.0))
    assert test.p_value == pytest.approx(min(1.0, 2 * test.p_values.min()))


def test_bins_of_unequal_numbers_of_ranks():
    """12 values in 5 bins of 2 or 3: each bin has the binomial band of its own share."""
    test = rank_test(experiment(600, 11), 11, bins=5)
    sizes = np.diff(test.edges)
    assert test.edges[0] == 0 and test.edges[-1] == 12
    assert set(sizes) == {2, 3}
    assert test.counts.sum() == 600
    np.testing.assert_allclose(test.expected, 600 * sizes / 12)
    want = [stats.binom.interval(0.95, 600, size / 12) for size in sizes]
    np.testing.assert_array_equal(test.pointwise.T, want)


def test_default_bins_divide_the_ranks_where_they_can():
    for n, num_draws, want in [(1000, 99, 20), (330, 99, 10), (1000, 9, 10), (1000, 100, 20)]:
        found = rank_test(RNG.integers(num_draws + 1, size=(n, 1)), num_draws)
        assert found.counts.shape == (1, want)
    assert rank_test(RNG.integers(10, size=(20, 1)), 9).counts.shape == (1, 2)


def test_false_alarms_are_as_rare_as_promised():
    """An exact posterior, 600 times: some bin of 40 leaves its pointwise band nearly always, and
    the simultaneous one in up to 5 % of experiments, within 3 standard errors; 3 % or more are
    what whole counts leave of 5 %. p-values are uniform.
    """
    rng = np.random.default_rng(1)
    tests = [rank_test(experiment(400, 19, 2, rng=rng), 19) for _ in range(600)]
    assert tests[0].counts.shape == (2, 20)
    error = np.sqrt(0.05 * 0.95 / 600)
    assert 0.03 - 3 * error < np.mean([not test.calibrated for test in tests]) < 0.05 + 3 * error
    assert abs(np.mean([test.p_value < 0.05 for test in tests]) - 0.05) < 4 * error
    p_values = np.concatenate([test.p_values for test in tests])
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3

    low, high = np.stack([test.pointwise for test in tests], axis=1)[:, :, None]
    counts = np.stack([test.counts for test in tests])
    left = (counts < low) | (counts > high)
    assert 0.02 < left.mean() < 0.05
    assert left.any(axis=(1, 2)).mean() > 0.6


@pytest.mark.parametrize(
    ("width", "shift", "highest"),
    [(0.7, 0.0, {0, 19}), (1.4, 0.0, {8, 9, 10, 11}), (1.0, 0.4, {0}), (1.0, -0.4, {19})],
    ids=["narrow", "wide", "shifted up", "shifted down"],
)
def test_wrong_posteriors_are_caught(width, shift, highest):
    """In the bins where theory puts them; the dimension that is exact stays within the band."""
    wrong = experiment(1000, 99, 1, width, shift)
    test = rank_test(np.hstack([wrong, experiment(1000, 99)]), 99)
    assert not test.calibrated
    assert test.p_value < 1e-6
    assert np.argmax(test.counts[0]) in highest
    assert test.outside[0, np.argmax(test.counts[0])]
    assert not test.outside[1].any()


# --- Refusals ---


def test_draws_that_do_not_fit_are_refused(unchecked):
    true = np.zeros((4, 2))
    draws = np.zeros((4, 9, 2))
    for wrong in (draws[:3], draws[:, :, :1], draws[:, :0], draws[0]):
        with pytest.raises(ValueError, match=r"wanted \(n, d\) and \(n, L, d\)"):
            ranks(true, wrong)
    assert ranks(true, np.zeros((9, 4, 2)).swapaxes(0, 1)).shape == (4, 2)  # as advised

    draws[2, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"draws holds NaN or infinity in 1 of 4 rows.*at 2"):
        ranks(true, draws)
    with pytest.raises(ValueError, match="true holds NaN"):
        ranks(true + np.inf, np.zeros((4, 9, 2)))


def test_ranks_that_do_not_fit_are_refused(unchecked):
    good = RNG.integers(20, size=(100, 1))
    with pytest.raises(ValueError, match=r"write ranks\[:, None\]"):
        rank_test(good[:, 0], 19)
    with pytest.raises(ValueError, match="dtype float64"):
        rank_test(good / 19, 19)
    with pytest.raises(ValueError, match=r"wanted 0 \.\.\. 9"):
        rank_test(good, 9)
    with pytest.raises(ValueError, match=r"wanted at most as many bins\. Write bins=20"):
        rank_test(good, 19, bins=21)
    with pytest.raises(ValueError, match="bins = 1"):
        rank_test(good, 19, bins=1)
    with pytest.raises(ValueError, match=r"90 ranks in 20 bins are 4\.5.*at least 5"):
        rank_test(good[:90], 19, bins=20)
