"""`scoresde info`, `report` and `import-checkpoint`: what a run's folder holds, as a whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from scoresde.cli.place import writing_to
from scoresde.reading import check_inside
from scoresde.runs.about import check_about
from scoresde.runs.checkpoint import Checkpoints
from scoresde.runs.description import change_in_words, trained_in_words
from scoresde.runs.files import read_results, read_rows
from scoresde.runs.manifest import MANIFEST, count_parameters, read_manifest
from scoresde.runs.report import write_report
from scoresde.runs.yaml_files import load_yaml


@dataclasses.dataclass(frozen=True)
class InfoCommand:
    """Show what a run trained, how far it has come, and whether its checkpoints are intact.

    It works at any time, also while the run trains.
    """

    run: str
    """The run's folder, such as runs/digits_vp."""

    def __call__(self) -> dict[str, Any]:
        """Reads the folder and returns what `scoresde info` prints."""
        path = _run_folder(self.run)
        config, config_notes = _read_config(path)
        results, result_notes = _read_results(path)
        rows, row_notes = _read_rows(path)
        stored = _inspect_checkpoints(path)

        about = stored.about
        model = about.get("model") or about.get("own") or config
        headline = results.get("headline") or []
        return {
            "run": str(path),
            "status": _status(results, config, stored),
            "trained": trained_in_words(about) if about else None,
            "sde": model.get("sde"),
            "net": model.get("net"),
            "parameterization": model.get("parameterization"),
            "parameters": stored.parameters,
            "shape": about.get("shape"),
            "examples": about.get("examples"),
            "prepare": about.get("prepare"),
            "standardization": about.get("standardization"),
            "changes": [change_in_words(change) for change in about.get("changes") or []],
            "checkpoints": stored.states,
            "metrics": rows[-1] if rows else None,
            "results": {label: value for label, value, *_ in headline},
            "notes": [*config_notes, *result_notes, *row_notes],
        }


@dataclasses.dataclass(frozen=True)
class ReportCommand:
    """Write the page of a run, report.html, from what its folder holds now."""

    run: str
    """The run's folder, such as runs/digits_vp."""
    out: str | None = None
    """File to write, NAME.html; by default RUN/report.html."""

    def __post_init__(self):
        if self.out is not None and not self.out.endswith(".html"):
            raise ValueError(f"out = {self.out}: wanted a name that ends in .html.")

    def __call__(self) -> dict[str, Any]:
        """Writes the page and returns its place, which `scoresde report` prints."""
        run = _run_folder(self.run)
        path = run / "report.html" if self.out is None else Path(self.out).expanduser()
        with writing_to(path.parent, "name another file for the page, --out NAME.html."):
            return {"report": str(write_report(run, out=path))}


@dataclasses.dataclass(frozen=True)
class ImportCommand:
    """Turn a checkpoint of Song et al.'s Flax release (2021) into the folder of a run.

    Every parameter is imported, or nothing. The configuration is recognised by its parameters; if
    several fit, name one with --config. Make sure that yours is a continuous configuration: the
    checkpoint of a discrete one can hold the same parameters, and would give wrong samples.

    The commands info, sample and likelihood then work on the folder as on that of any run;
    likelihood needs --data FILE.npy, with integers 0 … 255.
    """

    file: str
    """The checkpoint, such as checkpoint_26."""
    out: str | None = None
    """The folder to make; by default runs/NAME, where NAME is the file's name."""
    config: str | None = None
    """The original's configuration, such as vp/cifar10_ddpmpp_continuous."""

    def __call__(self) -> dict[str, Any]:
        """Imports the checkpoint and returns what `scoresde import-checkpoint` prints."""
        from scoresde.originals.importing import import_checkpoint

        out = self.out or Path("runs") / Path(self.file).name
        return import_checkpoint(self.file, out, self.config)


def _run_folder(run: str) -> Path:
    """Returns the folder of a run.

    Raises:
        FileNotFoundError: if there is no folder, or a run did not write it.
    """
    path = Path(run).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"there is no folder {path}: wanted the folder of a run, such as runs/digits_vp."
        )

    names = ("checkpoints", "config.yaml", "metrics.jsonl", "results.json")
    if not any((path / name).exists() for name in names):
        raise FileNotFoundError(
            f"{path} is not a run's folder: it has neither checkpoints nor config.yaml. "
            f"Wanted a folder such as runs/digits_vp."
        )
    return path


# --- What the folder holds, and notes on what is missing or damaged ---


def _read_config(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns the settings in config.yaml, and notes."""
    file = path / "config.yaml"
    try:
        return dict(load_yaml(file, inside=path)), []
    except (OSError, ValueError, TypeError) as error:
        return {}, [str(error) if file.exists() else f"no {file.name}"]


def _read_results(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns what results.json holds, and notes."""
    results, notes = read_results(path / "results.json")
    if not results and not notes:
        notes = ["no results.json"]
    return results, notes


def _read_rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the rows of metrics.jsonl, and notes."""
    return read_rows(path / "metrics.jsonl")


@dataclasses.dataclass
class _Stored:
    """What the checkpoints of a run hold."""

    about: dict[str, Any]
    """What the newest intact checkpoint says about its model and data."""
    parameters: int | None
    """The number of weights in the newest intact checkpoint."""
    states: dict[int, str]
    """For each step "good", or what is wrong with its checkpoint."""


def _inspect_checkpoints(path: Path) -> _Stored:
    """Reads every checkpoint of a run, oldest first."""
    found = _Stored(about={}, parameters=None, states={})
    check_inside(path / "checkpoints", path)
    with Checkpoints(path / "checkpoints") as stored:
        found.states = stored.states()
    for step, state in found.states.items():
        if state != "good":
            continue
        try:
            manifest = read_manifest(path / "checkpoints" / str(step) / MANIFEST)
            check_about(manifest["about"], f"step {step}")
            found.about = manifest["about"]
            found.parameters = count_parameters(manifest)
        except (OSError, ValueError) as error:
            found.states[step] = str(error)
    return found


def _status(results: dict[str, Any], config: dict[str, Any], stored: _Stored) -> str | None:
    """Returns how far the run has come, None if that is unknown."""
    status = results.get("status")
    if status is not None:
        return status

    # An experiment writes results.json. After a plain `fit`, config.yaml holds its Training.
    steps = config.get("steps")
    good = [step for step, state in stored.states.items() if state == "good"]
    if not good or not isinstance(steps, int):
        return None
    return "finished" if good[-1] >= steps else f"at step {good[-1]} of {steps}"
