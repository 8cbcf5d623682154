"""One writer for the folder of a run: a lock that tells who holds it, and that no dead one keeps.

    RUN/lock.json    {"host": "node7", "pid": 4711, "since": "2026-01-31 12:00:00 UTC", ...}

While it is held, a thread touches the file every `BEAT` seconds. Whether the holder lives is seen

    on the same machine    from its process, so that a lock is free as soon as its holder has died;
    from another one       from the touches, which stop when it dies: `SILENCE` seconds without any.

It needs no lock of the file system's, which on network file systems may not be one. Two processes
that take over the same dead lock both write their name, and the later one holds it: the other finds
that out before it writes (`check`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import operator
import os
import platform
import secrets
import sys
import threading
import time
from pathlib import Path

from scoresde.reading import UnreadableError, open_regular, read_file, read_json
from scoresde.writing import write_atomically

LOCK = "lock.json"
BEAT = 5.0
"""Seconds between two touches."""

SILENCE = 20.0
"""Seconds without a touch after which a holder on another machine is taken for dead."""

LOOK = 0.5
"""Seconds between two looks at a lock whose holder is on another machine."""

SETTLED = 0.5
"""Seconds after which a lock that was taken over is looked at again."""

LARGEST = 4096
"""The bytes that the file may hold."""

LARGEST_PID = 2**31 - 1


class RunHeldError(ValueError):
    """Another process writes the folder of this run."""


# --- Who ---


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process, in words that another one can check."""

    host: str
    """The machine's name, for people."""

    machine: str
    """The boot of a machine, and the container, within which a pid means one process."""

    pid: int

    started: str
    """When the process started, which tells it from a later one with the same pid."""

    since: str
    """The time at which it began to hold what it holds."""

    token: str
    """A random text, different each time."""

    @classmethod
    def here(cls) -> Holder:
        """Returns this process, from now on."""
        return cls(
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()) or "",
            since=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
            token=secrets.token_hex(8),
        )

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Returns the holder that a file names; None if there is none, or none that can be read."""
        try:
            found = read_json(path, largest=LARGEST)
            holder = cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})
            return holder if 0 < operator.index(holder.pid) <= LARGEST_PID else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, path: Path) -> None:
        """Writes a file that names this holder, whole or not at all."""
        write_atomically(path, self._content())

    def create(self, path: Path) -> bool:
        """Writes the file if there is none, and returns whether it did."""
        try:
            with path.open("xb") as stream:
                stream.write(self._content())
        except FileExistsError:
            return False
        return True

    def is_alive(self) -> bool | None:
        """Returns whether the process lives; None where that cannot be seen from here."""
        if self.machine != _machine():
            return None
        started = _started(self.pid)
        return None if started == "" else started == self.started

    def is_process_of(self, other: Holder) -> bool:
        """Whether both are the same process, which may hold several things."""
        process = (self.machine, self.pid, self.started)
        return process == (other.machine, other.pid, other.started)

    def in_words(self) -> str:
        """Returns the text "process 4711 on node7 since 2026-01-31 12:00:00 UTC"."""
        return f"process {self.pid} on {self.host} since {self.since}"

    def _content(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1).encode()


def is_at_work(holder: Holder, folder: Path) -> bool:
    """Returns whether a process, which says that it writes in the folder of a run, still does.

    Where it cannot be seen from here, as on another machine or before this one was started, it does
    if it holds the folder's lock, and touched that a moment ago.
    """
    alive = holder.is_alive()
    if alive is not None:
        return alive
    if holder.is_process_of(Holder.here()):
        return True

    owner = Holder.read(folder / LOCK)
    if owner is None or not owner.is_process_of(holder):
        return False
    try:
        with open_regular(folder / LOCK) as stream:
            return time.time() - os.fstat(stream.fileno()).st_mtime < SILENCE
    except (OSError, UnreadableError):
        return False


def _machine() -> str:
    """Returns what two processes share that see each other's pids."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(read_file("/proc/sys/kernel/random/boot_id", LARGEST).decode().strip())
    with contextlib.suppress(OSError):  # known in containers that hide the other
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """Returns when a process of this machine started, None if there is none; "" if that is not
    known."""
    if not os.path.isdir("/proc/self"):
        return "" if os.name == "nt" or _exists(pid) else None
    try:
        # The name, in parentheses, may hold anything; the state and 18 numbers follow.
        state, *numbers = read_file(f"/proc/{pid}/stat", LARGEST).rpartition(b")")[2].split()
    except (OSError, ValueError):  # some machines show users only their own processes
        return "" if _exists(pid) else None
    return None if state in (b"Z", b"X") else numbers[18].decode()  # zombies have died


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _in_words(holder: Holder | None) -> str:
    return "another process" if holder is None else holder.in_words()


