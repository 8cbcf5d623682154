"""Variance-exploding SDE with geometric sigma(t).

    dx = sigma(t) sqrt(2 log r) dw,   sigma = sigma_min r^t,   r = sigma_max / sigma_min   (Eq. 1)
    p(x_t | x_s): variance sigma_s^2 (r^(2 (t - s)) - 1)                                   (Eq. 2)

Song et al. 2021 (arXiv:2011.13456), Eq. 9 and 30; the limit of NCSN (Song & Ermon 2019).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sde.base import SDE, as_float, as_time
from scoresde.sde.calculus import sqrt_or_zero
from scoresde.types import Scalar, Time, pytree_dataclass


@pytree_dataclass()
class VE(SDE):
    """Variance-exploding SDE whose noise scale rises geometrically from sigma_min to sigma_max.

    The published values of sigma are for data in [0, 1]; for data in [-1, 1] the same process has
    both doubled. Its prior is N(0, sigma_max^2 I).

    Raises:
        ValueError: if a scale is not positive and finite, or sigma_min >= sigma_max.
    """

    sigma_min: Scalar = 0.01
    """Noise scale at t = 0, in units of the data."""
    sigma_max: Scalar = 50.0
    """Noise scale at t = 1, in units of the data: about the largest distance between two
    examples."""

    def __post_init__(self):
        check_sigmas(self.sigma_min, self.sigma_max, "VE(sigma_min=0.01, sigma_max=50.0)")

    @property
    def noisy_at_zero(self) -> bool:
        return True

    @property
    def log_ratio(self) -> Array:
        """log(sigma_max / sigma_min)."""
        return jnp.log(self.sigma_max) - jnp.log(self.sigma_min)

    def log_alpha(self, t: Time) -> Array:
        return jnp.zeros_like(as_time(t))

    def variance(self, t: Time) -> Array:
        return self.sigma(t) ** 2

    def sigma(self, t: Time) -> Array:
        return self.sigma_min * jnp.exp(as_time(t) * self.log_ratio)  # Eq. 1

    def log_snr(self, t: Time) -> Array:
        return -2.0 * (jnp.log(self.sigma_min) + as_time(t) * self.log_ratio)

    def squared_diffusion(self, t: Time) -> Array:
        return 2.0 * self.log_ratio * self.variance(t)

    def transition(self, s: Time, t: Time) -> tuple[Array, Array]:
        s, t = self._ordered(s, t)
        growth = jnp.expm1(2.0 * (t - s) * self.log_ratio)
        return jnp.ones_like(t), self.sigma(s) * sqrt_or_zero(growth)  # Eq. 2

    def time_from_log_snr(self, log_snr: Time) -> Array:
        return (-0.5 * as_float(log_snr) - jnp.log(self.sigma_min)) / self.log_ratio


def check_sigmas(sigma_min: Scalar, sigma_max: Scalar, instead: str) -> None:
    """Checks 0 < sigma_min < sigma_max; both are in units of the data.

    Raises:
        ValueError: if they are not, with what to write instead.
    """
    checks.setting("sigma_min", sigma_min, "(0, inf)")
    checks.setting("sigma_max", sigma_max, "(0, inf)")
    if is_concrete(sigma_min, sigma_max) and sigma_min >= sigma_max:
        raise ValueError(
            f"sigma_min = {sigma_min} is not below sigma_max = {sigma_max}: the noise grows from "
            f"data to prior. Write {instead}."
        )
