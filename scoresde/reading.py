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
from typing import Any, BinaryIO, NamedTuple

import numpy as np

LARGEST_JSON = 2**23
"""The bytes that a file of JSON may hold, where the reader does not say: 8 MB, which may take
twenty times that once they are lists and dicts."""

DEEPEST = 64
"""The levels of lists and dicts in each other that JSON may hold."""

MOST_ARRAYS = 1000
"""The arrays that a .npz file may hold."""

LONGEST_HEADER = 10_000
"""The bytes that the header of a .npy file may hold."""

BLOCK = 2**20
"""The bytes that are read at a time from a file that is not read whole at once."""


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
        check_size(stream, path, largest)
        return stream.read(largest)


def check_size(stream: BinaryIO, path: str | os.PathLike[str], largest: int) -> None:
    """Refuses an open file of more than `largest` bytes.

    Raises:
        UnreadableError: with both sizes.
    """
    size = os.fstat(stream.fileno()).st_size
    if size > largest:
        raise UnreadableError(
            f"{path} holds {size:,} bytes, more than {largest:,}: wanted a smaller file."
        )


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


def map_npy(path: str | os.PathLike[str], inside: Path | None = None) -> np.ndarray:
    """Returns the array in a .npy file, read from the disk where it is used, and never written.

    Raises:
        OSError, UnreadableError: as `read_npy`.
    """
    with open_regular(path, inside) as stream:
        try:
            header = _header(stream, os.fstat(stream.fileno()).st_size)
            order = "F" if header.in_columns else "C"
            return np.memmap(stream, header.dtype, "r", header.start, header.shape, order)
        except Exception as error:  # as in `_array_of`
            raise UnreadableError(f"{path} is not an array that NumPy can read: {error}") from error


def read_npz(
    path: str | os.PathLike[str], largest: int, inside: Path | None = None
) -> dict[str, np.ndarray]:
    """Returns the arrays in a .npz file by name. largest: the bytes of the file, and those of all
    arrays together.

    Raises:
        OSError, UnreadableError: as `read_file`, and for what is no such file.
    """
    with open_regular(path, inside) as stream:
        check_size(stream, path, largest)
        try:
            _check_members(stream)
            with zipfile.ZipFile(stream) as archive:
                return _arrays_of(archive, largest)
        except Exception as error:  # damaged archives raise errors of many kinds
            raise UnreadableError(f"{path} is not a .npz file of NumPy's: {error}") from error


def _check_members(stream: BinaryIO) -> None:
    """Refuses an archive of very many files, before a list of them is made."""
    count = 0
    while block := stream.read(BLOCK):
        count += block.count(b"PK\x01\x02")  # begins an entry of the list
    if count > MOST_ARRAYS:
        raise ValueError(f"it holds {count:,} arrays, more than {MOST_ARRAYS:,}")
    stream.seek(0)


def _arrays_of(archive: zipfile.ZipFile, largest: int) -> dict[str, np.ndarray]:
    """Returns the arrays in an archive, unpacked piece by piece: it may hold more than it says."""
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > largest:
        raise ValueError(f"unpacked it holds {unpacked:,} bytes, more than {largest:,}")

    arrays = {}
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} is compressed by a method that NumPy does not use")
        with archive.open(member) as stream:
            name = member.filename.removesuffix(".npy")
            arrays[name] = _array_of(stream, member.file_size, member.filename)
    return arrays


def _array_of(stream: Any, size: int, name: str) -> np.ndarray:
    """Returns the array in a stream of `size` bytes, without more memory than they take."""
    try:
        header = _header(stream, size)
        content = bytearray(size - header.start)
        _fill(memoryview(content), stream)
        order = "F" if header.in_columns else "C"
        return np.ndarray(header.shape, header.dtype, content, order=order)
    except MemoryError as error:
        raise UnreadableError(
            f"{name} takes {size:,} bytes, and there is less memory than that."
        ) from error
    except Exception as error:  # NumPy's parser of headers raises errors of many kinds
        raise UnreadableError(f"{name} is not an array that NumPy can read: {error}") from error


class _Header(NamedTuple):
    """What the header of a .npy file says, and where the entries begin."""

    shape: tuple[int, ...]
    in_columns: bool
    dtype: np.dtype
    start: int


def _header(stream: Any, size: int) -> _Header:
    """Returns the header at the beginning of a stream of `size` bytes, once it agrees with that."""
    readers = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"it has version {version} of the format")

    digits, read = readers[version]
    length = stream.read(digits)
    text = stream.read(min(int.from_bytes(length, "little"), LONGEST_HEADER))
    start = stream.tell()
    shape, in_columns, dtype = read(io.BytesIO(length + text))

    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if not dtype.itemsize:
        raise ValueError(f"its entries are of type {dtype}, which holds nothing")

    wanted = math.prod(shape) * dtype.itemsize
    held = size - start
    if held != wanted or min(shape, default=0) < 0:
        raise ValueError(
            f"its header says {dtype}{list(shape)}, {wanted:,} bytes, and it holds {held:,}"
        )
    return _Header(shape, in_columns, dtype, start)


def _fill(content: memoryview, stream: Any) -> None:
    """Fills a buffer from a stream."""
    start = 0
    while start < len(content):
        count = stream.readinto(content[start : start + BLOCK])
        if not count:
            raise ValueError(f"it ends after {start:,} of {len(content):,} bytes")
        start += count
