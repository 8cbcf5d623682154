"""Samples compared with held-out data: every distance in every feature space, with its floor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from scoresde.evaluation.distances import frechet_distance, sliced_wasserstein
from scoresde.evaluation.features import Features, RawFeatures
from scoresde.evaluation.kernel import kernel_distance
from scoresde.evaluation.rows import Rows, flat_rows
from scoresde.evaluation.standard_error import Estimate, jackknife

DISTANCES: Mapping[str, Callable[[Any, Any], Estimate]] = {
    "Fréchet distance": partial(jackknife, frechet_distance),
    "kernel distance": kernel_distance,
    "sliced Wasserstein": partial(jackknife, sliced_wasserstein),
}
"""Distances by name, each with its standard error over draws of both sets."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The distance from samples to training rows, and its floor, that of as many held-out rows."""

    distance: str
    features: str
    value: float
    stderr: float
    floor: float
    floor_stderr: float
    rows: int
    """The number of samples, and of held-out rows, in one distance."""
    reference_rows: int
    """The number of training rows."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "",
        "samples",
        "±",
        "held-out data",
        "±",
        "rows",
        "reference rows",
    )

    def row(self) -> list[str | float | int]:
        """Returns a row of a report's table, under COLUMNS. For JSON use `dataclasses.asdict`."""
        return [f"{self.distance}, {self.features}", *dataclasses.astuple(self)[2:]]


def compare(
    samples: Rows,
    train: Rows,
    test: Rows,
    features: Sequence[Features] = (RawFeatures(),),
    distances: Mapping[str, Callable[[Any, Any], Estimate]] = DISTANCES,
    max_blocks: int = 4,
    seed: int = 0,
) -> list[Comparison]:
    """Returns the distances of samples and of held-out data to `train`, in every feature space.

    The samples of a perfect model are exchangeable with held-out rows: both are new to the
    network, and to features fitted on `train`. Such a model reaches the floor; a model clearly
    below it repeats its training data, or moments that were fitted to them.

    Both sides are compared n rows at a time, the smaller of len(samples) and len(test), with all
    of `train`. Values are averaged over random disjoint blocks of n rows. The standard error is
    that of one block (the root mean square over blocks, see `jackknife`); the average's is
    smaller, by at most the root of the number of blocks.

    Args:
        samples: the model's samples, (n_samples, ...).
        train: the training rows, (n_train, ...).
        test: the held-out rows, (n_test, ...).
        features: the feature spaces.
        distances: the distances by name.
        max_blocks: the largest number of blocks of each side.
        seed: of the random blocks.

    Raises:
        ValueError: if the sets are of different spaces, a row is not finite, or max_blocks < 1.
    """
    dim = flat_rows(train, "train").shape[1]
    flat_rows(samples, "samples", dim=dim)
    flat_rows(test, "test", dim=dim)
    if max_blocks < 1:
        raise ValueError(f"max_blocks is {max_blocks}: wanted at least 1. Write max_blocks=1.")

    n = min(len(samples), len(test))
    rng = np.random.default_rng(seed)
    sample_blocks = _blocks(rng, len(samples), n, max_blocks)
    test_blocks = _blocks(rng, len(test), n, max_blocks)

    table = []
    for space in features:
        reference = space.features(train)
        sample_features = space.features(samples)[sample_blocks]
        test_features = space.features(test)[test_blocks]
        for name, distance in distances.items():
            value = _over_blocks([distance(block, reference) for block in sample_features])
            floor = _over_blocks([distance(block, reference) for block in test_features])
            table.append(Comparison(name, space.name, *value, *floor, n, len(train)))
    return table


def _blocks(rng: np.random.Generator, total: int, n: int, max_blocks: int) -> np.ndarray:
    """Returns the row indices of disjoint random blocks, (blocks, n)."""
    number = min(total // n, max_blocks)
    return rng.permutation(total)[: number * n].reshape(number, n)


def _over_blocks(estimates: Sequence[Estimate]) -> Estimate:
    """Returns the mean value, and the root mean square of the standard errors."""
    values, errors = np.transpose(estimates)
    return Estimate(float(np.mean(values)), float(np.sqrt(np.mean(errors**2))))
