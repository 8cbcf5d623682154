"""Samples beside held-out data: every distance in every feature space, with its floor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from scoresde.evaluation.distances import (
    Estimate,
    frechet_distance,
    jackknife,
    kernel_distance,
    sliced_wasserstein,
)
from scoresde.evaluation.features import Features, RawFeatures, Rows, flat_rows

# --- Samples beside real data ---


DISTANCES: Mapping[str, Callable[[Any, Any], Estimate]] = {
    "Fréchet distance": partial(jackknife, frechet_distance),
    "kernel distance": kernel_distance,
    "sliced Wasserstein": partial(jackknife, sliced_wasserstein),
}
"""Each with the standard error over draws of both sets."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A distance from `rows` samples to `reference_rows` training rows, and its floor: from as many held-out rows."""

    distance: str
    features: str
    value: float
    stderr: float
    floor: float
    floor_stderr: float
    rows: int
    reference_rows: int

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
        """A row of a table of the report, under COLUMNS. For JSON: `dataclasses.asdict`."""
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
    """Every distance in every feature space from the samples to the training set, and from held-out data to the same.

    A perfect model's samples are exchangeable with held-out rows: both are new to the network and to features fitted
    on `train`. So it reaches the floor; a model clearly below it repeats its training data, or their fitted moments.

    Both come n rows at a time, n the smaller of len(samples) and len(test), against all of `train`: random disjoint
    blocks of n, at most max_blocks, over which values are averaged. ± is the standard error of one block (root mean
    square over blocks, see `jackknife`); the average's is smaller, by at most the root of their number.
    """
    dim = flat_rows(train, "train").shape[1]
    for name, rows in (("samples", samples), ("test", test)):
        flat_rows(rows, name, dim=dim)
    if max_blocks < 1:
        raise ValueError(
            f"max_blocks is {max_blocks}: at least one block is compared. Write max_blocks=1."
        )
    n, rng = min(len(samples), len(test)), np.random.default_rng(seed)

    def blocks(x: Rows) -> np.ndarray:
        number = min(len(x) // n, max_blocks)
        return rng.permutation(len(x))[: number * n].reshape(number, n)

    sides, table = ((samples, blocks(samples)), (test, blocks(test))), []
    for space in features:
        reference = space.features(train)
        cut = [space.features(x)[indices] for x, indices in sides]
        for name, distance in distances.items():
            value, floor = (
                _over_blocks([distance(block, reference) for block in side]) for side in cut
            )
            table.append(Comparison(name, space.name, *value, *floor, n, len(train)))
    return table


def _over_blocks(estimates: Sequence[Estimate]) -> Estimate:
    values, errors = np.transpose(estimates)
    return Estimate(float(np.mean(values)), float(np.sqrt(np.mean(errors**2))))
