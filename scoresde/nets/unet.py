"""A U-Net for signals, images and volumes of any size, after Ho et al. 2020 (arXiv:2006.11239).

    block       h ← skip(h) + conv2(drop(silu(norm2(conv1(silu(norm1(h))) + W e))))     (Eq. 1)
    attention   h ← h + W softmax(q k^T / √d) v,   q, k, v = W_q n, W_k n, W_v n        (Eq. 2)
                n = norm(h)
    Fourier     x ← [x, sin(2^n pi x), cos(2^n pi x)] for each n asked for              (Eq. 3)

e is silu of the embedding of the time and the condition (nets/embeddings.py, Eq. 2). Blocks lead
down through the levels, each at half the resolution of the one before, and up again. On the way up,
each block also sees the features that the way down had at its place.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.nets.base import Network
from scoresde.nets.conditions import check_settings
from scoresde.nets.embeddings import TimeEmbedding
from scoresde.nets.initializers import zeros
from scoresde.nets.layers import conv, dot_product_attention, group_norm, linear
from scoresde.types import Classes, Cond


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Settings of a `UNet` (Ho et al. 2020, arXiv:2006.11239, App. B, small)."""

    channels: int = 32
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level, in units of `channels`; each level halves the resolution."""
    num_blocks: int = 2
    """Residual blocks per level on the way down; the way up has one more."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels with self-attention after each block; the middle always has it."""
    num_heads: int = 2
    """Attention heads."""
    dropout: float = 0.1
    """Probability of dropping a unit while training."""
    time_scale: float = 1000.0
    """Multiplies the time label before its sinusoidal embedding."""
    fourier_features: tuple[int, ...] = ()
    """Exponents n: the network also sees sin and cos of 2^n pi x (Eq. 3), in which fine detail is
    large: 7 and 8 for 8 bits in [-1, 1] (Kingma et al. 2021), 3 and 4 for 16 levels. `sd.EDM(0.5)`
    shows the network twice the data at low noise, so there they are one less."""
    num_classes: Classes = None
    """Classes of a network that is conditioned on a label per example, or on several."""
    cond_dim: int | None = None
    """Entries of the vector that conditions the network, in all of its leaves together."""

    def __post_init__(self):
        checks.count("channels", self.channels, 4)
        checks.count("num_blocks", self.num_blocks, at_most=checks.MOST_BLOCKS)
        checks.count("num_heads", self.num_heads)
        checks.setting("dropout", self.dropout, "[0, 1)")
        _check_exponents(self.fourier_features)
        check_settings(self)

        # The group norms want multiples of 4 channels, attention an equal share for each head.
        if self.channels % 4:
            raise ValueError(f"channels = {self.channels}: wanted a multiple of 4.")
        if not self.multipliers:
            raise ValueError(
                "multipliers are empty: write one whole number per level, e.g. (1, 2)."
            )
        checks.count("the number of multipliers", len(self.multipliers), at_most=32)
        for level, multiplier in enumerate(self.multipliers):
            checks.count(f"multipliers[{level}]", multiplier)
            channels = self.channels * multiplier
            if channels % self.num_heads:
                raise ValueError(
                    f"{channels} channels of level {level} do not divide into num_heads = "
                    f"{self.num_heads} heads: write a divisor of {channels}."
                )

        levels = range(len(self.multipliers))
        if any(level not in levels for level in self.attention_levels):
            raise ValueError(
                f"attention_levels = {self.attention_levels}: with {len(levels)} multipliers, "
                f"levels are 0 … {len(levels) - 1}."
            )

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> UNet:
        """Returns the network for examples of this shape.

        A shape is (length, c) for signals, (height, width, c) for images, or (depth, height, width,
        c) for volumes.
        """
        net = UNet(self, shape, rngs=rngs)
        net.eval()  # no dropout; training switches it on for its own copy
        return net


def _check_exponents(exponents: Any) -> None:
    """Refuses what is not a tuple of small whole numbers."""
    whole = isinstance(exponents, tuple) and all(type(n) is int for n in exponents)
    if not whole or any(not -10 <= n <= 20 for n in exponents):
        raise ValueError(
            f"fourier_features = {exponents!r}: wanted a tuple of whole numbers n, of sin(2^n pi "
            f"x), such as (7, 8) for 8 bits or (3, 4) for 16 levels."
        )


