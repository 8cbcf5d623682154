"""The fitted Gaussian against SciPy's."""

import numpy as np
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
