"""Objectives: those of the models, and one's own in `fit`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import KEY, SMALL, mlp

import scoresde as sd
from scoresde.keys import example_keys


def test_the_score_objective_is_the_loss_per_dimension():
    model = mlp()
    x = jax.random.normal(KEY, (6, 2))
    t = jnp.linspace(0.1, 1.0, 6)
    keys = example_keys(KEY, 6)
    objective = sd.objectives.DenoisingScoreMatching(sd.weightings.Likelihood())
    loss = sd.dsm_loss(keys, model.sde, model, x, t, sd.weightings.Likelihood())
    np.testing.assert_allclose(objective(keys, model, x, t, None), loss / 2, rtol=1e-6)


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    sde = sd.VP()

    class Constant:
        def __init__(self):
            self.sde = sde

        def __call__(self, x, t):
            return jnp.log(jnp.broadcast_to(jnp.asarray([0.2, 0.8]), (len(x), 2)))

    found = sd.objectives.CrossEntropy()(
        example_keys(KEY, 3),
        Constant(),
        jnp.zeros((3, 2)),
        jnp.full(3, 0.5),
        jnp.asarray([0, 1, 1]),
    )
    np.testing.assert_allclose(found, -np.log([0.2, 0.8, 0.8]), rtol=1e-6)


def towards_three(keys, model, x0, t, cond):
    """(D(x) - 3)^2 at pure noise: its minimiser returns 3, whatever the data."""
    x = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(keys)
    return jnp.sum((model.denoise(x, jnp.ones_like(t)) - 3.0) ** 2, axis=1)


def test_a_custom_objective_is_what_is_minimised(tmp_path):
    training = sd.Training(
        steps=300, batch_size=64, learning_rate=1e-2, warmup=5, validate_every=300, ema=0.9
    )
    x = np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32)
    run = tmp_path / "run"
    fit = sd.fit(KEY, mlp(), x, training=training, objective=towards_three, run=run, progress=False)
    assert fit.history[-1]["valid_loss"] < 0.5
    guess = fit.model.denoise(jax.random.normal(KEY, (5, 2)), 1.0)
    np.testing.assert_allclose(guess, 3.0, atol=0.5)

    with pytest.raises(ValueError, match="made with other settings"):
        sd.fit(
            KEY,
            mlp(),
            x,
            training=training,
            objective=lambda keys, model, x0, t, cond: jnp.sum(x0, axis=1),
            run=run,
            progress=False,
        )
    with pytest.raises(ValueError, match="made with other settings: objective"):
        sd.fit(KEY, mlp(), x, training=training, run=run, progress=False)  # the model's own


def test_what_is_no_objective_is_refused(unchecked):
    x = np.zeros((64, 2), np.float32)
    with pytest.raises(TypeError, match=r"such as sd.objectives.CrossEntropy\(\)"):
        sd.fit(KEY, mlp(), x, training=SMALL, objective="mse", progress=False)
    with pytest.raises(ValueError, match="objective returned shape"):
        sd.fit(
            KEY,
            mlp(),
            x,
            training=SMALL,
            objective=lambda keys, model, x0, t, cond: jnp.mean(x0),
            progress=False,
        )
