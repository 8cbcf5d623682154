"""From integers to real numbers, so that a density bounds a probability."""

from __future__ import annotations

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Real

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import example_keys
from scoresde.types import Key, data_dim


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
        checks.count("levels", self.levels, 2)
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}.")

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """One draw; example i's noise depends on (key, i) alone.

        Raises:
            ValueError: if a known value of k lies outside 0 … levels - 1, or is not whole.
        """
        check_levels(k, self.levels)
        keys = example_keys(key, k.shape[0])
        u = jax.vmap(lambda key: jax.random.uniform(key, k.shape[1:]))(keys)
        return self.low + (self.high - self.low) * (k + u) / self.levels

    @property
    def entropy(self) -> float:
        """Of x given k, in nats per dimension: log of a bin's width."""
        return math.log((self.high - self.low) / self.levels)

    def log_prob(
        self, x: Float[Array, " batch *data"], k: Real[Array, " batch *data"]
    ) -> Float[Array, " batch"]:
        """log q(x | k) in nats, one per example."""
        return jnp.full(x.shape[:1], -data_dim(x) * self.entropy)


def check_levels(k: Array | np.ndarray, levels: int) -> None:
    """k holds whole numbers 0 … levels - 1, where that can be read now."""
    if is_concrete(k) and k.size:
        values = np.asarray(k)  # NumPy's: under jit a known k is still read now
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= levels - 1 and np.all(values == np.round(values))):
            raise ValueError(
                f"k holds {low} … {high}: wanted whole numbers 0 … {levels - 1}. Real-valued data need no "
                f"dequantisation; other integers: UniformDequantization(levels=...)."
            )
        if (
            k.size >= 64 and 8 * (int(high) + 1) <= levels
        ):  # int: one more than the highest uint8 is 0
            warnings.warn(
                f"k holds {low} … {high} of {levels} levels: if these are all the data's values, write "
                f"levels={int(high) + 1}, or their bits are those of finer bins.",
                stacklevel=4,
            )
