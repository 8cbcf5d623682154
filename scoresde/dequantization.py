"""From integers to real numbers, so that a density bounds a probability."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from scoresde.types import Key, check_count, example_keys, is_concrete


@dataclasses.dataclass(frozen=True)
class UniformDequantization:
    """x = low + (high - low) (k + u) / levels, u ~ U[0, 1): integers k in 0 … levels - 1 to reals in [low, high).

    -log2 of the density of x, plus log2(levels / (high - low)) per dimension (`bits_per_dim`), bounds the bits of k
    (Theis et al. 2016, arXiv:1511.01844).

    Raises:
        ValueError: if levels < 2 or low >= high.
    """

    levels: int = 256
    """Number of values a pixel takes."""
    low: float = -1.0
    """What the lowest value maps to."""
    high: float = 1.0
    """What one above the highest value maps to."""

    def __post_init__(self):
        check_count("levels", self.levels, 2)
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}.")

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """One draw; example i's noise depends on (key, i) alone.

        Raises:
            ValueError: if a known value of k lies outside 0 … levels - 1, or is not whole.
        """
        if is_concrete(k) and k.size:
            low, high = jnp.min(k), jnp.max(k)
            if not (low >= 0 and high <= self.levels - 1 and jnp.all(k == jnp.round(k))):
                raise ValueError(
                    f"k holds {low} … {high}: wanted whole numbers 0 … {self.levels - 1}. Real-valued data need no "
                    f"dequantisation; other integers: UniformDequantization(levels=...)."
                )
        keys = example_keys(key, k.shape[0])
        u = jax.vmap(lambda key: jax.random.uniform(key, k.shape[1:]))(keys)
        return self.low + (self.high - self.low) * (k + u) / self.levels
