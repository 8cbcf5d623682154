"""Parameterisations: what the output of a network means."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.score.labels import AnyLabel, Scaled
from scoresde.sde.base import SDE, as_time
from scoresde.types import Time, right_pad

State = Float[Array, " batch *data"]


@runtime_checkable
class Parameterization(Protocol):
    """What the network's output means. Every one names the same posterior mean, so any converts to any other.

    With x = alpha x_0 + sigma noise, `data_and_noise` reads x_0 and noise off the output, `prediction` is its inverse
    on pairs consistent with x. Both are written so that nothing cancels that need not.
    """

    def inputs(self, sde: SDE, x: State, t: Array) -> tuple[Array, Array]:
        """What the network sees for (x, t): a scaled state and a time-like number per example."""
        ...

    def data_and_noise(self, sde: SDE, output: State, x: State, t: Array) -> tuple[Array, Array]:
        """(x_0, noise) that the output stands for."""
        ...

    def prediction(self, sde: SDE, x0: State, noise: State, t: Array) -> Array:
        """The output that stands for x_0 and noise."""
        ...


# --- Parameterisations ---


@dataclasses.dataclass(frozen=True)
class _Plain:
    """The network sees x as it is."""

    label: AnyLabel = Scaled()
    """What it sees as its time; t itself by default."""

    def __post_init__(self):
        if not callable(self.label) or isinstance(self.label, type):
            raise TypeError(
                f"label is {self.label!r}: wanted one such as sd.labels.Index(num_steps=1000), or (sde, t) → label."
            )

    def inputs(self, sde: SDE, x: State, t: Array) -> tuple[Array, Array]:
        return x, self.label(sde, t)


@dataclasses.dataclass(frozen=True)
class Score(_Plain):
    """The output is the score itself, s = -noise / sigma."""

    def data_and_noise(self, sde: SDE, output: State, x: State, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        return (x + sigma**2 * output) / alpha, -sigma * output

    def prediction(self, sde: SDE, x0: State, noise: State, t: Array) -> Array:
        _, sigma = _scales(sde, x0, t)
        return -noise / sigma


@dataclasses.dataclass(frozen=True)
class Noise(_Plain):
    """The output is the noise (Ho et al. 2020, arXiv:2006.11239)."""

    def data_and_noise(self, sde: SDE, output: State, x: State, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        return (x - sigma * output) / alpha, output

    def prediction(self, sde: SDE, x0: State, noise: State, t: Array) -> Array:
        return noise


@dataclasses.dataclass(frozen=True)
class Data(_Plain):
    """The output is x_0."""

    def data_and_noise(self, sde: SDE, output: State, x: State, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        return output, (x - alpha * output) / sigma

    def prediction(self, sde: SDE, x0: State, noise: State, t: Array) -> Array:
        return x0


@dataclasses.dataclass(frozen=True)
class Velocity(_Plain):
    """The output is v = alpha noise - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512), for any alpha and sigma."""

    def data_and_noise(self, sde: SDE, output: State, x: State, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        square = alpha**2 + sigma**2  # 1 for VP
        return (alpha * x - sigma * output) / square, (sigma * x + alpha * output) / square

    def prediction(self, sde: SDE, x0: State, noise: State, t: Array) -> Array:
        alpha, sigma = _scales(sde, x0, t)
        return alpha * noise - sigma * x0


@dataclasses.dataclass(frozen=True)
class EDM:
    """Preconditioning of Karras et al. 2022 (arXiv:2206.00364, Table 1), for any linear SDE:

        D = c_skip x + c_out F(c_in x; c_noise),   n^2 = alpha^2 sigma_data^2 + sigma^2
        c_in = 1 / n,   c_skip = alpha sigma_data^2 / n^2,   c_out = sigma sigma_data / n
        c_noise = log(sigma / alpha) / 4

    The network sees and predicts unit variance at every t.

    Raises:
        ValueError: if sigma_data is not positive.
    """

    sigma_data: float = 0.5
    """Standard deviation of the data."""

    def __post_init__(self):
        checks.setting("sigma_data", self.sigma_data, "(0, inf)")

    def inputs(self, sde: SDE, x: State, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        return x / self._norm(alpha, sigma), -0.125 * sde.log_snr(t)

    def data_and_noise(self, sde: SDE, output: State, x: State, t: Array) -> tuple[Array, Array]:
        alpha, sigma = _scales(sde, x, t)
        norm = self._norm(alpha, sigma)
        x0 = (alpha * self.sigma_data**2 / norm * x + sigma * self.sigma_data * output) / norm
        noise = (
            sigma / norm * x - alpha * self.sigma_data * output
        ) / norm  # (x - alpha x_0) / sigma, simplified
        return x0, noise

    def prediction(self, sde: SDE, x0: State, noise: State, t: Array) -> Array:
        alpha, sigma = _scales(sde, x0, t)
        return (sigma * x0 / self.sigma_data - alpha * self.sigma_data * noise) / self._norm(
            alpha, sigma
        )

    def _norm(self, alpha: Array, sigma: Array) -> Array:
        return jnp.sqrt((alpha * self.sigma_data) ** 2 + sigma**2)


def _scales(sde: SDE, x: Array, t: Array) -> tuple[Array, Array]:
    return right_pad(sde.alpha(t), x), right_pad(sde.sigma(t), x)


def convert(
    value: State, x: State, t: Time, sde: SDE, source: Parameterization, target: Parameterization
) -> State:
    """A prediction in one parameterisation, restated in another, e.g. `convert(eps, x, t, sde, Noise(), Velocity())`.

    Raises:
        ValueError: if value and x differ in shape, or t does not fit them.
    """
    checks.batch_at_times(x, t)
    if value.shape != x.shape:
        raise ValueError(
            f"value has shape {value.shape}, x has {x.shape}: a prediction has the shape of its state."
        )
    t = jnp.broadcast_to(as_time(t), x.shape[:1])
    return target.prediction(sde, *source.data_and_noise(sde, value, x, t), t)
