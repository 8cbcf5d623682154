"""The start of a command: one line for Ctrl-C while Python still imports what the command needs.

Importing JAX takes seconds. A KeyboardInterrupt in there prints a traceback, or is lost where
Python drops exceptions, in destructors and callbacks. So a command imports this module first, which
takes a few milliseconds, and lets signals end the process. Once the command itself begins, they
raise KeyboardInterrupt again (`insistent_interrupts` in cli/exit.py).
"""

from __future__ import annotations

# The C half of `signal`: the other half imports enum, which takes milliseconds.
import _signal as signal  # pyright: ignore[reportMissingImports]
import os
import sys

STOPS = [signal.SIGINT, signal.SIGTERM]
"""The signals that ask a command to end: Ctrl-C, `kill`, and SLURM's warning before pre-emption."""

if hasattr(signal, "SIGUSR1"):  # Windows has none
    STOPS.append(signal.SIGUSR1)


def entry():
    """Runs the console command `scoresde`, and ends the process."""
    end_on_signals()

    from scoresde.cli.exit import leave
    from scoresde.cli.main import main

    leave(main())


def end_on_signals() -> None:
    """Lets a signal that asks to end print one line and end the process, with code 128 + number.

    Only programs call this, never the library: the signals are those of the whole process.
    """
    for number in STOPS:
        if is_default(number):
            signal.signal(number, _end)


def is_default(number: int) -> bool:
    """Whether a signal has its usual effect, or that of `end_on_signals`.

    It has another where the parent ignores it, as nohup does, or a program has its own handler.
    """
    usual = (signal.SIG_DFL, signal.default_int_handler, _end)
    return signal.getsignal(number) in usual


def _end(number, frame) -> None:
    """Ends the process without raising anything that an import could print, change or drop."""
    try:  # noqa: SIM105, contextlib takes milliseconds too
        sys.stdout.flush()
    except Exception:  # its reader has gone, or the signal came amid a write
        pass

    try:
        new_line = b"\n" if os.isatty(2) else b""  # a terminal shows ^C
        os.write(2, new_line + b"interrupted.\n")
    finally:
        os._exit(128 + number)
