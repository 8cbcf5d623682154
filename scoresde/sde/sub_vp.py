"""Sub-VP SDE, whose variance lies below that of VP at every t.

    dx = -1/2 beta x dt + sqrt(beta (1 - e^(-2B))) dw
    log alpha = -B / 2,   sigma = 1 - e^(-B) (no root),   B = ∫ beta dt        (Eq. 1)
    g^2 = beta (1 - e^(-2B)) = -beta e (2 + e),   e = e^(-B) - 1               (Eq. 2)
    p(x_t | x_s): variance (1 - e^(B_s - B_t)) (1 - e^(-B_s - B_t))            (Eq. 3)
    log SNR = -2 log(2 sinh(B / 2)), so B = 2 asinh(e^(-log SNR / 2) / 2)      (Eq. 4)

Song et al. 2021 (arXiv:2011.13456), Eq. 12 and 29.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from scoresde.sde.base import SDE, as_float
from scoresde.sde.calculus import sqrt_or_zero
from scoresde.sde.rate import LinearRate, check_betas
from scoresde.types import Scalar, Time, pytree_dataclass


@pytree_dataclass()
class SubVP(SDE):
    """Sub-VP SDE with beta rising linearly from beta_min to beta_max. Its prior is N(0, I).

    Raises:
        ValueError: if a rate is negative or not finite, or beta_min > beta_max.
    """

    beta_min: Scalar = 0.1
    """Noise rate at t = 0, per unit of time."""
    beta_max: Scalar = 20.0
    """Noise rate at t = 1, per unit of time."""

    def __post_init__(self):
        check_betas(self.beta_min, self.beta_max)

    @property
    def rate(self) -> LinearRate:
        """The noise rate beta(t)."""
        return LinearRate(self.beta_min, self.beta_max)

    def log_alpha(self, t: Time) -> Array:
        return -0.5 * self.rate.integral(t)

    def variance(self, t: Time) -> Array:
        return jnp.expm1(-self.rate.integral(t)) ** 2

    def sigma(self, t: Time) -> Array:
        return -jnp.expm1(-self.rate.integral(t))

    def drift_rate(self, t: Time) -> Array:
        return -0.5 * self.rate.beta(t)

    def squared_diffusion(self, t: Time) -> Array:
        # Eq. 2 in its second form. Fused with a score that holds `variance`, for 8000 examples and
        # more, XLA's CPU code (jax 0.10 and 0.12) computes wrong products of expm1(-2 B).
        e = jnp.expm1(-self.rate.integral(t))
        return -self.rate.beta(t) * e * (2.0 + e)

    def transition(self, s: Time, t: Time) -> tuple[Array, Array]:
        s, t = self._ordered(s, t)
        between = self.rate.integral_between(s, t)
        total = self.rate.integral(s) + self.rate.integral(t)
        variance = jnp.expm1(-between) * jnp.expm1(-total)  # Eq. 3
        return jnp.exp(-0.5 * between), sqrt_or_zero(variance)

    def time_from_log_snr(self, log_snr: Time) -> Array:
        half_sinh = 0.5 * jnp.exp(-0.5 * as_float(log_snr))
        return self.rate.time_of_integral(2.0 * jnp.arcsinh(half_sinh))  # Eq. 4

    def prior_std(self) -> Scalar:
        return 1.0
