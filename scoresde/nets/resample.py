"""Doubling and halving the resolution of images, as DDPM and NCSN++ do.

By the filter k = [1, 3, 3, 1] / 8 of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), in both
directions and with x zero outside:

    filter   y[j] = gain Σ_i k[i] x[stride j + i - pad]                               (Eq. 1)
    up       y[2j] = (x[j - 1] + 3 x[j]) / 4,   y[2j + 1] = (3 x[j] + x[j + 1]) / 4   (Eq. 2)
    down     Eq. 1 with stride 2 and pad 1                                            (Eq. 3)

Eq. 2 is Eq. 1 with gain 2, over x with a zero after each entry. Without the filter, up repeats each
entry (nearest neighbour), and down takes the mean of 2×2 entries.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde.nets.initializers import Keys, fan_average, zeros
from scoresde.nets.layers import conv

Direction = Literal["up", "down"]


class Resample(nnx.Module):
    """A convolution 3 wide that doubles or halves the resolution.

    Up, it acts on the features doubled by nearest neighbours; with the filter, it acts on the
    features with a zero after each entry, and the result is filtered. Down, it has stride 2; with
    the filter, it acts on the filtered features. The original's names are `Upsample` and
    `Downsample`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        direction: Direction,
        fir: bool,
        dtype: Any,
        *,
        rngs: Keys,
    ):
        self.direction = direction
        self.fir = fir

        options: dict[str, Any] = {"kernel_init": fan_average(), "dtype": dtype, "rngs": rngs}
        bias = None
        if direction == "down":
            padding = "VALID" if fir else "SAME"
            self.conv = conv(c_in, c_out, 2, strides=2, padding=padding, **options)
        elif not fir:
            self.conv = conv(c_in, c_out, 2, **options)
        else:
            dilated = {"input_dilation": 2, "padding": ((2, 2), (2, 2))}
            self.conv = conv(c_in, c_out, 2, use_bias=False, **dilated, **options)
            bias = nnx.Param(zeros(rngs.params(), (c_out,), jnp.float32))  # added after the filter
        self.bias = bias

    def __call__(self, h: Array, embedding: Array | None = None) -> Array:
        if self.direction == "down":
            return self.conv(fir_filter(h, pad=2) if self.fir else h)
        if self.bias is None:
            return self.conv(nearest_up(h))

        h = fir_filter(self.conv(h), pad=1, gain=2.0)
        return h + self.bias[...].astype(h.dtype)[None, None, None]


def resample(h: Array, direction: Direction, fir: bool) -> Array:
    """Returns h at twice or half the resolution, channel by channel."""
    if direction == "up":
        return fir_up(h) if fir else nearest_up(h)
    return fir_filter(h, pad=1, stride=2) if fir else mean_down(h)


# --- Without the filter ---


def nearest_up(
    h: Float[Array, " batch height width c"],
) -> Float[Array, " batch twice_height twice_width c"]:
    """Returns h with each entry repeated along both sides."""
    return jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)


def mean_down(
    h: Float[Array, " batch height width c"],
) -> Float[Array, " batch half_height half_width c"]:
    """Returns the means of 2×2 entries."""
    n, height, width, c = h.shape
    squares = h.reshape(n, height // 2, 2, width // 2, 2, c)
    return jnp.mean(squares, axis=(2, 4))


# --- With the filter ---


def fir_up(
    h: Float[Array, " batch height width c"],
) -> Float[Array, " batch twice_height twice_width c"]:
    """Returns h at twice the resolution (Eq. 2)."""
    for axis in (1, 2):
        n = h.shape[axis]
        padded = _pad(h, axis, 1)
        before = jax.lax.slice_in_dim(padded, 0, n, axis=axis)
        after = jax.lax.slice_in_dim(padded, 2, 2 + n, axis=axis)

        even = 0.25 * before + 0.75 * h
        odd = 0.75 * h + 0.25 * after
        pair = jnp.stack([even, odd], axis=axis + 1)
        h = pair.reshape(*h.shape[:axis], 2 * n, *h.shape[axis + 1 :])
    return h


def fir_filter(h: Array, pad: int, stride: int = 1, gain: float = 1.0) -> Array:
    """Returns h filtered in both directions (Eq. 1)."""
    for axis in (1, 2):
        padded = _pad(h, axis, pad)
        last = padded.shape[axis] - 3
        a, b, c, d = (jax.lax.slice_in_dim(padded, i, last + i, stride, axis) for i in range(4))
        h = gain / 8.0 * ((a + d) + 3.0 * (b + c))
    return h


def _pad(h: Array, axis: int, width: int) -> Array:
    """Returns h with `width` zeros at both ends of one axis."""
    widths = [(0, 0)] * h.ndim
    widths[axis] = (width, width)
    return jnp.pad(h, widths)
