"""Verified checkpoints: Orbax writes the arrays, and a SHA-256 manifest tells if they are intact.

    <directory>/<step>/arrays-0/        written by Orbax (arrays-1 when a step is saved again)
    <directory>/<step>/manifest.json    `about`, each leaf's dtype and shape, each file's checksum
    <directory>/<step>/saving.json      the process that is saving it, until it has

The manifest is the commit: it appears in one atomic rename after Orbax has finished. A save killed
at any moment leaves either no manifest, or the previous one, which still names the previous arrays.
A checkpoint is sound if its manifest is there and every file matches it. stored_steps.py reads.
"""

from __future__ import annotations

import contextlib
import json
import logging
import operator
import os
import secrets
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from scoresde import checks
from scoresde.parallel.processes import any_process, barrier
from scoresde.runs.files import free_space
from scoresde.runs.fingerprints import fingerprints
from scoresde.runs.lock import Holder
from scoresde.runs.manifest import MANIFEST, describe_leaves, write_manifest
from scoresde.runs.stored_steps import SAVING, CheckpointError, Restored, StoredSteps, storable

HIDDEN = ".scoresde-"
"""How the names of folders begin that are being made or removed."""

FILE_SIZE = 2**26
"""The bytes of arrays in a file, about, so that several are written and read at a time. Arrays are
not compressed: for weights it takes ten times as long as writing them, and saves 8 %."""

REASON = 120
"""The characters at each end of another library's long message that a message here repeats."""


