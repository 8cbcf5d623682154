"""Fashion-MNIST: settings and data that the fashion experiments share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pipeline
from idx_experiment import IdxExperiment, some_of, with_place
from image_task import ImageTask

import scoresde as sd
from scoresde.data import images
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE


@dataclasses.dataclass(frozen=True)
class Fashion(IdxExperiment):
    """Settings of an experiment on Fashion-MNIST."""

    name: str = "fashion"
    sde: AnySDE = sd.VP()
    net: AnyNet = sd.UNetConfig(
        channels=16, multipliers=(1, 2, 2), num_blocks=1, attention_levels=(2,)
    )
    parameterization: AnyParameterization = sd.EDM(sigma_data=0.7)
    training: sd.Training = sd.Training(
        steps=2000, batch_size=64, learning_rate=2e-3, final_rate=0.02, validate_every=500
    )
    sampler: AnySampler = sd.DPMSolverPP(num_steps=20)
    num_samples: int = 500
    likelihood_tolerance: float = 1e-3
    evaluation_batch: int = 250


def run(settings: Fashion) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code."""
    settings, place = with_place(settings)

    def build() -> ImageTask:
        train = images.fashion_mnist("train", **place)
        test = images.fashion_mnist("test", **place)
        some = some_of(len(train))

        return ImageTask.build(
            noun="garments",
            train=train.without_labels(),
            test=test.pixels[: settings.held_out],
            reference=train.pixels[some],
            labels=np.asarray(train.labels)[some],
            levels=256,
            watched=settings.watched,
            draws=settings.draws,
        )

    return pipeline.run(settings, build)
