"""The options that all commands on a run's model share: checkpoint, examples, seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from scoresde import checks
from scoresde.cli.custom_model import build_model
from scoresde.parallel.cpu import use_cpu_cores
from scoresde.score.model import ScoreModel
from scoresde.train.load import Trained, open_run, read_about


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
    model: str | None = None
    """The function that builds a custom model, such as model.py:build."""
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
            ValueError: if the network has no such label, or --model does not build the run's model.
            CheckpointError, ConfigError, FileNotFoundError: as `open_run`.
        """
        use_cpu_cores()  # before any other use of JAX
        trained = open_run(self.run, step=self.step, ema=self.ema, model=self._model())

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

    def _model(self) -> ScoreModel | None:
        """Returns the model that `--model` builds, None without it."""
        if self.model is None:
            return None
        return build_model(self.model, read_about(self.run, self.step), Path(self.run))

    def about(self, trained: Trained) -> dict[str, Any]:
        """Returns which model was used, and the seed, for the command's output."""
        return {
            "run": str(trained.path),
            "step": trained.step,
            "ema": self.ema,
            "seed": self.seed,
        }
