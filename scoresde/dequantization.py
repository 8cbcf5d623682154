"""From integers to real numbers, so that a density bounds a probability."""

from __future__ import annotations

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Real

from scoresde.precision import precision_of
from scoresde.sde.base import SDE
from scoresde.types import (
    Key,
    check_count,
    check_setting,
    data_dim,
    example_keys,
    is_concrete,
    sum_data,
)


@dataclasses.dataclass(frozen=True)
class UniformDequantization:
    """x = low + (high - low) (k + u) / levels, u ~ U[0, 1): integers k in 0 … levels - 1 to reals in [low, high).

    -log2 of the density of x, plus log2(levels / (high - low)) per dimension (`bits_per_dim`), bounds the bits of k
    (Theis et al. 2016, arXiv:1511.01844).

    Raises:
        ValueError: if levels < 2 or low >= high.
    """

    levels: int = 256
    """Number of values a pixel takes."""
    low: float = -1.0
    """What the lowest value maps to."""
    high: float = 1.0
    """What one above the highest value maps to."""

    def __post_init__(self):
        check_count("levels", self.levels, 2)
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}.")

    def __call__(self, key: Key, k: Real[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """One draw; example i's noise depends on (key, i) alone.

        Raises:
            ValueError: if a known value of k lies outside 0 … levels - 1, or is not whole.
        """
        check_levels(k, self.levels)
        keys = example_keys(key, k.shape[0])
        u = jax.vmap(lambda key: jax.random.uniform(key, k.shape[1:]))(keys)
        return self.low + (self.high - self.low) * (k + u) / self.levels

    @property
    def entropy(self) -> float:
        """Of x given k, in nats per dimension: log of a bin's width."""
        return math.log((self.high - self.low) / self.levels)

    def log_prob(
        self, x: Float[Array, " batch *data"], k: Real[Array, " batch *data"]
    ) -> Float[Array, " batch"]:
        """log q(x | k) in nats, one per example."""
        return jnp.full(x.shape[:1], -data_dim(x) * self.entropy)


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
        check_count("levels", self.levels, 2)
        check_setting("t_min", self.t_min, 0.0, 1.0, inclusive=self.sde.noisy_at_zero)
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


def discrete_bits_per_dim(
    log_prob: Float[Array, " draws batch"],
    log_q: Float[Array, " draws batch"],
    dim: int,
    stderr: Float[Array, " draws batch"] | None = None,
) -> Float[Array, " batch"]:
    """Bits per dimension of integers k, -log2[1/K sum_i p(z_i) / q(z_i | k)] / D, from K draws of a dequantisation.

    In expectation an upper bound, the tighter the more draws (Burda et al. 2016, arXiv:1509.00519). K = 1 is the plain
    bound -(log p - log q), of the same mean as -(log p + D H). log_prob: nats of each draw; log_q: `log_prob` of the
    dequantisation; dim: D; stderr: of log_prob, as `log_likelihood` gives it, wanted for K > 1. For these log_prob must
    have no noise of probes, so `divergence=ExactDivergence()`: the exponential of a noisy one is too large on average,
    by half its variance in nats, and the result no bound.

    Raises:
        ValueError: if dim is not a whole number, the shapes differ, or K > 1 and stderr is missing or says that there
            were probes.
    """
    check_count("dim", dim)
    if jnp.shape(log_prob) != jnp.shape(log_q) or jnp.ndim(log_prob) != 2:
        raise ValueError(
            f"log_prob has shape {jnp.shape(log_prob)}, log_q {jnp.shape(log_q)}: wanted (draws, batch) both; for one "
            f"draw log_prob[None]."
        )
    if len(log_prob) > 1 and stderr is None:
        raise ValueError(
            "several draws, and no stderr: hand over that of the likelihoods, which tells whether they "
            "have the noise of probes; zeros where log_prob is known in closed form."
        )
    if len(log_prob) > 1 and is_concrete(stderr) and np.any(np.asarray(stderr) != 0.0):
        raise ValueError(
            "log_prob has the noise of probes, which the mean over several draws takes for likelihood: compute it with "
            "divergence=sd.ExactDivergence(), or average the bits of single draws."
        )
    with precision_of(log_prob):
        mean = jax.scipy.special.logsumexp(log_prob - log_q, axis=0) - math.log(log_prob.shape[0])
        return -mean / (dim * math.log(2.0))


def check_levels(k: Array | np.ndarray, levels: int) -> None:
    """k holds whole numbers 0 … levels - 1, where that can be read now."""
    if is_concrete(k) and k.size:
        values = np.asarray(k)  # NumPy's: under jit a known k is still read now
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= levels - 1 and np.all(values == np.round(values))):
            raise ValueError(
                f"k holds {low} … {high}: wanted whole numbers 0 … {levels - 1}. Real-valued data need no "
                f"dequantisation; other integers: UniformDequantization(levels=...)."
            )
        if (
            k.size >= 64 and 8 * (int(high) + 1) <= levels
        ):  # int: one more than the highest uint8 is 0
            warnings.warn(
                f"k holds {low} … {high} of {levels} levels: if these are all the data's values, write "
                f"levels={int(high) + 1}, or their bits are those of finer bins.",
                stacklevel=4,
            )


def _grid(values: np.ndarray) -> tuple[float, int] | None:
    """(step, levels) of values that stand on a grid of up to 4096 steps, as scaled pixels do; None of any others."""
    known = np.unique(values).astype(np.float64)
    if not 1 < len(known) <= 4097:
        return None
    step = float(np.diff(known).min())
    places = (known - known[0]) / step
    if places[-1] > 4096.5 or np.max(np.abs(places - np.round(places))) > 0.02:
        return None
    low = -1.0 if known[0] < 0.0 else 0.0
    usual = (
        known[-1] <= 1.0 and abs((known[0] - low) / step % 1.0 - 0.5) > 0.48
    )  # on the grid of [-1, 1] or [0, 1]
    return step, round((1.0 - low) / step if usual else places[-1]) + 1


def check_real_valued(x: Array | np.ndarray, name: str, anew: bool = False) -> None:
    """x is finite, and not integers in disguise, where that can be read now: raw pixels 0 … 255 as float32, or scaled.

    Integers have no density: a model could make it as high as it likes. A handful of whole numbers may be chance, and a
    grid in a few dimensions a picture's. anew: the noise is for `fit` to draw, at every step, which may train on scaled
    pixels, to sample.

    Raises:
        ValueError: if it holds NaN or infinity, or 64 entries and more, all whole, of more than two values, or in 16
            dimensions and more all on one grid.
    """
    if not is_concrete(x):
        return
    values = np.asarray(x)
    if not np.all(np.isfinite(values)):
        rows = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        raise ValueError(
            f"{name} holds NaN or infinity in {len(rows)} of {len(values)} examples, the first in row {rows[0]}: drop "
            f"them, {name}[np.isfinite({name}).reshape(len({name}), -1).all(axis=1)]."
        )
    some = values.reshape(-1)[:: max(1, values.size // 2**16)]
    if len(some) >= 64 and np.array_equal(some, np.round(some)) and len(np.unique(some)) > 2:
        low, high = values.min(), values.max()
        levels = 256 if 17 <= high - min(low, 0) <= 255 else int(high - min(low, 0)) + 1
        shifted = f"{name} + {-low:g}" if low < 0 else name
        line = f"sd.UniformDequantization(levels={levels})"
        line = f"prepare={line}, drawn anew at every step" if anew else f"{line}(key, {shifted})"
        raise ValueError(
            f"{name} holds whole numbers {low:g} … {high:g} and nothing between: they have no density. Write {line}, "
            f"which also scales to [-1, 1]{f', and {shifted} for {name}' if anew and low < 0 else ''}."
        )
    if len(some) >= 64 and values.size >= 16 * len(values) and (grid := _grid(some)) is not None:
        step, levels = grid
        low = -1.0 if values.min() < 0.0 else 0.0
        message = (
            f"{name} takes {len(np.unique(some))} values, {values.min():g} … {values.max():g} in steps of {step:g}, "
            f"and nothing between: they have no density. For likelihoods hand over k = (({name} - {low:g}) / "
            f"{step:g}).round() and {'prepare=' if anew else ''}sd.UniformDequantization(levels={levels})"
            f"{', drawn anew at every step' if anew else '(key, k)'}, which also scales to [-1, 1]."
        )
        if not anew:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
