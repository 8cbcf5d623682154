"""Uniform dequantisation: noise makes integers real, so that a density bounds a probability.

    x = low + (high - low) (k + u) / levels,   u ~ U[0, 1)              (Eq. 1)
    H = log((high - low) / levels)                                      (Eq. 2)
    -log P(k) <= -E[log p(x)] - D H                                     (Eq. 3)

H is the entropy of x given k in nats per dimension, and D the number of dimensions. Eq. 3 is
Jensen's inequality (Theis et al. 2016, arXiv:1511.01844); `bits_per_dim` is its right-hand side
in bits.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from scoresde.data.pixel_range import PixelRange, check_levels
from scoresde.keys import example_keys
from scoresde.types import Key, data_dim


@dataclasses.dataclass(frozen=True)
class UniformDequantization(PixelRange):
    """x = low + (high - low) (k + u) / levels with u ~ U[0, 1) (Eq. 1).

    Integers 0 … levels - 1 become real numbers in [low, high): the lowest value maps to the
    bin that begins at `low`, the highest to the bin that ends at `high`.

    Raises:
        ValueError: if levels < 2 or low >= high.
    """

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """Draws x given k (Eq. 1). The noise of example i depends on (key, i) alone.

        Raises:
            ValueError: if a known value of k is not whole, or lies outside 0 … levels - 1.
        """
        check_levels(k, self.levels)

        keys = example_keys(key, k.shape[0])
        u = jax.vmap(lambda key: jax.random.uniform(key, k.shape[1:]))(keys)
        return self.lower_edge(jnp.asarray(k, u.dtype) + u)

    @property
    def entropy(self) -> float:
        """The entropy of x given k in nats per dimension: the logarithm of a bin's width."""
        return math.log(self.bin_width)

    def log_prob(
        self, x: Float[Array, " batch *data"], k: Real[Array, " batch *data"]
    ) -> Float[Array, " batch"]:
        """log q(x | k) in nats, one value per example; x is taken to lie in the bin of k."""
        return jnp.full(x.shape[:1], -data_dim(x) * self.entropy, x.dtype)
