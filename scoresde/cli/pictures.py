"""Pictures of samples: a grid of images, a scatter plot of points of the plane, an animation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scoresde.runs.plots import image_grid, path_gif, scatter_2d
from scoresde.sampling.sample import Sample
from scoresde.train.load import Trained

PICTURED = 400
"""Images in a picture, at most."""

ANIMATED = 36
"""Samples in an animation, at most."""


def draw_picture(x: np.ndarray, path: Path, trained: Trained) -> Path | None:
    """Writes a picture of samples x (batch, *data) and returns its path.

    Returns None if the samples are neither images nor points of the plane.
    """
    if not can_draw(x.shape[1:]):
        return None

    if x.ndim == 4:
        low, high = trained.range
        image_grid(x[:PICTURED], path, low=low, high=high)
    else:
        scatter_2d({"samples": x}, path)
    return path


def draw_animation(out: Sample, path: Path, trained: Trained) -> Path:
    """Writes a GIF of how samples formed, from their stored paths, and returns the GIF's path."""
    assert out.path is not None
    t = np.median(out.path.t, axis=0)  # adaptive solvers give each sample times of its own
    low, high = trained.range
    path_gif(t, out.path.x, out.path.denoised, path, low, high)
    return path


def can_draw(shape: tuple[int, ...]) -> bool:
    """Whether examples are points of the plane, or images with one or three channels."""
    is_point = shape == (2,)
    is_image = len(shape) == 3 and shape[-1] in (1, 3)
    return is_point or is_image
