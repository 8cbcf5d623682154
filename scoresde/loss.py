"""Denoising score matching: the loss, its weightings, and where times are drawn."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde.sde.base import SDE, check_sde
from scoresde.types import (
    Cond,
    Key,
    ScoreFn,
    as_typed_key,
    call_score,
    check_batch,
    check_cond,
    check_count,
    check_setting,
    check_time,
    example_keys,
    is_concrete,
    normal_like,
    right_pad,
    sum_data,
)

# --- Weightings: lambda(t) of lambda |s + noise / sigma|^2, given as the factor of |sigma s + noise|^2 ---


@runtime_checkable
class Weighting(Protocol):
    """lambda(t) / sigma(t)^2, one per example."""

    def __call__(self, sde: SDE, t: Float[Array, " batch"]) -> Float[Array, " batch"]: ...


@dataclasses.dataclass(frozen=True)
class VarianceWeighting:
    """lambda = sigma^2: the plain noise-prediction loss (Song & Ermon 2019; Ho et al. 2020, L_simple)."""

    def __call__(self, sde: SDE, t: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class LikelihoodWeighting:
    """lambda = g^2: half its time integral bounds the negative log-likelihood (Song et al. 2021b, arXiv:2101.09258)."""

    def __call__(self, sde: SDE, t: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return sde.squared_diffusion(t) / sde.variance(t)


@dataclasses.dataclass(frozen=True)
class EDMWeighting:
    """Unit weight on EDM's network output F (Karras et al. 2022): factor 1 + sigma^2 / (alpha sigma_data)^2.

    Raises:
        ValueError: if sigma_data is not positive.
    """

    sigma_data: float = 0.5
    """Standard deviation of the data."""

    def __post_init__(self):
        check_setting("sigma_data", self.sigma_data, 0.0, inclusive=False)

    def __call__(self, sde: SDE, t: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return 1.0 + jnp.exp(-sde.log_snr(t)) / self.sigma_data**2


# --- Time distributions ---


@runtime_checkable
class TimeDistribution(Protocol):
    """n times in (0, 1] from one key."""

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]: ...


def check_training_t_min(t_min: float) -> None:
    """0 < t_min < 1: at t = 0 the score of a single example is infinite."""
    check_setting("t_min", t_min, 0.0, 1.0, inclusive=False)


@dataclasses.dataclass(frozen=True)
class UniformTime:
    """t ~ U[t_min, 1], independent."""

    t_min: float = 1e-5

    def __post_init__(self):
        check_training_t_min(self.t_min)

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """n independent times."""
        return self.t_min + (1.0 - self.t_min) * jax.random.uniform(as_typed_key(key), (n,))


@dataclasses.dataclass(frozen=True)
class LowDiscrepancyTime:
    """u_i = mod(u_0 + i / n, 1) on [t_min, 1]: each uniform, together evenly spread (Kingma et al. 2021, App. I.1)."""

    t_min: float = 1e-5

    def __post_init__(self):
        check_training_t_min(self.t_min)

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """n times, one in each n-th of the interval."""
        u = jnp.mod(jax.random.uniform(as_typed_key(key)) + jnp.arange(n) / n, 1.0)
        return self.t_min + (1.0 - self.t_min) * u


@dataclasses.dataclass(frozen=True)
class LogNormalSigma:
    """log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022), truncated to what the SDE spans on [t_min, 1].

    Raises:
        ValueError: if std is not positive, or t_min lies outside (0, 1).
    """

    mean: float = -1.2
    std: float = 1.2
    t_min: float = 1e-5

    def __post_init__(self):
        check_setting("mean", self.mean, -math.inf)
        check_setting("std", self.std, 0.0, inclusive=False)
        check_training_t_min(self.t_min)

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """n independent times."""
        low, high = (-0.5 * sde.log_snr(jnp.asarray(t)) for t in (self.t_min, 1.0))
        z = jax.random.truncated_normal(
            as_typed_key(key), (low - self.mean) / self.std, (high - self.mean) / self.std, (n,)
        )
        t = sde.time_from_log_snr(-2.0 * (self.mean + self.std * z))
        return jnp.clip(t, self.t_min, 1.0)  # the truncation's ends, to rounding


@dataclasses.dataclass(frozen=True)
class LogSNRTime:
    """log SNR ~ U[log SNR(1), log SNR(t_min)]: importance sampling of the likelihood weighting (Song et al. 2021b).

        1/2 ∫ g^2 |s - grad log q|^2 dt over [t_min, 1] = total_mass / 2 E|sigma s + noise|^2

    So with the plain `VarianceWeighting` this trains for likelihood, with the weight's variance gone; `total_mass` is
    the integral of g^2 / sigma^2. For VE it is `UniformTime`. Closed-form inverses for VP, sub-VP and VE.

    Raises:
        ValueError: if t_min lies outside (0, 1).
    """

    t_min: float = 1e-5

    def __post_init__(self):
        check_training_t_min(self.t_min)

    def total_mass(self, sde: SDE) -> Float[Array, ""]:
        """log SNR(t_min) - log SNR(1) = ∫ g^2 / sigma^2 dt."""
        return sde.log_snr(jnp.asarray(self.t_min)) - sde.log_snr(jnp.asarray(1.0))

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """n times, one in each n-th of the range of log SNR, each uniform in it."""
        u = jnp.mod(jax.random.uniform(as_typed_key(key)) + jnp.arange(n) / n, 1.0)
        t = sde.time_from_log_snr(sde.log_snr(jnp.asarray(1.0)) + self.total_mass(sde) * u)
        return jnp.clip(t, self.t_min, 1.0)  # the ends, to rounding


@dataclasses.dataclass(frozen=True)
class TimeMixture:
    """Each time from `first` with probability `share`, else from `second`.

    Raises:
        ValueError: if share lies outside [0, 1].
    """

    first: UniformTime | LowDiscrepancyTime | LogSNRTime = LowDiscrepancyTime()
    second: UniformTime | LowDiscrepancyTime | LogSNRTime = LogSNRTime()
    share: float = 0.5
    """The probability of `first`."""

    def __post_init__(self):
        check_setting("share", self.share, 0.0)
        if self.share > 1.0:
            raise ValueError(f"share = {self.share}: a probability lies in [0, 1].")

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """n times; which part each comes from is drawn independently."""
        key_choice, key_first, key_second = jax.random.split(as_typed_key(key), 3)
        chosen = jax.random.uniform(key_choice, (n,)) < self.share
        return jnp.where(
            chosen, self.first.sample(key_first, sde, n), self.second.sample(key_second, sde, n)
        )


@dataclasses.dataclass(frozen=True)
class LevelTimes:
    """One of N noise levels, each as likely: with `VarianceWeighting` the L_simple of DDPM, or SMLD's objective.

    The levels are `sde.level_times(N)`: (i + 1) / N, or i / (N - 1) for VE.

    Raises:
        ValueError: if num_steps < 2.
    """

    num_steps: int = 1000
    """N."""

    def __post_init__(self):
        check_count("num_steps", self.num_steps, 2)

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """n independent levels' times."""
        i = jax.random.randint(as_typed_key(key), (n,), 0, self.num_steps)
        return jnp.asarray(sde.level_times(self.num_steps))[i]


