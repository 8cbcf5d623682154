"""Pictures and masks that a command is given, read from files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scoresde.cli.exit import UsageError

if TYPE_CHECKING:  # slow to import: only the functions that read pictures load it
    from PIL import Image


def read_image(
    file: str, shape: tuple[int, ...], value_range: tuple[float, float], advice: str = ""
) -> np.ndarray:
    """Returns a picture of this shape, its levels 0 … 255 mapped to the range.

    Raises:
        UsageError: if it cannot be read, has more than 8 bits a pixel, is transparent somewhere, or
            has another size; `advice` ends the message then.
    """
    height, width, channels = shape
    picture = _opened(file).convert("L" if channels == 1 else "RGB")
    _check_size(file, picture, width, height, advice)
    low, high = value_range
    pixels = np.asarray(picture, np.float32).reshape(shape)
    return low + (high - low) * pixels / 255.0


def read_mask(file: str, height: int, width: int) -> np.ndarray:
    """Returns where a mask is white, a level above 127, (height, width, 1).

    Raises:
        UsageError: as `read_image`, or if it is white everywhere or nowhere.
    """
    picture = _opened(file)
    _check_size(file, picture, width, height)
    gray = np.asarray(picture.convert("L"))
    known = gray > 127
    if known.all() or not known.any():
        raise UsageError(
            f"{file} has levels {gray.min()} … {gray.max()} of 0 … 255: wanted white, 255, where "
            f"the picture is known, and black, 0, where it is filled in, and some of each."
        )
    return known[:, :, None]


def check_gray(file: str) -> None:
    """Refuses colours in what is to be colourised.

    Raises:
        UsageError: if the channels differ.
    """
    pixels = np.asarray(_opened(file).convert("RGB"))
    if np.any(pixels != pixels[..., :1]):
        raise UsageError(
            f"{file} is in colour: wanted a gray picture, or --degrade to take the mean of its "
            f"channels first."
        )


def _opened(file: str) -> Image.Image:
    """Returns an opaque picture of 8 bits a channel."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(Path(file).expanduser()) as opened:
            picture = opened.copy()
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"{file} cannot be read as a picture: {error}") from error

    if picture.mode.startswith(("I", "F")):
        raise UsageError(
            f"{file} has more than 8 bits a channel (mode {picture.mode}): save it with 8 first, "
            f"e.g. PIL.Image.fromarray((np.asarray(picture) // 257).astype(np.uint8)) of 16."
        )
    if not picture.has_transparency_data:
        return picture

    picture = picture.convert("RGBA")
    if np.any(np.asarray(picture)[:, :, 3] < 255):
        raise UsageError(
            f"{file} is transparent in places: wanted an opaque picture; of a mask, white where "
            f"the picture is known, and black where it is filled in."
        )
    return picture.convert("RGB")


def _check_size(file: str, picture: Image.Image, width: int, height: int, advice: str = "") -> None:
    if picture.size != (width, height):
        resized = f"PIL.Image.open({file!r}).resize(({width}, {height}))"
        raise UsageError(
            f"{file} has {picture.size[0]} × {picture.size[1]} pixels: wanted {width} × {height}. "
            + (advice or f"Resize it first, e.g. {resized}.")
        )
