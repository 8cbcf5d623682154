"""The folder of a run: metrics, held-out data and checkpoints."""

from __future__ import annotations

import io
import json
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
"""Bytes of held-out examples beyond which a run does not keep a copy of them."""


class RunFolder:
    """`metrics.jsonl` and `checkpoints/` under one directory, written as the run goes.

    Raises:
        OSError: if the folder cannot be made or written, before any work is done.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).expanduser()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"\0" * 4096)
        except OSError as error:
            raise OSError(
                f"the run's folder {self.path} cannot be written ({error.strerror or error}): choose another place, "
                f"or free space and permissions there."
            ) from error
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    @property
    def metrics(self) -> Path:
        """One JSON object a line; where a resumed run repeats a step, the later line counts."""
        return self.path / "metrics.jsonl"

    def append(self, row: dict[str, Any]) -> None:
        """Add a row of metrics."""
        finite = {
            name: value if np.isfinite(value) else None for name, value in row.items()
        }  # NaN is not JSON
        line = json.dumps(finite, default=float) + "\n"
        if self.metrics.exists() and not self.metrics.read_bytes().endswith(b"\n"):
            line = "\n" + line  # a run killed in the middle of a line
        with self.metrics.open("a") as file:
            file.write(line)

    def rows(self) -> list[dict[str, Any]]:
        """The rows so far, in order of step."""
        return read_rows(self.metrics)[0]

    def keep(self, x: np.ndarray, cond: Cond) -> None:
        """Write the held-out examples, so that the folder alone suffices to evaluate; large sets are left out."""
        leaves = {"x": x} | {
            f"cond{jax.tree_util.keystr(path)}": leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(cond)
        }
        if sum(leaf.nbytes for leaf in leaves.values()) > LARGEST_HELD_OUT:
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **leaves)  # pyright: ignore[reportArgumentType]
        write_atomically(self.path / HELD_OUT, buffer.getvalue())
