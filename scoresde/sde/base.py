"""A linear SDE is two functions of time, log alpha and the marginal variance; everything else follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import example_keys, normal_like
from scoresde.types import (
    Cond,
    Key,
    Scalar,
    ScoreFn,
    Time,
    call_score,
    data_dim,
    pytree_dataclass,
    right_pad,
    sum_data,
)


def derivative(f: Callable[[Array], Array], t: Array) -> Array:
    """df/dt of an elementwise function, by forward mode."""
    return jax.jvp(f, (t,), (jnp.ones_like(t),))[1]


def as_float(value: Time) -> Array:
    """A floating-point array."""
    value = jnp.asarray(value)
    return (
        value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))
    )


def as_time(t: Time) -> Array:
    """t as a floating-point array, in [0, 1] where that can be read now."""
    checks.times(t)
    return as_float(t)


def check_sde(sde: Any) -> None:
    """An SDE stands where one is wanted: score and SDE are easily swapped."""
    if not isinstance(sde, SDE):
        raise TypeError(
            f"sde is a {type(sde).__name__}: wanted an SDE such as sd.VP(), and after it the score."
        )


def plain_settings(sde: Any) -> Any:
    """The SDE with Python numbers where it has arrays of a single known number: such settings are constants under jit.

    Grids and coefficients are then computed on the host in float64, as for settings written as numbers.
    """
    plain = lambda leaf: float(leaf) if is_concrete(leaf) and np.ndim(leaf) == 0 else leaf  # noqa: E731
    return jax.tree.map(plain, sde)


def sqrt_or_zero(variance: Array) -> Array:
    """sqrt(variance), with derivative 0 where the variance is 0."""
    positive = variance > 0.0
    return jnp.where(
        positive,
        jnp.sqrt(jnp.where(positive, variance, 1.0)),
        jnp.where(variance == 0.0, 0.0, jnp.nan),
    )


class SDE:
    """Linear SDE dx = f(t) x dt + g(t) dw with marginals x_t = alpha(t) x_0 + sigma(t) noise, noise ~ N(0, I).

        f = d log alpha / dt,   g^2 = d sigma^2 / dt - 2 f sigma^2 = -sigma^2 d(log SNR) / dt

    (Song et al. 2021, arXiv:2011.13456, Eq. 28-29; Kingma et al. 2021, arXiv:2107.00630). A new SDE is a frozen
    dataclass with `log_alpha` and `variance`, written so that `variance` keeps its digits near t = 0 (`expm1`, not
    `1 - exp`). Methods are overridden where a closed form is more exact. t: [0, 1], 0 = data, 1 = prior.
    """

    # --- The two functions that define the process ---

    def log_alpha(self, t: Time) -> Array:
        """log alpha(t), alpha the signal's scale; any shape → same shape."""
        raise NotImplementedError(
            f"{type(self).__name__} must define log_alpha(self, t), log of the signal's scale."
        )

    def variance(self, t: Time) -> Array:
        """sigma(t)^2, the noise's variance; any shape → same shape."""
        raise NotImplementedError(
            f"{type(self).__name__} must define variance(self, t), the noise's variance."
        )

    # --- Derived scales ---

    def alpha(self, t: Time) -> Array:
        """Signal scale alpha(t)."""
        return jnp.exp(self.log_alpha(as_time(t)))

    def sigma(self, t: Time) -> Array:
        """Noise scale sigma(t), the standard deviation of p(x_t | x_0)."""
        return sqrt_or_zero(self.variance(as_time(t)))

    def log_snr(self, t: Time) -> Array:
        """2 log(alpha / sigma)."""
        t = as_time(t)
        return 2.0 * self.log_alpha(t) - jnp.log(self.variance(t))

    def time_from_log_snr(self, log_snr: Time) -> Array:
        """The inverse of `log_snr` on [0, 1], by bisection in log t; closed forms override."""
        log_snr = as_float(log_snr)
        eps = jnp.finfo(log_snr.dtype)
        low = jnp.full_like(log_snr, math.log(float(eps.tiny)))
        high = jnp.zeros_like(log_snr)

        def halve(_, bounds):
            low, high = bounds
            middle = 0.5 * (low + high)
            too_clean = self.log_snr(jnp.exp(middle)) > log_snr  # log SNR falls with t
            return jnp.where(too_clean, middle, low), jnp.where(too_clean, high, middle)

        low, high = jax.lax.fori_loop(0, eps.nmant + 10, halve, (low, high))
        t = jax.lax.stop_gradient(jnp.exp(0.5 * (low + high)))
        # Bisection has no derivative: the implicit function's, dt = d(log_snr - self.log_snr(t)) / slope, is added.
        gap = log_snr - self.log_snr(t)
        slope = jax.lax.stop_gradient(derivative(self.log_snr, t))
        return t + jnp.where(jnp.isfinite(gap), gap - jax.lax.stop_gradient(gap), 0.0) / slope

    # --- Its discretisations' noise levels ---

    @property
    def noisy_at_zero(self) -> bool:
        """Whether t = 0 is a noise level itself, sigma(0) > 0 (VE), or the data."""
        return False

    def level_times(self, num_steps: int) -> np.ndarray:
        """Times of the levels i = 0 … N - 1 of N: (i + 1) / N (DDPM), or i / (N - 1) where t = 0 is one (NCSN)."""
        if self.noisy_at_zero:
            return np.linspace(1.0, 0.0, num_steps)[::-1]  # a single level is t = 1
        return np.arange(1, num_steps + 1) / num_steps

    # --- The SDE's coefficients ---

    def drift_rate(self, t: Time) -> Array:
        """f(t) = d log alpha / dt, the drift's coefficient; like t."""
        return derivative(self.log_alpha, as_time(t))

    def squared_diffusion(self, t: Time) -> Array:
        """g(t)^2 = d sigma^2 / dt - 2 f sigma^2, finite at t = 0; like t."""
        t = as_time(t)
        return derivative(self.variance, t) - 2.0 * self.drift_rate(t) * self.variance(t)

    def drift(self, x: Float[Array, " batch *data"], t: Time) -> Float[Array, " batch *data"]:
        """f(t) x.

        Raises:
            ValueError: if t is neither a scalar nor one time per example, or lies outside [0, 1].
        """
        checks.batch_at_times(x, t)
        return right_pad(self.drift_rate(t), x) * x

    def diffusion(self, t: Time) -> Array:
        """g(t), not its square; like t."""
        return jnp.sqrt(self.squared_diffusion(t))

    # --- Kernels ---

    def marginal_prob(self, x0: Float[Array, " batch *data"], t: Time) -> tuple[Array, Array]:
        """p(x_t | x_0) = N(alpha x_0, sigma^2 I): its mean (like x0) and standard deviation (like t).

        Raises:
            ValueError: if t is neither a scalar nor one time per example, or lies outside [0, 1].
        """
        checks.batch_at_times(x0, t, "x0")
        return right_pad(self.alpha(t), x0) * x0, self.sigma(t)

    def transition(self, s: Time, t: Time) -> tuple[Array, Array]:
        """p(x_t | x_s) = N(c x_s, std^2 I), s <= t: (c, std), each of the shape of s and t.

            c = alpha_t / alpha_s,   std^2 = sigma_t^2 - c^2 sigma_s^2 = -sigma_t^2 expm1(log_snr_t - log_snr_s)

        Exact for short gaps too: there the increments are integrals of derivatives, not differences of near equals.

        Raises:
            ValueError: if s > t anywhere, or a time lies outside [0, 1].
        """
        s, t = self._ordered(s, t)
        coefficient = jnp.exp(increment(self.log_alpha, s, t))
        variance = -self.variance(t) * jnp.expm1(increment(self.log_snr, s, t))
        return coefficient, sqrt_or_zero(variance)

    @staticmethod
    def _ordered(s: Time, t: Time) -> tuple[Array, Array]:
        s, t = jnp.broadcast_arrays(as_time(s), as_time(t))
        if is_concrete(s, t) and not bool(jnp.all(s <= t)):
            raise ValueError(
                "transition(s, t) runs forward in time: wanted s <= t. Write transition(t, s)."
            )
        return s, t

    # --- The prior, p_1 with the data forgotten ---

    def prior_std(self) -> Scalar:
        """Standard deviation of the prior N(0, std^2 I); sigma(1) unless overridden."""
        return self.sigma(1.0)

    def prior_sample(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " batch *data"]:
        """Prior draws of shape (batch, *data); example i depends on (key, i) alone. key: one, or one per example."""
        if len(shape) < 1:
            raise ValueError(
                "shape is (): wanted (batch, *data), e.g. (64, 2) for 64 points in the plane."
            )
        keys = example_keys(key, shape[0])
        return self.prior_std() * normal_like(keys, jnp.zeros(shape))

    def prior_log_prob(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch"]:
        """log density of the prior N(0, std^2 I) in nats, one per example."""
        checks.batch(x)
        std = self.prior_std()
        normalizer = data_dim(x) * (0.5 * math.log(2.0 * math.pi) + jnp.log(std))
        return -0.5 * sum_data((x / std) ** 2) - normalizer

    def prior_kl(self, x0: Float[Array, " batch *data"]) -> Float[Array, " batch"]:
        """KL(q(x_1 | x_0) || prior) in nats, one per example: what x_1 still knows of x_0 (L_T of Ho et al. 2020)."""
        mean, std = self.marginal_prob(x0, jnp.ones(x0.shape[:1], x0.dtype))
        prior_std = self.prior_std()
        ratio = (std / prior_std) ** 2
        return 0.5 * (
            sum_data(mean**2) / prior_std**2 + data_dim(x0) * (ratio - 1.0 - jnp.log(ratio))
        )

    # --- Backwards in time ---

    def reverse(self, score: ScoreFn) -> ReverseSDE:
        """The reverse-time SDE, dx = [f x - g^2 score] dt + g dw (Song et al. 2021, Eq. 6)."""
        return ReverseSDE(self, score)

    def probability_flow(self, score: ScoreFn) -> ProbabilityFlowField:
        """The vector field of the probability-flow ODE, (x, t) ↦ f x - 1/2 g^2 score (Song et al. 2021, Eq. 13)."""
        return ProbabilityFlowField(self, score)


@pytree_dataclass()
class ReverseSDE:
    """dx = [f(t) x - g(t)^2 score(x, t)] dt + g(t) dw, run from t = 1 to 0 (Song et al. 2021, Eq. 6)."""

    sde: SDE
    score: ScoreFn

    def drift(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """f x - g^2 score; like x."""
        return reverse_drift(self.sde, self.score, x, t, cond, weight=1.0)

    def diffusion(self, t: Time) -> Array:
        """g(t); like t."""
        return self.sde.diffusion(t)


@pytree_dataclass()
class ProbabilityFlowField:
    """dx/dt = f(t) x - 1/2 g(t)^2 score(x, t) (Song et al. 2021, Eq. 13)."""

    sde: SDE
    score: ScoreFn

    def __call__(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        return reverse_drift(self.sde, self.score, x, t, cond, weight=0.5)


def reverse_drift(sde: SDE, score: ScoreFn, x: Array, t: Time, cond: Cond, weight: float) -> Array:
    """f x - weight g^2 score: weight 1 for the reverse SDE, 1/2 for the probability flow."""
    checks.batch_at_times(x, t)
    t = jnp.broadcast_to(as_time(t), x.shape[:1])
    drift = right_pad(sde.drift_rate(t), x) * x
    return drift - weight * right_pad(sde.squared_diffusion(t), x) * call_score(score, x, t, cond)


def denoise(
    sde: SDE, score: ScoreFn, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
) -> Float[Array, " batch *data"]:
    """E[x_0 | x_t] = (x + sigma^2 score) / alpha, Tweedie's formula (Efron 2011), or `score.denoise` where offered.

    Raises:
        ValueError: if t is neither a scalar nor one time per example, or lies outside [0, 1].
    """
    checks.batch_at_times(x, t)
    t = jnp.broadcast_to(as_time(t), x.shape[:1])
    offered = getattr(score, "denoise", None)
    if offered is not None:
        return call_score(offered, x, t, cond, name="the score's denoise")
    return (x + right_pad(sde.variance(t), x) * call_score(score, x, t, cond)) / right_pad(
        sde.alpha(t), x
    )


_NODES, _WEIGHTS = (a.tolist() for a in np.polynomial.legendre.leggauss(8))


def increment(f: Callable[[Array], Array], s: Array, t: Array) -> Array:
    """f(t) - f(s) without cancellation, f a logarithm: where it is below 1, the Gauss-Legendre integral of f'.

    A logarithm that moves by less than 1 is smooth in between, so eight nodes are exact to rounding; one that moves
    by more loses no digits to the difference.
    """
    difference = f(t) - f(s)
    short = jnp.abs(difference) < 1.0
    middle = jnp.where(
        short, 0.5 * (s + t), 0.5
    )  # 0.5: a harmless place for the entries that are not used
    half = jnp.where(short, 0.5 * (t - s), 0.0)
    integral = sum(
        w * half * derivative(f, middle + half * node)
        for node, w in zip(_NODES, _WEIGHTS, strict=True)
    )
    return jnp.where(
        s == t, 0.0, jnp.where(short, integral, difference)
    )  # also at s = t = 0, where f is infinite
