"""The idx format, in which MNIST and Fashion-MNIST are distributed.

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

from scoresde.reading import check_size, open_regular

LARGEST = 2**28
"""The bytes that a file may hold, unpacked too: 256 MB, five times the images of MNIST."""

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The images and labels of each split, under the names that MNIST and Fashion-MNIST share."""


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


def find_idx(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Returns the paths of images and labels by split, each with or without .gz.

    Raises:
        FileNotFoundError: if one of the four files is missing.
    """
    found = {}
    for split, (images, labels) in FILES.items():
        found[split] = (_find(folder, images), _find(folder, labels))
    return found


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{folder} has no {name}, nor {name}.gz: wanted the four idx files of Fashion-MNIST or "
        f"MNIST. On Debian and Ubuntu: apt install dataset-fashion-mnist. Elsewhere download them "
        f"from github.com/zalandoresearch/fashion-mnist, and write "
        f"images.fashion_mnist(folder=...)."
    )
