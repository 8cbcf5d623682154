"""A file of results, one number of each kind per example and repeat: written in chunks, resumed.

The first line holds the settings that the results depend on; every further one those of a chunk,

    {"repeat": 0, "rows": [0, 1, …], name: [value, …], …}

A number that is not finite is null. A last line that was cut short is computed again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

Solve = Callable[[int, np.ndarray], dict[str, Any]]
"""(repeat, rows) → the results of these rows by name; None for those that there are not."""


def stream(
    path: Path,
    about: dict[str, Any],
    names: Sequence[str],
    solve: Solve,
    examples: int,
    repeats: int,
    batch_size: int,
    label: str,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Returns tables (examples, repeats) of the results by name, each computed exactly once.

    Each chunk is written to the file at `path` as soon as it is done, and a file whose first line
    holds the same `about` is resumed. NaN marks a missing number.

    Raises:
        ValueError: if the file holds something else.
    """
    found = {name: np.full((examples, repeats), np.nan) for name in names}
    done = _read(path, about, found)
    with _progress_bar(done, label, progress) as bar, path.open("a") as file:
        for repeat, rows in _missing(done, batch_size):
            values = {name: _plain(value) for name, value in solve(repeat, rows).items()}
            line = {"repeat": repeat, "rows": rows.tolist(), **values}
            file.write(json.dumps(line) + "\n")
            file.flush()
            _put(found, line)
            bar.update(len(rows))
    return found


def read_tables(path: Path, names: Sequence[str], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns the tables (examples, repeats) in a file, NaN for what it does not hold.

    Raises:
        ValueError: if a line cannot be read.
    """
    found = {name: np.full(shape, np.nan) for name in names}
    _read_lines(path, path.read_text(errors="replace").splitlines(), found, np.zeros(shape, bool))
    return found


def _missing(done: np.ndarray, batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the repeats, and chunks of the rows that are not done in each."""
    for repeat in range(done.shape[1]):
        missing = np.flatnonzero(~done[:, repeat])
        for start in range(0, len(missing), batch_size):
            yield repeat, missing[start : start + batch_size]


def _progress_bar(done: np.ndarray, label: str, progress: bool) -> tqdm:
    return tqdm(
        total=done.size,
        initial=int(done.sum()),
        desc=label,
        unit="example",
        disable=not progress,
        smoothing=0.5,
    )


def _read(path: Path, about: dict[str, Any], found: dict[str, np.ndarray]) -> np.ndarray:
    """Fills in what the file holds, and returns which (examples, repeats) are done.

    A new file gets its first line; a last line that was cut short is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = np.zeros(next(iter(found.values())).shape, bool)
    first = json.dumps({"about": about})

    # A new file, or one whose process was stopped within the first line.
    text = path.read_text(errors="replace") if path.exists() else ""
    lines = text.splitlines()
    if not lines or (len(lines) == 1 and not text.endswith("\n")):
        path.write_text(first + "\n")
        return done

    if lines[0] != first:
        raise ValueError(
            f"{path} holds likelihoods made with other settings: delete it, or name another file."
        )
    whole = _read_lines(path, lines, found, done)
    if text != whole:
        path.write_text(whole)
    return done


def _read_lines(
    path: Path, lines: list[str], found: dict[str, np.ndarray], done: np.ndarray
) -> str:
    """Fills in found and done, and returns the text of the lines that are whole."""
    for number, row in enumerate(lines[1:], start=2):
        try:
            line = json.loads(row)
            _put(found, line)
            done[line["rows"], line["repeat"]] = True
        except (ValueError, TypeError, KeyError, IndexError) as error:
            if number < len(lines):
                raise ValueError(
                    f"{path}: line {number} cannot be read ({error}): delete the file, or name "
                    f"another."
                ) from error
            lines = lines[:-1]  # the process was stopped while it wrote the last line
    return "".join(f"{row}\n" for row in lines)


def _put(found: dict[str, np.ndarray], line: dict[str, Any]) -> None:
    rows = np.array(line["rows"])
    for name, table in found.items():
        table[rows, line["repeat"]] = np.array(line[name], np.float64)  # None becomes NaN


def _plain(values: Any) -> list[float | None] | list[int] | None:
    """Returns the values as JSON can hold them: None for NaN and infinity."""
    if values is None:
        return None
    array = np.asarray(values)
    if np.issubdtype(array.dtype, np.integer):
        return array.tolist()
    numbers = array.astype(np.float64).tolist()
    return [number if math.isfinite(number) else None for number in numbers]
