"""Verified checkpoints: Orbax writes the arrays, a SHA-256 manifest says whether they can be trusted.

    <directory>/<step>/arrays-0/        what Orbax wrote (arrays-1 once the step has been written again)
    <directory>/<step>/manifest.json    `about`, each leaf's dtype and shape, each file's size and checksum

The manifest is the commit: it appears in one atomic rename after Orbax has finished. A save killed at any moment
leaves a folder without one, or with the previous one, which still names the previous arrays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import operator
import os
import re
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from scoresde import checks
from scoresde.parallel.processes import any_process, barrier
from scoresde.runs.files import write_atomically

MANIFEST = "manifest.json"
SHOWN = 5  # differing leaves that an error names; beyond, it counts them


class CheckpointError(ValueError):
    """A checkpoint could not be written, trusted or matched: what was found, what was wanted, what to do."""


@dataclass(frozen=True)
class Restored:
    """What a checkpoint held: `state` in the tree type and sharding asked for, `about` as it was saved."""

    step: int
    state: PyTree
    about: dict


class Checkpoints:
    """The newest `keep` sound checkpoints of one run: one writer, any number of readers.

    `save` returns once the arrays are copied (donate them as you like); a thread writes, checksums and drops old
    steps. Use it in a `with` block or close it: when Python exits, Orbax abandons what is still being written.
    Under `jax.distributed` every process makes the same calls.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 3):
        checks.count("keep", keep)
        self.directory = Path(directory).expanduser().absolute()  # Orbax refuses relative paths
        self.keep = keep
        self._pending: Future[None] | None = None
        self._sound: dict[
            int, dict
        ] = {}  # step → its files' sizes and times when they were last verified

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            self.close()
        elif (failure := self._finished()) is not None:
            warnings.warn(
                str(failure), stacklevel=2
            )  # raised here, it would hide the error that ended the run

    # --- Writing ---

    def save(self, step: int, state: PyTree, about: dict) -> None:
        """Write the dict `state` and the JSON-able `about` as `step`, replacing that step where it exists.

        If the save before this one failed, this one is under way before that failure is raised: nothing is lost.

        Raises:
            CheckpointError: if `state` or `about` cannot be stored, the disk refuses, or the save before failed.
        """
        self._meet()
        step = operator.index(step)
        checks.count("step", step, 0)
        if not isinstance(state, dict):
            raise CheckpointError(
                f'state is a {type(state).__name__}: wanted a dict. Write {{"params": state}}.'
            )
        try:
            about = json.loads(
                json.dumps(about)
            )  # a copy as it will be read: later changes do not reach the file
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"about is not JSON ({error}): write plain dicts, lists, str and numbers."
            ) from error
        failure = self._settle()
        folder = self._folder(step)
        try:
            from orbax.checkpoint import v1 as ocp

            self._tidy(step)  # of an earlier save that was killed
            folder.mkdir(parents=True, exist_ok=True)
            arrays = (
                "arrays-1" if self._current(step) == "arrays-0" else "arrays-0"
            )  # not the ones in use
            state = jax.tree.map(_storable, state)
            response = ocp.save_async(str(folder / arrays), state, overwrite=True)
        except Exception as error:
            self._tidy(step)
            raise self._unsaved(step, error) from (failure or error)
        manifest = {"step": step, "about": about, "arrays": arrays, "leaves": _describe(state)}
        thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending = thread.submit(self._finish, response, manifest)
        thread.shutdown(wait=False)  # it ends after this one save
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Return once the save under way is on disk, checksummed.

        Raises:
            CheckpointError: if it failed.
        """
        failure = self._settle()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """The same as `wait`; the object can be used again.

        Raises:
            CheckpointError: if the save under way failed.
        """
        self.wait()

    def _meet(self) -> None:
        """Orbax reads and writes in all processes together."""
        try:
            barrier("a checkpoint", seconds=600)
        except RuntimeError as error:
            raise CheckpointError(str(error)) from error

    def _settle(self) -> BaseException | None:
        """Wait for the save under way, in all processes, so that its failure is reported once, and in all."""
        if self._pending is None:
            return None
        failure = (
            self._finished()
        )  # the others wait for it: they would look for a manifest still to be written
        if any_process(failure is not None) and failure is None:
            failure = CheckpointError("another process could not save: its own message says why.")
        return failure

    def _finished(self) -> BaseException | None:
        """Wait for this process's part of the save under way, and forget it."""
        failure, self._pending = self._pending and self._pending.exception(), None
        return failure

    def _finish(self, response: Any, manifest: dict) -> None:
        """Wait for Orbax's commit, checksum its files, commit them by the manifest, drop what is not kept."""
        step, folder = manifest["step"], self._folder(manifest["step"])
        try:
            response.result()
            if jax.process_index() == 0:
                files = sorted(
                    file for file in (folder / manifest["arrays"]).rglob("*") if file.is_file()
                )
                manifest["files"] = {
                    file.relative_to(folder).as_posix(): _fingerprint(file) for file in files
                }
                _write_manifest(folder / MANIFEST, manifest)
                self._tidy(step)
                self._drop_old(step)
        except Exception as error:
            self._tidy(step)  # what was written of it may be what filled the disk
            raise self._unsaved(step, error) from error

    def _unsaved(self, step: int, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"step {step} could not be saved to {self._folder(step)}: {type(error).__name__}: {error}. Earlier "
            f"checkpoints are untouched: free space or correct the directory, then save again."
        )

    def _tidy(self, step: int) -> None:
        """Remove what the step's manifest does not name; everything where there is no manifest."""
        folder, current = self._folder(step), self._current(step)
        if jax.process_index() != 0:
            return
        with contextlib.suppress(
            OSError
        ):  # what cannot be removed shows where the save itself fails
            for entry in folder.iterdir():
                if current is None or entry.name not in (current, MANIFEST):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if current is None:
                folder.rmdir()

    def _drop_old(self, written: int) -> None:
        """Remove the steps older than the newest `keep` sound ones, but never the one just written."""
        sound = 0
        for step in reversed(self._folders()):
            if sound < self.keep:
                sound += self._is_sound(step)
            elif step != written:
                (self._folder(step) / MANIFEST).unlink(
                    missing_ok=True
                )  # first: half removed is no checkpoint
                shutil.rmtree(self._folder(step), ignore_errors=True)

    # --- Reading ---

    def steps(self) -> list[int]:
        """The committed steps (those with a manifest), ascending, whatever their health."""
        return [step for step in self._folders() if (self._folder(step) / MANIFEST).is_file()]

    def restore(self, like: PyTree, step: int | None = None) -> Restored:
        """The newest sound checkpoint, or the one of `step`, as a tree like `like`, to the bit.

        `like` holds arrays or `jax.ShapeDtypeStruct`s, whose sharding the result takes (without one: the first
        local device). All files are verified before any array loads. A newer checkpoint that is damaged or
        incomplete is named in a warning and passed over.

        Raises:
            CheckpointError: if none is sound, the given step is not, or it holds other leaves than wanted.
        """
        return self._restore(like, step, partial=False)

    def restore_subtree(self, like: dict, step: int | None = None) -> Restored:
        """Only the top-level entries that `like` names, e.g. {"ema": ...}; {} gives `about` alone.

        The other arrays' files are verified too, but not loaded.

        Raises:
            CheckpointError: as `restore` does.
        """
        return self._restore(like, step, partial=True)

    def _restore(self, like: PyTree, step: int | None, partial: bool) -> Restored:
        self._meet()
        self.wait()
        manifest = self._newest_sound() if step is None else self._verify(operator.index(step))
        step, found, about = int(manifest["step"]), manifest["leaves"], manifest["about"]
        like = jax.tree.map(_wanted, like)
        if partial:
            found = {name: leaf for name, leaf in found.items() if name.split("/")[0] in like}
        advice = "Build `like` with the settings in its `about`: restore_subtree({}).about."
        if differences := _differences(found, _describe(like)):
            raise CheckpointError(
                f"step {step} in {self.directory} holds other leaves:{differences}\n{advice}"
            )
        if not jax.tree.leaves(like):
            return Restored(step, like, about)

        from orbax.checkpoint import v1 as ocp

        context = ocp.Context()
        context.pytree.loading.partial_load = partial
        try:
            with context:
                state = ocp.load(str(self._folder(step) / manifest["arrays"]), like)
        except (
            Exception
        ) as error:  # sound files, the same leaves: the trees differ in containers without leaves
            reason = error.__cause__ or error
            raise CheckpointError(
                f"step {step} in {self.directory} does not load: {reason}\n{advice}"
            ) from error
        return Restored(step, state, about)

    def _newest_sound(self) -> dict:
        faults = []
        for step in reversed(self._folders()):
            try:
                return self._verify(step)
            except CheckpointError as fault:
                faults.append(f"\n  {fault}")
                warnings.warn(f"passed over: {fault}", stacklevel=4)  # the line that called restore
        raise CheckpointError(
            f"no usable checkpoint in {self.directory}: {''.join(faults) or 'it holds no step folder.'}\n"
            f"Check the path, put a copy of a step folder back, or start anew in an empty directory."
        )

    def _verify(self, step: int) -> dict:
        """The step's manifest, after every file was found as it was written.

        Raises:
            CheckpointError: names the step, the file and what is wrong with it.
        """
        folder, file = self._folder(step), MANIFEST
        try:
            manifest = _read_manifest(folder / MANIFEST)
            if manifest["step"] != step:
                raise ValueError(f"belongs to step {manifest['step']}: the folder was renamed")
            for file, written in manifest["files"].items():
                if (found := _fingerprint(folder / file)) != written:
                    raise ValueError(f"has changed: found {found}, written {written}")
            return manifest
        except FileNotFoundError:
            reason = "is missing: removed, or its save was killed or is still under way"
        except (OSError, ValueError) as error:
            reason = str(error)
        raise CheckpointError(
            f"step {step} cannot be used: {folder / file} {reason}. Committed steps: {self.steps()}; "
            f"leave `step` out for the newest sound one."
        )

    def _is_sound(self, step: int) -> bool:
        """`_verify` for the writer, which does not read again what was not touched since it was last verified."""
        stats = {file: file.stat() for file in self._folder(step).rglob("*")}
        stamp = {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}
        if self._sound.get(step) != stamp:
            try:
                self._verify(step)
            except CheckpointError:
                return False
            self._sound[step] = stamp
        return True

    # --- Folders ---

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    def _folders(self) -> list[int]:
        """The steps that have a folder, committed or not, ascending."""
        folders = (
            [entry for entry in self.directory.iterdir() if entry.is_dir()]
            if self.directory.is_dir()
            else []
        )
        return sorted(
            int(entry.name) for entry in folders if re.fullmatch("0|[1-9][0-9]*", entry.name)
        )

    def _current(self, step: int) -> str | None:
        """The arrays that the step's manifest commits to; None without a readable one."""
        try:
            return _read_manifest(self._folder(step) / MANIFEST)["arrays"]
        except (OSError, ValueError):
            return None


