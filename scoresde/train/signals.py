"""Ctrl-C ends training after the current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruptible(say: Callable[[str], Any]) -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C or SIGTERM sets, so that a loop can end after its current step.

    A second signal raises KeyboardInterrupt at once. `say` is called with the message for the
    user. In a thread other than the main one, which receives no signals, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request_stop(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("stopping after this step and saving a checkpoint (press Ctrl-C again to stop now) ...")

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, request_stop)

    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
