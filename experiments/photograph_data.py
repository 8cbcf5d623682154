"""Photographs from a folder or from TFDS, or noise: a training source and held-out pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scoresde.data import images
from scoresde.data.source import Source, Subset


def folder_of(data: str) -> Path | None:
    """Returns the folder that `data` names, or None if it is the name of a TFDS data set.

    Raises:
        ValueError: if `data` is empty.
        FileNotFoundError: if it is written as a path, and there is no such folder.
    """
    if not data:
        raise ValueError("no data are named: write --data FOLDER, a folder with the images.")

    folder = Path(data).expanduser()
    if folder.is_dir():
        return folder
    if data[0] in "/.~":  # no name of TFDS begins so
        raise FileNotFoundError(
            f"there is no folder {folder}: write --data FOLDER, or the name of a TFDS data set."
        )
    return None


def from_folder(
    folder: Path, held_out: int, size: int, crop: int | None
) -> tuple[Source, np.ndarray]:
    """Returns the images of a folder without `held_out` random ones, and the pixels of those.

    Raises:
        ValueError: if no image would be left to train on.
    """
    found = images.from_folder(str(folder), size=size, crop=crop, channels=3)
    if len(found) <= held_out:
        raise ValueError(
            f"{folder} holds {len(found)} images and held_out is {held_out}: nothing would be left "
            f"to train on. Write --held-out N with a smaller number."
        )

    # A folder is sorted, often by class, so the held-out images are drawn at random.
    order = np.random.default_rng(0).permutation(len(found))
    test = np.sort(order[:held_out])
    kept = np.sort(order[held_out:])
    return Subset(found, kept), found.pixels[test]  # memory-mapped pixels are not copied


def from_tfds(
    name: str, held_out: int, size: int, crop: int | None, data_dir: str | None, download: bool
) -> tuple[Source, np.ndarray]:
    """Returns the training split of a TFDS data set, and the pixels of the first test images.

    Raises:
        FileNotFoundError: if TFDS has not prepared the data set and may not download it.
    """

    def split(part: str) -> images.Images:
        return images.from_tfds(
            name, part, data_dir=data_dir, download=download, size=size, crop=crop, channels=3
        )

    try:
        train = split("train")
        test = split("test")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} For this experiment: --download, --data-dir, or --data FOLDER."
        ) from error
    return train.without_labels(), test.pixels[:held_out]


def noise() -> tuple[images.Images, np.ndarray]:
    """Returns 65 training images and 7 held-out ones, 8×8 and of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (72, 8, 8, 3)).astype(np.uint8)
    return images.Images(pixels[7:]), pixels[:7]
