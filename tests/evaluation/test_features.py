"""Features against scikit-learn's, and names that change with what they name."""

import _thread
import sys
import threading
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from scoresde.data.arrays import digits
from scoresde.evaluation.features import ClassifierFeatures, Features, PCAFeatures, RawFeatures

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_features_are_scikit_learns(whiten):
    """Up to the sign, which is fixed: rows in another order, or negated, give the same basis."""
    x = RNG.normal(size=(200, 2, 3)) * np.array([3.0, 2.0, 1.0]) + 1.0
    features = PCAFeatures.fit(x, 4, whiten=whiten)
    want = PCA(4, whiten=whiten, svd_solver="full").fit_transform(x.reshape(200, 6))
    np.testing.assert_allclose(np.abs(features.features(x)), np.abs(want), rtol=1e-6, atol=1e-9)
    assert features.name.startswith("pca4-white-" if whiten else "pca4-")
    again = PCAFeatures.fit(x[::-1], 4, whiten=whiten)
    np.testing.assert_allclose(again.features(x), features.features(x), atol=1e-9)
    mirrored = PCAFeatures.fit(2.0 - x, 4, whiten=whiten)
    np.testing.assert_allclose(mirrored.basis, features.basis, atol=1e-9)

    others = [
        PCAFeatures.fit(x[:150], 4, whiten=whiten),
        PCAFeatures.fit(x + 1.0, 4, whiten=whiten),
    ]
    assert again.name == features.name not in [other.name for other in others]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_features_are_the_classifiers_hidden_layer():
    """An affine layer and a softmax on the features give the classifier's own probabilities."""
    data = digits()
    x = (data.train / 8.0 - 1.0).astype(np.float32)
    fit = partial(ClassifierFeatures.fit, x[:100], data.train_labels[:100], hidden=8)
    features = fit()
    again = fit()
    other = fit(seed=1)

    classifier = features.classifier
    logits = features.features(x) @ classifier.coefs_[1] + classifier.intercepts_[1]
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(features.confidence(x), probability.max(axis=1), rtol=1e-5)
    assert features.name == again.name != other.name
    again.classifier.intercepts_[0][3] += 1e-3
    assert features.name != again.name  # biases count


def test_all_features_are_rows_of_float64():
    x = RNG.normal(size=(30, 2, 2)).astype(np.float32)
    for features in (RawFeatures(), PCAFeatures.fit(x, 2)):
        assert isinstance(features, Features)
        assert features.features(jnp.asarray(x[:1])).dtype == np.float64
        np.testing.assert_allclose(features.features(x)[:1], features.features(x[:1]), atol=1e-12)
    np.testing.assert_array_equal(RawFeatures().features(x), x.reshape(30, 4))


def test_ctrl_c_leaves_no_classifier_that_is_not_trained():
    """scikit-learn swallows it, and would return what it has."""
    labels = np.arange(2000) % 10
    noise = np.random.default_rng(0).normal(size=(2000, 64))  # 1000 epochs would take a minute
    clock = threading.Timer(0.5, _thread.interrupt_main)
    clock.start()
    with pytest.raises(KeyboardInterrupt):
        ClassifierFeatures.fit(noise, labels, hidden=512)
    clock.join()


def test_another_warning_of_the_classifiers_is_no_ctrl_c(monkeypatch):
    """Where warnings are errors, scikit-learn's own are raised as they are."""

    def fit(self, x, y):
        raise UserWarning("not converged")

    monkeypatch.setattr("sklearn.neural_network.MLPClassifier.fit", fit)
    with pytest.raises(UserWarning, match="not converged"):
        ClassifierFeatures.fit(np.zeros((2, 3)), np.arange(2))


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'scoresde\[experiments\]'"):
        ClassifierFeatures.fit(np.zeros((2, 2)), np.zeros(2))


def test_features_that_do_not_fit_are_refused(unchecked):
    good = np.arange(8.0).reshape(4, 2)
    with pytest.raises(ValueError, match="varies in 1 directions: write a number from 1 to 1"):
        PCAFeatures.fit(good, 2)
    with pytest.raises(ValueError, match="3 numbers an example: wanted 2"):
        PCAFeatures.fit(good, 1).features(np.zeros((2, 3)))
