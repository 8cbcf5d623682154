"""Labels: how a network sees the noise level, as one number per example."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.sde.base import SDE
from scoresde.sde.pure_noise import finite_log_snr


@runtime_checkable
class Label(Protocol):
    """(sde, t) → how the network sees the noise level, one number per example."""

    def __call__(self, sde: SDE, t: Array) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Scaled:
    """scale × t: 1 for t itself, 999 for networks trained on 0 … 999 (Song et al. 2021).

    Raises:
        ValueError: if the scale is not positive.
    """

    scale: float = 1.0
    """Multiplies t."""

    def __post_init__(self):
        checks.setting("scale", self.scale, "(0, inf)")

    def __call__(self, sde: SDE, t: Array) -> Array:
        return self.scale * t


@dataclasses.dataclass(frozen=True)
class Index:
    """The index of t among N noise levels, 0 … N - 1 as in `DDPM` and `NCSN`.

        index = N t - 1,   or (N - 1) t where t = 0 is a noise level (VE)

    It is a fraction between levels, and negative below the lowest. On a level it is an exact
    integer, so that networks with a table may cast it. For VE, 0 is the smallest sigma; published
    NCSN networks count from the noisiest level: set `descending`.

    Raises:
        ValueError: if num_steps < 2.
    """

    num_steps: int = 1000
    """N, the number of levels."""
    descending: bool = False
    """Whether to count from the noisiest level, N - 1 - index."""

    def __post_init__(self):
        checks.count("num_steps", self.num_steps, at_most=checks.MOST_STEPS)
        if self.num_steps < 2:
            raise ValueError(
                "num_steps is 1, so times between levels have no index: wanted at least two levels."
            )

    def __call__(self, sde: SDE, t: Array) -> Array:
        low, high = sde.level_times(self.num_steps)[[0, -1]].tolist()
        index = (t - low) * ((self.num_steps - 1) / (high - low))

        # Round what is an integer but for the rounding of t. The nearest integer is added as a
        # difference, which is exact here and keeps the derivative in t.
        nearest = jnp.round(index)
        rounding = max(1e-6, 4.0 * self.num_steps * float(jnp.finfo(index.dtype).eps))
        correction = jnp.where(jnp.abs(index - nearest) <= rounding, nearest - index, 0.0)
        index += jax.lax.stop_gradient(correction)

        return self.num_steps - 1 - index if self.descending else index


@dataclasses.dataclass(frozen=True)
class Sigma:
    """sigma(t), or its logarithm (NCSN++; Song et al. 2021, App. H)."""

    log: bool = False
    """Whether to give log sigma(t)."""

    def __call__(self, sde: SDE, t: Array) -> Array:
        return 0.5 * jnp.log(sde.variance(t)) if self.log else sde.sigma(t)


@dataclasses.dataclass(frozen=True)
class LogSNR:
    """scale × log SNR(t): what a network must see while the schedule of its SDE trains (Kingma et
    al. 2021). Where alpha(1) = 0, log SNR is taken to be at least -60.

    Raises:
        ValueError: if the scale is not positive.
    """

    scale: float = 1.0
    """Multiplies log SNR."""

    def __post_init__(self):
        checks.setting("scale", self.scale, "(0, inf)")

    def __call__(self, sde: SDE, t: Array) -> Array:
        return self.scale * finite_log_snr(sde, t)


AnyLabel = Scaled | Index | Sigma | LogSNR
"""The labels that settings choose from."""
