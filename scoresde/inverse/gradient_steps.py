"""Gradient steps towards y between the steps of a sampler: DPS in its paper's own rule.

    r = y - A(E[x_0 | x_t])                                                          (Eq. 1)
    x_{i+1} ← step(x_i) - (size / |r|) ∇_{x_i} |r|²                                  (Eq. 2)

Chung et al. 2023 (arXiv:2209.14687), Alg. 1 and 2. Eq. 2 is no score: with twice as many steps it
pulls twice as much, so its size belongs to a number of steps, and is found by trying. The posterior
score `DPS` has no such dependence.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.inverse.around import Between, Move, SamplerAround, Step, with_states
from scoresde.inverse.linear_operator import LinearOperator
from scoresde.inverse.measurement import Measurement
from scoresde.sampling.grid_sampler import GridSampler, states
from scoresde.sde.base import SDE
from scoresde.types import pytree_dataclass, right_pad, sum_data


@pytree_dataclass("sampler", "size")
class GradientSteps(SamplerAround):
    """A sampler with a gradient step towards y after each of its steps (Eq. 2).

    The operator may be any function with a derivative. Evaluations: those of the inner sampler, and
    one with its backward pass for every step.

    Raises:
        TypeError: if the sampler is not one on a grid, or y is not of floating-point numbers.
        ValueError: if size is not finite, or y has no batch axis.
    """

    sampler: GridSampler
    """The sampler whose steps are taken, such as sd.Ancestral(num_steps=1000), the paper's."""
    operator: LinearOperator
    """A."""
    y: Any
    """The measurement: (1, *measured) for all examples, or one per example."""
    size: float = 1.0
    """The paper's step size, 0.1 to 1 for its images and 1000 steps."""

    needs_linear = False

    def __post_init__(self):
        super().__post_init__()
        checks.setting("size", self.size, "(-inf, inf)")
        checks.fixed("size", self.size)

    def between(self, sde: SDE, score: Any, keys: Array, measurement: Measurement) -> Between:
        """Returns what takes the gradient steps."""
        return _Descent(score, measurement, self.size)

    @property
    def more_evaluations(self) -> int:
        return 1


@dataclasses.dataclass(frozen=True)
class _Descent(Between):
    """Takes a gradient step after each step."""

    score: Any
    measurement: Measurement
    size: float

    def advance(self, state: Any, step: Step, move: Move) -> Any:
        x = states(state)

        def residual(x: Array) -> Array:
            measured = self.measurement(self.score.denoise(x, step.t))
            return self.measurement.residual(measured)  # Eq. 1

        r, back = jax.vjp(residual, x)
        length = jnp.sqrt(sum_data(r**2))
        (gradient,) = back(2.0 * r)
        factor = self.size / jnp.where(length > 0.0, length, 1.0)

        new = move(self.score, state)
        return with_states(new, states(new) - right_pad(factor, x) * gradient)  # Eq. 2

    def last(self, number: int) -> Any:
        return self.score
