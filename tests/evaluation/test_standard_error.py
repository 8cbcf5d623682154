"""The jackknife's standard error against the spread of repeats, and against that of a mean."""

from functools import partial

import numpy as np
import pytest
from repeats import assert_mean, repeat

from scoresde.evaluation.distances import frechet_distance
from scoresde.evaluation.standard_error import jackknife

RNG = np.random.default_rng(0)


def test_jackknife_knows_the_error_of_a_frechet_distance():
    """Where laws differ, its square averages to the variance of values, within 5 standard errors.

    For one law it is 40 to 50 % too large, where 25 % are 5 standard errors.
    """

    def frechet(x, y):
        return float((x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2)

    def differ():
        return RNG.normal(size=(60, 1)), 0.6 * RNG.normal(size=(80, 1)) + 1.0

    def alike():
        return RNG.normal(size=(60, 1)), RNG.normal(size=(80, 1))

    x, y = differ()
    assert frechet_distance(x, y) == pytest.approx(frechet(x, y))

    estimate = partial(jackknife, frechet)
    values, errors = repeat(estimate, differ, 250)
    assert_mean((values - values.mean()) ** 2 * 250 / 249 - errors**2, 0.0)
    values, errors = repeat(estimate, alike, 250)
    assert 1.1 < np.sqrt(np.mean(errors**2)) / np.std(values) < 1.9


def test_jackknife_of_a_mean_is_its_standard_error():
    """With as many groups as rows it is √(s_x² / n + s_y² / m), to rounding."""
    x = RNG.normal(size=(30, 1))
    y = 2.0 * RNG.normal(size=(20, 1))
    value, stderr = jackknife(lambda a, b: float(a.mean() - b.mean()), x, y, groups=100)
    assert value == pytest.approx(x.mean() - y.mean())
    assert stderr == pytest.approx(np.sqrt(x.var(ddof=1) / 30 + y.var(ddof=1) / 20), rel=1e-9)


def test_one_group_is_refused(unchecked):
    good = np.arange(8.0).reshape(4, 2)
    with pytest.raises(ValueError, match="groups is 1"):
        jackknife(frechet_distance, good, good, groups=1)
