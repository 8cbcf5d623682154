"""Work that is given up after a signal, whatever it makes of the exception that ends it."""

import contextlib
import signal
import time

import pytest

from scoresde.train import grace
from scoresde.train.grace import given_up_after
from scoresde.train.signals import interruptible


def until_interrupted():
    signal.raise_signal(signal.SIGTERM)
    time.sleep(60)


def loses_the_exception():
    with contextlib.suppress(KeyboardInterrupt):
        until_interrupted()
    time.sleep(60)


def makes_another_of_it():
    try:
        until_interrupted()
    except KeyboardInterrupt as error:
        raise RuntimeError("the library's own") from error


@pytest.mark.parametrize("work", [until_interrupted, loses_the_exception, makes_another_of_it])
def test_work_ends_soon_after_a_signal(work, monkeypatch):
    monkeypatch.setattr(grace, "AGAIN", 0.2)
    start = time.monotonic()
    with interruptible(lambda _: None) as stop, given_up_after(0.1, stop) as done:
        work()
    assert done.given_up
    assert time.monotonic() - start < 30


def test_an_error_of_the_work_itself_is_raised():
    with interruptible(lambda _: None) as stop, pytest.raises(RuntimeError):  # noqa: SIM117
        with given_up_after(10.0, stop):
            raise RuntimeError
