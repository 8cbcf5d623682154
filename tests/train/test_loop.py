"""`fit`: it learns what is known, with conditions and with custom weightings and times."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import KEY, SMALL, data, mlp

import scoresde as sd


def test_training_approaches_the_exact_score(mixture):
    """On held-out points, the trained score is far nearer to the exact one than the untrained."""
    model = mlp(width=64)
    training = sd.Training(
        steps=600, batch_size=256, learning_rate=4e-3, final_rate=0.02, validate_every=600
    )
    fit = sd.fit(KEY, model, data(mixture, 4096), training=training, progress=False)

    sde = sd.VP()
    x0 = mixture.sample(jax.random.key(6), 4000)
    t = jax.random.uniform(KEY, (4000,), minval=0.02)
    mean, std = sde.marginal_prob(x0, t)
    x = mean + std[:, None] * jax.random.normal(jax.random.key(7), x0.shape)
    exact = mixture.score(sde)(x, t)

    def error(score):
        return float(jnp.mean((std[:, None] * (score(x, t) - exact)) ** 2))

    # EDM starts as the best Gaussian, which is not easy to beat.
    assert error(fit.model) < 0.2 * error(model)
    assert fit.history[-1]["valid_loss"] < fit.history[0]["loss"]
    assert len(jax.tree.leaves(fit.model)) == len(jax.tree.leaves(model))


def test_conditions_are_learnt_per_example():
    """Label c has its data at ±1: the trained denoiser separates them at the same noisy point."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1024).astype(np.int32)
    x = np.where(labels[:, None] == 1, 1.0, -1.0) + 0.1 * rng.normal(size=(1024, 2))
    training = sd.Training(
        steps=400, batch_size=64, learning_rate=3e-3, final_rate=0.05, warmup=10, validate_every=400
    )
    fit = sd.fit(
        KEY,
        mlp(num_classes=2),
        x.astype(np.float32),
        cond=labels,
        training=training,
        progress=False,
    )
    guess = fit.model.denoise(jnp.zeros((2, 2)), 0.5, jnp.asarray([0, 1]))
    np.testing.assert_allclose(guess, [[-1, -1], [1, 1]], atol=0.4)


def test_custom_weightings_and_times_train(mixture, tmp_path, unchecked):
    class Early:
        def sample(self, key, sde, n):
            return jax.random.uniform(key, (n,), minval=0.01, maxval=0.2)

    training = dataclasses.replace(SMALL, weighting=lambda sde, t: jnp.ones_like(t), times=Early())
    fit = sd.fit(KEY, mlp(), data(mixture), training=training, run=tmp_path / "run", progress=False)
    assert fit.step == 40


def test_a_number_for_a_key_is_refused(unchecked):
    with pytest.raises(TypeError, match="random key"):
        sd.fit(0, mlp(), np.zeros((64, 2), np.float32), training=SMALL, progress=False)
