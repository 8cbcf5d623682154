"""Pictures of a run: image grids, training curves, clouds of points. No global state, so they work in any thread."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scoresde.runs.files import write_atomically

if TYPE_CHECKING:  # slow to import: only the functions that draw load them
    from matplotlib.figure import Figure
    from PIL.Image import Image

FAILED = (200, 30, 120)  # the colour of an image that is not finite: a sample that failed
GAP = (225, 225, 225)
CURVES = ("loss", "valid_loss", "grad_norm", "learning_rate")  # what training_curve draws of a row
BLUE, ORANGE, GREY = "#2f6db3", "#d2691e", "#6b7078"


def image_grid(
    x, path=None, columns: int | None = None, low=-1.0, high=1.0, scale: int | None = None
) -> Image:
    """Draw images x, (n, h, w, 1 or 3) with values in [low, high], row by row, and save the PNG if a path is given.

    A pixel becomes scale × scale pixels without smoothing; by default an image is at least 48 wide and high. Values
    beyond [low, high] get the nearer end; an image with a value that is not finite is filled with `FAILED`.

    Raises:
        ValueError: if x has another shape, no images, or integers beyond [low, high].
    """
    from PIL import Image

    x = np.asarray(x)
    _check_images(x, low, high)
    n, h, w, _ = x.shape
    columns, gap = columns or math.ceil(math.sqrt(n)), 2
    scale = scale or math.ceil(48 / min(h, w))
    unit = (x.astype(np.float64) - low) / (high - low)
    failed = ~np.isfinite(unit).all(axis=(1, 2, 3))
    unit[failed] = 0.0
    pixels = np.broadcast_to(
        np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8), (n, h, w, 3)
    ).copy()
    pixels[failed] = FAILED
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)

    h, w = h * scale, w * scale
    canvas = np.full(
        (math.ceil(n / columns) * (h + gap) + gap, columns * (w + gap) + gap, 3), GAP, np.uint8
    )
    for i, image in enumerate(pixels):
        top, left = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        canvas[top : top + h, left : left + w] = image
    grid = Image.fromarray(canvas)
    _save(grid.save, path)
    return grid


def training_curve(rows: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """Draw rows with "step" and any of `CURVES`: losses above, gradient norm and learning rate below.

    The training loss is noisy: faint as it is, with its running mean on top. The legend counts what is not finite.

    Raises:
        ValueError: if no row has a step and a number for one of `CURVES`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    data = curves(rows)
    if not data:
        raise ValueError(
            f'no row has a step and one of {CURVES}: wanted rows such as {{"step": 0, "loss": 1.5}}.'
        )
    panels = [
        names
        for pair in (CURVES[:2], CURVES[2:])
        if (names := [name for name in pair if name in data])
    ]
    fig = Figure(figsize=(7.4, 3.4 if len(panels) == 1 else 5.0), dpi=160, layout="constrained")
    axes = fig.subplots(
        len(panels), 1, sharex=True, squeeze=False, height_ratios=(1.8, 1)[: len(panels)]
    )[:, 0]
    for ax, names in zip(axes, panels, strict=True):
        ax.spines["right"].set_visible(False)
        lines = []
        for name in names:
            second = name == "learning_rate" and len(names) == 2  # its own scale, on the right
            lines += _draw_curve(ax.twinx() if second else ax, name, *data[name])
        ax.legend(
            handles=lines,
            frameon=False,
            ncols=2,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            borderaxespad=0,
        )
        values = np.concatenate(
            [data[name][1] for name in names if "loss" in name] or [data[names[0]][1]]
        )
        values = values[np.isfinite(values)]
        if values.size and 0 < 4 * values.min() < values.max():  # wide, and a logarithm exists
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.minorticks_off()
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_formatter(
        lambda step, _: f"{step:,.0f}" if step == round(step) else ""
    )
    _save(fig.savefig, path)
    return fig


