"""Exponential moving average (EMA) of the parameters theta, with warm-up.

    d_n   = min(rate, (1 + n) / (10 + n))                   (1)
    ema  <- ema + (1 - d_n) (theta - ema)                   (2)

n = 0, 1, … is the training step. Without the warm-up of Eq. 1, an average with rate 0.999 would
still hold 22 % of the initial weights after 1500 steps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree


def ema_decay(rate: float, step: Array) -> Array:
    """Returns the decay d_n of step n (Eq. 1), a scalar."""
    n = step.astype(jnp.float32)
    return jnp.minimum(rate, (1.0 + n) / (10.0 + n))


def ema_update(ema: PyTree[Array], params: PyTree[Array], decay: Array) -> PyTree[Array]:
    """Returns the average after one update (Eq. 2), leaf by leaf, in the dtype of each leaf."""

    def update(average: Array, value: Array) -> Array:
        return average + (1.0 - decay).astype(average.dtype) * (value - average)

    return jax.tree.map(update, ema, params)
