"""SDEs of a noise rate beta(t): VP, linear or by a table, and sub-VP with the smaller variance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sde.base import SDE, as_float, as_time, sqrt_or_zero
from scoresde.types import Scalar, Time, pytree_dataclass


def check_betas(beta_min: Scalar, beta_max: Scalar) -> None:
    """0 <= beta_min <= beta_max, beta_max > 0: rates of the noise, per unit of time."""
    checks.setting("beta_min", beta_min, "[0, inf)")
    checks.setting("beta_max", beta_max, "(0, inf)")
    if is_concrete(beta_min, beta_max) and beta_min > beta_max:
        raise ValueError(
            f"beta_min = {beta_min} is above beta_max = {beta_max}: the rate rises from data to prior. "
            f"Write beta_min={beta_max}, beta_max={beta_min}."
        )


class NoiseRate(SDE):
    """f = -beta / 2: log alpha = -B / 2, B the integral of beta(t). The prior is N(0, I)."""

    def beta(self, t: Time) -> Array:
        """beta(t), the noise rate; like t."""
        raise NotImplementedError

    def integrated_beta(self, t: Time) -> Array:
        """B(t); like t."""
        raise NotImplementedError

    def integrated_beta_between(self, s: Array, t: Array) -> Array:
        """B(t) - B(s) without cancellation."""
        raise NotImplementedError

    def time_from_integrated_beta(self, integral: Array) -> Array:
        """The inverse of `integrated_beta`."""
        raise NotImplementedError

    def log_alpha(self, t: Time) -> Array:
        return -0.5 * self.integrated_beta(t)

    def drift_rate(self, t: Time) -> Array:
        return -0.5 * self.beta(t)

    def prior_std(self) -> Scalar:
        return 1.0


class LinearBeta(NoiseRate):
    """beta(t) = beta_min + (beta_max - beta_min) t."""

    beta_min: Scalar
    beta_max: Scalar

    def beta(self, t: Time) -> Array:
        """beta(t), the noise rate; like t."""
        return self.beta_min + as_time(t) * (self.beta_max - self.beta_min)

    def integrated_beta(self, t: Time) -> Array:
        """B(t) = beta_min t + (beta_max - beta_min) t^2 / 2."""
        t = as_time(t)
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def integrated_beta_between(self, s: Array, t: Array) -> Array:
        """B(t) - B(s) = (t - s) (beta_min + (beta_max - beta_min) (s + t) / 2): no cancellation."""
        return (t - s) * (self.beta_min + 0.5 * (s + t) * (self.beta_max - self.beta_min))

    def time_from_integrated_beta(self, integral: Array) -> Array:
        """t = 2 B / (beta_min + sqrt(beta_min^2 + 2 (beta_max - beta_min) B)), the root that does not cancel."""
        slope = self.beta_max - self.beta_min
        return (
            2.0 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2.0 * slope * integral))
        )


class VariancePreserving(NoiseRate):
    """sigma^2 = 1 - e^(-B), so that alpha^2 + sigma^2 = 1."""

    def variance(self, t: Time) -> Array:
        return -jnp.expm1(-self.integrated_beta(t))  # 1 - exp(.) loses digits near t = 0

    def squared_diffusion(self, t: Time) -> Array:
        return self.beta(t)

    def transition(self, s: Time, t: Time) -> tuple[Array, Array]:
        between = self.integrated_beta_between(*self._ordered(s, t))
        return jnp.exp(-0.5 * between), sqrt_or_zero(-jnp.expm1(-between))

    def time_from_log_snr(self, log_snr: Time) -> Array:
        return self.time_from_integrated_beta(
            jax.nn.softplus(-as_float(log_snr))
        )  # log SNR = -log(e^B - 1)


@pytree_dataclass()
class VP(LinearBeta, VariancePreserving):
    """Variance-preserving SDE, dx = -1/2 beta x dt + sqrt(beta) dw, sigma^2 = 1 - e^(-B).

    Song et al. 2021 (arXiv:2011.13456), Eq. 11 and 33; the limit of DDPM (Ho et al. 2020).

    Raises:
        ValueError: if a rate is negative or not finite, or beta_min > beta_max.
    """

    beta_min: Scalar = 0.1
    """Noise rate at t = 0, per unit of time."""
    beta_max: Scalar = 20.0
    """Noise rate at t = 1, per unit of time."""

    def __post_init__(self):
        check_betas(self.beta_min, self.beta_max)


@pytree_dataclass()
class TabulatedVP(VariancePreserving):
    """The VP SDE through a table of DDPM: B(i / N) = -log alphas_bar_i, i = 0 … N, beta constant in between.

    Its marginals at t = i / N are the chain's exactly, of any schedule; `DDPM.to_sde` makes it.

    Raises:
        ValueError: if the table does not rise from 0.
    """

    table: Array | np.ndarray | tuple[float, ...]
    """B at t = 0, 1/N, … 1: (N + 1,), rising from 0."""

    def __post_init__(self):
        if is_concrete(*jax.tree.leaves(self.table)):
            table = np.asarray(self.table)
            if (
                table.ndim != 1
                or len(table) < 2
                or table[0] != 0.0
                or not np.all(np.diff(table) > 0.0)
            ):
                raise ValueError(
                    f"table is {table}: wanted B(t) at equal steps of t, (N + 1,), rising from 0, e.g. "
                    f"DDPM.cosine(100).to_sde()."
                )
            object.__setattr__(self, "table", tuple(table.tolist()))  # numbers: constants under jit

    def _cell(self, t: Array) -> tuple[Array, Array, Array]:
        """Of t: B at the cell's lower end, beta in it, and t past that end."""
        table = jnp.asarray(self.table, t.dtype)
        n = len(table) - 1
        i = jnp.clip(jnp.floor(t * n).astype(int), 0, n - 1)
        return table[i], n * jnp.diff(table)[i], t - i / n

    def beta(self, t: Time) -> Array:
        return self._cell(as_time(t))[1]

    def integrated_beta(self, t: Time) -> Array:
        start, rate, past = self._cell(as_time(t))
        return start + rate * past

    def integrated_beta_between(self, s: Array, t: Array) -> Array:
        (start_s, rate_s, past_s), (start_t, rate_t, past_t) = self._cell(s), self._cell(t)
        across = (start_t - start_s) + rate_t * past_t - rate_s * past_s
        return jnp.where(start_s == start_t, rate_t * (t - s), across)

    def time_from_integrated_beta(self, integral: Array) -> Array:
        table = jnp.asarray(self.table, integral.dtype)
        return jnp.interp(integral, table, jnp.linspace(0.0, 1.0, len(table), dtype=integral.dtype))


