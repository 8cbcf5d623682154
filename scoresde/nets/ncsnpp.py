"""NCSN++ and DDPM++ (Song et al. 2021, App. H), and DDPM (Ho et al. 2020, App. B).

    embedding   e = silu(W2 silu(W1 f + b1) + b2 + c(cond))                               (Eq. 1)
                f = sin and cos of 2π w log sigma, w ~ N(0, fourier_scale²), or of w t
    block       h ← c (skip(r(h)) + conv2(drop(silu(norm2(inner)))))                      (Eq. 2)
                inner = conv1(r(silu(norm1(h)))) + W e
    attention   h ← c (h + W softmax(q k^T / √channels) v)                                (Eq. 3)
                q, k, v = W_q n, W_k n, W_v n,  n = norm(h)
    head        conv(silu(norm(h)))                                                       (Eq. 4)

r doubles or halves the resolution in blocks that resample, and is the identity elsewhere; c is 1/√2
if `rescale` is set, else 1. Layer by layer, this is what the authors' Flax release computes, so
that `scoresde import-checkpoint` can read its weights. The names here and there:

    here                           there (models/ncsnpp.py, models/layerspp.py)
    Block, block="biggan"          ResnetBlockBigGANpp
    Block, block="plain"           ResnetBlockDDPMpp; ResnetBlockDDPM in models/ddpm.py
    Attention                      AttnBlockpp
    Resample, resample             Upsample, Downsample, with and without a convolution
    NoiseEmbedding                 GaussianFourierProjection, get_timestep_embedding
    input_path, output_path        progressive_input, progressive
    rescale, centered              skip_rescale, data.centered
    channels, multipliers          nf, ch_mult
    attention, num_blocks          attn_resolutions, num_res_blocks
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
from scoresde.nets.base import Network, check_image
from scoresde.nets.conditions import (
    add_condition,
    check_settings,
    label_tables,
    vector_embedding,
)
from scoresde.nets.embeddings import sinusoidal_embedding
from scoresde.nets.initializers import Keys, fan_average
from scoresde.nets.layers import (
    Precision,
    check_choice,
    compute_dtype,
    conv,
    dot_product_attention,
    group_norm,
    linear,
    run_block,
)
from scoresde.nets.resample import Direction, Resample, resample
from scoresde.types import Classes, Cond, right_pad

ImagePath = Literal["none", "skip", "residual"]
"""How the image, apart from the features, enters or leaves at each level."""

NEARLY_ZERO = 1e-10
"""Scale of the initialiser for the last layer of each branch and of the network."""


@dataclasses.dataclass(frozen=True)
class NCSNppConfig:
    """Settings of an `NCSNpp`; the defaults are NCSN++ for CIFAR-10.

    Each network goes with the parameterisation that it was published with:

        NCSNppConfig.ncsnpp()  ScoreModel(VE(), net, Score(label=Sigma())); sees sigma
        NCSNppConfig.ddpmpp()  ScoreModel(VP(), net, Noise(label=Scaled(999.0))); sees 999 t
        NCSNppConfig.ddpm()    the same as DDPM++

    Images lie in [-1, 1] unless `centered` is off.
    """

    channels: int = 128
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in units of `channels`; each level halves the resolution."""
    num_blocks: int = 4
    """Residual blocks per level on the way down; the way up has one more."""
    attention: tuple[int, ...] = (16,)
    """Heights with self-attention, after each block down and the last one up; the middle has it."""
    block: Literal["biggan", "plain"] = "biggan"
    """Resample inside residual blocks (BigGAN's), or by convolutions between plain blocks."""
    fir: bool = True
    """Resample by the filter [1, 3, 3, 1]; off: by nearest neighbours and means."""
    input_path: ImagePath = "residual"
    """How the image enters at each level: not, added to the features, or by a residual path."""
    output_path: ImagePath = "none"
    """How each level reaches the output: not, as a summand of it, or by a residual path."""
    embedding: Literal["fourier", "positional"] = "fourier"
    """Random Fourier features of the label's logarithm, or sinusoids of the label."""
    fourier_scale: float = 16.0
    """Standard deviation of the random frequencies."""
    scale_by_sigma: bool = True
    """Divide the output by the label, which must be sigma: the output is then the score."""
    rescale: bool = True
    """Multiply each sum of a branch and its skip by 1/√2."""
    group_size: int = 4
    """Least number of channels in a group of the group norms, which have at most 32 groups."""
    dropout: float = 0.1
    """Probability of dropping a unit while training."""
    centered: bool = True
    """Images lie in [-1, 1]; off: in [0, 1], and the network maps them (Song et al. under VE)."""
    num_classes: Classes = None
    """Classes of a network that is conditioned on a label per example, or on several."""
    cond_dim: int | None = None
    """Entries of the vector that conditions the network, in all of its leaves together."""
    dtype: Precision = "float32"
    """The type that layers compute in; parameters, norm statistics and the output stay float32."""
    remat: bool = False
    """Recompute the inside of each block for the gradient: less memory, a third more time."""

    def __post_init__(self):
        checks.count("channels", self.channels, 4)
        checks.count("num_blocks", self.num_blocks, at_most=checks.MOST_BLOCKS)
        checks.count("group_size", self.group_size)
        checks.setting("dropout", self.dropout, "[0, 1)")
        checks.setting("fourier_scale", self.fourier_scale, "(0, inf)")
        check_choice("block", self.block, Literal["biggan", "plain"])
        check_choice("embedding", self.embedding, Literal["fourier", "positional"])
        check_choice("input_path", self.input_path, ImagePath)
        check_choice("output_path", self.output_path, ImagePath)
        check_choice("dtype", self.dtype, Precision)
        check_settings(self)

        if self.channels % 2:
            raise ValueError(f"channels = {self.channels}: wanted an even number.")
        if not self.multipliers:
            raise ValueError(
                "multipliers are empty: write one whole number per level, e.g. (1, 2)."
            )
        checks.count("the number of multipliers", len(self.multipliers), at_most=32)
        for level, multiplier in enumerate(self.multipliers):
            checks.count(f"multipliers[{level}]", multiplier)

        if self.scale_by_sigma and self.embedding != "fourier":
            raise ValueError(
                "scale_by_sigma divides the output by the label, which is sigma for the Fourier "
                'embedding alone. Write embedding="fourier", or scale_by_sigma=False with '
                "Noise(label=Scaled(999.0))."
            )

    # --- The settings of the papers; `changes` are fields ---

    @classmethod
    def ncsnpp(cls, **changes: Any) -> NCSNppConfig:
        """Returns the settings of NCSN++ for CIFAR-10, 4 blocks per level."""
        return cls(**changes)

    @classmethod
    def ncsnpp_deep(cls, **changes: Any) -> NCSNppConfig:
        """Returns the settings of NCSN++ for CIFAR-10, 8 blocks per level."""
        return cls.ncsnpp(**{"num_blocks": 8} | changes)

    @classmethod
    def ncsnpp_256(cls, **changes: Any) -> NCSNppConfig:
        """Returns the settings of NCSN++ for 256×256: seven levels, skips in and out."""
        settings: dict[str, Any] = {
            "multipliers": (1, 1, 2, 2, 2, 2, 2),
            "num_blocks": 2,
            "dropout": 0.0,
            "input_path": "skip",
            "output_path": "skip",
        }
        return cls.ncsnpp(**settings | changes)

    @classmethod
    def ddpmpp(cls, **changes: Any) -> NCSNppConfig:
        """Returns the settings of DDPM++ for CIFAR-10: 4 blocks per level, no filter, no paths."""
        settings: dict[str, Any] = {
            "fir": False,
            "input_path": "none",
            "embedding": "positional",
            "scale_by_sigma": False,
        }
        return cls(**settings | changes)

    @classmethod
    def ddpmpp_deep(cls, **changes: Any) -> NCSNppConfig:
        """Returns the settings of DDPM++ for CIFAR-10, 8 blocks per level."""
        return cls.ddpmpp(**{"num_blocks": 8} | changes)

    @classmethod
    def ddpm(cls, **changes: Any) -> NCSNppConfig:
        """Returns the settings of DDPM for CIFAR-10: 2 plain blocks per level, no 1/√2."""
        settings: dict[str, Any] = {
            "block": "plain",
            "num_blocks": 2,
            "rescale": False,
            "group_size": 1,
        }
        return cls.ddpmpp(**settings | changes)

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> NCSNpp:
        """Returns the network for images of this shape, (height, width, channels)."""
        net = NCSNpp(self, shape, rngs=rngs)
        net.eval()  # no dropout; training switches it on for its own copy
        return net


