"""The examples as a person runs them; their classes face the family tests through the fixtures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import own_data
import own_network
import own_weighting
import pytest
from flax import nnx

import scoresde as sd

EXAMPLES = Path(__file__).parents[1] / "examples"


def outcome(name, folder):
    """Runs an example in a folder, and returns the numbers of the last line that it prints."""
    environment = os.environ | {
        "PYTHONWARNINGS": "error::DeprecationWarning:__main__",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return [float(number) for number in re.findall(r"\d+\.\d+", done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("name", ["own_sde.py", "own_sampler.py"])
def test_exact_scores_give_the_mixtures_second_moment(name, tmp_path):
    """E|x|^2 = 1 + 2 × 0.04; its standard error over 5000 samples is 0.0057."""
    found, exact = outcome(name, tmp_path)
    assert exact == pytest.approx(1 + 2 * 0.04)
    assert abs(found - exact) < 5 * 0.0057


@pytest.mark.parametrize(
    "name",
    ["own_parameterization.py", pytest.param("own_weighting.py", marks=pytest.mark.slow)],
)
def test_a_short_training_learns_where_the_data_are(name, tmp_path):
    """E|x1| = 1, standard error 0.0045 over 2000 samples; 0.1 is allowed for short training."""
    found, data = outcome(name, tmp_path)
    assert data == pytest.approx(1.0, abs=0.02)
    assert abs(found - data) < 0.1
    assert any((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    "shape",
    [(30, 1), pytest.param((4, 5, 3, 1), marks=pytest.mark.slow)],
    ids=["signals", "volumes"],
)
def test_arrays_of_any_rank_are_fitted_and_loaded(shape, tmp_path):
    """All entries of an example are equal, which a network learns soon: the loss falls."""
    data = 0.5 * np.random.default_rng(0).normal(size=(96, *(1,) * len(shape))) * np.ones(shape)
    unet = sd.UNetConfig(
        channels=4, multipliers=(1,), num_blocks=1, attention_levels=(), num_heads=1
    )
    net = unet.build(shape, rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(sigma_data=0.5))
    training = sd.Training(
        steps=60,
        batch_size=31,
        learning_rate=1e-2,
        warmup=5,
        ema=0.5,
        log_every=10,
        steps_per_dispatch=1,
    )
    fit = sd.fit(
        jax.random.key(0),
        model,
        data,
        validation=0.0,
        training=training,
        run=tmp_path / "run",
        progress=False,
    )
    losses = [row["loss"] for row in fit.history]
    assert losses[-1] < 0.8 * losses[0], losses
    again = sd.load(tmp_path / "run")
    x = jnp.asarray(data[:4], jnp.float32)
    np.testing.assert_array_equal(again(x, 0.5), fit.model(x, 0.5))
    out = sd.sample(jax.random.key(1), sd.EulerMaruyama(3), again.sde, again, (2, *shape))
    assert out.x.shape == (2, *shape)
    assert bool(out.success.all())


def test_min_snr_weighs_the_error_of_the_denoiser():
    """The weighted loss is min(SNR, gamma) |x_0 - D|^2, with D by Tweedie's formula."""
    sde = sd.VP()
    states = []

    def score(x, t):
        states.append(x)
        return -0.5 * x

    x0 = jax.random.normal(jax.random.key(0), (8, 3))
    t = jnp.linspace(0.05, 1.0, 8)  # SNR on both sides of gamma
    found = sd.dsm_loss(jax.random.key(1), sde, score, x0, t, weighting=own_weighting.MinSNR(5.0))

    alpha, variance = np.asarray(sde.alpha(t)), np.asarray(sde.variance(t))
    snr = alpha**2 / variance
    assert snr.min() < 5.0 < snr.max()
    x = np.asarray(states[0])
    denoised = (x - 0.5 * variance[:, None] * x) / alpha[:, None]
    error = np.sum((x0 - denoised) ** 2, axis=1)
    np.testing.assert_allclose(found, np.minimum(snr, 5.0) * error, rtol=1e-4)


def test_a_custom_network_is_trained_and_loaded(tmp_path):
    data = np.random.default_rng(0).normal(size=(64, 2))
    training = sd.Training(steps=4, batch_size=32, validate_every=4)
    fit = sd.fit(
        jax.random.key(0),
        own_network.build(),
        data,
        training=training,
        run=tmp_path / "run",
        progress=False,
    )
    again = sd.load(tmp_path / "run", model=own_network.build())
    x = jnp.asarray(data[:4], jnp.float32)
    np.testing.assert_array_equal(again(x, 0.5), fit.model(x, 0.5))
    frozen = [model.net.frequencies[...] for model in (own_network.build(), again)]
    np.testing.assert_array_equal(*frozen)  # no parameter, so training leaves it alone


def test_own_data_are_sine_waves():
    """Its training is the lines tested above."""
    data = own_data.sines(200)
    assert data.shape == (200, 30, 1)
    assert 0.9 < np.abs(data).max() <= 1.0
