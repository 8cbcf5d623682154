"""`load` brings back what a run trained."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scoresde.data.dequantization import UniformDequantization
from scoresde.data.prepare import Scale, without_augmentation
from scoresde.runs.checkpoint import Checkpoints
from scoresde.runs.folder import HELD_OUT
from scoresde.runs.settings import ConfigError, from_dict, stable_repr, to_dict
from scoresde.score.model import ScoreModel
from scoresde.train.model_settings import ModelSettings
from scoresde.train.state import Skeleton
from scoresde.types import Cond


def describe(model: ScoreModel, shape: tuple[int, ...], prepare: Any = None) -> dict[str, Any]:
    """What a checkpoint says of its model and data: settings where they are the library's, else names."""
    about: dict[str, Any] = {"shape": list(shape), "prepare": None}
    prepare, augmentation = without_augmentation(prepare)
    before = {"augmentation": augmentation} if augmentation else {}
    if isinstance(prepare, UniformDequantization):
        about["prepare"] = {"kind": "UniformDequantization"} | to_dict(prepare) | before
    elif isinstance(prepare, Scale):
        about["prepare"] = {"own": repr(prepare)} | before
    elif prepare is not None:
        about["prepare"] = {
            "own": getattr(prepare, "__qualname__", type(prepare).__qualname__)
        } | before
    elif augmentation:
        about["prepare"] = before
    settings = ModelSettings.of(model)
    if settings is not None:
        return about | {"model": to_dict(settings)}
    net = type(model.net).__qualname__  # the user's own: `load` is given the model
    own = {
        "sde": stable_repr(model.sde),
        "net": net,
        "parameterization": stable_repr(model.parameterization),
    }
    return about | {"model": None, "own": own}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run's folder holds, ready to use."""

    path: Path
    step: int
    model: ScoreModel
    shape: tuple[int, ...]
    """Of one example."""
    prepare: UniformDequantization | None
    """How integer data became real numbers in training; None if they were real."""
    about: dict[str, Any]
    """Everything that the checkpoint says of itself."""

    def held_out(self) -> tuple[np.ndarray, Cond] | None:
        """The held-out examples (integers where they are dequantised) and their conditions, if the run kept them."""
        if not (self.path / HELD_OUT).is_file():
            return None
        with np.load(self.path / HELD_OUT, allow_pickle=False) as stored:
            leaves = dict(stored)
        x = leaves.pop("x", None)
        if x is None:
            return None
        if not leaves:
            return x, None
        if set(leaves) == {"cond"}:
            return x, leaves["cond"]
        return None  # a condition of several leaves: its tree is the user's to rebuild


def open_run(
    run: str | os.PathLike[str],
    *,
    step: int | None = None,
    ema: bool = True,
    model: ScoreModel | None = None,
) -> Trained:
    """The model that a run trained with what is known of it: the newest good checkpoint unless `step` is given.

    EMA weights unless ema=False. model: only for an SDE, network or parameterisation of your own, built as it was for
    training; its weights are replaced.

    Raises:
        FileNotFoundError: if there is no run at that place.
        CheckpointError: if no checkpoint is whole, or it does not fit the model.
        ConfigError: if the model cannot be rebuilt from the checkpoint alone.
    """
    path = Path(run).expanduser()
    if not (path / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{path} is not a run's folder: it has no checkpoints/. Runs are made by sd.fit(..., run={str(path)!r}) or "
            f"an experiment such as `python experiments/digits_vp.py`."
        )
    with Checkpoints(path / "checkpoints") as checkpoints:
        found = checkpoints.restore_subtree({}, step)
        about = found.about
        if model is None:
            if about["model"] is None:
                raise ConfigError(
                    f"{path} trained an SDE or network that is not the library's: build the same model again and write "
                    f"sd.load({str(path)!r}, model=model)."
                )
            model = from_dict(about["model"], ModelSettings).build(
                jax.random.key(0), tuple(about["shape"])
            )
        skeleton, params, constants = Skeleton.split(model)
        which = "ema" if ema else "params"
        like = jax.eval_shape(lambda: {which: params, "constants": constants})
        state = checkpoints.restore_subtree(like, found.step).state
    prepare = about.get("prepare") or {}
    settings = (
        {field.name: prepare[field.name] for field in dataclasses.fields(UniformDequantization)}
        if prepare.get("kind") == "UniformDequantization"
        else None
    )  # whatever training did before it
    return Trained(
        path=path,
        step=found.step,
        model=skeleton.score_model(state[which], state["constants"]),
        shape=tuple(about["shape"]),
        prepare=None if settings is None else from_dict(settings, UniformDequantization),
        about=about,
    )


def load(
    run: str | os.PathLike[str],
    *,
    step: int | None = None,
    ema: bool = True,
    model: ScoreModel | None = None,
) -> ScoreModel:
    """The ScoreModel that a run trained, ready to sample and evaluate: `sd.load("runs/digits_vp")`.

    Arguments and errors are those of `open_run`, which says more of the run. Under `jax.distributed` every process
    makes this call.
    """
    return open_run(run, step=step, ema=ema, model=model).model
