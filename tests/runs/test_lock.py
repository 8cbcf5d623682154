"""The lock of a run's folder: the living keep it, the dead do not."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import scoresde.runs.lock as module
from scoresde.reading import UnreadableError, read_file
from scoresde.runs.lock import LOCK, Holder, RunHeldError, RunLock

HOLD = """
import sys, time
from pathlib import Path
from scoresde.runs.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def quick(monkeypatch):
    """Signs of life every 0.05 seconds, and their lack noticed after 0.5."""
    for name, seconds in {"BEAT": 0.05, "LOOK": 0.1, "SILENCE": 0.5, "SETTLED": 0.05}.items():
        monkeypatch.setattr(module, name, seconds)


def test_a_second_process_is_refused_until_the_first_has_died(tmp_path, other):
    os.kill(other.pid, signal.SIGSTOP)  # one that is suspended is alive
    with pytest.raises(RunHeldError) as refused:
        RunLock(tmp_path).acquire()
    holder = Holder.read(tmp_path / LOCK)
    for part in (str(tmp_path), f"process {other.pid} on {holder.host}", holder.since):
        assert part in str(refused.value)

    other.kill()
    while Holder.read(tmp_path / LOCK).is_alive():  # a zombie, until its parent asks for its code
        time.sleep(0.01)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert Holder.read(tmp_path / LOCK).pid == os.getpid()

    lock.release()
    assert not (tmp_path / LOCK).exists()
    RunLock(tmp_path).acquire()  # what was released is free at once


def test_a_later_process_with_the_same_pid_is_another_one(tmp_path):
    earlier = dataclasses.replace(Holder.here(), started="1")
    earlier.write(tmp_path / LOCK)
    assert Holder.here().is_alive() and not earlier.is_alive()
    RunLock(tmp_path).acquire()


def test_a_holder_on_another_machine_is_known_by_its_signs_of_life(tmp_path, quick, monkeypatch):
    here = module._machine()
    elsewhere = RunLock(tmp_path)
    monkeypatch.setattr(module, "_machine", lambda: "another machine")
    elsewhere.acquire()
    monkeypatch.setattr(module, "_machine", lambda: here)

    assert Holder.read(tmp_path / LOCK).is_alive() is None
    with pytest.raises(RunHeldError, match="one writer"):
        RunLock(tmp_path).acquire()

    elsewhere._released.set()  # it has died: no more signs
    lock = RunLock(tmp_path)
    start = time.monotonic()
    lock.acquire()
    assert time.monotonic() - start > 0.5

    # The dead one was only suspended. It finds out before it writes, and leaves the lock alone.
    with pytest.raises(RunHeldError, match="was taken over by"):
        elsewhere.check()
    elsewhere.release()
    lock.check()


def test_a_lock_that_is_released_while_one_waits_is_taken(tmp_path, quick, capsys):
    lock = tmp_path / LOCK
    dataclasses.replace(Holder.here(), machine="another machine", host="node7").write(lock)
    threading.Timer(0.2, lock.unlink).start()
    RunLock(tmp_path).acquire()
    assert "is held by process" in capsys.readouterr().err


def test_a_lock_that_cannot_be_read_is_refused_rather_than_tried_for_ever(tmp_path, monkeypatch):
    (tmp_path / LOCK).symlink_to("nothing")
    with pytest.raises(UnreadableError, match="is a link to nothing"):
        RunLock(tmp_path).acquire()

    def of_another_user(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "open_regular", of_another_user)
    with pytest.raises(PermissionError):
        RunLock(tmp_path).acquire()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_process_that_is_hidden_is_not_taken_for_dead(other, tmp_path, monkeypatch):
    """Some machines show users only their own processes."""
    holder = Holder.read(tmp_path / LOCK)

    def hidden(path, largest):
        if path == f"/proc/{other.pid}/stat":
            raise FileNotFoundError(path)
        return read_file(path, largest)

    monkeypatch.setattr(module, "read_file", hidden)
    assert holder.is_alive() is None
    other.kill()
    other.wait()
    assert holder.is_alive() is False


@pytest.mark.skipif(not os.path.isdir("/proc/self/ns"), reason="needs /proc")
def test_containers_that_hide_when_the_machine_started_are_told_apart(monkeypatch):
    def hidden(path, largest):
        raise FileNotFoundError(path)

    monkeypatch.setattr(module, "read_file", hidden)
    assert os.readlink("/proc/self/ns/pid") in module._machine()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pid": 1}', b"\xff"])
def test_a_file_that_names_nobody_is_taken_for_dead_after_a_while(tmp_path, quick, content):
    (tmp_path / LOCK).write_bytes(content)
    RunLock(tmp_path).acquire()


def test_of_many_that_take_over_a_dead_lock_one_holds_it(tmp_path, quick):
    dataclasses.replace(Holder.here(), started="1").write(tmp_path / LOCK)
    locks = [RunLock(tmp_path) for _ in range(8)]
    outcomes = []

    def take(lock):
        try:
            lock.acquire()
            outcomes.append("held")
        except RunHeldError:
            outcomes.append("refused")

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + ["refused"] * 7
