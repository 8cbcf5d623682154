"""Which examples a step sees: a function of (seed, step) alone, cut over processes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from scoresde import checks


@dataclasses.dataclass(frozen=True)
class Order:
    """step → the rows of its batch: every epoch a fresh shuffle of n examples, nothing to save or restore.

    Process p of P gets rows p·b/P … (p+1)·b/P of the batch of b that one process would see: together they train on the
    same batches, in order, whatever their number.

    Raises:
        ValueError: if the processes do not divide the batch, or a count is out of range.
    """

    seed: int
    n: int
    batch_size: int
    process: int = 0
    processes: int = 1

    def __post_init__(self):
        for name in ("n", "batch_size", "processes"):
            checks.count(name, getattr(self, name))
        checks.count("process", self.process, 0)
        if self.process >= self.processes or self.batch_size % self.processes:
            raise ValueError(
                f"process {self.process} of {self.processes} and a batch of {self.batch_size}: wanted a process below "
                f"their number, and a batch that they divide."
            )

    def __call__(self, step: int) -> np.ndarray:
        """The rows of this step's batch that are this process's, (batch_size / processes,)."""
        share = self.batch_size // self.processes
        return self._batches(step)[self.process * share : (self.process + 1) * share]

    @functools.cached_property
    def _batches(self) -> Callable[[int], np.ndarray]:
        import grain  # late: it is slow to import

        batches = (
            grain.MapDataset.range(self.n).seed(self.seed).shuffle().repeat().batch(self.batch_size)
        )
        return lambda step: np.asarray(batches[step])