class UNet(Network):
    """The U-Net: x (batch, *space, c), t (batch,), a condition or None → like x.

    It takes one to three dimensions of any size, odd sizes included. The output is zero at first.

    Raises:
        ValueError: if shape is not (length, c), (height, width, c) or (depth, height, width, c).
    """

    def __init__(self, config: UNetConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        if len(shape) not in (2, 3, 4):
            raise ValueError(
                f"shape is {shape}: a U-Net takes signals (length, channels), images (height, "
                f"width, channels) or volumes (depth, height, width, channels). For vectors write "
                f"MLPConfig()."
            )
        self.config = config
        self.shape = tuple(shape)

        dims = len(shape) - 1
        base = config.channels
        width = 4 * base  # of the embedding
        self.time = TimeEmbedding(
            base,
            width,
            config.time_scale,
            config.num_classes,
            config.cond_dim,
            rngs=rngs,
        )
        seen = shape[-1] * (1 + 2 * len(config.fourier_features))
        self.input = conv(seen, base, dims, rngs=rngs)

        downs, skips = way_down(config, dims, rngs)
        deepest = skips[-1]
        self.middle1 = Block(deepest, deepest, width, config, True, dims, rngs=rngs)
        self.middle2 = Block(deepest, deepest, width, config, False, dims, rngs=rngs)
        ups = _way_up(config, dims, skips, rngs)
        self.downs = nnx.List(downs)
        self.ups = nnx.List(ups)

        channels = base * config.multipliers[0]
        self.norm = group_norm(channels, rngs=rngs)
        self.output = conv(channels, shape[-1], dims, kernel_init=zeros, rngs=rngs)

    def accepts(self, x: Any) -> bool:
        """Returns whether x has as many dimensions and channels as the network was built for."""
        return x.ndim == len(self.shape) + 1 and x.shape[-1] == self.shape[-1]

    def __call__(
        self,
        x: Float[Array, " batch *space c"],
        t: Float[Array, " batch"],
        cond: Cond = None,
    ) -> Float[Array, " batch *space c"]:
        self.check_input(x)
        embedding = jax.nn.silu(self.time(t, cond))

        # Down: keep what every layer gives for the way up.
        h = self.input(with_fourier_features(x, self.config.fourier_features))
        skips = [h]
        for layer in self.downs:
            h = layer(h, embedding) if isinstance(layer, Block) else layer(h)
            skips.append(h)

        # Middle
        h = self.middle1(h, embedding)
        h = self.middle2(h, embedding)

        # Up
        for layer in self.ups:
            if isinstance(layer, Block):
                h = layer(jnp.concatenate([h, skips.pop()], axis=-1), embedding)
            else:
                h = layer(upsample(h, skips[-1].shape[1:-1]))

        return self.output(jax.nn.silu(self.norm(h)))


def way_down(config: UNetConfig, dims: int, rngs: nnx.Rngs) -> tuple[list[nnx.Module], list[int]]:
    """Returns the layers of the way down, and the channels of its input and of each layer."""
    width = 4 * config.channels
    last = len(config.multipliers) - 1

    layers: list[nnx.Module] = []
    skips = [config.channels]
    for level, multiplier in enumerate(config.multipliers):
        channels = config.channels * multiplier
        attend = level in config.attention_levels
        for _ in range(config.num_blocks):
            layers.append(Block(skips[-1], channels, width, config, attend, dims, rngs=rngs))
            skips.append(channels)
        if level < last:
            layers.append(conv(channels, channels, dims, strides=2, rngs=rngs))
            skips.append(channels)
    return layers, skips


def _way_up(config: UNetConfig, dims: int, skips: list[int], rngs: nnx.Rngs) -> list[nnx.Module]:
    """Returns the layers of the way up, whose blocks also see the features of the way down."""
    width = 4 * config.channels
    skips = list(skips)

    layers: list[nnx.Module] = []
    c_in = skips[-1]
    for level, multiplier in reversed(list(enumerate(config.multipliers))):
        channels = config.channels * multiplier
        attend = level in config.attention_levels
        for _ in range(config.num_blocks + 1):
            both = c_in + skips.pop()
            layers.append(Block(both, channels, width, config, attend, dims, rngs=rngs))
            c_in = channels
        if level > 0:
            layers.append(conv(channels, channels, dims, rngs=rngs))
    return layers


class Block(nnx.Module):
    """A residual block (Eq. 1); attention follows if `attend` is set."""

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
        space = range(1, h.ndim - 1)
        shift = jnp.expand_dims(self.time(embedding), space)  # (batch, c) → (batch, 1, ..., c)

        inner = self.conv1(jax.nn.silu(self.norm1(h))) + shift
        inner = self.conv2(self.dropout(jax.nn.silu(self.norm2(inner))))

        h = inner + (h if self.skip is None else self.skip(h))
        return h if self.attention is None else self.attention(h)


class Attention(nnx.Module):
    """Self-attention over all positions (Eq. 2; Vaswani et al. 2017)."""

    def __init__(self, channels: int, num_heads: int, *, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.norm = group_norm(channels, rngs=rngs)
        self.qkv = linear(channels, 3 * channels, rngs=rngs)
        self.output = linear(channels, channels, kernel_init=zeros, rngs=rngs)

    def __call__(self, h: Array) -> Array:
        positions = math.prod(h.shape[1:-1])
        qkv = self.qkv(self.norm(h)).reshape(len(h), positions, 3, self.num_heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)

        out = dot_product_attention(q, k, v).reshape(h.shape)
        return h + self.output(out)


def with_fourier_features(
    x: Float[Array, " batch *space c"], exponents: tuple[int, ...]
) -> Float[Array, " batch *space more"]:
    """Returns x with sin and cos of 2^n pi x for each exponent n, as further channels (Eq. 3)."""
    angles = [2.0**n * math.pi * x for n in exponents]
    features = [wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate([x, *features], axis=-1) if features else x


def upsample(
    h: Float[Array, " batch *space c"], size: tuple[int, ...]
) -> Float[Array, " batch *size c"]:
    """Returns h at twice the resolution by nearest neighbours, cut to `size`.

    `size` is that of the features which the result is joined to; where it is odd, the last entry
    is cut.
    """
    for axis, n in enumerate(size, start=1):
        h = jax.lax.slice_in_dim(jnp.repeat(h, 2, axis=axis), 0, n, axis=axis)
    return h
