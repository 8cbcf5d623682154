"""The variable in which a solver integrates the probability flow: t itself, or log SNR."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from scoresde.sde.base import SDE
from scoresde.sde.calculus import derivative


@dataclasses.dataclass(frozen=True)
class InTime:
    """u = t."""

    def at(self, sde: SDE, t: Array) -> Array:
        """Returns u(t)."""
        return t

    def time(self, sde: SDE, u: Array) -> tuple[Array, Array]:
        """Returns t(u) and dt/du."""
        return u, jnp.ones_like(u)


@dataclasses.dataclass(frozen=True)
class InLogSNR:
    """u = -log SNR(t), in which the noise level changes evenly: fewer evaluations where t_min is
    tiny."""

    def at(self, sde: SDE, t: Array) -> Array:
        """Returns u(t)."""
        return -sde.log_snr(t)

    def time(self, sde: SDE, u: Array) -> tuple[Array, Array]:
        """Returns t(u) and dt/du."""
        t = jnp.clip(sde.time_from_log_snr(-u), 0.0, 1.0)  # the ends, to rounding
        return t, -1.0 / derivative(sde.log_snr, t)
