"""Points and densities of the plane."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scoresde.runs.pictures import BLUE, save_picture

if TYPE_CHECKING:  # slow to import: only the functions that draw load them
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_UNEQUAL = 20.0
"""The ratio of a frame's sides beyond which each has a scale of its own."""


def scatter_2d(
    points: Mapping[str, Any], path: str | Path | None = None, frame: Any = None
) -> Figure:
    """Draws clouds of points side by side on the same axes; points is name → (n, 2). Both have one
    scale, unless the points spread twenty times as far along one as along the other.

    frame: the lower left and upper right corner, (2, 2), so that several pictures have the same
    axes. By default it holds all points, unless a few distant ones would shrink the others to a
    dot. Points outside, and points that are not finite, are counted in the title instead.

    Raises:
        ValueError: if there are no clouds, or one is not (n, 2).
    """
    from matplotlib.figure import Figure

    clouds = {name: np.asarray(cloud, np.float64) for name, cloud in points.items()}
    shapes = {name: cloud.shape for name, cloud in clouds.items()}
    if not shapes or any(len(shape) != 2 or shape[1] != 2 for shape in shapes.values()):
        raise ValueError(
            f'clouds of shape {shapes}: wanted (n, 2) each, e.g. scatter_2d({{"data": x0[:, :2]}}).'
        )

    if frame is None:
        frame = _frame(np.concatenate(list(clouds.values())))
    low, high = np.asarray(frame, np.float64)
    sides = (high - low)[1] / (high - low)[0]
    equal = 1.0 / MOST_UNEQUAL <= sides <= MOST_UNEQUAL
    height = np.clip(sides, 0.4, 2.5) if equal else 1.0

    figsize = (2.9 * len(clouds) + 0.4, 2.7 * height + 1.1)
    fig = Figure(figsize=figsize, dpi=160, layout="constrained")
    axes = fig.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (name, cloud) in zip(axes, clouds.items(), strict=True):
        _draw_cloud(ax, name, cloud, low, high)
        ax.set_aspect("equal" if equal else "auto")

    axes[0].set_ylabel("x₂")
    save_picture(fig.savefig, path)
    return fig


def _frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lower left and upper right corner of a frame around all but distant points."""
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        points = np.zeros((1, 2))

    # Near is what lies within the central 99 % of each coordinate, widened to twice its length.
    low, high = np.percentile(points, (0.5, 99.5), axis=0)
    is_near = (np.abs(points - (low + high) / 2) <= high - low).all(axis=1)
    near = points[is_near]

    low = near.min(axis=0)
    high = near.max(axis=0)
    pad = 0.05 * frame_size(low, high)
    return low - pad, high + pad


def frame_size(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns the lengths of a frame around data: equal ones, unless a side is so much shorter than
    the other that nothing would be seen of it."""
    length = high - low
    longest = length.max() or 2.0
    return np.where((length > 0.0) & (length < longest / MOST_UNEQUAL), length, longest)


def _draw_cloud(ax: Axes, name: str, cloud: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Draws the points within [low, high]; the title counts them all, and those left out."""
    inside = ((cloud >= low) & (cloud <= high)).all(axis=1)
    lost = ~np.isfinite(cloud).all(axis=1)

    counts = {
        "points": len(cloud),
        "outside": np.sum(~inside & ~lost),
        "not finite": np.sum(lost),
    }
    text = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
    ax.set_title(f"{name}\n{text}", fontsize=9.5, loc="left")

    size = np.clip(8000 / (len(cloud) + 1), 1.5, 12)
    ax.scatter(*cloud[inside].T, s=size, c=BLUE, alpha=0.5, lw=0)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="x₁")
    ax.spines[["top", "right"]].set_visible(False)


def densities_2d(
    densities: Mapping[str, Any], extent: tuple[float, float, float, float], path=None
) -> Figure:
    """Draws densities side by side on one colour scale, then their differences from the first.

    densities: name → (ny, nx), values on a grid of the plane; row 0 is at the bottom. extent:
    (left, right, bottom, top) of the outermost points. Each difference has a colour scale of its
    own, symmetric around zero.

    Raises:
        ValueError: if there are no densities, or their shapes differ.
    """
    from matplotlib.figure import Figure

    grids = {name: np.asarray(grid, np.float64) for name, grid in densities.items()}
    shapes = {name: grid.shape for name, grid in grids.items()}
    if not grids or len(set(shapes.values())) > 1 or next(iter(grids.values())).ndim != 2:
        raise ValueError(
            f"densities of shape {shapes}: wanted (ny, nx), the same for each, "
            f'e.g. densities_2d({{"exact": p, "learnt": q}}, extent).'
        )

    first, *others = grids
    top = max(np.nanmax(grid) for grid in grids.values())
    panels = [(name, grid, _density_style(top)) for name, grid in grids.items()]
    for name in others:
        difference = grids[name] - grids[first]
        panels.append((f"{name} − {first}", difference, _difference_style(difference)))

    fig = Figure(figsize=(3.4 * len(panels) + 0.4, 3.4), dpi=160, layout="constrained")
    axes = fig.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (name, grid, (label, scale)) in zip(axes, panels, strict=True):
        image = ax.imshow(
            grid, origin="lower", extent=extent, aspect="equal", interpolation="nearest", **scale
        )
        fig.colorbar(image, ax=ax, shrink=0.8, label=label)
        ax.set_title(name, fontsize=9.5, loc="left")
        ax.set_xlabel("x₁")

    axes[0].set_ylabel("x₂")
    save_picture(fig.savefig, path)
    return fig


def _density_style(top: float) -> tuple[str, dict[str, Any]]:
    return "density", {"vmin": 0.0, "vmax": top}


def _difference_style(difference: np.ndarray) -> tuple[str, dict[str, Any]]:
    limit = np.nanmax(np.abs(difference)) or 1.0
    return "difference of densities", {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