def scatter_2d(points: Mapping[str, Any], path: str | Path | None = None) -> Figure:
    """Draw clouds of points, name → (n, 2), side by side on equal axes.

    The frame holds all points, except that a few far off would shrink the others to a dot: those, and points that
    are not finite, are counted in the title instead.

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
    every = np.concatenate(list(clouds.values()))
    every = every[np.isfinite(every).all(axis=1)]
    every = every if len(every) else np.zeros((1, 2))
    low, high = np.percentile(every, (0.5, 99.5), axis=0)
    near = every[(np.abs(every - (low + high) / 2) <= high - low).all(axis=1)]
    low, high = near.min(axis=0), near.max(axis=0)
    pad = 0.05 * (high - low).max() or 1.0
    low, high = low - pad, high + pad
    height = np.clip((high - low)[1] / (high - low)[0], 0.4, 2.5)
    fig = Figure(
        figsize=(2.9 * len(clouds) + 0.4, 2.7 * height + 1.1), dpi=160, layout="constrained"
    )
    axes = fig.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (name, cloud) in zip(axes, clouds.items(), strict=True):
        inside, lost = (
            ((cloud >= low) & (cloud <= high)).all(axis=1),
            ~np.isfinite(cloud).all(axis=1),
        )
        counts = {
            "points": len(cloud),
            "outside": np.sum(~inside & ~lost),
            "not finite": np.sum(lost),
        }
        counts = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
        ax.set_title(f"{name}\n{counts}", fontsize=9.5, loc="left")
        ax.scatter(
            *cloud[inside].T, s=np.clip(8000 / (len(cloud) + 1), 1.5, 12), c=BLUE, alpha=0.5, lw=0
        )
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xlabel="x₁")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("x₂")
    _save(fig.savefig, path)
    return fig


def densities_2d(
    densities: Mapping[str, Any], extent: tuple[float, float, float, float], path=None
) -> Figure:
    """Draw densities on a grid of the plane, name → (ny, nx), side by side on one colour scale, and their differences
    from the first, each on a scale around zero.

    extent: (left, right, bottom, top) of the outermost points. Row 0 is at the bottom.

    Raises:
        ValueError: if there are no densities, or their shapes differ.
    """
    from matplotlib.figure import Figure

    grids = {name: np.asarray(grid, np.float64) for name, grid in densities.items()}
    shapes = {name: grid.shape for name, grid in grids.items()}
    if not grids or len(set(shapes.values())) > 1 or next(iter(grids.values())).ndim != 2:
        raise ValueError(f"densities of shape {shapes}: wanted (ny, nx), the same for each.")
    first, *others = grids
    panels = [(name, grid, False) for name, grid in grids.items()]
    panels += [(f"{name} − {first}", grids[name] - grids[first], True) for name in others]
    top = max(np.nanmax(grid) for grid in grids.values())
    fig = Figure(figsize=(3.4 * len(panels) + 0.4, 3.4), dpi=160, layout="constrained")
    axes = fig.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (name, grid, is_difference) in zip(axes, panels, strict=True):
        limit = np.nanmax(np.abs(grid)) or 1.0
        scale = (
            {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
            if is_difference
            else {"vmin": 0.0, "vmax": top}
        )
        image = ax.imshow(
            grid, origin="lower", extent=extent, aspect="equal", interpolation="nearest", **scale
        )
        fig.colorbar(
            image,
            ax=ax,
            shrink=0.8,
            label="difference of densities" if is_difference else "density",
        )
        ax.set_title(name, fontsize=9.5, loc="left")
        ax.set_xlabel("x₁")
    axes[0].set_ylabel("x₂")
    _save(fig.savefig, path)
    return fig


def path_gif(t, x, denoised, path: str | Path, low=-1.0, high=1.0, frames: int = 50) -> list[Image]:
    """Animate a sampler's path, left the states x and right E[x_0 | x], and save the GIF: 5 seconds, and 2 on its end.

    t: (points,), falling or not; x, denoised: (n, points, *data), data images (h, w, 1 or 3) in [low, high] or points
    of the plane. States larger than data are shown divided by their root mean square. Some `frames` of the points are
    shown, evenly chosen, first and last among them.

    Raises:
        ValueError: if the examples are neither images nor points of the plane.
    """
    from PIL import Image, ImageDraw

    t, x, denoised = (np.asarray(a, np.float64) for a in (t, x, denoised))
    planar = x.shape[2:] == (2,)
    if not planar and (x.ndim != 5 or x.shape[-1] not in (1, 3)):
        raise ValueError(
            f"examples of shape {x.shape[2:]}: a GIF is drawn of images (h, w, 1 or 3) or points (2,)."
        )
    pictures = []
    for i in np.unique(np.linspace(0, len(t) - 1, min(frames, len(t))).astype(int)):
        if planar:
            size = np.abs(denoised[np.isfinite(denoised)]).max(initial=1.0)
            scale = max(1.0, np.sqrt(np.nanmean(x[:, i] ** 2)) / size)
            label = f"x at t = {t[i]:.3f}" + (f", divided by {scale:.1f}" if scale > 1.05 else "")
            clouds = {label: x[:, i] / scale, "E[x₀ | x]": denoised[:, i]}
            buffer = io.BytesIO()
            figure = scatter_2d(clouds)
            for ax in figure.axes:
                ax.set(xlim=(-1.6 * size, 1.6 * size), ylim=(-1.6 * size, 1.6 * size))
            figure.savefig(buffer, format="png", dpi=80)
            pictures.append(Image.open(buffer).convert("RGB"))
        else:
            scale = max(1.0, np.sqrt(np.nanmean(x[:, i] ** 2)) / max(abs(low), abs(high)))
            both = [
                image_grid(images, low=low, high=high)
                for images in (x[:, i] / scale, denoised[:, i])
            ]
            width, height = both[0].size
            frame = Image.new("RGB", (2 * width + 8, height + 18), (255, 255, 255))
            frame.paste(both[0], (0, 18))
            frame.paste(both[1], (width + 8, 18))
            draw = ImageDraw.Draw(frame)
            draw.text(
                (4, 3),
                f"x at t = {t[i]:.3f}" + (f", / {scale:.1f}" if scale > 1.05 else ""),
                fill=(0, 0, 0),
            )
            draw.text((width + 12, 3), "E[x0 | x]", fill=(0, 0, 0))
            pictures.append(frame)
    each = max(20, 5000 // len(pictures))
    durations = [each] * (len(pictures) - 1) + [2000]
    _save(
        lambda file, format: pictures[0].save(
            file, format, save_all=True, append_images=pictures[1:], loop=0, duration=durations
        ),
        path,
    )
    return pictures


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Name → array (2, n) of steps, in order, and values, for each of `CURVES` that the rows have."""
    pairs = {
        name: [(row["step"], row[name]) for row in rows if {"step", name} <= row.keys()]
        for name in CURVES
    }
    arrays = {
        name: np.array(found, np.float64).T for name, found in pairs.items() if found
    }  # None → NaN
    return {name: array[:, np.argsort(array[0], kind="stable")] for name, array in arrays.items()}


