"""The manifest of a checkpoint: what the checkpoint holds, and the checksums that verify it.

    {"content": {"format": 2,
                 "step": 500,
                 "about": {...},
                 "arrays": "arrays-0",
                 "leaves": {"params/conv/kernel": "float32[3,3,1,32]", ...},
                 "files": {"arrays-0/_METADATA": "1234 bytes, sha256 5f1c...", ...}},
     "sha256": "the checksum of the content"}

It is JSON that a person can read. It protects itself as well as the files that it lists. It may
come from anywhere: `read_manifest` refuses one of another form, and `verify` arrays that lie
elsewhere, links, and files that the manifest does not list, which Orbax would read too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from scoresde.reading import LARGEST_JSON, UnreadableError, check_inside, read_json
from scoresde.runs.about import check_about
from scoresde.runs.fingerprints import checking, files_of
from scoresde.writing import write_atomically

MANIFEST = "manifest.json"
FORMAT = 2
"""The form of what is written, arrays and `about` included; 1 is that without a number."""

SHOWN = 5
"""The number of differing leaves that an error lists; it only counts the others."""


class DamagedError(ValueError):
    """A file of a checkpoint is missing, unreadable, or not as it was written."""


def verify(folder: Path, step: int) -> dict[str, Any]:
    """Returns the manifest of a step's folder after it has read and checked every file it lists.

    Raises:
        DamagedError: with the first file that is missing, unreadable, changed, or not listed.
    """
    path = folder / MANIFEST
    try:
        if folder.is_symlink():
            raise DamagedError(f"{folder} is a link: wanted the folder of a step itself.")
        manifest = read_manifest(path)
        if manifest["step"] != step:
            raise ValueError(f"belongs to step {manifest['step']}: the folder was renamed")

        path = folder / manifest["arrays"]
        listed = manifest["files"]
        found = {file.relative_to(folder).as_posix(): file for file in files_of(path)}
        for name in sorted(found.keys() - listed.keys()):
            path = found[name]
            raise ValueError("is not listed in the manifest: remove it")
        for name in sorted(listed.keys() - found.keys()):
            path = folder / name
            raise FileNotFoundError(path)
        for file, check in checking({found[name]: listed[name] for name in found}):
            path = file
            check.result()
    except FileNotFoundError as error:
        raise DamagedError(
            f"{path} is missing: it was removed, or its save was killed or is still in progress"
        ) from error
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error}") from error
    except (DamagedError, UnreadableError) as error:  # these name the file
        raise DamagedError(str(error)) from error
    except ValueError as error:
        raise DamagedError(f"{path} {error}") from error

    return manifest


# --- The file ---


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Writes a manifest and its own checksum, in one atomic rename.

    Raises:
        ValueError: if it is larger than one that is read.
    """
    content = {"format": FORMAT, **content}
    manifest = {"content": content, "sha256": _checksum(content)}
    written = json.dumps(manifest, indent=1).encode()
    if len(written) > LARGEST_JSON:
        raise ValueError(
            f"the manifest takes {len(written):,} bytes, more than {LARGEST_JSON:,}: keep long "
            f"lists out of `about`, and arrays in the state"
        )
    write_atomically(path, written)


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the content of a manifest that matches its own checksum, and has the form above.

    Raises:
        UnreadableError: if the file is not JSON, too large, or lies outside of its folder.
        ValueError: if it is no manifest, or does not match its checksum.
        OSError: if the file cannot be read.
    """
    manifest = read_json(path, inside=path.parent)
    if not isinstance(manifest, dict) or not {"content", "sha256"} <= manifest.keys():
        raise ValueError("is damaged: it is no manifest, with a content and its sha256")

    content = manifest["content"]
    if manifest["sha256"] != _checksum(content):
        raise ValueError("is damaged: it does not match its own checksum")
    _check_format(content)
    _check_form(content)
    return content


def _check_format(content: Any) -> None:
    """Refuses a manifest of a later version, whose meaning cannot be known here.

    Raises:
        ValueError: with both numbers.
    """
    number = content.get("format", 1) if isinstance(content, dict) else 1
    if number not in range(1, FORMAT + 1):
        raise ValueError(
            f"has format {repr(number)[:20]}, and this version of scoresde reads 1 to {FORMAT}: "
            f"open it with the version that wrote it, or a later one"
        )


def newest_manifest(checkpoints: Path) -> dict[str, Any] | None:
    """Returns the content of the newest manifest that a run wrote, None if there is none.

    The files that it lists are not checked, which would take long for large ones.
    """
    steps = [int(path.name) for path in checkpoints.glob("*") if STEP.fullmatch(path.name)]
    for step in sorted(steps, reverse=True):
        folder = checkpoints / str(step)
        try:
            check_inside(folder, checkpoints.parent)
            content = read_manifest(folder / MANIFEST)
            check_about(content["about"], str(folder))
            return content
        except (OSError, ValueError):
            continue
    return None


def count_parameters(content: dict[str, Any]) -> int:
    """Returns the number of weights, from shapes such as "float32[3,3,1,32]" in a manifest."""
    leaves = content["leaves"]
    return sum(math.prod(_sizes(leaf)) for name, leaf in leaves.items() if name.startswith("ema/"))


def stored_bytes(content: dict[str, Any]) -> int:
    """Returns the bytes of all files that a manifest lists."""
    return sum(int(text.partition(" ")[0]) for text in content["files"].values())


def _sizes(leaf: str) -> tuple[int, ...]:
    """Returns the shape in the description of a leaf, such as "float32[3,3,1,32]"."""
    sizes = leaf.partition("[")[2].rstrip("]").split(",")
    return tuple(int(size) for size in sizes if size)


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- Its form ---


STEP = re.compile("0|[1-9][0-9]{0,17}")
"""The name of a step's folder."""
LEAF = re.compile(r"[^\[\]]{1,40}\[([0-9]{1,18}(,[0-9]{1,18}){0,31})?\]")
"""The description of a leaf: its dtype and its shape."""
FINGERPRINT = re.compile("[0-9]{1,18} bytes, sha256 [0-9a-f]{64}")
LARGEST_LEAF = 2**48
"""The numbers that a leaf may hold."""


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_leaf(value: Any) -> bool:
    if not isinstance(value, str) or not LEAF.fullmatch(value):
        return False
    return math.prod(_sizes(value)) <= LARGEST_LEAF


def _are_leaves(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_leaf(leaf) for leaf in value.values())


def _are_fingerprints(value: Any) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(text, str) and FINGERPRINT.fullmatch(text) for text in value.values())


FORM: dict[str, tuple[Callable[[Any], bool], str]] = {
    "step": (_is_step, "a whole number from 0"),
    "about": (lambda value: isinstance(value, dict), "entries by name"),
    "arrays": (lambda value: value in ("arrays-0", "arrays-1"), "arrays-0 or arrays-1"),
    "leaves": (_are_leaves, 'a text such as "float32[3,3,1,32]" by name'),
    "files": (
        _are_fingerprints,
        'a text such as "1234 bytes, sha256 5f1c..." by name, one at least',
    ),
}
"""Each entry of a manifest's content: whether a value is what belongs there, and what does."""


def _check_form(content: Any) -> None:
    """Refuses the content of a manifest that is not of its form.

    Raises:
        ValueError: with the entry, and what was wanted.
    """
    if not isinstance(content, dict):
        raise ValueError(f"is damaged: its content is of type {type(content).__name__}")
    for name, (fits, wanted) in FORM.items():
        if name not in content or not fits(content[name]):
            raise ValueError(f"is damaged: its {name} is not what a run writes, {wanted}")


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
