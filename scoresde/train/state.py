"""The training state: a plain dict of arrays, and the way between it and an NNX module."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from scoresde.score.model import ScoreModel

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A ScoreModel without its arrays: its structure for training and for use, and the keys of its random streams."""

    model: ScoreModel
    train_graph: nnx.GraphDef
    eval_graph: nnx.GraphDef
    streams: dict[str, Any]

    @classmethod
    def split(cls, model: ScoreModel) -> tuple[Skeleton, dict, dict]:
        """The skeleton, the parameters and the constants (frozen variables) as nested dicts of arrays.

        Raises:
            TypeError: if the network is not an NNX module, or keeps running statistics.
        """
        if not isinstance(model, ScoreModel):
            raise TypeError(
                f"model is a {type(model).__name__}: wanted sd.ScoreModel(sde, net, parameterization)."
            )
        if not isinstance(model.net, nnx.Module):
            raise TypeError(
                f"the network is a {type(model.net).__name__}: fit trains NNX modules. Other networks sample and "
                f"evaluate as they are; to train one, differentiate sd.dsm_loss in a loop of your own."
            )
        net = nnx.clone(model.net)
        if jax.tree.leaves(nnx.state(net, nnx.BatchStat)):
            raise TypeError(
                "the network keeps batch statistics, which couple examples: use group or layer norm."
            )
        net.train()
        train_graph = nnx.split(net)[0]
        net.eval()
        eval_graph, params, streams, constants = nnx.split(net, nnx.Param, nnx.RngState, ...)
        # Plain dicts: variables made anew by each merge, so dropout may count inside a trace.
        skeleton = cls(model, train_graph, eval_graph, nnx.to_pure_dict(streams))
        return skeleton, nnx.to_pure_dict(params), nnx.to_pure_dict(constants)

    def training_net(self, params: dict, constants: dict, key: Array) -> nnx.Module:
        """The module in training mode, its random streams (dropout) drawn from the key."""
        net = nnx.merge(self.train_graph, params, self.streams, constants)
        nnx.reseed(net, default=key)
        return net

    def score_model(self, params: dict, constants: dict) -> ScoreModel:
        """The model in evaluation mode with these parameters."""
        net = nnx.merge(self.eval_graph, params, self.streams, constants)
        return dataclasses.replace(self.model, net=net)


def init_state(params: dict, constants: dict, optimizer: optax.GradientTransformation) -> State:
    """Step 0: the EMA starts at the parameters, which its warm-up forgets."""
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "ema": jax.tree.map(jnp.copy, params),
        "constants": constants,
        "opt_state": optimizer.init(params),
        "skipped": jnp.zeros((), jnp.int32),
        "skipped_in_a_row": jnp.zeros((), jnp.int32),
    }
