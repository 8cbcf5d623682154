"""The variable in which a solver integrates the probability flow: u = u(t), rising from the data.

    InTime            u = t                                                           (Eq. 1)
    InLogSNR          u = -log SNR = 2 log r,   r = sigma / alpha                     (Eq. 2)
    InNoiseToSignal   u = asinh(r / scale),     r = scale sinh u                      (Eq. 3)
                      dt/du = -2 coth(u) / (d log SNR / dt)                           (Eq. 4)
    and where alpha(1) = 0, with 1 / (1 / r + 1 / 100) in place of r                  (Eq. 5)
                      dt/du = scale cosh u / (scale sinh u)^2 sigma^2 / omega         (Eq. 6)

Eq. 3 is r / scale where the noise is small, log(2 r / scale) where it is large. Below `scale` the
flow of smooth data is smooth in r, and equal steps of log r are steps for nothing; far above it the
flow of VE is x proportional to r, of which equal steps of t or r would be too many at one end.
Eq. 5 is even in 1 / r, in which the flow from pure noise is smooth; omega is `SDE.rotation`.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.sde.base import SDE
from scoresde.sde.calculus import derivative


@dataclasses.dataclass(frozen=True)
class InTime:
    """u = t (Eq. 1)."""

    def at(self, sde: SDE, t: Array) -> Array:
        """Returns u(t)."""
        return t

    def time(self, sde: SDE, u: Array) -> tuple[Array, Array]:
        """Returns t(u) and dt/du."""
        return u, jnp.ones_like(u)


@dataclasses.dataclass(frozen=True)
class InLogSNR:
    """u = -log SNR(t), in which the noise level changes evenly (Eq. 2)."""

    def at(self, sde: SDE, t: Array) -> Array:
        """Returns u(t)."""
        return -sde.log_snr(t)

    def time(self, sde: SDE, u: Array) -> tuple[Array, Array]:
        """Returns t(u) and dt/du."""
        t = _time(sde, -u)
        return t, -1.0 / derivative(sde.log_snr, t)


@dataclasses.dataclass(frozen=True)
class InNoiseToSignal:
    """u = asinh(sigma / alpha / scale): even in sigma / alpha below `scale`, in its logarithm above
    (Eq. 3).

    Raises:
        ValueError: if the scale is not positive.
    """

    scale: float = 0.5
    """In units of the data, of whose standard deviation it should be, to a factor of three."""

    def __post_init__(self):
        checks.setting("scale", self.scale, "(0, inf)")

    def at(self, sde: SDE, t: Array) -> Array:
        """Returns u(t)."""
        signal = sde.alpha(t) / sde.sigma(t)
        return jnp.arcsinh(1.0 / ((signal + _ceiling(sde)) * self.scale))  # Eq. 5

    def time(self, sde: SDE, u: Array) -> tuple[Array, Array]:
        """Returns t(u) and dt/du, which is NaN where log SNR is infinite."""
        ratio = self.scale * jnp.sinh(u)
        if not sde.ends_in_noise:
            t = _time(sde, -2.0 * jnp.log(ratio))
            return t, -2.0 / (jnp.tanh(u) * derivative(sde.log_snr, t))  # Eq. 4
        signal = jnp.maximum(1.0 / ratio - _ceiling(sde), 0.0)
        t = _time(sde, 2.0 * jnp.log(signal))
        slope = self.scale * jnp.cosh(u) / ratio**2
        return t, slope * sde.variance(t) / sde.rotation(t)  # Eq. 6


def _ceiling(sde: SDE) -> float:
    """Returns 1 / r of the level above which Eq. 5 goes over to 1 / r; 0 without one."""
    return 0.01 if sde.ends_in_noise else 0.0


Variable = InTime | InLogSNR | InNoiseToSignal


def _time(sde: SDE, log_snr: Array) -> Array:
    """Returns t, within the ends, which rounding may pass."""
    return jnp.clip(sde.time_from_log_snr(log_snr), 0.0, 1.0)
