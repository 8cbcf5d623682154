"""Notices within seconds that another process of the same program is lost, and ends this one.

JAX notices it too, after a minute or more, and ends the process with pages of C++ messages; what
waits in C++ until then cannot be interrupted. So a thread of each process has a connection with
process 0, which has one with each of the others. A process is lost

    if its connection ends     it was killed, or its machine was switched off properly;
    if it is silent            nothing was heard of it for `SILENCE` seconds: it was suspended, or
                               its machine or the network failed;
    if it has ended            by an error of its own, say, while this one still computes with it
                               (`together`).

Process 0 tells the others which one is lost. Each prints that, and ends with exit code 1.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax

BEAT = 2.0
"""Seconds between two signs of life."""

SILENCE = 30.0
"""Seconds without any after which a process is lost: C++ that holds Python's lock delays them."""

LEAVE = 5.0
"""Seconds in which all processes may end, or fail, each by itself, after the first has ended."""

SAY = 10.0
"""Seconds that the last words of a process may take."""

ADDRESS = "scoresde/watch"
"""The name under which JAX's coordinator knows the port and the password of process 0."""

GREETING = 200
"""The bytes of the longest greeting."""

REASON = 200
"""The characters of JAX's message that are repeated."""

LOST = re.compile("gloo|nccl|coordination|heartbeat|socket closed|unavailable", re.I)
"""What messages of JAX contain where another process is lost."""


class ProcessLostError(RuntimeError):
    """Another process of the same program is lost."""


# --- What all processes do together ---

_watch: Watch | None = None
_kept: list[Callable[[], str]] = []
"""For each block of `together` that this process is in, what says how much of the work is kept."""


@contextmanager
def together(kept: Callable[[], str] = str) -> Iterator[None]:
    """Marks a block that all processes run together, in which none can do without the others.

    kept: returns what to say of the work that is not lost, and how to continue.

    Raises:
        ProcessLostError: if an error of JAX says that another process is lost, and no thread
            watches the processes, which would end this one.
    """
    if jax.process_count() == 1:
        yield
        return

    if _watch is not None and not _kept:
        _watch.failure = None
    _kept.append(kept)
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not LOST.search(str(error)):
            _fail(error)
            raise
        if _watch is not None:
            time.sleep(SILENCE + 3 * BEAT)  # the thread will know which one, and end this process
        reason = " ".join(str(error).split())[:REASON]
        raise ProcessLostError(
            in_words(f"another process of this program is lost ({reason} …)")
        ) from error
    except BaseException as error:
        _fail(error)
        raise
    finally:
        _kept.pop()


def in_words(why: str) -> str:
    """Returns the reason for the end of this process, and what is kept."""
    kept = _kept[-1]() if _kept else ""
    return f"{why}. This one cannot go on without it. {kept}".strip()


def _fail(error: BaseException) -> None:
    if _watch is not None:
        _watch.failure = error


# --- The thread ---


def watch(host: str, index: int, count: int, seconds: float) -> None:
    """Connects the processes, which all call this, and starts the thread of this one.

    host: where the others reach process 0.

    Raises:
        OSError, RuntimeError: if they cannot reach each other in time.
    """
    global _watch
    from jax._src import distributed  # the store of JAX's coordinator has no public name

    store = distributed.global_state.client
    assert store is not None
    if index == 0:
        with _listen() as server:
            password = secrets.token_hex(16)
            store.key_value_set(ADDRESS, f"{server.getsockname()[1]} {password}")
            peers = _accept(server, count - 1, password, time.monotonic() + seconds)
    else:
        port, password = store.blocking_key_value_get(ADDRESS, int(1000 * seconds)).split()
        peers = {0: socket.create_connection((host, int(port)), timeout=seconds)}
        peers[0].sendall(f"{password} {index}\n".encode())

    _watch = Watch(index, count, peers)
    atexit.register(_watch.leave)  # before JAX's own, which waits for all processes
    threading.Thread(target=_watch.run, name="watch", daemon=True).start()


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _accept(
    server: socket.socket, number: int, password: str, until: float
) -> dict[int, socket.socket]:
    """Returns the connections with the other processes, by their index."""
    peers = {}
    while len(peers) < number:
        server.settimeout(max(until - time.monotonic(), 0.01))
        peer, _ = server.accept()
        try:
            peer.settimeout(10.0)
            with peer.makefile("rb") as stream:
                word, index = stream.readline(GREETING).decode().split()
            if secrets.compare_digest(word, password):
                peers[int(index)] = peer
        except (OSError, ValueError, TypeError):  # somebody else who tries the ports
            peer.close()
    return peers


