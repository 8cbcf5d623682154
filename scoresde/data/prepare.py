"""What is done to a batch inside the compiled step, beside dequantisation: `fit(prepare=...)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from scoresde.types import Key, check_count, example_keys, right_pad


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Every example mirrored left to right with probability 1/2, then `then`; held-out examples only `then`.

    Example i's flip depends on (key, i) alone, and a step's key on (seed, step).
    """

    then: Callable[[Key, Array], Array] | None = None
    """What else is done, e.g. `UniformDequantization()`."""

    def __call__(self, key: Key, x: Real[Array, " batch *space width c"]) -> Real[Array, " batch *space width c"]:
        key_flip, key_then = jax.random.split(key)
        flip = jax.vmap(lambda key: jax.random.bernoulli(key))(example_keys(key_flip, len(x)))
        x = jnp.where(right_pad(flip, x), jnp.flip(x, axis=-2), x)
        return x if self.then is None else self.then(key_then, x)


@dataclasses.dataclass(frozen=True)
class Scale:
    """low + (high - low) k / (levels - 1): integers k in 0 … levels - 1 to reals in [low, high], without noise.

    Raises:
        ValueError: if levels < 2 or low >= high.
    """

    levels: int = 256
    """Number of values a pixel takes."""
    low: float = -1.0
    """What the lowest value maps to."""
    high: float = 1.0
    """What the highest value maps to."""

    def __post_init__(self):
        check_count("levels", self.levels, 2)
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}.")

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """The key is not used."""
        return self.low + (self.high - self.low) * jnp.asarray(k, jnp.float32) / (self.levels - 1)


def for_held_out(prepare: Callable[[Key, Array], Array] | None) -> Callable[[Key, Array], Array] | None:
    """What prepares held-out examples: no flips."""
    return prepare.then if isinstance(prepare, RandomFlip) else prepare
