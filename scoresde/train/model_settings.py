"""A model as settings: an SDE, a network, and what its output means.

Experiments choose among these settings, and checkpoints store them, so that `sd.load` can rebuild
the model from the run's folder alone.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from scoresde.nets.classifier import (
    Classifier,
    ClassifierConfig,
    MLPClassifier,
    MLPClassifierConfig,
)
from scoresde.nets.conditions import Conditions
from scoresde.nets.dit import DiT, DiTConfig
from scoresde.nets.mlp import MLP, MLPConfig
from scoresde.nets.ncsnpp import NCSNpp, NCSNppConfig
from scoresde.nets.unet import UNet, UNetConfig
from scoresde.runs.settings import union_members
from scoresde.score.classifier import ClassifierModel
from scoresde.score.labels import AnyLabel, Scaled
from scoresde.score.model import ScoreModel
from scoresde.score.parameterization import EDM, Data, Flow, Noise, Score, Velocity
from scoresde.sde.cosine import Cosine
from scoresde.sde.edm_process import EDMProcess
from scoresde.sde.learnt_vp import LearntVP
from scoresde.sde.rectified_flow import RectifiedFlow
from scoresde.sde.sub_vp import SubVP
from scoresde.sde.ve import VE
from scoresde.sde.vp import VP

AnySDE = VP | SubVP | VE | Cosine | EDMProcess | RectifiedFlow | LearntVP
AnyNet = UNetConfig | MLPConfig | NCSNppConfig | DiTConfig
AnyClassifier = ClassifierConfig | MLPClassifierConfig
AnyParameterization = EDM | Noise | Score | Data | Velocity | Flow

Model = ScoreModel | ClassifierModel
"""What `fit` trains."""


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
    def of(cls, model: Model) -> ModelSettings | None:
        """Returns the settings of a ScoreModel, or None if any of its pieces is a custom class."""
        return _settings_of(cls, model, ("sde", "parameterization"))


@dataclasses.dataclass(frozen=True)
class ClassifierSettings:
    """The settings that rebuild a ClassifierModel made of the library's own pieces."""

    sde: AnySDE
    net: AnyClassifier
    label: AnyLabel = Scaled()

    def build(self, key: Array, shape: tuple[int, ...]) -> ClassifierModel:
        """Returns a model with new random weights, for examples of this shape."""
        net = self.net.build(tuple(shape), rngs=nnx.Rngs(key))
        return ClassifierModel(self.sde, net, self.label)

    @classmethod
    def of(cls, model: Model) -> ClassifierSettings | None:
        """Returns the settings of a ClassifierModel, or None if a piece is a custom class."""
        return _settings_of(cls, model, ("sde", "label"))


def _settings_of(cls: Any, model: Any, names: tuple[str, ...]) -> Any:
    """Returns the settings of a model whose pieces are all of the kinds that they choose from."""
    if is_custom_network(model.net):
        return None

    parts = {"net": model.net.config} | {name: getattr(model, name) for name in names}
    kinds = typing.get_type_hints(cls)
    for name, part in parts.items():
        if type(part) not in typing.get_args(kinds[name]) or _has_custom_part(part):
            return None
    return cls(**parts)


def _has_custom_part(part: Any) -> bool:
    """Returns whether a field that offers a choice, such as a schedule, holds a custom object."""
    hints = typing.get_type_hints(type(part))
    choices = {name: members for name, hint in hints.items() if (members := union_members(hint))}
    return any(type(getattr(part, name)) not in members for name, members in choices.items())


def is_custom_network(net: Any) -> bool:
    """Returns whether a network is not exactly one of the library's classes.

    A subclass is custom too: rebuilt from its settings, it would become its parent class.
    """
    return type(net) not in (MLP, UNet, NCSNpp, DiT, Classifier, MLPClassifier)


def conditions_of(model: Model, shape: tuple[int, ...]) -> Conditions | None:
    """Returns what must come with each example of this shape in training: a label for a classifier,
    and None for the custom network of a score."""
    if isinstance(model, ScoreModel):
        return model.conditions
    classes = model.num_classes
    if classes is None:
        x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        classes = jax.eval_shape(model, x, 0.5).shape[1]
    return Conditions((classes,))
