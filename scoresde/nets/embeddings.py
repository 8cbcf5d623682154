"""How a network sees the time and its condition: the vector that modulates each of its blocks.

    sinusoids   f(t) = [sin(w t), cos(w t)],  w_k = max_period^(-k / (dim/2 - 1))     (Eq. 1)
    embedding   e(t) = W2 silu(W1 f(scale t) + b1) + b2 + c(cond)                     (Eq. 2)

for k = 0 … dim/2 - 1; c embeds labels and vectors (conditions.py). Eq. 1 is the position encoding
of Vaswani et al. 2017 (arXiv:1706.03762), with time in place of position.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde.nets.conditions import add_condition, label_tables, vector_embedding
from scoresde.nets.layers import linear
from scoresde.types import Classes, Cond


class TimeEmbedding(nnx.Module):
    """The embedding of Eq. 2; the summand c is there where the network has a condition."""

    def __init__(
        self,
        dim: int,
        width: int,
        scale: float,
        num_classes: Classes = None,
        cond_dim: int | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        self.dim = dim
        self.scale = scale

        self.dense1 = linear(dim, width, rngs=rngs)
        self.dense2 = linear(width, width, rngs=rngs)
        self.label = label_tables(num_classes, width, rngs=rngs)
        self.vector = vector_embedding(cond_dim, width, rngs=rngs)

    def __call__(self, t: Float[Array, " batch"], cond: Cond) -> Float[Array, " batch width"]:
        features = sinusoidal_embedding(t, self.dim, self.scale)
        h = self.dense2(jax.nn.silu(self.dense1(features)))
        return add_condition(h, self.label, self.vector, cond)


def sinusoidal_embedding(
    t: Float[Array, " batch"], dim: int, scale: float, max_period: float = 10_000.0
) -> Float[Array, " batch dim"]:
    """Returns the sinusoids of `scale` t (Eq. 1)."""
    k = jnp.arange(dim // 2, dtype=t.dtype)
    frequencies = jnp.exp(-math.log(max_period) * k / (dim // 2 - 1))
    angles = scale * t[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
