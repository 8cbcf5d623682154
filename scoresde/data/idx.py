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

import numpy as np

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The images and labels of each split, under the names that MNIST and Fashion-MNIST share."""


def read_idx(path: Path) -> np.ndarray:
    """Returns the array of unsigned bytes in an idx file, gzipped if its name ends in .gz.

    Raises:
        ValueError: if it is not an idx file of unsigned bytes, or is not whole.
    """
    content = _content(path)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(
            f"{path} begins with {content[:4]!r}: wanted an idx file of unsigned bytes, which "
            f"begins with the bytes 0, 0, 8 and its rank."
        )

    rank = content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise ValueError(f"{path} ends within its header: download it again.")

    shape = struct.unpack(f">{rank}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path} holds {len(content) - start} entries, but its header says {shape}: it is not "
            f"whole, download it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


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


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is not a whole gzip file ({error}): download it again."
        ) from error
