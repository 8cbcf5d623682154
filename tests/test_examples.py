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
import pytest
from flax import nnx

import scoresde as sd

EXAMPLES = Path(__file__).parents[1] / "examples"


def outcome(name, folder):
    """The numbers of the last line that the example prints, run in a folder of its own."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | {
            "PYTHONWARNINGS": "error::DeprecationWarning:__main__",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    return [float(number) for number in re.findall(r"\d+\.\d+", done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("name", ["own_sde.py", "own_sampler.py"])
def test_exact_scores_give_the_mixtures_second_moment(name, tmp_path):
    """E|x|^2 = 1 + 2 × 0.04; its standard error over 5000 samples is 0.0057."""
    found, exact = outcome(name, tmp_path)
    assert exact == pytest.approx(1 + 2 * 0.04)
    assert abs(found - exact) < 5 * 0.0057


def test_a_short_training_learns_where_the_data_are(tmp_path):
    """E|x1| = 1, its standard error over 2000 samples 0.0045; a tenth is allowed for the short training."""
    found, data = outcome("own_parameterization.py", tmp_path)
    assert data == pytest.approx(1.0, abs=0.02)
    assert abs(found - data) < 0.1
    assert any((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    "shape",
    [(30, 1), pytest.param((4, 5, 3, 1), marks=pytest.mark.slow)],
    ids=["signals", "volumes"],
)
def test_arrays_of_any_rank_are_fitted_and_loaded(shape, tmp_path):
    """All entries of an example are equal: the loss falls far below that of a Gaussian with independent entries."""
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


def test_a_network_of_ones_own_is_trained_and_loaded(tmp_path):
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
