"""The digits: settings and data that the digits experiments share."""

from __future__ import annotations

import dataclasses

import pipeline
from image_experiment import ImageExperiment
from image_task import ImageTask

import scoresde as sd
from scoresde.data import arrays
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

TRAINING = sd.Training(steps=1800, learning_rate=2e-3, final_rate=0.02, validate_every=600)


@dataclasses.dataclass(frozen=True)
class Digits(ImageExperiment):
    """Settings of an experiment on the digits."""

    name: str = "digits"
    sde: AnySDE = sd.VP()
    net: AnyNet = sd.UNetConfig(channels=32, num_blocks=1)
    parameterization: AnyParameterization = sd.EDM(sigma_data=0.6)
    training: sd.Training = TRAINING
    sampler: AnySampler = sd.ProbabilityFlow(rtol=1e-3, atol=1e-3)
    num_samples: int = 1000
    likelihood_tolerance: float = 1e-4
    evaluation_batch: int = 250
    shift: int = 0
    """Augmentation: training digits are moved at random by up to this many pixels per axis."""


def run(
    settings: Digits,
    others: dict[str, AnySampler] | None = None,
    kind: type[ImageTask] = ImageTask,
) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code.

    others: samplers to compare with the sampler of the settings, by name. kind: what is done with
    the digits.
    """

    def build() -> ImageTask:
        data = arrays.digits()
        return kind.build(
            noun="digits",
            train=data.train,
            test=data.test,
            reference=data.train,
            labels=data.train_labels,
            levels=data.levels,
            others=others or {},
            shift=settings.shift,
        )

    return pipeline.run(settings, build)
