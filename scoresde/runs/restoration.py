"""One picture of a restored image: what was given, samples, their mean, and their spread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scoresde.runs.pictures import save_picture

if TYPE_CHECKING:  # slow to import: only the functions that draw load them
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SAMPLES = 6
MOST_COLUMNS = 5
UNKNOWN = (0.85, 0.2, 0.5)
"""The colour of pixels that are not known."""


def plot_restoration(
    given: np.ndarray,
    samples: np.ndarray,
    path: str | Path | None = None,
    low: float = -1.0,
    high: float = 1.0,
    known: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> Figure:
    """Draws what was given of one image, the first samples of it, their mean, and the standard
    deviation of each pixel over all samples.

    given: (h, w, 1 or 3), of any size. samples: (n, h, w, 1 or 3), in [low, high]. known: of the
    given pixels, those that count; the others are pink. truth: the image itself, if it is known.

    Raises:
        ValueError: if samples are no images, or fewer than two.
    """
    from matplotlib.figure import Figure

    samples = np.asarray(samples, float)
    if samples.ndim != 4 or samples.shape[-1] not in (1, 3) or len(samples) < 2:
        raise ValueError(
            f"samples have shape {samples.shape}: wanted (n, h, w, 1 or 3) with n >= 2."
        )

    def colours(image: np.ndarray) -> np.ndarray:
        unit = np.clip((np.asarray(image, float) - low) / (high - low), 0.0, 1.0)
        return np.broadcast_to(unit, (*unit.shape[:2], 3)).copy()

    panels: list[tuple[str, np.ndarray]] = []
    if truth is not None:
        panels.append(("truth", colours(truth)))
    shown = colours(given)
    if known is not None:
        shown[~np.broadcast_to(known, given.shape).all(axis=-1)] = UNKNOWN
    smaller = given.shape[:2] != samples.shape[1:3]
    size = f", {given.shape[1]} × {given.shape[0]}" if smaller else ""
    panels.append((f"given{size}", shown))
    few = samples[:MOST_SAMPLES]
    panels += [(f"sample {i + 1} of {len(samples)}", colours(x)) for i, x in enumerate(few)]
    panels.append((f"mean of {len(samples)}", colours(samples.mean(axis=0))))

    count = len(panels) + 1
    columns = min(count, MOST_COLUMNS)
    rows = -(-count // columns)
    fig = Figure(figsize=(1.7 * columns + 0.6, 1.85 * rows), dpi=160, layout="constrained")
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    for ax, (title, image) in zip(axes, panels, strict=False):
        ax.imshow(image, interpolation="nearest")
        ax.set_title(title, fontsize=9.0)

    spread = samples.std(axis=0, ddof=1).mean(axis=-1)
    _draw_spread(fig, axes[len(panels)], spread)
    save_picture(fig.savefig, path)
    return fig


def _draw_spread(fig: Figure, ax: Axes, spread: Any) -> None:
    image = ax.imshow(spread, cmap="viridis", vmin=0.0, interpolation="nearest")
    ax.set_title("spread", fontsize=9.0)
    bar = fig.colorbar(image, ax=ax, location="bottom", fraction=0.06, pad=0.02)
    bar.ax.tick_params(labelsize=7.0)
    bar.set_label("standard deviation", fontsize=7.0)
