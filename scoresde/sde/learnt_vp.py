"""The variance-preserving SDE of any schedule of log SNR, which may have parameters.

    alpha^2 = sigmoid(-gamma),   sigma^2 = sigmoid(gamma),   gamma = -log SNR           (Eq. 1)
    f = -1/2 gamma' sigma^2,   g^2 = gamma' sigma^2                                     (Eq. 2)
    p(x_t | x_s):   v = -sigma_t^2 expm1(-(gamma_t - gamma_s)),   c^2 = 1 - v           (Eq. 3)

Kingma et al. 2021 (arXiv:2107.00630), Eq. 2 and App. A and F. A schedule that offers `between(s,
t)`, gamma(t) - gamma(s) without cancellation, makes short transitions exact; of others it is the
integral of gamma'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from scoresde.checks import is_concrete
from scoresde.sde.base import SDE, as_float, as_time
from scoresde.sde.calculus import derivative, increment, sqrt_or_zero
from scoresde.sde.schedule import LinearGamma, MonotoneGamma, Parameters, rebuilt
from scoresde.types import Scalar, Time, pytree_dataclass

if TYPE_CHECKING:
    AnySchedule = Any  # Python takes custom ones
else:
    AnySchedule = LinearGamma | MonotoneGamma
    """The schedules that settings files and the command line choose from."""


@pytree_dataclass()
class LearntVP(SDE):
    """Variance-preserving SDE with -log SNR = schedule(t) (Eq. 1): t = 0 is a noise level. Its
    prior is N(0, I).

    schedule: `sd.LinearGamma`, `sd.MonotoneGamma`, or any rising function of t, elementwise.
    """

    schedule: AnySchedule = LinearGamma()
    """t ↦ gamma(t) = -log SNR."""

    def __post_init__(self):
        if not callable(self.schedule) or isinstance(self.schedule, type):
            raise TypeError(
                f"schedule is {self.schedule!r}: wanted one such as sd.LinearGamma(-13.3, 5.0), or "
                f"a rising function of t."
            )
        if not isinstance(self.schedule, LinearGamma | MonotoneGamma):
            _check_custom(self.schedule)

    @property
    def noisy_at_zero(self) -> bool:
        return True

    def gamma(self, t: Time) -> Array:
        """Returns gamma(t) = -log SNR(t); like t."""
        return self.schedule(as_time(t))

    def log_alpha(self, t: Time) -> Array:
        return 0.5 * jax.nn.log_sigmoid(-self.gamma(t))

    def variance(self, t: Time) -> Array:
        return jax.nn.sigmoid(self.gamma(t))

    def log_snr(self, t: Time) -> Array:
        return -self.gamma(t)

    def drift_rate(self, t: Time) -> Array:
        return -0.5 * self.squared_diffusion(t)

    def squared_diffusion(self, t: Time) -> Array:
        return derivative(self.schedule, as_time(t)) * self.variance(t)

    def time_from_log_snr(self, log_snr: Time) -> Array:
        inverse = getattr(self.schedule, "inverse", None)
        if inverse is None:
            return super().time_from_log_snr(log_snr)
        return inverse(-as_float(log_snr))

    def transition(self, s: Time, t: Time) -> tuple[Array, Array]:
        s, t = self._ordered(s, t)
        between = getattr(self.schedule, "between", None)
        rise = increment(self.schedule, s, t) if between is None else between(s, t)
        variance = -self.variance(t) * jnp.expm1(-rise)  # Eq. 3
        short = variance < 0.5  # where 1 - v keeps its digits
        from_variance = 0.5 * jnp.log1p(-jnp.where(short, variance, 0.0))
        log_c = jnp.where(short, from_variance, self.log_alpha(t) - self.log_alpha(s))
        return jnp.exp(log_c), sqrt_or_zero(variance)

    def prior_std(self) -> Scalar:
        return 1.0

    def parameters(self) -> Parameters:
        offered = getattr(self.schedule, "parameters", None)
        return {} if offered is None else offered()

    def with_parameters(self, parameters: Parameters) -> LearntVP:
        if not parameters:
            return self
        return self.with_schedule(self.schedule.with_parameters(parameters))

    def with_schedule(self, schedule: Any) -> LearntVP:
        """Returns the process with another schedule, any function of t."""
        return rebuilt(self, schedule=schedule)


def _check_custom(schedule: Any) -> None:
    """Refuses a custom schedule that falls, or whose parameters are not those of the protocol.

    Raises:
        ValueError: if gamma(0) >= gamma(1).
        TypeError: if it offers `parameters` that cannot train.
    """
    low = schedule(jnp.asarray(0.0))
    high = schedule(jnp.asarray(1.0))
    if is_concrete(low, high) and not bool(jnp.all(low < high)):
        raise ValueError(
            f"gamma falls from {float(low):g} at t = 0 to {float(high):g} at t = 1: gamma = -log "
            f"SNR rises from data to noise. Write LearntVP(lambda t: -log_snr(t))."
        )
    offered = getattr(schedule, "parameters", None)
    if offered is None:
        return
    parts = offered() if callable(offered) and hasattr(schedule, "with_parameters") else None
    if not isinstance(parts, dict) or not set(parts) <= {"ends", "shape"}:
        raise TypeError(
            f"{type(schedule).__name__} offers `parameters`, but not as training takes them: "
            f"parameters() returns a dict with 'ends', 'shape' or both, and "
            f"with_parameters(parameters) the schedule that has them."
        )
