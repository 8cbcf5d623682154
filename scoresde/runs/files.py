"""Files of a run: written whole or not at all, and read with a note on whatever is faulty."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from scoresde.reading import BLOCK, UnreadableError, open_regular, parse_json, read_json


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

LARGEST_METRICS = 2**27
"""The bytes at the end of a metrics.jsonl that are read: 128 MB, more than half a million rows."""
MOST_ENTRIES = 6_500_000
"""The entries of the rows that are read, where each row counts as `ROW` entries more: 300 MB."""
ROW = 8
LONGEST_LINE = 2**20
"""The bytes of a line, beyond which it is no row."""
SHOWN = 5
"""The faulty lines that have a note each; the others are only counted."""


def read_rows(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the rows of a metrics.jsonl by step, and notes on what was left out.

    If a resumed run repeats a step, its later row wins, key by key. A faulty last line is not
    noted, because it may still be being written. Of a very large file the rows at its end are
    returned. Without a file there are no rows.
    """
    path = Path(path)
    if not path.exists():
        return [], []
    try:
        with open_regular(path, inside=path.parent) as stream:
            rows, faults, cut = _read_rows(stream)
    except (OSError, UnreadableError) as error:
        return [], [f"{path.name} was left out: {error}"]

    if cut:
        notes = [f"{path.name} is very large: of its rows only those at its end were read."]
        faults = []  # whose lines are not counted from the beginning
    else:
        shown = faults[:SHOWN]
        notes = [f"Line {n} of {path.name} is not a row with a step: left out." for n in shown]
    if len(faults) > SHOWN:
        notes.append(f"{len(faults) - SHOWN} more lines of {path.name} are not rows: left out.")
    return rows, notes


def _read_rows(stream: BinaryIO) -> tuple[list[dict[str, Any]], list[int], bool]:
    """Returns the rows, the numbers of the lines that are none, and whether the beginning was
    left out."""
    start = _start(stream)
    stream.seek(start)
    if start:
        stream.readline(LONGEST_LINE)  # the rest of a line

    by_step: dict[float, dict[str, Any]] = {}
    names: dict[str, str] = {}  # the same texts for all rows, which halves their memory
    faults = []
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        try:
            step, row = _row(line)
        except ValueError:
            faults.append(number)
            continue
        row = {names.setdefault(name, name): value for name, value in row.items()}
        by_step.setdefault(step, {}).update(row)

    if faults and faults[-1] == number:
        faults.pop()
    return [by_step[step] for step in sorted(by_step)], faults, start > 0


def _start(stream: BinaryIO) -> int:
    """Returns where the lines at the end begin that are not too many to be read."""
    size = os.fstat(stream.fileno()).st_size
    start = size
    entries = 0
    while start > 0 and size - start < LARGEST_METRICS:
        before = max(0, start - BLOCK)
        stream.seek(before)
        block = stream.read(start - before)
        entries += block.count(b",") + ROW * block.count(b"\n")
        if entries > MOST_ENTRIES:
            break
        start = before
    return start


def _row(line: bytes) -> tuple[float, dict[str, Any]]:
    """Returns the step and the entries of a row of metrics.

    Raises:
        ValueError: if the line is none.
    """
    row = parse_json(line)
    if not isinstance(row, dict) or not all(v is None or is_number(v) for v in row.values()):
        raise ValueError("metrics are numbers by name")
    step = row.get("step")
    if step is None or not math.isfinite(step):
        raise ValueError("there is no step")
    return float(step), row


# --- results.json ---


def read_results(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the entries of a results.json that can be understood, and a note on each other one.

    Without a file there are no results.
    """
    path = Path(path)
    if not path.exists():
        return {}, []

    try:
        results = read_json(path, inside=path.parent)
    except (OSError, UnreadableError) as error:
        return {}, [f"{path.name} was left out: {error}"]
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


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that float64 holds; NaN and infinity are."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _is_cell(value: Any) -> bool:
    """Whether a value is a number, a text or None."""
    return value is None or isinstance(value, str) or is_number(value)


def _are_rows(value: Any) -> bool:
    """Whether the value is a list of lists, none of them empty, of numbers and texts."""
    if not isinstance(value, list):
        return False
    return all(isinstance(row, list) and row and all(map(_is_cell, row)) for row in value)


def _is_headline(value: Any) -> bool:
    """Whether each row has a label and a value."""
    return _are_rows(value) and all(len(row) > 1 for row in value)


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_table, value))


def _is_table(value: Any) -> bool:
    """Whether the value has a title, columns and rows, any of which may be missing."""
    if not isinstance(value, dict) or not _is_cell(value.get("title")):
        return False
    columns = value.get("columns") or []
    return _are_rows(value.get("rows") or []) and (columns == [] or _are_rows([columns]))


def _are_timings(value: Any) -> bool:
    """Whether the value holds seconds by name."""
    return isinstance(value, dict) and all(
        is_number(seconds) and 0.0 <= seconds < math.inf for seconds in value.values()
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and is_number(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


EXPECTED: dict[str, Callable[[Any], bool]] = {
    "status": _is_text,
    "command": _is_text,
    "device": _is_text,
    "headline": _is_headline,
    "tables": _are_tables,
    "timings": _are_timings,
    "versions": lambda value: isinstance(value, dict),
    "step": _is_whole,
    "total_steps": _is_whole,
}
"""Whether an entry of results.json is what a run writes there."""
