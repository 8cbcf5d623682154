"""Files that somebody else may have written: opened only if they are regular, small and inside.

A folder of a run may come from anywhere. So whatever reads one asks for a file here, with the most
bytes that it may hold and the folder that it must lie in. What is refused is a link out of that
folder, a pipe or a device, which may never end, and a file that is too large; what comes back has
been read whole.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

LARGEST_JSON = 2**26
"""The bytes that a file of JSON may hold, where the reader does not say: 64 MB."""

DEEPEST = 64
"""The levels of lists and dicts in each other that JSON may hold."""


class UnreadableError(ValueError):
    """A file that is not what was wanted; the message names it and says what it is."""


def open_regular(path: str | os.PathLike[str], inside: Path | None = None) -> BinaryIO:
    """Opens a regular file to read its bytes.

    inside: the folder that must hold the file, after every link has been followed; None allows any.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it cannot be opened.
        UnreadableError: if it is no regular file, or lies outside.
    """
    path = Path(path)
    if inside is not None:
        check_inside(path, inside)

    # A pipe that nobody writes to would block an ordinary open for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe, a socket or a device"
        raise UnreadableError(f"{path} is {what}: wanted a regular file.")
    return os.fdopen(handle, "rb")


def check_inside(path: Path, folder: Path) -> None:
    """Refuses a path that leaves a folder, by its own name or by a link on the way.

    Raises:
        UnreadableError: naming both ends.
    """
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise UnreadableError(
            f"{path} lies outside of {folder}, at {real}: wanted a file of this folder itself. "
            f"Copy it there if it belongs to it."
        )


def read_file(path: str | os.PathLike[str], largest: int, inside: Path | None = None) -> bytes:
    """Returns the bytes of a regular file of at most `largest` bytes.

    Raises:
        OSError, UnreadableError: as `open_regular`, and for a larger file.
    """
    with open_regular(path, inside) as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise UnreadableError(f"{path} holds more than {largest:,} bytes: wanted a smaller file.")
    return content


def read_json(
    path: str | os.PathLike[str], inside: Path | None = None, largest: int = LARGEST_JSON
) -> Any:
    """Returns the data in a file of JSON.

    Raises:
        OSError, UnreadableError: as `read_file`, and for what is no JSON or nested too deeply.
    """
    try:
        return parse_json(read_file(path, largest, inside))
    except UnreadableError:
        raise
    except ValueError as error:
        raise UnreadableError(f"{path} is not JSON: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """Returns the data in a text of JSON, nested in at most `DEEPEST` levels.

    Raises:
        ValueError: if it is no JSON, or nested more deeply.
    """
    too_deep = f"it is nested in more than {DEEPEST} levels"
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep) from error

    level = [data]
    for _ in range(DEEPEST):
        level = [entry for value in level for entry in _entries(value)]
        if not level:
            return data
    raise ValueError(too_deep)


def _entries(value: Any) -> list[Any]:
    """Returns what a list or a dict holds that may hold something itself."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return []
    return [entry for entry in value if isinstance(entry, (dict, list))]


# --- Arrays ---


def read_npy(path: str | os.PathLike[str], inside: Path | None = None) -> np.ndarray:
    """Returns the array in a .npy file, whose header must agree with the size of the file.

    Raises:
        OSError, UnreadableError: as `open_regular`, and for what is no such file.
    """
    with open_regular(path, inside) as stream:
        return _array_of(stream, os.fstat(stream.fileno()).st_size, str(path))


def read_npz(
    path: str | os.PathLike[str], largest: int, inside: Path | None = None
) -> dict[str, np.ndarray]:
    """Returns the arrays in a .npz file by name. largest: the bytes of the file, and those of all
    arrays together.

    Raises:
        OSError, UnreadableError: as `read_file`, and for what is no such file.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(read_file(path, largest, inside))) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > largest:
                raise ValueError(f"unpacked it holds {unpacked:,} bytes, more than {largest:,}")
            for member in members:
                content = archive.read(member)
                name = member.filename.removesuffix(".npy")
                arrays[name] = _array_of(io.BytesIO(content), len(content), member.filename)
    except UnreadableError:
        raise
    except OSError:
        raise
    except Exception as error:  # damaged archives raise errors of many kinds
        raise UnreadableError(f"{path} is not a .npz file of NumPy's: {error}") from error
    return arrays


def _array_of(stream: Any, size: int, name: str) -> np.ndarray:
    """Returns the array in a stream of `size` bytes, without more memory than they take."""
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(stream)
        if version not in headers:
            raise ValueError(f"it has version {version} of the format")
        shape, in_columns, dtype = headers[version](stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are never loaded")

        if not dtype.itemsize:
            raise ValueError(f"its entries are of type {dtype}, which holds nothing")

        wanted = math.prod(shape) * dtype.itemsize
        held = size - stream.tell()
        if held != wanted or min(shape, default=0) < 0:
            raise ValueError(
                f"its header says {dtype}{list(shape)}, {wanted:,} bytes, and it holds {held:,}"
            )
        content = bytearray(wanted)
        stream.readinto(content)
        return np.ndarray(shape, dtype, content, order="F" if in_columns else "C")
    except Exception as error:  # NumPy's parser of headers raises errors of many kinds
        raise UnreadableError(f"{name} is not an array that NumPy can read: {error}") from error
