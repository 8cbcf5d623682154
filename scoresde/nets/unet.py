"""A U-Net for signals, images and volumes of any size: residual blocks with time embedding, attention at depth."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.nets.convolution import channel_last_conv
from scoresde.nets.layers import Keys, TimeEmbedding, check_shape, lecun_normal, linear, zeros


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Settings of a `UNet` (Ho et al. 2020, arXiv:2006.11239, App. B, small)."""

    channels: int = 32
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level over `channels`; each level halves the resolution."""
    num_blocks: int = 2
    """Residual blocks a level, on the way down."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels with self-attention after each block; the middle always has it."""
    num_heads: int = 2
    """Attention heads."""
    dropout: float = 0.1
    """Probability of dropping a unit while training."""
    time_scale: float = 1000.0
    """Multiplies the time label before its sinusoidal embedding."""
    num_classes: int | None = None
    """Classes of a conditional network; its condition is one integer label per example."""

    def __post_init__(self):
        checks.count("channels", self.channels, 4)
        checks.count("num_blocks", self.num_blocks)
        checks.count("num_heads", self.num_heads)
        checks.setting("dropout", self.dropout, "[0, 1)")
        if self.num_classes is not None:
            checks.count("num_classes", self.num_classes)
        if not self.multipliers or self.channels % 4:
            raise ValueError(
                f"channels = {self.channels} is not a multiple of 4, or multipliers are empty."
            )
        for level, multiplier in enumerate(self.multipliers):
            checks.count(f"multipliers[{level}]", multiplier)
            if (self.channels * multiplier) % self.num_heads:
                raise ValueError(
                    f"{self.channels * multiplier} channels do not divide into {self.num_heads} heads."
                )
        if any(level not in range(len(self.multipliers)) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels = {self.attention_levels}: levels are 0 … {len(self.multipliers) - 1}."
            )

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> UNet:
        """The network for examples of this shape: (length, c), (height, width, c) or (depth, height, width, c)."""
        net = UNet(self, shape, rngs=rngs)
        net.eval()  # no dropout; training switches it on for its own copy
        return net


class UNet(nnx.Module):
    """x (batch, *space, c), t (batch,) → like x; one to three dimensions of any size, odd ones too. Output starts at 0.

    Raises:
        ValueError: if shape is not (length, c), (height, width, c) or (depth, height, width, c).
    """

    def __init__(self, config: UNetConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        if len(shape) not in (2, 3, 4):
            raise ValueError(
                f"shape is {shape}: a U-Net takes signals (length, channels), images (height, width, channels) or "
                f"volumes (depth, height, width, channels). Vectors: MLPConfig()."
            )
        self.config, self.shape, dims = config, tuple(shape), len(shape) - 1
        base, width = config.channels, 4 * config.channels
        self.time = TimeEmbedding(base, width, config.time_scale, config.num_classes, rngs=rngs)
        self.input = conv(shape[-1], base, dims, rngs=rngs)

        channels, skips = base, [base]
        downs, ups = [], []
        last = len(config.multipliers) - 1
        for level, multiplier in enumerate(config.multipliers):
            attend = level in config.attention_levels
            for _ in range(config.num_blocks):
                downs.append(
                    Block(channels, base * multiplier, width, config, attend, dims, rngs=rngs)
                )
                channels = base * multiplier
                skips.append(channels)
            if level < last:
                downs.append(conv(channels, channels, dims, strides=2, rngs=rngs))
                skips.append(channels)
        self.middle1 = Block(channels, channels, width, config, True, dims, rngs=rngs)
        self.middle2 = Block(channels, channels, width, config, False, dims, rngs=rngs)
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            attend = level in config.attention_levels
            for _ in range(config.num_blocks + 1):
                ups.append(
                    Block(
                        channels + skips.pop(),
                        base * multiplier,
                        width,
                        config,
                        attend,
                        dims,
                        rngs=rngs,
                    )
                )
                channels = base * multiplier
            if level > 0:
                ups.append(conv(channels, channels, dims, rngs=rngs))
        self.downs, self.ups = nnx.List(downs), nnx.List(ups)
        self.norm = group_norm(channels, rngs=rngs)
        self.output = conv(channels, shape[-1], dims, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, " batch *space c"],
        t: Float[Array, " batch"],
        cond: Array | None = None,
    ) -> Float[Array, " batch *space c"]:
        fits = x.ndim == len(self.shape) + 1 and x.shape[-1] == self.shape[-1]
        check_shape(x, fits, self.shape, "UNetConfig")
        embedding = jax.nn.silu(self.time(t, cond))
        h = self.input(x)
        skips = [h]
        for layer in self.downs:
            h = layer(h, embedding) if isinstance(layer, Block) else layer(h)
            skips.append(h)
        h = self.middle2(self.middle1(h, embedding), embedding)
        for layer in self.ups:
            if isinstance(layer, Block):
                h = layer(jnp.concatenate([h, skips.pop()], axis=-1), embedding)
            else:
                h = layer(upsample(h, skips[-1].shape[1:-1]))
        return self.output(jax.nn.silu(self.norm(h)))


