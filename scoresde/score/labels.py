"""Labels: what a network is told of the noise level."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.sde.base import SDE

# --- What a network sees as its time ---


@runtime_checkable
class Label(Protocol):
    """(sde, t) → what the network is told of the noise level, one number per example."""

    def __call__(self, sde: SDE, t: Array) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Scaled:
    """scale × t: 1 for t itself, 999 for networks that were trained on 0 … 999 (Song et al. 2021)."""

    scale: float = 1.0
    """Multiplies t."""

    def __post_init__(self):
        checks.setting("scale", self.scale, "(0, inf)")

    def __call__(self, sde: SDE, t: Array) -> Array:
        return self.scale * t


@dataclasses.dataclass(frozen=True)
class Index:
    """The index of t among N noise levels, 0 … N - 1 as in `DDPM` and `NCSN`: N t - 1, or (N - 1) t for VE.

    A fraction between levels, and below 0 where t lies under the lowest; on them an integer exactly, so that networks
    with a table may cast it. For VE 0 is the smallest sigma; published NCSN networks count from the noisiest:
    `descending`.

    Raises:
        ValueError: if num_steps < 2.
    """

    num_steps: int = 1000
    """N."""
    descending: bool = False
    """Count from the noisiest level, N - 1 - i."""

    def __post_init__(self):
        checks.count("num_steps", self.num_steps)
        if self.num_steps < 2:
            raise ValueError(
                "num_steps is 1: times between levels have no index there; two levels at least."
            )

    def __call__(self, sde: SDE, t: Array) -> Array:
        low, high = sde.level_times(self.num_steps)[[0, -1]].tolist()
        index = (t - low) * ((self.num_steps - 1) / (high - low))
        nearest = jnp.round(index)
        rounding = max(
            1e-6, 4.0 * self.num_steps * float(jnp.finfo(index.dtype).eps)
        )  # of t, times N
        # An addition, which is exact here, rather than `nearest` itself: the derivative in t stays.
        index += jax.lax.stop_gradient(
            jnp.where(jnp.abs(index - nearest) <= rounding, nearest - index, 0.0)
        )
        return self.num_steps - 1 - index if self.descending else index


@dataclasses.dataclass(frozen=True)
class Sigma:
    """sigma(t) itself, or its logarithm (NCSN++; Song et al. 2021, App. H)."""

    log: bool = False
    """log sigma(t)."""

    def __call__(self, sde: SDE, t: Array) -> Array:
        return 0.5 * jnp.log(sde.variance(t)) if self.log else sde.sigma(t)


AnyLabel = Scaled | Index | Sigma
