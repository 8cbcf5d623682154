"""Truncated-normal dequantisation: the noise of the SDE itself, cut to the bin of an integer."""

from __future__ import annotations

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Real

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.data.dequantization import check_levels
from scoresde.keys import example_keys
from scoresde.sde.base import SDE
from scoresde.types import Key, sum_data


@dataclasses.dataclass(frozen=True)
class TruncatedNormalDequantization:
    """z = alpha x_c + sigma u, u ~ N(0, 1) truncated to [-tau, tau]: the SDE's own noise at t_min, cut to the bin.

        x_c = low + (high - low) (k + 1/2) / levels,   tau = alpha (high - low) / (2 levels sigma)

    alpha and sigma at t_min (Zheng et al. 2023, arXiv:2305.03935, i-DODE, Sec. 4.3; no training). z is a state of time
    t_min: hand it to `log_likelihood(..., t_min=t_min)`, which takes its x0 as such. The bins are those of alpha x, so

        -log P(k) <= -E log p_{t_min}(z) - D H,   bits/dim = -(log p + D H) / (D ln 2), with no other offset

    Beyond a tau of about 5 the data are spikes within their bins, a density that no network has learnt: that is warned
    of, with the t_min at which tau is 3.

    Raises:
        ValueError: if levels < 2, low >= high, or t_min lies outside (0, 1).
    """

    sde: SDE
    t_min: float = 1e-5
    """Where the likelihood starts."""
    levels: int = 256
    """Number of values a pixel takes."""
    low: float = -1.0
    """Lower end of the lowest value's bin."""
    high: float = 1.0
    """Upper end of the highest value's."""

    def __post_init__(self):
        checks.count("levels", self.levels, 2)
        checks.setting("t_min", self.t_min, "[0, 1)" if self.sde.noisy_at_zero else "(0, 1)")
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}.")
        if (
            is_concrete(*jax.tree.leaves((self.sde, self.t_min)))
            and (tau := float(self._scales[2])) > 5.0
        ):
            half = (self.high - self.low) / (2.0 * self.levels)
            wanted = float(self.sde.time_from_log_snr(2.0 * math.log(3.0 / half)))
            warnings.warn(
                f"at t_min = {self.t_min:g} half a bin of {self.levels} levels is {tau:.0f} standard deviations of the "
                f"SDE's noise: the data are spikes, which no network has seen. t_min = {wanted:.1g} makes it 3.",
                stacklevel=3,
            )

    @property
    def _scales(self) -> tuple[Array, Array, Array]:
        alpha, sigma = self.sde.alpha(self.t_min), self.sde.sigma(self.t_min)
        return alpha, sigma, alpha * (self.high - self.low) / (2.0 * self.levels * sigma)

    def _centre(self, k: Array) -> Array:
        return self.low + (self.high - self.low) * (k + 0.5) / self.levels

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """One draw; example i's noise depends on (key, i) alone.

        Raises:
            ValueError: if a known value of k lies outside 0 … levels - 1, or is not whole.
        """
        check_levels(k, self.levels)
        alpha, sigma, tau = self._scales
        keys = example_keys(key, k.shape[0])
        u = jax.vmap(lambda key: jax.random.truncated_normal(key, -tau, tau, k.shape[1:]))(keys)
        return alpha * self._centre(k) + sigma * u

    @property
    def entropy(self) -> Float[Array, ""]:
        """H of z given k, in nats per dimension: log(sigma Z sqrt(2 pi e)) - tau phi(tau) / Z, Z = 2 Phi(tau) - 1."""
        _, sigma, tau = self._scales
        mass = jax.scipy.special.erf(tau / math.sqrt(2.0))
        density = jnp.exp(-0.5 * tau**2) / math.sqrt(2.0 * math.pi)
        return jnp.log(sigma * mass) + 0.5 * math.log(2.0 * math.pi * math.e) - tau * density / mass

    def log_prob(
        self, z: Float[Array, " batch *data"], k: Real[Array, " batch *data"]
    ) -> Float[Array, " batch"]:
        """log q(z | k) in nats, one per example; -inf outside the bin."""
        alpha, sigma, tau = self._scales
        u = (z - alpha * self._centre(k)) / sigma
        mass = jax.scipy.special.erf(tau / math.sqrt(2.0))
        rounding = 4.0 * jnp.finfo(z.dtype).eps * jnp.abs(z) / sigma
        inside = jnp.abs(u) <= tau * (1.0 + 1e-4) + rounding
        density = -0.5 * u**2 - 0.5 * math.log(2.0 * math.pi) - jnp.log(sigma * mass)
        return sum_data(jnp.where(inside, density, -jnp.inf))
