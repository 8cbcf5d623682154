"""Fingerprints taken while files are written are those of the files at the end."""

import hashlib
import os
import threading
import time

import pytest

import scoresde.runs.fingerprints as module
from scoresde.runs.fingerprints import fingerprints


@pytest.fixture
def reads(monkeypatch):
    """Looks often; lists the files that are read, in order, and can be waited for."""
    read = Reads()

    def noted(file):
        text = whole(file)
        with read.condition:
            read.names.append(file.name)
            read.condition.notify_all()
        return text

    whole = module.fingerprint
    monkeypatch.setattr(module, "fingerprint", noted)
    monkeypatch.setattr(module, "PAUSE", 0.02)
    return read


class Reads:
    def __init__(self):
        self.names = []
        self.condition = threading.Condition()

    def wait_for(self, *names):
        with self.condition:
            assert self.condition.wait_for(lambda: set(names) <= set(self.names), timeout=10)


def expected(content):
    return f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}"


def test_files_are_read_once_while_others_are_written(tmp_path, reads):
    """As Orbax does it: a folder under another name, which is renamed at the end."""
    unfinished = tmp_path / "arrays-0.tmp"
    unfinished.mkdir()
    (tmp_path / "arrays-1").mkdir()
    (tmp_path / "arrays-1" / "other").write_bytes(b"of an earlier save")

    def write():
        (unfinished / "a").write_bytes(b"first")
        reads.wait_for("a")
        (unfinished / "b").write_bytes(b"second")
        unfinished.rename(tmp_path / "arrays-0")

    found = fingerprints(tmp_path, "arrays-0", write)
    assert found == {"arrays-0/a": expected(b"first"), "arrays-0/b": expected(b"second")}
    assert reads.names == ["a", "b"]


def in_place(file):
    file.write_bytes(b"SAME SIZE")


def replaced(file):
    times = file.stat()
    other = file.with_name("other")
    other.write_bytes(b"SAME SIZE")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))  # the inode alone tells
    other.replace(file)


@pytest.mark.parametrize("change", [in_place, replaced])
def test_a_file_that_changes_after_it_was_read_is_read_again(tmp_path, reads, change):
    file = tmp_path / "arrays-0" / "a"
    file.parent.mkdir()

    def write():
        file.write_bytes(b"same size")
        reads.wait_for("a")
        change(file)

    assert fingerprints(tmp_path, "arrays-0", write) == {"arrays-0/a": expected(b"SAME SIZE")}
    assert reads.names == ["a", "a"]


def test_a_file_that_grows_is_left_until_it_is_complete(tmp_path, reads):
    file = tmp_path / "arrays-0" / "a"
    file.parent.mkdir()

    def write():
        with file.open("wb") as stream:
            for _ in range(20):
                stream.write(b"x" * 1000)
                stream.flush()
                time.sleep(0.005)

    assert fingerprints(tmp_path, "arrays-0", write) == {"arrays-0/a": expected(b"x" * 20_000)}


def test_a_folder_renamed_before_its_files_are_opened(tmp_path, monkeypatch):
    """What was to be read early is gone by then, and is read where it is now."""
    unfinished = tmp_path / "arrays-0.tmp"
    unfinished.mkdir()
    renamed = threading.Event()
    begun = threading.Event()
    whole = module.fingerprint

    def late(file):
        begun.set()
        assert renamed.wait(10)
        return whole(file)

    def write():
        (unfinished / "a").write_bytes(b"first")
        assert begun.wait(10)
        unfinished.rename(tmp_path / "arrays-0")
        renamed.set()

    monkeypatch.setattr(module, "fingerprint", late)
    monkeypatch.setattr(module, "PAUSE", 0.02)
    assert fingerprints(tmp_path, "arrays-0", write) == {"arrays-0/a": expected(b"first")}


def test_what_writing_raises_is_raised(tmp_path):
    def write():
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fingerprints(tmp_path, "arrays-0", write)
