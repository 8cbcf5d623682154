"""How a network sees the time and the class: the vector that modulates each of its blocks.

    sinusoids   f(t) = [sin(w t), cos(w t)],  w_k = max_period^(-k / (dim/2 - 1))     (Eq. 1)
    embedding   e(t) = W2 silu(W1 f(scale t) + b1) + b2 + label[cond]                 (Eq. 2)

for k = 0 … dim/2 - 1. Eq. 1 is the position encoding of Vaswani et al. 2017 (arXiv:1706.03762),
with time in place of position.
"""

from __future__ import annotations

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde.nets.initializers import Keys
from scoresde.nets.layers import linear


class TimeEmbedding(nnx.Module):
    """The embedding of Eq. 2; the summand of the label is there if `num_classes` is given."""

    def __init__(
        self, dim: int, width: int, scale: float, num_classes: int | None, *, rngs: nnx.Rngs
    ):
        self.dim = dim
        self.scale = scale
        self.num_classes = num_classes

        self.dense1 = linear(dim, width, rngs=rngs)
        self.dense2 = linear(width, width, rngs=rngs)
        self.label = label_table(num_classes, width, rngs=rngs)

    def __call__(
        self, t: Float[Array, " batch"], cond: Array | None
    ) -> Float[Array, " batch width"]:
        features = sinusoidal_embedding(t, self.dim, self.scale)
        h = self.dense2(jax.nn.silu(self.dense1(features)))
        return add_label(h, self.label, cond)


def sinusoidal_embedding(
    t: Float[Array, " batch"], dim: int, scale: float, max_period: float = 10_000.0
) -> Float[Array, " batch dim"]:
    """Returns the sinusoids of `scale` t (Eq. 1)."""
    k = jnp.arange(dim // 2, dtype=t.dtype)
    frequencies = jnp.exp(-math.log(max_period) * k / (dim // 2 - 1))
    angles = scale * t[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def label_table(num_classes: int | None, width: int, *, rngs: nnx.Rngs | Keys) -> nnx.Embed | None:
    """Returns a table with a row per class and a last one for "no label"; None without classes."""
    if num_classes is None:
        return None
    return nnx.Embed(num_classes + 1, width, rngs=cast(Any, rngs))


def add_label(
    h: Float[Array, " batch width"], table: nnx.Embed | None, cond: Array | None
) -> Float[Array, " batch width"]:
    """Returns h plus the row of each example's label, or of "no label" if `cond` is None.

    Raises:
        ValueError: if an unconditional network (without a table) gets a condition, or if the
            condition is not one integer per example.
    """
    if table is None:
        if cond is not None:
            raise ValueError(
                "a condition arrived at an unconditional network: build it with num_classes=..., "
                "or leave the condition out (labels of images: Images(pixels), or "
                ".without_labels())."
            )
        return h

    no_label = table.num_embeddings - 1
    label = jnp.full(h.shape[:1], no_label) if cond is None else cond
    if label.shape != h.shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(
            f"cond has shape {label.shape} and dtype {label.dtype}: wanted one integer label per "
            f"example, {h.shape[:1]}. For one-hot rows write jnp.argmax(cond, axis=-1)."
        )
    return h + table(label).astype(h.dtype)
