"""A diffusion transformer; Peebles & Xie 2023 (arXiv:2212.09748), DiT with adaLN-Zero blocks.

    tokens     h = W patches(x) + b + positions                        (Eq. 1)
    modulate   m(h, shift, scale) = (1 + scale) norm(h) + shift        (Eq. 2)
    block      h ← h + gate1 attention(m(h, shift1, scale1)),          (Eq. 3)
               h ← h + gate2 mlp(m(h, shift2, scale2)),   mlp(h) = W2 drop(gelu(W1 h))
    attention  W softmax(q k^T / √d) v                                 (Eq. 4)
    output     image(W m(h, shift, scale) + b),   W = 0 at the start   (Eq. 5)

Shifts, scales and gates are linear in e, silu of the embedding of the time and the condition. They
are zero at the start, where each block is therefore the identity.
"""

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
from scoresde.nets.base import Network, check_image
from scoresde.nets.conditions import check_settings
from scoresde.nets.embeddings import TimeEmbedding
from scoresde.nets.initializers import Keys, fan_average, zeros
from scoresde.nets.layers import (
    Precision,
    check_choice,
    compute_dtype,
    dot_product_attention,
    linear,
    run_block,
)
from scoresde.types import Classes, Cond, wider


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
    """Hidden channels of a block's perceptron, in units of `width`."""
    dropout: float = 0.0
    """Probability of dropping a hidden channel of a perceptron while training."""
    time_scale: float = 1000.0
    """Multiplies the time label before its sinusoidal embedding."""
    num_classes: Classes = None
    """Classes of a network that is conditioned on a label per example, or on several."""
    cond_dim: int | None = None
    """Entries of the vector that conditions the network, in all of its leaves together."""
    dtype: Precision = "float32"
    """The type that layers compute in; parameters, norm statistics and the output stay float32."""
    remat: bool = False
    """Recompute the inside of each block for the gradient: less memory, more time."""

    def __post_init__(self):
        for name in ("patch", "width", "depth", "num_heads", "expansion"):
            checks.count(name, getattr(self, name))
        checks.count("depth", self.depth, at_most=checks.MOST_BLOCKS)
        checks.setting("dropout", self.dropout, "[0, 1)")
        check_choice("dtype", self.dtype, Precision)
        check_settings(self)

        # Positions are sines and cosines of rows and columns: four entries per frequency.
        if self.width % 4 or self.width < 8 or self.width % self.num_heads:
            raise ValueError(
                f"width = {self.width}: wanted a multiple of 4, at least 8, that divides into "
                f"num_heads = {self.num_heads} heads."
            )

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> DiT:
        """Returns the network for images of this shape, (height, width, channels)."""
        net = DiT(self, shape, rngs=rngs)
        net.eval()  # no dropout; training switches it on for its own copy
        return net


