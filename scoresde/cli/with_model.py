"""The options that all commands on a run's model share: checkpoint, examples, seed."""

from __future__ import annotations

import dataclasses
from typing import Any

from scoresde import checks
from scoresde.parallel.cpu import use_cpu_cores
from scoresde.train.load import Trained, open_run


@dataclasses.dataclass(frozen=True)
class ModelCommand:
    """A command that uses the model of a run."""

    run: str
    """The run's folder, such as runs/digits_vp."""
    num: int | None = None
    """Number of examples; by default 64 samples, or all examples of a set."""
    seed: int = 0
    """Seed of all draws; example i depends on this and i alone."""
    step: int | None = None
    """Use the checkpoint of this step, not the newest intact one."""
    ema: bool = True
    """Use the moving average (EMA) of the weights."""
    label: int | None = None
    """Class of every example, if the network is class-conditional."""
    batch_size: int = 64
    """Examples per batch."""

    def __post_init__(self):
        checks.count("batch_size", self.batch_size)
        if self.num is not None:
            checks.count("num", self.num)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed = {self.seed}: wanted a whole number in 0 … {2**32 - 1}.")

    def open(self) -> Trained:
        """Returns the trained model.

        Raises:
            ValueError: if the network has no such label.
            CheckpointError, ConfigError, FileNotFoundError: as `open_run`.
        """
        use_cpu_cores()  # before any other use of JAX
        trained = open_run(self.run, step=self.step, ema=self.ema)

        classes = trained.model.num_classes
        if self.label is None:
            return trained
        if not classes:
            raise ValueError(
                f"label = {self.label}: wanted none, the network is unconditional. "
                f"Leave out --label."
            )
        if not 0 <= self.label < classes:
            raise ValueError(f"label = {self.label}: wanted 0 … {classes - 1}.")
        return trained

    def about(self, trained: Trained) -> dict[str, Any]:
        """Returns which model was used, and the seed, for the command's output."""
        return {
            "run": str(trained.path),
            "step": trained.step,
            "ema": self.ema,
            "seed": self.seed,
        }