@pytree_dataclass()
class SubVP(LinearBeta):
    """Sub-VP SDE, dx = -1/2 beta x dt + sqrt(beta (1 - e^(-2B))) dw, sigma = 1 - e^(-B) (no root).

    Song et al. 2021 (arXiv:2011.13456), Eq. 12 and 29: its variance lies below VP's at every t.

    Raises:
        ValueError: if a rate is negative or not finite, or beta_min > beta_max.
    """

    beta_min: Scalar = 0.1
    """Noise rate at t = 0, per unit of time."""
    beta_max: Scalar = 20.0
    """Noise rate at t = 1, per unit of time."""

    def __post_init__(self):
        check_betas(self.beta_min, self.beta_max)

    def variance(self, t: Time) -> Array:
        return jnp.expm1(-self.integrated_beta(t)) ** 2

    def sigma(self, t: Time) -> Array:
        return -jnp.expm1(-self.integrated_beta(t))

    def squared_diffusion(self, t: Time) -> Array:
        # 1 - e^(-2B) = -e (2 + e), e = e^(-B) - 1. Not expm1(-2B): fused with a score that holds `variance`, for 8000
        # examples and more, XLA's CPU code (jax 0.10 and 0.12) computed wrong products.
        e = jnp.expm1(-self.integrated_beta(t))
        return -self.beta(t) * e * (2.0 + e)

    def transition(self, s: Time, t: Time) -> tuple[Array, Array]:
        # (1 - e^(-B_t))^2 - e^(B_s - B_t) (1 - e^(-B_s))^2 = (1 - e^(B_s - B_t)) (1 - e^(-B_s - B_t))
        s, t = self._ordered(s, t)
        between = self.integrated_beta_between(s, t)
        total = self.integrated_beta(s) + self.integrated_beta(t)
        return jnp.exp(-0.5 * between), sqrt_or_zero(jnp.expm1(-between) * jnp.expm1(-total))

    def time_from_log_snr(self, log_snr: Time) -> Array:
        # log SNR = -2 log(2 sinh(B / 2))
        return self.time_from_integrated_beta(
            2.0 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * as_float(log_snr)))
        )
