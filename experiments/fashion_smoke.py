"""`--smoke` of the fashion experiments: the smallest settings, and files of noise for data."""

from __future__ import annotations

import dataclasses
import gzip
import struct
from pathlib import Path
from typing import TypeVar

import numpy as np
from image_experiment import ImageExperiment

import scoresde as sd
from scoresde.data.idx import FILES
from scoresde.writing import write_atomically

Settings = TypeVar("Settings", bound=ImageExperiment)

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
    """Writes four idx files with the names and format of Fashion-MNIST, with pixels of noise."""
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
