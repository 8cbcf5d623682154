"""Classifiers of noisy examples: trained by the same `fit`, against the exact posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from guided_cases import MEANS, MIXTURE, STD
from small_training import SMALL

import scoresde as sd
from scoresde.loss.objectives import CrossEntropy

KEY = jax.random.key(0)
TRAINING = sd.Training(
    steps=600, batch_size=128, learning_rate=3e-3, final_rate=0.05, warmup=10, validate_every=300
)


def examples(n=2048):
    rng = np.random.default_rng(0)
    labels = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1]).astype(np.int32)
    x = MEANS[labels] + STD * rng.normal(size=(n, 2))
    return x.astype(np.float32), labels


def untrained(sde=sd.VP()):
    net = sd.nets.MLPClassifierConfig(num_classes=4, width=32).build((2,), rngs=nnx.Rngs(0))
    return sd.ClassifierModel(sde, net)


def test_a_trained_classifier_is_the_posterior_and_guides(tmp_path):
    x, labels = examples()
    sde = sd.VP()
    run = tmp_path / "run"
    fit = sd.fit(KEY, untrained(), x, cond=labels, training=TRAINING, run=run, progress=False)
    exact = sd.MixtureClassifier(sde, MIXTURE)

    # Its cross-entropy comes near to that of the exact posterior, which is the least there is.
    key_noise, key_t = jax.random.split(jax.random.key(1))
    x, labels = examples(4000)
    t = jax.random.uniform(key_t, (4000,), minval=1e-3)
    keys = jax.random.split(key_noise, 4000)
    losses = [
        CrossEntropy()(keys, _With(sde, classifier), jnp.asarray(x), t, jnp.asarray(labels))
        for classifier in (fit.model, exact)
    ]
    gap = np.asarray(losses[0] - losses[1])
    assert -5 * gap.std() / np.sqrt(4000) < gap.mean() < 0.08

    # The run holds it, and it guides an unconditional score.
    loaded = sd.load(run)
    assert isinstance(loaded, sd.ClassifierModel)
    some = jnp.asarray(x[:5])
    np.testing.assert_array_equal(loaded(some, 0.3), fit.model(some, 0.3))
    guided = sd.ClassifierGuidance(MIXTURE.score(sde), loaded, 3)
    out = sd.sample(KEY, sd.UniPC(order=2, num_steps=20), sde, guided, (300, 2)).x
    near = np.linalg.norm(np.asarray(out) - MEANS[3], axis=1) < 6 * STD
    assert near.mean() > 0.9  # a tenth without guidance


class _With:
    """A classifier with its SDE, as the objective takes it."""

    def __init__(self, sde, classifier):
        self.sde = sde
        self.classifier = classifier

    def __call__(self, x, t):
        return self.classifier(x, t)


def test_accuracy_against_time_is_that_of_the_exact_posterior():
    """The exact classifier is right as often as its own confidence says, at every t."""
    sde = sd.VP()
    x, labels = examples(4000)
    exact = sd.MixtureClassifier(sde, MIXTURE)
    times = np.array([0.01, 0.3, 0.6, 1.0])
    accuracy = sd.classifier_accuracy(KEY, sde, exact, x, labels, times)
    for t, found in zip(times, accuracy, strict=True):
        noise = np.random.default_rng(1).normal(size=x.shape)
        state = float(sde.alpha(t)) * x + float(sde.sigma(t)) * noise
        confidence = np.exp(exact(jnp.asarray(state, jnp.float32), float(t))).max(axis=1)
        error = np.sqrt(2) * max(confidence.std(), 0.02) / np.sqrt(4000) + 0.5 / np.sqrt(4000)
        assert abs(found - confidence.mean()) < 5 * error
    assert accuracy[0] > 0.99
    assert abs(accuracy[-1] - 0.4) < 0.05  # the largest class: at t = 1 nothing else is known


@pytest.mark.parametrize("shape", [(5, 1), (4, 4, 1), (2, 3, 3, 1)])
def test_networks_of_signals_images_and_volumes(shape):
    config = sd.nets.ClassifierConfig(
        num_classes=3, channels=4, multipliers=(1, 2), attention_levels=(), num_heads=1
    )
    model = sd.ClassifierModel(sd.VE(), config.build(shape, rngs=nnx.Rngs(0)))
    log_probs = model(jnp.ones((2, *shape)), 0.5)
    np.testing.assert_allclose(log_probs, np.log(1 / 3) * np.ones((2, 3)), rtol=1e-5)


def test_what_does_not_fit_is_refused(unchecked):
    x, labels = examples(64)
    with pytest.raises(
        ValueError, match="wants a label of 4 classes with each example, and the data"
    ):
        sd.fit(KEY, untrained(), x, training=TRAINING, progress=False)
    with pytest.raises(ValueError, match="wanted labels 0 … 3"):
        sd.fit(KEY, untrained(), x, cond=labels + 1, training=TRAINING, progress=False)
    with pytest.raises(ValueError, match="wanted logits, one row per example"):
        sd.ClassifierModel(sd.VP(), lambda x, t: x[:, 0])(jnp.asarray(x), 0.5)
    with pytest.raises(ValueError, match=r"MLPClassifierConfig\(4\)"):
        sd.nets.ClassifierConfig(num_classes=4).build((2,), rngs=nnx.Rngs(0))


class _Own(nnx.Module):
    """A classifier of one's own, of three classes."""

    def __init__(self):
        self.layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))

    def __call__(self, x, t):
        return self.layer(x)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "pass cond=..., one row per example"),
        (np.zeros((64, 1), np.int32), "wanted one integer label per example"),
        (np.zeros(64, np.float32), "wanted one integer label per example"),
        (np.full(64, -1), "wanted labels 0 … 2"),
        (np.full(64, 3), "wanted labels 0 … 2"),
        ({"a": np.zeros(64, np.int32), "b": np.zeros(64, np.int32)}, "wanted one integer label"),
    ],
)
def test_labels_fit_a_classifier_of_ones_own(labels, message):
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    model = sd.ClassifierModel(sd.VP(), _Own())
    with pytest.raises(ValueError, match=message):
        sd.fit(KEY, model, x, cond=labels, training=SMALL, progress=False)


def test_a_classifier_of_ones_own_trains():
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    model = sd.ClassifierModel(sd.VP(), _Own())
    labels = np.arange(64) % 3
    assert sd.fit(KEY, model, x, cond=labels, training=SMALL, progress=False).step == SMALL.steps


def test_accuracy_refuses_what_is_no_label_and_no_time(unchecked):
    x, labels = examples(8)
    exact = sd.MixtureClassifier(sd.VP(), MIXTURE)
    for wrong, message in (
        ((labels.astype(np.float32), [0.5]), "wanted integers"),
        ((np.eye(4)[labels], [0.5]), "write np.argmax"),
        ((labels, 0.5), r"write \[t\]"),
        ((labels, [0.5, 2.0]), "times lie in"),
    ):
        values, times = map(np.asarray, wrong)
        with pytest.raises(ValueError, match=message):
            sd.classifier_accuracy(KEY, sd.VP(), exact, x, values, times)