# --- Leaves ---


def _describe(tree: PyTree) -> dict[str, str]:
    """What each leaf is, by name: {"params/conv/kernel": "float32[3,3,1,32]", "key": "key<fry>[]"}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{getattr(leaf, 'dtype', type(leaf).__name__)}[{','.join(map(str, np.shape(leaf)))}]"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    """The first leaves that differ, one a line; Orbax itself would cast a wrong dtype silently."""
    lines = [
        f"\n  {name}: checkpoint {found.get(name, '(missing)')}, wanted {wanted.get(name, '(none: unexpected)')}"
        for name in {**wanted, **found}
        if found.get(name) != wanted.get(name)
    ]
    return "".join(lines[:SHOWN]) + (
        f"\n  … and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    )


def _storable(leaf: Any) -> Any:
    return (
        np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
    )  # Orbax takes no NumPy scalars


def _wanted(leaf: Any) -> Any:
    """A JAX array by shape, dtype and sharding (its buffer may be donated by now); other leaves as they are."""
    if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return _storable(leaf)
    # Left open, Orbax asks for the devices that saved: what a GPU wrote would not load on a CPU.
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


# --- Files ---


def _fingerprint(file: Path) -> str:
    with file.open("rb") as stream:
        return f"{file.stat().st_size} bytes, sha256 {hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_manifest(path: Path, content: dict) -> None:
    write_atomically(
        path, json.dumps({"content": content, "sha256": _checksum(content)}, indent=1).encode()
    )


def _read_manifest(path: Path) -> dict:
    """The manifest's content, if it matches its own checksum; ValueError if it does not, OSError if unreadable."""
    try:
        manifest = json.loads(path.read_bytes())
        content, checksum = manifest["content"], manifest["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is damaged: not a manifest ({type(error).__name__})") from error
    if checksum != _checksum(content):
        raise ValueError("is damaged: it does not match its own checksum")
    return content
