"""How a command ends: its exit code, its error message, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax

MENDABLE = (ValueError, TypeError, OSError, ArithmeticError, jax.errors.JaxRuntimeError)
"""Errors of input: wrong values and files, numbers too large, more memory than there is."""


class UsageError(ValueError):
    """A command line that cannot be understood; commands end with exit code 2."""


def leave(code: int) -> NoReturn:
    """End the process; after an interruption at once, as XLA's threads at work make Python's own way out crash."""
    if code == 130:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, and again every second until it has ended the block.

    Python drops what is raised in a callback of its garbage collector, of which JAX has one, or in a destructor, and
    prints a traceback of it: once is not always enough, and the traceback is left out.
    """
    usual = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )  # not ignored, as under nohup
    in_main = threading.current_thread() is threading.main_thread()
    if not (usual and in_main and hasattr(signal, "setitimer")):  # Windows has none
        yield
        return

    def interrupt(number: int, frame: Any) -> NoReturn:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        raise KeyboardInterrupt

    def report(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            report_before(dropped)

    report_before, sys.unraisablehook = sys.unraisablehook, report
    previous = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)
    }
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = report_before


def exit_code(
    action: Callable[[list[str]], int | None], arguments: Sequence[str], interrupted: str
) -> int:
    """Run an action on the command line's arguments and say what went wrong, if anything.

    What a user can mend, `MENDABLE`, prints as one paragraph. `--debug`, anywhere, shows
    the traceback instead.
    """
    try:
        try:
            with insistent_interrupts():
                return action([argument for argument in arguments if argument != "--debug"]) or 0
        finally:
            sys.stdout.flush()  # a reader that has gone is noticed here, not while Python exits
    except BrokenPipeError:  # whoever read our output, `head` say, is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MENDABLE as error:
        if "--debug" in arguments:
            raise
        wrong_use = isinstance(error, UsageError)
        print(
            f"error: {error}" + ("" if wrong_use else "\n(add --debug for the traceback)"),
            file=sys.stderr,
        )
        return 2 if wrong_use else 1
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return 130
