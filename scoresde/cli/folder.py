"""`scoresde info | report | import-checkpoint`: read a run's folder, write its page, make one of a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scoresde.runs.checkpoint import MANIFEST, CheckpointError, Checkpoints
from scoresde.runs.files import read_results, read_rows
from scoresde.runs.report import write_report
from scoresde.runs.settings import load_yaml


@dataclasses.dataclass(frozen=True)
class Info:
    """What a run trained, how far it is, whether its checkpoints are sound; at any time, also while it trains."""

    run: str
    """The run's folder."""

    def __call__(self) -> dict[str, Any]:
        path = _run_folder(self.run)
        notes: list[str] = []

        def read(name: str, reader: Callable[[Path], Any]) -> dict[str, Any]:
            try:
                return dict(reader(path / name))
            except (OSError, ValueError, TypeError) as error:
                notes.append(str(error) if (path / name).exists() else f"no {name}")
                return {}

        config = read("config.yaml", load_yaml)
        results, wrong = read_results(path / "results.json")
        notes += wrong if results or wrong else ["no results.json"]
        rows, faults = read_rows(path / "metrics.jsonl")
        notes += [f"metrics.jsonl: line {line} is no row" for line in faults]
        about, parameters, checkpoints = {}, None, {}
        with Checkpoints(path / "checkpoints") as stored:
            for step in sorted(
                int(entry.name) for entry in stored.directory.glob("*") if entry.name.isdecimal()
            ):
                try:
                    about = stored.restore_subtree({}, step).about
                    parameters = _parameters(stored.directory / str(step) / MANIFEST)
                    checkpoints[step] = "good"
                except CheckpointError as error:
                    checkpoints[step] = str(error)
        pieces = about.get("model") or about.get("own") or config
        status, steps = (
            results.get("status"),
            config.get("steps"),
        )  # of `fit` alone, config.yaml is its Training
        good = [step for step, state in checkpoints.items() if state == "good"]
        if status is None and good and isinstance(steps, int):
            status = "finished" if good[-1] >= steps else f"at step {good[-1]} of {steps}"
        return {
            "run": str(path),
            "status": status,
            **{name: pieces.get(name) for name in ("sde", "net", "parameterization")},
            "parameters": parameters,
            "shape": about.get("shape"),
            "examples": about.get("examples"),
            "prepare": about.get("prepare"),
            "checkpoints": checkpoints,
            "metrics": rows[-1] if rows else None,
            "results": {label: value for label, value, *_ in results.get("headline") or []},
            "notes": notes,
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the page of a run, report.html, anew from what its folder holds."""

    run: str
    """The run's folder."""

    def __call__(self) -> dict[str, Any]:
        return {"report": str(write_report(_run_folder(self.run)))}


@dataclasses.dataclass(frozen=True)
class ImportCheckpoint:
    """Make a run's folder of a checkpoint that the Flax release of Song et al. 2021 wrote; every leaf, or nothing.

    The continuous configurations: a discrete one's file may have the same parameters, of which none can be told.
    info, sample and likelihood (with --data FILE.npy of integers 0 ... 255) take the folder as they take any run's.
    """

    file: str
    """The checkpoint, such as checkpoint_26."""
    out: str | None = None
    """The folder to make; by default runs/NAME, the file's name."""
    config: str | None = None
    """The original's configuration, such as vp/cifar10_ddpmpp_continuous; not needed where the weights tell it."""

    def __call__(self) -> dict[str, Any]:
        from scoresde.originals.importing import import_checkpoint

        return import_checkpoint(
            self.file, self.out or Path("runs") / Path(self.file).name, self.config
        )


def _run_folder(run: str) -> Path:
    path = Path(run).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"there is no folder {path}: wanted a run's, such as runs/digits_vp."
        )
    if not any(
        (path / name).exists()
        for name in ("checkpoints", "config.yaml", "metrics.jsonl", "results.json")
    ):
        raise FileNotFoundError(
            f"{path} is not a run's folder: it has neither checkpoints nor config.yaml."
        )
    return path


def _parameters(manifest: Path) -> int:
    """The number of weights in a checkpoint, from the shapes "float32[3,3,1,32]" that its manifest lists."""
    leaves = json.loads(manifest.read_bytes())["content"]["leaves"]
    shapes = (
        shape.partition("[")[2].rstrip("]")
        for name, shape in leaves.items()
        if name.startswith("ema/")
    )
    return sum(math.prod(int(size) for size in shape.split(",") if size) for shape in shapes)
