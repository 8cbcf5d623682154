"""Packed weights against float16's neighbours and exact fractions, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest

from scoresde.weights.compact import pack, rounded, unpack

RNG = np.random.default_rng(0)


def nearest(w):
    """Returns the multiple of 2^(e-8) nearest to w, by exact fractions, 2^(e-1) <= |w| < 2^e."""
    w = Fraction(float(w))
    e = 0
    while abs(w) >= Fraction(2) ** e:
        e += 1
    while abs(w) < Fraction(2) ** (e - 1):
        e -= 1
    step = Fraction(2) ** (e - 8)
    return float(round(w / step) * step)  # ties to even, as NumPy's


def test_rounding_is_to_the_nearest_number_of_8_bits():
    w = np.concatenate([RNG.normal(size=300), [1.0, -0.5, 0.99999, 1.00390625, 1.01171875, 3e4]])
    halves = rounded(w.astype(np.float32))
    assert halves.dtype == np.float16
    np.testing.assert_array_equal(halves, [nearest(x) for x in w.astype(np.float32)])
    assert np.all(halves.view(np.uint16) % 8 == 0)  # the last three bits, for zip
    np.testing.assert_array_equal(rounded(halves), halves)


def test_small_weights_keep_an_absolute_precision():
    """Below 2^-14, float16 holds multiples of 2^-24."""
    w = np.array([0.0, -0.0, 1e-9, 3.3e-6, -6.0e-5], np.float32)
    assert np.all(np.abs(rounded(w) - w) <= 2.0**-25 + np.abs(w) / 2**8)


def test_packed_weights_come_back_in_their_order_and_shapes():
    weights = {
        "kernel": RNG.normal(size=(3, 2, 4)).astype(np.float32),
        "bias": np.zeros(5, np.float32),
        "scale": np.array(0.7, np.float32),
    }
    packed = pack(weights)
    assert packed.dtype == np.uint8
    assert packed.shape == (2, 30)

    # Row by row: the low byte of a little-endian float16 is its first.
    halves = rounded(weights["kernel"]).ravel()
    assert packed[:, 7].tobytes() == halves[7:8].astype("<f2").tobytes()

    for want, found in zip(weights.values(), unpack(packed, [(3, 2, 4), (5,), ()]), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, rounded(want).astype(np.float32))


@pytest.mark.parametrize("value", [65600.0, -1e6, np.inf, np.nan])
def test_what_float16_does_not_hold_is_refused_by_name(value):
    weights = {"bias": np.zeros(2, np.float32), "kernel": np.array([1.0, value], np.float32)}
    with pytest.raises(OverflowError, match=r"kernel: the weights reach .*65504"):
        pack(weights)


def test_other_shapes_are_refused():
    packed = pack({"bias": np.ones(4, np.float32)})
    with pytest.raises(ValueError, match=r"shape \(2, 4\).*hold 5 numbers"):
        unpack(packed, [(2,), (3,)])
