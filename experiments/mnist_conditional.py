"""Digits of a wanted class, and the classifier that is in a conditional model of MNIST.

    python experiments/mnist_conditional.py              # --help lists every setting
    python experiments/mnist_conditional.py --smoke      # 2 steps of a tiny network on noise

The same command, given again, resumes an interrupted run. One network is trained with and without
labels. The page shows samples by class and by weight of the guidance, accuracy and diversity
against the weight, and how often argmax_y p(x|y) is the label of a test image: each takes ten
likelihoods, so they are few.

Data: as for mnist_ddpm.py; pip install 'scoresde[data,experiments]'.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses

import mnist
import numpy as np
import pipeline
from conditional_task import ConditionalTask, Guided, reduced
from idx_experiment import some_of, with_place

import scoresde as sd
from scoresde.cli.flags import run_script
from scoresde.train.model_settings import AnyNet


@dataclasses.dataclass(frozen=True)
class MnistConditional(mnist.Mnist, Guided):
    """Settings of the experiment."""

    name: str = "mnist_conditional"
    net: AnyNet = sd.UNetConfig(
        channels=16, multipliers=(1, 2, 2), num_blocks=1, attention_levels=(2,), num_classes=10
    )
    training: sd.Training = dataclasses.replace(mnist.Mnist.training, steps=5000, drop_cond=0.1)
    informed: int = 100


def run(settings: MnistConditional) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code."""
    settings, place = with_place(settings)
    if settings.smoke:
        settings = reduced(settings)

    def build() -> ConditionalTask:
        data = mnist.splits(settings, place)
        some = some_of(len(data.train))
        drawn = some_of(len(data.test), settings.held_out)
        validated = slice(mnist.VALIDATED)
        labels = np.asarray(data.train.labels)[some]

        return ConditionalTask.build(
            noun="digits",
            train=data.train,
            test=data.test.pixels[drawn],
            reference=data.train.pixels[some],
            labels=labels,
            levels=256,
            watched=settings.watched,
            draws=settings.draws,
            choosing=data.choosing.pixels[validated],
            test_labels=np.asarray(data.test.labels)[drawn],
            reference_labels=labels,
            choosing_labels=np.asarray(data.choosing.labels)[validated],
        )

    return pipeline.run(settings, build)


if __name__ == "__main__":
    run_script(run, MnistConditional(), description=__doc__)
