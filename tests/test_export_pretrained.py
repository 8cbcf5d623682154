"""The export of a run's weights: files that load again, and refusals before anything is written."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import weights
from tiny_run import LEVELS, untrained

import scoresde as sd
from scoresde.train.load import open_run
from scoresde.train.model_settings import ModelSettings
from scoresde.weights import pretrained as module

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import export_pretrained
from export_pretrained import Export, export

NET = sd.UNetConfig(channels=4, multipliers=(1,), num_blocks=1, attention_levels=(), num_classes=3)
NATS = np.array([-100.0, -90.0, -80.0, -70.0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder of images 4×4 and their classes."""
    settings = ModelSettings(sd.VP(), NET, sd.EDM(sigma_data=0.6))
    run = untrained(tmp_path_factory.mktemp("run"), settings, (4, 4, 1), LEVELS)
    np.savez(run / "held_out.npz", x=np.full((4, 4, 4, 1), 3), cond=np.array([0, 1, 2, 0]))
    return run


@pytest.fixture
def likelihoods(monkeypatch):
    """Log-likelihoods that a test decides: those before rounding, then those after."""
    values = [NATS, NATS + 0.01]
    seen = []

    def log_likelihood(key, sde, score, x, cond, **options):
        seen.append((key, score, np.asarray(x), np.asarray(cond)))
        nats = jnp.asarray(values[len(seen) - 1], jnp.float32)
        return SimpleNamespace(log_prob=nats, success=jnp.isfinite(nats))

    monkeypatch.setattr(export_pretrained.sd, "log_likelihood", log_likelihood)
    return values, seen


def test_the_files_hold_the_runs_model_and_its_figures(run, likelihoods, monkeypatch, tmp_path):
    """The bits/dim restate Eq. 1 of likelihood/bits.py, for 16 pixels of 17 levels in [-1, 1]."""
    export(Export(str(run), "tiny", folder=str(tmp_path / "out")))
    monkeypatch.setattr(module, "FOLDER", tmp_path / "out")
    assert module.names() == ["tiny"]
    model = sd.pretrained("tiny")
    trained = sd.load(run)
    assert model.net.config == NET
    for a, b in zip(weights(model), weights(trained), strict=True):
        np.testing.assert_allclose(a, b, rtol=2**-8, atol=1e-7)

    bits = -NATS / (16 * np.log(2.0)) - np.log2(2 / 17)
    about = module.about("tiny")
    figures = about["figures"]
    assert figures["bits_per_dim_before_rounding"] == pytest.approx(bits.mean(), rel=1e-5)
    difference = figures["bits_per_dim"] - figures["bits_per_dim_before_rounding"]
    assert difference == pytest.approx(-0.01 / (16 * np.log(2.0)), rel=1e-2)
    assert figures["bits_per_dim_stderr"] == pytest.approx(bits.std(ddof=1) / 2, rel=1e-4)
    assert figures["images"] == 4
    assert (about["step"], about["examples"], about["shape"]) == (1, 5, [4, 4, 1])
    assert about["versions"]["jax"] == jax.__version__

    # Both evaluations have the same noise, probes and classes, and the second the rounded weights.
    (key, before, x, cond), (key_again, after, x_again, cond_again) = likelihoods[1]
    assert key == key_again
    np.testing.assert_array_equal(x, x_again)
    np.testing.assert_array_equal(np.floor((x + 1) / 2 * 17), 3)
    np.testing.assert_array_equal(cond, [0, 1, 2, 0])
    np.testing.assert_array_equal(cond_again, cond)
    for found, want in ((before, trained), (after, model)):
        for a, b in zip(weights(found), weights(want), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("change", [0.05, -0.05, np.nan])
def test_costly_rounding_is_refused(run, likelihoods, tmp_path, change):
    """A change of 0.05 nats of 16 pixels is 0.0045 bits/dim."""
    likelihoods[0][1] = NATS + change
    message = "likelihood of some images failed" if np.isnan(change) else "rounding changes .* by"
    with pytest.raises(ValueError, match=message):
        export(Export(str(run), "tiny", folder=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_weights_that_float16_does_not_hold_are_refused(run, likelihoods, monkeypatch, tmp_path):
    def opened(path):
        trained = open_run(path)
        trained.model.net.output.bias[...] += 1e5
        return trained

    monkeypatch.setattr(export_pretrained, "open_run", opened)
    with pytest.raises(OverflowError, match=r"output/bias: the weights reach 100000"):
        export(Export(str(run), "tiny", folder=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    assert not likelihoods[1]


def test_runs_without_held_out_integers_are_refused(run, tmp_path):
    trained = open_run(run)
    assert export_pretrained.held_out_images(trained)[0].shape == (4, 4, 4, 1)
    for missing in ({"prepare": None}, {"path": tmp_path}):
        with pytest.raises(ValueError, match=r"prepare=sd\.UniformDequantization"):
            export_pretrained.held_out_images(dataclasses.replace(trained, **missing))


@pytest.mark.parametrize(("field", "value"), [("tolerance", 0.0), ("evaluation_batch", 0)])
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=field):
        Export("run", "name", **{field: value})
