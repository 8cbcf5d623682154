"""The information of labels against mixtures, whose p(y | x) is known."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import multivariate_normal

import scoresde as sd
from scoresde.likelihood.label_information import LabelInformation

KEY = jax.random.key(0)
SDE = sd.VP(beta_max=40.0)
"""With so much noise the prior replaces p_1 without a difference between labels."""

MEANS = np.array([[0.7, 0.0], [0.0, 0.7], [-0.7, 0.0], [0.0, -0.7]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
COV = np.array([[0.3, 0.15], [0.15, 0.2]])
MIXTURE = sd.GaussianMixture(MEANS, np.stack([COV, 0.5 * COV, COV, 0.2 * np.eye(2)]), WEIGHTS)
SCORE = sd.MixtureClassScore(SDE, MIXTURE)


def labelled(n, weights=WEIGHTS, mixture=MIXTURE):
    """Draws labels with these weights, and each example from its label's component."""
    rng = np.random.default_rng(0)
    label = rng.choice(len(weights), n, p=weights)
    factors = np.linalg.cholesky(np.asarray(mixture.covs))
    noise = np.einsum("nij,nj->ni", factors[label], rng.normal(size=(n, 2)))
    return jnp.asarray(mixture.means[label] + noise, jnp.float32), label


def exact_log_prob(x, mixture=MIXTURE):
    """log p(x | y) of every component, by SciPy."""
    pairs = zip(np.asarray(mixture.means), np.asarray(mixture.covs), strict=True)
    return np.stack([multivariate_normal(m, c).logpdf(np.asarray(x)) for m, c in pairs], axis=1)


@pytest.mark.parametrize("prior", [None, WEIGHTS], ids=["uniform", "weights"])
def test_the_information_of_a_mixtures_label_is_exact(prior):
    """log responsibility minus log weight, and the predictions of the exact Bayes classifier."""
    x, label = labelled(100)
    found = sd.label_information(
        KEY, SDE, SCORE, x, label, 4, prior, divergence=sd.ExactDivergence()
    )
    assert found.success.all()

    weights = np.full(4, 0.25) if prior is None else prior
    joint = np.log(weights) + exact_log_prob(x)
    responsibility = np.exp(joint) / np.exp(joint).sum(axis=1, keepdims=True)
    bits = np.log2(responsibility[np.arange(100), label]) - np.log2(weights[label])
    np.testing.assert_allclose(found.bits, bits, atol=2e-3)
    np.testing.assert_allclose(found.posterior, responsibility, atol=5e-4)
    assert (found.mean, found.stderr) == pytest.approx(
        (bits.mean(), bits.std(ddof=1) / 10), abs=1e-3
    )

    bayes = joint.argmax(axis=1)
    np.testing.assert_array_equal(found.predicted, bayes)
    assert found.accuracy == np.mean(bayes == label)
    assert 0.5 < found.accuracy < 0.95  # the classes overlap

    # No label is worth more than its surprise, nor K labels more than log2 K.
    assert np.all(found.bits <= -np.log2(weights[label]) + 1e-6)
    assert 0.3 < found.mean < 2.0


def test_the_library_says_the_same_of_the_mixture():
    """`MixtureClassifier` at t_min, where the likelihood takes the data to be."""
    x, label = labelled(30)
    found = sd.label_information(
        KEY, SDE, SCORE, x, label, 4, 10 * WEIGHTS, divergence=sd.ExactDivergence(), t_min=1e-2
    )
    want = sd.MixtureClassifier(SDE, MIXTURE)(x, 1e-2)
    np.testing.assert_allclose(np.log(found.posterior), want, atol=2e-3)
    np.testing.assert_allclose(found.prior, WEIGHTS)


def test_labels_share_their_probes():
    """Components of one covariance have one Jacobian: the error of a probe, tenths of a nat, is
    that of every label, and their differences have none. Cutting into chunks changes neither."""
    alike = sd.GaussianMixture(MEANS, np.stack([COV] * 4), WEIGHTS)
    score = sd.MixtureClassScore(SDE, alike)
    x, label = labelled(20, mixture=alike)
    whole = sd.label_information(KEY, SDE, score, x, label, 4)
    cut = sd.label_information(KEY, SDE, score, x, label, 4, batch_size=7)

    want = exact_log_prob(x, alike)
    error = whole.log_prob - want
    assert np.abs(error).max() > 0.1
    np.testing.assert_allclose(error, np.tile(error[:, :1], (1, 4)), atol=5e-3)
    np.testing.assert_allclose(cut.log_prob, whole.log_prob, atol=5e-3)

    # Other probes for every label would not do.
    first, second = (
        sd.log_likelihood(jax.random.key(i), SDE, score, x, np.full(20, i)).log_prob - want[:, i]
        for i in range(2)
    )
    assert float(jnp.abs(first - second).max()) > 0.1


