"""A model as settings: process, network, parameterisation. What experiments choose from and checkpoints remember."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, cast

from flax import nnx
from jax import Array

from scoresde.nets.dit import DiT, DiTConfig
from scoresde.nets.mlp import MLP, MLPConfig
from scoresde.nets.ncsnpp import NCSNpp, NCSNppConfig
from scoresde.nets.unet import UNet, UNetConfig
from scoresde.score.model import ScoreModel
from scoresde.score.parameterization import EDM, Data, Noise, Score, Velocity
from scoresde.sde.ve import VE
from scoresde.sde.vp import VP, SubVP

AnySDE = VP | SubVP | VE
AnyNet = UNetConfig | MLPConfig | NCSNppConfig | DiTConfig
AnyParameterization = EDM | Noise | Score | Data | Velocity


def is_own_network(net: Any) -> bool:
    """Whether a network is the user's own class: a subclass of the library's is, its parent could not stand for it."""
    return type(net) not in (MLP, UNet, NCSNpp, DiT)


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What rebuilds a ScoreModel made of the library's pieces."""

    sde: AnySDE
    net: AnyNet
    parameterization: AnyParameterization

    def build(self, key: Array, shape: tuple[int, ...]) -> ScoreModel:
        """A fresh model for examples of this shape."""
        return ScoreModel(
            self.sde, self.net.build(tuple(shape), rngs=nnx.Rngs(key)), self.parameterization
        )

    @classmethod
    def of(cls, model: ScoreModel) -> ModelSettings | None:
        """The settings of a model, or None where a piece is not the library's own: its class cannot be named."""
        if is_own_network(model.net):
            return None
        kinds = typing.get_type_hints(cls)
        config = cast(Any, model.net).config
        parts = {"sde": model.sde, "net": config, "parameterization": model.parameterization}
        known = all(type(part) in typing.get_args(kinds[name]) for name, part in parts.items())
        return cls(**parts) if known else None
