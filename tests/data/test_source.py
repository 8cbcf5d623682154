"""Sources of examples: training from one equals training from its arrays, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from image_files import LABELS, PIXELS

import scoresde as sd
from scoresde.data.images import Images
from scoresde.data.prepare import RandomFlip
from scoresde.data.source import Subset, fingerprint

TRAINING = sd.Training(steps=8, batch_size=8, warmup=2, validate_every=4, log_every=2)
FLIP = RandomFlip(sd.UniformDequantization())


class Mirror(nnx.Module):
    """The least that can be trained: one number per pixel."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones((8, 6, 1)))

    def __call__(self, x, t, cond=None):
        return self.weight * x


class Own:
    """A source that a user wrote."""

    def __init__(self, batch, shape, count):
        self.batch = batch
        self.shape = shape
        self.count = count

    def __len__(self):
        return self.count


def train(data, **options):
    model = sd.ScoreModel(sd.VP(), Mirror(), sd.Noise())
    options = {"validation": 0.25, "training": TRAINING, "prepare": FLIP} | options
    return sd.fit(jax.random.key(0), model, data, progress=False, **options)


def test_a_source_trains_as_its_arrays_do_and_resumes_to_the_bit(tmp_path):
    """8 steps from a source equal 8 from arrays, and 4 + 4 in a run; another source is refused."""
    source = Images(PIXELS)
    arrays = train(PIXELS)
    run = tmp_path / "run"
    short = sd.Training(steps=4, batch_size=8, warmup=2, validate_every=4, log_every=2)
    train(source, run=run, training=short)
    resumed = train(source, run=run)
    np.testing.assert_array_equal(resumed.model.net.weight[...], arrays.model.net.weight[...])
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in arrays.history]
    assert [row["step"] for row in resumed.history] == [2, 4, 6, 8]
    assert all(0 <= row["data_wait"] < 1 for row in resumed.history)

    with np.load(run / "held_out.npz") as kept:
        assert kept["x"].shape == (6, 8, 6, 1)
    for change in ({"data": Images(PIXELS[::-1])}, {"data": source, "prepare": FLIP.then}):
        with pytest.raises(ValueError, match="made with other settings"):
            train(**change, run=run)


def test_sources_that_do_not_fit_are_refused(unchecked):
    wrong = {
        "wanted .indices": Own(lambda i: PIXELS[i, :7], (8, 6, 1), 24),
        "not empty": Own(lambda i: PIXELS[i], (8, 6, 1), 0),
        "NaN": Own(lambda i: PIXELS[i] * np.nan, (8, 6, 1), 24),
        "dtype": Own(lambda i: PIXELS[i].astype(str), (8, 6, 1), 24),
    }
    for message, source in wrong.items():
        with pytest.raises(ValueError, match=message):
            train(source)
    with pytest.raises(ValueError, match="condition came beside it"):
        train(Images(PIXELS), cond=LABELS)
    with pytest.raises(ValueError, match="come together"):
        train(Images(PIXELS, LABELS), validation=Images(PIXELS))


def test_an_error_in_the_thread_ends_training_with_its_reason():
    def batch(indices):
        if 13 in indices:
            raise OSError("the disk is gone")
        return PIXELS[indices]

    with pytest.raises(OSError, match="the disk is gone"):
        train(Own(batch, (8, 6, 1), 24), validation=0.0)


def test_fingerprints_of_sources():
    """They change with contents, not objects, and with the rows of a subset."""
    mine = lambda x: fingerprint(Own(lambda i: x[i], (8, 6, 1), 24))  # noqa: E731
    assert mine(PIXELS) == mine(PIXELS.copy()) != mine(PIXELS[::-1])

    halves = [Subset(Images(PIXELS), np.arange(12) + start) for start in (0, 12)]
    assert halves[0].fingerprint != halves[1].fingerprint
    np.testing.assert_array_equal(halves[1].batch(np.array([0, 2])), PIXELS[[12, 14]])
