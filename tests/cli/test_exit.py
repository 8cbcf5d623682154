"""How a command ends: exit codes, interruptions, a reader that has gone."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from scoresde.cli.exit import exit_code
from scoresde.cli.main import main


def test_interruption_and_debug(trained, monkeypatch, call):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scoresde.cli.sample.sample", stop)
    code, out, err = call("sample", trained, "--json")
    assert (code, out) == (130, "")
    assert "interrupted" in err

    with pytest.raises(FileNotFoundError):
        call("sample", "nowhere", "--debug")


def start(*arguments):
    """Starts the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "scoresde", *arguments],
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_too_little_memory_is_an_error_of_one_paragraph(capsys):
    def fail(words):
        raise MemoryError

    assert exit_code(fail, [], "interrupted.") == 1
    assert capsys.readouterr().err == "error: MemoryError\n(add --debug for the traceback)\n"


@pytest.fixture
def nobody(monkeypatch):
    """Returns a function that gives an output, "stdout" or "stderr", to a reader that has gone.

    Ctrl-C leaves both so behind `2>&1 | tee`, which it ends as well.
    """
    opened = []

    def give(name):
        read, write = os.pipe()
        os.close(read)
        opened.append(os.fdopen(write, "w"))
        monkeypatch.setattr(sys, name, opened[-1])

    yield give
    monkeypatch.undo()
    with open(os.devnull, "w") as sink:
        for stream in opened:
            os.dup2(sink.fileno(), stream.fileno())  # what could not be written
            stream.close()


def test_an_interruption_that_nobody_reads_of_is_one(nobody):
    def action(words):
        raise KeyboardInterrupt

    nobody("stderr")
    sys.stderr.reconfigure(line_buffering=True)
    assert exit_code(action, [], "interrupted.") == 130


def test_a_code_that_is_returned_stands_though_nobody_reads_the_output(nobody):
    """As that of an experiment which a signal has stopped, and whose checkpoint is saved."""

    def action(words):
        print("stopped")
        return 143

    nobody("stdout")
    assert exit_code(action, [], "interrupted.") == 143


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_work_that_ends_since_nobody_reads_of_it_has_failed(nobody, name):
    """As `2>&1 | head` ends a command that shows a bar."""
    ended = []

    def action(words):
        print("10 %", file=getattr(sys, name), flush=True)
        ended.append(True)

    nobody(name)
    assert exit_code(action, [], "interrupted.") == 1
    assert ended == []
    getattr(sys, name).flush()  # as Python does when it exits, whose code would be 120


def test_a_result_that_nobody_reads_to_its_end_is_done(trained, nobody, monkeypatch):
    """One that is longer than what Python holds back."""
    monkeypatch.setattr("scoresde.cli.main.as_text", lambda about: "x" * 100_000)
    nobody("stdout")
    assert main(["info", str(trained)]) == 0


def test_a_reader_that_is_gone_is_no_error(trained):
    """As `scoresde info RUN | head -0` would leave it."""
    process = start("info", str(trained))
    assert process.stdout is not None
    assert process.stderr is not None

    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


def test_an_interrupted_command_ends_with_130(trained):
    """Ctrl-C while XLA compiles or runs: Python's usual shutdown would crash (exit code -11)."""
    many = ["--num", "1000000", "--batch-size", "10000"]
    sampler = ["sampler:euler-maruyama", "--sampler.num-steps", "200"]
    process = start("sample", str(trained), *many, *sampler)
    assert process.stderr is not None
    assert process.stderr.read(9).strip() == "samples:"

    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted." in err
    assert "Traceback" not in err


def test_ctrl_c_lost_in_a_callback_comes_again(monkeypatch):
    """Python drops what is raised in a callback of its garbage collector, also a Ctrl-C.

    Nothing is printed about the dropped Ctrl-C; another error that is dropped there is printed.
    """
    lost = []
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: printed.append(dropped.exc_type))

    def callback(phase, info):
        if not lost:
            lost.append(phase)
            signal.raise_signal(signal.SIGINT)
        elif phase == "stop":
            raise LookupError

    def action(arguments):
        gc.callbacks.append(callback)
        gc.collect()
        gc.callbacks.remove(callback)
        time.sleep(30.0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert exit_code(action, [], "interrupted.") == 130
        assert lost
        assert printed == [LookupError]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
