"""Ctrl-C ends training after the current step, and so do the signals of schedulers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

STOPS = [signal.SIGINT, signal.SIGTERM]
"""The signals that end training: Ctrl-C, `kill`, and SLURM's warning before pre-emption."""

if hasattr(signal, "SIGUSR1"):  # Windows has none
    STOPS.append(signal.SIGUSR1)

_received: list[int] = []
"""The signal that ended the last training, if one did."""


@contextmanager
def interruptible(say: Callable[[str], Any]) -> Iterator[threading.Event]:
    """Yields an event that a signal of `STOPS` sets, so that a loop can end after its current step.

    A second signal, if it is Ctrl-C, raises KeyboardInterrupt at once. Schedulers repeat theirs,
    which changes nothing. A signal that this process ignores, as a shell's background jobs ignore
    Ctrl-C, stays ignored. `say` is called with the message for the user. In a thread other than the
    main one, which receives no signals, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request_stop(number, frame):
        if not stop.is_set():
            _received.append(number)
            stop.set()
            # Ctrl-C may have ended `| tee` too, or come amid a print: the checkpoint matters more.
            with suppress(OSError, RuntimeError):
                say(
                    "stopping after this step and saving a checkpoint "
                    "(press Ctrl-C again to stop now) ..."
                )
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    _received.clear()
    previous = {}
    for number in STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, request_stop)

    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_code_of_stop() -> int:
    """Returns the exit code of a process whose last training a signal has ended: 128 + its number.

    130 is that of Ctrl-C, 143 of SIGTERM, and 138 of SIGUSR1 on Linux. Where another process of the
    same training received the signal, it is 130.
    """
    number = _received[0] if _received else signal.SIGINT
    return 128 + number
