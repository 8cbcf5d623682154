"""A run's folder: settings, metrics, checkpoints; and `load`, which brings back what a run trained."""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from scoresde.checkpoint import Checkpoints
from scoresde.config import ConfigError, from_dict, to_dict
from scoresde.files import read_rows
from scoresde.nets.mlp import MLP, MLPConfig
from scoresde.nets.unet import UNet, UNetConfig
from scoresde.score import EDM, Data, Noise, Score, ScoreModel, Velocity
from scoresde.sde.ve import VE
from scoresde.sde.vp import VP, SubVP
from scoresde.train.state import Skeleton


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What rebuilds a ScoreModel made of the library's pieces: process, network, parameterisation."""

    sde: VP | SubVP | VE
    net: UNetConfig | MLPConfig
    parameterization: Score | Noise | Data | Velocity | EDM

    def build(self, key: Array, shape: tuple[int, ...]) -> ScoreModel:
        """A fresh model for examples of this shape."""
        return ScoreModel(self.sde, self.net.build(tuple(shape), rngs=nnx.Rngs(key)), self.parameterization)


def describe(model: ScoreModel, shape: tuple[int, ...]) -> dict[str, Any]:
    """What a checkpoint says about its model: its settings where they are the library's, and the data's shape."""
    net = model.net
    own = {"sde": repr(model.sde), "net": type(net).__qualname__, "parameterization": repr(model.parameterization)}
    if isinstance(net, (MLP, UNet)) and type(net) in (MLP, UNet):  # not a subclass: load would build its parent
        parts = {"sde": model.sde, "net": net.config, "parameterization": model.parameterization}
        kinds = typing.get_type_hints(ModelSettings)
        if all(type(part) in typing.get_args(kinds[name]) for name, part in parts.items()):
            return {"model": to_dict(ModelSettings(**parts)), "shape": list(shape)}
    return {"model": None, "own": own, "shape": list(shape)}  # the user's own: `load` is given the model


class RunFolder:
    """`metrics.jsonl` and `checkpoints/` under one directory, written as the run goes.

    Raises:
        OSError: if the folder cannot be made or written, before any work is done.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).expanduser()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_bytes(b"\0" * 4096)
            probe.unlink()
        except OSError as error:
            raise OSError(
                f"the run's folder {self.path} cannot be written ({error.strerror or error}): choose another place, "
                f"or free space and permissions there."
            ) from error
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    @property
    def metrics(self) -> Path:
        """One JSON object a line; where a resumed run repeats a step, the later line counts."""
        return self.path / "metrics.jsonl"

    def append(self, row: dict[str, Any]) -> None:
        """Add a row of metrics."""
        finite = {name: value if np.isfinite(value) else None for name, value in row.items()}  # NaN is not JSON
        line = json.dumps(finite, default=float) + "\n"
        if self.metrics.exists() and not self.metrics.read_bytes().endswith(b"\n"):
            line = "\n" + line  # a run killed in the middle of a line
        with self.metrics.open("a") as file:
            file.write(line)

    def rows(self) -> list[dict[str, Any]]:
        """The rows so far, in order of step."""
        return read_rows(self.metrics)[0]


def load(
    run: str | os.PathLike[str], *, step: int | None = None, ema: bool = True, model: ScoreModel | None = None
) -> ScoreModel:
    """The ScoreModel that a run trained, ready to sample and evaluate: `sd.load("runs/digits_vp")`.

    The newest good checkpoint unless `step` is given; EMA weights unless ema=False. model: only for an SDE, network
    or parameterisation of your own, built as it was for training; its weights are replaced.

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
            model = from_dict(about["model"], ModelSettings).build(jax.random.key(0), tuple(about["shape"]))
        skeleton, params, constants = Skeleton.split(model)
        which = "ema" if ema else "params"
        like = jax.eval_shape(lambda: {which: params, "constants": constants})
        state = checkpoints.restore_subtree(like, found.step).state
    return skeleton.score_model(state[which], state["constants"])
