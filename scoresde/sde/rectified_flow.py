"""Rectified flow, or flow matching: straight paths from data to noise, as an SDE.

    x_t = (1 - t) x_0 + t noise                                                       (Eq. 1)
    f = -1 / (1 - t),   g^2 = 2 t / (1 - t)                                           (Eq. 2)
    log SNR = 2 log((1 - t) / t)                                                      (Eq. 3)
    dx/dt = E[noise - x_0 | x_t]                                                      (Eq. 4)

Lipman et al. 2023 (arXiv:2210.02747); Liu et al. 2023 (arXiv:2209.03003). Eq. 4 is the probability
flow, and what a network with `sd.Flow()` returns.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from scoresde.sde.base import SDE, as_float, as_time
from scoresde.types import Scalar, Time, pytree_dataclass


@pytree_dataclass()
class RectifiedFlow(SDE):
    """The linear path between data and noise (Eq. 1). Its prior N(0, I) is exactly the law of x_1,
    where f and g are infinite (`ends_in_noise`)."""

    @property
    def ends_in_noise(self) -> bool:
        return True

    def alpha(self, t: Time) -> Array:
        return 1.0 - as_time(t)

    def sigma(self, t: Time) -> Array:
        return as_time(t)

    def log_alpha(self, t: Time) -> Array:
        return jnp.log1p(-as_time(t))

    def variance(self, t: Time) -> Array:
        return as_time(t) ** 2

    def drift_rate(self, t: Time) -> Array:
        return -1.0 / (1.0 - as_time(t))

    def squared_diffusion(self, t: Time) -> Array:
        t = as_time(t)
        return 2.0 * t / (1.0 - t)

    def log_snr(self, t: Time) -> Array:
        t = as_time(t)
        return 2.0 * (jnp.log1p(-t) - jnp.log(t))

    def time_from_log_snr(self, log_snr: Time) -> Array:
        return jax.nn.sigmoid(-0.5 * as_float(log_snr))

    def sigma_rate(self, t: Time) -> Array:
        return jnp.ones_like(as_time(t))

    def rotation(self, t: Time) -> Array:
        return jnp.ones_like(as_time(t))

    def prior_std(self) -> Scalar:
        return 1.0