class Block(nnx.Module):
    """skip(h) + conv2(drop(silu(norm(conv1(silu(norm(h))) + W embedding)))), then attention if asked for."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        width: int,
        config: UNetConfig,
        attend: bool,
        dims: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.norm1 = group_norm(c_in, rngs=rngs)
        self.conv1 = conv(c_in, c_out, dims, rngs=rngs)
        self.time = linear(width, c_out, rngs=rngs)
        self.norm2 = group_norm(c_out, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.conv2 = conv(c_out, c_out, dims, kernel_init=zeros, rngs=rngs)
        self.skip = None if c_in == c_out else linear(c_in, c_out, rngs=rngs)
        self.attention = Attention(c_out, config.num_heads, rngs=rngs) if attend else None

    def __call__(self, h: Array, embedding: Array) -> Array:
        shift = jnp.expand_dims(
            self.time(embedding), range(1, h.ndim - 1)
        )  # (batch, c) → (batch, 1, ..., c)
        inner = self.conv1(jax.nn.silu(self.norm1(h))) + shift
        inner = self.conv2(self.dropout(jax.nn.silu(self.norm2(inner))))
        h = inner + (h if self.skip is None else self.skip(h))
        return h if self.attention is None else self.attention(h)


class Attention(nnx.Module):
    """h + W softmax(q k^T / sqrt(d)) v over all positions (Vaswani et al. 2017)."""

    def __init__(self, channels: int, num_heads: int, *, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.norm = group_norm(channels, rngs=rngs)
        self.qkv = linear(channels, 3 * channels, rngs=rngs)
        self.output = linear(channels, channels, kernel_init=zeros, rngs=rngs)

    def __call__(self, h: Array) -> Array:
        positions = math.prod(h.shape[1:-1])
        qkv = self.qkv(self.norm(h)).reshape(len(h), positions, 3, self.num_heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        out = jax.nn.dot_product_attention(q, k, v).reshape(h.shape)
        return h + self.output(out)


def conv(
    c_in: int, c_out: int, dims: int, *, kernel_init=lecun_normal, rngs: nnx.Rngs | Keys, **options
) -> nnx.Conv:
    """A convolution 3 wide in each dimension, zero outside; without strides it keeps the size."""
    return nnx.Conv(
        c_in,
        c_out,
        (3,) * dims,
        kernel_init=kernel_init,
        conv_general_dilated=channel_last_conv,
        rngs=cast(Any, rngs),
        **options,
    )


def group_norm(channels: int, least: int = 4, *, rngs: nnx.Rngs | Keys, **options) -> nnx.GroupNorm:
    """Group norm with groups of at least `least` channels, at most 32 groups."""
    groups = next(n for n in range(max(1, min(channels // least, 32)), 0, -1) if channels % n == 0)
    return nnx.GroupNorm(channels, num_groups=groups, rngs=cast(Any, rngs), **options)


def upsample(
    h: Float[Array, " batch *space c"], size: tuple[int, ...]
) -> Float[Array, " batch *size c"]:
    """Nearest neighbour ×2, cut to the size of the skip it meets: an odd size loses the last of a dimension."""
    for axis, n in enumerate(size, start=1):
        h = jax.lax.slice_in_dim(jnp.repeat(h, 2, axis=axis), 0, n, axis=axis)
    return h
