"""The U-Net of the papers, for images: NCSN++, DDPM++ (Song et al. 2021, App. H) and DDPM (Ho et al. 2020, App. B).

One network, whose settings are what the papers compare: `NCSNppConfig.ncsnpp()`, `.ddpmpp()`, `.ddpm()` and the deep
ones. Layer by layer it computes what the authors' Flax release does, which `scoresde import-checkpoint` relies on.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.nets.layers import (
    Keys,
    Precision,
    add_label,
    check_choice,
    check_shape,
    compute_dtype,
    fan_average,
    label_table,
    linear,
    run_block,
    sinusoidal_embedding,
)
from scoresde.nets.resample import Resample, resample
from scoresde.nets.unet import conv, group_norm
from scoresde.types import right_pad

Path = Literal["none", "skip", "residual"]
NEARLY_ZERO = 1e-10
"""Scale of the weights that the papers start at nearly zero: the last ones of every branch and of the network."""


@dataclasses.dataclass(frozen=True)
class NCSNppConfig:
    """Settings of an `NCSNpp`; by default NCSN++ at CIFAR-10's size.

    It takes what the label of the parameterisation gives:

        NCSNppConfig.ncsnpp()    ScoreModel(VE(), net, Score(label=Sigma()))            sees sigma, gives the score
        NCSNppConfig.ddpmpp()    ScoreModel(VP(), net, Noise(label=Scaled(999.0)))      sees 999 t, gives the noise
        NCSNppConfig.ddpm()      as DDPM++

    Images lie in [-1, 1] unless `centered` is off.
    """

    channels: int = 128
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level over `channels`; each level halves the resolution."""
    num_blocks: int = 4
    """Residual blocks a level, on the way down."""
    attention: tuple[int, ...] = (16,)
    """Heights with self-attention: after each block on the way down, once on the way up; the middle always has it."""
    block: Literal["biggan", "plain"] = "biggan"
    """Residual blocks that also resample (BigGAN's), or plain ones with convolutions in between that do."""
    fir: bool = True
    """Resample by the filter [1, 3, 3, 1], or by nearest neighbours and means."""
    input_path: Path = "residual"
    """How the image itself enters at every level: not, added to the features, or as a residual path of its own."""
    output_path: Path = "none"
    """How every level reaches the output: not, as a summand of the image, or by a residual path of its own."""
    embedding: Literal["fourier", "positional"] = "fourier"
    """The label through random frequencies of its logarithm, or through the sinusoids of Vaswani et al. 2017."""
    fourier_scale: float = 16.0
    """Standard deviation of those frequencies."""
    scale_by_sigma: bool = True
    """Divide the output by the label, which is sigma: it is the score."""
    rescale: bool = True
    """Multiply each sum of a residual and its skip by 1/√2."""
    group_size: int = 4
    """Least channels of a group of the group norm, which has at most 32 groups."""
    dropout: float = 0.1
    """Probability of dropping a unit while training."""
    centered: bool = True
    """Images lie in [-1, 1]; off: in [0, 1], and the network maps them (Song et al. do so under VE)."""
    num_classes: int | None = None
    """Classes of a conditional network; its condition is one integer label per example."""
    dtype: Precision = "float32"
    """What layers compute in; parameters, norms' statistics and the output are float32 in both."""
    remat: bool = False
    """Keep nothing inside a block for the gradient, but compute it a second time: less memory, a third more time."""

    def __post_init__(self):
        checks.count("channels", self.channels, 4)
        checks.count("num_blocks", self.num_blocks)
        checks.count("group_size", self.group_size)
        checks.setting("dropout", self.dropout, "[0, 1)")
        checks.setting("fourier_scale", self.fourier_scale, "(0, inf)")
        check_choice("block", self.block, Literal["biggan", "plain"])
        check_choice("embedding", self.embedding, Literal["fourier", "positional"])
        check_choice("input_path", self.input_path, Path)
        check_choice("output_path", self.output_path, Path)
        check_choice("dtype", self.dtype, Precision)
        if self.num_classes is not None:
            checks.count("num_classes", self.num_classes)
        if not self.multipliers or self.channels % 2:
            raise ValueError(f"channels = {self.channels} is odd, or multipliers are empty.")
        for level, multiplier in enumerate(self.multipliers):
            checks.count(f"multipliers[{level}]", multiplier)
        if self.scale_by_sigma and self.embedding != "fourier":
            raise ValueError(
                "scale_by_sigma divides by the label, which is sigma for the Fourier embedding alone: write "
                'embedding="fourier", or scale_by_sigma=False with Noise(label=Scaled(999.0)).'
            )

    # --- The settings of the papers, at CIFAR-10's size; `changes` are fields ---

    @classmethod
    def ncsnpp(cls, **changes: Any) -> NCSNppConfig:
        """NCSN++, 4 blocks a level."""
        return cls(**changes)

    @classmethod
    def ncsnpp_deep(cls, **changes: Any) -> NCSNppConfig:
        """NCSN++, 8 blocks a level."""
        return cls.ncsnpp(**{"num_blocks": 8} | changes)

    @classmethod
    def ncsnpp_256(cls, **changes: Any) -> NCSNppConfig:
        """NCSN++ for images of 256×256: seven levels of 2 blocks, skips in and out, no dropout."""
        paths = {"input_path": "skip", "output_path": "skip"}
        return cls.ncsnpp(
            **{"multipliers": (1, 1, 2, 2, 2, 2, 2), "num_blocks": 2, "dropout": 0.0}
            | paths
            | changes
        )

    @classmethod
    def ddpmpp(cls, **changes: Any) -> NCSNppConfig:
        """DDPM++, 4 blocks a level: no filter, no paths, sees 999 t."""
        return cls(
            **{
                "fir": False,
                "input_path": "none",
                "embedding": "positional",
                "scale_by_sigma": False,
            }
            | changes
        )

    @classmethod
    def ddpmpp_deep(cls, **changes: Any) -> NCSNppConfig:
        """DDPM++, 8 blocks a level."""
        return cls.ddpmpp(**{"num_blocks": 8} | changes)

    @classmethod
    def ddpm(cls, **changes: Any) -> NCSNppConfig:
        """DDPM: plain blocks, 2 a level, 32 groups, no 1/√2."""
        return cls.ddpmpp(
            **{"block": "plain", "num_blocks": 2, "rescale": False, "group_size": 1} | changes
        )

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> NCSNpp:
        """The network for images of this shape, (height, width, channels)."""
        net = NCSNpp(self, shape, rngs=rngs)
        net.eval()  # no dropout; training switches it on for its own copy
        return net


