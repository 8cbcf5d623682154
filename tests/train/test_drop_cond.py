"""Training with dropped conditions learns the score with and without them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_training import KEY, SMALL, mlp

import scoresde as sd
from scoresde.train.step import _dropped

N = 1024


def halves(kind):
    """Data at ±1 by a label or the sign of a vector, one third of it at +1."""
    rng = np.random.default_rng(0)
    label = (rng.uniform(size=N) < 1 / 3).astype(np.int32)
    x = np.where(label[:, None] == 1, 1.0, -1.0) + 0.1 * rng.normal(size=(N, 2))
    sign = (2.0 * label - 1.0).astype(np.float32)
    cond = label if kind == "label" else {"y": np.stack([sign, rng.normal(size=N)], 1)}
    if kind == "vector":
        cond = {"y": cond["y"].astype(np.float32)}
    return x.astype(np.float32), cond


@pytest.mark.parametrize("kind", ["label", "vector"])
def test_both_scores_are_learnt(kind, tmp_path):
    """Midway between them the denoiser is ±1 given the label, and their mean, -1/3, without."""
    x, cond = halves(kind)
    config = {"num_classes": 2} if kind == "label" else {"cond_dim": 2}
    training = sd.Training(
        steps=500,
        batch_size=64,
        learning_rate=3e-3,
        final_rate=0.05,
        warmup=10,
        validate_every=500,
        drop_cond=0.5,
    )
    fit = sd.fit(
        KEY, mlp(**config), x, cond=cond, training=training, run=tmp_path / "run", progress=False
    )
    labels = np.array([0, 1])
    given = labels if kind == "label" else {"y": np.array([[-1.0, 0.0], [1.0, 0.0]], np.float32)}
    for model in (fit.model, sd.load(tmp_path / "run")):
        assert model.null_is_trained is True
        guess = model.denoise(jnp.zeros((2, 2)), 0.5, given)
        np.testing.assert_allclose(guess, [[-1, -1], [1, 1]], atol=0.3)
        without = model.denoise(jnp.zeros((2, 2)), 0.5)
        np.testing.assert_allclose(without, -1 / 3, atol=0.4)  # not ±1

    # So guidance has both: w = 0 and w = 1 are their samples.
    sampler = sd.UniPC(order=2, num_steps=15)
    one = jax.tree.map(lambda leaf: leaf[1:], given)
    for weight, share in ((0.0, 1 / 3), (1.0, 1.0)):
        guided = sd.ClassifierFreeGuidance(fit.model, weight)
        score = sd.conditioned(guided, one)
        samples = sd.sample(KEY, sampler, sd.VP(), score, (400, 2)).x
        found = float(jnp.mean(samples[:, 0] > 0))
        assert abs(found - share) < 5 * 0.5 / np.sqrt(400) + 0.03


def test_the_share_dropped_is_the_probability():
    model = mlp(num_classes=3)
    n = 4000
    cond = _dropped(KEY, model, jnp.zeros(n, jnp.int32), 0.2)
    share = float(jnp.mean(cond == 3))
    assert abs(share - 0.2) < 5 * np.sqrt(0.2 * 0.8 / n)
    assert set(np.unique(cond)) == {0, 3}


def test_a_model_that_never_saw_none_says_so():
    x, cond = halves("label")
    fit = sd.fit(KEY, mlp(num_classes=2), x, cond=cond, training=SMALL, progress=False)
    assert fit.model.null_is_trained is False
    sampler = sd.DDIM(num_steps=2)
    with pytest.raises(ValueError, match=r"train with sd.Training\(drop_cond=0.1\)"):
        sd.sample(KEY, sampler, sd.VP(), fit.model, (2, 2))
    with pytest.raises(ValueError, match="never trained without its condition"):
        sd.ClassifierFreeGuidance(fit.model, 2.0)
    with pytest.raises(ValueError, match="never trained without"):
        sd.conditioned(fit.model, None)
    with pytest.warns(UserWarning, match="but no cond was passed"):
        sd.sample(KEY, sampler, sd.VP(), mlp(num_classes=2), (2, 2))


def test_dropping_what_is_not_there_is_refused():
    x, cond = halves("label")
    training = dataclasses.replace(SMALL, drop_cond=0.1)
    with pytest.raises(ValueError, match="the data have no condition"):
        sd.fit(KEY, mlp(), x, training=training, progress=False)

    class Net(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

        def __call__(self, x, t, cond):
            return self.layer(jnp.concatenate([x, cond[:, None].astype(x.dtype)], axis=1))

    with pytest.raises(TypeError, match="give it a method drop_cond"):
        sd.fit(KEY, sd.ScoreModel(sd.VP(), Net()), x, cond=cond, training=training, progress=False)

    class Says(Net):
        def drop_cond(self, cond, dropped):
            return jnp.where(dropped, 2, cond)

    fit = sd.fit(
        KEY, sd.ScoreModel(sd.VP(), Says()), x, cond=cond, training=training, progress=False
    )
    sd.ClassifierFreeGuidance(fit.model, 2.0)


def test_what_an_earlier_training_taught_is_kept_on_resuming(tmp_path):
    """Fine-tuned without dropping, and resumed by a model that is built anew."""
    x, cond = halves("label")
    taught = dataclasses.replace(mlp(num_classes=2), null_is_trained=True)
    run = tmp_path / "run"

    def fit(model, steps):
        training = dataclasses.replace(SMALL, steps=steps)
        return sd.fit(
            KEY, model, x, cond=cond, training=training, run=run, progress=False
        ).model.null_is_trained

    assert fit(taught, SMALL.steps)
    assert fit(mlp(num_classes=2), 2 * SMALL.steps)
    assert sd.load(run).null_is_trained
