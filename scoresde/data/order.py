"""The examples of a training step: a function of (seed, step), divided between processes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from scoresde import checks


@dataclasses.dataclass(frozen=True)
class Order:
    """Maps a step to the rows of its batch. Every epoch shuffles the n examples differently.

    There is no state to save or restore. Process p of P uses rows p·b/P … (p+1)·b/P of the batch
    of b that a single process would use, so that they train on the same batches in the same
    order, whatever their number.

    Raises:
        ValueError: if the number of processes does not divide the batch size, or a count is out
            of range."""

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
                f"process {self.process} of {self.processes} and a batch of {self.batch_size}: "
                f"wanted a process below their number, and a batch size that is a multiple of it."
            )

    def __call__(self, step: int) -> np.ndarray:
        """Returns this process's rows of the step's batch, (batch_size / processes,)."""
        share = self.batch_size // self.processes
        start = self.process * share
        return self._batches(step)[start : start + share]

    @functools.cached_property
    def _batches(self) -> Callable[[int], np.ndarray]:
        import grain  # late: its import is slow

        rows = grain.MapDataset.range(self.n)
        batches = rows.seed(self.seed).shuffle().repeat().batch(self.batch_size)
        return lambda step: np.asarray(batches[step])
