"""A file of results, one number of each kind per example and repeat: written in chunks, resumed.

The first line holds the settings that the results depend on; every further one those of a chunk,

    {"repeat": 0, "rows": [0, 1, …], name: [value, …], …, "sha256": "…"}

A number that is not finite is null. Lines are those of checked_lines.py: one that has changed is
named and computed again, and one that was cut short at the end is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from scoresde.checked_lines import read_results
from scoresde.parallel.shared_lines import SharedLines

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
        OSError: if results are missing, and the file cannot be written.
    """
    tables = _Tables(names, examples, repeats)
    lines = SharedLines(path, about)
    lines.resume(tables.take)
    if tables.done.all():
        return tables.values

    lines.check_writable()
    with _progress_bar(tables.done, label, progress) as bar:
        for repeat, rows in _missing(tables.done.copy(), batch_size):
            values = {name: _plain(value) for name, value in solve(repeat, rows).items()}
            line = {"repeat": repeat, "rows": rows.tolist(), **values}
            lines.append(line)
            tables.take(line)
            bar.update(len(rows))
    return tables.values


def read_tables(path: Path, names: Sequence[str], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns the tables (examples, repeats) in a file, NaN for what it does not hold.

    Raises:
        ValueError: if a line is not sound.
    """
    tables = _Tables(names, *shape)
    for line in read_results(path):
        tables.take(line)
    return tables.values


class _Tables:
    """The results by name, each a table (examples, repeats), and which of them are there."""

    def __init__(self, names: Sequence[str], examples: int, repeats: int):
        self.values = {name: np.full((examples, repeats), np.nan) for name in names}
        self.done = np.zeros((examples, repeats), bool)

    def take(self, line: dict[str, Any]) -> None:
        """Fills in the results of a line; those that are there already stay.

        Raises:
            ValueError: if the line names other rows than those of the tables, or has not one result
                for each.
        """
        examples, repeats = self.done.shape
        repeat = line.get("repeat")
        rows = line.get("rows")
        if not _are_whole([repeat], repeats):
            raise ValueError(f"is of repeat {repeat}, which is not one of {repeats}")
        if not isinstance(rows, list) or not _are_whole(rows, examples):
            raise ValueError(f"names rows that are not among the {examples} examples")
        if len(rows) == 0 or len(set(rows)) < len(rows):
            raise ValueError("names a row twice, or none")
        columns = {name: _column(line.get(name), len(rows), name) for name in self.values}

        new = ~self.done[rows, repeat]
        rows = np.array(rows)[new]
        for name, column in columns.items():
            self.values[name][rows, repeat] = column[new]
        self.done[rows, repeat] = True


def _are_whole(values: list[Any], below: int) -> bool:
    """Whether all values are whole numbers 0 … below - 1."""
    return all(type(value) is int and 0 <= value < below for value in values)


def _column(values: Any, length: int, name: str) -> np.ndarray:
    """Returns the results of a line of one name, NaN for null.

    Raises:
        ValueError: if they are not as many numbers.
    """
    if values is None:
        return np.full(length, np.nan)
    known = (int, float, type(None))
    if not isinstance(values, list) or {type(value) for value in values} - {*known}:
        raise ValueError(f"holds {name} that are not numbers")
    if len(values) != length:
        raise ValueError(f"holds {len(values)} {name} for {length} rows")
    return np.array(values, np.float64)  # None becomes NaN


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
        disable=not progress or jax.process_index() > 0,
        smoothing=0.5,
    )


def _plain(values: Any) -> list[float | None] | list[int] | None:
    """Returns the values as JSON can hold them: None for NaN and infinity."""
    if values is None:
        return None
    array = np.asarray(values)
    if np.issubdtype(array.dtype, np.integer):
        return array.tolist()
    numbers = array.astype(np.float64).tolist()
    return [number if math.isfinite(number) else None for number in numbers]
