"""Files that a killed run never leaves half-written, and rows of metrics that survive it."""

from __future__ import annotations

import json
import os
import threading
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
            by_step.setdefault(float(row["step"]), {}).update(row)
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                faults.append(number)
    return [by_step[step] for step in sorted(by_step)], faults
