"""Pictures of samples: a grid of images, a scatter plot of points of the plane, an animation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from scoresde.runs.plots import image_grid, path_gif, scatter_2d
from scoresde.sampling.sample import Sample
from scoresde.train.load import Trained

PICTURED = 400
"""Images in a picture, at most."""

ANIMATED = 36
"""Samples in an animation, at most."""

MOST_COLUMNS = 20
MOST_ROWS = 40
"""Size of a grid with one column per class, at most: larger ones are about square."""


def draw_picture(
    x: np.ndarray, path: Path, trained: Trained, columns: int | None = None
) -> Path | None:
    """Writes a picture of samples x (batch, *data) and returns its path.

    columns: of a grid of images, by default about square. Returns None if the samples are neither
    images nor points of the plane.
    """
    if not can_draw(x.shape[1:]):
        return None

    if x.ndim == 4:
        low, high = trained.range
        image_grid(x[:PICTURED], path, columns, low, high)
    else:
        scatter_2d({"samples": x}, path)
    return path


def draw_animation(out: Sample, path: Path, trained: Trained, columns: int | None = None) -> Path:
    """Writes a GIF of how samples formed, from their stored paths, and returns the GIF's path."""
    assert out.path is not None
    t = np.median(out.path.t, axis=0)  # adaptive solvers give each sample times of its own
    low, high = trained.range
    path_gif(t, out.path.x, out.path.denoised, path, low, high, columns=columns)
    return path


def columns_by_class(classes: int | None, num: int) -> int | None:
    """Returns the columns of a grid of `num` samples whose classes come in turn, so that each
    column is one class; None where there are no classes, or the grid would be too wide or long."""
    if classes is None or not 1 < classes <= MOST_COLUMNS:
        return None
    rows = math.ceil(min(num, PICTURED) / classes)
    return min(classes, num) if rows <= MOST_ROWS else None


def can_draw(shape: tuple[int, ...]) -> bool:
    """Whether examples are points of the plane, or images with one or three channels."""
    is_point = shape == (2,)
    is_image = len(shape) == 3 and shape[-1] in (1, 3)
    return is_point or is_image
