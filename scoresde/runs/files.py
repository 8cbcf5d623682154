"""Files of a run: written whole or not at all, and read with a note on whatever is faulty."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file, and its folder if need be, so that it appears whole or not at all.

    A process killed at any moment, or a full disk, leaves the previous file in place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # the content must be on disk before the name is
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def free_space(folder: Path) -> str:
    """Returns a sentence on the space that is left where a folder is or would be, "" if unknown."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f"{free / 2**20:,.1f} MiB are free there."


# --- metrics.jsonl ---


def read_rows(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the rows of a metrics.jsonl by step, and the numbers of the lines that are not rows.

    If a resumed run repeats a step, its later row wins, key by key. A faulty last line does not
    count as a fault, because it may still be being written. Without a file there are no rows.
    """
    path = Path(path)
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []

    by_step: dict[float, dict[str, Any]] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not all(value is None or _is_number(value) for value in row.values()):
                raise ValueError("metrics are numbers")
            by_step.setdefault(float(row["step"]), {}).update(row)
        except (ValueError, TypeError, KeyError, AttributeError):
            if number < len(lines):
                faults.append(number)

    return [by_step[step] for step in sorted(by_step)], faults


# --- results.json ---


def read_results(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the entries of a results.json that can be understood, and a note on each other one.

    Without a file there are no results.
    """
    path = Path(path)
    if not path.is_file():
        return {}, []

    try:
        results = json.loads(path.read_bytes())
    except ValueError as error:
        return {}, [f"{path.name} is not JSON and was left out ({error})."]
    if not isinstance(results, dict):
        return {}, [f"{path.name} does not hold a JSON object and was left out."]

    kept = {}
    notes = []
    for name, value in results.items():
        if value is None or name not in EXPECTED or EXPECTED[name](value):
            kept[name] = value
    for name in EXPECTED:
        if name in results and name not in kept:
            notes.append(f"{path.name}: {name} is not what a run writes and was left out.")
    return kept, notes


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _are_rows(value: Any) -> bool:
    """Whether the value is a list of lists, none of them empty."""
    return isinstance(value, list) and all(isinstance(row, list) and row for row in value)


def _is_headline(value: Any) -> bool:
    """Whether each row has a label and a value."""
    return _are_rows(value) and all(len(row) > 1 for row in value)


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(table, dict) and _are_rows(table.get("rows") or []) for table in value
    )


def _are_timings(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(seconds) for seconds in value.values())


def _is_whole(value: Any) -> bool:
    return isinstance(value, int)


EXPECTED: dict[str, Callable[[Any], bool]] = {
    "headline": _is_headline,
    "tables": _are_tables,
    "timings": _are_timings,
    "versions": lambda value: isinstance(value, dict),
    "step": _is_whole,
    "total_steps": _is_whole,
}
"""Whether an entry of results.json is what a run writes there."""
