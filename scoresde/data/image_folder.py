"""Images from a folder of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from scoresde.data.geometry import Geometry
from scoresde.data.image_source import Images, decoded_images, stamp

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def from_folder(
    folder: str | os.PathLike[str],
    *,
    labels: bool = False,
    size: int | None = None,
    crop: int | None = None,
    channels: int | None = 3,
    cache: str | os.PathLike[str] | None = None,
) -> Images:
    """Returns all images in a folder and below it, in the order of their paths.

    Files and folders whose names begin with a dot are skipped, and links are followed. Images are
    turned as their EXIF data say, and transparency is dropped. They are decoded once; when a file
    changes in size or time, all are decoded again.

    Args:
        folder: the folder, with files <folder>/<class>/<image> if there are labels.
        labels: whether the first folder of each path is the class of the image.
        size: the side of the square images; None if all have one size already (see `Geometry`).
        crop: the side of the central square that is cut out first; None cuts nothing.
        channels: 1 for grey, 3 for colour, None to keep both as they are.
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

    def examples(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, int | None]]:
        for i in indices:
            yield _decode(paths[i], geometry), number[names[i]] if names else None

    identity = f"folder {root.resolve()} {geometry} labels={labels} {stamp(root, paths)}"
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


def _decode(path: Path, geometry: Geometry) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return geometry(ImageOps.exif_transpose(image))
    except Exception as error:  # a damaged file raises errors of many kinds
        raise ValueError(f"{path} cannot be used: {error}") from error
