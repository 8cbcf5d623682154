"""Images from a folder of image files."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ImageOps

from scoresde import checks
from scoresde.data.geometry import DECODING, Geometry, is_grey
from scoresde.data.image_source import Images, decoded_images, stamp
from scoresde.data.picture_file import SUFFIXES, open_picture


def from_folder(
    folder: str | os.PathLike[str],
    *,
    labels: bool = False,
    size: int | None = None,
    crop: int | None = None,
    channels: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Images:
    """Returns all images in a folder and below it, in the order of their paths.

    Files and folders whose names begin with a dot are skipped, and links are followed. A file is
    read as one of the formats in `picture_file`, whichever its name says. Images are turned as
    their EXIF data say, and transparent ones are laid on white. They are decoded once; when a file
    changes in size or time, all are decoded again.

    Args:
        folder: the folder, with files <folder>/<class>/<image> if there are labels.
        labels: whether the first folder of each path is the class of the image.
        size: the side of the square images; None if all have one size already (see `Geometry`).
        crop: the side of the central square that is cut out first; None cuts nothing.
        channels: 1 for grey, 3 for colour; None for what the files are: grey if all of them are,
            else colour. Where some are grey and some are not, a warning says so when they are
            decoded.
        cache: where decoded images are kept; None: `cache_folder()`.

    Raises:
        FileNotFoundError: if there is no image.
        ValueError: if images differ in shape and no size is given, if one cannot be read, or if one
            belongs to no class.
    """
    root = Path(folder).expanduser()
    paths = sorted(_files(root))
    if not paths:
        raise FileNotFoundError(
            f"{root} holds no image: wanted files {', '.join(sorted(SUFFIXES))} in it or below it."
        )

    names = _class_names(root, paths) if labels else None
    classes = tuple(sorted(set(names))) if names else ()
    number = {name: i for i, name in enumerate(classes)}
    geometry = Geometry(size, crop, channels)
    chosen = functools.cache(lambda: channels or _channels_of(paths))  # it opens every file

    def examples(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, int | None]]:
        of_files = dataclasses.replace(geometry, channels=chosen())
        for i in indices:
            yield _decode(paths[i], of_files), number[names[i]] if names else None

    identity = f"folder {root.resolve()} {geometry} labels={labels} {stamp(root, paths)} {DECODING}"
    return decoded_images(identity, len(paths), examples, cache, classes)


def _files(root: Path) -> Iterator[Path]:
    """Yields the images below root, visiting each folder once, wherever links lead."""
    seen = set()
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]

        # A link may lead to a folder that was visited before, or in a circle.
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)

        for name in names:
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


def _class_names(root: Path, paths: Sequence[Path]) -> list[str]:
    """Returns the class of every image: the first folder of its path below root."""
    names = []
    for path in paths:
        parts = path.relative_to(root).parts
        if len(parts) < 2:
            raise ValueError(
                f"{path} belongs to no class: wanted {root}/<class>/<image>. If the images have no "
                f"classes write labels=False."
            )
        names.append(parts[0])
    return names


def _channels_of(paths: Sequence[Path]) -> int:
    """Returns 1 if all files are grey, else 3; it warns where some are and some are not."""
    grey = [path for path in paths if _is_grey(path)]
    if len(grey) == len(paths):
        return 1
    if grey:
        checks.warn(
            f"{len(grey)} of {len(paths)} images are grey, the first is {grey[0]}: all are read as "
            f"colour. Write channels=3 to say so, or channels=1 to read all as grey."
        )
    return 3


def _is_grey(path: Path) -> bool:
    try:
        with open_picture(path) as image:
            return is_grey(image)
    except Exception as error:  # a damaged file raises errors of many kinds
        raise ValueError(f"{path} cannot be used: {error}") from error


def _decode(path: Path, geometry: Geometry) -> np.ndarray:
    try:
        with open_picture(path) as image:
            return geometry(ImageOps.exif_transpose(image))
    except Exception as error:  # a damaged file raises errors of many kinds
        raise ValueError(f"{path} cannot be used: {error}") from error