class DiT(Network):
    """The transformer: x (batch, height, width, c), t (batch,), a condition or None → like x.

    The output is zero at the start.

    Raises:
        ValueError: if shape is not (height, width, channels), or a side is no multiple of `patch`.
    """

    def __init__(self, config: DiTConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        advice = f"Write another patch than {config.patch}, or UNetConfig() for any size."
        check_image("a DiT", "DiTConfig", shape, config.patch, advice, "patch = ")
        self.config = config
        self.shape = tuple(shape)

        width = config.width
        entries = config.patch**2 * shape[-1]  # of a patch
        dtype = compute_dtype(config.dtype)
        keys = Keys(rngs)

        self.time = TimeEmbedding(
            width,
            width,
            config.time_scale,
            config.num_classes,
            config.cond_dim,
            rngs=rngs,
        )
        self.input = linear(entries, width, kernel_init=fan_average(), dtype=dtype, rngs=keys)
        self.blocks = nnx.List([DiTBlock(config, rngs=keys) for _ in range(config.depth)])

        # The last layer computes in float32.
        self.modulation = linear(width, 2 * width, kernel_init=zeros, rngs=keys)
        self.output = linear(width, entries, kernel_init=zeros, rngs=keys)

    def __call__(
        self,
        x: Float[Array, " batch height width c"],
        t: Float[Array, " batch"],
        cond: Cond = None,
    ) -> Float[Array, " batch height width c"]:
        self.check_input(x)
        config = self.config
        height, width, _ = self.shape
        embedding = jax.nn.silu(self.time(t, cond))

        # Tokens (Eq. 1)
        places = positions(height // config.patch, width // config.patch, config.width)
        h = self.input(patches(x, config.patch)).astype(x.dtype)
        h = h + jnp.asarray(places, x.dtype)[None]
        h = h.astype(compute_dtype(config.dtype) or x.dtype)

        # Blocks
        for block in self.blocks:
            h = run_block(block, h, embedding, remat=config.remat)

        # Output (Eq. 5)
        shift, scale = jnp.split(self.modulation(embedding)[:, None], 2, axis=-1)
        tokens = self.output(modulate(h.astype(x.dtype), shift, scale))
        return image(tokens, config.patch, self.shape)


class DiTBlock(nnx.Module):
    """A block of the transformer, adaLN-Zero (Eq. 3; Fig. 3 of the paper)."""

    def __init__(self, config: DiTConfig, *, rngs: Keys):
        self.num_heads = config.num_heads
        width = config.width
        hidden = config.expansion * width
        dtype = compute_dtype(config.dtype)
        start = fan_average()

        self.modulation = linear(width, 6 * width, kernel_init=zeros, dtype=dtype, rngs=rngs)
        self.qkv = linear(width, 3 * width, kernel_init=start, dtype=dtype, rngs=rngs)
        self.attended = linear(width, width, kernel_init=start, dtype=dtype, rngs=rngs)
        self.dense1 = linear(width, hidden, kernel_init=start, dtype=dtype, rngs=rngs)
        self.dropout = rngs.dropout(config.dropout)
        self.dense2 = linear(hidden, width, kernel_init=start, dtype=dtype, rngs=rngs)

    def __call__(
        self, h: Float[Array, " batch token width"], embedding: Float[Array, " batch width"]
    ) -> Float[Array, " batch token width"]:
        modulation = self.modulation(embedding)[
            :, None
        ]  # (batch, 1, 6 width): the same for all tokens
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)

        h = h + gate1 * self.attention(modulate(h, shift1, scale1))
        return h + gate2 * self.mlp(modulate(h, shift2, scale2))

    def attention(
        self, h: Float[Array, " batch token width"]
    ) -> Float[Array, " batch token width"]:
        """Returns self-attention over all tokens (Eq. 4)."""
        qkv = self.qkv(h).reshape(*h.shape[:2], 3, self.num_heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        return self.attended(dot_product_attention(q, k, v).reshape(h.shape))

    def mlp(self, h: Float[Array, " batch token width"]) -> Float[Array, " batch token width"]:
        """Returns the perceptron of each token (Eq. 3)."""
        inner = jax.nn.gelu(self.dense1(h))
        return self.dense2(self.dropout(inner))


def modulate(h: Array, shift: Array, scale: Array) -> Array:
    """Returns h normalised over its channels, scaled and shifted (Eq. 2).

    The norm has no weights, and its statistics are at least float32.
    """
    wide = h.astype(wider(h.dtype, jnp.float32))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + 1e-6)
    return normed.astype(h.dtype) * (1.0 + scale) + shift


def patches(
    x: Float[Array, " batch height width c"], patch: int
) -> Float[Array, " batch token entries"]:
    """Returns non-overlapping squares of side `patch` as rows, in reading order."""
    n, height, width, c = x.shape
    x = x.reshape(n, height // patch, patch, width // patch, patch, c).swapaxes(2, 3)
    return x.reshape(n, -1, patch * patch * c)


def image(
    tokens: Float[Array, " batch token entries"], patch: int, shape: tuple[int, ...]
) -> Float[Array, " batch height width c"]:
    """Returns the images whose `patches` are the tokens."""
    height, width, c = shape
    x = tokens.reshape(-1, height // patch, width // patch, patch, patch, c).swapaxes(2, 3)
    return x.reshape(-1, height, width, c)


def positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Returns the tokens' positions, (rows columns, width).

    They are sines and cosines of row and column, at the frequencies 10000^(-4 k / width) for
    k = 0 … width / 4 - 1.
    """
    frequencies = np.exp(-math.log(10_000.0) * np.arange(width // 4) / (width // 4))
    row, column = np.mgrid[:rows, :columns]
    row_angles = np.ravel(row)[:, None] * frequencies
    column_angles = np.ravel(column)[:, None] * frequencies
    return np.concatenate(
        [np.sin(row_angles), np.cos(row_angles), np.sin(column_angles), np.cos(column_angles)],
        axis=-1,
    )
