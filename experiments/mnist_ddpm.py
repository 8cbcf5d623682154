"""MNIST twice in equal time: the second lecture's DDPM as it is given, and this library's.

    python experiments/mnist_ddpm.py --recipe lecture    # first: five epochs of the lecture's
    python experiments/mnist_ddpm.py                     # then: ours, and both side by side
    python experiments/mnist_ddpm.py --smoke             # 2 steps of a tiny network on noise

The same command, given again, resumes an interrupted run. The page of the second run has both in
one table and one picture. notebooks/07_mnist.ipynb tells the story.

Data: MNIST where TFDS has prepared it, or --folder with the four idx files (scoresde.data.images
says where else); pip install 'scoresde[data,experiments]'.

`lecture.py` is the lecture's recipe, and its settings are fixed. Ours differs in what `--help`
lists: a U-Net, whose layers at a half and a quarter of the resolution see the whole digit, where
the lecture's four convolutions see 9×9 pixels; the moving average of the weights; EDM's
preconditioning; times spread evenly, at a learning rate that decays; and a sampler of third order
with 20 evaluations instead of 300.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import lecture
import mnist
import pipeline
from bookkeeping import Clock
from idx_experiment import with_place
from recipes_compared import table_of_recipes

import scoresde as sd
from scoresde.cli.exit import UsageError
from scoresde.cli.flags import run_script

FIXED = ("sde", "net", "parameterization", "training", "sampler", "likelihood_t_min")
"""Settings that the lecture's recipe has its own of."""


@dataclasses.dataclass(frozen=True)
class MnistDDPM(mnist.Mnist):
    """Settings of the experiment; those of the network and its training are ours."""

    name: str = "mnist_ddpm"
    recipe: Literal["ours", "lecture"] = "ours"
    """Whose recipe is trained; that of the lecture is compared with ours if it is there."""


class OurTask(mnist.MnistTask):
    """A `MnistTask` whose page shows the lecture's recipe beside ours."""

    def evaluate(
        self,
        settings: Any,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> pipeline.Outcome:
        outcome = super().evaluate(settings, key, model, samples, folder, clock)
        theirs = folder.with_name(name_of_lecture(settings))
        table = table_of_recipes(folder, outcome.figures, theirs)
        if table is None:
            outcome.summary.append(
                f"{theirs} holds no finished run of the lecture's recipe to compare with: "
                f"--recipe lecture trains it."
            )
        else:
            outcome.tables.insert(0, table)
            outcome.summary.append(f"{'':<45}  the lecture's        ours")
            outcome.summary.extend(f"{a:<45}  {b:>13} {c:>11}" for a, b, c in table["rows"])
        return outcome


class LectureTask(lecture.LectureTask):
    """The lecture's task, whose page says what the prior is off by."""

    def evaluate(
        self,
        settings: Any,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: Clock,
    ) -> pipeline.Outcome:
        outcome = super().evaluate(settings, key, model, samples, folder, clock)
        gap = lecture.prior_gap(model, jnp.asarray(self.scaled(self.test)))
        outcome.figures["prior_gap"] = gap
        outcome.headline.append(
            ["prior's KL", f"{gap:.3f} bits/dim", "of x_T to N(0, I), from which samples start"]
        )
        return outcome


def name_of_lecture(settings: mnist.Mnist) -> str:
    """Returns the name of the lecture's run that belongs to these settings."""
    name = settings.name.removesuffix("_smoke")
    return f"{name}_lecture{settings.name.removeprefix(name)}"


def of_lecture(settings: MnistDDPM) -> lecture.Lecture:
    """Returns the lecture's settings, with the data and the evaluation of these.

    Raises:
        UsageError: if one is changed that the recipe fixes.
    """
    usual = MnistDDPM()
    changed = [name for name in FIXED if getattr(settings, name) != getattr(usual, name)]
    if changed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise UsageError(f"--recipe lecture has its own {flags}: leave them out.")

    names = {field.name for field in dataclasses.fields(lecture.Lecture)} - {*FIXED, "name"}
    same = {name: getattr(settings, name) for name in names}
    return lecture.Lecture(**same, name=name_of_lecture(settings))


def run(settings: MnistDDPM) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code."""
    if settings.recipe == "ours":
        return mnist.run(settings, OurTask)

    theirs, place = with_place(of_lecture(settings))
    if settings.smoke:
        theirs = dataclasses.replace(theirs, net=lecture.LectureNetConfig(4))
    return pipeline.run(theirs, lambda: LectureTask.of(theirs, mnist.splits(theirs, place)))


if __name__ == "__main__":
    run_script(run, MnistDDPM(), description=__doc__)
