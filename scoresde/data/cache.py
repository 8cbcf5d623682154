"""Images that are decoded once: a uint8 array on disk, whole or not there at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scoresde.data.atomic_folder import atomic_folder
from scoresde.data.source import digest
from scoresde.reading import map_npy, read_json, read_npy

LARGEST_IN_MEMORY = 2**30
"""The number of bytes beyond which pixels stay on disk, memory mapped."""
LOCK = threading.Lock()
"""Held while decoding: the threads of one process would write to the same unfinished folder."""
CHUNK = 128
"""The number of images that a thread decodes at a time."""

Examples = Callable[[Sequence[int]], Iterable[tuple[np.ndarray, int | None]]]
"""Indices → for each of them the pixels (h, w, c) and the label."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels (n, h, w, c) of uint8, labels (n,) or None, and a digest of both."""

    pixels: np.ndarray
    labels: np.ndarray | None
    digest: str


def decode_once(identity: str, count: int, examples: Examples, folder: Path) -> Decoded:
    """Returns examples 0 … count - 1, decoded by the first call and read from disk by later ones.

    They are kept in <folder>/<digest of identity>. Small sets are read into memory and compared
    with their digest; large ones are memory mapped, and only their size is checked. A call that
    is killed leaves nothing that a later one takes for whole.

    Args:
        identity: a text that names everything the result depends on.
        count: the number of examples.
        examples: decodes the examples at some indices.
        folder: where decoded images are kept.

    Raises:
        ValueError: if examples differ in shape, or are not uint8 images.
        OSError: if the folder cannot be written, or has too little space.
    """
    place = folder / digest(identity.encode())
    with LOCK:
        return _decode_once(place, identity, count, examples)


def cache_folder() -> Path:
    """Returns $SCORESDE_CACHE, or else scoresde/ in the user's folder for caches."""
    chosen = os.environ.get("SCORESDE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scoresde"


def _decode_once(place: Path, identity: str, count: int, examples: Examples) -> Decoded:
    if place.is_dir():
        try:
            return _read(place, identity, count)
        except (OSError, ValueError) as error:
            warnings.warn(
                f"the decoded images in {place} are damaged ({error}): decoding them again.",
                stacklevel=4,
            )
            shutil.rmtree(place)

    _check_writable(place.parent)
    with atomic_folder(place) as partial:
        _write(partial, identity, count, examples)
    return _read(place, identity, count)


# --- Writing ---


def _check_writable(folder: Path) -> None:
    """Makes the folder for decoded images, and refuses one that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"decoded images cannot be kept in {folder} ({error.strerror}): write cache=FOLDER, or "
            f"set SCORESDE_CACHE, to a folder that can be written."
        ) from error


def _write(folder: Path, identity: str, count: int, examples: Examples) -> None:
    """Decodes all examples into the folder."""
    ((first, label),) = examples([0])
    _check_first(first, count, folder)

    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, (count, *first.shape))
    labels = None if label is None else np.empty(count, np.int32)
    _decode_all(examples, pixels, labels)

    pixels.flush()
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    about = {"identity": identity, "digest": _digest_of(pixels, labels)}
    (folder / "about.json").write_text(json.dumps(about))


def _decode_all(examples: Examples, pixels: np.ndarray, labels: np.ndarray | None) -> None:
    """Fills pixels and labels, by threads: image decoders release the interpreter's lock."""
    count = len(pixels)

    def decode(start: int) -> int:
        indices = range(start, min(start + CHUNK, count))
        for i, (image, label) in zip(indices, examples(indices), strict=True):
            _check_alike(image, i, pixels.shape[1:])
            pixels[i] = image
            if labels is not None:
                labels[i] = -1 if label is None else label
        return len(indices)

    quick = pixels.nbytes < 2**24
    bar = tqdm(total=count, desc="decoding", unit="image", disable=quick, mininterval=1.0)
    with bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        for number in threads.map(decode, range(0, count, CHUNK)):
            bar.update(number)


def _check_first(image: np.ndarray, count: int, folder: Path) -> None:
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(
            f"example 0 has dtype {image.dtype} and shape {image.shape}: wanted uint8 (height, "
            f"width, c)."
        )

    needed = count * image.nbytes
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, and the decoded images need "
            f"{needed / 1e9:.1f}: free space there, or set SCORESDE_CACHE to another folder."
        )


def _check_alike(image: np.ndarray, i: int, shape: tuple[int, ...]) -> None:
    if image.shape != shape or image.dtype != np.uint8:
        raise ValueError(
            f"example {i} has shape {image.shape} and dtype {image.dtype}, example 0 has {shape} "
            f"and uint8: wanted the same for all. Write size=... to resize them to one size, and "
            f"channels=3 to turn them all into colour."
        )


# --- Reading ---


def _read(place: Path, identity: str, count: int) -> Decoded:
    """Returns what `_write` left; an error says that it is not whole, or holds other images."""
    about = read_json(place / "about.json", inside=place)
    if not isinstance(about, dict) or about.get("identity") != identity:
        raise ValueError("it holds other images")

    pixels = map_npy(place / "pixels.npy", inside=place)
    file = place / "labels.npy"
    labels = read_npy(file, inside=place) if file.exists() else None
    _check_kind(pixels, labels, count)

    if pixels.nbytes <= LARGEST_IN_MEMORY:
        pixels = np.array(pixels)
        if _digest_of(pixels, labels) != about.get("digest"):
            raise ValueError("they do not match their digest")
    return Decoded(pixels, labels, str(about.get("digest")))


def _check_kind(pixels: np.ndarray, labels: np.ndarray | None, count: int) -> None:
    """Refuses arrays that are not what `_write` writes for so many examples."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != count:
        raise ValueError(f"pixels are {pixels.dtype}{list(pixels.shape)} for {count} images")
    if labels is not None and (labels.dtype != np.int32 or labels.shape != (count,)):
        raise ValueError(f"labels are {labels.dtype}{list(labels.shape)} for {count} images")


def _digest_of(pixels: np.ndarray, labels: np.ndarray | None) -> str:
    return digest(pixels) if labels is None else digest(pixels, labels)
