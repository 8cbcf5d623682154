"""MNIST and the data sets in its format: Fashion-MNIST, KMNIST and EMNIST."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from scoresde.data.atomic_folder import atomic_folder
from scoresde.data.cache import LOCK, cache_folder
from scoresde.data.geometry import Geometry
from scoresde.data.idx import LARGEST, Files, downloaded_idx, find_idx
from scoresde.data.image_source import Images
from scoresde.data.source import digest
from scoresde.data.tfds_images import (
    find_prepared,
    import_tfds,
    is_readable,
    read_prepared,
    tfds_folder,
)
from scoresde.reading import read_file

PathLike = str | os.PathLike[str]

DATA = "SCORESDE_DATA"
"""The environment variable that names a folder of data sets."""

DEBIAN = Path("/usr/share/datasets")
"""Where packages of Debian, such as dataset-fashion-mnist, put data sets."""


def mnist(
    split: str = "train",
    *,
    folder: PathLike | None = None,
    size: int | None = None,
    cache: PathLike | None = None,
) -> Images:
    """Returns MNIST (LeCun et al. 1998): handwritten digits, 28×28×1, with their labels.

    Without a folder it is looked for where TFDS prepares data sets, in the folder `mnist` of
    $SCORESDE_DATA (which may be that folder itself), among what Debian has installed, and among
    the files that TFDS has downloaded. Four idx files, gzipped or not, are prepared at the first
    call, beside the cache, as a TFDS data set in array_record.

    Args:
        split: "train" (60 000 images), "test" (10 000), or a part such as "train[:55000]", in the
            order that TFDS has given the images.
        folder: where the four idx files are.
        size: the side that images are resized to; None keeps 28.
        cache: where decoded images are kept; None: `cache_folder()`.

    Raises:
        FileNotFoundError: at once, if it is nowhere; the error says where it was looked for.
        ValueError: if a file is not whole, or too large, or there is no such split.
        ModuleNotFoundError: if tensorflow-datasets is not installed.
    """
    return _idx_set(IdxSet("mnist", "MNIST"), split, folder, size, cache)


def fashion_mnist(
    split: str = "train",
    *,
    folder: PathLike | None = None,
    size: int | None = None,
    cache: PathLike | None = None,
) -> Images:
    """Returns Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): garments of 10 classes, 28×28×1.

    As `mnist`, which says where it is looked for, by the name of the folder `fashion-mnist`. There
    is a package of Debian and Ubuntu: `apt install dataset-fashion-mnist`.
    """
    hint = "On Debian and Ubuntu: apt install dataset-fashion-mnist. "
    data_set = IdxSet("fashion_mnist", "Fashion-MNIST", hint=hint)
    return _idx_set(data_set, split, folder, size, cache)


def kmnist(
    split: str = "train",
    *,
    folder: PathLike | None = None,
    size: int | None = None,
    cache: PathLike | None = None,
) -> Images:
    """Returns KMNIST (Clanuwat et al. 2018, arXiv:1812.01718): hiragana of 10 classes, 28×28×1.

    As `mnist`, which says where it is looked for.
    """
    return _idx_set(IdxSet("kmnist", "KMNIST"), split, folder, size, cache)


def emnist(
    name: str = "balanced",
    split: str = "train",
    *,
    folder: PathLike | None = None,
    size: int | None = None,
    cache: PathLike | None = None,
) -> Images:
    """Returns a set of EMNIST (Cohen et al. 2017, arXiv:1702.05373): letters and digits, 28×28×1.

    As `mnist`, which says where it is looked for. The idx files hold the images transposed; here
    they stand upright. Those that TFDS has prepared lie as TFDS leaves them, transposed.

    Args:
        name: "balanced", "byclass", "bymerge", "letters", "digits" or "mnist".
    """
    sets = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")
    if name not in sets:
        raise ValueError(f"name is {name!r}: wanted one of {', '.join(sets)}.")
    data_set = IdxSet(f"emnist/{name}", "EMNIST", prefix=f"emnist-{name}-", transposed=True)
    return _idx_set(data_set, split, folder, size, cache)


@dataclasses.dataclass(frozen=True)
class IdxSet:
    """A data set of four idx files."""

    name: str
    """That of TFDS."""
    title: str
    prefix: str = ""
    """What the names of its files begin with."""
    transposed: bool = False
    """Whether the files hold columns as rows."""
    hint: str = ""
    """How it can be had, for errors."""

    @property
    def places(self) -> list[Path]:
        """The folders that may hold its files."""
        folder = self.name.partition("/")[0].replace("_", "-")
        places = [DEBIAN / folder]
        if text := os.environ.get(DATA):
            data = Path(text).expanduser()
            # Files of MNIST and Fashion-MNIST have the same names: the folder says which they are.
            places.insert(0, data if data.name == folder else data / folder)
        return places


def _idx_set(
    data_set: IdxSet, split: str, folder: PathLike | None, size: int | None, cache: PathLike | None
) -> Images:
    """Returns the images of a data set, from where it is found first."""
    geometry = Geometry(size)
    if folder is None:
        place = find_prepared(data_set.name, tfds_folder())
        if place is not None and is_readable(place):
            return read_prepared(place, split, "image", "label", geometry, cache)

    files = _find(data_set, folder)
    root = Path(cache).expanduser() if cache else cache_folder()
    place = _prepared(files, root, data_set.transposed)
    return read_prepared(place, split, "image", "label", geometry, cache)


def _find(data_set: IdxSet, folder: PathLike | None) -> Files:
    """Returns the four files of a data set.

    Raises:
        FileNotFoundError: if they are not all in one place.
    """
    downloads = tfds_folder() / "downloads"
    places = data_set.places if folder is None else [Path(folder).expanduser()]
    for place in places:
        if files := find_idx(place, data_set.prefix):
            return files
    if folder is None and (files := downloaded_idx(downloads, data_set.name, data_set.prefix)):
        return files

    function = data_set.name.partition("/")[0]
    looked = places
    if folder is None:
        looked = [tfds_folder() / data_set.name, *places, downloads]
    unset = "" if folder is not None or DATA in os.environ else f" (${DATA} is not set)"
    raise FileNotFoundError(
        f"{data_set.title} is not in {', nor in '.join(map(str, looked))}{unset}. Wanted its four "
        f"idx files, {data_set.prefix}train-images-idx3-ubyte and so on, with or without .gz. "
        f"{data_set.hint}With a network: images.from_tfds({data_set.name!r}, download=True). "
        f"With the files elsewhere: images.{function}(folder=...), or --folder of an experiment."
    )


def _prepared(files: Files, root: Path, transposed: bool) -> Path:
    """Returns the folder of the TFDS data set made of these files, which it makes if needed."""
    contents = [read_file(path, LARGEST) for pair in files.values() for path in pair]
    base = root / "idx" / (digest(*contents) + ("-upright" if transposed else ""))

    with LOCK:
        place = find_prepared("idx_images", base)
        if place is None:
            if base.is_dir():  # damaged: `atomic_folder` leaves only whole folders
                shutil.rmtree(base)
            _build(files, base, transposed)
            place = find_prepared("idx_images", base)

    assert place is not None  # what was built is found
    return place


def _build(files: Files, base: Path, transposed: bool) -> None:
    import_tfds()  # refuses, with the line to write, if it is not installed
    from scoresde.data.idx_images.idx_images_dataset_builder import Builder

    with atomic_folder(base) as partial:
        builder = Builder(files=files, transposed=transposed, data_dir=partial)
        builder.download_and_prepare()
