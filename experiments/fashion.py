"""Fashion-MNIST: settings and data that the fashion experiments share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import fashion_smoke
import numpy as np
import pipeline
from image_experiment import ImageExperiment
from image_task import ImageTask

import scoresde as sd
from scoresde.data import images
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

REFERENCES = 5_000
"""Training images for the classifier, the Gaussian and the distances."""


@dataclasses.dataclass(frozen=True)
class Fashion(ImageExperiment):
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
    held_out: int = 256
    """Test images for validation, likelihoods and distances."""
    watched: int = 32
    """How many of the held-out images have their bits/dim computed at every checkpoint."""
    draws: int = 256
    """Samples drawn at every checkpoint, for a Fréchet distance."""
    folder: str = ""
    """The folder of the four idx files; empty: where Debian's dataset-fashion-mnist puts them."""
    smoke: bool = False
    """Run 2 steps of a tiny network on images of noise, only to check that everything runs."""


def run(settings: Fashion) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code."""
    folder = settings.folder or None
    cache = None
    if settings.smoke:
        settings = fashion_smoke.reduced(settings)
        cache = Path(settings.runs).expanduser() / settings.name / "data"
        folder = fashion_smoke.write_noise(cache)

    def build() -> ImageTask:
        train = images.fashion_mnist("train", folder=folder, cache=cache)
        test = images.fashion_mnist("test", folder=folder, cache=cache)
        # TFDS shuffles the images, but does not promise to.
        some = np.random.default_rng(0).permutation(len(train))[:REFERENCES]

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
