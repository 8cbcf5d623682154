"""Distributions of training times."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.keys import as_typed_key
from scoresde.sde.base import SDE
from scoresde.types import Key

# --- Time distributions ---


@runtime_checkable
class TimeDistribution(Protocol):
    """n times in (0, 1] from one key."""

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]: ...


def check_training_t_min(t_min: float) -> None:
    """0 < t_min < 1: at t = 0 the score of a single example is infinite."""
    checks.setting("t_min", t_min, "(0, 1)")


@dataclasses.dataclass(frozen=True)
class Uniform:
    """t ~ U[t_min, 1], independent."""

    t_min: float = 1e-5

    def __post_init__(self):
        check_training_t_min(self.t_min)

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """n independent times."""
        return self.t_min + (1.0 - self.t_min) * jax.random.uniform(as_typed_key(key), (n,))


@dataclasses.dataclass(frozen=True)
class LowDiscrepancy:
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
        checks.setting("mean", self.mean, "(-inf, inf)")
        checks.setting("std", self.std, "(0, inf)")
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
class LogSNR:
    """log SNR ~ U[log SNR(1), log SNR(t_min)]: importance sampling of the likelihood weighting (Song et al. 2021b).

        1/2 ∫ g^2 |s - grad log q|^2 dt over [t_min, 1] = total_mass / 2 E|sigma s + noise|^2

    So with the plain `weightings.Variance` this trains for likelihood, with the weight's variance gone; `total_mass` is
    the integral of g^2 / sigma^2. For VE it is `Uniform`. Closed-form inverses for VP, sub-VP and VE.

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
class Mixture:
    """Each time from `first` with probability `share`, else from `second`.

    Raises:
        ValueError: if share lies outside [0, 1].
    """

    first: Uniform | LowDiscrepancy | LogSNR = LowDiscrepancy()
    second: Uniform | LowDiscrepancy | LogSNR = LogSNR()
    share: float = 0.5
    """The probability of `first`."""

    def __post_init__(self):
        checks.setting("share", self.share, "[0, 1]")

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """n times; which part each comes from is drawn independently."""
        key_choice, key_first, key_second = jax.random.split(as_typed_key(key), 3)
        chosen = jax.random.uniform(key_choice, (n,)) < self.share
        return jnp.where(
            chosen, self.first.sample(key_first, sde, n), self.second.sample(key_second, sde, n)
        )


@dataclasses.dataclass(frozen=True)
class Levels:
    """One of N noise levels, each as likely: with `weightings.Variance` the L_simple of DDPM, or SMLD's objective.

    The levels are `sde.level_times(N)`: (i + 1) / N, or i / (N - 1) for VE.

    Raises:
        ValueError: if num_steps < 2.
    """

    num_steps: int = 1000
    """N."""

    def __post_init__(self):
        checks.count("num_steps", self.num_steps, 2)

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """n independent levels' times."""
        i = jax.random.randint(as_typed_key(key), (n,), 0, self.num_steps)
        return jnp.asarray(sde.level_times(self.num_steps))[i]


AnyTimes = LowDiscrepancy | Uniform | LogSNR | Mixture | LogNormalSigma | Levels
"""The time distributions that settings choose from."""
