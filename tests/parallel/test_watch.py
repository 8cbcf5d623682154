"""Threads that watch the connections of processes, here all in one process.

`lost` collects with what message each of them would have ended its process.
"""

import os
import socket
import threading
import time

import jax
import pytest

from scoresde.parallel import watch
from scoresde.parallel.watch import ProcessLostError, Watch, together


@pytest.fixture
def lost(monkeypatch):
    found = {}

    def end(self, why):
        self._send(f"lost {why}")
        self._over.set()
        found.setdefault(self.index, why)

    monkeypatch.setattr(Watch, "_end", end)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    for name, seconds in {"BEAT": 0.05, "SILENCE": 0.5, "LEAVE": 0.3}.items():
        monkeypatch.setattr(watch, name, seconds)
    return found


def connected(count):
    """The watches of that many processes, and the sockets of each."""
    pairs = [socket.socketpair() for _ in range(1, count)]
    peers = [{i: pair[0] for i, pair in enumerate(pairs, 1)}]
    peers += [{0: pair[1]} for pair in pairs]
    return [Watch(index, count, own) for index, own in enumerate(peers)], peers


def start(watches):
    threads = [threading.Thread(target=each.run, daemon=True) for each in watches]
    for thread in threads:
        thread.start()
    return threads


def stop(watches, threads):
    for each in watches:
        each._over.set()
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive()


def until(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it has not happened in 10 seconds")


@pytest.mark.parametrize("gone", [0, 2])
def test_all_learn_whose_connection_has_ended(lost, gone):
    watches, peers = connected(4)
    left = [each for each in watches if each.index != gone]
    threads = start(left)
    for peer in peers[gone].values():
        peer.close()

    until(lambda: len(lost) == 3)
    assert set(lost.values()) == {f"process {gone} of 4 is lost: its connection ended"}
    stop(left, threads)


@pytest.mark.parametrize("silent", [0, 1])
def test_a_process_that_is_silent_is_lost(lost, silent):
    watches, peers = connected(3)
    left = [each for each in watches if each.index != silent]
    threads = start(left)

    until(lambda: len(lost) == 2)
    assert peers[silent]
    for why in lost.values():
        assert why.startswith(f"process {silent} of 3 is lost: nothing was heard of it for")
    stop(left, threads)


def test_the_own_suspension_is_not_the_silence_of_others(lost, monkeypatch):
    """A process that was suspended for longer than SILENCE goes on, if the others have waited."""
    watches, _ = connected(2)
    watches[0]._overlook(100.0)
    monkeypatch.setattr(watch, "SILENCE", 50.0)
    watches[0]._look(time.monotonic() + 100.0)
    assert not lost
    watches[1]._look(time.monotonic() + 100.0)
    assert list(lost) == [1]


def test_a_process_that_ends_is_missed_by_those_that_compute_with_it(lost, monkeypatch):
    watches, _ = connected(3)
    threads = start(watches)
    leaving = threading.Thread(target=watches[1].leave, daemon=True)
    leaving.start()
    time.sleep(1.0)
    assert not lost  # the others do something of their own

    monkeypatch.setattr(watch, "_kept", [str])
    until(lambda: len(lost) == 3)
    assert set(lost.values()) == {
        "process 1 of 3 has ended before the others; see its own messages"
    }
    stop(watches, [*threads, leaving])


def test_processes_that_end_wait_for_each_other(lost):
    watches, _ = connected(3)
    threads = start(watches)
    ends = [threading.Thread(target=each.leave, daemon=True) for each in watches]
    for end in ends[:2]:
        end.start()
    time.sleep(0.3)
    assert ends[0].is_alive() and ends[1].is_alive()

    ends[2].start()
    stop([], [*ends, *threads])
    assert not lost


def test_an_error_of_a_lost_process_says_what_is_kept(monkeypatch):
    """Also where no thread watches, after a bare jax.distributed.initialize."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    found = pytest.raises(
        ProcessLostError, match=r"is lost \(INTERNAL: Gloo .*\)\. .* Step 4 is kept\."
    )
    with found, together(lambda: "Step 4 is kept."):
        raise jax.errors.JaxRuntimeError(
            "INTERNAL: Gloo all-reduce failed: Connection reset by peer"
        )
    for own in (jax.errors.JaxRuntimeError("out of memory"), RuntimeError("503 Unavailable")):
        with pytest.raises(type(own), match=f"^{own}$"), together():
            raise own
    assert watch._kept == []


def test_the_last_words_are_one_line_and_the_exit_code_is_1(monkeypatch, capfd):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(watch, "_kept", [lambda: "Step 4 is kept."])
    watches, _ = connected(2)
    watches[0]._end("process 1 of 2 is lost")

    assert codes == [1]
    assert capfd.readouterr().err == (
        "error: process 1 of 2 is lost. This one cannot go on without it. Step 4 is kept.\n"
    )
