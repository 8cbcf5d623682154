"""Images and their labels as a source of examples for `fit`."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from scoresde import checks, layout
from scoresde.data.cache import Examples, cache_folder, decode_once
from scoresde.data.source import digest

LARGEST_READ = 2**30
"""The number of bytes beyond which a fingerprint is taken from a sample of the rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """A source of integer images, in memory or memory mapped, and of their labels.

    Raises:
        ValueError: if the pixels are not integers of shape (n, height, width, c), if their channels
            do not seem to come last, or if the number of labels is not that of the images.
    """

    pixels: np.ndarray
    """The images, (n, height, width, c)."""
    labels: np.ndarray | None = None
    """One label per image, (n,), or None."""
    classes: tuple[str, ...] = ()
    """The names of the labels, where they are known."""
    digest: str | None = None
    """A digest of pixels and labels, where it is already known."""

    def __post_init__(self):
        pixels = self.pixels
        checks.nothing_is_lost(pixels, "pixels")
        if pixels.ndim != 4 or len(pixels) == 0 or not np.issubdtype(pixels.dtype, np.integer):
            raise ValueError(
                f"pixels have shape {pixels.shape} and dtype {pixels.dtype}: wanted integers "
                f"(n, height, width, c) with n > 0. For grey images write pixels[..., None]; pass "
                f"real-valued arrays to fit as they are."
            )
        if layout.is_doubtful(self.shape):
            lines = " ".join(
                f"For images {kind} write {line}."
                for kind, line, _ in layout.remedies(self.shape, "pixels")
            )
            raise ValueError(
                f"pixels have shape {pixels.shape}: wanted (n, height, width, c). {lines} If the "
                f"last axis does hold {self.shape[-1]} channels, pass "
                f"sd.data.ArraySource(pixels, labels) to fit."
            )
        if self.labels is not None and self.labels.shape[:1] != pixels.shape[:1]:
            raise ValueError(
                f"labels have shape {self.labels.shape} for {len(pixels)} images: wanted one label "
                f"for each, an array of shape ({len(pixels)},)."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, (height, width, c)."""
        return self.pixels.shape[1:]

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: np.ndarray) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Returns pixels (k, height, width, c), or (pixels, labels) where there are labels."""
        pixels = np.asarray(self.pixels[indices])
        return pixels if self.labels is None else (pixels, self.labels[indices])

    @functools.cached_property
    def fingerprint(self) -> str:
        """A text that changes with the images: the digest where it is known, else one computed now.

        Beyond 1 GiB it is computed from 1024 evenly spaced rows.
        """
        if self.digest is not None:
            return f"{self.digest}{'' if self.labels is None else ' with labels'}"

        labels = [] if self.labels is None else [self.labels]
        if self.pixels.nbytes <= LARGEST_READ:
            return digest(self.pixels, *labels)

        spread = np.unique(np.linspace(0, len(self) - 1, 1024).astype(int))
        return digest(str(self.pixels.shape).encode(), self.pixels[spread], *labels)

    def without_labels(self) -> Images:
        """Returns the same images without labels, for a network that has no classes."""
        return dataclasses.replace(self, labels=None, classes=())


# --- Images from files, decoded once ---


def decoded_images(
    identity: str,
    count: int,
    examples: Examples,
    cache: str | os.PathLike[str] | None,
    classes: tuple[str, ...],
) -> Images:
    """Returns `count` images from the cache, where `examples` decodes them at the first call.

    identity: a text that names everything the pixels depend on. cache: a folder; None:
    `cache_folder()`.
    """
    root = Path(cache).expanduser() if cache else cache_folder()
    decoded = decode_once(identity, count, examples, root / "decoded")
    return Images(decoded.pixels, decoded.labels, classes, decoded.digest)


def stamp(root: Path, paths: Iterable[Path]) -> str:
    """Returns a digest of the names, sizes and times of files, which tells when they change."""
    lines = []
    for path in paths:
        stat = path.stat()
        lines.append(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n")
    return digest("".join(lines).encode())
