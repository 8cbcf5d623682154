"""Frames of an animation are read back."""

import numpy as np
import pytest

from scoresde.runs.image_grid import image_grid
from scoresde.runs.path_gif import path_gif


def test_a_gif_shows_the_path_of_images_and_of_points(tmp_path):
    """The frames are evenly chosen, the first and last included; x is left, E[x0 | x] right."""
    from PIL import Image

    t = np.linspace(1.0, 0.0, 9)
    x = np.linspace(-1.0, 1.0, 9)[None, :, None, None, None] * np.ones((4, 9, 8, 8, 1))

    frames = path_gif(t, x, -x, tmp_path / "images.gif", frames=5)
    assert len(frames) == 5

    grid = image_grid(x[:, -1])
    assert frames[0].size == (2 * grid.width + 8, grid.height + 18)
    last = np.asarray(frames[-1])
    np.testing.assert_array_equal(last[18:, : grid.width], np.asarray(grid))
    np.testing.assert_array_equal(last[18:, grid.width + 8 :], np.asarray(image_grid(-x[:, -1])))
    with Image.open(tmp_path / "images.gif") as gif:
        assert (gif.format, gif.n_frames) == ("GIF", 5)

    points = np.random.default_rng(0).normal(size=(50, 9, 2))
    assert len(path_gif(t, 100 * points, points, tmp_path / "points.gif", frames=3)) == 3

    with pytest.raises(ValueError, match="images"):
        path_gif(t, points[:, :, :1], points[:, :, :1], tmp_path / "no.gif")
