"""The record of a training: rows of metrics and checkpoints, in a run's folder if there is one."""

from __future__ import annotations

import dataclasses
import math
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoresde import checks
from scoresde.data.source import Source, take
from scoresde.parallel.processes import (
    any_process,
    check_alike,
    check_shared,
    in_first,
)
from scoresde.runs.about import check_about
from scoresde.runs.checkpoint import CheckpointError
from scoresde.runs.folder import LARGEST_HELD_OUT, RunFolder
from scoresde.runs.yaml_files import save_yaml
from scoresde.train.examples import nbytes
from scoresde.train.resuming import (
    check_none_is_lost,
    check_same_run,
    in_full,
    with_schedule_of,
)
from scoresde.train.state import TrainState
from scoresde.train.what_trains import check_finite

VALIDATED = "validation_seconds"
"""The metric that a row has once validation and callbacks have ended."""

RETRY = 60.0
"""Seconds from a save that failed to the next attempt."""

PATIENCE = 600.0
"""Seconds for which saves, or rows of metrics, may fail before training ends."""

PAUSE = 2.0
"""Seconds between attempts to write the last checkpoint."""


@dataclasses.dataclass(frozen=True)
class Resumed:
    """Where a run continued, the seconds until its state was there, and the bytes verified."""

    step: int
    seconds: float
    verified: int

    def in_words(self, steps: int) -> str:
        """Returns a line for the user. steps: those of the whole training."""
        return (
            f"resumed at step {self.step} of {steps} in {self.seconds:.1f} s "
            f"(verified {self.verified / 2**20:,.1f} MiB)"
        )


