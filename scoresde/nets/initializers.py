"""How weights start, and the random keys that they are drawn from.

    LeCun normal:  w ~ N(0, 1 / fan_in), cut at two standard deviations   (Eq. 1)
    fan average:   w ~ U(-l, l),  l² = 6 scale / (fan_in + fan_out)       (Eq. 2)

XLA compiles every new size of a random draw for 0.1 s or more, and a network has dozens of sizes.
Both initialisers therefore draw 2^16, 2^17, ... numbers and keep as many as the weight has entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from scoresde.types import Scalar

zeros = nnx.initializers.zeros_init()

CUT_STD = 0.87962566103423978
"""Standard deviation of N(0, 1) cut at two standard deviations."""


# --- Eq. 1 ---


def lecun_normal(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Draws a weight by Eq. 1, the law of `nnx.initializers.lecun_normal()`."""
    draws = _unit_cut_normal(key, _draw_count(shape), dtype)
    return _scaled_by_fan_in(draws, tuple(shape))


@partial(jax.jit, static_argnums=(1, 2))
def _unit_cut_normal(key: Array, count: int, dtype) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, (count,), dtype) / CUT_STD


@partial(jax.jit, static_argnums=1)
def _scaled_by_fan_in(draws: Array, shape: tuple[int, ...]) -> Array:
    return draws[: math.prod(shape)].reshape(shape) / math.sqrt(math.prod(shape[:-1]))


# --- Eq. 2 ---


def fan_average(scale: float = 1.0) -> Callable[..., Array]:
    """Returns the initialiser of Eq. 2, which DDPM and NCSN++ call `default_init(scale)`."""
    return partial(_fan_average, scale)


def _fan_average(scale: float, key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    fans = math.prod(shape[:-2]) * (shape[-2] + shape[-1])
    limit = math.sqrt(6.0 * scale / fans)

    draws = _uniform(key, _draw_count(shape), dtype)
    return _scaled(draws, limit, tuple(shape))


@partial(jax.jit, static_argnums=(1, 2))
def _uniform(key: Array, count: int, dtype) -> Array:
    return jax.random.uniform(key, (count,), dtype, -1.0, 1.0)


@partial(jax.jit, static_argnums=2)
def _scaled(draws: Array, limit: Scalar, shape: tuple[int, ...]) -> Array:
    return limit * draws[: math.prod(shape)].reshape(shape)


# --- Keys ---


class Keys:
    """Keys for initialisers, used in place of `nnx.Rngs`: fold_in(key, 1), fold_in(key, 2), …

    `nnx.Rngs` counts its draws on the device, this class counts them on the host. A network of 400
    arrays, or its shapes alone, is built in a fraction of the time: 5 s instead of 24 for the
    shapes of NCSN++.
    """

    def __init__(self, rngs: nnx.Rngs):
        self.rngs = rngs
        self._key = rngs.params()
        self._count = 0

    def params(self) -> Array:
        """Returns the next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)

    def dropout(self, rate: float) -> nnx.Dropout:
        """Returns a dropout layer, which has its own random stream only if it drops anything."""
        return nnx.Dropout(rate, rngs=self.rngs if rate > 0.0 else None)


class OneKey(nnx.Rngs):
    """Random streams that give one key for ever: for the shapes of a network, not for its weights.

    The counts of `nnx.Rngs` make a trace take the square of the network's depth.
    """

    def __init__(self):
        super().__init__()
        self.params = _Stream(0, tag="params")
        self.dropout = _Stream(0, tag="dropout")


class _Stream(nnx.RngStream):
    """The stream of `OneKey`."""

    def __call__(self) -> Array:
        return self.key[...]


def _draw_count(shape: tuple[int, ...]) -> int:
    """Returns the least power of two, from 2^16 on, that is enough for the shape."""
    return max(2**16, 1 << (math.prod(shape) - 1).bit_length())
