"""What is done to a batch inside the compiled step, beside dequantisation: `fit(prepare=...)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from scoresde import checks
from scoresde.keys import example_keys
from scoresde.types import Key, right_pad


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Every example mirrored left to right with probability 1/2, then `then`; held-out examples only `then`.

    Example i's flip depends on (key, i) alone, and a step's key on (seed, step).

    Raises:
        ValueError: when called, if x are vectors.
    """

    then: Callable[[Key, Array], Array] | None = None
    """What else is done, e.g. `UniformDequantization()`."""

    def __call__(
        self, key: Key, x: Real[Array, " batch *space c"]
    ) -> Real[Array, " batch *space c"]:
        _check_space(x)
        key_flip, key_then = jax.random.split(key)
        flip = jax.vmap(lambda key: jax.random.bernoulli(key))(example_keys(key_flip, len(x)))
        x = jnp.where(right_pad(flip, x), jnp.flip(x, axis=-2), x)
        return x if self.then is None else self.then(key_then, x)


@dataclasses.dataclass(frozen=True)
class RandomShift:
    """Every example moved by whole pixels, uniformly in -pixels … pixels along each axis, then `then`.

    What moves in from outside repeats the edge; held-out examples see only `then`. Example i's shift depends on
    (key, i) alone, and a step's key on (seed, step).

    Raises:
        ValueError: if pixels < 1; when called, if x are vectors.
    """

    pixels: int = 1
    """The largest shift either way."""
    then: Callable[[Key, Array], Array] | None = None
    """What else is done, e.g. `UniformDequantization()`."""

    def __post_init__(self):
        checks.count("pixels", self.pixels)

    def __call__(
        self, key: Key, x: Real[Array, " batch *space c"]
    ) -> Real[Array, " batch *space c"]:
        _check_space(x)
        key_shift, key_then = jax.random.split(key)
        axes, size = x.ndim - 2, 2 * self.pixels + 1
        draw = lambda key: jax.random.randint(key, (axes,), 0, size)  # noqa: E731
        starts = jax.vmap(draw)(example_keys(key_shift, len(x)))
        padded = jnp.pad(x, [(0, 0), *[(self.pixels, self.pixels)] * axes, (0, 0)], mode="edge")
        cut = lambda image, start: jax.lax.dynamic_slice(image, (*start, 0), x.shape[1:])  # noqa: E731
        x = jax.vmap(cut)(padded, starts)
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
        checks.count("levels", self.levels, 2)
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}.")

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """The key is not used."""
        return self.low + (self.high - self.low) * jnp.asarray(k, jnp.float32) / (self.levels - 1)


def _check_space(x: Array) -> None:
    if x.ndim < 3:
        raise ValueError(
            f"examples have shape {x.shape[1:]}: wanted (*space, channels), images say. Vectors have no "
            f"left and right to flip, nor pixels to shift: leave the augmentation out."
        )


def without_augmentation(
    prepare: Callable[[Key, Array], Array] | None,
) -> tuple[Callable[[Key, Array], Array] | None, list[str]]:
    """What prepares held-out examples, and what training does before it: (rest, ["flip", "shift 1"])."""
    augmentation = []
    while isinstance(prepare, RandomFlip | RandomShift):
        augmentation.append(
            "flip" if isinstance(prepare, RandomFlip) else f"shift {prepare.pixels}"
        )
        prepare = prepare.then
    return prepare, augmentation
