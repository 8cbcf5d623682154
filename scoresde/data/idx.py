"""The idx format, in which MNIST and the data sets like it are distributed.

A file holds the bytes 0, 0, type and rank, then the sizes as big-endian 32-bit numbers, then the
entries. Type 8 means unsigned bytes.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from scoresde.reading import check_size, open_regular, read_json

LARGEST = 2**28
"""The bytes that a file may hold, unpacked too: 256 MB, five times the images of MNIST."""

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The images and labels of each split, under the names that MNIST and the sets like it share."""

Files = dict[str, tuple[Path, Path]]
"""The paths of images and labels by split."""


def read_idx(path: Path) -> np.ndarray:
    """Returns the array of unsigned bytes in an idx file, gzipped if its name ends in .gz.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is not an idx file of unsigned bytes, not whole, or too large.
    """
    with open_regular(path) as file:
        check_size(file, path, LARGEST)
        try:
            if path.suffix != ".gz":
                return _read(path, file)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read(path, unpacked)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{path} is not a whole gzip file ({error}): download it again."
            ) from error


def _read(path: Path, stream: Any) -> np.ndarray:
    """Returns the array in a stream, of which no more is unpacked than the header says."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08":
        raise ValueError(
            f"{path} begins with {magic!r}: wanted an idx file of unsigned bytes, which begins "
            f"with the bytes 0, 0, 8 and its rank."
        )

    rank = magic[3]
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise ValueError(f"{path} ends within its header: download it again.")

    shape = struct.unpack(f">{rank}I", sizes)
    wanted = math.prod(shape)
    if wanted > LARGEST or rank > 4:
        raise ValueError(
            f"{path} says in its header that it holds an array of shape {shape[:5]}: wanted images "
            f"or labels, of at most {LARGEST:,} bytes together."
        )
    content = stream.read(wanted + 1)
    if len(content) != wanted:
        more = "more" if len(content) > wanted else len(content)
        raise ValueError(
            f"{path} holds {more} entries, but its header says {shape}: it is not whole, download "
            f"it again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def find_idx(folder: Path, prefix: str = "") -> Files | None:
    """Returns the paths of the four files in a folder, each with or without .gz; None if not all.

    EMNIST writes `test` for `t10k`, and some copies of MNIST a dot before `idx`.
    """
    found = {}
    for split, names in FILES.items():
        pair = [_find(folder, prefix + name) for name in names]
        if None in pair:
            return None
        found[split] = tuple(pair)
    return found


def _find(folder: Path, name: str) -> Path | None:
    for spelling in (name, name.replace("t10k", "test")):
        for written in (spelling, spelling.replace("-idx", ".idx")):
            for path in (folder / written, folder / f"{written}.gz"):
                if path.is_file():
                    return path
    return None


def downloaded_idx(downloads: Path, name: str, prefix: str = "") -> Files | None:
    """Returns the four files of a data set among those that TFDS has downloaded, or None.

    TFDS changes their names, and keeps the old ones in a file *.INFO beside each.
    """
    paths = {}
    for info in sorted([*downloads.glob("*.INFO"), *downloads.glob("*/*.INFO")]):
        if original := _original_name(info, name.partition("/")[0]):
            paths[original.removesuffix(".gz").replace("-test-", "-t10k-")] = info.with_suffix("")

    found = {}
    for split, (images, labels) in FILES.items():
        pair = paths.get(prefix + images), paths.get(prefix + labels)
        if not all(path is not None and path.is_file() for path in pair):
            return None
        found[split] = pair
    return found


def _original_name(info: Path, data_set: str) -> str:
    """Returns the name that a file had before TFDS changed it; "" if it is of another data set."""
    try:
        about = read_json(info)
    except (OSError, ValueError):
        return ""

    about = about if isinstance(about, dict) else {}
    names = about.get("dataset_names")
    original = about.get("original_fname")
    if isinstance(names, list) and data_set in names and isinstance(original, str):
        return original
    return ""
