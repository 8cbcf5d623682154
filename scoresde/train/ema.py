"""Exponential moving average of the parameters, with warm-up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree


def ema_decay(rate: float, step: Array) -> Array:
    """min(rate, (1 + n) / (10 + n)) at update n = 0, 1, …

    Without the warm-up 1500 steps at .999 would still hold 22 % of the initial weights.
    """
    n = step.astype(jnp.float32)
    return jnp.minimum(rate, (1.0 + n) / (10.0 + n))


def ema_update(ema: PyTree[Array], params: PyTree[Array], decay: Array) -> PyTree[Array]:
    """ema + (1 - decay) (params - ema)."""
    return jax.tree.map(lambda e, p: e + (1.0 - decay).astype(e.dtype) * (p - e), ema, params)
