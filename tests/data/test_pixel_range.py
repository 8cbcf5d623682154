"""The bins of a pixel range tile it, and all that take levels, low and high share its checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.data.pixel_range import PixelRange, check_levels
from scoresde.data.prepare import BinCentres, Scale

KEY = jax.random.key(0)


def test_bins_tile_the_range():
    """17 bins of [-0.5, 3]: edges and centres are NumPy's own."""
    pixels = PixelRange(17, -0.5, 3.0)
    edges = np.linspace(-0.5, 3.0, 18)
    k = jnp.arange(17)
    np.testing.assert_allclose(pixels.lower_edge(k), edges[:-1], atol=1e-6)
    np.testing.assert_allclose(pixels.centre(k), 0.5 * (edges[1:] + edges[:-1]), atol=1e-6)
    assert pixels.bin_width == pytest.approx(edges[1] - edges[0])


def test_scale_maps_the_ends_to_the_ends():
    scaled = Scale(17, -0.5, 3.0)(KEY, jnp.arange(17)[:, None])[:, 0]
    np.testing.assert_allclose(scaled, np.linspace(-0.5, 3.0, 17), atol=1e-6)


def test_bin_centres_are_the_middles_of_the_bins():
    centres = BinCentres(17, -0.5, 3.0)(KEY, jnp.arange(17)[:, None])[:, 0]
    edges = np.linspace(-0.5, 3.0, 18)
    np.testing.assert_allclose(centres, 0.5 * (edges[1:] + edges[:-1]), atol=1e-6)
    with pytest.raises(ValueError, match="wanted whole numbers 0 … 16"):
        BinCentres(17)(KEY, jnp.asarray([[17]]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "build",
    [
        PixelRange,
        sd.UniformDequantization,
        Scale,
        BinCentres,
        lambda **options: sd.TruncatedNormalDequantization(sd.VP(), 3e-3, **options),
        lambda **options: sd.bits_per_dim(jnp.zeros(1), 2, **options),
    ],
    ids=["range", "uniform", "scale", "centres", "truncated normal", "bits"],
)
def test_every_user_of_a_range_refuses_a_wrong_one(build):
    with pytest.raises(ValueError, match="levels"):
        build(levels=1)
    with pytest.raises(ValueError, match="not below"):
        build(low=1.0, high=0.0)


def test_unused_levels_are_reported():
    """64 values below 2 of 16 levels warn; 63, or a higher value, do not."""
    with pytest.warns(UserWarning, match="write levels=2"):
        check_levels(np.arange(64) % 2, 16)
    check_levels(np.arange(63) % 2, 16)
    check_levels(np.arange(64) % 3, 16)
