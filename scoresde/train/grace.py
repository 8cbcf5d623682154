"""Work that is given up where it still runs some time after it was asked to end."""

from __future__ import annotations

import _thread
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

ARRIVED = 0.5
"""Seconds after which a signal of this process to itself has arrived."""

AGAIN = 1.0
"""Seconds after which a block that still runs is ended again."""


@dataclasses.dataclass
class Work:
    """A block of work."""

    given_up: bool = False
    """Whether it was ended before it was done."""


@contextmanager
def given_up_after(seconds: float | None, stop: threading.Event) -> Iterator[Work]:
    """Ends the block where it still runs `seconds` after `stop` was set; None lets it run.

    It ends by a second signal, as if the user had pressed Ctrl-C again: `interruptible`, around
    this, raises KeyboardInterrupt for that. So it works in the main thread, and what is computing
    outside of Python ends first. Where the exception is lost, as in a destructor, it is raised
    again; an error that a library makes of it is taken for it.
    """
    work = Work()
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield work
        return

    main = threading.get_ident()
    state = threading.Lock()
    ended = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            if ended.is_set():
                return
        pause = seconds
        while not ended.wait(pause):
            with state:
                if not ended.is_set():
                    work.given_up = True
                    _interrupt(main)
            pause = AGAIN

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield work
        with state:
            ended.set()
        if work.given_up:  # the signal is on its way, or the block has caught its exception
            time.sleep(ARRIVED)
    except (KeyboardInterrupt, Exception):
        if not work.given_up:
            raise
    finally:
        ended.set()


def _interrupt(thread: int) -> None:
    """Sends SIGINT to the main thread, which also ends what that waits for in the system."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(thread, signal.SIGINT)
    else:  # Windows
        _thread.interrupt_main()
