"""Fashion-MNIST: settings and data that the fashion experiments share."""

from __future__ import annotations

import dataclasses
import gzip
import struct
from pathlib import Path

import numpy as np
import pipeline
from image_task import ImageExperiment, ImageTask

import scoresde as sd
from scoresde.data import images
from scoresde.data.idx import FILES
from scoresde.runs.files import write_atomically
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE


@dataclasses.dataclass(frozen=True)
class Fashion(ImageExperiment):
    """Settings of an experiment on Fashion-MNIST."""

    name: str = "fashion"
    """The run's folder is <runs>/<name>."""
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
    """Samples for the distances; the picture shows the first 64."""
    likelihood_tolerance: float = 1e-3
    """Relative and absolute tolerance of the likelihood's solver."""
    evaluation_batch: int = 250
    """Examples at a time in sampling and likelihoods: fewer need less memory."""
    likelihood_t_min: float = 1e-5
    """Where the likelihood starts."""
    held_out: int = 256
    """Test images for validation, likelihoods and distances."""
    watched: int = 32
    """Of them, those whose bits/dim are found at every checkpoint."""
    draws: int = 256
    """Samples drawn at every checkpoint, for a Fréchet distance."""
    folder: str = ""
    """Where the four idx files stand; empty: where Debian's dataset-fashion-mnist puts them."""
    seed: int = 0
    """Decides the initial weights, every batch, and every draw."""
    runs: str = "runs"
    """Where runs' folders stand."""
    smoke: bool = False
    """2 steps of a tiny network on images of noise, through everything: does it run at all."""


def run(settings: Fashion) -> int:
    """Train or resume, sample, evaluate, report; the exit code."""
    folder, cache = settings.folder or None, None
    if settings.smoke:
        settings = reduced(settings)
        cache = Path(settings.runs).expanduser() / settings.name / "data"
        folder = stand_in(cache)

    def build() -> ImageTask:
        train, test = (
            images.fashion_mnist(split, folder=folder, cache=cache) for split in ("train", "test")
        )
        some = np.random.default_rng(0).permutation(len(train))[
            :5_000
        ]  # TFDS shuffles, but promises nothing
        reference, labels = train.pixels[some], np.asarray(train.labels)[some]
        return ImageTask.build(
            "garments",
            train.without_labels(),
            test.pixels[: settings.held_out],
            reference,
            labels,
            levels=256,
            watched=settings.watched,
            draws=settings.draws,
        )

    return pipeline.run(settings, build)


# --- Smoke ---


def reduced(settings: Fashion) -> Fashion:
    """The same process and sampler, everything else as small as it can be."""
    return dataclasses.replace(
        settings,
        name=f"{settings.name}_smoke",
        net=sd.UNetConfig(channels=4, multipliers=(1,), num_blocks=1, attention_levels=()),
        training=dataclasses.replace(
            settings.training, steps=2, batch_size=4, log_every=1, validate_every=1
        ),
        num_samples=8,
        likelihood_tolerance=1e-4,
        held_out=8,
        watched=4,
        draws=8,
    )


def stand_in(folder: Path, seed: int = 0) -> Path:
    """Four idx files of Fashion-MNIST's names and format: 6×6 pixels of noise, 200 and 20 of them."""
    rng = np.random.default_rng(seed)
    for (x, y), n in zip(FILES.values(), (200, 20), strict=True):
        pixels = struct.pack(">4B3I", 0, 0, 8, 3, n, 6, 6) + rng.bytes(36 * n)
        labels = struct.pack(">4BI", 0, 0, 8, 1, n) + (rng.integers(0, 10, n, np.uint8)).tobytes()
        for name, content in ((x, pixels), (y, labels)):
            write_atomically(folder / f"{name}.gz", gzip.compress(content, mtime=0))
    return folder
