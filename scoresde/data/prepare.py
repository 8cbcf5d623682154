"""What else happens to a batch inside the compiled training step: scaling and augmentation.

`UniformDequantization`, `BinCentres`, `Scale` and the augmentations are what `fit(prepare=...)`
takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from scoresde import checks
from scoresde.data.pixel_range import PixelRange, check_levels
from scoresde.keys import as_typed_key, example_keys
from scoresde.types import Key, right_pad


@dataclasses.dataclass(frozen=True)
class Scale(PixelRange):
    """low + (high - low) k / (levels - 1), without noise.

    Integers 0 … levels - 1 become real numbers in [low, high]: the lowest value maps to `low`, and
    the highest to `high`.

    Raises:
        ValueError: if levels < 2 or low >= high.
    """

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """Returns the scaled values, shaped like k. The key is not used."""
        checks.nothing_is_lost(k, "k")
        return self.low + self.length * jnp.asarray(k, jnp.float32) / (self.levels - 1)


@dataclasses.dataclass(frozen=True)
class BinCentres(PixelRange):
    """low + (high - low) (k + 1/2) / levels: integers at the centres of their bins, without noise.

    They are the data of the variational bound on integers (`sd.objectives.VariationalBound`), whose
    schedule begins with noise of the size of a bin.

    Raises:
        ValueError: if levels < 2 or low >= high; when called, for integers beyond the levels.
    """

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """Returns the centres of the bins, shaped like k. The key is not used."""
        check_levels(k, self.levels)
        return self.centre(jnp.asarray(k))


# --- Augmentation ---


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirrors each training example left to right with probability 1/2, then applies `then`.

    Held-out examples are not mirrored: only `then` is applied to them. The flip of example i
    depends on (key, i) alone.

    Raises:
        ValueError: when called, if the examples are vectors.
    """

    then: Callable[[Key, Array], Array] | None = None
    """What is applied next, e.g. `UniformDequantization()`."""

    def __call__(
        self, key: Key, x: Real[Array, " batch *space c"]
    ) -> Real[Array, " batch *space c"]:
        """Returns the prepared examples, shaped like x."""
        _check_space(x)

        key_flip, key_then = jax.random.split(as_typed_key(key))
        flip = jax.vmap(lambda key: jax.random.bernoulli(key))(example_keys(key_flip, len(x)))
        x = jnp.where(right_pad(flip, x), jnp.flip(x, axis=-2), x)
        return x if self.then is None else self.then(key_then, x)


@dataclasses.dataclass(frozen=True)
class RandomShift:
    """Shifts each training example by up to `pixels` pixels along each axis, then applies `then`.

    The shifts are whole numbers, uniform in -pixels … pixels; pixels that move in from outside
    repeat the edge. Held-out examples are not shifted: only `then` is applied to them. The shift
    of example i depends on (key, i) alone.

    Raises:
        ValueError: if pixels < 1; when called, if the examples are vectors.
    """

    pixels: int = 1
    """The largest shift in either direction."""
    then: Callable[[Key, Array], Array] | None = None
    """What is applied next, e.g. `UniformDequantization()`."""

    def __post_init__(self):
        checks.count("pixels", self.pixels)

    def __call__(
        self, key: Key, x: Real[Array, " batch *space c"]
    ) -> Real[Array, " batch *space c"]:
        """Returns the prepared examples, shaped like x."""
        _check_space(x)

        key_shift, key_then = jax.random.split(as_typed_key(key))
        axes = x.ndim - 2
        shape = x.shape[1:]
        padded = jnp.pad(x, [(0, 0), *[(self.pixels, self.pixels)] * axes, (0, 0)], mode="edge")

        # A shift is a window of the original size somewhere in the padded example.
        def shifted(key: Array, example: Array) -> Array:
            start = jax.random.randint(key, (axes,), 0, 2 * self.pixels + 1)
            return jax.lax.dynamic_slice(example, (*start, 0), shape)

        x = jax.vmap(shifted)(example_keys(key_shift, len(x)), padded)
        return x if self.then is None else self.then(key_then, x)


def without_augmentation(
    prepare: Callable[[Key, Array], Array] | None,
) -> tuple[Callable[[Key, Array], Array] | None, list[str]]:
    """Returns what prepares held-out examples, and the names of the augmentations in front of it.

    `RandomFlip(RandomShift(1, then))` gives (then, ["flip", "shift 1"]).
    """
    augmentation = []
    while isinstance(prepare, RandomFlip | RandomShift):
        name = "flip" if isinstance(prepare, RandomFlip) else f"shift {prepare.pixels}"
        augmentation.append(name)
        prepare = prepare.then
    return prepare, augmentation


def _check_space(x: Array) -> None:
    checks.nothing_is_lost(x, "x")
    if x.ndim < 3:
        raise ValueError(
            f"examples have shape {x.shape[1:]}: wanted (*space, channels), for example images. "
            f"Vectors have no left and right to flip and no pixels to shift: write prepare= "
            f"without RandomFlip and RandomShift."
        )