# --- The lock ---


class RunLock:
    """The lock of one folder: held between `acquire` and `release`.

    A folder that was taken over by another process, since this one was suspended for long, is no
    longer held: `check` says so.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOCK
        self._own: Holder | None = None
        self._released = threading.Event()

    @property
    def is_held(self) -> bool:
        """Whether this object has acquired the lock."""
        return self._own is not None

    def acquire(self) -> None:
        """Takes the lock, or that of a dead holder.

        Raises:
            RunHeldError: naming the holder, if that is alive.
            OSError: if the folder cannot be written, or the lock cannot be read.
            UnreadableError: if something else has the lock's name.
        """
        own = Holder.here()
        while not own.create(self.path):
            if self._is_left_by_the_dead():
                own.write(self.path)
                time.sleep(SETTLED)
                if Holder.read(self.path) == own:
                    break

        self._own = own
        self._released = threading.Event()
        threading.Thread(target=self._beat, args=(own, self._released), daemon=True).start()

    def release(self) -> None:
        """Gives the lock back; without one, nothing happens."""
        own, self._own = self._own, None
        self._released.set()
        if own is not None and Holder.read(self.path) == own:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def check(self) -> None:
        """Refuses to go on where another process has taken the lock over.

        Raises:
            RunHeldError: naming that process.
        """
        found = Holder.read(self.path)
        if self._own is None or found is None or found == self._own:
            return
        raise RunHeldError(
            f"{self.path.parent} was taken over by {found.in_words()}, since nothing was heard "
            f"of this process for {SILENCE:.0f} seconds: it ends here and leaves the folder to "
            f"the other one."
        )

    def _is_left_by_the_dead(self) -> bool:
        """Returns whether the holder is known to be dead; False once it has released the lock.

        Raises:
            RunHeldError: if it lives.
        """
        start = time.monotonic()
        first = touched = self._touched()
        while touched is not None:
            holder = Holder.read(self.path)
            alive = None if holder is None else holder.is_alive()
            if alive is False or time.monotonic() - start > SILENCE:
                return True
            if alive or touched != first:
                raise RunHeldError(self._why_refused(holder))

            if time.monotonic() - start < LOOK:  # the first time
                print(
                    f"{self.path.parent} is held by {_in_words(holder)}: waiting up to "
                    f"{SILENCE:.0f} seconds for a sign of life ...",
                    file=sys.stderr,
                )
            time.sleep(LOOK)
            touched = self._touched()
        return False

    def _touched(self) -> int | None:
        """Returns when the file was last touched, by the clock of its file system; None without.

        Raises:
            OSError, UnreadableError: if there is something that cannot be read, and which can
                therefore neither be taken over nor be waited for.
        """
        try:
            with open_regular(self.path) as stream:  # opening it makes NFS ask the server
                return os.fstat(stream.fileno()).st_mtime_ns
        except FileNotFoundError:
            if self.path.is_symlink():
                raise UnreadableError(f"{self.path} is a link to nothing: remove it.") from None
            return None

    def _why_refused(self, holder: Holder | None) -> str:
        advice = "Wait until it has ended, or name another folder."
        if holder is not None and holder.pid != os.getpid():
            advice = (
                f"Wait until it has ended, stop it (kill {holder.pid}, on {holder.host}), or name "
                f"another folder."
            )
        return (
            f"{self.path.parent} is being written by {_in_words(holder)}, and a run has one "
            f"writer. {advice}"
        )

    def _beat(self, own: Holder, released: threading.Event) -> None:
        """Touches the file until it is released, or names another holder."""
        while not released.wait(BEAT):
            with contextlib.suppress(OSError):
                if Holder.read(self.path) == own:
                    os.utime(self.path)
