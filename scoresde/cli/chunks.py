"""Arrays drawn in chunks, each kept in a file beside their own as soon as it is drawn.

    NAME.npz.<digest>.partial    lines of checked_lines.py: {"chunk": 0, name: an array, ...}

The digest is that of all that the arrays depend on, the size of a chunk among it: floating-point
numbers may differ in their last digit where the same example is computed in a batch of another
size. Arrays that fit in one chunk need no such file. Several processes draw each chunk together.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from scoresde.data.source import digest
from scoresde.parallel.shared_lines import SharedLines

Draw = Callable[[np.ndarray], dict[str, np.ndarray]]
"""rows → the arrays of these rows by name, (rows, ...)."""


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The rows of arrays, cut into chunks of one size, as equal as possible."""

    target: Path
    """The file that will hold all of them."""
    about: dict[str, Any]
    """What they depend on, as plain JSON data."""
    num: int
    """The number of rows."""
    batch_size: int
    """The rows of a chunk, at most."""

    @property
    def count(self) -> int:
        """The number of chunks."""
        return -(-self.num // self.batch_size)

    @property
    def size(self) -> int:
        """The rows of a chunk; the last one may have fewer."""
        return -(-self.num // self.count)

    @cached_property
    def lines(self) -> SharedLines:
        """The lines that keep the chunks."""
        about = {**self.about, "num": self.num, "chunk_size": self.size}
        name = digest(json.dumps(about, sort_keys=True).encode())[:12]
        return SharedLines(self.target.with_name(f"{self.target.name}.{name}.partial"), about)

    @property
    def path(self) -> Path:
        """The file of these lines."""
        return self.lines.path

    def gather(self, draw: Draw, names: Sequence[str], label: str) -> dict[str, np.ndarray]:
        """Returns the arrays of all rows, of which those that are kept are not drawn again.

        Every chunk is drawn in one shape, so that one program is compiled: the last one is filled
        up with its last row.
        """
        kept: dict[int, dict[str, np.ndarray]] = {}

        def take(line: dict[str, Any]) -> None:
            chunk = line.get("chunk")
            if type(chunk) is not int or not 0 <= chunk < self.count:
                raise ValueError(f"is of chunk {chunk}, which is not one of {self.count}")
            rows = min(self.size, self.num - chunk * self.size)
            kept.setdefault(chunk, {name: _array(line.get(name), rows) for name in names})

        if self.count > 1:
            self.lines.resume(take)
        done = sum(len(arrays[names[0]]) for arrays in kept.values())
        hidden = self.count == 1 or jax.process_index() > 0
        with tqdm(total=self.num, initial=done, desc=label, unit="example", disable=hidden) as bar:
            for chunk in range(self.count):
                if chunk not in kept:
                    kept[chunk] = self._drawn(draw, chunk)
                    bar.update(len(kept[chunk][names[0]]))
        return {
            name: np.concatenate([kept[chunk][name] for chunk in range(self.count)])
            for name in names
        }

    def remove(self) -> None:
        """Removes what was kept, once all of it is elsewhere."""
        self.lines.remove()

    def _drawn(self, draw: Draw, chunk: int) -> dict[str, np.ndarray]:
        """Draws a chunk, and keeps it."""
        rows = np.arange(chunk * self.size, (chunk + 1) * self.size)
        new = rows < self.num
        drawn = draw(np.minimum(rows, self.num - 1))
        arrays = {name: array[new] for name, array in drawn.items()}
        if self.count > 1:
            described = {name: _described(array) for name, array in arrays.items()}
            self.lines.append({"chunk": chunk, **described})
        return arrays


# --- Arrays in JSON ---


def _described(array: np.ndarray) -> dict[str, Any]:
    """Returns an array as JSON can hold it, bit for bit."""
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "base64": content}


def _array(described: Any, rows: int) -> np.ndarray:
    """Returns the array that `_described` wrote.

    Raises:
        ValueError: if it is none of so many rows.
    """
    try:
        content = base64.b64decode(described["base64"], validate=True)
        array = np.frombuffer(content, described["dtype"]).reshape(described["shape"])
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"holds an array that cannot be read ({error})") from error
    if array.shape[:1] != (rows,):
        raise ValueError(f"holds an array of shape {array.shape}: wanted {rows} rows")
    return array
