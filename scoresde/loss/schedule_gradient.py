"""The gradients that the schedule of an SDE descends on, from the backward pass of the network.

    l = 1/2 gamma'(t) |noise - E[noise | x_t]|^2 + ...,   t ~ U[0, 1]                    (Eq. 1)

is one draw of the variational bound in continuous time. If the network is told gamma, its mean
depends on the schedule through gamma(0) and gamma(1) alone: the ends descend on the bound, grad
E[l]. The shape between them descends on the variance, which has the gradient of E[l^2],

    grad E[l^2] = E[2 l grad l] = E[2 (l - b) grad l],   since E[grad l] = 0             (Eq. 2)

for any b that does not depend on the draw; it varies least where b is about E[l]. Here b is the
mean of the other examples of the batch. Their times are independent of t, or evenly spread with it,
in which case Eq. 2 is scaled by about n / (n - 1) for a batch of n. Kingma et al. 2021
(arXiv:2107.00630), App. I.2.

The network sees gamma_i = gamma(t_i) and its slope gamma'_i, one per example i. The factor of Eq. 2
multiplies what the backward pass brings to these two numbers, before it goes on to the parameters
of the shape.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from scoresde.sde.base import SDE
from scoresde.sde.calculus import derivative
from scoresde.sde.learnt_vp import LearntVP
from scoresde.types import pytree_dataclass


@dataclasses.dataclass(frozen=True)
class AtTimes:
    """An SDE at one time per example, whose gradients are those of Eq. 2."""

    sde: SDE
    """It has the values and slopes of the given SDE at the given times, and only there."""
    zero: Array | None
    """Zeros (batch,), by which the backward pass learns l - b; None without a shape to learn."""

    def of(self, losses: Array) -> Array:
        """Returns losses (batch,) as they are, with the gradients of their mean as in Eq. 2."""
        if self.zero is None:
            return losses
        others = max(len(losses) - 1, 1)
        excess = losses - (jnp.sum(losses) - losses) / others  # l - b
        return losses + self.zero * jax.lax.stop_gradient(excess)


def at_times(sde: SDE, t: Array) -> AtTimes:
    """Returns the SDE at times (batch,) for a loss whose mean over the batch is minimised."""
    parameters = sde.parameters()
    if not isinstance(sde, LearntVP) or "shape" not in parameters:
        return AtTimes(sde, None)

    held = {name: jax.lax.stop_gradient(part) for name, part in parameters.items()}
    of_ends = sde.with_parameters(parameters | {"shape": held["shape"]}).gamma
    of_shape = sde.with_parameters(held | {"shape": parameters["shape"]}).gamma

    moved, moved_slope, zero = _by_variance(of_shape(t), derivative(of_shape, t))
    value = of_ends(t) + _gradient_of(moved)
    slope = derivative(of_ends, t) + _gradient_of(moved_slope)
    return AtTimes(sde.with_schedule(Tangent(t, value, slope)), zero)


def _gradient_of(x: Array) -> Array:
    """Returns 0 with the gradient of x."""
    return x - jax.lax.stop_gradient(x)


@pytree_dataclass()
class Tangent:
    """gamma with these values and slopes at these times, one per example."""

    time: Array
    value: Array
    slope: Array

    def __call__(self, t: Array) -> Array:
        """Returns gamma(t), (batch,)."""
        return self.value + self.slope * (t - self.time)


@jax.custom_vjp
def _by_variance(value: Array, slope: Array) -> tuple[Array, Array, Array]:
    """Returns the values and slopes of gamma, and zeros; the gradient of the mean of n losses
    arrives at the zeros as (l - b) / n."""
    return value, slope, jnp.zeros_like(value)


def _forward(value: Array, slope: Array) -> tuple[tuple[Array, Array, Array], None]:
    return _by_variance(value, slope), None


def _backward(_: None, gradients: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    of_value, of_slope, excess = gradients
    factor = 2.0 * len(excess) * excess  # 2 (l - b) of Eq. 2
    return factor * of_value, factor * of_slope


_by_variance.defvjp(_forward, _backward)