class Watch:
    """The connections of this process, and what is known of the others.

    peers: the connections by process; process 0 has one with each of the others, which have one
        with process 0.
    """

    def __init__(self, index: int, count: int, peers: dict[int, socket.socket]):
        self.index = index
        self.count = count
        self.failure: BaseException | None = None
        """The error that is ending this process."""

        self._peers = peers
        self._unread = dict.fromkeys(peers, b"")
        self._heard = dict.fromkeys(peers, time.monotonic())
        self._ended: dict[int, float] = {}
        """When processes ended, by their index."""

        self._entered = 0.0
        self._leaving = False
        self._pid = os.getpid()
        self._over = threading.Event()

    def run(self) -> None:
        """Watches the others until all have ended, or one is lost."""
        selector = selectors.DefaultSelector()
        for index, peer in self._peers.items():
            peer.setblocking(False)
            selector.register(peer, selectors.EVENT_READ, index)

        looked = spoke = time.monotonic()
        while not self._over.is_set():
            ready = selector.select(BEAT)
            now = time.monotonic()
            self._overlook(max(now - looked - BEAT, 0.0))
            looked = now
            for key, _ in ready:
                if not self._read(key.data, now):
                    selector.unregister(key.fileobj)
            if now - spoke >= BEAT:
                spoke = now
                self._send("beat")
            self._look(now)

    def leave(self) -> None:
        """Waits at the end of this process until the others have ended too, or one is lost."""
        if os.getpid() != self._pid:  # a child that was forked
            return
        self._leaving = True
        self._ended.setdefault(self.index, time.monotonic())
        self._send(f"ended {self.index}")
        while jax.distributed.is_initialized() and len(self._ended) < self.count:
            if self._over.wait(0.05):
                break
        self._send(*(f"ended {index}" for index in [*self._ended]))
        self._over.set()

    # --- What the others say ---

    def _send(self, *messages: str) -> None:
        text = "".join(f"{message}\n" for message in messages).encode()
        for peer in [*self._peers.values()]:
            with contextlib.suppress(OSError):  # reading notices what is wrong
                peer.send(text)

    def _read(self, index: int, now: float) -> bool:
        """Reads what process `index` has sent; returns False where its connection has ended."""
        try:
            received = self._peers[index].recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            received = b""
        if not received:
            self._disconnected(index)
            return False

        self._heard[index] = now
        *lines, self._unread[index] = (self._unread[index] + received).split(b"\n")
        for line in lines:
            self._understand(line.decode(errors="replace"), now)
        return True

    def _understand(self, line: str, now: float) -> None:
        word, _, rest = line.partition(" ")
        if word == "lost":
            self._end(rest)
        elif word == "ended" and int(rest) not in self._ended:
            self._ended[int(rest)] = now
            if self.index == 0:
                self._send(line)

    def _disconnected(self, index: int) -> None:
        self._heard.pop(index, None)
        if index not in self._ended:
            self._end(self._name(index) + " is lost: its connection ended")

    # --- What follows from it ---

    def _overlook(self, seconds: float) -> None:
        """Leaves out the time for which this process itself was suspended."""
        for index in self._heard:
            self._heard[index] += seconds

    def _look(self, now: float) -> None:
        for index, heard in self._heard.items():
            if now - heard > SILENCE:
                self._end(
                    f"{self._name(index)} is lost: nothing was heard of it for {SILENCE:.0f} "
                    f"seconds"
                )
                return

        if not _kept or self._leaving:
            self._entered = now
        for index, ended in [*self._ended.items()]:
            if index != self.index and now - max(ended, self._entered) > LEAVE:
                self._end(f"{self._name(index)} has ended before the others; see its own messages")
                return

    def _name(self, index: int) -> str:
        return f"process {index} of {self.count}"

    def _end(self, why: str) -> None:
        """Tells the others why, says so, and ends this process; unless all is done."""
        if self._over.is_set() or not jax.distributed.is_initialized():
            self._over.set()
            return

        self._send(f"lost {why}")
        # What is printed may wait for its reader, and folders for the network.
        words = threading.Thread(target=self._say, args=(why,), daemon=True)
        words.start()
        words.join(SAY)
        os._exit(1)

    def _say(self, why: str) -> None:
        if self.failure is not None and not self._leaving:
            traceback.print_exception(self.failure)  # Python has not printed it yet
        # Of a process that ends by an error of its own, Python has said why.
        failed = self.failure is not None or hasattr(sys, "last_value")
        if not (failed and self._leaving):
            new_line = "\n" if os.isatty(2) else ""  # below the bar
            os.write(2, f"{new_line}error: {in_words(why)}\n".encode())
        sys.stdout.flush()
        sys.stderr.flush()
