"""DDIM."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde.sampling.base import Sample
from scoresde.sampling.exponential import LogSNRSettings, check_solver, exponential, is_noisy
from scoresde.sampling.grid_sampler import check_log_snr
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True)
class DDIM(LogSNRSettings):
    """DDIM (Song et al. 2021, arXiv:2010.02502, Eq. 12), between the deterministic sampler and the ancestral one:

        x_s = alpha_s D + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z,   v = eta^2 (1 - e^{-2h}) sigma_s^2

    D = E[x_0 | x_t] and eps_hat = (x_t - alpha_t D) / sigma_t. eta = 1 is `Ancestral` with its posterior variance. The
    exponential integrator of order 1. Evaluations: num_steps, one more with `denoise`.

    Raises:
        ValueError: if eta lies outside [0, 1], num_steps < 1, not 0 <= t_min < start <= 1, or log SNR is infinite at
            t_min.
    """

    eta: float = 0.0
    """0: deterministic. 1: ancestral."""
    num_steps: int = 20
    """Steps from start to t_min, an evaluation each."""

    def __post_init__(self):
        super().__post_init__()
        check_solver(1, self.eta)

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrate x1 at t = start down to t_min. key: one, or one per example; cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """
        check_log_snr(self, sde)

        def eta(h):  # of the exponential integrator: e^{-2 eta h} = 1 - eta_D^2 + eta_D^2 e^{-2h}
            return -jnp.logaddexp(jnp.log1p(-(self.eta**2)), 2.0 * jnp.log(self.eta) - 2.0 * h) / (
                2.0 * h
            )

        return exponential(self, key, sde, score, x1, cond, 1, eta, is_noisy(self.eta))
