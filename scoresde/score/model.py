"""`ScoreModel`: a network under an SDE, as a score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.score.parameterization import Noise, State
from scoresde.sde.base import SDE, as_time
from scoresde.types import Cond, Time, call_score, pytree_dataclass, right_pad


@pytree_dataclass("parameterization")
class ScoreModel:
    """A network under an SDE, as a ScoreFn with `denoise`. A pytree: its leaves are the network's arrays.

    net(x, t) or net(x, t, cond): an NNX, Equinox or bound Linen module, or any function, whose output has x's shape
    and means what `parameterization` says.
    """

    sde: SDE
    net: Callable[..., Array]
    parameterization: Any = Noise()

    @property
    def num_classes(self) -> int | None:
        """Of a conditional network of the library; None: unconditional, or what a network of your own does not say."""
        return getattr(getattr(self.net, "config", None), "num_classes", None)

    def __call__(self, x: State, t: Time, cond: Cond = None) -> State:
        """The score, -noise / sigma; t: one time, or one per example."""
        _, noise = self.data_and_noise(x, t, cond)
        return -noise / right_pad(self.sde.sigma(as_time(t)), x)

    def denoise(self, x: State, t: Time, cond: Cond = None) -> State:
        """E[x_0 | x_t = x]."""
        x0, _ = self.data_and_noise(x, t, cond)
        return x0

    def data_and_noise(self, x: State, t: Time, cond: Cond = None) -> tuple[State, State]:
        """E[x_0 | x_t] and E[noise | x_t] from one evaluation of the network."""
        checks.batch_at_times(x, t)
        t = jnp.broadcast_to(as_time(t), x.shape[:1])
        scaled, label = self.parameterization.inputs(self.sde, x, t)
        output = call_score(self.net, scaled, label, cond)
        return self.parameterization.data_and_noise(self.sde, output, x, t)