class NCSNpp(Network):
    """The network: x (batch, height, width, c), t (batch,), a condition or None → like x.

    The output is nearly zero at the start.

    Raises:
        ValueError: if shape is not (height, width, channels), or a side cannot be halved so often.
    """

    def __init__(self, config: NCSNppConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        check_halvings(shape, len(config.multipliers) - 1)
        self.config = config
        self.shape = tuple(shape)

        c = shape[-1]
        levels = range(len(config.multipliers))
        dtype = compute_dtype(config.dtype)
        keys = Keys(rngs)
        self.embedding = NoiseEmbedding(config, rngs=keys)
        self.input = conv(c, config.channels, 2, kernel_init=fan_average(), dtype=dtype, rngs=keys)

        # Down: `skips` are the channels of the features that each block of the way up also sees.
        downs = []
        skips = [config.channels]
        for level in levels:
            down = DownLevel(config, level, self.shape, c_in=skips[-1], rngs=keys)
            downs.append(down)
            skips += down.skip_channels
        self.downs = nnx.List(downs)

        # Middle
        channels = skips[-1]
        self.middle1 = Block(config, channels, channels, True, rngs=keys)
        self.middle2 = Block(config, channels, channels, False, rngs=keys)

        # Up
        ups = []
        for level in reversed(levels):
            of_level = [skips.pop() for _ in range(config.num_blocks + 1)]
            ups.append(UpLevel(config, level, self.shape, channels, of_level, rngs=keys))
            channels = config.channels * config.multipliers[level]
        self.ups = nnx.List(ups)

        # Output
        head = None
        if config.output_path != "skip":
            head = Head(config, channels, c, NEARLY_ZERO, None, rngs=keys)
        self.output = head

    def __call__(
        self,
        x: Float[Array, " batch height width c"],
        t: Float[Array, " batch"],
        cond: Cond = None,
    ) -> Float[Array, " batch height width c"]:
        self.check_input(x)
        config = self.config
        embedding = jax.nn.silu(self.embedding(t, cond))

        # Down
        image = x if config.centered else 2.0 * x - 1.0
        h = self.input(image)
        skips = [h]
        for level in self.downs:
            h, image, features = level(h, image, embedding)
            skips += features

        # Middle
        for block in (self.middle1, self.middle2):
            h = run_block(block, h, embedding, remat=config.remat)

        # Up
        output = None
        for level in self.ups:
            features = [skips.pop() for _ in level.blocks]
            h, output = level(h, output, features, embedding)

        # Output
        out = output if self.output is None else self.output(h)
        assert out is not None  # without a head, the levels have summed it up
        if config.scale_by_sigma:
            out = out / right_pad(t.astype(out.dtype), out)
        return out.astype(x.dtype)


def check_halvings(shape: tuple[int, ...], halvings: int) -> None:
    """Refuses shapes of examples that are not images whose sides can be halved so many times.

    Raises:
        ValueError: if shape is not (height, width, channels), both sides multiples of 2^halvings.
    """
    factor = 2**halvings
    advice = (
        f"{halvings + 1} levels halve both sides {halvings} times: pad or resize the images, or "
        f"write fewer multipliers."
    )
    check_image("NCSN++", "NCSNppConfig", shape, factor, advice)


class NoiseEmbedding(nnx.Module):
    """The embedding of the noise level and the condition, before its last silu (Eq. 1).

    With the Fourier embedding, w is drawn once and frozen (Tancik et al. 2020, arXiv:2006.10739).
    """

    def __init__(self, config: NCSNppConfig, *, rngs: Keys):
        self.channels = config.channels
        width = 4 * config.channels

        # A parameter without a gradient, as in the original: the average of the weights needs it.
        frequencies = None
        entries = self.channels
        if config.embedding == "fourier":
            normal = jax.random.normal(rngs.params(), (self.channels,), jnp.float32)
            frequencies = nnx.Param(config.fourier_scale * normal)
            entries = 2 * self.channels
        self.frequencies = frequencies

        self.dense1 = linear(entries, width, kernel_init=fan_average(), rngs=rngs)
        self.dense2 = linear(width, width, kernel_init=fan_average(), rngs=rngs)
        self.label = label_tables(config.num_classes, width, rngs=rngs)
        self.vector = vector_embedding(config.cond_dim, width, rngs=rngs)

    def __call__(self, t: Float[Array, " batch"], cond: Cond) -> Float[Array, " batch width"]:
        if self.frequencies is None:
            features = sinusoidal_embedding(t, self.channels, 1.0)
        else:
            frequencies = jax.lax.stop_gradient(self.frequencies[...]).astype(t.dtype)
            angles = jnp.log(t)[:, None] * frequencies[None] * (2.0 * math.pi)
            features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

        h = self.dense2(jax.nn.silu(self.dense1(features)))
        return add_condition(h, self.label, self.vector, cond)


# --- Levels ---


class DownLevel(nnx.Module):
    """One resolution on the way down: its blocks, the layer that halves it, the image's path in.

    `c_in` counts the channels of the features that arrive.
    """

    def __init__(
        self,
        config: NCSNppConfig,
        level: int,
        shape: tuple[int, ...],
        c_in: int,
        *,
        rngs: Keys,
    ):
        self.config = config
        height, _, c = shape
        channels = config.channels * config.multipliers[level]
        attend = height // 2**level in config.attention
        dtype = compute_dtype(config.dtype)

        blocks = []
        for i in range(config.num_blocks):
            blocks.append(Block(config, channels if i else c_in, channels, attend, rngs=rngs))
        self.blocks = nnx.List(blocks)

        # To the next level, which the last one has not.
        halve = path = None
        if level < len(config.multipliers) - 1:
            halve = _resampler(config, channels, "down", rngs)
            if config.input_path == "skip":
                path = linear(c, channels, kernel_init=fan_average(), dtype=dtype, rngs=rngs)
            elif config.input_path == "residual":
                before = config.channels * config.multipliers[level - 1] if level else c
                path = Resample(before, channels, "down", config.fir, dtype, rngs=rngs)
        self.resample: Any = halve
        self.path: Any = path

        self.skip_channels = (channels,) * (len(blocks) + (halve is not None))

    def __call__(
        self, h: Array, image: Array, embedding: Array
    ) -> tuple[Array, Array, list[Array]]:
        """Returns h and the image of the next level, and the features kept for the way up."""
        config = self.config
        features = []
        for block in self.blocks:
            h = run_block(block, h, embedding, remat=config.remat)
            features.append(h)
        if self.resample is None:
            return h, image, features

        h = run_block(self.resample, h, embedding, remat=config.remat)
        if config.input_path == "skip":
            image = resample(image, "down", config.fir)
            h = self.path(image) + h
        elif config.input_path == "residual":
            h = _branch_scale(config) * (self.path(image) + h)
            image = h
        features.append(h)
        return h, image, features


class UpLevel(nnx.Module):
    """One resolution on the way up: its blocks, its part of the output, the layer that doubles it.

    `c_in` counts the channels of the features that arrive, `skip_channels` those of the features
    that each block also sees.
    """

    def __init__(
        self,
        config: NCSNppConfig,
        level: int,
        shape: tuple[int, ...],
        c_in: int,
        skip_channels: list[int],
        *,
        rngs: Keys,
    ):
        self.config = config
        height, _, c = shape
        channels = config.channels * config.multipliers[level]
        attend = height // 2**level in config.attention
        dtype = compute_dtype(config.dtype)

        blocks = []
        for i, skip in enumerate(skip_channels):
            both = (channels if i else c_in) + skip
            last = i == len(skip_channels) - 1
            blocks.append(Block(config, both, channels, attend and last, rngs=rngs))
        self.blocks = nnx.List(blocks)

        path = None
        deepest = level == len(config.multipliers) - 1
        if config.output_path == "skip":
            path = Head(config, channels, c, NEARLY_ZERO, None, rngs=rngs)
        elif config.output_path == "residual" and deepest:
            path = Head(config, channels, channels, 1.0, dtype, rngs=rngs)
        elif config.output_path == "residual":
            path = Resample(c_in, channels, "up", config.fir, dtype, rngs=rngs)
        self.path: Any = path

        self.resample: Any = _resampler(config, channels, "up", rngs) if level > 0 else None

    def __call__(
        self, h: Array, output: Array | None, features: list[Array], embedding: Array
    ) -> tuple[Array, Array | None]:
        """Returns h of the next level, and the output as far as the levels have made it."""
        config = self.config
        for block, skip in zip(self.blocks, features, strict=True):
            both = jnp.concatenate([h, skip], axis=-1)
            h = run_block(block, both, embedding, remat=config.remat)

        if config.output_path == "skip":
            before = 0.0 if output is None else resample(output, "up", config.fir)
            output = self.path(h) + before
        elif config.output_path == "residual" and output is None:
            output = self.path(h)
        elif config.output_path == "residual":
            h = _branch_scale(config) * (self.path(output) + h)
            output = h

        if self.resample is not None:
            h = run_block(self.resample, h, embedding, remat=config.remat)
        return h, output


# --- Blocks ---


class Block(nnx.Module):
    """A residual block (Eq. 2); `direction` makes it resample, `attend` adds attention."""

    def __init__(
        self,
        config: NCSNppConfig,
        c_in: int,
        c_out: int,
        attend: bool,
        direction: Direction | None = None,
        *,
        rngs: Keys,
    ):
        self.direction: Direction | None = direction
        self.fir = config.fir
        self.scale = _branch_scale(config)

        width = 4 * config.channels  # of the embedding
        size = config.group_size
        dtype = compute_dtype(config.dtype)
        start = fan_average()
        last = fan_average(NEARLY_ZERO)

        self.norm1 = group_norm(c_in, size, dtype=dtype, rngs=rngs)
        self.conv1 = conv(c_in, c_out, 2, kernel_init=start, dtype=dtype, rngs=rngs)
        self.time = linear(width, c_out, kernel_init=start, dtype=dtype, rngs=rngs)
        self.norm2 = group_norm(c_out, size, dtype=dtype, rngs=rngs)
        self.dropout = rngs.dropout(config.dropout)
        self.conv2 = conv(c_out, c_out, 2, kernel_init=last, dtype=dtype, rngs=rngs)

        skip = None
        if c_in != c_out or direction is not None:
            start_skip = fan_average(1.0 if config.block == "biggan" else 0.1)
            skip = linear(c_in, c_out, kernel_init=start_skip, dtype=dtype, rngs=rngs)
        self.skip = skip
        self.attention = Attention(config, c_out, rngs=rngs) if attend else None

    def __call__(self, h: Array, embedding: Array) -> Array:
        inner = jax.nn.silu(self.norm1(h))
        if self.direction is not None:
            inner = resample(inner, self.direction, self.fir)
            h = resample(h, self.direction, self.fir)

        inner = self.conv1(inner) + self.time(embedding)[:, None, None, :]
        inner = self.conv2(self.dropout(jax.nn.silu(self.norm2(inner))))

        skip = h if self.skip is None else self.skip(h)
        h = self.scale * (skip + inner)
        return h if self.attention is None else self.attention(h)


class Attention(nnx.Module):
    """Self-attention over all positions, with one head (Eq. 3)."""

    def __init__(self, config: NCSNppConfig, channels: int, *, rngs: Keys):
        self.scale = _branch_scale(config)
        dtype = compute_dtype(config.dtype)
        start = fan_average(0.1)
        last = fan_average(NEARLY_ZERO)

        self.norm = group_norm(channels, config.group_size, dtype=dtype, rngs=rngs)
        self.query = linear(channels, channels, kernel_init=start, dtype=dtype, rngs=rngs)
        self.key = linear(channels, channels, kernel_init=start, dtype=dtype, rngs=rngs)
        self.value = linear(channels, channels, kernel_init=start, dtype=dtype, rngs=rngs)
        self.output = linear(channels, channels, kernel_init=last, dtype=dtype, rngs=rngs)

    def __call__(self, h: Array) -> Array:
        n, height, width, c = h.shape
        normed = self.norm(h).reshape(n, height * width, 1, c)  # (batch, position, head, channel)

        out = dot_product_attention(self.query(normed), self.key(normed), self.value(normed))
        return self.scale * (h + self.output(out.reshape(h.shape)))


class Head(nnx.Module):
    """What leads from features to an image, or to features of the path out (Eq. 4).

    scale: of the initialiser of its convolution.
    """

    def __init__(
        self, config: NCSNppConfig, c_in: int, c_out: int, scale: float, dtype: Any, *, rngs: Keys
    ):
        self.norm = group_norm(c_in, config.group_size, dtype=dtype, rngs=rngs)
        self.conv = conv(c_in, c_out, 2, kernel_init=fan_average(scale), dtype=dtype, rngs=rngs)

    def __call__(self, h: Array) -> Array:
        return self.conv(jax.nn.silu(self.norm(h)))


def _resampler(
    config: NCSNppConfig, channels: int, direction: Direction, rngs: Keys
) -> Block | Resample:
    """Returns the layer between two levels: a block that resamples, or a convolution that does."""
    if config.block == "biggan":
        return Block(config, channels, channels, False, direction, rngs=rngs)
    dtype = compute_dtype(config.dtype)
    return Resample(channels, channels, direction, config.fir, dtype, rngs=rngs)


def _branch_scale(config: NCSNppConfig) -> float:
    """Returns c of Eqs. 2 and 3, which keeps the variance of a sum of two terms."""
    return math.sqrt(0.5) if config.rescale else 1.0
