"""Use the model and the results in a run's folder.

    scoresde sample RUN --num 64      draw samples: an .npz file and a picture in RUN/samples
    scoresde likelihood RUN           compute nats and bits/dim of the run's held-out examples
    scoresde inpaint RUN --image ...  fill in the pixels of a picture that a mask leaves out
    scoresde restore RUN --image ...  draw what a small, blurred or gray picture may be of
    scoresde info RUN                 show what was trained, how far, if checkpoints are intact
    scoresde report RUN               write the run's page, RUN/report.html
    scoresde import-checkpoint FILE   turn a checkpoint of Song et al.'s Flax release into a run
    scoresde --version                print the version

RUN is the folder of a run, such as runs/digits_vp. Runs are made by sd.fit(..., run=RUN) and by
the scripts under experiments/. `scoresde COMMAND --help` lists the options of a command.

Every command also takes --json, to print one JSON object and nothing else on standard output, and
--debug, to show the traceback of an error. Exit codes: 0 done, 1 failed, 2 wrong use,
130 interrupted, 143 terminated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import jax

from scoresde.cli.defaults import defaults_of_run
from scoresde.cli.exit import UsageError, exit_code
from scoresde.cli.flags import parse
from scoresde.cli.folder import ImportCommand, InfoCommand, ReportCommand
from scoresde.cli.likelihood import LikelihoodCommand
from scoresde.cli.output import as_json, as_text
from scoresde.cli.restore import InpaintCommand, RestoreCommand
from scoresde.cli.sample import SampleCommand
from scoresde.parallel.join import ADDRESS

COMMANDS = {
    "sample": SampleCommand,
    "likelihood": LikelihoodCommand,
    "inpaint": InpaintCommand,
    "restore": RestoreCommand,
    "info": InfoCommand,
    "report": ReportCommand,
    "import-checkpoint": ImportCommand,
}

FOOTER = "Also --json prints one JSON object for scripts, --debug the traceback of an error."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default that of the process, and returns its exit code.

    Raises:
        SystemExit: after the --help of a command, and for options that cannot be parsed.
    """
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code(_run, words, interrupted="interrupted.")


def _run(arguments: list[str]) -> int:
    """Runs the command that the arguments name, and prints what it returns."""
    words = [word for word in arguments if word != "--json"]
    name, *options = words or [""]

    if name == "--version":
        from scoresde import __version__

        print(f"scoresde {__version__}")
        return 0
    if name in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0
    _check_name(name)

    command = _parse(name, options)
    with _chatter_on_stderr():
        about = command()
    if getattr(command, "in_processes", False) and jax.process_index() > 0:
        return 0  # process 0 has written everything, and tells of it

    with contextlib.suppress(BrokenPipeError):  # the work is done, whoever reads of it
        print(as_json(about) if "--json" in arguments else as_text(about))
    return 0


def _check_name(name: str) -> None:
    """Raises a UsageError if there is no command of this name."""
    if name in COMMANDS:
        return

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    else:
        hint = f"wanted one of {', '.join(COMMANDS)}; see scoresde --help."
    raise UsageError(f"no command {name!r}: {hint}" if name else f"no command: {hint}")


@contextlib.contextmanager
def _chatter_on_stderr():
    """Sends what libraries print, and all warnings, to standard error while a command runs."""

    def show(message: Any, *_: Any, **__: Any) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), _chatter_of_gloo():
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _chatter_of_gloo():
    """Sends what C++ prints to standard error too, where several processes are named: Gloo tells on
    standard output whom it is connected to."""
    if ADDRESS not in os.environ:
        yield
        return

    sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(output, 1)
        os.close(output)


def _parse(name: str, options: list[str]) -> Any:
    """Returns the command with its settings, whose defaults come from the run's config.yaml."""
    kind = COMMANDS[name]

    # The run's folder must be known before parsing, since the defaults depend on it.
    fields = {field.name for field in dataclasses.fields(kind)}
    folders = [word for word in options if os.path.isdir(os.path.expanduser(word))]
    folder = folders[0] if folders and "run" in fields else None

    command = parse(
        kind,
        options,
        prog=f"scoresde {name}",
        defaults={} if folder is None else defaults_of_run(name, folder, options),
        hidden=_hidden_in_help(kind, options),
        footer=FOOTER,
    )
    if folder is not None and folder != command.run:  # the defaults are those of another run
        raise UsageError(
            f"{folder} is a folder too: write the run first, scoresde {name} {command.run} ..."
        )
    return command


def _hidden_in_help(kind: Any, options: list[str]) -> list[str]:
    """Returns the fields of a command that --help leaves out, so that it fits a screen.

    A sampler has many options: they are shown alone, and only for a sampler that is named.
    """
    if not {"-h", "--help"} & {*options}:
        return []
    names = [field.name for field in dataclasses.fields(kind)]
    unlisted = [*getattr(kind, "unlisted", ())]
    if "sampler" not in names:
        return unlisted
    if not any(word.startswith("sampler:") for word in options):
        return ["sampler", *unlisted]
    return [name for name in names if name not in ("run", "sampler")]
