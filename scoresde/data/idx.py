"""The idx format of MNIST and its kin: bytes 0 0, type, rank; sizes as big-endian 32-bit numbers; the entries."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Images and labels of each split, as MNIST named them and Fashion-MNIST kept."""


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an idx file, gzipped if its name says so.

    Raises:
        ValueError: if it is no such file, or is not whole.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}): get it anew.") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(
            f"{path} begins with {content[:4]!r}: wanted an idx file of unsigned bytes, 0 0 8 rank."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} ends within its header: get it anew.")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path} holds {len(content) - start} entries, its header says {shape}: it is not whole, get it anew."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def find_idx(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The four files of a folder by split, each with or without .gz.

    Raises:
        FileNotFoundError: if one is missing.
    """

    def one(name: str) -> Path:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
        raise FileNotFoundError(
            f"{folder} has no {name}, nor {name}.gz: wanted the four idx files of Fashion-MNIST (or MNIST). Debian and "
            f"Ubuntu: apt install dataset-fashion-mnist. Elsewhere: get them from github.com/zalandoresearch/"
            f"fashion-mnist and name their folder, images.fashion_mnist(folder=...)."
        )

    return {split: (one(images), one(labels)) for split, (images, labels) in FILES.items()}
