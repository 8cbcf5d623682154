"""Pictures of a run: grids of images, training curves, points and densities of the plane, paths.

Nothing here uses matplotlib's global state, so these functions work in any thread.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scoresde.runs.files import write_atomically

if TYPE_CHECKING:  # slow to import: only the functions that draw load them
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from PIL.Image import Image

FAILED = (200, 30, 120)
"""The colour of an image with values that are not finite: a sample that failed."""
GAP = (225, 225, 225)
"""The colour between the images of a grid."""
GAP_WIDTH = 2
SMALLEST = 48
"""The width and height in pixels to which `image_grid` enlarges smaller images."""

CURVES = ("loss", "valid_loss", "grad_norm", "learning_rate")
"""The entries of a row that `training_curve` draws."""
PANELS = (CURVES[:2], CURVES[2:])

BLUE = "#2f6db3"
ORANGE = "#d2691e"
GREY = "#6b7078"

# --- Images ---


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
    _save(grid.save, path)
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


# --- Training curves ---


def training_curve(rows: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """Draws losses above, gradient norm and learning rate below, against the training step.

    rows: dicts with "step" and any of `CURVES`. The training loss is noisy, so it is drawn faintly,
    with its running mean on top. The legend counts the values that are not finite.

    Raises:
        ValueError: if no row has a step and one of `CURVES`.
    """
    from matplotlib.figure import Figure

    data = curves(rows)
    if not data:
        raise ValueError(
            f"no row has a step and one of {CURVES}: "
            f'wanted rows such as {{"step": 0, "loss": 1.5}}.'
        )

    panels = [[name for name in names if name in data] for names in PANELS]
    panels = [names for names in panels if names]

    fig = Figure(figsize=(7.4, 3.4 if len(panels) == 1 else 5.0), dpi=160, layout="constrained")
    axes = fig.subplots(
        len(panels), 1, sharex=True, squeeze=False, height_ratios=(1.8, 1)[: len(panels)]
    )[:, 0]
    for ax, names in zip(axes, panels, strict=True):
        _draw_panel(ax, {name: data[name] for name in names})

    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_formatter(
        lambda step, _: f"{step:,.0f}" if step == round(step) else ""
    )
    _save(fig.savefig, path)
    return fig


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns an array (2, n) of steps, in order, and values, for each of `CURVES` in the rows."""
    arrays = {}
    for name in CURVES:
        pairs = [(row["step"], row[name]) for row in rows if {"step", name} <= row.keys()]
        if pairs:
            array = np.array(pairs, np.float64).T  # None becomes NaN
            arrays[name] = array[:, np.argsort(array[0], kind="stable")]
    return arrays


def _draw_panel(ax: Axes, data: Mapping[str, np.ndarray]) -> None:
    ax.spines["right"].set_visible(False)

    lines = []
    for name, (steps, values) in data.items():
        # The learning rate has a scale of its own, on the right, beside the gradient norm.
        has_own_scale = name == "learning_rate" and len(data) == 2
        lines += _draw_curve(ax.twinx() if has_own_scale else ax, name, steps, values)

    ax.legend(
        handles=lines,
        frameon=False,
        ncols=2,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0,
    )

    losses = [values for name, (_, values) in data.items() if "loss" in name]
    first = next(iter(data.values()))[1]
    _choose_scale(ax, np.concatenate(losses or [first]))


def _choose_scale(ax: Axes, values: np.ndarray) -> None:
    """Makes the axis logarithmic if the values are positive and span more than a factor of 4."""
    from matplotlib.ticker import LogLocator

    values = values[np.isfinite(values)]
    if values.size and 0 < 4 * values.min() < values.max():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()


