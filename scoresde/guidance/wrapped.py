"""What the wrappers of scores share: what a score offers, how it is called, and weights over time.

    w(t) = weight, or weight(log SNR(t))   where low < sigma(t) / alpha(t) <= high          (Eq. 1)
    w(t) = 1                               elsewhere

Kynkäänniemi et al. 2024 (arXiv:2404.07724), Eq. 5, for any linear SDE.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.parallel.held import held, rows_for
from scoresde.sde.base import SDE, are_alike, times_of
from scoresde.types import Cond, Time, right_pad

Weight = Any
"""A number, one per example (batch,), or a function of log SNR, (batch,) → (batch,)."""


def offered(score: Any, name: str) -> Any:
    """Returns what a score offers under this name, such as `denoise`.

    Raises:
        AttributeError: if it does not; so a wrapper's property does not offer it either.
    """
    found = getattr(score, name, None)
    if found is None:
        raise AttributeError(f"{type(score).__name__} does not offer {name}")
    return found


def evaluate(function: Any, score: Any, x: Array, t: Array, cond: Cond) -> Array:
    """Returns function(x, t, cond), without the condition where the score holds its own.

    function: the score itself, or its `denoise`.
    """
    if cond is None or not getattr(score, "takes_cond", True):
        return function(x, t)
    return function(x, t, cond)


def check_alike(names: str, *parts: Any) -> None:
    """Refuses scores and classifiers of different units, and warns of different SDEs.

    Parts that do not say either, such as plain functions, pass, with a warning where another part
    is of standardised data.

    Raises:
        ValueError: if two of them standardise their data differently.
    """
    units = [part.standardization for part in parts if hasattr(part, "standardization")]
    if any(standardization != units[0] for standardization in units[1:]):
        raise ValueError(
            f"{names} are of data in different units, {units[0]} and {units[-1]}: train both with "
            f"the same, standardize=model.standardization."
        )

    silent = [part for part in parts if not hasattr(part, "standardization")]
    if silent and any(standardization is not None for standardization in units):
        name = getattr(silent[0], "__name__", type(silent[0]).__name__)
        checks.warn(
            f"of {names}, one is of standardised data, and {name} does not say in which units it "
            f"is: both see x in standard units. If it is meant so, write {name}.standardization = "
            f"model.standardization."
        )

    processes = [sde for part in parts if (sde := getattr(part, "sde", None)) is not None]
    if any(not are_alike(processes[0], sde) for sde in processes[1:]):
        checks.warn(
            f"{names} belong to different SDEs, {processes[0]} and {processes[-1]}: what one calls "
            f"x_t is not what the other does."
        )


# --- Weights ---


def held_weight(weight: Weight, name: str) -> Weight:
    """Returns a weight as a wrapper holds it: an array, so that a sweep compiles once.

    Raises:
        ValueError: if it is not finite, or has other axes than that of the batch.
    """
    if callable(weight):
        return weight
    if isinstance(weight, Array) and not is_concrete(weight):
        return held(weight, name)

    values = np.asarray(weight)
    is_real = values.dtype.kind in "iuf" and values.ndim <= 1 and values.size > 0
    if not is_real or not np.all(np.isfinite(values)):
        raise ValueError(
            f"{name} is {weight!r}: wanted a finite number, one per example, or a function of log "
            f"SNR."
        )
    return held(values.astype(np.float64), name)


def check_rows(weight: Weight, batch: int, name: str) -> None:
    """Refuses weights of another batch.

    Raises:
        ValueError: if there are.
    """
    if not callable(weight):
        rows_for(weight, batch, name)


def held_interval(interval: Any, sde: SDE | None, weight: Weight) -> Any:
    """Returns the ends of an interval as arrays; None without.

    Raises:
        ValueError: if they are out of order, or the SDE is not known, which Eq. 1 asks for.
    """
    if sde is None and (interval is not None or callable(weight)):
        raise ValueError(
            "an interval of sigma / alpha, and a weight that is a function of log SNR, need the "
            "SDE, which this score does not hold: write process=sde."
        )
    if interval is None:
        return None
    if np.shape(interval) != (2,) and not (isinstance(interval, tuple) and len(interval) == 2):
        raise ValueError(
            f"interval = {interval!r}: wanted (low, high), values of sigma / alpha such as "
            f"(0.2, 5.0)."
        )
    low, high = interval
    if is_concrete(low, high) and not 0.0 <= low < high:
        raise ValueError(
            f"interval = ({low}, {high}): wanted 0 <= low < high, values of sigma / alpha such as "
            f"(0.2, 5.0)."
        )
    return tuple(end if isinstance(end, Array) else np.asarray(end, np.float64) for end in interval)


def weight_at(
    weight: Weight, interval: Any, sde: SDE | None, x: Array, t: Time, name: str = "weight"
) -> Array:
    """Returns w(t) of each example, as it multiplies x (Eq. 1)."""
    t = times_of(t, x)
    if callable(weight):
        assert sde is not None
        value = jnp.asarray(weight(sde.log_snr(t)))
        if value.ndim != 0:
            checks.one_per_example(value, x, name)
    else:
        value = rows_for(weight, len(x), name)
    value = value.astype(x.dtype)

    if interval is not None:
        assert sde is not None
        low, high = interval
        ratio = sde.sigma(t) / sde.alpha(t)
        inside = (ratio > jnp.asarray(low, x.dtype)) & (ratio <= jnp.asarray(high, x.dtype))
        value = jnp.where(inside, value, jnp.ones((), x.dtype))
    return right_pad(value, x)


def mixed(weight: Array, one: Array, other: Array) -> Array:
    """Returns weight · one + (1 - weight) · other, which is `one` to the bit at weight 1."""
    return weight * one + (1.0 - weight) * other  # no case at 1, so that it has a derivative there
