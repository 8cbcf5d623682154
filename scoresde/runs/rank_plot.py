"""Histograms of simulation-based calibration, with the bands of an exact posterior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from scoresde.runs.pictures import BLUE, GREY, ORANGE, save_picture

if TYPE_CHECKING:  # slow to import: only the functions that draw load them
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 4
"""The largest number of histograms side by side."""


@runtime_checkable
class RankHistograms(Protocol):
    """What is drawn: `evaluation.RankTest`, or anything with these arrays of it."""

    @property
    def counts(self) -> np.ndarray: ...  # (d, bins)

    @property
    def edges(self) -> np.ndarray: ...  # (bins + 1,)

    @property
    def expected(self) -> np.ndarray: ...  # (bins,)

    @property
    def pointwise(self) -> np.ndarray: ...  # (2, bins)

    @property
    def simultaneous(self) -> np.ndarray: ...  # (2, bins)

    @property
    def p_values(self) -> np.ndarray: ...  # (d,)

    @property
    def outside(self) -> np.ndarray: ...  # (d, bins)


def plot_ranks(
    test: RankHistograms, names: Sequence[str] | None = None, path: str | Path | None = None
) -> Figure:
    """Draws the histogram of ranks of each dimension, over the bands of an exact posterior.

    Five in a hundred bins leave the dark band, that of a single bin, under an exact posterior, too.
    A bin that leaves the light one, that of all bins together, is orange. Each title has the
    p-value of its dimension, for which no other dimension counts.

    test: from `evaluation.rank_test`. names: the dimensions' names; by default θ₁, θ₂, ….

    Raises:
        ValueError: if there is not one name per dimension.
    """
    from matplotlib.figure import Figure

    d = len(test.counts)
    names = [f"θ{_subscript(i + 1)}" for i in range(d)] if names is None else list(names)
    if len(names) != d:
        raise ValueError(
            f"names has {len(names)} entries for {d} dimensions: wanted one for each, or None."
        )

    columns = min(d, MOST_COLUMNS)
    rows = -(-d // columns)
    figsize = (max(2.7 * columns + 0.4, 5.0), 2.1 * rows + 0.6)
    fig = Figure(figsize=figsize, dpi=160, layout="constrained")
    axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i, ax in enumerate(axes.flat):
        if i < d:
            _draw_histogram(ax, test, i, names[i])
        else:
            ax.set_visible(False)

    # A column that ends above the last row has its axis there.
    for column in range(columns):
        last = axes[(d - 1 - column) // columns, column]
        last.set_xlabel("rank")
        last.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("count")

    highest = max(np.max(test.counts), np.max(test.simultaneous))
    axes[0, 0].set_ylim(0.0, 1.05 * highest)

    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(
        handles,
        labels,
        loc="outside upper right",
        ncols=len(labels),
        columnspacing=1.2,
        frameon=False,
        fontsize=9.0,
    )
    save_picture(fig.savefig, path)
    return fig


def _draw_histogram(ax: Axes, test: RankHistograms, i: int, name: str) -> None:
    """Draws the bands, and dimension i's counts as a line and as a dot in each bin."""
    edges = test.edges - 0.5  # whole ranks lie within their bins
    for (low, high), alpha, label in (
        (test.simultaneous, 0.2, "95 %, all bins"),
        (test.pointwise, 0.45, "95 %, each bin"),
    ):
        # To the next half: a count on the border lies within.
        ax.stairs(
            high + 0.5, edges, baseline=low - 0.5, fill=True, color=GREY, alpha=alpha, label=label
        )

    ax.stairs(test.expected, edges, baseline=None, color=GREY, lw=0.8, ls="--", label="expected")

    counts = test.counts[i]
    outside = test.outside[i]
    middle = (edges[1:] + edges[:-1]) / 2.0
    ax.stairs(counts, edges, baseline=None, color=BLUE, lw=1.4, label="counted")
    ax.scatter(middle[outside], counts[outside], s=14, c=ORANGE, zorder=3)

    ax.set_title(f"{name}   p = {test.p_values[i]:.2g}", fontsize=9.5, loc="left")
    ax.spines[["top", "right"]].set_visible(False)


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
