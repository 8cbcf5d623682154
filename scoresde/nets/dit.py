"""A diffusion transformer: patches of an image as tokens, every block modulated by the time (Peebles & Xie 2023)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.nets.layers import (
    Keys,
    Precision,
    TimeEmbedding,
    check_choice,
    check_shape,
    compute_dtype,
    fan_average,
    linear,
    run_block,
    zeros,
)


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Settings of a `DiT` (arXiv:2212.09748); its DiT-S/2 has width 384, depth 12 and 6 heads."""

    patch: int = 2
    """Side of the square patches that become tokens."""
    width: int = 128
    """Channels of a token."""
    depth: int = 6
    """Blocks."""
    num_heads: int = 4
    """Attention heads."""
    expansion: int = 4
    """Hidden channels of a block's perceptron over `width`."""
    dropout: float = 0.0
    """Probability of dropping a hidden channel of a perceptron while training."""
    time_scale: float = 1000.0
    """Multiplies the time label before its sinusoidal embedding."""
    num_classes: int | None = None
    """Classes of a conditional network; its condition is one integer label per example."""
    dtype: Precision = "float32"
    """What layers compute in; parameters, norms' statistics and the output are float32 in both."""
    remat: bool = False
    """Keep nothing inside a block for the gradient, but compute it a second time."""

    def __post_init__(self):
        for name in ("patch", "width", "depth", "num_heads", "expansion"):
            checks.count(name, getattr(self, name))
        checks.setting("dropout", self.dropout, "[0, 1)")
        check_choice("dtype", self.dtype, Precision)
        if self.num_classes is not None:
            checks.count("num_classes", self.num_classes)
        if self.width % 4 or self.width < 8 or self.width % self.num_heads:
            raise ValueError(
                f"width = {self.width}: wanted a multiple of 4, at least 8, that divides into num_heads = "
                f"{self.num_heads} heads."
            )

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> DiT:
        """The network for images of this shape, (height, width, channels)."""
        net = DiT(self, shape, rngs=rngs)
        net.eval()  # no dropout; training switches it on for its own copy
        return net


class DiT(nnx.Module):
    """x (batch, height, width, c), t (batch,) → like x. The output starts at 0, every block at the identity.

    Raises:
        ValueError: if shape is not (height, width, channels), or its sides are not multiples of the patch's.
    """

    def __init__(self, config: DiTConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        if len(shape) != 3 or any(side % config.patch for side in shape[:2]):
            raise ValueError(
                f"shape is {shape}: a DiT takes images (height, width, channels) whose sides are multiples of patch = "
                f"{config.patch}. Write another patch, or UNetConfig() for any size."
            )
        self.config, self.shape, dtype, keys = (
            config,
            tuple(shape),
            compute_dtype(config.dtype),
            Keys(rngs),
        )
        entries = config.patch**2 * shape[-1]
        self.time = TimeEmbedding(
            config.width, config.width, config.time_scale, config.num_classes, rngs=rngs
        )
        self.input = linear(
            entries, config.width, kernel_init=fan_average(), dtype=dtype, rngs=keys
        )
        self.blocks = nnx.List([DiTBlock(config, rngs=keys) for _ in range(config.depth)])
        self.modulation = linear(config.width, 2 * config.width, kernel_init=zeros, rngs=keys)
        self.output = linear(config.width, entries, kernel_init=zeros, rngs=keys)  # in float32

    def __call__(
        self,
        x: Float[Array, " batch height width c"],
        t: Float[Array, " batch"],
        cond: Array | None = None,
    ) -> Float[Array, " batch height width c"]:
        check_shape(x, x.shape[1:] == self.shape, self.shape, "DiTConfig")
        embedding = jax.nn.silu(self.time(t, cond))
        tokens = patches(x, self.config.patch)
        rows, columns = (side // self.config.patch for side in self.shape[:2])
        places = positions(rows, columns, self.config.width)
        h = self.input(tokens) + jnp.asarray(places, x.dtype)
        h = h.astype(compute_dtype(self.config.dtype) or x.dtype)
        for block in self.blocks:
            h = run_block(block, h, embedding, remat=self.config.remat)
        shift, scale = jnp.split(self.modulation(embedding)[:, None], 2, axis=-1)
        tokens = self.output(modulate(h.astype(x.dtype), shift, scale))
        return image(tokens, self.config.patch, self.shape)


class DiTBlock(nnx.Module):
    """adaLN-Zero: h + g1 attention(m1(h)), then h + g2 perceptron(m2(h)).

    m(h) = (1 + scale) norm(h) + shift; scales, shifts and gates are linear in the embedding, and start at 0.
    """

    def __init__(self, config: DiTConfig, *, rngs: Keys):
        width, self.num_heads, dtype = config.width, config.num_heads, compute_dtype(config.dtype)
        self.modulation = linear(width, 6 * width, kernel_init=zeros, dtype=dtype, rngs=rngs)
        self.qkv = linear(width, 3 * width, kernel_init=fan_average(), dtype=dtype, rngs=rngs)
        self.attended = linear(width, width, kernel_init=fan_average(), dtype=dtype, rngs=rngs)
        self.dense1 = linear(
            width, config.expansion * width, kernel_init=fan_average(), dtype=dtype, rngs=rngs
        )
        self.dropout = rngs.dropout(config.dropout)
        self.dense2 = linear(
            config.expansion * width, width, kernel_init=fan_average(), dtype=dtype, rngs=rngs
        )

    def __call__(self, h: Array, embedding: Array) -> Array:
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(
            self.modulation(embedding)[:, None], 6, axis=-1
        )
        h = h + gate1 * self.attention(modulate(h, shift1, scale1))
        inner = jax.nn.gelu(self.dense1(modulate(h, shift2, scale2)))
        return h + gate2 * self.dense2(self.dropout(inner))

    def attention(
        self, h: Float[Array, " batch token width"]
    ) -> Float[Array, " batch token width"]:
        """W softmax(q k^T / √d) v over all tokens."""
        qkv = self.qkv(h).reshape(*h.shape[:2], 3, self.num_heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        return self.attended(jax.nn.dot_product_attention(q, k, v).reshape(h.shape))


def modulate(h: Array, shift: Array, scale: Array) -> Array:
    """(1 + scale) norm(h) + shift; the norm over channels, in float32, without weights of its own."""
    wide = h.astype(jnp.promote_types(h.dtype, jnp.float32))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
    return normed.astype(h.dtype) * (1.0 + scale) + shift


def patches(
    x: Float[Array, " batch height width c"], patch: int
) -> Float[Array, " batch token entries"]:
    """Non-overlapping squares as rows, in reading order."""
    n, height, width, c = x.shape
    x = x.reshape(n, height // patch, patch, width // patch, patch, c).swapaxes(2, 3)
    return x.reshape(n, -1, patch * patch * c)


def image(
    tokens: Float[Array, " batch token entries"], patch: int, shape: tuple[int, ...]
) -> Array:
    """What `patches` took apart."""
    height, width, c = shape
    x = tokens.reshape(-1, height // patch, width // patch, patch, patch, c).swapaxes(2, 3)
    return x.reshape(-1, height, width, c)


def positions(rows: int, columns: int, width: int) -> np.ndarray:
    """(rows columns, width): sin and cos of row and column at the frequencies 10000^(-4 k / width)."""
    frequencies = np.exp(-math.log(10_000.0) * np.arange(width // 4) / (width // 4))
    row, column = (np.ravel(grid)[:, None] * frequencies for grid in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)], axis=-1)
