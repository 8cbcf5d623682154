"""Scaling and augmentation: uniform, of (key, example) alone, and only for training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from image_files import PIXELS

import scoresde as sd
from scoresde.data.prepare import RandomFlip, RandomShift, Scale, without_augmentation

KEY = jax.random.key(1)


def test_flips_depend_on_key_and_example():
    """Each example whole or mirrored, half of them; its neighbours do not matter."""
    x = jnp.asarray(np.repeat(PIXELS, 20, axis=0))
    flipped = RandomFlip()(KEY, x)
    kept = np.all(flipped == x, axis=(1, 2, 3))
    mirrored = np.all(flipped == x[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(kept | mirrored)
    assert abs(kept.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(x))
    np.testing.assert_array_equal(RandomFlip()(KEY, x[:5]), flipped[:5])

    scaled = RandomFlip(Scale(levels=256))(KEY, x)
    want = np.sort(2.0 * x / 255.0 - 1, axis=2)
    assert abs(scaled).max() <= 1
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(np.sort(scaled, axis=2), want, atol=1e-6)


def test_shifts_are_uniform_and_depend_on_key_and_example():
    """Every example is one of nine cuts from its edge-padded self, each as often as the others.

    Its neighbours do not matter.
    """
    image = PIXELS[:1]
    padded = np.pad(image[0], [(1, 1), (1, 1), (0, 0)], mode="edge")
    cuts = [padded[i : i + 8, j : j + 6] for i in range(3) for j in range(3)]
    x = jnp.asarray(np.repeat(image, 900, axis=0))
    moved = np.asarray(RandomShift()(KEY, x))
    equal = np.array([[np.array_equal(row, cut) for cut in cuts] for row in moved])
    assert np.all(equal.sum(axis=1) == 1)  # so the nine differ, too
    np.testing.assert_allclose(equal.mean(axis=0), 1 / 9, atol=4.5 * np.sqrt(8 / 81 / len(x)))
    np.testing.assert_array_equal(RandomShift()(KEY, x[:5]), moved[:5])

    signal = jnp.zeros((4, 7, 1))
    assert RandomShift(2)(KEY, signal).shape == (4, 7, 1)
    with pytest.raises(ValueError, match="pixels = 0"):
        RandomShift(0)


@pytest.mark.parametrize("augmentation", [RandomFlip(), RandomShift()])
def test_vectors_have_no_augmentation(augmentation):
    """Refused where fit first calls it: the axis of space is not taken from the batch."""
    net = sd.MLPConfig(width=8, depth=1).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM())
    with pytest.raises(ValueError, match=r"shape \(2,\): wanted \(\*space, channels\)"):
        sd.fit(
            jax.random.key(0),
            model,
            np.random.default_rng(0).normal(size=(40, 2)),
            prepare=augmentation,
            training=sd.Training(steps=1, batch_size=4),
            progress=False,
        )


def test_held_out_examples_are_prepared_without_augmentation():
    """Whatever is nested is removed, and named: each decides whether a run may resume."""
    dequantize = sd.UniformDequantization()
    nested = RandomFlip(RandomShift(2, dequantize))
    assert without_augmentation(nested) == (dequantize, ["flip", "shift 2"])
    assert without_augmentation(RandomShift()) == (None, ["shift 1"])
    assert without_augmentation(dequantize) == (dequantize, [])
    assert without_augmentation(RandomShift(2, RandomShift(1)))[1] == ["shift 2", "shift 1"]
