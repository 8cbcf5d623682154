"""Optimisers of `fit`, for gradients g of parameters theta at rates that `Training` schedules.

    m       <- b1 m + (1 - b1) g
    v       <- b2 v + (1 - b2) g^2
    theta   <- theta - rate_k (m' / (sqrt(v') + epsilon) + weight_decay theta)      (1)

with m' = m / (1 - b1^(k+1)), v' = v / (1 - b2^(k+1)) in update k = 0, 1, …. Adam is Eq. 1 without
its weight decay. `epsilon`, like the rates, is a setting of `Training`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import optax

from scoresde import checks


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980).

    Raises:
        ValueError: if b1 or b2 lies outside [0, 1).
    """

    b1: float = 0.9
    """Decay of the average gradient."""
    b2: float = 0.999
    """Decay of the average squared gradient."""

    def __post_init__(self):
        checks.setting("b1", self.b1, "[0, 1)")
        checks.setting("b2", self.b2, "[0, 1)")

    def transformation(
        self, schedule: optax.Schedule, epsilon: float
    ) -> optax.GradientTransformation:
        """Returns the update of Eq. 1 with rate_k = schedule(k)."""
        return optax.adam(schedule, self.b1, self.b2, epsilon)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Every parameter decays, biases too; `optax.adamw(rate, mask=...)` can leave some out.

    Raises:
        ValueError: if b1 or b2 lies outside [0, 1), or the weight decay is negative.
    """

    b1: float = 0.9
    """Decay of the average gradient."""
    b2: float = 0.999
    """Decay of the average squared gradient."""
    weight_decay: float = 1e-4
    """Part of each parameter that a step takes off, at learning rate 1."""

    def __post_init__(self):
        checks.setting("b1", self.b1, "[0, 1)")
        checks.setting("b2", self.b2, "[0, 1)")
        checks.setting("weight_decay", self.weight_decay, "[0, inf)")

    def transformation(
        self, schedule: optax.Schedule, epsilon: float
    ) -> optax.GradientTransformation:
        """Returns the update of Eq. 1 with rate_k = schedule(k)."""
        return optax.adamw(schedule, self.b1, self.b2, epsilon, weight_decay=self.weight_decay)


if TYPE_CHECKING:
    AnyOptimizer = Adam | AdamW | optax.GradientTransformation  # Python takes all of optax
else:
    AnyOptimizer = Adam | AdamW
    """The optimisers that settings files and the command line choose from."""
