"""Grids are read back pixel by pixel."""

import re

import numpy as np
import pytest

from scoresde.runs.image_grid import FAILED, GAP, image_grid


def test_grid_shows_every_pixel_at_its_place(tmp_path):
    levels = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)  # every value differs
    path = tmp_path / "new" / "grid.png"

    image = np.asarray(image_grid(levels / 127.5 - 1.0, path, columns=2, scale=7))
    assert image.shape == (2 * (4 * 7 + 2) + 2, 2 * (5 * 7 + 2) + 2, 3)

    for i, (row, column) in enumerate([(0, 0), (0, 1), (1, 0)]):
        top = 2 + row * 30
        left = 2 + column * 37
        for dy, dx in [(0, 0), (3, 3), (6, 6)]:  # a pixel's corners and centre
            np.testing.assert_array_equal(
                image[top + dy : top + 28 : 7, left + dx : left + 35 : 7], levels[i]
            )

    assert (image[:2] == GAP).all()
    assert (image[32:, 39:] == GAP).all()

    from PIL import Image

    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


def test_grid_enlarges_small_images_and_clips_to_the_nearer_end():
    image = np.asarray(image_grid(np.stack([np.full((8, 8, 1), 3.0), np.full((8, 8, 1), -3.0)])))
    assert image.shape == (48 + 4, 2 * 48 + 6, 3)
    assert (image[2:50, 2:50] == 255).all()
    assert (image[2:50, 52:100] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_failed_sample_is_not_black(value):
    x = np.full((2, 8, 8, 1), -1.0)
    x[1, 3, 4] = value
    image = np.asarray(image_grid(x, columns=2))
    assert (image[2:50, 52:100] == FAILED).all()
    assert (image[2:50, 2:50] == 0).all()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (5, 8, 8), (5, 3, 8, 8), (5, 1, 8, 8)])
def test_errors_on_shapes_give_a_line_that_works(shape):
    x = np.zeros(shape)
    with pytest.raises(ValueError, match=re.escape(str(shape))) as error:
        image_grid(x)

    line = str(error.value).partition("e.g. ")[2].rstrip(".")
    image = eval(line, {"image_grid": image_grid, "x": x})
    count = {(5, 8, 8): 5}.get(shape, 5 if len(shape) == 4 else 1)
    assert np.sum((np.asarray(image) == 128).all(axis=2)) == count * 48 * 48


def test_bytes_need_their_range():
    x = np.full((1, 8, 8, 1), 200, np.uint8)
    with pytest.raises(ValueError, match=r"from 200 to 200.*low=0, high=255"):
        image_grid(x)
    assert np.asarray(image_grid(x, low=0, high=255))[20, 20, 0] == 200

    with pytest.raises(ValueError, match=r"\(0, 8, 8, 1\)"):
        image_grid(np.zeros((0, 8, 8, 1)))
