"""How integers lie in an interval of real numbers: k owns the k-th of `levels` equal bins.

width of a bin       w    = (high - low) / levels              (Eq. 1)
its lower edge       e(k) = low + (high - low) k / levels      (Eq. 2)
its centre           c(k) = e(k + 1/2)                         (Eq. 3)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Real

from scoresde import checks
from scoresde.checks import is_concrete


@dataclasses.dataclass(frozen=True)
class PixelRange:
    """The interval [low, high] in `levels` equal bins, one for each integer 0 … levels - 1.

    Raises:
        ValueError: if levels < 2 or low >= high.
    """

    levels: int = 256
    """The number of values that a pixel can take."""
    low: float = -1.0
    """The lower end of the interval."""
    high: float = 1.0
    """The upper end of the interval."""

    def __post_init__(self):
        checks.count("levels", self.levels, 2)
        if not self.low < self.high:
            raise ValueError(
                f"low = {self.low} is not below high = {self.high}: they are the ends of the range "
                f"that the data are scaled to. Write low=-1.0, high=1.0."
            )

    @property
    def length(self) -> float:
        """The length of the interval, high - low."""
        return self.high - self.low

    @property
    def bin_width(self) -> float:
        """The width of one bin (Eq. 1)."""
        return self.length / self.levels

    def lower_edge(self, k: Real[Array, " *shape"]) -> Float[Array, " *shape"]:
        """The lower edge of bin k (Eq. 2); k + u lies a fraction u of a bin above it."""
        return self.low + self.length * as_real(k) / self.levels

    def centre(self, k: Real[Array, " *shape"]) -> Float[Array, " *shape"]:
        """The centre of bin k (Eq. 3)."""
        return self.lower_edge(as_real(k) + 0.5)


def as_real(k: Real[Array, " *shape"]) -> Float[Array, " *shape"]:
    """Returns whole numbers as floating-point ones of the default precision, and others as they
    are."""
    return k if jnp.issubdtype(k.dtype, jnp.floating) else jnp.asarray(k, jnp.result_type(float))


OF_DEQUANTIZATION = (
    "Real-valued data need no dequantisation; for other integers write "
    "UniformDequantization(levels=...)."
)


def check_levels(
    k: Array | np.ndarray, levels: int, name: str = "k", advice: str = OF_DEQUANTIZATION
) -> None:
    """Refuses values other than 0 … levels - 1, and warns where most levels are unused.

    Traced values pass, because they cannot be read. advice: what to write for other numbers.

    Raises:
        ValueError: if a value is not whole, is masked, or lies outside 0 … levels - 1.
    """
    checks.nothing_is_lost(k, name)
    if not is_concrete(k) or k.size == 0:
        return

    values = np.asarray(k)  # NumPy and not jnp: inside jit, a known k can still be read
    low = values.min()
    high = values.max()
    whole = bool(np.all(values == np.round(values)))
    if low < 0 and whole:
        raise ValueError(
            f"{name} holds {low} … {high}: wanted whole numbers 0 … {levels - 1}. Write {name} + "
            f"{-int(low)} for {name}, and levels={int(high) - int(low) + 1}."
        )
    if not (low >= 0 and high <= levels - 1 and whole):
        raise ValueError(
            f"{name} holds {low} … {high}: wanted whole numbers 0 … {levels - 1}. {advice}"
        )

    used = int(high) + 1  # int: in uint8, 255 + 1 would be 0
    if k.size >= 64 and 8 * used <= levels:
        checks.warn(
            f"{name} holds {low} … {high} of {levels} levels: if these are all the values of the "
            f"data, write levels={max(2, used)}; otherwise the bits are those of finer bins."
        )


def whole_numbers(x: Any, levels: int, advice: str) -> Array:
    """Returns a batch of whole numbers 0 … levels - 1 as an array.

    Raises:
        ValueError: if it has no batch axis, or other values; advice: what to write for them.
    """
    x = x if hasattr(x, "shape") else np.asarray(x)
    if len(x.shape) < 1:
        raise ValueError("x is a scalar: wanted (batch, *data). For one example write x[None].")
    check_levels(x, levels, "x", advice)
    return jnp.asarray(x)
