"""Doubling and halving the resolution, against filters in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from scoresde.nets.resample import fir_filter, fir_up


@pytest.mark.parametrize("size", [(6, 4), (2, 2)])
def test_filters_are_convolutions_with_1_3_3_1(size, x64):
    """NumPy inserts zeros, pads and filters, row by row and column by column; constants stay."""
    x = np.random.default_rng(0).normal(size=(2, *size, 3))

    def along(axis, function, x):
        return np.apply_along_axis(function, axis, x)

    def stuffed(row):
        with_zeros = np.stack([row, 0 * row], 1).ravel()[:-1]
        return np.convolve(with_zeros, np.asarray([1, 3, 3, 1]) / 4.0)[1:-1]

    def halved(row):
        return np.convolve(row, np.asarray([1, 3, 3, 1]) / 8.0)[2:-1][::2]

    up = along(2, stuffed, along(1, stuffed, x))
    down = along(2, halved, along(1, halved, x))
    np.testing.assert_allclose(fir_up(jnp.asarray(x)), up, atol=1e-12)
    np.testing.assert_allclose(fir_filter(jnp.asarray(x), pad=1, stride=2), down, atol=1e-12)
    np.testing.assert_allclose(fir_up(jnp.ones((1, 4, 4, 1)))[0, 1:-1, 1:-1], 1.0)
