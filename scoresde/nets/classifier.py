"""Classifiers of noisy examples: logits of the classes, given x_t and t.

    images     h = the way down of a U-Net (unet.py, Eq. 1),  logits = W silu(norm(h)) + b
    vectors    h = the blocks of a perceptron (mlp.py, Eq. 1),  logits = W silu(norm(h)) + b

Half a U-Net is the classifier of Dhariwal & Nichol 2021 (arXiv:2105.05233, Sec. 4). In place of
their attention pooling, W sees the features of every position: on small images a mean over space
loses where they are. W is zero at the start, where all classes are equally likely.
"""

from __future__ import annotations

import dataclasses
import math

import jax
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.nets.base import Network
from scoresde.nets.conditions import Conditions
from scoresde.nets.embeddings import TimeEmbedding
from scoresde.nets.initializers import zeros
from scoresde.nets.layers import LayerNorm, conv, group_norm, linear
from scoresde.nets.mlp import MLPBlock
from scoresde.nets.unet import Block, UNetConfig, way_down


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Settings of a `Classifier` of signals, images or volumes."""

    num_classes: int
    """Classes that the network tells apart."""
    channels: int = 32
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level, in units of `channels`; each level halves the resolution."""
    num_blocks: int = 1
    """Residual blocks per level."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels with self-attention after each block."""
    num_heads: int = 2
    """Attention heads."""
    dropout: float = 0.1
    """Probability of dropping a unit while training."""
    time_scale: float = 1000.0
    """Multiplies the time label before its sinusoidal embedding."""

    def __post_init__(self):
        checks.count("num_classes", self.num_classes, 2)
        _ = self.trunk

    @property
    def trunk(self) -> UNetConfig:
        """The U-Net whose way down this is: without a condition."""
        return UNetConfig(
            channels=self.channels,
            multipliers=self.multipliers,
            num_blocks=self.num_blocks,
            attention_levels=self.attention_levels,
            num_heads=self.num_heads,
            dropout=self.dropout,
        )

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> Classifier:
        """Returns the network for examples of this shape: (length, c), (height, width, c) or
        (depth, height, width, c)."""
        net = Classifier(self, shape, rngs=rngs)
        net.eval()  # no dropout; training switches it on for its own copy
        return net


class Classifier(Network):
    """The classifier: x (batch, *space, c), t (batch,) → logits (batch, classes).

    Raises:
        ValueError: if shape is not one that a U-Net takes.
    """

    def __init__(self, config: ClassifierConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        if len(shape) not in (2, 3, 4):
            raise ValueError(
                f"shape is {shape}: this classifier takes signals (length, channels), images "
                f"(height, width, channels) or volumes. For vectors write "
                f"MLPClassifierConfig({config.num_classes})."
            )
        self.config = config
        self.shape = tuple(shape)

        dims = len(shape) - 1
        trunk = config.trunk
        width = 4 * config.channels  # of the embedding
        self.time = TimeEmbedding(config.channels, width, config.time_scale, rngs=rngs)
        self.input = conv(shape[-1], config.channels, dims, rngs=rngs)
        downs, skips = way_down(trunk, dims, rngs)
        self.downs = nnx.List(downs)
        self.norm = group_norm(skips[-1], rngs=rngs)

        halvings = len(config.multipliers) - 1
        positions = math.prod(_halved(side, halvings) for side in shape[:-1])
        features = positions * skips[-1]
        self.output = linear(features, config.num_classes, kernel_init=zeros, rngs=rngs)

    @property
    def conditions(self) -> Conditions:
        """None: the classes are what it returns."""
        return Conditions()

    def __call__(
        self, x: Float[Array, " batch *space c"], t: Float[Array, " batch"]
    ) -> Float[Array, " batch classes"]:
        self.check_input(x)
        embedding = jax.nn.silu(self.time(t, None))

        h = self.input(x)
        for layer in self.downs:
            h = layer(h, embedding) if isinstance(layer, Block) else layer(h)

        return self.output(jax.nn.silu(self.norm(h)).reshape(len(h), -1))


def _halved(side: int, times: int) -> int:
    """Returns the length of a side after so many convolutions of stride 2, which round up."""
    return -(-side // 2**times)


@dataclasses.dataclass(frozen=True)
class MLPClassifierConfig:
    """Settings of an `MLPClassifier`, of vectors."""

    num_classes: int
    """Classes that the network tells apart."""
    width: int = 128
    """Units of a hidden layer."""
    depth: int = 2
    """Residual blocks."""
    dropout: float = 0.0
    """Probability of dropping a unit while training."""
    time_scale: float = 100.0
    """Multiplies the time label before its sinusoidal embedding."""

    def __post_init__(self):
        checks.count("num_classes", self.num_classes, 2)
        checks.count("width", self.width, 4)
        checks.count("depth", self.depth, at_most=checks.MOST_BLOCKS)
        checks.setting("dropout", self.dropout, "[0, 1)")

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> MLPClassifier:
        """Returns the network for examples of this shape."""
        net = MLPClassifier(self, shape, rngs=rngs)
        net.eval()
        return net


class MLPClassifier(Network):
    """The classifier: x (batch, *data), t (batch,) → logits (batch, classes)."""

    reads_layout = False

    def __init__(self, config: MLPClassifierConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        self.config = config
        self.shape = tuple(shape)

        width = config.width
        even = width // 2 * 2  # a sine and a cosine per frequency
        self.time = TimeEmbedding(even, width, config.time_scale, rngs=rngs)
        self.input = linear(math.prod(shape), width, rngs=rngs)
        blocks = [MLPBlock(width, config.dropout, rngs=rngs) for _ in range(config.depth)]
        self.blocks = nnx.List(blocks)
        self.norm = LayerNorm(width, rngs=rngs)
        self.output = linear(width, config.num_classes, kernel_init=zeros, rngs=rngs)

    @property
    def conditions(self) -> Conditions:
        """None: the classes are what it returns."""
        return Conditions()

    def __call__(
        self, x: Float[Array, " batch *data"], t: Float[Array, " batch"]
    ) -> Float[Array, " batch classes"]:
        self.check_input(x)
        embedding = self.time(t, None)

        h = self.input(x.reshape(len(x), -1))
        for block in self.blocks:
            h = block(h, embedding)
        return self.output(jax.nn.silu(self.norm(h)))
