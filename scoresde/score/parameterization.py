"""Parameterisations: what the output of a network means.

With x = alpha x_0 + sigma noise, all of them name the same posterior mean, so any converts to any
other:

    Score       s = -noise / sigma                                           (Eq. 1)
    Noise       noise                                                        (Eq. 2)
    Data        x_0                                                          (Eq. 3)
    Velocity    v = alpha noise - sigma x_0                                  (Eq. 4)
    EDM         D = c_skip x + c_out F(c_in x; c_noise)                      (Eq. 5)
                c_in = 1 / n,   c_skip = alpha sigma_data^2 / n^2,   c_out = sigma sigma_data / n
                c_noise = log(sigma / alpha) / 4,   n^2 = alpha^2 sigma_data^2 + sigma^2
    Flow        u = dx/dt = alpha' x_0 + sigma' noise                        (Eq. 6)
                x_0 = (sigma' x - sigma u) / omega,   noise = (alpha u - alpha' x) / omega
                omega = alpha sigma' - sigma alpha'

Noise: Ho et al. 2020 (arXiv:2006.11239). Velocity: Salimans & Ho 2022 (arXiv:2202.00512), here for
any alpha and sigma. EDM: Karras et al. 2022 (arXiv:2206.00364, Table 1), here for any linear SDE.
Flow: Lipman et al. 2023 (arXiv:2210.02747), Eq. 9; it is noise - x_0 under `sd.RectifiedFlow`.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.score.labels import AnyLabel, Scaled
from scoresde.sde.base import SDE, times_of
from scoresde.sde.calculus import derivative
from scoresde.sde.pure_noise import LITTLE_SIGNAL, finite_log_snr
from scoresde.types import Time, right_pad


@runtime_checkable
class Parameterization(Protocol):
    """What the output of a network means, as a map to x_0 and noise and its inverse.

    Both are written so that nothing cancels that need not. x: (batch, *data); t: (batch,).
    """

    def inputs(self, sde: SDE, x: Array, t: Array) -> tuple[Array, Array]:
        """Returns what the network sees: a scaled state, and one label per example."""
        ...

    def data_and_noise(self, sde: SDE, output: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """Returns the (x_0, noise) that the output means."""
        ...

    def prediction(self, sde: SDE, x0: Array, noise: Array, t: Array) -> Array:
        """Returns the output that means x_0 and noise; the inverse of `data_and_noise`."""
        ...


@dataclasses.dataclass(frozen=True)
class _Plain:
    """A network that sees x as it is, and the time by a label.

    Raises:
        TypeError: if the label is not callable.
    """

    label: AnyLabel = Scaled()
    """How the network sees the time; t itself by default."""

    def __post_init__(self):
        if not callable(self.label) or isinstance(self.label, type):
            raise TypeError(
                f"label is {self.label!r}: wanted one such as sd.labels.Index(num_steps=1000), "
                f"or a function (sde, t) → label."
            )

    def inputs(self, sde: SDE, x: Array, t: Array) -> tuple[Array, Array]:
        return x, self.label(sde, t)


@dataclasses.dataclass(frozen=True)
class Score(_Plain):
    """The output is the score, s = -noise / sigma (Eq. 1)."""

    def data_and_noise(self, sde: SDE, output: Array, x: Array, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        return (x + sigma**2 * output) / alpha, -sigma * output

    def prediction(self, sde: SDE, x0: Array, noise: Array, t: Array) -> Array:
        _, sigma = _scales(sde, x0, t)
        return -noise / sigma


@dataclasses.dataclass(frozen=True)
class Noise(_Plain):
    """The output is the noise (Eq. 2; Ho et al. 2020)."""

    def data_and_noise(self, sde: SDE, output: Array, x: Array, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        return (x - sigma * output) / alpha, output

    def prediction(self, sde: SDE, x0: Array, noise: Array, t: Array) -> Array:
        return noise


@dataclasses.dataclass(frozen=True)
class Data(_Plain):
    """The output is x_0 (Eq. 3)."""

    def data_and_noise(self, sde: SDE, output: Array, x: Array, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        return output, (x - alpha * output) / sigma

    def prediction(self, sde: SDE, x0: Array, noise: Array, t: Array) -> Array:
        return x0


@dataclasses.dataclass(frozen=True)
class Velocity(_Plain):
    """The output is v = alpha noise - sigma x_0 (Eq. 4; Salimans & Ho 2022)."""

    def data_and_noise(self, sde: SDE, output: Array, x: Array, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        square = alpha**2 + sigma**2  # 1 for VP
        x0 = (alpha * x - sigma * output) / square
        noise = (sigma * x + alpha * output) / square
        return x0, noise

    def prediction(self, sde: SDE, x0: Array, noise: Array, t: Array) -> Array:
        alpha, sigma = _scales(sde, x0, t)
        return alpha * noise - sigma * x0


@dataclasses.dataclass(frozen=True)
class Flow(_Plain):
    """The output is the velocity of the path, u = alpha' x_0 + sigma' noise (Eq. 6; Lipman et al.
    2023): noise - x_0 under `sd.RectifiedFlow`, for which it is meant.

    Where sigma'(0) is infinite, as under VP, it is infinite at t = 0.
    """

    def data_and_noise(self, sde: SDE, output: Array, x: Array, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        alpha_rate, sigma_rate = _rates(sde, x, t)
        omega = right_pad(sde.rotation(t), x)
        x0 = (sigma_rate * x - sigma * output) / omega
        noise = (alpha * output - alpha_rate * x) / omega
        return x0, noise

    def prediction(self, sde: SDE, x0: Array, noise: Array, t: Array) -> Array:
        alpha_rate, sigma_rate = _rates(sde, x0, t)
        return alpha_rate * x0 + sigma_rate * noise


@dataclasses.dataclass(frozen=True)
class EDM:
    """The output is F of Eq. 5, so that the network sees and predicts unit variance at every t.

    Where alpha(1) = 0, c_noise is that of log SNR -10 at most, beyond which little signal is left.

    Raises:
        ValueError: if sigma_data is not positive.
    """

    sigma_data: float = 0.5
    """Standard deviation of the data."""

    def __post_init__(self):
        checks.setting("sigma_data", self.sigma_data, "(0, inf)")

    def inputs(self, sde: SDE, x: Array, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        return x / self._norm(alpha, sigma), -0.125 * finite_log_snr(sde, t, LITTLE_SIGNAL)

    def data_and_noise(self, sde: SDE, output: Array, x: Array, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        norm = self._norm(alpha, sigma)

        x0 = (alpha * self.sigma_data**2 / norm * x + sigma * self.sigma_data * output) / norm
        # (x - alpha x_0) / sigma, simplified so that nothing cancels.
        noise = (sigma / norm * x - alpha * self.sigma_data * output) / norm
        return x0, noise

    def prediction(self, sde: SDE, x0: Array, noise: Array, t: Array) -> Array:
        alpha, sigma = _scales(sde, x0, t)
        difference = sigma * x0 / self.sigma_data - alpha * self.sigma_data * noise
        return difference / self._norm(alpha, sigma)

    def _norm(self, alpha: Array, sigma: Array) -> Array:
        return jnp.sqrt((alpha * self.sigma_data) ** 2 + sigma**2)


def _scales(sde: SDE, x: Array, t: Array) -> tuple[Array, Array]:
    """Returns alpha and sigma, each broadcast against x."""
    return right_pad(sde.alpha(t), x), right_pad(sde.sigma(t), x)


def _rates(sde: SDE, x: Array, t: Array) -> tuple[Array, Array]:
    """Returns alpha' and sigma', each broadcast against x."""
    return right_pad(derivative(sde.alpha, t), x), right_pad(sde.sigma_rate(t), x)


def convert(
    value: Float[Array, " batch *data"],
    x: Float[Array, " batch *data"],
    t: Time,
    sde: SDE,
    source: Parameterization,
    target: Parameterization,
) -> Float[Array, " batch *data"]:
    """Returns a prediction of one parameterisation as one of another.

    For example `convert(noise, x, t, sde, Noise(), Velocity())`.

    Raises:
        ValueError: if value and x differ in shape, or t does not fit them.
    """
    checks.batch_at_times(x, t)
    if value.shape != x.shape:
        raise ValueError(
            f"value has shape {value.shape}, x has {x.shape}: a prediction has the shape of "
            "its state."
        )

    t = times_of(t, x)
    x0, noise = source.data_and_noise(sde, value, x, t)
    return target.prediction(sde, x0, noise, t)
