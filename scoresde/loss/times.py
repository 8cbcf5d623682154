"""Distributions of training times.

With u_i = mod(u + i / n, 1), u ~ U[0, 1), for n times that are each uniform and together evenly
spread (Kingma et al. 2021, arXiv:2107.00630, App. I.1):

    Uniform           t ~ U[t_min, 1]                                             (Eq. 1)
    LowDiscrepancy    t_i = t_min + (1 - t_min) u_i                               (Eq. 2)
    LogNormalSigma    log(sigma / alpha) ~ N(mean, std^2), truncated to [t_min, 1]     (Eq. 3)
    LogSNR            log SNR(t_i) = log SNR(1) + total_mass u_i                  (Eq. 4)
                      total_mass = log SNR(t_min) - log SNR(1) = ∫ g^2 / sigma^2 dt    (Eq. 5)
    Levels            t = t_i of N noise levels, each with probability 1 / N      (Eq. 6)

Eq. 4 is importance sampling of the likelihood weighting: its density is g^2 / sigma^2 over
total_mass, so

    1/2 ∫ g^2 |s - grad log q(x_t | x_0)|^2 dt = total_mass / 2 E|sigma s + noise|^2   (Eq. 7)

Karras et al. 2022 (arXiv:2206.00364), Table 1, for Eq. 3; Song et al. 2021b (arXiv:2101.09258) for
Eq. 4 and 7. Integrals run over [t_min, 1].
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.keys import as_typed_key
from scoresde.sde.base import SDE
from scoresde.sde.pure_noise import even, log_snr_of_even
from scoresde.types import Key


@runtime_checkable
class TimeDistribution(Protocol):
    """A distribution of training times in (0, 1], which may depend on the SDE."""

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """Draws n times from one key."""
        ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Independent times, uniform on [t_min, 1] (Eq. 1).

    Raises:
        ValueError: if t_min lies outside (0, 1).
    """

    t_min: float = 1e-5
    """The earliest time, above 0, where the score of a single example is infinite."""

    def __post_init__(self):
        checks.setting("t_min", self.t_min, "(0, 1)")

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """Draws n independent times."""
        u = jax.random.uniform(as_typed_key(key), (n,))
        return self.t_min + (1.0 - self.t_min) * u


@dataclasses.dataclass(frozen=True)
class LowDiscrepancy:
    """Times that are each uniform on [t_min, 1], and together evenly spread (Eq. 2).

    Raises:
        ValueError: if t_min lies outside (0, 1).
    """

    t_min: float = 1e-5
    """The earliest time, above 0, where the score of a single example is infinite."""

    def __post_init__(self):
        checks.setting("t_min", self.t_min, "(0, 1)")

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """Draws n times, one in each n-th of the interval."""
        return self.t_min + (1.0 - self.t_min) * _evenly_spread(key, n)


@dataclasses.dataclass(frozen=True)
class LogNormalSigma:
    """Log-normal noise level sigma / alpha, as in EDM, within what the SDE spans (Eq. 3).

    Raises:
        ValueError: if the mean is not finite, std is not positive, or t_min lies outside (0, 1).
    """

    mean: float = -1.2
    """Mean of log(sigma / alpha)."""
    std: float = 1.2
    """Standard deviation of log(sigma / alpha), before truncation."""
    t_min: float = 1e-5
    """The earliest time, above 0, where the score of a single example is infinite."""

    def __post_init__(self):
        checks.setting("mean", self.mean, "(-inf, inf)")
        checks.setting("std", self.std, "(0, inf)")
        checks.setting("t_min", self.t_min, "(0, 1)")

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """Draws n independent times."""
        low = self._standardized(sde, self.t_min)
        high = self._standardized(sde, 1.0)
        z = jax.random.truncated_normal(as_typed_key(key), low, high, (n,))

        t = sde.time_from_log_snr(-2.0 * (self.mean + self.std * z))
        return jnp.clip(t, self.t_min, 1.0)  # rounding may pass the ends of the truncation

    def _standardized(self, sde: SDE, t: float) -> Array:
        """Returns log(sigma / alpha) at t, in standard deviations from the mean."""
        return (-0.5 * sde.log_snr(jnp.asarray(t)) - self.mean) / self.std


@dataclasses.dataclass(frozen=True)
class LogSNR:
    """Evenly spread log SNR: importance sampling of the likelihood weighting (Eq. 4).

    With `weightings.Variance` the loss trains for likelihood (Eq. 7), without the variance that the
    likelihood weighting adds. For VE the times are uniform. Where alpha(1) = 0 the range is
    infinite, and G takes the place of log SNR (sde/pure_noise.py, Eq. 1): times below log SNR -10,
    on which the bound does not depend to 1e-4, are drawn less often.

    Raises:
        ValueError: if t_min lies outside (0, 1).
    """

    t_min: float = 1e-5
    """The earliest time, above 0, where the score of a single example is infinite."""

    def __post_init__(self):
        checks.setting("t_min", self.t_min, "(0, 1)")

    def total_mass(self, sde: SDE) -> Float[Array, ""]:
        """Returns the range of log SNR, which is the integral of g^2 / sigma^2 (Eq. 5)."""
        ends = jnp.asarray([1.0, self.t_min])
        return jnp.diff(even(sde, sde.log_snr(ends)))[0]

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """Draws n times, one in each n-th of the range of log SNR."""
        u = _evenly_spread(key, n)
        value = even(sde, sde.log_snr(jnp.asarray(1.0))) + self.total_mass(sde) * u
        t = sde.time_from_log_snr(log_snr_of_even(sde, value))
        return jnp.clip(t, self.t_min, 1.0)  # rounding may pass the ends


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Each time comes from `first` with probability `share`, and from `second` otherwise.

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
        """Draws n times; which part each comes from is drawn independently."""
        key_choice, key_first, key_second = jax.random.split(as_typed_key(key), 3)
        from_first = jax.random.uniform(key_choice, (n,)) < self.share

        first = self.first.sample(key_first, sde, n)
        second = self.second.sample(key_second, sde, n)
        return jnp.where(from_first, first, second)


@dataclasses.dataclass(frozen=True)
class Levels:
    """The times of N noise levels, all equally likely (Eq. 6).

    The levels are `sde.level_times(N)`: (i + 1) / N, or i / (N - 1) for VE. With
    `weightings.Variance` the loss is L_simple of DDPM, or the objective of NCSN for VE.

    Raises:
        ValueError: if num_steps < 2.
    """

    num_steps: int = 1000
    """N, the number of levels."""

    def __post_init__(self):
        checks.count("num_steps", self.num_steps, 2, at_most=checks.MOST_STEPS)

    def sample(self, key: Key, sde: SDE, n: int) -> Float[Array, " n"]:
        """Draws the times of n independent levels."""
        i = jax.random.randint(as_typed_key(key), (n,), 0, self.num_steps)
        return jnp.asarray(sde.level_times(self.num_steps))[i]


if TYPE_CHECKING:
    AnyTimes = TimeDistribution  # Python takes custom ones
else:
    AnyTimes = LowDiscrepancy | Uniform | LogSNR | Mixture | LogNormalSigma | Levels
    """The time distributions that settings files and the command line choose from."""


def _evenly_spread(key: Key, n: int) -> Float[Array, " n"]:
    """Draws u_i = mod(u + i / n, 1), one number in each n-th of [0, 1)."""
    u = jax.random.uniform(as_typed_key(key))
    return jnp.mod(u + jnp.arange(n) / n, 1.0)
