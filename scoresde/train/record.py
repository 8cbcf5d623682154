"""The record of a training: rows of metrics and checkpoints, in a run's folder if there is one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoresde.data.source import Source, take
from scoresde.parallel.processes import check_alike, check_shared, differences, in_first
from scoresde.runs.folder import LARGEST_HELD_OUT, RunFolder
from scoresde.runs.yaml_files import save_yaml
from scoresde.train.examples import nbytes
from scoresde.train.state import TrainState

FOLLOWS_FROM_DATA = {"range"}
"""Metadata that data and settings decide, which are compared themselves."""


class Record:
    """Keeps the rows and checkpoints of one training; without a folder, only the rows, in memory.

    Every process makes the same calls; process 0 writes the rows. Leaving the `with` block waits
    for the checkpoint that is being written.
    """

    def __init__(self, folder: RunFolder | None, metadata: dict[str, Any]):
        self.folder = folder
        self.metadata = metadata
        self.history: list[dict[str, Any]] = []

    def __enter__(self) -> Record:
        if self.folder is not None:
            self.folder.checkpoints.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self.folder is not None:
            self.folder.checkpoints.__exit__(kind, error, traceback)

    def log(self, row: dict[str, Any]) -> None:
        """Adds a row of metrics."""
        self.history.append(row)
        if self.folder is not None:
            in_first(partial(self.folder.append, row))

    def save(self, step: int, state: TrainState) -> None:
        """Writes a checkpoint in the background."""
        if self.folder is not None:
            copies = jax.tree.map(jnp.copy, state)  # the next step donates the state itself
            self.folder.checkpoints.save(step, copies, self.metadata)

    def restore(self, like: TrainState) -> TrainState | None:
        """Returns the state of the newest sound checkpoint, and reads the rows up to it.

        The state takes the shapes and the sharding of `like`. Without a checkpoint it is None.

        Raises:
            ValueError: if the run was made with other settings, data or key, or if the processes
                do not see the same folder.
        """
        if self.folder is None:
            return None
        check_shared(self.folder.path)

        checkpoints = self.folder.checkpoints
        steps = checkpoints.steps()
        check_alike({"checkpoints": steps})  # the cache of a file system may be behind
        if not steps:
            return None

        found = checkpoints.restore_subtree({})
        _check_same_run(self.folder.path, found.about, self.metadata)
        state = checkpoints.restore(jax.tree.map(_shape_and_sharding, like), found.step).state

        last = int(state["step"])
        self.history = [row for row in self.folder.rows() if row["step"] <= last]
        return state

    def describe(self, held_out: Source | None, config: Any) -> None:
        """Writes the settings and, unless they are very large, the held-out examples."""
        if self.folder is not None:
            in_first(partial(_describe, self.folder, held_out, config))


def _describe(folder: RunFolder, held_out: Source | None, config: Any) -> None:
    if held_out is not None and nbytes(held_out) <= LARGEST_HELD_OUT:
        x, cond = take(held_out, np.arange(len(held_out)))
        folder.keep(x, cond)
    save_yaml(config, folder.path / "config.yaml")


def _check_same_run(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to resume a run whose metadata are others.

    Raises:
        ValueError: if they differ.
    """
    names = [name for name in new if name not in FOLLOWS_FROM_DATA]
    if "imported" in old:  # an imported checkpoint knows neither data nor key
        names = [name for name in names if name in old]

    found = []
    for name in names:
        found += differences(old.get(name), new[name], name)
    if found:
        raise ValueError(
            f"{path} was made with other settings: {'; '.join(found)}. To resume it, use the same "
            f"settings; to start again, name another folder or delete this one."
        )


def _shape_and_sharding(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