class NCSNpp(nnx.Module):
    """x (batch, height, width, c), t (batch,) → like x. The output starts at nearly zero.

    Raises:
        ValueError: if shape is not (height, width, channels), or a side cannot be halved from level to level.
    """

    def __init__(self, config: NCSNppConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        levels = len(config.multipliers)
        if len(shape) != 3:
            raise ValueError(
                f"shape is {shape}: NCSN++ takes images, (height, width, channels). Others: UNetConfig()."
            )
        if any(side % 2 ** (levels - 1) for side in shape[:2]):
            raise ValueError(
                f"shape is {shape}: {levels} levels halve both sides {levels - 1} times, so they must be multiples of "
                f"{2 ** (levels - 1)}. Pad or resize the images, or write fewer multipliers."
            )
        self.config, self.shape, c = config, tuple(shape), shape[-1]
        dtype, keys = compute_dtype(config.dtype), Keys(rngs)
        self.embedding = NoiseEmbedding(config, rngs=keys)
        self.input = conv(c, config.channels, 2, kernel_init=fan_average(), dtype=dtype, rngs=keys)

        channels, path, skips = config.channels, c, [config.channels]
        downs, ups = [], []
        for level, multiplier in enumerate(config.multipliers):
            attend = shape[0] // 2**level in config.attention
            down, wide = Level(), config.channels * multiplier
            for _ in range(config.num_blocks):
                down.blocks.append(Block(config, channels, wide, attend, rngs=keys))
                channels = wide
                skips.append(channels)
            if level < levels - 1:
                down.resample = _resampler(config, channels, "down", keys)
                if config.input_path == "skip":
                    down.path = linear(
                        c, channels, kernel_init=fan_average(), dtype=dtype, rngs=keys
                    )
                elif config.input_path == "residual":
                    down.path = Resample(path, channels, "down", config.fir, dtype, rngs=keys)
                    path = channels
                skips.append(channels)
            downs.append(down)
        self.middle1 = Block(config, channels, channels, True, rngs=keys)
        self.middle2 = Block(config, channels, channels, False, rngs=keys)
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            attend = shape[0] // 2**level in config.attention
            up, wide = Level(), config.channels * multiplier
            for i in range(config.num_blocks + 1):
                last = i == config.num_blocks
                up.blocks.append(
                    Block(config, channels + skips.pop(), wide, attend and last, rngs=keys)
                )
                channels = wide
            if config.output_path == "skip":
                up.path = Head(config, channels, c, NEARLY_ZERO, None, rngs=keys)
            elif config.output_path == "residual" and level == levels - 1:
                up.path = Head(config, channels, channels, 1.0, dtype, rngs=keys)
            elif config.output_path == "residual":
                up.path = Resample(path, channels, "up", config.fir, dtype, rngs=keys)
            path = channels
            if level > 0:
                up.resample = _resampler(config, channels, "up", keys)
            ups.append(up)
        self.downs, self.ups = nnx.List(downs), nnx.List(ups)
        self.output = (
            None
            if config.output_path == "skip"
            else Head(config, channels, c, NEARLY_ZERO, None, rngs=keys)
        )

    def __call__(
        self,
        x: Float[Array, " batch height width c"],
        t: Float[Array, " batch"],
        cond: Array | None = None,
    ) -> Float[Array, " batch height width c"]:
        check_shape(x, x.shape[1:] == self.shape, self.shape, "NCSNppConfig")
        config, scale = self.config, math.sqrt(0.5) if self.config.rescale else 1.0
        embedding = jax.nn.silu(self.embedding(t, cond))
        image = x if config.centered else 2.0 * x - 1.0
        h = self.input(image)
        skips = [h]
        for level in self.downs:
            for block in level.blocks:
                h = run_block(block, h, embedding, remat=config.remat)
                skips.append(h)
            if level.resample is None:
                continue
            h = run_block(level.resample, h, embedding, remat=config.remat)
            if config.input_path == "skip":
                image = resample(image, "down", config.fir)
                h = level.path(image) + h
            elif config.input_path == "residual":
                image = h = scale * (level.path(image) + h)
            skips.append(h)
        for block in (self.middle1, self.middle2):
            h = run_block(block, h, embedding, remat=config.remat)
        output: Any = None  # what the levels so far have of it
        for level in self.ups:
            for block in level.blocks:
                h = run_block(
                    block, jnp.concatenate([h, skips.pop()], axis=-1), embedding, remat=config.remat
                )
            if config.output_path == "skip":
                output = level.path(h) + (
                    0.0 if output is None else resample(output, "up", config.fir)
                )
            elif config.output_path == "residual" and output is None:
                output = level.path(h)
            elif config.output_path == "residual":
                output = h = scale * (level.path(output) + h)
            if level.resample is not None:
                h = run_block(level.resample, h, embedding, remat=config.remat)
        out = output if self.output is None else self.output(h)
        out = out / right_pad(t, out) if config.scale_by_sigma else out
        return out.astype(x.dtype)


class NoiseEmbedding(nnx.Module):
    """What modulates every block: features of the label through two dense layers, plus an embedding of the class.

    Fourier: sin and cos of 2π W log sigma, W ~ N(0, scale²) drawn once and frozen (Tancik et al. 2020); else `t` itself
    at geometric frequencies.
    """

    def __init__(self, config: NCSNppConfig, *, rngs: Keys):
        channels, width, fourier = (
            config.channels,
            4 * config.channels,
            config.embedding == "fourier",
        )
        # A parameter without a gradient, as in the original: so the average of the weights has an average of it too.
        draws = (
            config.fourier_scale * jax.random.normal(rngs.params(), (channels,))
            if fourier
            else None
        )
        self.frequencies = None if draws is None else nnx.Param(draws)
        self.channels = channels
        self.dense1 = linear(
            2 * channels if fourier else channels, width, kernel_init=fan_average(), rngs=rngs
        )
        self.dense2 = linear(width, width, kernel_init=fan_average(), rngs=rngs)
        self.label = label_table(config.num_classes, width, rngs=rngs)

    def __call__(
        self, t: Float[Array, " batch"], cond: Array | None
    ) -> Float[Array, " batch width"]:
        if self.frequencies is None:
            features = sinusoidal_embedding(t, self.channels, 1.0)
        else:
            angles = (
                jnp.log(t)[:, None] * jax.lax.stop_gradient(self.frequencies[...]) * (2.0 * math.pi)
            )
            features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return add_label(self.dense2(jax.nn.silu(self.dense1(features))), self.label, cond)


class Level(nnx.Module):
    """The blocks of one resolution, what leads to the next, and the level's part of the path in or out."""

    def __init__(self):
        self.blocks = nnx.List()
        self.resample: Any = nnx.data(None)
        self.path: Any = nnx.data(None)


class Block(nnx.Module):
    """skip(h) + conv2(drop(silu(norm(conv1(r(silu(norm(h)))) + W embedding)))), r and skip resampling if asked for.

    The sum over √2 where the network rescales; then attention if asked for.
    """

    def __init__(
        self,
        config: NCSNppConfig,
        c_in: int,
        c_out: int,
        attend: bool,
        direction: Literal["up", "down"] | None = None,
        *,
        rngs: Keys,
    ):
        dtype, width = compute_dtype(config.dtype), 4 * config.channels
        self.direction: Literal["up", "down"] | None = direction
        self.fir, self.scale = config.fir, math.sqrt(0.5) if config.rescale else 1.0
        self.norm1 = group_norm(c_in, config.group_size, dtype=dtype, rngs=rngs)
        self.conv1 = conv(c_in, c_out, 2, kernel_init=fan_average(), dtype=dtype, rngs=rngs)
        self.time = linear(width, c_out, kernel_init=fan_average(), dtype=dtype, rngs=rngs)
        self.norm2 = group_norm(c_out, config.group_size, dtype=dtype, rngs=rngs)
        self.dropout = rngs.dropout(config.dropout)
        self.conv2 = conv(
            c_out, c_out, 2, kernel_init=fan_average(NEARLY_ZERO), dtype=dtype, rngs=rngs
        )
        start = fan_average(1.0 if config.block == "biggan" else 0.1)
        same = c_in == c_out and direction is None
        self.skip = None if same else linear(c_in, c_out, kernel_init=start, dtype=dtype, rngs=rngs)
        self.attention = Attention(config, c_out, rngs=rngs) if attend else None

    def __call__(self, h: Array, embedding: Array) -> Array:
        inner = jax.nn.silu(self.norm1(h))
        if (direction := self.direction) is not None:
            inner, h = (resample(a, direction, self.fir) for a in (inner, h))
        inner = self.conv1(inner) + self.time(embedding)[:, None, None, :]
        inner = self.conv2(self.dropout(jax.nn.silu(self.norm2(inner))))
        h = self.scale * ((h if self.skip is None else self.skip(h)) + inner)
        return h if self.attention is None else self.attention(h)


class Attention(nnx.Module):
    """h + W softmax(q k^T / √c) v over all positions, one head; over √2 where the network rescales."""

    def __init__(self, config: NCSNppConfig, channels: int, *, rngs: Keys):
        dtype = compute_dtype(config.dtype)
        self.scale = math.sqrt(0.5) if config.rescale else 1.0
        self.norm = group_norm(channels, config.group_size, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value, self.output = (
            linear(channels, channels, kernel_init=fan_average(start), dtype=dtype, rngs=rngs)
            for start in (0.1, 0.1, 0.1, NEARLY_ZERO)
        )

    def __call__(self, h: Array) -> Array:
        n, height, width, c = h.shape
        normed = self.norm(h).reshape(n, height * width, 1, c)  # (batch, position, head, channel)
        out = jax.nn.dot_product_attention(self.query(normed), self.key(normed), self.value(normed))
        return self.scale * (h + self.output(out.reshape(h.shape)))


class Head(nnx.Module):
    """conv(silu(norm(h))): from features to an image, or to a path of its own."""

    def __init__(
        self, config: NCSNppConfig, c_in: int, c_out: int, start: float, dtype: Any, *, rngs: Keys
    ):
        self.norm = group_norm(c_in, config.group_size, dtype=dtype, rngs=rngs)
        self.conv = conv(c_in, c_out, 2, kernel_init=fan_average(start), dtype=dtype, rngs=rngs)

    def __call__(self, h: Array) -> Array:
        return self.conv(jax.nn.silu(self.norm(h)))


def _resampler(
    config: NCSNppConfig, channels: int, direction: Literal["up", "down"], rngs: Keys
) -> nnx.Module:
    if config.block == "biggan":
        return Block(config, channels, channels, False, direction, rngs=rngs)
    return Resample(
        channels, channels, direction, config.fir, compute_dtype(config.dtype), rngs=rngs
    )
