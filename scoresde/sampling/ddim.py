"""DDIM, between the deterministic sampler and the ancestral one.

    x_s = alpha_s D + sqrt(sigma_s^2 - v) noise + sqrt(v) z                        (Eq. 1)
    v = eta^2 (1 - e^{-2h}) sigma_s^2,   D = E[x_0 | x_t],   noise = (x_t - alpha_t D) / sigma_t
    e^{-2 eta' h} = 1 - eta^2 + eta^2 e^{-2h}                                      (Eq. 2)

It is the exponential integrator of order 1 with the eta' of Eq. 2.

Song et al. 2021 (arXiv:2010.02502), Eq. 12.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from scoresde.sampling.exponential import ExponentialSampler, check_exponential, is_noisy


@dataclasses.dataclass(frozen=True)
class DDIM(ExponentialSampler):
    """DDIM (Eq. 1); eta = 1 is `Ancestral` with its posterior variance.

    Evaluations: num_steps, and one more with `denoise`.

    Raises:
        ValueError: if eta lies outside [0, 1], num_steps < 1, not 0 <= t_min < start <= 1, or log
            SNR is infinite at t_min.
    """

    eta: float = 0.0
    """0 for the deterministic sampler, 1 for the ancestral one."""
    num_steps: int = 20
    """Steps from start to t_min, with one evaluation each."""

    def __post_init__(self):
        super().__post_init__()
        check_exponential(1, self.eta)

    @property
    def _is_noisy(self) -> bool:
        return is_noisy(self.eta)

    def _eta(self, h: Array) -> Array:
        """Returns eta' of Eq. 2."""
        log_of_sum = jnp.logaddexp(jnp.log1p(-(self.eta**2)), 2.0 * jnp.log(self.eta) - 2.0 * h)
        return -log_of_sum / (2.0 * h)
