"""The training state, a plain dict of arrays, and how it becomes an NNX module and back."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from scoresde.sde.base import SDE
from scoresde.train.model_settings import Model
from scoresde.train.settings import Training
from scoresde.train.what_trains import check_trainable

TrainState = dict[str, Any]
"""The entries that `init_state` lists; what a checkpoint stores."""


def init_state(
    params: dict, constants: dict, optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns the state of step 0. The EMA starts at the parameters; its warm-up forgets them."""
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "ema": jax.tree.map(jnp.copy, params),
        "constants": constants,
        "opt_state": optimizer.init(params),
        "skipped": jnp.zeros((), jnp.int32),
        "skipped_in_a_row": jnp.zeros((), jnp.int32),
    }


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A model without the arrays of its network, from which it is rebuilt with any parameters."""

    model: Model
    """The model that was split, for all but its parameters."""

    train_graph: nnx.GraphDef
    """The network's structure in training mode."""

    eval_graph: nnx.GraphDef
    """The network's structure in evaluation mode."""

    streams: dict[str, Any]
    """The state of the network's random streams (dropout)."""

    schedule: bool = False
    """Whether the parameters are {"net": ..., "schedule": ...}, rather than the network's alone."""

    schedule_trains: bool = False
    """Whether the schedule has a gradient."""

    @classmethod
    def split(
        cls, model: Model, schedule: bool | None = None, schedule_trains: bool = False
    ) -> tuple[Skeleton, dict, dict]:
        """Returns the skeleton, the parameters and the constants (frozen variables) of a model.

        Parameters and constants are nested plain dicts of arrays: `nnx.merge` makes new variables
        of them each time, so random streams may advance inside a trace. Where the SDE has
        parameters too, they are {"net": those of the network, "schedule": those of the SDE},
        whether the latter train or not; `schedule` says otherwise.

        Raises:
            TypeError: as `check_trainable`.
        """
        check_trainable(model)
        if schedule is None:
            schedule = bool(model.sde.parameters())

        net = nnx.clone(cast(nnx.Module, model.net))
        net.train()
        train_graph, _ = nnx.split(net)
        net.eval()
        eval_graph, params, streams, constants = nnx.split(net, nnx.Param, nnx.RngState, ...)

        streams = nnx.to_pure_dict(streams)
        skeleton = cls(model, train_graph, eval_graph, streams, schedule, schedule_trains)
        of_net = nnx.to_pure_dict(params)
        if schedule:
            of_net = {"net": of_net, "schedule": model.sde.parameters()}
        return skeleton, of_net, nnx.to_pure_dict(constants)

    def optimizer(self, training: Training) -> optax.GradientTransformation:
        """Returns the optimiser of these parameters."""
        optimizer = training.transformation()
        if not self.schedule:
            return optimizer
        names = {"net": "net", "schedule": "schedule"}
        of_schedule = optax.set_to_zero()
        if self.schedule_trains:
            of_schedule = training.transformation(of_schedule=True)
        return optax.partition({"net": optimizer, "schedule": of_schedule}, names)

    def in_training(self, params: dict, constants: dict, key: Array) -> Model:
        """Returns the model in training mode, with dropout drawn from the key."""
        model = self._rebuilt(self.train_graph, params, constants)
        nnx.reseed(model.net, default=key)
        return model

    def in_evaluation(self, params: dict, constants: dict) -> Model:
        """Returns the model in evaluation mode, with these parameters."""
        return self._rebuilt(self.eval_graph, params, constants)

    def _rebuilt(self, graph: nnx.GraphDef, params: dict, constants: dict) -> Model:
        of_net = params["net"] if self.schedule else params
        net = nnx.merge(graph, of_net, self.streams, constants)
        return dataclasses.replace(self.model, sde=self.sde(params), net=cast(Any, net))

    def sde(self, params: dict) -> SDE:
        """Returns the SDE of the model with these parameters."""
        sde = self.model.sde
        if not self.schedule:
            return sde
        own = params["schedule"]
        return sde.with_parameters(own if self.schedule_trains else jax.lax.stop_gradient(own))
