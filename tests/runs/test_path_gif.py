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


def test_the_saved_frames_of_points_are_those_drawn(tmp_path):
    """Same size, same axes, and nothing left of the frame before, whatever the states' spread."""
    from PIL import Image

    t = np.linspace(1.0, 0.0, 5)
    spread = np.array([[30.0, 1.0], [3.0, 9.0], [2.0, 1.0], [0.3, 1.0], [1.0, 0.2]])
    x = np.random.default_rng(0).normal(size=(36, 5, 2)) * spread
    frames = path_gif(t, x, np.clip(x, -1.7, 1.7), tmp_path / "points.gif")

    with Image.open(tmp_path / "points.gif") as gif:
        assert gif.n_frames == 5
        for i, frame in enumerate(frames):
            gif.seek(i)
            found = np.asarray(gif.convert("RGB"), int)
            drawn = np.asarray(frame, int)
            assert found.shape == drawn.shape
            assert np.abs(found - drawn).max() < 48  # 256 colours; a ghost differs by 200

    # The titles change, and the points; the ticks left of and below the axes do not.
    first, *others = (np.asarray(frame) for frame in frames)
    for frame in others:
        np.testing.assert_array_equal(frame[40:, :40], first[40:, :40])
        np.testing.assert_array_equal(frame[-38:], first[-38:])


@pytest.mark.parametrize(("centre", "scale"), [((100.0, -7.0), 40.0), ((0.0, 0.5), 1e-3)])
def test_points_in_any_units_fill_the_frame(tmp_path, centre, scale):
    """The data, whose states spread ten times as far, take the same share of every picture."""
    t = np.linspace(1.0, 0.0, 2)
    z = np.random.default_rng(0).normal(size=(36, 2, 2)).clip(-2.0, 2.0)
    spread = np.array([[10.0, 10.0], [1.0, 1.0]])

    usual = path_gif(t, z * spread, z, tmp_path / "usual.gif")
    own = path_gif(t, centre + scale * z * spread, centre + scale * z, tmp_path / "own.gif")
    for a, b in zip(usual, own, strict=True):
        np.testing.assert_allclose(_extent(a), _extent(b), rtol=0.2)  # the ticks' labels differ


def _extent(frame):
    """Returns the height and width of all points, in pixels."""
    pixels = np.asarray(frame, int)
    rows, columns = np.nonzero(pixels[..., 2] - pixels[..., 0] > 40)
    return np.ptp(rows), np.ptp(columns)


def test_images_between_0_and_1_are_drawn_around_their_grey(tmp_path):
    t = np.array([1.0, 0.0])
    x = np.stack([np.full((8, 8, 1), 2.0), np.zeros((8, 8, 1))])[None]
    _, last = path_gif(t, x, x, tmp_path / "x.gif", low=0.0, high=1.0)
    grid = image_grid(np.zeros((1, 8, 8, 1)), low=0.0, high=1.0)
    np.testing.assert_array_equal(np.asarray(last)[18:, : grid.width], np.asarray(grid))
