"""Pieces both networks share: initialisers, embeddings of time and label, checks."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

zeros = nnx.initializers.zeros_init()


def lecun_normal(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """N(0, 1 / fan_in) cut at two standard deviations, as `nnx.initializers.lecun_normal()`, but soon compiled.

    XLA needs 0.1 s and more for a draw of each new size, and a network has dozens: here sizes are 2^16, 2^17, ...
    """
    return _leaf(_cut_normal(key, max(2**16, 1 << (math.prod(shape) - 1).bit_length()), dtype), tuple(shape))


@partial(jax.jit, static_argnums=(1, 2))
def _cut_normal(key: Array, count: int, dtype) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, (count,), dtype) / 0.87962566103423978  # now of std 1


@partial(jax.jit, static_argnums=1)
def _leaf(draws: Array, shape: tuple[int, ...]) -> Array:
    return draws[: math.prod(shape)].reshape(shape) / math.sqrt(math.prod(shape[:-1]))


def linear(n_in: int, n_out: int, *, kernel_init=lecun_normal, rngs: nnx.Rngs) -> nnx.Linear:
    """W h + b."""
    return nnx.Linear(n_in, n_out, kernel_init=kernel_init, rngs=rngs)


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
        self.dense1 = linear(dim, width, rngs=rngs)
        self.dense2 = linear(width, width, rngs=rngs)
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
