"""Cropping and resizing, against slices and means of a ramp."""

import numpy as np
import pytest
from PIL import Image

from scoresde.data.geometry import Geometry


def test_geometry():
    """A crop is the centre, a ramp reduced by 2 is its means, and the shorter side decides."""
    ramp = np.broadcast_to(np.arange(0, 240, 20, dtype=np.uint8)[:, None, None], (12, 12, 3))
    np.testing.assert_array_equal(Geometry(crop=4).of_array(ramp), ramp[4:8, 4:8])

    half = Geometry(size=6).of_array(ramp)
    means = ramp[:, 0, 0].reshape(6, 2).mean(axis=1)
    np.testing.assert_allclose(half[1:-1, 0, 0], means[1:-1], atol=1)

    wide = Geometry(crop=None, size=6, channels=1)(Image.fromarray(np.hstack([ramp, ramp])))
    np.testing.assert_array_equal(wide[..., 0], half[..., 0])

    with pytest.raises(ValueError, match="no central 20×20"):
        Geometry(crop=20).of_array(ramp)
    with pytest.raises(ValueError, match="8 bits"):
        Geometry()(Image.fromarray(np.zeros((2, 2), np.uint16)))