class Checkpoints:
    """The newest `keep` sound checkpoints of one run, for one writer and any number of readers.

    `save` returns once the arrays are copied, so they may be donated right away; a thread then
    writes them, computes checksums and removes old steps. Use it in a `with` block, or close it:
    Orbax abandons what it is still writing when Python exits. Under `jax.distributed` every
    process makes the same calls.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 3):
        checks.count("keep", keep)
        self.directory = Path(directory).expanduser().absolute()  # Orbax refuses relative paths
        self.keep = keep
        self._stored = StoredSteps(self.directory)

        self.committed: int | None = None
        """The newest step known to be on disk with its checksums."""

        self._pending: Future[None] | None = None
        self._failed: set[int] = set()
        self._left = ""  # what to tell of an old step that could not be removed
        self._size = 0  # the bytes of the state that is being saved

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            self.close()
            return

        failure = self._finished()
        if failure is not None:
            # Raised here, it would hide the error that ended the run.
            warnings.warn(str(failure), stacklevel=2)

    # --- Writing ---

    def save(self, step: int, state: PyTree, about: dict) -> None:
        """Writes `state`, a dict of arrays, and `about`, plain JSON data, as the checkpoint `step`.

        A checkpoint of the same step is replaced. If the previous save failed, its error is raised
        here, after this save has started, so this state is not lost.

        Raises:
            CheckpointError: if `state` or `about` cannot be stored, the files cannot be written,
                or the previous save failed.
        """
        self._wait_for_processes()
        step = operator.index(step)
        checks.count("step", step, 0)
        if not isinstance(state, dict):
            raise CheckpointError(
                f"state is a {type(state).__name__}: wanted a dict. "
                f'Write checkpoints.save(step, {{"params": state}}, about).'
            )
        about = _json_copy(about)

        failure = self._settle()
        try:
            response, manifest = self._write_arrays(step, state, about)
        except Exception as error:
            logging.getLogger("absl").removeFilter(_is_no_error_of_orbax)
            self._tidy(step)
            raise self._unsaved(step, error) from (failure or error)

        # The thread ends after this one save.
        thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending = thread.submit(self._commit, response, manifest)
        thread.shutdown(wait=False)

        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Returns once the save in progress is on disk, with its checksums.

        Raises:
            CheckpointError: if that save failed.
        """
        failure = self._settle()
        for step in self._failed:
            self._tidy(step)
        if failure is not None:
            raise failure

    def failure(self) -> BaseException | None:
        """Returns the failure of the previous save, once, if it has ended with one already.

        It does not wait. With several processes the answer is None: they tell at the next `save`.
        """
        if self._pending is None or not self._pending.done() or jax.process_count() > 1:
            return None
        return self._finished()

    def close(self) -> None:
        """Does the same as `wait`; the object can be used again afterwards.

        Raises:
            CheckpointError: if the save in progress failed.
        """
        self.wait()

    def _write_arrays(self, step: int, state: dict, about: dict) -> tuple[Any, dict]:
        """Starts to write the arrays; returns Orbax's response and the manifest of the step."""
        from orbax.checkpoint import v1 as ocp

        # Remove what an earlier save left behind when it was killed, or failed: Orbax may have
        # written after that.
        for unfinished in self._failed | {step}:
            self._tidy(unfinished)
        self._failed = set()
        self._begin(step)
        folder = self._stored.folder(step)

        # The arrays in use stay until the new manifest replaces the one that names them.
        arrays = "arrays-1" if self._stored.current(step) == "arrays-0" else "arrays-0"
        state = jax.tree.map(storable, state)
        self._size = sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(state))
        logging.getLogger("absl").addFilter(_is_no_error_of_orbax)
        context = ocp.Context()
        context.array.saving.use_compression = False
        context.array.saving.ocdbt_target_data_file_size = FILE_SIZE
        with context:
            response = ocp.save_async(str(folder / arrays), state, overwrite=True)

        manifest = {
            "step": step,
            "about": about,
            "arrays": arrays,
            "leaves": describe_leaves(state),
        }
        return response, manifest

    def _commit(self, response: Any, manifest: dict) -> None:
        """Waits for Orbax, then writes the manifest with the checksums, and removes old steps."""
        step = manifest["step"]
        folder = self._stored.folder(step)
        try:
            if jax.process_index() != 0:
                response.result()
            else:
                arrays = manifest["arrays"]
                manifest["files"] = fingerprints(folder, arrays, response.result)
                write_manifest(folder / MANIFEST, manifest)
                self._tidy(step)
                self._stored.trust(step)
            self.committed = step
        except Exception as error:
            self._tidy(step)  # its partly written files may be what filled the disk
            self._failed.add(step)
            raise self._unsaved(step, error) from error
        finally:
            logging.getLogger("absl").removeFilter(_is_no_error_of_orbax)

        if jax.process_index() == 0:  # what is left of old steps does not undo the new one
            self._drop_old(step)

    def _wait_for_processes(self) -> None:
        """Waits for all processes, because Orbax reads and writes in all of them together."""
        try:
            barrier("a checkpoint", seconds=600)
        except RuntimeError as error:
            raise CheckpointError(str(error)) from error

    def _settle(self) -> BaseException | None:
        """Waits for the save in progress in all processes; returns its failure, once, in each."""
        if self._pending is None:
            return None

        # Every process waits here: otherwise some would look for a manifest not yet written.
        failure = self._finished()
        if any_process(failure is not None) and failure is None:
            failure = CheckpointError("another process could not save: its own message says why.")
        return failure

    def _finished(self) -> BaseException | None:
        """Waits for this process's part of the save in progress, and returns its failure once."""
        if self._pending is None:
            return None

        failure = self._pending.exception()
        self._pending = None
        left, self._left = self._left, ""
        if left:
            checks.warn(left)
        return failure

    def _unsaved(self, step: int, error: Exception) -> CheckpointError:
        reason = " ".join(str(error).split())
        if len(reason) > 2 * REASON:  # other libraries end theirs with what the system said
            reason = f"{reason[:REASON]} … {reason[-REASON:]}"
        return CheckpointError(
            f"step {step} could not be saved to {self._stored.folder(step)}: "
            f"{type(error).__name__}: {reason}. {self._size / 2**20:,.1f} MiB were to be written. "
            f"{free_space(self.directory)} Earlier checkpoints are untouched: free space or "
            f"correct the directory, then save again."
        )

    def _begin(self, step: int) -> None:
        """Makes the folder of a step, which says from its first moment who saves it."""
        folder = self._stored.folder(step)
        if jax.process_index() != 0:
            folder.mkdir(parents=True, exist_ok=True)
        elif folder.is_dir():
            Holder.here().write(folder / SAVING)
        else:
            begun = self.directory / f"{HIDDEN}{step}-{secrets.token_hex(4)}"
            Holder.here().write(begun / SAVING)
            begun.rename(folder)

    def _tidy(self, step: int) -> None:
        """Removes whatever the step's manifest does not name; everything if it has none."""
        folder = self._stored.folder(step)
        current = self._stored.current(step)
        if jax.process_index() != 0:
            return

        # If something here cannot be removed, the others are, and the save itself reports why it
        # fails.
        with contextlib.suppress(OSError):
            for hidden in list(self.directory.glob(f"{HIDDEN}*")):
                _delete(hidden)
        with contextlib.suppress(OSError):
            if current is None:
                self._remove(step)
                return
            for entry in list(folder.iterdir()):
                if entry.name not in (current, MANIFEST):
                    _delete(entry)

    def _remove(self, step: int) -> None:
        """Removes a step, all at once for whoever reads."""
        hidden = self.directory / f"{HIDDEN}{step}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            self._stored.folder(step).rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def _drop_old(self, written: int) -> None:
        """Removes the steps older than the newest `keep` sound ones, except the one just saved.

        Notes the last one that cannot be removed, for a warning of the thread that saves.
        """
        sound = 0
        for step in reversed(self._stored.all()):
            try:
                if sound < self.keep:
                    sound += self._stored.is_sound(step)
                elif step != written:
                    self._remove(step)
            except OSError as error:
                self._left = (
                    f"the old checkpoint {self._stored.folder(step)} could not be removed "
                    f"({error.strerror or error}): newer ones are saved all the same, and need "
                    f"space of their own. Remove it, or correct its permissions."
                )

    # --- Reading ---

    def steps(self) -> list[int]:
        """Returns the committed steps (those with a manifest) in ascending order, unverified."""
        return self._stored.committed()

    def restore(self, like: PyTree, step: int | None = None) -> Restored:
        """Returns the newest sound checkpoint, or the one of `step`, as a tree like `like`.

        Arrays come back bit for bit. `like` holds arrays or `jax.ShapeDtypeStruct`s, whose
        shardings the result takes; without a sharding, an array goes to the first local device.
        Every file is verified before any array loads. A newer checkpoint that is damaged or
        incomplete is skipped with a warning that names it.

        Raises:
            CheckpointError: if no checkpoint is sound, the given step is not sound, or its leaves
                differ from those of `like`.
        """
        return self._restore(like, step, partial=False)

    def restore_subtree(self, like: dict, step: int | None = None) -> Restored:
        """Returns only the top-level entries in `like`, e.g. {"ema": ...}; {} gives only `about`.

        The files of the other arrays are verified too, but not loaded.

        Raises:
            CheckpointError: as `restore` does.
        """
        return self._restore(like, step, partial=True)

    def states(self) -> dict[int, str]:
        """Returns, for each step, "good", "being saved by ...", or what is wrong with it."""
        return self._stored.states()

    def _restore(self, like: PyTree, step: int | None, partial: bool) -> Restored:
        self._wait_for_processes()
        self.wait()
        restored = self._stored.restore(like, step, partial)
        self.committed = max(restored.step, self.committed or 0)
        return restored


def _delete(entry: Path) -> None:
    """Removes a file, a link, or a folder with what is in it, unless the system refuses."""
    with contextlib.suppress(OSError):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


# --- What is stored ---


def _is_no_error_of_orbax(record: logging.LogRecord) -> bool:
    """Leaves out the tracebacks that Orbax logs of errors which it raises as well."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _json_copy(about: dict) -> dict:
    """Returns `about` as it will be read back: later changes by the caller do not reach the file.

    Raises:
        CheckpointError: if it is not JSON.
    """
    try:
        return json.loads(json.dumps(about))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"about is not JSON ({error}): wanted dicts, lists, strings and numbers. "
            f"Write array.tolist() for an array."
        ) from error
