"""The process of EDM, whose noise scale rises as the Karras grid does.

    alpha = 1,   sigma = (low + t (high - low))^rho                                   (Eq. 1)
    low = sigma_min^(1 / rho),   high = sigma_max^(1 / rho)
    g^2 = 2 rho (high - low) (low + t (high - low))^(2 rho - 1)                       (Eq. 2)

Karras et al. 2022 (arXiv:2206.00364), Eq. 5: equal steps of t are their steps.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.sde.base import SDE, as_float, as_time
from scoresde.sde.ve import check_sigmas
from scoresde.types import Scalar, Time, pytree_dataclass


@pytree_dataclass()
class EDMProcess(SDE):
    """Variance-exploding SDE of Karras et al. 2022, for data of standard deviation 0.5. t = 0 is
    the noise level sigma_min; the prior is N(0, sigma_max^2 I).

    Raises:
        ValueError: if a setting is not positive and finite, or sigma_min >= sigma_max.
    """

    sigma_min: Scalar = 0.002
    """Noise scale at t = 0, in units of the data."""
    sigma_max: Scalar = 80.0
    """Noise scale at t = 1, in units of the data."""
    rho: Scalar = 7.0
    """How much of the time is spent at low noise: 1 is linear in sigma."""

    def __post_init__(self):
        check_sigmas(self.sigma_min, self.sigma_max, "EDMProcess(sigma_min=0.002, sigma_max=80.0)")
        checks.setting("rho", self.rho, "(0, inf)")

    @property
    def noisy_at_zero(self) -> bool:
        return True

    def log_alpha(self, t: Time) -> Array:
        return jnp.zeros_like(as_time(t))

    def sigma(self, t: Time) -> Array:
        low, slope = self._root
        return (low + as_time(t) * slope) ** self.rho  # Eq. 1

    def variance(self, t: Time) -> Array:
        return self.sigma(t) ** 2

    def log_snr(self, t: Time) -> Array:
        low, slope = self._root
        return -2.0 * self.rho * jnp.log(low + as_time(t) * slope)

    def squared_diffusion(self, t: Time) -> Array:
        low, slope = self._root
        return 2.0 * self.rho * slope * (low + as_time(t) * slope) ** (2.0 * self.rho - 1.0)

    def time_from_log_snr(self, log_snr: Time) -> Array:
        low, slope = self._root
        return (jnp.exp(-0.5 * as_float(log_snr) / self.rho) - low) / slope

    @property
    def _root(self) -> tuple[Scalar, Scalar]:
        """sigma^(1 / rho) at t = 0, and how much it rises."""
        power = 1.0 / self.rho
        low = self.sigma_min**power
        return low, self.sigma_max**power - low
