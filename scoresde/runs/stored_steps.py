"""The steps that a run has stored, for readers, who may come at any time.

What a writer has replaced or removed while they read is read again as it is then; what it is about
to save is no fault. checkpoint.py says how the folders look, and when a step is sound.
"""

from __future__ import annotations

import operator
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from scoresde.runs.lock import Holder, is_at_work
from scoresde.runs.manifest import (
    MANIFEST,
    DamagedError,
    describe_leaves,
    leaf_differences,
    read_manifest,
    stored_bytes,
    verify,
)

SAVING = "saving.json"

ADVICE = "Build `like` with the settings in its `about`: restore_subtree({}).about."


class CheckpointError(ValueError):
    """A checkpoint could not be written, verified or matched: what arrived, and what to do."""


@dataclass(frozen=True)
class Restored:
    """A restored checkpoint: `state` as a tree like the one asked for, and `about` as saved."""

    step: int
    state: PyTree
    about: dict
    verified: int = 0
    """The bytes of its files, all of which were verified."""


Stamp = dict[Path, tuple[int, ...]]
"""What changes when a file of a step is written or replaced: of each, its inode, size and times."""


class StoredSteps:
    """The steps in a folder, each with its manifest and arrays. It writes nothing."""

    def __init__(self, directory: Path):
        self.directory = directory
        # By step, how its files were just before all of them were verified, or just after they
        # were written.
        self._verified: dict[int, Stamp] = {}
        self._written: dict[int, Stamp] = {}

    def folder(self, step: int) -> Path:
        return self.directory / str(step)

    def committed(self) -> list[int]:
        """Returns the steps with a manifest in ascending order, unverified."""
        return [step for step in self.all() if (self.folder(step) / MANIFEST).is_file()]

    def all(self) -> list[int]:
        """Returns the steps that have a folder, committed or not, in ascending order."""
        if not self.directory.is_dir():
            return []

        # A link may lead to the checkpoints of another run, which would be removed as old ones.
        entries = [entry for entry in self.directory.iterdir() if not entry.is_symlink()]
        folders = [entry.name for entry in entries if entry.is_dir()]
        return sorted(int(name) for name in folders if re.fullmatch("0|[1-9][0-9]*", name))

    def current(self, step: int) -> str | None:
        """Returns the folder of arrays that the step's manifest names; None without a manifest."""
        manifest = self._manifest(step)
        return None if manifest is None else manifest["arrays"]

    def _manifest(self, step: int) -> dict | None:
        """Returns the content of the step's manifest; None without one that can be read."""
        try:
            return read_manifest(self.folder(step) / MANIFEST)
        except (OSError, ValueError):
            return None

    def restore(self, like: PyTree, step: int | None, partial: bool) -> Restored:
        """Returns the newest sound step, or the one given, as a tree like `like`.

        partial: whether `like` holds only some of the entries at the top.

        Raises:
            CheckpointError: if no step is sound, or its leaves differ from those of `like`.
        """
        like = jax.tree.map(_wanted, like)
        while True:
            manifest = self._newest_sound() if step is None else self._verify(operator.index(step))
            self._check_leaves(manifest, like, partial)
            try:
                state = self._load(manifest, like, partial) if jax.tree.leaves(like) else like
            except CheckpointError:
                if self._manifest(manifest["step"]) == manifest:
                    raise
                continue  # a writer has replaced or removed it since it was verified

            return Restored(int(manifest["step"]), state, manifest["about"], stored_bytes(manifest))

    def states(self) -> dict[int, str]:
        """Returns, for each step, "good", "being saved by ...", or what is wrong with it."""
        found = {}
        for step in self.all():
            saver = self._saver(step)
            if saver is not None:
                found[step] = f"being saved by {saver.in_words()}"
                continue
            try:
                self._verify(step)
                found[step] = "good"
            except CheckpointError as fault:
                if self.folder(step).exists():  # no writer has removed it meanwhile
                    found[step] = str(fault)
        return found

    def _check_leaves(self, manifest: dict, like: PyTree, partial: bool) -> None:
        """Refuses leaves of another dtype or shape, which Orbax itself would cast silently."""
        found = manifest["leaves"]
        if partial:
            found = {name: leaf for name, leaf in found.items() if name.split("/")[0] in like}

        differences = leaf_differences(found, describe_leaves(like))
        if differences:
            raise CheckpointError(
                f"the leaves of step {manifest['step']} in {self.directory} differ from `like`:"
                f"{differences}\n{ADVICE}"
            )

    def _load(self, manifest: dict, like: PyTree, partial: bool) -> PyTree:
        from orbax.checkpoint import v1 as ocp

        step = manifest["step"]
        context = ocp.Context()
        context.pytree.loading.partial_load = partial
        try:
            with context:
                return ocp.load(str(self.folder(step) / manifest["arrays"]), like)
        except Exception as error:
            # Files and leaves are right, so the trees differ in containers that hold no leaves.
            reason = error.__cause__ or error
            raise CheckpointError(
                f"step {step} in {self.directory} does not load: {reason}\n{ADVICE}"
            ) from error

    def _newest_sound(self) -> dict:
        """Returns the manifest of the newest sound step, and warns of newer ones that are not."""
        while True:
            faults = []
            unfinished = []
            folders = self.all()
            for step in reversed(folders):
                saver = self._saver(step)
                if saver is not None:
                    unfinished.append(f"\n  step {step} is being saved by {saver.in_words()}.")
                    continue
                try:
                    return self._verify(step)
                except CheckpointError as fault:
                    if not self.folder(step).exists():  # a writer has removed it
                        continue
                    faults.append(f"\n  {fault}")
                    warnings.warn(f"passed over: {fault}", stacklevel=5)  # who called restore

            if folders == self.all():
                break

        found = "".join(faults + unfinished) or "it holds no step folder."
        raise CheckpointError(
            f"no usable checkpoint in {self.directory}: {found}\n"
            f"Check the path, restore a step folder from a backup, or start a new run in an empty "
            f"directory."
        )

    def _verify(self, step: int) -> dict:
        """Returns the step's manifest if the step is sound.

        What this object has verified already, and is unchanged since, is not read again.

        Raises:
            CheckpointError: with the step, the file and what is wrong with it.
        """
        while True:
            before = self._manifest(step)
            stamp = self._stamp(step)
            if before is not None and stamp and stamp == self._verified.get(step):
                return before
            try:
                manifest = verify(self.folder(step), step)
            except DamagedError as damage:
                if self._manifest(step) != before:
                    continue  # a writer has replaced or removed it
                raise CheckpointError(
                    f"step {step} cannot be used: {damage}. Committed steps: {self.committed()}; "
                    f"omit `step` to restore the newest sound one."
                ) from damage
            self._verified[step] = stamp
            return manifest

    def _saver(self, step: int) -> Holder | None:
        """Returns the process that is about to commit a step which has no manifest yet."""
        if (self.folder(step) / MANIFEST).exists():
            return None
        saver = Holder.read(self.folder(step) / SAVING)
        return saver if saver is not None and is_at_work(saver, self.directory.parent) else None

    def is_sound(self, step: int) -> bool:
        """Says if a step is sound; does not read again what is unchanged since it was verified, or
        written here."""
        stamp = self._stamp(step)
        if stamp and stamp == self._written.get(step):
            return True
        try:
            self._verify(step)
        except CheckpointError:
            return False
        return True

    def trust(self, step: int) -> None:
        """Takes a step as sound that was just written: its files were read for its manifest."""
        self._written[step] = self._stamp(step)

    def _stamp(self, step: int) -> Stamp:
        """Returns the stamp of all files and folders of a step; nothing if some cannot be seen."""
        folder = self.folder(step)
        stamp = {}
        try:
            for file in (folder, *folder.rglob("*")):
                found = file.lstat()
                times = (found.st_mtime_ns, found.st_ctime_ns)
                stamp[file] = (found.st_ino, found.st_size, *times)
        except OSError:  # a writer removes it meanwhile
            return {}
        return stamp


def storable(leaf: Any) -> Any:
    """Returns the leaf as Orbax takes it: it refuses NumPy scalars."""
    return np.asarray(leaf) if isinstance(leaf, np.generic) else leaf


def _wanted(leaf: Any) -> Any:
    """Returns the shape, dtype and sharding of a JAX array; any other leaf as it is.

    The array itself is not needed, and its buffer may have been donated.
    """
    if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return storable(leaf)

    # Without a sharding, Orbax wants the devices that saved: a GPU's file would not load on a CPU.
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