class Record:
    """Keeps the rows and checkpoints of one training; without a folder, only the rows, in memory.

    Every process makes the same calls; process 0 writes the rows. In the `with` block this training
    is the folder's only writer; leaving it waits for the checkpoint that is being written.

    A row or checkpoint that cannot be written does not end the training at once: a warning says so,
    and it is tried again, for `PATIENCE` seconds.

    new_schedule: whether a resumed run takes the schedule in `metadata` in place of its own.
    afresh: whether to set aside what the folder holds, and to begin anew.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        metadata: dict[str, Any],
        new_schedule: bool = False,
        afresh: bool = False,
    ):
        self.folder = folder
        self.metadata = metadata
        self.new_schedule = new_schedule
        self.afresh = afresh
        self.history: list[dict[str, Any]] = []
        self.read_only: OSError | None = None
        """Why the folder cannot be written, if it cannot: a finished run is only read."""

        self.saved: int | None = None
        """The step of the newest save that has begun and is not known to have failed."""
        self.resumed: Resumed | None = None
        """Where the run continued, if it did."""
        self._for_next_row: dict[str, Any] = {}
        self._failing_since: dict[str, float] = {}  # of "checkpoints" and "metrics"
        self._retry_at = math.inf
        self._committed: int | None = None

    def __enter__(self) -> Record:
        if self.folder is None:
            return self

        failure = in_first(partial(_hold, self.folder))
        if any_process(failure is not None):
            self.read_only = failure or OSError(f"process 0 cannot write {self.folder.path}.")
        elif self.afresh:
            try:
                in_first(self.folder.set_aside)
            except BaseException:
                self.folder.release()
                raise
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self.folder is None:
            return
        try:
            self.folder.checkpoints.__exit__(kind, error, traceback)
        finally:
            self.folder.release()

    # --- Writing ---

    def log(self, row: dict[str, Any]) -> None:
        """Adds a row of metrics, to that of the same step if there is one.

        The first after the run was resumed tells the seconds that reading it took.
        """
        row = row | self._for_next_row
        self._for_next_row = {}
        if self.folder is not None:
            row = row | {"checkpoint": self.folder.checkpoints.committed}
            in_first(partial(self._write, row))

        if self.history and self.history[-1]["step"] == row["step"]:
            self.history[-1] |= row
        else:
            self.history.append(row)

    def save(self, step: int, state: TrainState, row: dict[str, Any] | None = None) -> None:
        """Begins to write a checkpoint in the background.

        row: the metrics up to this step, which may be logged later; the checkpoint keeps them.

        Raises:
            CheckpointError: if saves have failed for `PATIENCE` seconds.
        """
        if self.folder is None:
            return

        in_first(self.folder.check_held)
        copies = jax.tree.map(jnp.copy, state)  # the next step donates the state itself
        about = self.metadata if row is None else self.metadata | {"row": row}
        self.saved = step
        try:
            self.folder.checkpoints.save(step, copies, about)
        except CheckpointError as failure:
            self._failed(failure)

    def is_to_be_saved_again(self) -> bool:
        """Whether the newest save has failed, and it is time for another attempt.

        Raises:
            CheckpointError: if saves have failed for `PATIENCE` seconds.
        """
        if self.folder is None:
            return False
        failure = self.folder.checkpoints.failure()
        if failure is not None:
            self._failed(failure)
        return any_process(self.saved is None and time.monotonic() >= self._retry_at)

    def finish(self, step: int, state: TrainState) -> None:
        """Returns once the state is on disk, and all rows.

        Raises:
            CheckpointError, OSError: if that fails after several attempts.
        """
        if self.folder is None or self.read_only is not None:
            return

        for last in (False, False, True):
            if self.saved != step:
                self.save(step, state)
            try:
                self.folder.checkpoints.wait()
                break
            except CheckpointError as failure:
                if last:
                    raise
                checks.warn(f"{failure} It is tried again in {PAUSE:g} seconds.")
                self.saved = None
                time.sleep(PAUSE)
        in_first(self.folder.write_rows)

    def _write(self, row: dict[str, Any]) -> None:
        """Writes a row to the file."""
        assert self.folder is not None
        try:
            self.folder.append(row)
        except OSError as failure:
            if "metrics" not in self._failing_since:
                checks.warn(f"{failure} Training goes on; they are written with a later row.")
            self._check_patience("metrics", failure)
        else:
            self._failing_since.pop("metrics", None)

    def _failed(self, failure: BaseException) -> None:
        """Warns of a failed save, after which training goes on; raises it after a while."""
        assert self.folder is not None
        self.saved = None
        self._retry_at = time.monotonic() + RETRY
        if self._committed != self.folder.checkpoints.committed:  # some save has succeeded
            self._committed = self.folder.checkpoints.committed
            self._failing_since.pop("checkpoints", None)
        self._check_patience("checkpoints", failure)
        checks.warn(f"{failure} Training goes on; it is tried again in {RETRY:g} seconds.")

    def _check_patience(self, what: str, failure: BaseException) -> None:
        """Raises a failure where others of its kind have gone before it for long."""
        since = self._failing_since.setdefault(what, time.monotonic())
        if time.monotonic() - since > PATIENCE:
            raise failure

    # --- Resuming ---

    def restore(self, like: TrainState) -> TrainState | None:
        """Returns the state of the newest sound checkpoint, and reads the rows up to it.

        The state takes the shapes and the sharding of `like`. Without a checkpoint it is None.

        Raises:
            ValueError: if the run was made with other settings, data or key, if its checkpoints are
                lost or hold what is not finite, or if the processes do not see the same folder.
        """
        if self.folder is None:
            return None
        start = time.perf_counter()
        if self.read_only is None:
            check_shared(self.folder.path)

        checkpoints = self.folder.checkpoints
        steps = checkpoints.steps()
        check_alike({"checkpoints": steps})  # the cache of a file system may be behind
        rows = self.folder.rows()
        check_none_is_lost(self.folder, steps, rows)
        if not steps:
            return None

        found = checkpoints.restore_subtree({})
        check_about(found.about, f"step {found.step} in {checkpoints.directory}")
        about = in_full(found.about)
        changes = about.pop("changes", [])
        if self.new_schedule:
            about, change = with_schedule_of(self.metadata, about)
            changes = [*changes, {"step": found.step} | change] if change else changes
        check_same_run(self.folder.path, about, self.metadata)
        if changes:
            self.metadata = self.metadata | {"changes": changes}
        if about.get("null_is_trained"):  # by an earlier training of the model, if not by this one
            self.metadata = self.metadata | {"null_is_trained": True}

        state = checkpoints.restore(jax.tree.map(_shape_and_sharding, like), found.step).state
        check_finite(
            {name: state[name] for name in ("params", "ema")},
            f"the checkpoint of step {found.step} in {checkpoints.directory}",
            f"Remove the folder {found.step} there to resume from the one before.",
            together=True,
        )

        last = int(state["step"])
        self.saved = last
        self.history = [row for row in rows if row["step"] <= last]
        row = about.get("row") or {}
        if any_process(bool(row) and (not self.history or self.history[-1]["step"] < last)):
            self.log(row)  # training was killed between the checkpoint and the row

        self.resumed = Resumed(last, time.perf_counter() - start, found.verified)
        self._for_next_row = {"resume_seconds": self.resumed.seconds}
        return state

    def lacks_validation(self, step: int) -> bool:
        """Whether training ended between the checkpoint of a step and the end of its validation."""
        earlier_version = self.history and "checkpoint" not in self.history[-1]
        done = self.history and self.history[-1]["step"] == step and VALIDATED in self.history[-1]
        return any_process(not earlier_version and not done and self.read_only is None)

    def describe(self, held_out: Source | None, config: Any) -> None:
        """Writes the settings and, unless they are very large, the held-out examples."""
        if self.folder is not None and self.read_only is None:
            in_first(partial(_describe, self.folder, held_out, config))


def _hold(folder: RunFolder) -> OSError | None:
    """Makes this process the writer of a folder; returns why the folder cannot be written."""
    try:
        folder.hold()
    except OSError as failure:
        return failure
    return None


def _describe(folder: RunFolder, held_out: Source | None, config: Any) -> None:
    if held_out is not None and nbytes(held_out) <= LARGEST_HELD_OUT:
        x, cond = take(held_out, np.arange(len(held_out)))
        folder.keep(x, cond)
    save_yaml(config, folder.path / "config.yaml")


def _shape_and_sharding(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
