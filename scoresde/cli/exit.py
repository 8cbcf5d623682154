"""How a command ends: its exit code, its error message, and what Ctrl-C and `kill` do."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import jax

from scoresde.cli.start import STOPS, is_default

USER_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    ArithmeticError,
    MemoryError,
    jax.errors.JaxRuntimeError,
)
"""Errors that the user can fix: wrong values or files, numbers too large, too little memory."""


class UsageError(ValueError):
    """A command line that cannot be understood: the command ends with exit code 2."""


def exit_code(
    action: Callable[[list[str]], int | None], arguments: Sequence[str], interrupted: str
) -> int:
    """Runs an action on the command line's arguments and returns the exit code.

    The codes are: 0 or whatever the action returns when it is done, 1 when it failed, 2 for wrong
    use, 130 after Ctrl-C and 143 after SIGTERM, for which the text `interrupted` is printed, and
    the notes of the exception below it. Where the reader of the output has gone, as after `| head`,
    the code is that of the action if it was done by then, and 1 otherwise.

    An error that the user can fix (`USER_ERRORS`) is printed as one paragraph. With `--debug`
    anywhere among the arguments it is raised instead, so that its traceback is shown.
    """
    code = None
    try:
        try:
            with insistent_interrupts():
                code = action([word for word in arguments if word != "--debug"]) or 0
        finally:
            sys.stdout.flush()  # notice here, not while Python exits, that the reader has gone
        return code

    except BrokenPipeError:  # whoever read our output, `head` for example, has gone
        if code is None:
            with suppress(OSError):
                print("error: the reader of the output has gone, amid the work.", file=sys.stderr)
        _drop_unread_output()
        return 1 if code is None else code

    except USER_ERRORS as error:
        if "--debug" in arguments:
            raise
        if isinstance(error, UsageError):
            print(f"error: {error}", file=sys.stderr)
            return 2
        message = str(error) or type(error).__name__
        print(f"error: {message}\n(add --debug for the traceback)", file=sys.stderr)
        return 1

    except KeyboardInterrupt as error:
        with suppress(OSError):  # Ctrl-C has ended `2>&1 | tee` too
            print("", interrupted, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        number = error.args[0] if error.args else signal.SIGINT
        return 128 + number


def _drop_unread_output() -> None:
    """Leads the outputs whose readers have gone to nowhere: Python flushes them when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code.

    After an interruption it ends at once: XLA's threads may still be computing, and Python's usual
    shutdown would crash under them.
    """
    if code > 128:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    sys.exit(code)


# --- Ctrl-C ---


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Lets a signal raise KeyboardInterrupt(its number) every second until it has ended the block.

    The signals are Ctrl-C and the others of `STOPS`. Raising it once is not always enough: Python
    drops exceptions that are raised in a destructor or in a callback of its garbage collector, and
    JAX has such a callback. Python also prints a traceback of what it drops; for a
    KeyboardInterrupt that traceback is left out. An error that a library makes of the
    KeyboardInterrupt becomes one again.
    """
    numbers = [number for number in STOPS if is_default(number)]  # without Ctrl-C under nohup
    if not _can_handle_interrupts():
        yield
        return

    received = []

    def interrupt(number: int, frame: Any) -> NoReturn:
        received.append(number)
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        raise KeyboardInterrupt(received[0])

    previous_hook = sys.unraisablehook

    def report(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            previous_hook(dropped)

    sys.unraisablehook = report
    previous_handlers = {
        number: signal.signal(number, interrupt) for number in (*numbers, signal.SIGALRM)
    }

    try:
        yield
    except Exception as error:
        if received:
            raise KeyboardInterrupt(received[0]) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = previous_hook


def _can_handle_interrupts() -> bool:
    """Whether this thread may set handlers of signals, and the system can repeat one."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    has_timer = hasattr(signal, "setitimer")  # Windows has none
    return in_main_thread and has_timer
