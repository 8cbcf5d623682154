"""What the commands that use a run's model have in common: which checkpoint, how many examples, which seed."""

from __future__ import annotations

import dataclasses
from typing import Any

from scoresde import checks
from scoresde.parallel.cpu import use_cpu_cores
from scoresde.train.load import Trained, open_run


@dataclasses.dataclass(frozen=True)
class OfModel:
    """What the commands that use a run's model have in common."""

    run: str
    """The run's folder."""
    num: int | None = None
    """Examples; by default 64 samples, or all examples there are."""
    seed: int = 0
    """Decides every draw; example i depends on the seed and i alone."""
    step: int | None = None
    """The checkpoint of this step, instead of the newest good one."""
    ema: bool = True
    """The moving average of the weights, or the weights themselves."""
    label: int | None = None
    """The class of every example, for a conditional network."""
    batch_size: int = 64
    """Examples at a time."""

    def __post_init__(self):
        checks.count("batch_size", self.batch_size)
        checks.count("num", 1 if self.num is None else self.num)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed = {self.seed}: wanted 0 … {2**32 - 1}.")

    def open(self) -> Trained:
        """The trained model.

        Raises:
            ValueError: if the label is none of them.
        """
        use_cpu_cores()  # before anything else of JAX
        trained = open_run(self.run, step=self.step, ema=self.ema)
        classes = trained.model.num_classes
        if self.label is not None and not 0 <= self.label < (classes or 0):
            wanted = f"0 … {classes - 1}" if classes else "none, the network is unconditional"
            raise ValueError(f"label = {self.label}: wanted {wanted}.")
        return trained

    def about(self, trained: Trained) -> dict[str, Any]:
        """Which model it was."""
        return {"run": str(trained.path), "step": trained.step, "ema": self.ema, "seed": self.seed}
