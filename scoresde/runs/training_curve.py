"""Curves of the metrics of a training against its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scoresde.runs.pictures import BLUE, GREY, ORANGE, save_picture

if TYPE_CHECKING:  # slow to import: only the functions that draw load them
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

CURVES = ("loss", "valid_loss", "grad_norm", "learning_rate")
"""The entries of a row that `training_curve` draws."""
PANELS = (CURVES[:2], CURVES[2:])


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
    save_picture(fig.savefig, path)
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
