"""A linear SDE is two functions of time, log alpha and the marginal variance; everything else
follows.

    dx = f(t) x dt + g(t) dw                                                (Eq. 1)
    p(x_t | x_0) = N(alpha(t) x_0, sigma(t)^2 I)                            (Eq. 2)

    f = d log alpha / dt                                                    (Eq. 3)
    g^2 = d sigma^2 / dt - 2 f sigma^2 = -sigma^2 d(log SNR) / dt           (Eq. 4)
    log SNR = 2 log(alpha / sigma)                                          (Eq. 5)

    p(x_t | x_s) = N(c x_s, v I),   c = alpha_t / alpha_s                   (Eq. 6)
    v = sigma_t^2 - c^2 sigma_s^2 = -sigma_t^2 expm1(log_snr_t - log_snr_s)

    reverse-time SDE    dx = [f x - g^2 score(x, t)] dt + g dw              (Eq. 7)
    probability flow    dx/dt = f x - 1/2 g^2 score(x, t)                   (Eq. 8)

Song et al. 2021 (arXiv:2011.13456), Eq. 5, 6, 13, 28 and 29; Kingma et al. 2021 (arXiv:2107.00630).
Time runs from t = 0, the data, to t = 1, the prior.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import example_keys, normal_like
from scoresde.sde.bound_score import bind
from scoresde.sde.calculus import derivative, increment, sqrt_or_zero
from scoresde.sde.flow import flow
from scoresde.types import (
    Cond,
    Key,
    Scalar,
    ScoreFn,
    Time,
    data_dim,
    pytree_dataclass,
    right_pad,
    sum_data,
    wider,
)


class SDE:
    """A linear SDE with a Gaussian prior (Eq. 1 and 2).

    A new SDE is a frozen dataclass that defines `log_alpha` and `variance`, the latter so that it
    keeps its digits near t = 0 (`expm1`, not `1 - exp`). Override any other method where a closed
    form is more exact.
    """

    # --- The two functions that define the process ---

    def log_alpha(self, t: Time) -> Array:
        """Returns log alpha(t), where alpha is the scale of the signal; any shape → same shape."""
        raise NotImplementedError(
            f"{type(self).__name__} must define log_alpha(self, t), the log of the signal's scale."
        )

    def variance(self, t: Time) -> Array:
        """Returns sigma(t)^2, the variance of the noise; any shape → same shape."""
        raise NotImplementedError(
            f"{type(self).__name__} must define variance(self, t), the variance of the noise."
        )

    # --- Scales ---

    def alpha(self, t: Time) -> Array:
        """Returns the signal scale alpha(t); like t."""
        return jnp.exp(self.log_alpha(as_time(t)))

    def sigma(self, t: Time) -> Array:
        """Returns the noise scale sigma(t), the standard deviation of p(x_t | x_0); like t."""
        return sqrt_or_zero(self.variance(as_time(t)))

    def log_snr(self, t: Time) -> Array:
        """Returns 2 log(alpha / sigma) (Eq. 5); like t."""
        t = as_time(t)
        return 2.0 * self.log_alpha(t) - jnp.log(self.variance(t))

    def time_from_log_snr(self, log_snr: Time) -> Array:
        """Returns the time in [0, 1] at which `log_snr` has this value, by bisection in log t."""
        log_snr = as_float(log_snr)
        float_info = jnp.finfo(log_snr.dtype)
        low = jnp.full_like(log_snr, math.log(float(float_info.tiny)))
        high = jnp.zeros_like(log_snr)

        def halve(_, bounds):
            low, high = bounds
            middle = 0.5 * (low + high)
            too_clean = self.log_snr(jnp.exp(middle)) > log_snr  # log SNR falls with t
            return jnp.where(too_clean, middle, low), jnp.where(too_clean, high, middle)

        low, high = jax.lax.fori_loop(0, float_info.nmant + 10, halve, (low, high))
        t = jax.lax.stop_gradient(jnp.exp(0.5 * (low + high)))

        # Bisection has no derivative, so that of the implicit function is added:
        # dt = d(log_snr - self.log_snr(t)) / slope, and 0 where log SNR is infinite.
        finite = jnp.isfinite(log_snr) & jnp.isfinite(self.log_snr(t))
        inside = jnp.where(finite, t, 0.5)
        gap = jnp.where(finite, log_snr, 0.0) - self.log_snr(inside)
        slope = jax.lax.stop_gradient(derivative(self.log_snr, inside))
        moved = jnp.where(finite, gap - jax.lax.stop_gradient(gap), 0.0)
        return t + moved / slope

    # --- The noise levels of its discretisations ---

    @property
    def noisy_at_zero(self) -> bool:
        """Whether t = 0 is a noise level, sigma(0) > 0 (VE), rather than the data."""
        return False

    @property
    def ends_in_noise(self) -> bool:
        """Whether alpha(1) = 0, so that x_1 is pure noise, and f and g are infinite at t = 1
        (cosine, rectified flow). Such an SDE defines `alpha` too, finite with its derivative."""
        return False

    def level_times(self, num_steps: int) -> np.ndarray:
        """Returns the times of the levels i = 0 … N - 1 of a chain of N: (i + 1) / N as in DDPM, or
        i / (N - 1) as in NCSN where t = 0 is a noise level itself."""
        if self.noisy_at_zero:
            return np.linspace(1.0, 0.0, num_steps)[::-1]  # a single level is t = 1
        return np.arange(1, num_steps + 1) / num_steps

    # --- The coefficients of the SDE ---

    def sigma_rate(self, t: Time) -> Array:
        """Returns d sigma / dt; like t."""
        t = as_time(t)
        return 0.5 * derivative(self.variance, t) / self.sigma(t)

    def rotation(self, t: Time) -> Array:
        """Returns alpha sigma' - sigma alpha', the rate at which signal turns into noise; like t.

        It is g^2 alpha / (2 sigma), and finite at t = 1 where g is not.
        """
        t = as_time(t)
        return self.alpha(t) * self.sigma_rate(t) - self.sigma(t) * derivative(self.alpha, t)

    def drift_rate(self, t: Time) -> Array:
        """Returns f(t) (Eq. 3); like t."""
        return derivative(self.log_alpha, as_time(t))

    def squared_diffusion(self, t: Time) -> Array:
        """Returns g(t)^2 (Eq. 4), which is finite at t = 0; like t."""
        t = as_time(t)
        return derivative(self.variance, t) - 2.0 * self.drift_rate(t) * self.variance(t)

    def drift(self, x: Float[Array, " batch *data"], t: Time) -> Float[Array, " batch *data"]:
        """Returns f(t) x.

        Raises:
            ValueError: if t is neither a scalar nor one time per example, or lies outside [0, 1].
        """
        checks.batch_at_times(x, t)
        return right_pad(self.drift_rate(time_like(t, x)), x) * x

    def diffusion(self, t: Time) -> Array:
        """Returns g(t), not its square; like t."""
        return jnp.sqrt(self.squared_diffusion(t))

    # --- Kernels ---

    def marginal_prob(
        self, x0: Float[Array, " batch *data"], t: Time
    ) -> tuple[Float[Array, " batch *data"], Array]:
        """Returns mean (like x0) and standard deviation (like t) of p(x_t | x_0) (Eq. 2).

        Raises:
            ValueError: if t is neither a scalar nor one time per example, or lies outside [0, 1].
        """
        checks.batch_at_times(x0, t, "x0")
        t = time_like(t, x0)
        return right_pad(self.alpha(t), x0) * x0, self.sigma(t)

    def transition(self, s: Time, t: Time) -> tuple[Array, Array]:
        """Returns coefficient c and standard deviation of p(x_t | x_s), s <= t (Eq. 6).

        Both have the shape of s and t. They are exact for short gaps too, where the increments are
        integrals of derivatives and not differences of nearly equal numbers.

        Raises:
            ValueError: if s > t anywhere, or a time lies outside [0, 1].
        """
        s, t = self._ordered(s, t)
        coefficient = jnp.exp(increment(self.log_alpha, s, t))
        variance = -self.variance(t) * jnp.expm1(increment(self.log_snr, s, t))
        return coefficient, sqrt_or_zero(variance)

    @staticmethod
    def _ordered(s: Time, t: Time) -> tuple[Array, Array]:
        """Returns two times of one shape, s <= t."""
        s, t = jnp.broadcast_arrays(as_time(s), as_time(t))
        if is_concrete(s, t) and not bool(jnp.all(s <= t)):
            raise ValueError(
                "transition(s, t) runs forward in time: wanted s <= t. Write transition(t, s)."
            )
        return s, t

    # --- The prior ---

    def prior_std(self) -> Scalar:
        """Returns the standard deviation of the prior N(0, std^2 I), sigma(1) unless overridden."""
        return self.sigma(1.0)

    def prior_sample(self, key: Key, shape: tuple[int, ...]) -> Float[Array, " batch *data"]:
        """Draws from the prior, shape (batch, *data); example i depends on (key, i) alone.

        key: one, or one per example.

        Raises:
            ValueError: if the shape is empty.
        """
        if len(shape) < 1:
            raise ValueError(
                "shape is (): wanted (batch, *data), e.g. (64, 2) for 64 points in the plane."
            )
        keys = example_keys(key, shape[0])
        return self.prior_std() * normal_like(keys, jnp.zeros(shape))

    def prior_log_prob(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch"]:
        """Returns the log density of the prior in nats, one per example."""
        checks.batch(x)
        std = self.prior_std()
        log_normalizer = data_dim(x) * (0.5 * math.log(2.0 * math.pi) + jnp.log(std))
        return -0.5 * sum_data((x / std) ** 2) - log_normalizer

    def prior_kl(self, x0: Float[Array, " batch *data"]) -> Float[Array, " batch"]:
        """Returns KL(p(x_1 | x_0) || prior) in nats, one per example: what x_1 still knows of x_0
        (L_T of Ho et al. 2020)."""
        mean, std = self.marginal_prob(x0, jnp.ones(x0.shape[:1], x0.dtype))
        prior_std = self.prior_std()
        ratio = (std / prior_std) ** 2

        of_mean = sum_data(mean**2) / prior_std**2
        of_variance = data_dim(x0) * (ratio - 1.0 - jnp.log(ratio))
        return 0.5 * (of_mean + of_variance)

    # --- What training may change ---

    def parameters(self) -> dict[str, Any]:
        """Returns the parameters that training by the variational bound changes, a nested dict of
        arrays; empty for an SDE that has none."""
        return {}

    def with_parameters(self, parameters: dict[str, Any]) -> SDE:
        """Returns the SDE with these parameters in place of its own."""
        return self

    # --- Backwards in time ---

    def reverse(self, score: ScoreFn) -> ReverseSDE:
        """Returns the reverse-time SDE (Eq. 7)."""
        return ReverseSDE(self, score)

    def probability_flow(self, score: ScoreFn) -> ProbabilityFlowField:
        """Returns the vector field of the probability-flow ODE, (x, t) ↦ dx/dt (Eq. 8)."""
        return ProbabilityFlowField(self, score)


@pytree_dataclass()
class ReverseSDE:
    """dx = [f(t) x - g(t)^2 score(x, t)] dt + g(t) dw, from t = 1 to 0 (Eq. 7)."""

    sde: SDE
    score: ScoreFn

    def drift(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns f x - g^2 score; like x.

        Raises:
            ValueError: if t is neither a scalar nor one time per example, or lies outside [0, 1].
        """
        checks.batch_at_times(x, t)
        score = bind(self.sde, self.score, cond)
        return reverse_drift(self.sde, score, x, times_of(t, x))

    def diffusion(self, t: Time) -> Array:
        """Returns g(t); like t."""
        return self.sde.diffusion(t)


