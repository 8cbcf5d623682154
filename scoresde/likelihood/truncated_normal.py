"""Truncated-normal dequantisation: the SDE's own noise at t_min, cut to the bin of an integer.

    z = alpha c(k) + sigma u,   u ~ N(0, 1) truncated to [-tau, tau]          (Eq. 1)
    c(k) = low + (high - low) (k + 1/2) / levels                              (Eq. 2)
    tau  = alpha (high - low) / (2 levels sigma)                              (Eq. 3)
    Z = 2 Phi(tau) - 1 = erf(tau / sqrt(2))                                   (Eq. 4)
    log q(z | k) = -u^2 / 2 - log(sigma Z sqrt(2 pi)),   one dimension        (Eq. 5)
    H = log(sigma Z sqrt(2 pi e)) - tau phi(tau) / Z                          (Eq. 6)
    -log P(k) <= -E[log p_{t_min}(z)] - D H                                   (Eq. 7)

alpha and sigma are those of the SDE at t_min, phi and Phi the standard normal density and
distribution function, D the number of dimensions (Zheng et al. 2023, i-DODE, arXiv:2305.03935,
Sec. 4.3). For a model of data standardised by (mean, std), z = mean + std z_model, so that sigma
becomes std sigma, and (1 - alpha) mean is added to z.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Real

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.data.pixel_range import PixelRange, check_levels
from scoresde.keys import example_keys
from scoresde.sde.base import SDE
from scoresde.standardization import Standardization
from scoresde.types import Key, sum_data

LARGEST_TAU = 5.0
"""The tau beyond which the data are spikes within their bins, and a warning is given."""


@dataclasses.dataclass(frozen=True)
class TruncatedNormalDequantization:
    """z = alpha c(k) + sigma u, where u is standard normal, truncated to the bin of k (Eq. 1).

    Nothing is trained. z is a state at time t_min, so it goes to `log_likelihood(...,
    t_min=t_min)`, which takes its x0 as a state at that time. The bits per dimension are -(log p
    + D H) / (D ln 2), with no further offset (Eq. 7).

    Warns where tau exceeds 5: the data are then spikes within their bins, a density that no network
    has learnt. The warning names the t_min at which tau is 3.

    Raises:
        ValueError: if levels < 2, low >= high, or t_min lies outside (0, 1); t_min = 0 is allowed
            for an SDE that has noise there.
    """

    sde: SDE
    t_min: float = 1e-5
    """The time at which the likelihood starts."""
    levels: int = 256
    """The number of values that a pixel can take."""
    low: float = -1.0
    """The lower end of the bin of the lowest value."""
    high: float = 1.0
    """The upper end of the bin of the highest value."""
    standardization: Standardization | None = None
    """That of the model, if it has one."""

    def __post_init__(self):
        pixels = self.pixels  # refuses levels, low and high that are out of range
        checks.setting("t_min", self.t_min, "[0, 1)" if self.sde.noisy_at_zero else "(0, 1)")

        if not is_concrete(*jax.tree.leaves((self.sde, self.t_min))):
            return
        _, _, tau = self._scales
        widest = float(jnp.max(tau))
        if widest > LARGEST_TAU:
            half_bin = 0.5 * pixels.bin_width / float(np.min(self._std))
            log_snr = 2.0 * math.log(3.0 / half_bin)
            wanted = float(self.sde.time_from_log_snr(log_snr))
            checks.warn(
                f"at t_min = {self.t_min:g}, half a bin of {self.levels} levels is "
                f"{widest:.0f} standard deviations of the SDE's noise: the data are spikes, "
                f"which no network has seen. Write t_min = {wanted:.1g} to make it 3."
            )

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """Draws z given k (Eq. 1). The noise of example i depends on (key, i) alone.

        Raises:
            ValueError: if a known value of k is not whole, or lies outside 0 … levels - 1.
        """
        check_levels(k, self.levels)

        _, sigma, tau = self._scales
        tau = self._along_last_axis(tau, k.ndim - 1)
        keys = example_keys(key, k.shape[0])
        u = jax.vmap(lambda key: jax.random.truncated_normal(key, -tau, tau, k.shape[1:]))(keys)
        return self._centre(k) + self._along_last_axis(sigma, k.ndim) * u

    @property
    def entropy(self) -> Float[Array, ""]:
        """The entropy H of z given k, in nats per dimension (Eq. 6)."""
        _, sigma, tau = self._scales
        mass = _mass(tau)
        density = jnp.exp(-0.5 * tau**2) / math.sqrt(2.0 * math.pi)
        entropy = jnp.log(sigma * mass) - tau * density / mass
        return 0.5 * math.log(2.0 * math.pi * math.e) + jnp.mean(entropy)  # over the channels

    def log_prob(
        self, z: Float[Array, " batch *data"], k: Real[Array, " batch *data"]
    ) -> Float[Array, " batch"]:
        """log q(z | k) in nats (Eq. 5), one value per example; -inf outside the bin of k."""
        _, sigma, tau = (self._along_last_axis(scale, z.ndim) for scale in self._scales)
        u = (z - self._centre(jnp.asarray(k, z.dtype))) / sigma

        # A draw at the edge of its bin may lie outside it by the rounding of z.
        rounding = 4.0 * jnp.finfo(z.dtype).eps * jnp.abs(z) / sigma
        inside = jnp.abs(u) <= tau * (1.0 + 1e-4) + rounding

        log_density = -0.5 * u**2 - 0.5 * math.log(2.0 * math.pi) - jnp.log(sigma * _mass(tau))
        return sum_data(jnp.where(inside, log_density, -jnp.inf))

    @property
    def pixels(self) -> PixelRange:
        """Where the integers lie before they are scaled by alpha."""
        return PixelRange(self.levels, self.low, self.high)

    @property
    def _std(self) -> np.ndarray:
        """The standard deviations of the data along the last axis, or a single 1."""
        return np.asarray(1.0 if self.standardization is None else self.standardization.std)

    def _centre(self, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """The centre of z given k."""
        alpha = self.sde.alpha(self.t_min)
        centre = alpha * self.pixels.centre(k)
        if self.standardization is None:
            return centre
        mean = self._along_last_axis(self.standardization.mean, k.ndim)
        return centre + (1.0 - alpha) * mean

    @staticmethod
    def _along_last_axis(values: Any, ndim: int) -> Array:
        """Values of the channels, (c,), with `ndim` axes; a number stays one."""
        values = jnp.asarray(values)
        return values if values.ndim == 0 else values.reshape((1,) * (ndim - 1) + (-1,))

    @property
    def _scales(self) -> tuple[Array, Array, Array]:
        """alpha and sigma of the data at t_min, and tau (Eq. 3); the last two (c,) if
        standardised."""
        alpha = self.sde.alpha(self.t_min)
        sigma = self.sde.sigma(self.t_min) * self._std
        tau = alpha * self.pixels.length / (2.0 * self.levels * sigma)
        return alpha, sigma, tau


def _mass(tau: Array) -> Array:
    """The probability that a standard normal lies in [-tau, tau] (Eq. 4)."""
    return jax.scipy.special.erf(tau / math.sqrt(2.0))
