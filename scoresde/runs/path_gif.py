"""A sampler's path as an animation."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scoresde.runs.image_grid import image_grid
from scoresde.runs.pictures import save_picture
from scoresde.runs.plane import frame_size, scatter_2d

if TYPE_CHECKING:  # slow to import: only the functions that draw load them
    from PIL.Image import Image


def path_gif(
    t,
    x,
    denoised,
    path: str | Path,
    low=-1.0,
    high=1.0,
    frames: int = 50,
    columns: int | None = None,
) -> list[Image]:
    """Animates a sampler's path, with states left and E[x₀ | x] right; saves the GIF.

    t: (points,), in either direction. x, denoised: (n, points, *data), where data are images
    (h, w, 1 or 3) in [low, high], or points of the plane (2,). States that reach further than the
    data are drawn closer to their centre. At most `frames` points are shown, evenly chosen, the
    first and last among them. The GIF lasts 5 seconds, and 2 more on its last frame. columns: of
    a grid of images, by default about square.

    Returns:
        The frames.

    Raises:
        ValueError: if the examples are neither images nor points of the plane.
    """
    t = np.asarray(t, np.float64)
    x = np.asarray(x, np.float64)
    denoised = np.asarray(denoised, np.float64)

    is_planar = x.shape[2:] == (2,)
    if not is_planar and (x.ndim != 5 or x.shape[-1] not in (1, 3)):
        raise ValueError(
            f"examples of shape {x.shape[2:]}: a GIF is drawn of images (h, w, 1 or 3) or points "
            f"(2,). For the first two coordinates of points write x[..., :2] and "
            f"denoised[..., :2]."
        )

    if is_planar:
        centre, reach = _centre_and_reach(denoised)
        draw = functools.partial(_frame_of_points, centre=centre, reach=reach)
    else:
        draw = functools.partial(_frame_of_images, low=low, high=high, columns=columns)

    shown = np.unique(np.linspace(0, len(t) - 1, min(frames, len(t))).astype(int))
    pictures = [draw(float(t[i]), x[:, i], denoised[:, i]) for i in shown]

    _save_gif(pictures, path)
    return pictures


def _centre_and_reach(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the middle of points (..., 2), and how far a frame around them reaches from it."""
    points = points.reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.zeros(2), np.ones(2)
    low = points.min(axis=0)
    high = points.max(axis=0)
    return (low + high) / 2.0, frame_size(low, high) / 2.0


def _frame_of_points(
    t: float, x: np.ndarray, denoised: np.ndarray, centre: np.ndarray, reach: np.ndarray
) -> Image:
    """Draws states and E[x₀ | x], (n, 2) each; the data lie within `reach` of their centre."""
    from PIL import Image

    x, scale = _shrunk(x, centre, reach)
    label = f"x at t = {t:.3f}"
    if scale > 1.05:
        label += f", divided by {scale:.1f}"

    # The same axes in every frame.
    frame = (centre - 1.6 * reach, centre + 1.6 * reach)
    figure = scatter_2d({label: x, "E[x₀ | x]": denoised}, frame=frame)

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return Image.open(buffer, formats=["PNG"]).convert("RGB")


def _frame_of_images(
    t: float, x: np.ndarray, denoised: np.ndarray, low, high, columns: int | None
) -> Image:
    """Draws grids of the states and of E[x₀ | x], (n, h, w, 1 or 3) each, below their labels."""
    from PIL import Image, ImageDraw

    x, scale = _shrunk(x, (low + high) / 2.0, (high - low) / 2.0)
    label = f"x at t = {t:.3f}"
    if scale > 1.05:
        label += f", / {scale:.1f}"

    states = image_grid(x, None, columns, low, high)
    means = image_grid(denoised, None, columns, low, high)
    width, height = states.size
    second = width + 8

    frame = Image.new("RGB", (second + width, height + 18), (255, 255, 255))
    frame.paste(states, (0, 18))
    frame.paste(means, (second, 18))

    draw = ImageDraw.Draw(frame)
    draw.text((4, 3), label, fill=(0, 0, 0))
    draw.text((second + 4, 3), "E[x0 | x]", fill=(0, 0, 0))
    return frame


def _shrunk(x: np.ndarray, centre, reach) -> tuple[np.ndarray, float]:
    """Returns states as they are drawn, and by what their distances from the centre were divided:
    their root mean square, where it is beyond the data's reach."""
    scale = max(1.0, float(np.sqrt(np.nanmean(((x - centre) / reach) ** 2))))
    return centre + (x - centre) / scale, scale


def _save_gif(pictures: Sequence[Image], path: str | Path) -> None:
    each = max(20, 5000 // len(pictures))  # milliseconds; browsers slow down below 20
    durations = [each] * (len(pictures) - 1) + [2000]

    def save(file: io.BytesIO, format: str) -> None:
        pictures[0].save(
            file,
            format,
            save_all=True,
            append_images=list(pictures[1:]),
            loop=0,
            duration=durations,
        )

    save_picture(save, path)
