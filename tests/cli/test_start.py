"""Signals while a command still imports: one line and a code, from the first module on."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import scoresde as sd
from scoresde import names
from scoresde.cli.exit import exit_code
from scoresde.cli.start import STOPS, end_on_signals

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SCRIPTS = sorted(
    path.stem for path in EXPERIMENTS.glob("*.py") if "\nif __name__ ==" in path.read_text()
)

SIGNAL_AT = """
import os, runpy, signal, sys

number, module, program = int(sys.argv[1]), *sys.argv[2:4]
del sys.argv[:3]

class Sends:
    def __del__(self):  # where Python drops what is raised
        signal.raise_signal(number)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            Sends()

sys.meta_path.insert(0, Finder())
if program == "scoresde":
    runpy.run_module(program, run_name="__main__", alter_sys=True)
else:
    sys.path.insert(0, os.path.dirname(program))
    runpy.run_path(program, run_name="__main__")
"""
"""A process that sends itself a signal when it first imports a module."""


def signal_at(number, module, program):
    """Runs a program's --help, with a signal at the import of a module."""
    return subprocess.run(
        [sys.executable, "-c", SIGNAL_AT, str(int(number)), module, program, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("module", ["scoresde.cli.exit", "jaxlib", "scoresde.cli.defaults"])
def test_ctrl_c_while_a_command_imports_is_one_line(module):
    done = signal_at(signal.SIGINT, module, "scoresde")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted.\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_an_experiment_imports_is_one_line(script):
    done = signal_at(signal.SIGINT, "numpy", str(EXPERIMENTS / f"{script}.py"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted.\n")


def test_sigterm_while_a_command_imports_is_one_line():
    done = signal_at(signal.SIGTERM, "jax", "scoresde")
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "interrupted.\n")


@pytest.mark.parametrize(
    ("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 128 + signal.SIGUSR1)]
)
def test_a_signal_while_a_command_runs_tells_its_code(number, code, capsys):
    """An import may turn the KeyboardInterrupt into another error, which says nothing of it."""

    def action(arguments):
        try:
            signal.raise_signal(getattr(signal, number))
        except KeyboardInterrupt:
            raise RuntimeError("half an import") from None

    before = [signal.getsignal(stop) for stop in STOPS]
    assert exit_code(action, [], "interrupted.") == code
    assert capsys.readouterr().err == "\ninterrupted.\n"
    assert [signal.getsignal(stop) for stop in STOPS] == before


def test_the_library_leaves_signals_alone():
    """All of it is imported here; conftest.py set the handler of Ctrl-C before that."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_signals_that_the_parent_ignores_stay_ignored():
    """As under nohup, and in the background of a script."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        end_on_signals()
        assert exit_code(lambda _: signal.raise_signal(signal.SIGINT), [], "interrupted.") == 0
        assert {signal.getsignal(number) for number in STOPS} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_every_name_that_is_imported_late_is_offered():
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(Path(names.__file__).read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= {*sd.__all__}
    assert all(hasattr(sd, name) for name in sd.__all__)
