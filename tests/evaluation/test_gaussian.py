"""The fitted Gaussian against SciPy's."""

import numpy as np
import pytest
from repeats import with_moments
from scipy import stats

from scoresde.evaluation.gaussian import GaussianFit

RNG = np.random.default_rng(0)


def test_gaussian_fit_is_scipys():
    mean = np.array([1.0, -2.0])
    cov = np.array([[2.0, 0.6], [0.6, 0.5]])
    x = with_moments(RNG, mean, cov)
    fit = GaussianFit.fit(x.reshape(-1, 2, 1))
    want = stats.multivariate_normal(mean, cov).logpdf(x)
    np.testing.assert_allclose(fit.log_prob(x), want, rtol=1e-7)

    draws = fit.sample(0, 20_000)
    error = np.sqrt([2.0, 0.5]) / np.sqrt(20_000)
    assert draws.shape == (20_000, 2, 1)
    assert np.all(np.abs(draws[..., 0].mean(axis=0) - mean) < 5 * error)


def test_one_dimension_is_scipys():
    x = RNG.normal(3.0, 2.0, size=(50, 1))
    fit = GaussianFit.fit(x)
    assert fit.cov.shape == (1, 1)
    want = stats.norm(x.mean(), x.std(ddof=1)).logpdf(x[:, 0])
    np.testing.assert_allclose(fit.log_prob(x), want, rtol=1e-7)
    assert fit.sample(0, 4).shape == (4, 1)


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "few"])
def test_degenerate_data_have_draws_but_no_density(constant):
    """A constant feature, or fewer examples than features: the draws stay in the data's span."""
    if constant:
        x = np.stack([RNG.normal(size=20), np.full(20, 7.0)], axis=1)
    else:
        x = RNG.normal(size=(3, 5))
    fit = GaussianFit.fit(x)
    with pytest.raises(ValueError, match=f"span {1 if constant else 2} of {x.shape[1]} dimensions"):
        fit.log_prob(x)

    draws = fit.sample(0, 1000) - fit.mean
    directions, size, _ = np.linalg.svd(np.cov(x, rowvar=False))
    outside = directions[:, size < 1e-10 * size[0]]
    np.testing.assert_allclose(draws @ outside, 0.0, atol=1e-6)


def test_one_example_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 rows"):
        GaussianFit.fit(np.zeros((1, 2)))
