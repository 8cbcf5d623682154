"""Coverage and spread against what is known of draws of one law."""

import numpy as np
import pytest

from scoresde.evaluation.diversity import class_spread, coverage, expected_coverage


@pytest.mark.parametrize(("n", "m", "k"), [(200, 200, 5), (100, 300, 3), (400, 100, 1)])
def test_coverage_of_one_law_is_the_closed_form(n, m, k):
    rng = np.random.default_rng(0)
    found = [
        coverage(rng.normal(size=(n, 3)), rng.normal(size=(m, 3)), neighbours=k) for _ in range(60)
    ]
    error = np.std(found) / np.sqrt(60)
    assert abs(np.mean(found) - expected_coverage(n, m, k)) < 5 * error


def test_coverage_falls_where_samples_lack_a_mode_or_gather():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 2)) + np.where(np.arange(400) % 2, 8.0, -8.0)[:, None]
    half = rng.normal(size=(400, 2)) + 8.0
    assert abs(coverage(half, real) - 0.5) < 0.02
    assert coverage(np.tile(real[:1], (400, 1)) + 1e-6, real) < 0.05
    assert coverage(real, real) == 1.0


def test_spread_is_within_classes():
    """N(m_c, s^2 I) in d dimensions spreads s sqrt(d), wherever the means are."""
    rng = np.random.default_rng(0)
    labels = np.arange(20_000) % 4
    x = 0.5 * rng.normal(size=(20_000, 9)) + 100.0 * labels[:, None]
    assert class_spread(x, labels) == pytest.approx(1.5, rel=0.01)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="wanted 1 … 4"):
        coverage(np.zeros((5, 2)), np.zeros((5, 2)), neighbours=5)
    with pytest.raises(ValueError, match=r"labels has shape \(3,\) for 4 rows"):
        class_spread(np.zeros((4, 2)), np.zeros(3))
