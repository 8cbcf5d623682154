"""Two runs of MNIST side by side: one table, and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mnist import DRAWN
from PIL import Image

from scoresde.reading import read_npz
from scoresde.runs.files import read_results, read_rows
from scoresde.runs.pictures import save_picture
from scoresde.runs.plots import image_grid
from scoresde.runs.yaml_files import load_yaml

SHOWN, COLUMNS = 80, 8
"""Samples of each run in the picture, and how many of them stand side by side."""

BETWEEN = 24
"""Pixels between the two."""

LARGEST = 2**30
"""Bytes of a file of samples."""

ROWS = [
    ("seconds of training", "seconds", "{:.0f}"),
    ("images trained on", "images", "{:,.0f}"),
    ("Fréchet distance", "fd", "{:.2f}"),
    ("Fréchet distance of test images", "fd_real", "{:.2f}"),
    ("not recognised, %", "unsure", "{:.1f}"),
    ("not recognised of test images, %", "unsure_real", "{:.1f}"),
    ("exact bits/dim, held out", "bits_per_dim", "{:.3f}"),
    ("± one standard error", "bits_per_dim_stderr", "{:.3f}"),
    ("median distance to the nearest training image", "nearest", "{:.2f}"),
    ("the same of test images", "nearest_real", "{:.2f}"),
    ("evaluations per sample", "sampling_evaluations", "{:.0f}"),
]
"""What is compared: the words, the figure, and its format."""


def table_of_recipes(ours: Path, figures: dict[str, float], theirs: Path) -> dict[str, Any] | None:
    """Returns the table of both runs, and saves their samples side by side; None without theirs."""
    results, _ = read_results(theirs / "results.json")
    if results.get("status") != "finished":
        return None

    columns = [with_costs(theirs, results["figures"]), with_costs(ours, figures)]
    rows = [
        [words, *(form.format(column[name]) for column in columns)] for words, name, form in ROWS
    ]
    (ours / "figures").mkdir(exist_ok=True)
    side_by_side(theirs, ours, ours / "figures" / "the lecture's samples (left) and ours.png")
    return {
        "title": "The lecture's recipe and ours",
        "columns": ["", "the lecture's", "ours"],
        "rows": rows,
    }


def with_costs(run: Path, figures: dict[str, float]) -> dict[str, float]:
    """Returns the figures of a run, with the time that training took and the images it saw."""
    rows, _ = read_rows(run / "metrics.jsonl")
    steps = np.diff([0, *(row["step"] for row in rows)])
    seconds = np.sum(steps / [row["steps_per_second"] for row in rows])
    batch_size = load_yaml(run / "config.yaml")["training"]["batch_size"]

    return figures | {
        "seconds": float(seconds),
        "images": float(steps.sum() * batch_size),
        "unsure": 100.0 * (1.0 - figures["sure"]),
        "unsure_real": 100.0 * (1.0 - figures["sure_real"]),
    }


def side_by_side(left: Path, right: Path, picture: Path) -> None:
    """Saves a picture of the first samples of two runs."""
    grids = [
        image_grid(read_npz(run / "samples" / DRAWN, LARGEST)["x"][:SHOWN], columns=COLUMNS)
        for run in (left, right)
    ]
    both = Image.new("RGB", (sum(grid.width for grid in grids) + BETWEEN, grids[0].height), "white")
    both.paste(grids[0], (0, 0))
    both.paste(grids[1], (grids[0].width + BETWEEN, 0))
    save_picture(both.save, picture)
