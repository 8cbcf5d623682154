"""The folder of a run, written as it proceeds: metrics, held-out data and checkpoints."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scoresde.runs.checkpoint import Checkpoints
from scoresde.runs.files import read_rows, write_atomically
from scoresde.types import Cond

HELD_OUT = "held_out.npz"
LARGEST_HELD_OUT = 2**28
"""The size in bytes beyond which a run does not keep a copy of its held-out examples."""


class RunFolder:
    """A directory with `metrics.jsonl`, `checkpoints/` and the held-out examples of one run.

    Raises:
        OSError: at once, before any work is done, if the folder cannot be created or written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        # Absolute from here on: a callback may change the working directory.
        self.path = Path(path).expanduser().absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"\0" * 4096)
        except OSError as error:
            raise OSError(
                f"the run's folder {self.path} cannot be written ({error.strerror or error}): "
                f"choose another folder, or free space and check the permissions of this one."
            ) from error

        self.checkpoints = Checkpoints(self.path / "checkpoints")

    @property
    def metrics(self) -> Path:
        """The file of metrics, one JSON object per line.

        If a resumed run repeats a step, the later line counts.
        """
        return self.path / "metrics.jsonl"

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row of metrics, as `as_json` writes its values."""
        line = json.dumps({name: as_json(value) for name, value in row.items()}) + "\n"

        # A run that was killed may have left half a line behind.
        if self.metrics.exists() and not self.metrics.read_bytes().endswith(b"\n"):
            line = "\n" + line
        with self.metrics.open("a") as file:
            file.write(line)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows so far, in order of step."""
        return read_rows(self.metrics)[0]

    def keep(self, x: np.ndarray, cond: Cond) -> None:
        """Writes the held-out examples, so that an evaluation needs nothing but the folder.

        Sets of more than `LARGEST_HELD_OUT` bytes are not written.
        """
        arrays = {"x": x}
        for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
            arrays[f"cond{jax.tree_util.keystr(path)}"] = leaf
        if sum(array.nbytes for array in arrays.values()) > LARGEST_HELD_OUT:
            return

        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        write_atomically(self.path / HELD_OUT, buffer.getvalue())


def as_json(value: Any) -> Any:
    """Returns a metric as JSON holds it: arrays are lists, and numbers that are not finite null.

    Raises:
        TypeError: if it is neither a number, a text, a truth value, None, nor an array, list or
            dictionary of such.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, dict):
        return {str(name): as_json(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    if hasattr(value, "tolist"):  # an array, or a number of NumPy's
        return as_json(np.asarray(value).tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # JSON has no NaN
    raise TypeError(
        f"{value!r} is of type {type(value).__name__}: wanted a number, a text, or an array of "
        "numbers."
    )
