"""Signals that end training after the current step."""

import signal

import pytest

from scoresde.train.signals import STOPS, exit_code_of_stop, interruptible


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 128 + signal.SIGUSR1)]
)
def test_a_signal_asks_to_stop_and_a_second_ctrl_c_stops(name, code):
    """Schedulers repeat their signals, while the checkpoint is being saved."""
    before = [signal.getsignal(number) for number in STOPS]
    said = []
    with interruptible(said.append) as stop:
        assert not stop.is_set()
        signal.raise_signal(getattr(signal, name))
        assert stop.is_set()

        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert len(said) == 1
    assert exit_code_of_stop() == code
    assert [signal.getsignal(number) for number in STOPS] == before


def test_a_process_that_received_no_signal_ends_with_130():
    """Another process of its training did; an earlier training's signal does not count."""
    for numbers in ([signal.SIGTERM], []):
        with interruptible(lambda _: None):
            for number in numbers:
                signal.raise_signal(number)
    assert exit_code_of_stop() == 130


def test_a_signal_that_the_parent_ignores_stays_ignored():
    """As Ctrl-C is in a run that a script has put in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible(lambda _: None) as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.is_set()
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("error", [BrokenPipeError, RuntimeError])
def test_a_message_that_nobody_reads_does_not_end_training_at_once(error):
    """Ctrl-C ends `| tee` as well; a print amid another one raises a RuntimeError."""

    def say(message):
        raise error

    with interruptible(say) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
