"""Fingerprints of files, their sizes and SHA-256 checksums: several files at a time, and while
others are still being written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, cast

from scoresde.reading import UnreadableError, open_regular

THREADS = min(4, os.cpu_count() or 1)
"""The files that are read at a time: hashlib lets other threads run meanwhile."""

PAUSE = 0.2
"""Seconds between two looks at files that are being written."""


def fingerprint(file: Path) -> str:
    """Returns the size and the checksum of a file: "1234 bytes, sha256 5f1c..."."""
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        checksum = hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()
    return f"{size} bytes, sha256 {checksum}"


def fingerprints(folder: Path, arrays: str, write: Callable[[], Any]) -> dict[str, str]:
    """Returns the fingerprint of every file under `folder/arrays`, by its path inside `folder`.

    write: makes these files. They are read once it has returned; those that seem to be complete
        earlier, in any folder whose name begins with `arrays`, already meanwhile.

    Raises:
        UnreadableError: if something there is a link, or neither a file nor a folder.
        Exception: whatever `write` raises.
    """
    with ThreadPoolExecutor(1 + THREADS, "checksums") as pool:
        written = pool.submit(write)
        ready = _Ready(pool)
        while not written.done():
            wait([written], PAUSE)
            with contextlib.suppress(OSError, UnreadableError):  # files come and go
                ready.look(folder, arrays)
        if written.exception():
            pool.shutdown(cancel_futures=True)
        written.result()

        files = sorted(files_of(folder / arrays))
        names = [file.relative_to(folder).as_posix() for file in files]
        return dict(zip(names, ready.fingerprints(files), strict=True))


def checking(files: dict[Path, str]) -> Iterator[tuple[Path, Future[None]]]:
    """Yields each file with the check that it has the fingerprint beside it, several at a time.

    The check raises a ValueError if the file has changed, with what was found and what was written,
    and an OSError or UnreadableError if it cannot be read. A file of another size is not read.
    """
    pool = ThreadPoolExecutor(THREADS, "checksums")
    try:
        checks = {
            file: pool.submit(_check_fingerprint, file, written) for file, written in files.items()
        }
        yield from checks.items()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_fingerprint(file: Path, written: str) -> None:
    size = f"{file.stat().st_size} bytes"
    found = fingerprint(file) if written.startswith(f"{size}, ") else size
    if found != written:
        raise ValueError(f"has changed: found {found}, written {written}")


def files_of(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder and below it.

    Raises:
        UnreadableError: if something there is a link, or neither a file nor a folder.
    """
    if folder.is_symlink():
        raise UnreadableError(f"{folder} is a link: wanted the folder of the arrays itself.")

    folders = [folder]
    while folders:
        for entry in folders.pop().iterdir():
            kind = entry.lstat().st_mode
            if stat.S_ISDIR(kind):
                folders.append(entry)
            elif stat.S_ISREG(kind):
                yield entry
            else:
                raise UnreadableError(
                    f"{entry} is a link, a pipe or a device: wanted a regular file."
                )


# --- Files that are being written ---


class _Stamp(NamedTuple):
    """What stays the same when the folder of a file is renamed, and changes when it is written."""

    name: str
    inode: int
    size: int
    changed: int


class _Ready:
    """The files that were the same at two looks, and are read since.

    Whoever writes later than the second look leaves another time of change: clocks of file systems
    tick more often than `PAUSE`. So a file that has its stamp of then at the end is what was read.
    """

    def __init__(self, pool: ThreadPoolExecutor):
        self._pool = pool
        self._seen: set[_Stamp] = set()
        self._begun: dict[_Stamp, Future[str]] = {}

    def look(self, folder: Path, arrays: str) -> None:
        """Begins to read the files that have not changed since the last look."""
        before = self._seen
        self._seen = set()
        for part in folder.glob(f"{arrays}*"):  # a folder has another name until it is complete
            for file in files_of(part):
                stamp = _stamp(file.name, file.stat())
                self._seen.add(stamp)
                if stamp in before and stamp not in self._begun:
                    self._begun[stamp] = self._pool.submit(fingerprint, file)

    def fingerprints(self, files: Iterable[Path]) -> list[str]:
        """Returns the fingerprints of complete files, read now unless they have been."""
        found = [(file, self._begun_or_new(file)) for file in files]
        return [_result(file, reading) for file, reading in found]

    def _begun_or_new(self, file: Path) -> Future[str]:
        # Opened, because a network file system asks its server only then.
        with open_regular(file) as stream:
            stamp = _stamp(file.name, os.fstat(stream.fileno()))
        return self._begun.get(stamp) or self._pool.submit(fingerprint, file)


def _stamp(name: str, found: os.stat_result) -> _Stamp:
    return _Stamp(name, found.st_ino, found.st_size, found.st_mtime_ns)


def _result(file: Path, reading: Future[str]) -> str:
    try:
        return reading.result()
    except OSError:  # its folder was renamed before it was opened
        return fingerprint(file)
