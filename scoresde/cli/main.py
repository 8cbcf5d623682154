"""What a run's folder holds, put to use from the command line.

    scoresde sample RUN --num 64      draw samples: an .npz file and a picture in RUN/samples
    scoresde likelihood RUN           nats and bits/dim of the examples that the run held out
    scoresde info RUN                 what was trained, how far it is, whether its checkpoints are sound
    scoresde report RUN               write RUN/report.html anew
    scoresde import-checkpoint FILE   make a run's folder of a checkpoint of Song et al.'s Flax release
    scoresde --version

RUN is the folder of a run, such as runs/digits_vp: sd.fit(..., run=RUN) or a script under experiments/ makes one.
`scoresde COMMAND --help` lists the options of a command. Every command takes --json, for one JSON object and nothing
else on standard output, and --debug, for the traceback of an error.
Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import os
import sys
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from scoresde.cli.exit import UsageError, exit_code, leave
from scoresde.cli.flags import parse
from scoresde.cli.folder import ImportCheckpoint, Info, Report
from scoresde.cli.likelihood import Likelihood
from scoresde.cli.sample import Sample
from scoresde.runs.settings import ConfigError, from_dict, load_yaml
from scoresde.sampling.choices import AnySampler


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Help, and flags that cannot be parsed, raise SystemExit with theirs."""
    return exit_code(
        _run, sys.argv[1:] if arguments is None else arguments, interrupted="interrupted."
    )


def entry() -> NoReturn:
    """The console's command."""
    leave(main())


COMMANDS = {
    "sample": Sample,
    "likelihood": Likelihood,
    "info": Info,
    "report": Report,
    "import-checkpoint": ImportCheckpoint,
}


def _run(arguments: list[str]) -> int:
    name, *flags = [argument for argument in arguments if argument != "--json"] or [""]
    if name in ("-h", "--help", "--version"):
        from scoresde import __version__

        print(f"scoresde {__version__}" if name == "--version" else (__doc__ or "").strip())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = (
            f"did you mean {near[0]!r}?"
            if near
            else f"wanted one of {', '.join(COMMANDS)}; see scoresde --help."
        )
        raise UsageError(f"no command {name!r}: {meant}" if name else f"no command: {meant}")
    command = _parse(name, flags)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(
            f"warning: {message}", file=sys.stderr
        )
        about = command()
    print(json.dumps(_json(about)) if "--json" in arguments else _text(about))
    return 0


def _parse(name: str, flags: list[str]) -> Any:
    """The command, with defaults from the run's config.yaml; of --help, what fits a screen."""
    kind = COMMANDS[name]
    chosen = any(flag.startswith("sampler:") for flag in flags)
    takes_run = "run" in {field.name for field in dataclasses.fields(kind)}
    folder = next(
        (flag for flag in flags if takes_run and os.path.isdir(os.path.expanduser(flag))), None
    )
    defaults = {} if folder is None else _own_settings(name, folder, flags)
    hidden: Collection[str] = ()
    if {"-h", "--help"} & {
        *flags
    } and name == "sample":  # a sampler has many options: they come alone, when named
        others = [
            field.name
            for field in dataclasses.fields(Sample)
            if field.name not in ("run", "sampler")
        ]
        hidden = others if chosen else ["sampler"]
    command = parse(
        kind, flags, prog=f"scoresde {name}", defaults=defaults, hidden=hidden, footer=FOOTER
    )
    if folder is not None and folder != command.run:  # the defaults would be another run's
        raise UsageError(
            f"{folder} is a folder too: write the run first, scoresde {name} {command.run} ..."
        )
    return command


FOOTER = "Also --json, one JSON object for scripts, and --debug, the traceback of an error."


def _own_settings(name: str, run: str, flags: list[str]) -> dict[str, Any]:
    """What a run's config.yaml says of a command's options. Where they are given, it need not be readable."""
    path = Path(run).expanduser() / "config.yaml"
    given = {flag.partition("=")[0].partition(":")[0] for flag in flags}
    try:
        config = load_yaml(path) if path.exists() and name in ("sample", "likelihood") else {}
        if name == "likelihood":
            own = {
                "tolerance": config.get("likelihood_tolerance"),
                "t_min": config.get("likelihood_t_min"),
            }
            return {
                option: from_dict(value, float, f"{path}: {option}")
                for option, value in own.items()
                if value
            }
        sampler = config.get("sampler")
        return (
            {}
            if sampler is None
            else {"sampler": from_dict(sampler, AnySampler, f"{path}: sampler")}
        )
    except ConfigError:
        if "sampler" in given or {"--tolerance", "--t-min"} <= given:
            return {}
        raise


# --- What is printed ---


def _json(value: Any) -> Any:
    """Without NaN and infinity, which are not JSON."""
    if isinstance(value, dict):
        return {name: _json(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(about: dict[str, Any]) -> str:
    """One line for each entry; "x" and "x_stderr" on one."""
    lines = []
    for name, value in about.items():
        error = about.get(f"{name}_stderr", math.nan)
        if not name.endswith("_stderr"):
            lines.append(
                f"{name.replace('_', ' '):<17}{_words(value)}"
                + (f" ± {error:.2g}" if error == error else "")
            )
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(
            f"{name}={_words(entry)}" for name, entry in value.items() if name != "kind"
        )
        return f"{value['kind']}({inner})" if "kind" in value else inner or "none"
    if isinstance(value, list):
        sizes = f"({', '.join(map(_words, value))})"
        return "none" if not value else "; ".join(value) if isinstance(value[0], str) else sizes
    return "none" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