def _draw_curve(ax: Axes, name: str, steps: np.ndarray, values: np.ndarray) -> list[Line2D]:
    """Draws a curve and returns the line that the legend names."""
    label = name.replace("valid_", "validation ").replace("grad_", "gradient ").replace("_", " ")
    ax.set_ylabel("loss" if "loss" in name else label)
    ax.spines["top"].set_visible(False)

    finite = np.isfinite(values)
    if not finite.all():
        label += f" ({np.sum(~finite):,} not finite)"

    if name == "loss":
        ax.plot(steps, values, color=BLUE, alpha=0.3, lw=0.8)
        steps = steps[finite]
        values = _running_mean(values[finite])

    styles = {
        "loss": (BLUE, 1.8, "-"),
        "valid_loss": (ORANGE, 1.4, ".-"),
        "grad_norm": (GREY, 1.0, "-"),
    }
    color, width, line = styles.get(name, (ORANGE, 1.4, "-"))
    return ax.plot(steps, values, line, color=color, lw=width, label=label)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean over a window of 1/40 of the values; near the ends over fewer of them."""
    if not values.size:
        return values

    window = np.ones(max(1, values.size // 40))
    counts = np.convolve(np.ones(values.size), window, "same")
    return np.convolve(values, window, "same") / counts


# --- The plane ---


def scatter_2d(points: Mapping[str, Any], path: str | Path | None = None) -> Figure:
    """Draws clouds of points side by side on equal axes; points is name → (n, 2).

    The frame holds all points, unless a few distant ones would shrink the others to a dot: those,
    and points that are not finite, are counted in the title instead.

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

    low, high = _frame(np.concatenate(list(clouds.values())))
    height = np.clip((high - low)[1] / (high - low)[0], 0.4, 2.5)

    figsize = (2.9 * len(clouds) + 0.4, 2.7 * height + 1.1)
    fig = Figure(figsize=figsize, dpi=160, layout="constrained")
    axes = fig.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (name, cloud) in zip(axes, clouds.items(), strict=True):
        _draw_cloud(ax, name, cloud, low, high)

    axes[0].set_ylabel("x₂")
    _save(fig.savefig, path)
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
    pad = 0.05 * (high - low).max() or 1.0
    return low - pad, high + pad


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
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xlabel="x₁")
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
    _save(fig.savefig, path)
    return fig


def _density_style(top: float) -> tuple[str, dict[str, Any]]:
    return "density", {"vmin": 0.0, "vmax": top}


def _difference_style(difference: np.ndarray) -> tuple[str, dict[str, Any]]:
    limit = np.nanmax(np.abs(difference)) or 1.0
    return "difference of densities", {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}


# --- Paths ---


def path_gif(t, x, denoised, path: str | Path, low=-1.0, high=1.0, frames: int = 50) -> list[Image]:
    """Animates a sampler's path, with states left and E[x₀ | x] right; saves the GIF.

    t: (points,), in either direction. x, denoised: (n, points, *data), where data are images
    (h, w, 1 or 3) in [low, high], or points of the plane (2,). States larger than the data are
    divided by their root mean square. At most `frames` points are shown, evenly chosen, the first
    and last among them. The GIF lasts 5 seconds, and 2 more on its last frame.

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
        reach = np.abs(denoised[np.isfinite(denoised)]).max(initial=1.0)
        draw = functools.partial(_frame_of_points, reach=reach)
    else:
        draw = functools.partial(_frame_of_images, low=low, high=high)

    shown = np.unique(np.linspace(0, len(t) - 1, min(frames, len(t))).astype(int))
    pictures = [draw(float(t[i]), x[:, i], denoised[:, i]) for i in shown]

    _save_gif(pictures, path)
    return pictures


def _frame_of_points(t: float, x: np.ndarray, denoised: np.ndarray, reach) -> Image:
    """Draws states and E[x₀ | x], (n, 2) each; `reach` is the largest coordinate of data."""
    from PIL import Image

    scale = _shrinking(x, reach)
    label = f"x at t = {t:.3f}"
    if scale > 1.05:
        label += f", divided by {scale:.1f}"

    figure = scatter_2d({label: x / scale, "E[x₀ | x]": denoised})
    for ax in figure.axes:
        ax.set(xlim=(-1.6 * reach, 1.6 * reach), ylim=(-1.6 * reach, 1.6 * reach))

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return Image.open(buffer).convert("RGB")


def _frame_of_images(t: float, x: np.ndarray, denoised: np.ndarray, low, high) -> Image:
    """Draws grids of the states and of E[x₀ | x], (n, h, w, 1 or 3) each, below their labels."""
    from PIL import Image, ImageDraw

    scale = _shrinking(x, max(abs(low), abs(high)))
    label = f"x at t = {t:.3f}"
    if scale > 1.05:
        label += f", / {scale:.1f}"

    states = image_grid(x / scale, low=low, high=high)
    means = image_grid(denoised, low=low, high=high)
    width, height = states.size
    second = width + 8

    frame = Image.new("RGB", (second + width, height + 18), (255, 255, 255))
    frame.paste(states, (0, 18))
    frame.paste(means, (second, 18))

    draw = ImageDraw.Draw(frame)
    draw.text((4, 3), label, fill=(0, 0, 0))
    draw.text((second + 4, 3), "E[x0 | x]", fill=(0, 0, 0))
    return frame


def _shrinking(x: np.ndarray, reach) -> float:
    """Returns by what to divide states whose root mean square is beyond the data's `reach`."""
    return max(1.0, np.sqrt(np.nanmean(x**2)) / reach)


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

    _save(save, path)


def _save(save: Any, path: str | Path | None) -> None:
    """Calls `save(file, format=...)` and writes what it produced, if a path is given."""
    if path is None:
        return

    buffer = io.BytesIO()
    save(buffer, format=Path(path).suffix[1:] or "png")
    write_atomically(path, buffer.getvalue())
