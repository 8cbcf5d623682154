"""Variance-preserving SDE, of a linear rate or of a table of DDPM's.

    dx = -1/2 beta x dt + sqrt(beta) dw
    log alpha = -B / 2,   sigma^2 = 1 - e^(-B),   B = ∫ beta dt        (Eq. 1)
    g^2 = beta                                                         (Eq. 2)
    log SNR = -log(e^B - 1), so B = softplus(-log SNR)                 (Eq. 3)

Song et al. 2021 (arXiv:2011.13456), Eq. 11 and 33; the limit of DDPM (Ho et al. 2020).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde.checks import is_concrete
from scoresde.sde.base import SDE, as_float
from scoresde.sde.calculus import sqrt_or_zero
from scoresde.sde.rate import LinearRate, TabulatedRate, check_betas
from scoresde.types import Scalar, Time, pytree_dataclass


@pytree_dataclass()
class VP(SDE):
    """Variance-preserving SDE with beta rising linearly from beta_min to beta_max. Its prior is
    N(0, I).

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
        return -jnp.expm1(-self.rate.integral(t))  # 1 - exp(.) loses digits near t = 0

    def drift_rate(self, t: Time) -> Array:
        return -0.5 * self.rate.beta(t)

    def squared_diffusion(self, t: Time) -> Array:
        return self.rate.beta(t)  # Eq. 2

    def transition(self, s: Time, t: Time) -> tuple[Array, Array]:
        between = self.rate.integral_between(*self._ordered(s, t))
        return jnp.exp(-0.5 * between), sqrt_or_zero(-jnp.expm1(-between))

    def time_from_log_snr(self, log_snr: Time) -> Array:
        return self.rate.time_of_integral(jax.nn.softplus(-as_float(log_snr)))  # Eq. 3

    def prior_std(self) -> Scalar:
        return 1.0


@pytree_dataclass()
class TabulatedVP(SDE):
    """The VP SDE through a table of DDPM: B(i / N) = -log alphas_bar_i, with beta constant in
    between.

    At t = i / N its marginals are exactly those of the chain, whatever the chain's schedule.
    `DDPM.to_sde` makes it.

    Raises:
        ValueError: if the table does not rise from 0.
    """

    table: Array | np.ndarray | tuple[float, ...]
    """B at t = 0, 1/N, … 1: (N + 1,), rising from 0."""

    def __post_init__(self):
        if not is_concrete(*jax.tree.leaves(self.table)):
            return

        table = np.asarray(self.table)
        rises = table.ndim == 1 and len(table) >= 2 and np.all(np.diff(table) > 0.0)
        if not rises or table[0] != 0.0:
            raise ValueError(
                f"table is {table}: wanted B(t) at equal steps of t, (N + 1,), rising from 0, "
                f"e.g. DDPM.cosine(100).to_sde()."
            )
        object.__setattr__(self, "table", tuple(table.tolist()))  # numbers: constants under jit

    def __str__(self) -> str:
        """Returns what messages call it, without the table."""
        return f"TabulatedVP of {len(self.table) - 1} steps"

    @property
    def rate(self) -> TabulatedRate:
        """The noise rate beta(t)."""
        return TabulatedRate(self.table)

    # The formulas are those of VP, of another rate.
    log_alpha = VP.log_alpha
    variance = VP.variance
    drift_rate = VP.drift_rate
    squared_diffusion = VP.squared_diffusion
    transition = VP.transition
    time_from_log_snr = VP.time_from_log_snr
    prior_std = VP.prior_std
