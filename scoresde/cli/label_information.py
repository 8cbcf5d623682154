"""`scoresde likelihood --label-information`: the likelihoods given each label, and what they tell.

See likelihood/label_information.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scoresde.cli.results import rows_of_label
from scoresde.likelihood.dataset import SetLikelihood
from scoresde.likelihood.label_information import LabelInformation


def given_each_label(
    solve: Callable[..., SetLikelihood],
    label: np.ndarray,
    classes: int,
    rows: Path,
    identity: dict[str, Any],
) -> list[SetLikelihood]:
    """Returns the likelihoods of the examples given label 0, 1, …, each from a file of its own.

    The draws of example i depend on (seed, repeat, i) alone, so that one draw of the dequantisation
    and of the probes serves all labels.
    """
    return [
        solve(
            np.full(len(label), y, np.int32),
            path=rows_of_label(rows, y),
            about=identity | {"given": y},
        )
        for y in range(classes)
    ]


def given_own_label(given: list[SetLikelihood], label: np.ndarray) -> SetLikelihood:
    """Returns the likelihood of each example given its own label."""
    examples = np.arange(len(label))

    def own(tables: list[Any]) -> np.ndarray:
        return np.stack(tables)[label, examples]

    has_stderr = all(one.stderr is not None for one in given)
    return dataclasses.replace(
        given[0],
        nats=own([one.nats for one in given]),
        stderr=own([one.stderr for one in given]) if has_stderr else None,
        nfe=own([one.nfe for one in given]),
    )


def label_summary(given: list[SetLikelihood], label: np.ndarray) -> dict[str, Any]:
    """Returns the mean information of a label in bits, with its error, and the accuracy.

    log p given a label is the mean over repeats, and all labels are equally likely beforehand.
    """
    log_prob = np.stack([one.nats.mean(axis=1) for one in given], axis=1)
    prior = np.full(len(given), 1.0 / len(given))
    found = LabelInformation(log_prob, label, prior)
    return {
        "classes": len(given),
        "label_bits": found.mean,
        "label_bits_stderr": found.stderr,
        "label_accuracy": found.accuracy,
        "label_failed": len(found.failed),
    }
