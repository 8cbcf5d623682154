"""The folder of a run, written as it proceeds: metrics, held-out data and checkpoints."""

from __future__ import annotations

import datetime
import io
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scoresde.reading import check_inside
from scoresde.runs.checkpoint import Checkpoints
from scoresde.runs.files import free_space, read_rows
from scoresde.runs.lock import RunLock
from scoresde.types import Cond
from scoresde.writing import write_atomically

HELD_OUT = "held_out.npz"
LARGEST_HELD_OUT = 2**28
"""The size in bytes beyond which a run does not keep a copy of its held-out examples."""


BY_A_RUN = (
    "checkpoints",
    "config.yaml",
    "figures",
    HELD_OUT,
    "likelihood",
    "metrics.jsonl",
    "report.html",
    "results.json",
    "samples",
)
"""What a run and the commands on it write, which starting again sets aside."""


class RunFolder:
    """A directory with `metrics.jsonl`, `checkpoints/` and the held-out examples of one run.

    Nothing is written before `hold`, which makes this process its only writer until `release`; a
    `with` block does both.

    Raises:
        ValueError: if `checkpoints` is a link out of the folder.
    """

    def __init__(self, path: str | os.PathLike[str]):
        # Absolute from here on: a callback may change the working directory.
        self.path = Path(path).expanduser().absolute()
        self.checkpoints = Checkpoints(checkpoints_in(self.path))
        self._lock = RunLock(self.path)
        self._unwritten: list[str] = []

    @property
    def metrics(self) -> Path:
        """The file of metrics, one JSON object per line.

        If a resumed run repeats a step, the later line counts.
        """
        return self.path / "metrics.jsonl"

    # --- One writer ---

    def __enter__(self) -> RunFolder:
        self.hold()
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()

    def hold(self) -> None:
        """Makes this process the only writer of the folder.

        Raises:
            RunHeldError: naming the process that is writing it.
            OSError: at once, before any work is done, if it cannot be created or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"\0" * 4096)
            self._lock.acquire()
        except OSError as error:
            raise OSError(
                f"the run's folder {self.path} cannot be written ({error.strerror or error}): "
                f"choose another folder, or free space and check the permissions of this one."
            ) from error

    def check_held(self) -> None:
        """Refuses to go on where another process has taken over a folder that this one held.

        Raises:
            RunHeldError: naming that process.
        """
        self._lock.check()

    def release(self) -> None:
        """Lets others write the folder; nothing happens where it is not held."""
        self._lock.release()

    def set_aside(self) -> Path:
        """Moves what a run has written here into a folder of its own, and returns that."""
        name = f"before-{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H-%M-%S}"
        aside = self.path / name
        number = 1
        while aside.exists():  # within a second, or by a clock that was set back
            number += 1
            aside = self.path / f"{name}-{number}"
        for name in BY_A_RUN:
            if os.path.lexists(self.path / name):
                aside.mkdir(exist_ok=True)
                (self.path / name).rename(aside / name)
        return aside

    # --- What is written ---

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row of metrics, as `as_json` writes its values.

        Raises:
            RunHeldError: as `check_held`.
            OSError: if it cannot be written; it is then written before the next row.
        """
        line = json.dumps({name: as_json(value) for name, value in row.items()}) + "\n"
        self._unwritten.append(line)
        self.write_rows()

    def write_rows(self) -> None:
        """Writes the rows that could not be written before.

        Raises:
            RunHeldError: as `check_held`.
            OSError: naming the file, if they still cannot.
        """
        if not self._unwritten:
            return
        self.check_held()
        content = "".join(self._unwritten).encode()
        try:
            with self.metrics.open("ab+") as file:
                # A run that was killed, or a full disk, may have left half a line behind.
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    content = content if file.read() == b"\n" else b"\n" + content
                file.write(content)
        except OSError as error:
            raise OSError(
                f"{len(content)} bytes of metrics could not be written to {self.metrics} "
                f"({error.strerror or error}). {free_space(self.path)}"
            ) from error
        self._unwritten = []

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


def checkpoints_in(run: Path) -> Path:
    """Returns the folder of a run's checkpoints.

    Raises:
        ValueError: if it is a link out of the run, whose writer would remove another run's.
    """
    folder = run / "checkpoints"
    check_inside(folder, run)
    return folder


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
