"""Files that a killed run never leaves half-written, rows of metrics that survive it, results that can be read."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that a reader, or a run that is killed, never sees half of it. Makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # the content before the name
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_rows(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """Rows of a metrics.jsonl by step, and the numbers of lines that are none; no file, no rows.

    Where a resumed run repeats a step, its later row wins, key by key. A last line cut short is on its way: no fault.
    """
    path = Path(path)
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    by_step: dict[float, dict[str, Any]] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not all(value is None or isinstance(value, (int, float)) for value in row.values()):
                raise ValueError("metrics are numbers")
            by_step.setdefault(float(row["step"]), {}).update(row)
        except (ValueError, TypeError, KeyError, AttributeError):
            if number < len(lines):
                faults.append(number)
    return [by_step[step] for step in sorted(by_step)], faults


def read_results(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """A run's results.json without what cannot be understood, and notes on that; no file, no results."""
    path = Path(path)
    try:
        results = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        return {}, [f"{path.name} is not JSON: left out ({error})."]
    if not isinstance(results, dict):
        return {}, [f"{path.name} holds no object: left out."]
    rows = lambda value: (
        isinstance(value, list) and all(isinstance(row, list) and row for row in value)
    )  # noqa: E731
    right: dict[str, Callable[[Any], bool]] = {
        "headline": lambda value: rows(value) and all(len(row) > 1 for row in value),
        "tables": lambda value: (
            isinstance(value, list)
            and all(isinstance(table, dict) and rows(table.get("rows") or []) for table in value)
        ),
        "timings": lambda value: (
            isinstance(value, dict) and all(isinstance(s, (int, float)) for s in value.values())
        ),
        "versions": lambda value: isinstance(value, dict),
        "step": lambda value: isinstance(value, int),
        "total_steps": lambda value: isinstance(value, int),
    }
    wrong = [
        name
        for name, fits in right.items()
        if results.get(name) is not None and not fits(results[name])
    ]
    kept = {name: value for name, value in results.items() if name not in wrong}
    return kept, [f"{path.name}: {name} is not what a run writes: left out." for name in wrong]
