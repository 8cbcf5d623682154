"""A model of the user's own pieces on the command line: `--model FILE.py:NAME` builds it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from scoresde.parallel.processes import differences
from scoresde.score.model import ScoreModel
from scoresde.train.load import describe

WANTED = (
    "wanted --model FILE.py:NAME, where NAME() in that file returns the sd.ScoreModel that was "
    "trained, such as --model model.py:build"
)


def build_model(place: str, about: dict[str, Any], run: Path) -> ScoreModel:
    """Returns the model that a function of a Python file builds, for the checkpoint of a run.

    place: FILE.py:NAME. about: the metadata of the checkpoint.

    Raises:
        ValueError: if the run does not need it, the file fails or has no such function, or if this
            returns no model, or one that reads otherwise than the one that was trained, such as
            with other settings of the SDE.
        FileNotFoundError: if there is no such file.
    """
    if about.get("model") is not None:
        raise ValueError(
            f"--model {place}: {run} is made of the library's own pieces, which its checkpoints "
            f"describe. Leave out --model."
        )

    model = _call(place)
    if not isinstance(model, ScoreModel):
        raise ValueError(f"{place} returned a value of type {type(model).__name__}: {WANTED}.")

    found = differences(about.get("own"), describe(model, tuple(about["shape"])).get("own"))
    if found:
        raise ValueError(
            f"{place} builds another model than {run} trained ({'; '.join(found)}): build it as it "
            f"was for training."
        )
    return model


def _call(place: str) -> Any:
    """Returns what the function at a place returns."""
    file, colon, name = place.rpartition(":")
    if not colon or not file.endswith(".py") or not name:
        raise ValueError(f"--model {place}: {WANTED}.")
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: {WANTED}.")

    function = getattr(_module(path), name, None)
    if not callable(function) or isinstance(function, type):
        found = f"{path} has no {name}"
        if function is not None:
            found = f"{name} in {path} is of type {type(function).__name__}, not a function"
        raise ValueError(f"{found}: {WANTED}.")
    return _guarded(place, function)


def _module(path: Path) -> ModuleType:
    """Runs a file as a module, which may import the files beside it as a script may."""
    name = f"custom_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    execute = partial(spec.loader.exec_module, module)

    sys.modules[name] = module  # dataclasses look for the module of their annotations there
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        _guarded(str(path), execute)
    finally:
        sys.path.pop(0)
    return module


def _guarded(what: str, action: Callable[[], Any]) -> Any:
    """Returns action(); whatever fails in the user's code is one paragraph, as other mistakes are.

    Raises:
        ValueError: if it fails.
    """
    try:
        return action()
    except Exception as error:
        raise ValueError(f"{what} failed with {type(error).__name__}: {error}") from error
