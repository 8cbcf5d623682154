"""Distances against closed forms, features against the classifier's own, the baseline against SciPy."""

import numpy as np
import pytest
from scipy import linalg, stats

from scoresde.data.arrays import digits
from scoresde.evaluation import ClassifierFeatures, GaussianFit, frechet_distance, sliced_wasserstein

RNG = np.random.default_rng(0)


def with_moments(mean, cov, n=400):
    """Rows whose sample mean and covariance are exactly these."""
    x = RNG.normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    white = np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)))
    return x @ white.T @ np.linalg.cholesky(cov).T + mean


def test_frechet_distance_is_the_formula():
    """Against SciPy's matrix square root, and the closed form for commuting covariances."""
    a, b = (root @ root.T + 0.1 * np.eye(5) for root in RNG.normal(size=(2, 5, 5)))
    m = RNG.normal(size=5)
    x, y = with_moments(np.zeros(5), a), with_moments(m, b)
    want = m @ m + np.trace(a + b - 2.0 * np.real(linalg.sqrtm(a @ b)))
    assert frechet_distance(x, y) == pytest.approx(want, rel=1e-8)
    p, q = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    x, y = with_moments(np.zeros(3), np.diag(p)), with_moments(np.zeros(3), np.diag(q))
    assert frechet_distance(x, y) == pytest.approx(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2), rel=1e-8)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_of_singular_covariances():
    x = np.zeros((10, 3))
    y = np.tile([3.0, 4.0, 0.0], (10, 1))
    assert frechet_distance(x, y) == pytest.approx(25.0)


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection():
    """W_1 of a shift by c along u is |<c, u>|, so the mean over directions is |c| E|u_1|; also in unequal numbers."""
    x, c = RNG.normal(size=(500, 3)), np.array([2.0, 0.0, 0.0])
    directions = np.random.default_rng(0).normal(size=(3, 128))
    want = np.mean(np.abs(c @ (directions / np.linalg.norm(directions, axis=0))))
    assert sliced_wasserstein(x, x + c) == pytest.approx(want, rel=1e-9)
    assert sliced_wasserstein(x, np.repeat(x + c, 2, axis=0)) == pytest.approx(want, rel=0.02)
    one = RNG.normal(size=(300, 1))
    assert sliced_wasserstein(one, one**3) == pytest.approx(
        stats.wasserstein_distance(one[:, 0], one[:, 0] ** 3), rel=1e-9
    )


def test_gaussian_fit_is_scipys():
    x = with_moments(np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]]))
    fit = GaussianFit.fit(x.reshape(-1, 2, 1))
    want = stats.multivariate_normal([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]]).logpdf(x)
    np.testing.assert_allclose(fit.log_prob(x), want, rtol=1e-7)
    draws = fit.sample(0, 20_000)
    assert draws.shape == (20_000, 2, 1)
    assert np.all(np.abs(draws[..., 0].mean(axis=0) - [1.0, -2.0]) < 5 * np.sqrt([2.0, 0.5]) / np.sqrt(20_000))


def test_features_are_the_classifiers_hidden_layer():
    """One more affine layer and a softmax on the features give the classifier's own probabilities."""
    data = digits()
    x = data.train / 8.0 - 1.0
    features = ClassifierFeatures.fit(x[:300], data.train_labels[:300], hidden=16)
    logits = features.features(x) @ features.classifier.coefs_[1] + features.classifier.intercepts_[1]
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(features.confidence(x), probability.max(axis=1), rtol=1e-9)
    again = ClassifierFeatures.fit(x[:300], data.train_labels[:300], hidden=16)
    other = ClassifierFeatures.fit(x[:300], data.train_labels[:300], hidden=16, seed=1)
    assert features.name == again.name != other.name


def test_digits_are_split_once_and_for_all():
    data = digits()
    assert data.train.shape == (1500, 8, 8, 1)
    assert data.test.shape == (297, 8, 8, 1)
    assert (data.train.min(), data.train.max(), data.levels) == (0, 16, 17)
    both = np.concatenate([data.train, data.test]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    original = load_digits().data
    np.testing.assert_array_equal(both[np.lexsort(both.T)], original[np.lexsort(original.T)])
    assert np.bincount(data.test_labels).min() > 15  # every digit is held out


def test_bad_samples_are_refused(unchecked):
    with pytest.raises(ValueError, match="1 of them with NaN"):
        frechet_distance(np.array([[0.0], [np.nan]]), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="same space"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 1)))
