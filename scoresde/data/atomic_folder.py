"""Folders that appear under their names whole or not at all, even if their process is killed."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(place: Path) -> Iterator[Path]:
    """Yields a folder to fill, which is renamed to `place` at the end.

    If another process has made `place` in the meantime, its folder is kept and this one is
    deleted: the two are taken to be the same. On an error nothing is left.

    Raises:
        OSError: if the folder cannot be written or renamed.
    """
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


def _partial(place: Path, process: int | str) -> Path:
    """The name under which a process of this machine fills the folder."""
    return place.with_name(f".{place.name}.{socket.gethostname()}.{process}.partial")


def _remove_remains(place: Path) -> None:
    """Deletes what a killed process of this machine left half done."""
    for remains in place.parent.glob(_partial(place, "*").name):
        process = int(remains.name.split(".")[-2])
        if process == os.getpid() or not _is_alive(process):
            shutil.rmtree(remains, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
