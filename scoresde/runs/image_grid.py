"""Images side by side in one picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scoresde.runs.pictures import save_picture

if TYPE_CHECKING:  # slow to import: only the functions that draw load them
    from PIL.Image import Image

FAILED = (200, 30, 120)
"""The colour of an image with values that are not finite: a sample that failed."""
GAP = (225, 225, 225)
"""The colour between the images of a grid."""
GAP_WIDTH = 2
SMALLEST = 48
"""The width and height in pixels to which `image_grid` enlarges smaller images."""


def image_grid(
    x, path=None, columns: int | None = None, low=-1.0, high=1.0, scale: int | None = None
) -> Image:
    """Draws images row by row, and saves a PNG if a path is given.

    x: (n, h, w, 1 or 3) with values in [low, high]. Values outside are clipped; an image with a
    value that is not finite is filled with `FAILED`. columns: by default the grid is about square.
    scale: a pixel becomes scale × scale pixels, without smoothing; by default an image is at least
    48 pixels wide and high.

    Raises:
        ValueError: if x has another shape, no images, or integers outside [low, high].
    """
    from PIL import Image

    x = np.asarray(x)
    _check_images(x, low, high)

    count, height, width, _ = x.shape
    columns = columns or math.ceil(math.sqrt(count))
    scale = scale or math.ceil(SMALLEST / min(height, width))

    tiles = _pixels(x, low, high).repeat(scale, axis=1).repeat(scale, axis=2)
    grid = Image.fromarray(_tiled(tiles, columns))
    save_picture(grid.save, path)
    return grid


def _check_images(x: np.ndarray, low, high) -> None:
    if x.ndim != 4 or x.shape[3] not in (1, 3) or not x.size:
        raise ValueError(
            f"x has shape {x.shape}: wanted (n, h, w, 1 or 3) with n > 0, "
            f"e.g. image_grid({_as_images(x)})."
        )
    if x.dtype.kind in "iu" and (x.min() < low or x.max() > high):
        raise ValueError(
            f"x holds integers from {x.min()} to {x.max()}: wanted values in [{low}, {high}]. "
            f"Write image_grid(x, low=0, high=255)."
        )


def _as_images(x: np.ndarray) -> str:
    """Returns the expression that most likely gives x the shape (n, h, w, 1 or 3)."""
    if x.ndim == 3 and x.shape[2] in (1, 3):
        return "x[None]"

    by_rank = {2: "x[None, ..., None]", 3: "x[..., None]", 4: "x.transpose(0, 2, 3, 1)"}
    return by_rank.get(x.ndim, "x.reshape(-1, h, w, 3)")


def _pixels(x: np.ndarray, low, high) -> np.ndarray:
    """Returns the images as RGB bytes, (n, h, w, 3)."""
    unit = (x.astype(np.float64) - low) / (high - low)
    failed = ~np.isfinite(unit).all(axis=(1, 2, 3))
    unit[failed] = 0.0

    levels = np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)
    pixels = np.broadcast_to(levels, (*x.shape[:3], 3)).copy()
    pixels[failed] = FAILED
    return pixels


def _tiled(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Returns one picture of all tiles, (n, h, w, 3), with gaps between and around them."""
    count, height, width, _ = tiles.shape
    rows = math.ceil(count / columns)
    row_step = height + GAP_WIDTH
    column_step = width + GAP_WIDTH

    shape = (rows * row_step + GAP_WIDTH, columns * column_step + GAP_WIDTH, 3)
    canvas = np.full(shape, GAP, np.uint8)
    for i, tile in enumerate(tiles):
        top = GAP_WIDTH + i // columns * row_step
        left = GAP_WIDTH + i % columns * column_step
        canvas[top : top + height, left : left + width] = tile
    return canvas
