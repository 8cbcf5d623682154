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


# --- Transparency ---


def with_opacity(mode):
    """Returns an image of a mode: opaque, hidden and half transparent pixels of value 40."""
    values = np.full((1, 3), 40, np.uint8)
    opacity = np.array([[255, 0, 128]], np.uint8)
    grey = np.stack([values, opacity], axis=-1)
    colour = np.stack([values, values, values, opacity], axis=-1)
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
        image.putpalette([40] * 9)
        image.info["transparency"] = bytes([255, 0, 128])
        return image
    return Image.fromarray(grey if mode == "LA" else colour)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_transparent_images_are_laid_on_white(mode, channels):
    """40 a + 255 (1 - a): the hidden 40 does not come through."""
    pixels = Geometry(channels=channels)(with_opacity(mode))
    expected = [40, 255, 40 * 128 / 255 + 255 * 127 / 255]
    np.testing.assert_allclose(pixels[0, :, 0], expected, atol=1)
    assert pixels.shape[-1] == (channels or (3 if mode == "RGBA" else 1))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_colour_that_stands_for_transparency_becomes_white(mode, tmp_path):
    """A PNG may name one value as transparent, without a channel for it."""
    image = Image.fromarray(np.array([[0, 7, 90]], np.uint8)).convert(mode)
    image.save(tmp_path / "0.png", transparency=7 if mode == "L" else (7, 7, 7))
    with Image.open(tmp_path / "0.png") as read:
        np.testing.assert_array_equal(Geometry()(read)[0, :, 0], [0, 255, 90])


def test_arrays_with_opacity_are_laid_on_white_where_they_are_images():
    """Four channels of another kind pass through, and are not resized as if they were colours."""
    pixels = np.asarray(with_opacity("RGBA"))
    laid = Geometry().of_array(pixels, transparency=True)
    np.testing.assert_array_equal(laid, Geometry()(with_opacity("RGBA")))
    np.testing.assert_array_equal(Geometry().of_array(pixels), pixels)

    with pytest.raises(ValueError, match="size=None, crop=None, channels=None"):
        Geometry(size=1).of_array(pixels)
    same = Geometry(size=None, crop=None, channels=None)
    np.testing.assert_array_equal(same.of_array(pixels), pixels)


def test_images_of_16_bits_are_refused_with_the_line_that_converts_them():
    image = Image.fromarray(np.array([[0, 256, 65535]], np.uint16))
    with pytest.raises(ValueError, match="8 bits") as error:
        Geometry()(image)
    line = str(error.value).split("again from ")[1].split(", where")[0]
    converted = eval(line, {"Image": Image, "np": np, "image": image, "top": 65535})
    np.testing.assert_array_equal(Geometry()(converted)[0, :, 0], [0, 0, 255])
