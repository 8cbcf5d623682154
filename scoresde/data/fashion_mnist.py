"""Fashion-MNIST, and MNIST, from their idx files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from scoresde.data.atomic_folder import atomic_folder
from scoresde.data.cache import LOCK, cache_folder
from scoresde.data.geometry import Geometry
from scoresde.data.idx import LARGEST, find_idx
from scoresde.data.image_source import Images
from scoresde.data.source import digest
from scoresde.data.tfds_images import find_prepared, import_tfds, read_prepared
from scoresde.reading import read_file

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the four files."""


def fashion_mnist(
    split: str = "train",
    *,
    folder: str | os.PathLike[str] | None = None,
    size: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Images:
    """Returns Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 28×28×1 images of 10 classes.

    They are read from the four idx files, gzipped or not; MNIST's are read as well. At the first
    call they are prepared beside the cache as a TFDS data set in array_record.

    Args:
        split: "train" (60 000 images) or "test" (10 000).
        folder: where the idx files are; None: where Debian's dataset-fashion-mnist puts them.
        size: the side that images are resized to; None keeps 28.
        cache: where decoded images are kept; None: `cache_folder()`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not whole, or too large.
        ModuleNotFoundError: if tensorflow-datasets is not installed.
    """
    files = find_idx(Path(folder).expanduser() if folder else FASHION_MNIST)
    root = Path(cache).expanduser() if cache else cache_folder()
    place = _prepared(files, root)
    return read_prepared(place, split, "image", "label", Geometry(size), cache)


def _prepared(files: dict[str, tuple[Path, Path]], root: Path) -> Path:
    """Returns the folder of the TFDS data set made of these files, which it makes if needed."""
    contents = [read_file(path, LARGEST) for pair in files.values() for path in pair]
    base = root / "idx" / digest(*contents)

    with LOCK:
        place = find_prepared("idx_images", base)
        if place is None:
            if base.is_dir():  # damaged: `atomic_folder` leaves only whole folders
                shutil.rmtree(base)
            _build(files, base)
            place = find_prepared("idx_images", base)

    assert place is not None  # what was built is found
    return place


def _build(files: dict[str, tuple[Path, Path]], base: Path) -> None:
    import_tfds()  # refuses, with the line to write, if it is not installed
    from scoresde.data.idx_images.idx_images_dataset_builder import Builder

    folder = files["train"][0].parent
    with atomic_folder(base) as partial:
        Builder(folder=folder, data_dir=partial).download_and_prepare()
