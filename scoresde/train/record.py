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
from scoresde.runs.settings import from_dict, to_dict
from scoresde.runs.yaml_files import save_yaml
from scoresde.train.examples import nbytes
from scoresde.train.model_settings import ClassifierSettings, ModelSettings
from scoresde.train.settings import Training
from scoresde.train.state import TrainState

FOLLOWS_FROM_DATA = {"range", "null_is_trained"}
"""Metadata that data and settings decide, which are compared themselves."""

OPTIONAL = {"objective"}
"""Metadata that a run has only where it differs from the default, and that are compared then."""

SCHEDULE = ("learning_rate", "warmup", "final_rate", "steps")
"""The settings that a resumed run may change, if it is told to."""


class Record:
    """Keeps the rows and checkpoints of one training; without a folder, only the rows, in memory.

    Every process makes the same calls; process 0 writes the rows. Leaving the `with` block waits
    for the checkpoint that is being written. new_schedule: whether a resumed run takes the schedule
    in `metadata` in place of its own.
    """

    def __init__(
        self, folder: RunFolder | None, metadata: dict[str, Any], new_schedule: bool = False
    ):
        self.folder = folder
        self.metadata = metadata
        self.new_schedule = new_schedule
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
        about = _in_full(found.about)
        changes = about.pop("changes", [])
        if self.new_schedule:
            about, change = _with_schedule_of(self.metadata, about)
            changes = [*changes, {"step": found.step} | change] if change else changes
        _check_same_run(self.folder.path, about, self.metadata)
        if changes:
            self.metadata = self.metadata | {"changes": changes}
        if about.get("null_is_trained"):  # by an earlier training of the model, if not by this one
            self.metadata = self.metadata | {"null_is_trained": True}

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


# --- What must be the same when a run resumes ---


def decisive_settings(training: Training) -> dict[str, Any]:
    """Returns the settings that decide the result: a run resumes only with the same ones."""
    indifferent = ["log_every", "validate_every", "max_skipped", "steps_per_dispatch"]
    if training.final_rate == 1.0:
        indifferent.append("steps")  # a constant learning rate does not depend on the last step

    settings = to_dict(training)
    for name in indifferent:
        del settings[name]
    return settings


def _in_full(about: dict[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's metadata with the settings that its version did not have yet.

    They have their defaults, which are what that version did.
    """
    about = dict(about)
    if about.get("model") is not None:
        kind = ClassifierSettings if about.get("classifier") else ModelSettings
        about["model"] = to_dict(from_dict(about["model"], kind))
    if "training" not in about:  # an imported checkpoint
        return about
    return about | {"training": decisive_settings(Training()) | about["training"]}


def _with_schedule_of(
    new: dict[str, Any], old: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the old metadata with the schedule of the new ones, and the old and new values.

    The second is {"old": {...}, "new": {...}} of the settings that differ, empty if none does.
    """
    if "training" not in old:
        return old, {}

    before = old["training"]
    after = new["training"]
    others = {name: value for name, value in before.items() if name not in SCHEDULE}
    schedule = {name: after[name] for name in SCHEDULE if name in after}

    changed = [name for name in SCHEDULE if before.get(name) != after.get(name)]
    change = {
        "old": {name: before.get(name) for name in changed},
        "new": {name: after.get(name) for name in changed},
    }
    return old | {"training": others | schedule}, change if changed else {}


def _check_same_run(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to resume a run whose metadata are others.

    Raises:
        ValueError: if they differ.
    """
    names = [name for name in new if name not in FOLLOWS_FROM_DATA]
    names += [name for name in OPTIONAL if name in old and name not in new]
    if "imported" in old:  # an imported checkpoint knows neither data nor key
        names = [name for name in names if name in old]

    def found(old: dict[str, Any]) -> list[str]:
        lists = [differences(old.get(name), new.get(name), name) for name in names]
        return [difference for some in lists for difference in some]

    if not found(old):
        return

    advice = "use the same settings"
    if not found(_with_schedule_of(new, old)[0]):
        advice += (
            ", or take the new ones from here on, by new_schedule=True in sd.fit(...), or by "
            "--new-schedule behind the command of an experiment"
        )
    raise ValueError(
        f"{path} was made with other settings: {'; '.join(found(old))}. To resume it, {advice}; to "
        f"start again, name another folder or delete this one."
    )


def _shape_and_sharding(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
