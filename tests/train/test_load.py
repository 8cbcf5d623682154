"""`load` returns what a run trained: its EMA weights, from a sound checkpoint, for any model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_training import KEY, SMALL, data, final_state, mlp, weights

import scoresde as sd


def test_the_models_weights_are_the_emas(mixture, tmp_path):
    run = tmp_path / "run"
    fit = sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=run, progress=False)
    state = final_state(mlp(), run)
    for a, b in zip(weights(fit.model), jax.tree.leaves(state["ema"]), strict=True):
        np.testing.assert_array_equal(a, b)

    loaded = sd.load(run)
    for a, b in zip(weights(loaded), jax.tree.leaves(state["ema"]), strict=True):
        np.testing.assert_array_equal(a, b)

    raw = sd.load(run, ema=False)
    for a, b in zip(weights(raw), jax.tree.leaves(state["params"]), strict=True):
        np.testing.assert_array_equal(a, b)

    x = jnp.ones((3, 2))
    np.testing.assert_allclose(loaded(x, 0.5), fit.model(x, 0.5), rtol=1e-5)
    assert sd.load(run, step=20).sde == sd.VP()


def test_damaged_checkpoints_are_named_and_the_previous_one_used(mixture, tmp_path):
    run = tmp_path / "run"
    sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=run, progress=False)

    files = [path for path in (run / "checkpoints" / "40").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))

    with pytest.warns(UserWarning, match="40"):
        older = sd.load(run)
    for a, b in zip(weights(older), weights(sd.load(run, step=20)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run's folder"):
        sd.load(tmp_path / "nothing")


# --- Custom networks ---


def test_custom_networks_load_with_their_model(mixture, tmp_path):
    class Custom(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 2, rngs=rngs)

        def __call__(self, x, t):
            return self.linear(x)

    def build():
        return sd.ScoreModel(sd.VP(), Custom(nnx.Rngs(0)), sd.Noise())

    run = tmp_path / "run"
    fit = sd.fit(KEY, build(), data(mixture), training=SMALL, run=run, progress=False)
    with pytest.raises(sd.runs.ConfigError, match="model=model"):
        sd.load(run)
    loaded = sd.load(run, model=build())
    np.testing.assert_array_equal(weights(loaded)[0], weights(fit.model)[0])


def test_a_subclass_of_a_library_network_is_not_taken_for_its_parent(mixture, tmp_path):
    class Mine(sd.nets.MLP):
        def __call__(self, x, t, cond=None):
            return super().__call__(x, t, cond) + 5.0

    def build():
        net = Mine(sd.MLPConfig(width=8), (2,), rngs=nnx.Rngs(0))
        return sd.ScoreModel(sd.VP(), net, sd.EDM())

    run = tmp_path / "run"
    fit = sd.fit(KEY, build(), data(mixture), training=SMALL, run=run, progress=False)
    with pytest.raises(sd.runs.ConfigError, match="not the library's"):
        sd.load(run)

    x = jnp.ones((2, 2))
    loaded = sd.load(run, model=build())
    np.testing.assert_allclose(loaded(x, 0.5), fit.model(x, 0.5), rtol=1e-5)

    other = dataclasses.replace(build(), sde=sd.VP(beta_max=10.0))
    with pytest.raises(ValueError, match="beta_max=10"):
        sd.fit(KEY, other, data(mixture), training=SMALL, run=run, progress=False)
