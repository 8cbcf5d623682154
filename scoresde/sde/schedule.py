"""Noise schedules with parameters: gamma(t) = -log SNR(t), which rises from t = 0 to 1.

    linear     gamma = low + (high - low) t                                             (Eq. 1)
    monotone   gamma = low + (high - low) h(t) / h(1)                                   (Eq. 2)
               h(t) = |a| t + sum_k |c_k| [sigmoid(b_k + d_k) - sigmoid(b_k)],   d_k = |w_k| |a| t
               sigmoid(b + d) - sigmoid(b) = sigmoid(b + d) sigmoid(-b) (1 - e^-d)      (Eq. 3)

h is the network of Kingma et al. 2021 (arXiv:2107.00630), App. H, less its value at t = 0: l_1 +
l_3 sigmoid(l_2 l_1) with positive weights, which rises whatever its parameters are. Eq. 3 does not
cancel, so that gamma keeps its digits near t = 0.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sde.base import as_float, as_time
from scoresde.types import Scalar, Time, pytree_dataclass


@runtime_checkable
class Schedule(Protocol):
    """gamma(t) = -log SNR(t), elementwise and rising."""

    def __call__(self, t: Time) -> Array: ...


@pytree_dataclass()
class LinearGamma:
    """-log SNR rises linearly (Eq. 1).

    Raises:
        ValueError: if an end is not finite, or low >= high.
    """

    low: Scalar = -13.3
    """-log SNR at t = 0: of the paper, for 256 levels."""
    high: Scalar = 5.0
    """-log SNR at t = 1."""

    def __post_init__(self):
        _check_ends(self.low, self.high)

    def __call__(self, t: Time) -> Array:
        """Returns gamma(t); like t."""
        return self.low + (self.high - self.low) * as_time(t)

    def between(self, s: Array, t: Array) -> Array:
        """Returns gamma(t) - gamma(s); like t."""
        return (self.high - self.low) * (t - s)

    def inverse(self, gamma: Time) -> Array:
        """Returns the time at which gamma has this value; like it."""
        return (as_float(gamma) - self.low) / (self.high - self.low)


@pytree_dataclass()
class MonotoneGamma:
    """-log SNR rises between its ends as a monotone network does (Eq. 2), at first nearly linearly.

    Raises:
        ValueError: if an end is not finite, low >= high, or the weights are not those of Eq. 2.
    """

    low: Scalar = -13.3
    """-log SNR at t = 0."""
    high: Scalar = 5.0
    """-log SNR at t = 1."""
    weights: Any = None
    """{"a": (), "w", "b", "c": (hidden,)} of Eq. 2; None for `initial_weights()`."""

    def __post_init__(self):
        _check_ends(self.low, self.high)
        if self.weights is None:
            object.__setattr__(self, "weights", initial_weights())
        _check_weights(self.weights)

    def __call__(self, t: Time) -> Array:
        """Returns gamma(t); like t."""
        t = as_time(t)
        return self.low + self.between(jnp.zeros_like(t), t)

    def between(self, s: Array, t: Array) -> Array:
        """Returns gamma(t) - gamma(s); like t."""
        zero = jnp.zeros((), t.dtype)
        share = self._rise(s, t) / self._rise(zero, jnp.ones((), t.dtype))
        return (self.high - self.low) * share

    def _rise(self, s: Array, t: Array) -> Array:
        """Returns h(t) - h(s) of Eq. 2; like t."""
        a = jnp.asarray(self.weights["a"], t.dtype)
        per_unit = (1,) * t.ndim + (-1,)
        w, b, c = (jnp.asarray(self.weights[name], t.dtype).reshape(per_unit) for name in "wbc")
        linear = jnp.abs(a) * (t - s)
        slope = jnp.abs(w) * jnp.abs(a)
        start = b + slope * s[..., None]
        d = slope * (t - s)[..., None]
        steps = jax.nn.sigmoid(start + d) * jax.nn.sigmoid(-start) * -jnp.expm1(-d)  # Eq. 3
        return linear + jnp.sum(jnp.abs(c) * steps, axis=-1)


def initial_weights(hidden: int = 1024, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns weights of Eq. 2 whose sigmoids step at even times, so that their sum is nearly
    linear."""
    rng = np.random.default_rng(seed)
    w = rng.uniform(5.0, 50.0, hidden)
    centres = rng.permutation((np.arange(hidden) + 0.5) / hidden)
    weights = {"a": np.ones(()), "w": w, "b": -w * centres, "c": np.full(hidden, 1.0 / hidden)}
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _check_ends(low: Scalar, high: Scalar) -> None:
    checks.setting("low", low, "(-inf, inf)")
    checks.setting("high", high, "(-inf, inf)")
    if is_concrete(low, high) and not low < high:
        raise ValueError(
            f"low = {low} is not below high = {high}: gamma = -log SNR rises from data to noise. "
            f"Write low={high}, high={low}."
        )


def _check_weights(weights: Any) -> None:
    shapes = {name: np.shape(value) for name, value in dict(weights).items()}
    hidden = shapes.get("w", ())
    if shapes != {"a": (), "w": hidden, "b": hidden, "c": hidden} or len(hidden) != 1:
        raise ValueError(
            f"weights has shapes {shapes}: wanted a number a, and w, b and c of one length, as in "
            f"scoresde.sde.schedule.initial_weights(hidden=1024)."
        )
