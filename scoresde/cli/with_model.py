"""The options that all commands on a run's model share: checkpoint, examples, seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scoresde import checks
from scoresde.cli.custom_model import build_model
from scoresde.nets.conditions import Conditions
from scoresde.parallel.cpu import use_cpu_cores
from scoresde.parallel.join import join_processes
from scoresde.score.model import ScoreModel
from scoresde.train.load import Trained, open_run, read_about

MOST_EXAMPLES = 10**7
"""The examples that a command draws or reads, at most."""


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
    """Function that builds a custom model, such as model.py:build."""
    label: int | None = None
    """Class of every example, if the network is class-conditional."""
    batch_size: int = 64
    """Examples per batch."""

    in_processes: ClassVar[bool] = False
    """Whether several processes run the command together, where the environment names them."""

    def __post_init__(self):
        checks.count("batch_size", self.batch_size, at_most=MOST_EXAMPLES)
        if self.num is not None:
            checks.count("num", self.num, at_most=MOST_EXAMPLES)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed = {self.seed}: wanted a whole number in 0 … {2**32 - 1}.")

    def open(self) -> Trained:
        """Returns the trained model.

        Raises:
            ValueError: if the run trained a classifier, the network has no such label, or --model
                does not build the run's model.
            CheckpointError, ConfigError, FileNotFoundError: as `open_run`.
        """
        if self.in_processes:
            join_processes()
        use_cpu_cores()  # before any other use of JAX
        trained = open_run(self.run, step=self.step, ema=self.ema, model=self._model())
        _refuse_classifier(self.run, trained.about)
        if self.label is not None:
            _check_label(self.label, trained.model)
        return trained

    def _model(self) -> ScoreModel | None:
        """Returns the model that `--model` builds, None without it."""
        if self.model is None:
            return None
        about = read_about(self.run, self.step)
        _refuse_classifier(self.run, about)
        return build_model(self.model, about, Path(self.run))

    def about(self, trained: Trained) -> dict[str, Any]:
        """Returns which model was used, and the seed, for the command's output."""
        return {
            "run": str(trained.path),
            "step": trained.step,
            "ema": self.ema,
            "seed": self.seed,
        }


def takes_more_than_a_label(model: ScoreModel) -> bool:
    """Whether the network's condition is more than one label, which no option here can name."""
    conditions = model.conditions
    if not isinstance(conditions, Conditions) or not conditions:
        return False
    return model.num_classes is None or conditions.cond_dim > 0


def labels_in_turn(classes: int | None, label: int | None, num: int) -> np.ndarray | None:
    """Returns the class of every sample, (num,): the label, or all classes in turn; None for an
    unconditional network."""
    if not classes:
        return None
    return np.arange(num) % classes if label is None else np.full(num, label)


def in_python(run: Path, call: str) -> str:
    """Returns the line of Python that does with a run's model what a command cannot."""
    return f"write in Python model = sd.load({str(run)!r}); {call}"


def _check_label(label: int, model: ScoreModel) -> None:
    """Refuses a label that the network does not take."""
    if takes_more_than_a_label(model):
        raise ValueError(
            f"label = {label}: wanted none, the network is conditioned on "
            f"{model.conditions}. Leave out --label."
        )
    classes = model.num_classes
    if not classes:
        raise ValueError(
            f"label = {label}: wanted none, the network is unconditional. Leave out --label."
        )
    if not 0 <= label < classes:
        raise ValueError(f"label = {label}: wanted 0 … {classes - 1}.")


def _refuse_classifier(run: str, about: dict[str, Any]) -> None:
    """Refuses a run that did not train a score."""
    if about.get("classifier"):
        raise ValueError(
            f"{run} trained a classifier, which draws no samples and has no likelihood. It guides "
            f"the score of another run: write in Python "
            f"sd.ClassifierGuidance(sd.load(RUN), sd.load({run!r}), label)."
        )
