"""Twice and half the resolution: nearest neighbours and means, or the filter [1, 3, 3, 1] of StyleGAN2 (NCSN++)."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde.nets.layers import Keys, fan_average, zeros
from scoresde.nets.unet import conv


class Resample(nnx.Module):
    """A convolution 3 wide that doubles or halves the resolution.

    Up: after nearest neighbours; with the filter, between zeros and then filtered (Karras et al. 2020, StyleGAN2).
    Down: at every other place; with the filter, of the filtered features.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        direction: Literal["up", "down"],
        fir: bool,
        dtype: Any,
        *,
        rngs: Keys,
    ):
        self.direction, self.fir = direction, fir
        options: dict[str, Any] = {} if direction == "up" else {"strides": 2}
        if fir:
            places = {
                "up": {"input_dilation": 2, "padding": ((2, 2), (2, 2)), "use_bias": False},
                "down": {"padding": "VALID"},
            }
            options |= places[direction]
        self.conv = conv(
            c_in, c_out, 2, kernel_init=fan_average(), dtype=dtype, rngs=rngs, **options
        )
        self.bias = (
            nnx.Param(zeros(rngs.params(), (c_out,))) if fir and direction == "up" else None
        )  # not filtered

    def __call__(self, h: Array, embedding: Array | None = None) -> Array:
        if self.direction == "down":
            return self.conv(fir_filter(h, pad=2) if self.fir else h)
        if self.bias is None:
            return self.conv(nearest_up(h))
        h = fir_filter(self.conv(h), pad=1, gain=2.0)
        return h + self.bias[...].astype(h.dtype)


def resample(h: Array, direction: Literal["up", "down"], fir: bool) -> Array:
    """Twice or half the resolution, channel by channel."""
    if direction == "up":
        return fir_up(h) if fir else nearest_up(h)
    n, height, width, c = h.shape
    halves = h.reshape(n, height // 2, 2, width // 2, 2, c)
    return fir_filter(h, pad=1, stride=2) if fir else jnp.mean(halves, axis=(2, 4))


def nearest_up(
    h: Float[Array, " batch height width c"],
) -> Float[Array, " batch twice_height twice_width c"]:
    """Every entry four times."""
    return jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)


def fir_up(
    h: Float[Array, " batch height width c"],
) -> Float[Array, " batch twice_height twice_width c"]:
    """y[2j] = (x[j - 1] + 3 x[j]) / 4, y[2j + 1] = (3 x[j] + x[j + 1]) / 4 in both directions, x zero outside.

    That is [1, 3, 3, 1] / 4 over x with a zero after each entry.
    """
    for axis in (1, 2):
        n, padded = h.shape[axis], _pad(h, axis, 1)
        before, after = (jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in (0, 2))
        pair = jnp.stack([0.25 * before + 0.75 * h, 0.75 * h + 0.25 * after], axis=axis + 1)
        h = pair.reshape(*h.shape[:axis], 2 * n, *h.shape[axis + 1 :])
    return h


def fir_filter(h: Array, pad: int, stride: int = 1, gain: float = 1.0) -> Array:
    """y[j] = gain Σ_i k[i] x[stride j + i - pad] in both directions, k = [1, 3, 3, 1] / 8, x zero outside."""
    for axis in (1, 2):
        padded = _pad(h, axis, pad)
        last = padded.shape[axis] - 3
        a, b, c, d = (jax.lax.slice_in_dim(padded, i, last + i, stride, axis) for i in range(4))
        h = gain / 8.0 * ((a + d) + 3.0 * (b + c))
    return h


def _pad(h: Array, axis: int, width: int) -> Array:
    return jnp.pad(h, [(width, width) if i == axis else (0, 0) for i in range(h.ndim)])
