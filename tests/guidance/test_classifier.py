"""Classifier guidance with the exact p(y | x_t): scale 1 samples p(x | y)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import PROCESSES
from guided_cases import MEANS

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.types import right_pad

KEY = jax.random.key(0)
# Three components in two classes, which overlap: class 0 has two components of unequal weight.
THREE = sd.GaussianMixture(
    np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]), np.array([0.1, 0.2, 0.15]), [0.5, 0.2, 0.3]
)
CLASS_ZERO = sd.GaussianMixture(THREE.means[:2], THREE.covs[:2], THREE.weights[:2])


class TwoClasses:
    """log p(y | x_t) of the classes {0, 1} and {2}: sums of responsibilities."""

    def __init__(self, sde):
        self.components = sd.MixtureClassifier(sde, THREE)

    def __call__(self, x, t):
        log_probs = self.components(x, t)
        both = jax.nn.logsumexp(log_probs[:, :2], axis=1)
        return jnp.stack([both, log_probs[:, 2]], axis=1)


@pytest.mark.parametrize("process", ["vp", "ve"])
def test_scale_one_samples_the_conditional(process):
    sde = PROCESSES[process]
    n = 6000
    guided = sd.ClassifierGuidance(THREE.score(sde), TwoClasses(sde), 0)
    sampler = sd.ProbabilityFlow(rtol=1e-4, atol=1e-4)
    x = np.asarray(sd.sample(KEY, sampler, sde, guided, (n, 2)).x)

    # Shares of the two components, by the nearer of their means under the exact posterior.
    exact = np.asarray(CLASS_ZERO.sample(jax.random.key(1), n))
    again = np.asarray(CLASS_ZERO.sample(jax.random.key(2), n))
    responsibility = sd.MixtureClassifier(sde, CLASS_ZERO)(jnp.asarray(x), 1e-4)
    share = float(jnp.mean(jnp.exp(responsibility[:, 0])))
    assert abs(share - 5 / 7) < 5 * np.sqrt(5 / 7 * 2 / 7 / n)  # 5 standard errors at most
    assert sliced_wasserstein(x, exact) < 2.5 * sliced_wasserstein(again, exact)


def test_the_guided_score_is_bayes_rule(any_sde):
    """s + grad log p(y | x_t) = grad log p_t(x | y), which is another mixture's score."""
    x = jax.random.normal(KEY, (16, 2))
    t = jnp.linspace(0.05, 1.0, 16)
    guided = sd.ClassifierGuidance(THREE.score(any_sde), TwoClasses(any_sde), 0)
    exact = CLASS_ZERO.score(any_sde)
    np.testing.assert_allclose(guided(x, t), exact(x, t), rtol=2e-4, atol=2e-4)
    if any_sde.ends_in_noise:
        assert not hasattr(guided, "denoise")  # whose gradient is divided by alpha(1) = 0
    else:
        np.testing.assert_allclose(guided.denoise(x, t), exact.denoise(x, t), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_noise_form_and_score_form_are_one(scale):
    """The lecture's noise - w sqrt(1 - alpha_bar) grad log p(y | x_t)."""
    sde = sd.VP()
    x = jax.random.normal(KEY, (4, 2))
    t = jnp.asarray([0.1, 0.3, 0.6, 1.0])
    guided = sd.ClassifierGuidance(THREE.score(sde), TwoClasses(sde), 1, scale)
    sigma = right_pad(sde.sigma(t), x)
    noise = -sigma * THREE.score(sde)(x, t) - scale * sigma * guided.gradient(x, t)
    np.testing.assert_allclose(-sigma * guided(x, t), noise, rtol=1e-5, atol=1e-6)


def test_scales_and_labels_may_be_one_per_example():
    sde = sd.VP()
    whole = THREE.score(sde)
    x = jax.random.normal(KEY, (4, 2))
    labels = np.array([0, 1, 1, 0])
    scales = np.array([0.0, 1.0, 2.0, 3.0])
    guided = sd.ClassifierGuidance(whole, TwoClasses(sde), labels, scales)(x, 0.3)
    for i in range(4):
        one = sd.ClassifierGuidance(whole, TwoClasses(sde), labels[i], scales[i])
        np.testing.assert_allclose(guided[i], one(x[i : i + 1], 0.3)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("label", "classifier", "message"),
    [
        (4, sd.MixtureClassifier(sd.VP(), THREE), r"label holds 4 … 4: wanted labels 0 … 2"),
        (0.5, lambda x, t: x, "wanted one whole number"),
        ([[0, 1]], lambda x, t: x, "wanted one whole number"),
    ],
)
def test_labels_that_are_none_are_refused(label, classifier, message):
    with pytest.raises(ValueError, match=message):
        sd.ClassifierGuidance(THREE.score(sd.VP()), classifier, label)


def test_what_a_classifier_returns_is_checked():
    x = jnp.zeros((3, 2))
    score = THREE.score(sd.VP())
    with pytest.raises(ValueError, match=r"classifier returned shape \(3,\) for 3 examples"):
        sd.ClassifierGuidance(score, lambda x, t: x[:, 0], 0)(x, 0.5)
    with pytest.raises(ValueError, match="wanted labels 0 … 1"):
        sd.ClassifierGuidance(score, lambda x, t: x, 2)(x, 0.5)


def test_a_held_condition_and_another_are_refused():
    score = sd.conditioned(sd.MixtureClassScore(sd.VP(), THREE), np.array([0, 1, 2]))
    x = jnp.asarray(MEANS[:3], jnp.float32)
    with pytest.raises(ValueError, match="holds its condition already"):
        sd.sample(KEY, sd.DDIM(num_steps=5), sd.VP(), score, (3, 2), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="has 3 rows, and there are 2 examples"):
        score(x[:2], 0.5)
    with pytest.raises(ValueError, match="leaves of 2, 3 rows"):
        sd.conditioned(score, {"a": np.zeros(2), "b": np.zeros(3)})


def test_a_label_that_a_function_does_not_know_fails_its_sample():
    """Inside a compiled sampler the label is traced: the sample is NaN, and says that it failed."""
    sde = sd.VP()
    components = sd.MixtureClassifier(sde, THREE)
    guided = sd.ClassifierGuidance(
        THREE.score(sde), lambda x, t: components(x, t), np.array([0, 7, 2])
    )
    with pytest.warns(UserWarning, match="rows 1"):
        out = sd.sample(KEY, sd.DDIM(num_steps=5), sde, guided, (3, 2))
    np.testing.assert_array_equal(out.success, [True, False, True])
    with pytest.raises(ValueError, match="label holds -1"):
        sd.ClassifierGuidance(THREE.score(sde), lambda x, t: x, -1)


def test_parts_of_another_sde_are_named():
    with pytest.warns(UserWarning, match="score and classifier belong to different SDEs"):
        sd.ClassifierGuidance(THREE.score(sd.VP()), sd.MixtureClassifier(sd.VE(), THREE), 0)
