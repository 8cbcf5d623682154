"""Images decoded once: a uint8 array on disk, whole or not there at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scoresde.data.source import digest

LARGEST_IN_MEMORY = 2**30
"""Bytes of pixels beyond which they stay on disk, memory mapped."""
LOCK = threading.Lock()
"""Between threads of one process, which share the name of what is half done."""
CHUNK = 128
"""Images that a thread decodes at a time."""

Examples = Callable[[Sequence[int]], Iterable[tuple[np.ndarray, int | None]]]
"""Some of 0 … n - 1 → of each the pixels (h, w, c) and the label."""


def cache_folder() -> Path:
    """$SCORESDE_CACHE, else scoresde/ in the user's folder for caches."""
    own = os.environ.get("SCORESDE_CACHE")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scoresde"
    return Path(own).expanduser() if own else usual


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels (n, h, w, c) of uint8, labels (n,) or None, and a digest of both."""

    pixels: np.ndarray
    labels: np.ndarray | None
    digest: str


def decode_once(identity: str, count: int, examples: Examples, folder: Path) -> Decoded:
    """`examples` of 0 … count - 1, read from <folder>/<digest of identity> where an earlier call left them.

    identity: a text that says everything the result depends on. Small sets are read into memory and compared with
    their digest; large ones are memory mapped, and only their size is checked. A call that is killed leaves nothing
    that a later one takes for whole.

    Raises:
        ValueError: if examples differ in shape, or are no uint8 images.
        OSError: if the folder cannot be written, or has too little space.
    """
    place = folder / digest(identity.encode())
    with LOCK:
        return _decode_once(place, identity, count, examples)


def _decode_once(place: Path, identity: str, count: int, examples: Examples) -> Decoded:
    if place.is_dir():
        try:
            return _read(place, identity)
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(
                f"the decoded images in {place} are damaged ({error}): decoding anew.", stacklevel=4
            )
            shutil.rmtree(place)
    with whole_or_not_at_all(place) as partial:
        _write(partial, identity, count, examples)
    return _read(place, identity)


@contextmanager
def whole_or_not_at_all(place: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `place` at the end, unless another process was first: its own is the same."""
    _remove_remains(place)
    partial = _partial(place, os.getpid())
    partial.mkdir(parents=True)
    try:
        yield partial
        try:
            partial.rename(place)
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, identity: str, count: int, examples: Examples) -> None:
    ((first, label),) = examples([0])
    if first.dtype != np.uint8 or first.ndim != 3:
        raise ValueError(
            f"example 0 has dtype {first.dtype} and shape {first.shape}: wanted uint8 (height, width, c)."
        )
    needed, free = count * first.nbytes, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, the decoded images need {needed / 1e9:.1f}: free "
            f"space there, or name another place by SCORESDE_CACHE."
        )
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, (count, *first.shape))
    labels = None if label is None else np.empty(count, np.int32)

    def decode(start: int) -> int:
        indices = range(start, min(start + CHUNK, count))
        for i, (image, label) in zip(indices, examples(indices), strict=True):
            if image.shape != first.shape or image.dtype != np.uint8:
                raise ValueError(
                    f"example {i} has shape {image.shape} and dtype {image.dtype}, example 0 {first.shape}"
                    f" and uint8: wanted all alike. size= cuts them to one size, channels=3 gives colour "
                    f"to all."
                )
            pixels[i] = image
            if labels is not None:
                labels[i] = -1 if label is None else label
        return len(indices)

    bar = tqdm(total=count, desc="decoding", unit="image", disable=needed < 2**24, mininterval=1.0)
    with (
        bar,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):  # image decoders release the interpreter's lock
        for number in threads.map(decode, range(0, count, CHUNK)):
            bar.update(number)
    pixels.flush()
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    about = {"identity": identity, "digest": digest(pixels, *([] if labels is None else [labels]))}
    (folder / "about.json").write_text(json.dumps(about))


def _read(place: Path, identity: str) -> Decoded:
    about = json.loads((place / "about.json").read_text())
    if about["identity"] != identity:
        raise ValueError("it is of other images")
    pixels = np.load(
        place / "pixels.npy", mmap_mode="r", allow_pickle=False
    )  # too short a file is an error
    labels = (
        np.load(place / "labels.npy", allow_pickle=False)
        if (place / "labels.npy").is_file()
        else None
    )
    if pixels.nbytes <= LARGEST_IN_MEMORY:
        pixels = np.array(pixels)
        if digest(pixels, *([] if labels is None else [labels])) != about["digest"]:
            raise ValueError("they do not match their digest")
    return Decoded(pixels, labels, about["digest"])


def _partial(place: Path, process: int | str) -> Path:
    return place.with_name(f".{place.name}.{socket.gethostname()}.{process}.partial")


def _remove_remains(place: Path) -> None:
    """What a killed process of this machine left half done."""
    for remains in place.parent.glob(_partial(place, "*").name):
        process = int(remains.name.split(".")[-2])
        if process == os.getpid() or not _is_alive(process):
            shutil.rmtree(remains, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