@pytree_dataclass()
class ProbabilityFlowField:
    """dx/dt = f(t) x - 1/2 g(t)^2 score(x, t) (Eq. 8)."""

    sde: SDE
    score: ScoreFn

    def __call__(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns dx/dt; like x.

        Raises:
            ValueError: if t is neither a scalar nor one time per example, or lies outside [0, 1].
        """
        checks.batch_at_times(x, t)
        score = bind(self.sde, self.score, cond)
        return flow(self.sde, score, x, times_of(t, x))


def reverse_drift(
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, " batch *data"],
    t: Float[Array, " batch"],
) -> Float[Array, " batch *data"]:
    """Returns f x - g^2 score, the drift of the reverse SDE (Eq. 7)."""
    f = right_pad(sde.drift_rate(t), x)
    g2 = right_pad(sde.squared_diffusion(t), x)
    return f * x - g2 * score(x, t)


def denoise(
    sde: SDE, score: ScoreFn, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
) -> Float[Array, " batch *data"]:
    """Returns E[x_0 | x_t = x]: `score.denoise` where offered, else by Tweedie's formula,

        E[x_0 | x_t = x] = (x + sigma^2 score(x, t)) / alpha        (Efron 2011)

    Raises:
        ValueError: if t is neither a scalar nor one time per example, or lies outside [0, 1].
    """
    checks.batch_at_times(x, t)
    return bind(sde, score, cond).denoise(x, times_of(t, x))


# --- Times and settings ---


def as_float(value: Time) -> Array:
    """Returns a floating-point array; of a Python number, one that takes the precision of what it
    meets."""
    value = jnp.asarray(float(value) if isinstance(value, int) else value)
    if jnp.issubdtype(value.dtype, jnp.floating):
        return value
    return value.astype(jnp.result_type(float))


def as_time(t: Time) -> Array:
    """Returns t as a floating-point array, checked to lie in [0, 1] where it is known now."""
    checks.times(t)
    return as_float(t)


def time_like(t: Time, x: Array) -> Array:
    """Returns t as `as_time` does, where a Python number takes the precision of x."""
    time = as_time(t)
    return time.astype(wider(x.dtype, jnp.float32)) if isinstance(t, (int, float)) else time


def times_of(t: Time, x: Array) -> Array:
    """Returns one time per example, (batch,)."""
    return jnp.broadcast_to(time_like(t, x), x.shape[:1])


def check_sde(sde: Any) -> None:
    """Checks that an SDE is where one belongs: the score and the SDE are easily swapped.

    Raises:
        TypeError: if it is something else.
    """
    checks.instance("sde", sde, SDE, "an SDE such as sd.VP(), and the score after it.")


def plain_settings(sde: Any) -> Any:
    """Returns the SDE with Python numbers in place of arrays of a single known number.

    Such settings are constants under jit, so grids and their coefficients are computed on the host
    in float64, as they are for settings written as numbers.
    """

    def plain(leaf):
        return float(leaf) if is_concrete(leaf) and np.ndim(leaf) == 0 else leaf

    return jax.tree.map(plain, sde)


def are_alike(a: SDE, b: SDE) -> bool:
    """Whether two SDEs are of one type and have equal settings, as far as these are known."""
    a_leaves = jax.tree.leaves(a)
    b_leaves = jax.tree.leaves(b)
    if type(a) is not type(b) or len(a_leaves) != len(b_leaves):
        return False
    if not is_concrete(*a_leaves, *b_leaves):
        return True
    pairs = zip(a_leaves, b_leaves, strict=True)
    return all(np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=1e-5) for x, y in pairs)
