"""What experiments on MNIST and the sets like it share: settings, and `--smoke`."""

from __future__ import annotations

import dataclasses
import gzip
import struct
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from image_experiment import ImageExperiment

import scoresde as sd
from scoresde.data.idx import FILES
from scoresde.writing import write_atomically

REFERENCES = 5_000
"""Training images for the classifier, the Gaussian and the distances."""


@dataclasses.dataclass(frozen=True)
class IdxExperiment(ImageExperiment):
    """Settings of an experiment on images in idx files."""

    held_out: int = 256
    """Test images for likelihoods and distances."""
    watched: int = 32
    """How many held-out images have their bits/dim computed at every checkpoint."""
    draws: int = 256
    """Samples drawn at every checkpoint, for a Fréchet distance."""
    folder: str = ""
    """The folder of the four idx files; empty: where they are looked for (scoresde.data.images)."""
    smoke: bool = False
    """Run 2 steps of a tiny network on images of noise, only to check that everything runs."""


Settings = TypeVar("Settings", bound=IdxExperiment)


def with_place(settings: Settings) -> tuple[Settings, dict[str, Any]]:
    """Returns the settings, reduced for --smoke, and where the data are: folder and cache."""
    if not settings.smoke:
        return settings, {"folder": settings.folder or None, "cache": None}

    settings = reduced(settings)
    cache = Path(settings.runs).expanduser() / settings.name / "data"
    return settings, {"folder": write_noise(cache), "cache": cache}


def some_of(n: int, count: int = REFERENCES) -> np.ndarray:
    """Returns the rows of a random part of n images.

    TFDS shuffles the images, but does not promise to.
    """
    return np.random.default_rng(0).permutation(n)[:count]


# --- Smoke: the smallest settings, and files of noise for data ---

SIDE = 6
COUNTS = (200, 20)  # training and test images


def reduced(settings: Settings) -> Settings:
    """Returns settings with the same process and sampler, and the rest as small as possible."""
    net = sd.UNetConfig(channels=4, multipliers=(1,), num_blocks=1, attention_levels=())
    training = dataclasses.replace(
        settings.training, steps=2, batch_size=4, log_every=1, validate_every=1
    )
    return dataclasses.replace(
        settings,
        name=f"{settings.name}_smoke",
        net=net,
        training=training,
        num_samples=8,
        likelihood_tolerance=1e-4,
        held_out=8,
        watched=4,
        draws=8,
    )


def write_noise(folder: Path, seed: int = 0) -> Path:
    """Writes four idx files with the names and format of MNIST's, with pixels of noise."""
    rng = np.random.default_rng(seed)
    for (pixels_name, labels_name), count in zip(FILES.values(), COUNTS, strict=True):
        pixels = rng.bytes(count * SIDE * SIDE)
        labels = rng.integers(0, 10, count, np.uint8).tobytes()

        # idx: two zero bytes, the type (8: unsigned byte), the rank, and the shape, big-endian.
        pixels_header = struct.pack(">4B3I", 0, 0, 8, 3, count, SIDE, SIDE)
        labels_header = struct.pack(">4BI", 0, 0, 8, 1, count)
        write_compressed(folder / f"{pixels_name}.gz", pixels_header + pixels)
        write_compressed(folder / f"{labels_name}.gz", labels_header + labels)
    return folder


def write_compressed(path: Path, content: bytes) -> None:
    """Writes a gzip file whose bytes do not depend on the time."""
    write_atomically(path, gzip.compress(content, mtime=0))
