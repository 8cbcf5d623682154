"""Pictures and masks that a command is given, read from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scoresde.cli.exit import UsageError


def read_image(
    file: str, shape: tuple[int, ...], value_range: tuple[float, float], advice: str = ""
) -> np.ndarray:
    """Returns a picture of this shape, its levels 0 … 255 mapped to the range.

    Raises:
        UsageError: if it cannot be read, has more than 8 bits a channel, or has another size;
            `advice` ends the message then.
    """
    height, width, channels = shape
    pixels = _pixels(file, channels)
    _check_size(file, pixels, height, width, advice)
    low, high = value_range
    return low + (high - low) * pixels.astype(np.float32) / 255.0


def read_mask(file: str, height: int, width: int) -> np.ndarray:
    """Returns where a mask is white, a level above 127, (height, width, 1).

    Raises:
        UsageError: as `read_image`, or if it is white everywhere or nowhere.
    """
    pixels = _pixels(file, 1)
    _check_size(file, pixels, height, width)
    known = pixels > 127
    if known.all() or not known.any():
        raise UsageError(
            f"{file} has levels {pixels.min()} … {pixels.max()} of 0 … 255: wanted white, 255, "
            f"where the picture is known, and black, 0, where it is filled in, and some of each."
        )
    return known


def check_gray(file: str) -> None:
    """Refuses colours in what is to be colourised.

    Raises:
        UsageError: if the channels differ.
    """
    pixels = _pixels(file, 3)
    if np.any(pixels != pixels[..., :1]):
        raise UsageError(
            f"{file} is in colour: wanted a gray picture, or --degrade to take the mean of its "
            f"channels first."
        )


def _pixels(file: str, channels: int) -> np.ndarray:
    """Returns the pixels, uint8 (height, width, channels), as of every image: laid on white where
    it is transparent."""
    from scoresde.data.geometry import Geometry
    from scoresde.data.picture_file import open_picture

    try:
        with open_picture(Path(file).expanduser()) as picture:
            return Geometry(channels=channels)(picture)
    except Exception as error:  # a damaged file raises errors of many kinds
        raise UsageError(f"{file} cannot be read as a picture: {error}") from error


def _check_size(file: str, pixels: np.ndarray, height: int, width: int, advice: str = "") -> None:
    if pixels.shape[:2] != (height, width):
        resized = f"PIL.Image.open({file!r}).resize(({width}, {height}))"
        raise UsageError(
            f"{file} has {pixels.shape[1]} × {pixels.shape[0]} pixels: wanted {width} × {height}. "
            + (advice or f"Resize it first, e.g. {resized}.")
        )
