"""The cosine schedule, a variance-preserving SDE that ends in pure noise.

    alpha = cos(A) / cos(B),   A = a (t + s),   B = a s,   a = pi / (2 (1 + s))      (Eq. 1)
          = sin(a (1 - t)) / cos(B)
    sigma^2 = 1 - alpha^2 = sin(A - B) sin(A + B) / cos(B)^2                          (Eq. 2)
    f = -a tan(A) = -a / tan(a (1 - t)),   g^2 = -2 f                                 (Eq. 3)

The second forms do not cancel at the ends. Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. 17, in
continuous time and without the clipping of its last steps.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.sde.base import SDE, as_float, as_time
from scoresde.types import Scalar, Time, pytree_dataclass


@pytree_dataclass()
class Cosine(SDE):
    """Variance-preserving SDE of the cosine schedule. Its prior N(0, I) is exactly the law of x_1,
    where f and g are infinite (`ends_in_noise`).

    Raises:
        ValueError: if the offset is not positive.
    """

    offset: Scalar = 0.008
    """s, which keeps the noise near t = 0 from being too small."""

    def __post_init__(self):
        checks.setting("offset", self.offset, "(0, inf)")

    @property
    def ends_in_noise(self) -> bool:
        return True

    @property
    def _angle(self) -> Scalar:
        """a of Eq. 1."""
        return 0.5 * math.pi / (1.0 + self.offset)

    def alpha(self, t: Time) -> Array:
        return jnp.sin(self._angle * (1.0 - as_time(t))) / self._cos_of_offset  # Eq. 1

    def log_alpha(self, t: Time) -> Array:
        return jnp.log(self.alpha(t))

    def variance(self, t: Time) -> Array:
        angle = self._angle * as_time(t)
        twice = 2.0 * self._angle * self.offset
        return jnp.sin(angle) * jnp.sin(angle + twice) / self._cos_of_offset**2  # Eq. 2

    def drift_rate(self, t: Time) -> Array:
        return -self._angle / jnp.tan(self._angle * (1.0 - as_time(t)))  # Eq. 3

    def squared_diffusion(self, t: Time) -> Array:
        return -2.0 * self.drift_rate(t)

    def time_from_log_snr(self, log_snr: Time) -> Array:
        """Inverts Eq. 2 by sin(A)^2 = sin(B)^2 + sigma^2 cos(B)^2 and sin(A - B), and where there
        is more noise than signal Eq. 1."""
        log_snr = as_float(log_snr)
        cos = self._cos_of_offset
        clean = log_snr > 0.0

        variance = jnp.where(clean, jax.nn.sigmoid(-log_snr), 0.5)
        sin = jnp.sin(self._angle * self.offset)
        squared = sin**2 + variance * cos**2
        sin_of_sum = jnp.sqrt(squared) * cos + jnp.sqrt(1.0 - squared) * sin
        from_variance = jnp.arcsin(variance * cos**2 / sin_of_sum) / self._angle

        alpha = jnp.sqrt(jax.nn.sigmoid(jnp.where(clean, 0.0, log_snr)))
        from_alpha = 1.0 - jnp.arcsin(alpha * cos) / self._angle
        return jnp.where(clean, from_variance, from_alpha)

    def prior_std(self) -> Scalar:
        return 1.0

    @property
    def _cos_of_offset(self) -> Array:
        """cos(B) of Eq. 1."""
        return jnp.cos(self._angle * self.offset)
