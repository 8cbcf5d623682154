"""Samples under guidance of several weights: whether they are what was asked for, and how varied.

An independent classifier judges the class; diversity is measured on its features: the spread within
a class, the share of real images that samples cover (scoresde/evaluation/diversity.py), and the
Fréchet distance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from image_experiment import succeeded
from image_task import ImageTask

import scoresde as sd
from scoresde.evaluation.diversity import class_spread, coverage, expected_coverage
from scoresde.runs.plots import image_grid
from scoresde.sampling.choices import AnySampler

ROWS = 8
"""Samples of each class in a picture."""


class Draws(Protocol):
    """The settings of an experiment that decide how samples are drawn."""

    @property
    def num_samples(self) -> int:
        """Samples at each weight."""
        ...

    @property
    def evaluation_batch(self) -> int:
        """Samples in a batch."""
        ...


@dataclasses.dataclass(frozen=True)
class Judged:
    """What is found of samples that were asked to be of certain classes."""

    weight: float | None
    """The weight of the guidance; None for real images."""
    accuracy: float
    """Share of which the classifier finds the class that was asked for."""
    stderr: float
    """The standard error of that share."""
    recognised: float
    """Share of which the classifier is at least 95 % sure."""
    spread: float
    """Root mean squared distance to the mean of the class, in the classifier's features."""
    coverage: float
    """Share of the training images that have a sample among their 5 nearest of the class."""
    distance: float
    """Fréchet distance to the training images."""
    evaluations: float
    """Evaluations of the network, per sample."""


def judge(
    task: ImageTask,
    x: np.ndarray,
    labels: np.ndarray,
    covered: float,
    weight: float | None = None,
    evaluations: float = 0.0,
) -> Judged:
    """Returns what the classifier finds of images x, asked to be of the classes `labels`."""
    right = task.classifier.predict(x) == labels
    return Judged(
        weight=weight,
        accuracy=float(np.mean(right)),
        stderr=float(np.std(right) / np.sqrt(len(right))),
        recognised=task.recognised(x),
        spread=class_spread(task.classifier.features(x), labels),
        coverage=covered,
        distance=task.frechet_distance(x),
        evaluations=evaluations,
    )


def covered_by(
    task: ImageTask, x: np.ndarray, labels: np.ndarray, reference_labels: np.ndarray
) -> float:
    """Returns the share of the training images that samples x cover, class by class.

    reference_labels: the classes of `task.real`.
    """
    features = task.classifier.features(x)
    reference = task.classifier.features(task.real)
    shares = [
        coverage(features[labels == label], reference[reference_labels == label])
        for label in np.unique(reference_labels)
    ]
    return float(np.mean(shares))


def judge_real(
    task: ImageTask, x: np.ndarray, labels: np.ndarray, reference_labels: np.ndarray, num: int
) -> Judged:
    """Returns what is found of real held-out images, and the coverage of `num` exact draws, which
    depends on their number."""
    classes, counts = np.unique(reference_labels, return_counts=True)
    each = num // len(classes)
    covered = np.mean([expected_coverage(each, int(count)) for count in counts])
    return judge(task, x, labels, float(covered))


def sweep(
    settings: Draws,
    task: ImageTask,
    key: jax.Array,
    sampler: AnySampler,
    sde: sd.SDE,
    guided: Callable[[float, np.ndarray], Any],
    weights: Sequence[float],
    classes: int,
    reference_labels: np.ndarray,
    folder: Path,
) -> list[Judged]:
    """Draws `num_samples` samples at each weight, classes in turn, and judges and pictures them.

    guided: (weight, labels) → the score of these labels. All weights share the noise. folder: for
    one picture a weight, a column a class.
    """
    found = []
    labels = np.arange(settings.num_samples) % classes
    for weight in weights:
        out = sd.sample(
            key,
            sampler,
            sde,
            guided(weight, labels),
            (settings.num_samples, *task.shape),
            batch_size=settings.evaluation_batch,
            progress=True,
        )
        x = succeeded(out)
        own = labels[np.asarray(out.success)]
        covered = covered_by(task, x, own, reference_labels)
        found.append(judge(task, x, own, covered, weight, float(np.mean(out.nfe))))
        image_grid(
            np.asarray(out.x)[: ROWS * classes],
            folder / f"samples at weight {weight:g}.png",
            columns=classes,
            low=task.dequantize.low,
            high=task.dequantize.high,
        )
    return found


# --- What people look at ---


def table(found: Sequence[Judged], real: Judged, what: str) -> dict[str, Any]:
    """Returns the page's table: one row per weight, and the real held-out images."""
    rows = [["real" if row.weight is None else f"{row.weight:g}", *_cells(row)] for row in found]
    return {
        "title": f"{what}: the class that was asked for, and diversity",
        "columns": [
            "weight",
            "accuracy",
            "± ",
            "recognised",
            "spread in a class",
            "coverage",
            "Fréchet distance",
        ],
        "rows": [*rows, ["real, held out", *_cells(real)]],
    }


def _cells(row: Judged) -> list[str]:
    return [
        f"{100 * row.accuracy:.1f} %",
        f"{100 * row.stderr:.1f} %",
        f"{100 * row.recognised:.0f} %",
        f"{row.spread:.2f}",
        f"{100 * row.coverage:.0f} %",
        f"{row.distance:.2f}",
    ]


def plot(found: Sequence[Judged], real: Judged, what: str, path: Path) -> None:
    """Draws accuracy and diversity against the weights from 1 on, with real images as lines."""
    from matplotlib.figure import Figure

    found = [row for row in found if row.weight is not None and row.weight >= 1.0]
    weights = [row.weight for row in found]
    fig = Figure(figsize=(8.4, 3.2), dpi=160, layout="constrained")
    left, right = fig.subplots(1, 2)

    accuracy = [100 * row.accuracy for row in found]
    error = [200 * row.stderr for row in found]
    left.errorbar(weights, accuracy, error, marker="o", capsize=3, color="C0")
    left.axhline(100 * real.accuracy, color="0.5", linestyle="--", label="real, held out")
    left.set(xlabel=what, ylabel="of the class asked for, %", ylim=(None, 101))
    left.legend(loc="lower right", frameon=False)

    right.plot(weights, [row.spread for row in found], marker="o", color="C1", label="spread")
    right.axhline(real.spread, color="C1", linestyle="--", alpha=0.6)
    right.set(xlabel=what, ylabel="spread in a class", ylim=(0.0, None))
    other = right.twinx()
    covered = [100 * row.coverage for row in found]
    other.plot(weights, covered, marker="s", color="C2", label="coverage")
    other.axhline(100 * real.coverage, color="C2", linestyle="--", alpha=0.6)
    other.set(ylabel="real images covered, %", ylim=(0.0, 101))
    lines = [right.lines[0], other.lines[0]]
    right.legend(lines, ["spread", "coverage (dashed: real)"], loc="lower left", frameon=False)

    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path)


def figures(found: Sequence[Judged], prefix: str) -> dict[str, float]:
    """Returns the figures of a sweep for programs, by name."""
    return {
        f"{prefix}_{row.weight:g}_{name}": getattr(row, name)
        for row in found
        for name in ("accuracy", "recognised", "spread", "coverage", "distance")
    }
