"""The results in RUN/likelihood, or in --out FOLDER: files named by everything that they depend on.

<digest>.jsonl holds a row per example, and <digest>.json what the command printed.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scoresde.cli.output import as_json
from scoresde.cli.place import UNWRITABLE
from scoresde.data.source import digest
from scoresde.parallel.processes import by_first
from scoresde.train.load import Trained
from scoresde.train.state import Skeleton
from scoresde.writing import write_atomically


def described(bins: Any) -> dict[str, Any]:
    """Returns how integers became real numbers, as it is printed and stored."""
    kind = type(bins).__name__
    return {"kind": kind, "levels": bins.levels, "low": bins.low, "high": bins.high}


def keep(found: dict[str, Any], content: str, rows: Path) -> None:
    """Writes what the command prints beside its rows, for the run's page.

    On a read-only disk it is left as it is: the rows were complete before.
    """
    text = as_json(found | {"content": content})
    try:
        by_first(partial(write_atomically, rows.with_suffix(".json"), text.encode()))
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise


def results_folder(trained: Trained, out: str | None) -> Path:
    """Returns the folder for the results: the run's own, unless another is named."""
    return trained.path / "likelihood" if out is None else Path(out).expanduser()


def identity_of(about: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Returns what results depend on: all but the places of the run and of the data, whose weights
    and content it holds, so that a run that was moved finds its results again."""
    return {name: value for name, value in about.items() if name not in ("run", "data")} | more


def rows_path(folder: Path, identity: dict[str, Any]) -> Path:
    """Returns the file for the results, named by everything that they depend on."""
    name = digest(json.dumps(identity, sort_keys=True).encode())
    return folder / f"{name}.jsonl"


def rows_of_label(rows: Path, label: int | str) -> Path:
    """Returns the file for the results given a label; "*" is the pattern of all of them."""
    return rows.with_name(f"{rows.stem}_label={label}{rows.suffix}")


def weights_and_version(trained: Trained) -> dict[str, str]:
    """Returns a digest of the model's weights, and the version of scoresde."""
    from scoresde import __version__

    _, params, constants = Skeleton.split(trained.model)
    described = {"weights": digest_of_tree((params, constants)), "version": __version__}
    standardization = trained.model.standardization
    if standardization is not None:
        described["standardization"] = str(standardization)
    return described


def digest_of_tree(tree: Any) -> str:
    """Returns a digest of the arrays in a tree."""
    return digest(*map(np.asarray, jax.tree.leaves(tree)))
