"""The manifest of a checkpoint: what the checkpoint holds, and the checksums that verify it.

    {"content": {"step": 500,
                 "about": {...},
                 "arrays": "arrays-0",
                 "leaves": {"params/conv/kernel": "float32[3,3,1,32]", ...},
                 "files": {"arrays-0/_METADATA": "1234 bytes, sha256 5f1c...", ...}},
     "sha256": "the checksum of the content"}

It is JSON that a person can read. It protects itself as well as the files that it lists.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from scoresde.runs.files import write_atomically

MANIFEST = "manifest.json"
SHOWN = 5
"""The number of differing leaves that an error lists; it only counts the others."""


class DamagedError(ValueError):
    """A file of a checkpoint is missing, unreadable, or not as it was written."""


def verify(folder: Path, step: int) -> dict[str, Any]:
    """Returns the manifest of a step's folder after it has read and checked every file it lists.

    Raises:
        DamagedError: with the first file that is missing, unreadable or changed.
    """
    path = folder / MANIFEST
    try:
        manifest = read_manifest(path)
        if manifest["step"] != step:
            raise ValueError(f"belongs to step {manifest['step']}: the folder was renamed")

        for name, written in manifest["files"].items():
            path = folder / name
            found = fingerprint(path)
            if found != written:
                raise ValueError(f"has changed: found {found}, written {written}")
    except FileNotFoundError as error:
        raise DamagedError(
            f"{path} is missing: it was removed, or its save was killed or is still in progress"
        ) from error
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise DamagedError(f"{path} {error}") from error

    return manifest


# --- The file ---


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Writes a manifest and its own checksum, in one atomic rename."""
    manifest = {"content": content, "sha256": _checksum(content)}
    write_atomically(path, json.dumps(manifest, indent=1).encode())


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the content of a manifest that matches its own checksum.

    Raises:
        ValueError: if it is not a manifest, or does not match its checksum.
        OSError: if the file cannot be read.
    """
    try:
        manifest = json.loads(path.read_bytes())
        content = manifest["content"]
        checksum = manifest["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is damaged: not a manifest ({type(error).__name__})") from error

    if checksum != _checksum(content):
        raise ValueError("is damaged: it does not match its own checksum")
    return content


def newest_manifest(checkpoints: Path) -> dict[str, Any] | None:
    """Returns the content of the newest manifest that is not damaged, None if there is none.

    The files that it lists are not checked, which would take long for large ones.
    """
    steps = [int(folder.name) for folder in checkpoints.glob("*") if folder.name.isdecimal()]
    for step in sorted(steps, reverse=True):
        try:
            return read_manifest(checkpoints / str(step) / MANIFEST)
        except (OSError, ValueError):
            continue
    return None


def count_parameters(content: dict[str, Any]) -> int:
    """Returns the number of weights, from shapes such as "float32[3,3,1,32]" in a manifest."""
    count = 0
    for name, shape in content["leaves"].items():
        if name.startswith("ema/"):
            sizes = shape.partition("[")[2].rstrip("]").split(",")
            count += math.prod(int(size) for size in sizes if size)
    return count


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- Files ---


def fingerprints(folder: Path, arrays: str) -> dict[str, str]:
    """Returns the fingerprint of every file under `folder/arrays`, by its path inside `folder`."""
    files = sorted(file for file in (folder / arrays).rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): fingerprint(file) for file in files}


def fingerprint(file: Path) -> str:
    """Returns the size and the checksum of a file: "1234 bytes, sha256 5f1c..."."""
    with file.open("rb") as stream:
        size = file.stat().st_size
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"{size} bytes, sha256 {checksum}"


# --- Leaves ---


def describe_leaves(tree: PyTree) -> dict[str, str]:
    """Returns each leaf's dtype and shape by its name.

    For example {"params/conv/kernel": "float32[3,3,1,32]", "key": "key<fry>[]"}.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        shape = ",".join(map(str, np.shape(leaf)))
        leaves[name] = f"{dtype}[{shape}]"
    return leaves


def leaf_differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    """Lists the first leaves whose descriptions differ, one per line; "" if they all agree."""
    lines = []
    for name in {**wanted, **found}:
        in_checkpoint = found.get(name, "(missing)")
        in_tree = wanted.get(name, "(none: unexpected)")
        if in_checkpoint != in_tree:
            lines.append(f"\n  {name}: checkpoint {in_checkpoint}, wanted {in_tree}")

    text = "".join(lines[:SHOWN])
    if len(lines) > SHOWN:
        text += f"\n  … and {len(lines) - SHOWN} more"
    return text
