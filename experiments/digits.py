"""The digits: settings and data that the digits experiments share."""

from __future__ import annotations

import dataclasses

import pipeline
from image_task import ImageExperiment, ImageTask

import scoresde as sd
from scoresde.data.arrays import digits
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE


@dataclasses.dataclass(frozen=True)
class Digits(ImageExperiment):
    """Settings of a digits experiment."""

    name: str = "digits"
    """The run's folder is <runs>/<name>."""
    sde: AnySDE = sd.VP()
    net: AnyNet = sd.UNetConfig(channels=32, num_blocks=1)
    parameterization: AnyParameterization = sd.EDM(sigma_data=0.6)
    training: sd.Training = sd.Training(
        steps=1800, learning_rate=2e-3, final_rate=0.02, validate_every=600
    )
    sampler: AnySampler = sd.ProbabilityFlow(rtol=1e-3, atol=1e-3)
    num_samples: int = 1000
    """Samples for the distances; the picture shows the first 64."""
    likelihood_tolerance: float = 1e-4
    """Relative and absolute tolerance of the likelihood's solver."""
    evaluation_batch: int = 250
    """Examples at a time in sampling and likelihoods: fewer need less memory."""
    likelihood_t_min: float = 1e-5
    """Where the likelihood starts; a network of discrete levels has learnt nothing below its lowest."""
    shift: int = 0
    """Augmentation: training digits are moved at random by up to so many pixels along each axis."""
    seed: int = 0
    """Decides the initial weights, every batch, and every draw."""
    runs: str = "runs"
    """Where runs' folders stand."""


def run(settings: Digits, others: dict[str, AnySampler] | None = None) -> int:
    """Train or resume, sample, evaluate, report; the exit code. others: samplers to compare the run's own with."""

    def build() -> ImageTask:
        data = digits()
        return ImageTask.build(
            "digits",
            data.train,
            data.test,
            data.train,
            data.train_labels,
            data.levels,
            others=others or {},
            shift=settings.shift,
        )

    return pipeline.run(settings, build)