def test_examples_that_fail_are_counted_and_left_out(recwarn):
    x, label = labelled(12)
    bad = np.array([3, 7])
    x = x.at[bad, 0].add(100.0)

    def broken(x, t, label):
        far = (x[:, :1] > 50.0) & (label[:, None] == 2)
        return jnp.where(far, jnp.nan, SCORE(x, t, label))

    settings = {"rtol": 1e-3, "atol": 1e-3, "divergence": sd.ExactDivergence()}
    found = sd.label_information(KEY, SDE, broken, x, label, 4, **settings)
    assert found.failed.tolist() == bad.tolist()
    assert np.isnan(found.bits[bad]).all() and (found.predicted[bad] == -1).all()
    assert np.isnan(found.posterior[bad]).all()
    messages = [str(warning.message) for warning in recwarn]
    assert len(messages) == 1  # not one for each label
    assert "2 of 12 examples did not reach t = 1 with every label, rows 3, 7" in messages[0]

    # The means are those of the other examples.
    good = np.delete(np.arange(12), bad)
    log_prob = exact_log_prob(x[good])
    rest = LabelInformation(log_prob, label[good], np.full(4, 0.25))
    assert (found.mean, found.stderr) == pytest.approx((rest.mean, rest.stderr), abs=1e-2)
    assert found.accuracy == np.mean(log_prob.argmax(axis=1) == label[good])


def test_means_of_few_examples_are_nan_without_a_warning():
    def of(log_prob):
        label = np.zeros(len(log_prob), int)
        return LabelInformation(np.asarray(log_prob), label, np.array([0.25, 0.75]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = of([[0.0, 0.0]])
        assert (one.mean, one.accuracy) == pytest.approx((0.0, 0.0), abs=1e-12)
        assert np.isnan(one.stderr)
        none = of([[np.nan, 0.0]])
        assert np.isnan([none.mean, none.stderr, none.accuracy]).all()

        # Far below the smallest number, as densities of images are.
        far = of([[-9000.0, -9010.0], [-9000.0, -8000.0]])
        assert far.bits[0] == pytest.approx(2.0, abs=1e-3)
        assert far.bits[1] == pytest.approx(2.0 - 1000.0 / np.log(2) + np.log2(1 / 3), abs=1e-3)


def test_one_program_serves_every_label():
    traces = []

    def traced(x, t, label):
        traces.append(x.shape)
        return SCORE(x, t, label)

    x, label = labelled(3)
    settings = {"rtol": 1e-2, "atol": 1e-2}
    sd.log_likelihood(KEY, SDE, traced, x, np.zeros(3, np.int32), **settings)
    once = len(traces)
    sd.label_information(KEY, SDE, traced, x, label, 4, **settings)
    assert len(traces) == once


def test_a_network_says_its_number_of_classes():
    net = sd.MLPConfig(width=8, depth=1, num_classes=3).build((2,), rngs=nnx.Rngs(0))
    x, _ = labelled(4)
    label = np.array([0, 1, 2, 0])
    found = sd.label_information(KEY, sd.VP(), sd.ScoreModel(sd.VP(), net), x, label, rtol=1e-2)
    assert found.log_prob.shape == (4, 3)
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1.0, rtol=1e-12)


def network(num_classes):
    config = sd.MLPConfig(width=8, depth=1, num_classes=num_classes)
    return sd.ScoreModel(SDE, config.build((2,), rngs=nnx.Rngs(0)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("score", "change", "message"),
    [
        (SCORE, {"label": np.array([0, 4])}, "label holds 0 … 4: wanted labels 0 … 3"),
        (SCORE, {"label": np.array([-1, 1])}, "label holds -1 … 1"),
        (SCORE, {"label": np.array([0.0, 1.0])}, r"dtype float64 and shape \(2,\)"),
        (SCORE, {"label": np.eye(4, dtype=int)[:2]}, "jnp.argmax"),
        (SCORE, {"label": np.zeros(3, int)}, r"shape \(3,\) for 2 examples"),
        (lambda x, t, y: -x, {"num_classes": None}, "function does not say how many classes"),
        (SCORE, {"num_classes": 0}, "num_classes = 0"),
        (SCORE, {"prior": np.ones(3)}, "wanted 4 positive numbers"),
        (SCORE, {"prior": [1.0, 1.0, 0.0, 1.0]}, "wanted 4 positive numbers"),
        (network(None), {"num_classes": None}, "the network is unconditional"),
        (network(4), {"num_classes": 5}, "but the network has 4 classes: leave it out"),
        (network((2, 2)), {"num_classes": None}, "write num_classes=K"),
        (sd.conditioned(SCORE, 1), {}, "holds its condition already"),
    ],
)
def test_what_does_not_fit_is_refused(score, change, message):
    arguments = {"label": np.array([0, 3]), "num_classes": 4} | change
    x = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match=message):
        sd.label_information(KEY, SDE, score, x, **arguments)