AnyTimes = LowDiscrepancyTime | UniformTime | LogSNRTime | TimeMixture | LogNormalSigma | LevelTimes
"""The time distributions that settings choose from."""


# --- The loss ---


def dsm_loss(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array, " batch *data"],
    t: Float[Array, " batch"],
    weighting: Weighting = VarianceWeighting(),
    cond: Cond = None,
) -> Float[Array, " batch"]:
    """Denoising score matching (Vincent 2011; Song et al. 2021, arXiv:2011.13456, Eq. 7):

        lambda(t) |score(x_t, t) + noise / sigma|^2,   x_t = alpha x_0 + sigma noise

    One value per example, summed over data dimensions. Its minimiser is the score, its minimum is not 0. key: one, or
    one per example; t: in (0, 1], one per example.

    Raises:
        ValueError: if t does not hold exactly one time per example in (0, 1], or cond one row.
    """
    check_sde(sde)
    check_batch(x0, "x0")
    if jnp.shape(t) != x0.shape[:1]:
        raise ValueError(
            f"t has shape {jnp.shape(t)}, x0 has {x0.shape}: dsm_loss wants one time per example. "
            f"For a single time use jnp.full({x0.shape[:1]}, t)."
        )
    check_time(t)
    if not sde.noisy_at_zero and is_concrete(t) and not bool(jnp.all(t > 0)):
        raise ValueError(
            "t holds 0, the data themselves, where the conditional score is infinite: draw t in [1e-5, 1]."
        )
    check_cond(cond, x0.shape[0])
    noise = normal_like(example_keys(key, x0.shape[0]), x0)
    mean, std = sde.marginal_prob(x0, t)
    std = right_pad(std, x0)
    residual = std * call_score(score, mean + std * noise, t, cond) + noise
    return weighting(sde, t) * sum_data(residual**2)
