"""What a checkpoint says about its model, data and training, as rows of a name and a text."""

from __future__ import annotations

from typing import Any

from scoresde.runs.manifest import count_parameters
from scoresde.runs.words import words

Rows = list[tuple[str, str]]


def model_rows(manifest: dict[str, Any]) -> Rows:
    """Returns the SDE, the network, what its output means, and the data it was trained on."""
    about = manifest["about"]
    model = about.get("model") or about.get("own") or {}
    rows = {
        "trained": trained_in_words(about),
        "SDE": model.get("sde"),
        "network": model.get("net"),
        "parameters": f"{count_parameters(manifest):,}",
        "parameterisation": model.get("parameterization"),
        "shape of an example": about.get("shape"),
        "training examples": about.get("examples"),
        "preparation": about.get("prepare"),
        "standardisation": about.get("standardization"),
        "range": about.get("range"),
    }
    return [(name, words(value)) for name, value in rows.items() if value is not None]


def trained_in_words(about: dict[str, Any]) -> str:
    """Returns what a run trained, as its checkpoint says."""
    return "a classifier of noisy data, to guide a score" if about.get("classifier") else "a score"


def training_rows(manifest: dict[str, Any]) -> Rows:
    """Returns the steps that were taken, the settings, and how these changed on the way."""
    about = manifest["about"]
    settings = about.get("training")
    if not settings:  # an imported checkpoint
        return []

    rows = [("steps taken", words(manifest["step"]))]
    rows += [
        (name.replace("_", " "), words(value))
        for name, value in settings.items()
        if value is not None
    ]
    rows += [("new schedule", change_in_words(change)) for change in about.get("changes") or []]
    return rows


def change_in_words(change: dict[str, Any]) -> str:
    """Returns how a resumed run changed its schedule: "learning_rate 0.001 → 0.0005 at step 40"."""
    old = change["old"]
    parts = [f"{name} {words(old[name])} → {words(new)}" for name, new in change["new"].items()]
    return f"{', '.join(parts)} at step {change['step']}"
