"""A residual multilayer perceptron, for vectors and for data that are read as vectors.

    h   = W x + b
    h   ← h + W2 drop(silu(W1 silu(norm(h)) + W silu(e))),   `depth` times      (Eq. 1)
    out = W silu(norm(h)) + b                                                   (Eq. 2)

e is the embedding of the time and the condition (nets/embeddings.py, Eq. 2). In Eq. 2, W is zero at
the start, and so is W2 in Eq. 1.
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
from scoresde.nets.conditions import check_settings
from scoresde.nets.embeddings import TimeEmbedding
from scoresde.nets.initializers import zeros
from scoresde.nets.layers import LayerNorm, linear
from scoresde.types import Classes, Cond


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """Settings of an `MLP`."""

    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Residual blocks."""
    dropout: float = 0.0
    """Probability of dropping a unit while training."""
    time_scale: float = 100.0
    """Multiplies the time label before its sinusoidal embedding."""
    num_classes: Classes = None
    """Classes of a network that is conditioned on a label per example, or on several."""
    cond_dim: int | None = None
    """Entries of the vector that conditions the network, in all of its leaves together."""

    def __post_init__(self):
        checks.count("width", self.width, 4)
        checks.count("depth", self.depth, at_most=checks.MOST_BLOCKS)
        checks.setting("dropout", self.dropout, "[0, 1)")
        check_settings(self)

    def build(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> MLP:
        """Returns the network for examples of this shape."""
        net = MLP(self, shape, rngs=rngs)
        net.eval()  # no dropout; training switches it on for its own copy
        return net


class MLP(Network):
    """The perceptron: x (batch, *data), t (batch,), a condition or None → (batch, *data).

    The output is zero at the start.
    """

    reads_layout = False

    def __init__(self, config: MLPConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        self.config = config
        self.shape = tuple(shape)

        width = config.width
        dim = math.prod(shape)
        even = width // 2 * 2  # a sine and a cosine per frequency

        self.time = TimeEmbedding(
            even,
            width,
            config.time_scale,
            config.num_classes,
            config.cond_dim,
            rngs=rngs,
        )
        self.input = linear(dim, width, rngs=rngs)
        blocks = [MLPBlock(width, config.dropout, rngs=rngs) for _ in range(config.depth)]
        self.blocks = nnx.List(blocks)
        self.norm = LayerNorm(width, rngs=rngs)
        self.output = linear(width, dim, kernel_init=zeros, rngs=rngs)

    def __call__(
        self, x: Float[Array, " batch *data"], t: Float[Array, " batch"], cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        self.check_input(x)
        embedding = self.time(t, cond)

        h = self.input(x.reshape(len(x), -1))
        for block in self.blocks:
            h = block(h, embedding)
        out = self.output(jax.nn.silu(self.norm(h)))  # Eq. 2
        return out.reshape(x.shape)


class MLPBlock(nnx.Module):
    """A residual block (Eq. 1)."""

    def __init__(self, width: int, dropout: float, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, rngs=rngs)
        self.dense1 = linear(width, width, rngs=rngs)
        self.time = linear(width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.dense2 = linear(width, width, kernel_init=zeros, rngs=rngs)

    def __call__(self, h: Array, embedding: Array) -> Array:
        inner = self.dense1(jax.nn.silu(self.norm(h)))
        inner = inner + self.time(jax.nn.silu(embedding))
        return h + self.dense2(self.dropout(jax.nn.silu(inner)))
