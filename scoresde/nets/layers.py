"""Pieces both networks share: embeddings of time and label, the activation, zero-initialised outputs."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

zeros = nnx.initializers.zeros_init()


def sinusoidal_embedding(t: Float[Array, " batch"], dim: int, scale: float, max_period: float = 10_000.0) -> Array:
    """sin and cos of scale t at dim / 2 geometric frequencies 1 … 1 / max_period (Vaswani et al. 2017)."""
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(dim // 2) / (dim // 2 - 1))
    angles = scale * t[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def check_shape(x: Array, fits: bool, shape: tuple[int, ...], config: str) -> None:
    """x holds examples of the shape that the network was built for."""
    if not fits:
        raise ValueError(
            f"x holds examples of shape {x.shape[1:]}, the network was built for {shape}: write "
            f"{config}(...).build({x.shape[1:]}, rngs=...)."
        )


class TimeEmbedding(nnx.Module):
    """What modulates every block: sinusoids of t through two dense layers, plus an embedding of the label if any."""

    def __init__(self, dim: int, width: int, scale: float, num_classes: int | None, *, rngs: nnx.Rngs):
        self.dim, self.scale, self.num_classes = dim, scale, num_classes
        self.dense1 = nnx.Linear(dim, width, rngs=rngs)
        self.dense2 = nnx.Linear(width, width, rngs=rngs)
        # One row more than there are classes: the last one stands for "no label".
        self.label = None if num_classes is None else nnx.Embed(num_classes + 1, width, rngs=rngs)

    def __call__(self, t: Float[Array, " batch"], cond: Array | None) -> Float[Array, " batch width"]:
        h = self.dense2(jax.nn.silu(self.dense1(sinusoidal_embedding(t, self.dim, self.scale))))
        if self.label is None:
            if cond is not None:
                raise ValueError("a condition arrived at an unconditional network: build it with num_classes=...")
            return h
        label = jnp.full(t.shape, self.label.num_embeddings - 1) if cond is None else cond
        if label.shape != t.shape or not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(
                f"cond has shape {label.shape} and dtype {label.dtype}: wanted one integer label per example, "
                f"{t.shape}. One-hot rows: jnp.argmax(cond, axis=-1)."
            )
        return h + self.label(label)