def _check_images(x, low, high):
    if x.ndim != 4 or x.shape[3] not in (1, 3) or not x.size:
        fixes = {2: "x[None, ..., None]", 3: "x[..., None]", 4: "x.transpose(0, 2, 3, 1)"}
        fix = (
            "x[None]"
            if x.ndim == 3 and x.shape[2] in (1, 3)
            else fixes.get(x.ndim, "x.reshape(-1, h, w, 3)")
        )
        raise ValueError(
            f"x has shape {x.shape}: wanted (n, h, w, 1 or 3) with n > 0, e.g. image_grid({fix})."
        )
    if x.dtype.kind in "iu" and (x.min() < low or x.max() > high):
        raise ValueError(
            f"integers {x.min()} to {x.max()} leave [{low}, {high}]: write image_grid(x, low=0, high=255)."
        )


def _draw_curve(ax, name, steps, values):
    """Draw the curve and return the line that the legend names."""
    label = name.replace("valid_", "validation ").replace("grad_", "gradient ").replace("_", " ")
    ax.set_ylabel("loss" if "loss" in name else label)
    ax.spines["top"].set_visible(False)
    finite = np.isfinite(values)
    label += "" if finite.all() else f" ({np.sum(~finite):,} not finite)"
    if name == "loss":
        ax.plot(steps, values, color=BLUE, alpha=0.3, lw=0.8)
        window, ones = np.ones(max(1, np.sum(finite) // 40)), np.ones(np.sum(finite))
        steps, values = steps[finite], values[finite]
        values = (
            np.convolve(values, window, "same") / np.convolve(ones, window, "same")
            if finite.any()
            else values
        )
    style = {
        "loss": (BLUE, 1.8, "-"),
        "valid_loss": (ORANGE, 1.4, ".-"),
        "grad_norm": (GREY, 1.0, "-"),
    }
    color, width, line = style.get(name, (ORANGE, 1.4, "-"))
    return ax.plot(steps, values, line, color=color, lw=width, label=label)


def _save(save, path):
    if path is not None:
        buffer = io.BytesIO()
        save(buffer, format=Path(path).suffix[1:] or "png")
        write_atomically(path, buffer.getvalue())
