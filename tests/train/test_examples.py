"""Examples that do not fit are refused before training, with the reason."""

import numpy as np
import pytest
from small_training import KEY, SMALL, data, mlp

import scoresde as sd
from scoresde.data.images import Images
from scoresde.data.prepare import RandomFlip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((0, 2))}, "not empty"),
        ({"data": np.zeros(5)}, "wanted .examples"),
        ({"data": np.array([[1.0, np.nan], [0.0, 0.0]])}, "1 of 2 examples"),
        ({"data": np.array([["a", "b"]])}, "dtype"),
        ({"data": np.zeros((64, 3), np.float32)}, "examples of shape"),
        ({"validation": np.zeros((4, 3))}, "validation has examples of shape"),
        ({"validation": 1.5}, "validation"),
        ({"validation": 0.999}, "leaves none"),
        ({"validation": (np.zeros((4, 2)), None)}, "validation_cond="),
        ({"validation_cond": np.zeros(6)}, "validation=array"),
        ({"cond": np.zeros(64, np.int32), "validation": np.zeros((4, 2))}, "come together"),
        ({"cond": np.full(64, 3), "model": mlp(num_classes=3)}, "labels 0 … 2"),
        ({"cond": np.zeros(3, np.int32)}, "per example"),
    ],
)
def test_examples_that_do_not_fit_are_refused(change, message, unchecked):
    arguments = {
        "key": KEY,
        "model": mlp(),
        "data": np.zeros((64, 2), np.float32),
        "training": SMALL,
    }
    with pytest.raises(ValueError, match=message):
        sd.fit(**(arguments | change), progress=False)


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (None, "wants a label of 2 classes with each example, and the data have no cond"),
        ({"y": np.zeros(12)}, r"cond holds float64 \(12,\): wanted one integer label per example"),
        (np.zeros(12), r"cond holds float64 \(12,\)"),
        (np.array(["a"] * 12), "cond holds <U1"),
        ([0] * 11 + [2], "cond holds 0 … 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(cond, message, unchecked):
    model = mlp(num_classes=2)
    x = np.full((12, 2), 0.5)
    with pytest.raises(ValueError, match=message):
        sd.fit(KEY, model, x, cond=cond, validation=0.0, training=SMALL)


def test_whole_numbers_where_reals_are_wanted_are_refused():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 2))
    dequantize = r"UniformDequantization\(levels=256\)"
    with pytest.raises(ValueError, match=rf"data holds whole numbers .*{dequantize}"):
        sd.fit(KEY, mlp(), pixels.astype(np.float32), training=SMALL)
    with pytest.raises(ValueError, match=rf"prepare=sd.{dequantize}, drawn again"):
        sd.fit(KEY, mlp(), pixels.astype(np.uint8), training=SMALL)


@pytest.mark.parametrize("prepare", [None, RandomFlip()], ids=["none", "flip"])
def test_a_source_of_integers_needs_more_than_augmentation(prepare):
    """Flipped integers are still integers."""
    source = Images(np.zeros((8, 2, 2, 1), np.uint8))
    with pytest.raises(TypeError, match=r"data are integers, uint8: write prepare="):
        sd.fit(KEY, mlp(), source, validation=0.0, training=SMALL, prepare=prepare)


def test_held_out_integers_do_not_fit_real_data(mixture):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 2))
    with pytest.raises(ValueError, match="wanted integers both, or reals both"):
        sd.fit(KEY, mlp(), data(mixture), validation=pixels, training=SMALL)
