"""A model as settings: an SDE, a network and a parameterisation.

Experiments choose among these settings, and checkpoints store them, so that `sd.load` can rebuild
the model from the run's folder alone.
"""

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
from scoresde.sde.sub_vp import SubVP
from scoresde.sde.ve import VE
from scoresde.sde.vp import VP

AnySDE = VP | SubVP | VE
AnyNet = UNetConfig | MLPConfig | NCSNppConfig | DiTConfig
AnyParameterization = EDM | Noise | Score | Data | Velocity


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The settings that rebuild a ScoreModel made of the library's own pieces."""

    sde: AnySDE
    net: AnyNet
    parameterization: AnyParameterization

    def build(self, key: Array, shape: tuple[int, ...]) -> ScoreModel:
        """Returns a model with new random weights, for examples of this shape."""
        net = self.net.build(tuple(shape), rngs=nnx.Rngs(key))
        return ScoreModel(self.sde, net, self.parameterization)

    @classmethod
    def of(cls, model: ScoreModel) -> ModelSettings | None:
        """Returns the settings of a model, or None if any of its pieces is a custom class."""
        if is_custom_network(model.net):
            return None

        parts = {
            "sde": model.sde,
            "net": cast(Any, model.net).config,
            "parameterization": model.parameterization,
        }
        kinds = typing.get_type_hints(cls)
        for name, part in parts.items():
            if type(part) not in typing.get_args(kinds[name]):
                return None
        return cls(**parts)


def is_custom_network(net: Any) -> bool:
    """Returns whether a network is not exactly one of the library's classes.

    A subclass is custom too: rebuilt from its settings, it would become its parent class.
    """
    return type(net) not in (MLP, UNet, NCSNpp, DiT)
