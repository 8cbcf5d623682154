"""Weights in few bytes: float16 of 8 significant bits, stored byte by byte.

    w = m 2^e,  1/2 <= |m| < 1   ↦   round(2^8 m) / 2^8 · 2^e            (Eq. 1)

A weight changes by at most |w| / 2^8. float16 holds 11 significant bits, so it holds the result
exactly, but for values that are too large, which are refused, and for those below 6e-5, which it
rounds to multiples of 6e-8.

The last three bits of such a float16 are zero, and zip compresses them away where it sees all low
bytes in a row, and then all high bytes:

    [low byte of w_1, w_2, …, w_n],   [high byte of w_1, w_2, …, w_n]    (Eq. 2)

This takes 11 bits a weight, where float16 as it is takes 15.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

SIGNIFICANT_BITS = 8


def rounded(w: Float[np.ndarray, " *shape"]) -> Float[np.ndarray, " *shape"]:
    """Returns weights as float16 of 8 significant bits, rounded to nearest (Eq. 1).

    Raises:
        OverflowError: if a weight is not finite, or beyond the largest float16, 65504.
    """
    mantissa, exponent = np.frexp(w)
    steps = 2.0**SIGNIFICANT_BITS
    nearest = np.ldexp(np.round(steps * mantissa) / steps, exponent)

    with np.errstate(over="ignore"):  # refused in the next line
        halves = np.asarray(nearest, np.float16)
    if not np.all(np.isfinite(halves)):
        raise OverflowError(
            f"the weights reach {np.max(np.abs(w)):g}: wanted finite numbers that float16 holds, "
            f"up to {np.finfo(np.float16).max:g}."
        )
    return halves


def pack(weights: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "2 n"]:
    """Returns the bytes of all weights, one array after the other (Eq. 2).

    Raises:
        OverflowError: if float16 does not hold a weight; the message names its array.
    """
    halves = []
    for name, w in weights.items():
        try:
            halves.append(rounded(w).ravel())
        except OverflowError as error:
            raise OverflowError(f"{name}: {error}") from None

    low_and_high = np.concatenate(halves).astype("<f2").view(np.uint8).reshape(-1, 2)
    return np.ascontiguousarray(low_and_high.T)


def unpack(
    packed: UInt8[np.ndarray, "2 n"], shapes: Sequence[tuple[int, ...]]
) -> list[Float[np.ndarray, ...]]:
    """Returns the packed weights as float32 arrays of these shapes.

    Raises:
        ValueError: if the shapes hold another number of weights.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if packed.shape != (2, sum(sizes)):
        raise ValueError(
            f"the packed weights have shape {packed.shape}, and the shapes hold {sum(sizes)} "
            f"numbers: wanted {(2, sum(sizes))}."
        )

    numbers = np.ascontiguousarray(packed.T).view("<f2").ravel().astype(np.float32)
    pieces = np.split(numbers, np.cumsum(sizes)[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
