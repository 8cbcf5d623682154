"""Where a command writes: what it says of a place that cannot be written, and after Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

UNWRITABLE = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
)
"""A read-only disk, a lack of permission, or a file where a folder is wanted and the reverse."""


@contextlib.contextmanager
def writing_to(place: Path, advice: str) -> Iterator[None]:
    """Says what to write instead if the block cannot write to a place.

    Raises:
        OSError: with the place, the reason and the advice.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE or not _concerns(error, place):
            raise
        raise OSError(f"{place} cannot be written ({error.strerror}): {advice}") from error


def _concerns(error: OSError, place: Path) -> bool:
    """Whether an error is about a place, what is in it, or a folder that it is in."""
    if error.filename is None:
        return False
    file = Path(str(error.filename)).absolute()
    place = place.absolute()
    return file.is_relative_to(place) or place.is_relative_to(file)


def check_writable(folder: Path, advice: str) -> None:
    """Makes a folder, and refuses one that cannot be written, before anything is computed.

    Raises:
        OSError: as `writing_to`.
    """
    with writing_to(folder, advice):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextlib.contextmanager
def kept_in(place: Path) -> Iterator[None]:
    """Lets the exception of Ctrl-C say, in a note that `exit_code` prints, what is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        if place.exists():
            error.add_note(f"What is done is kept in {place}: the same command continues.")
        raise
