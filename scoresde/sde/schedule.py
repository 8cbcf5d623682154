"""Noise schedules with parameters: gamma(t) = -log SNR(t), which rises from t = 0 to 1.

    linear     gamma = low + (high - low) t                                             (Eq. 1)
    monotone   gamma = low + (high - low) h(t) / h(1)                                   (Eq. 2)
               h(t) = t + mean_k |c_k| [sigmoid(b_k + d_k) - sigmoid(b_k)],   d_k = |w_k| t
               sigmoid(b + d) - sigmoid(b) = sigmoid(b + d) sigmoid(-b) (1 - e^-d)      (Eq. 3)
    ends       low = 10 p,   high = low + 0.1 + 10 softplus(q)                          (Eq. 4)

h is the network of Kingma et al. 2021 (arXiv:2107.00630), App. H, less its value at t = 0 and over
the weight of its linear part, which the division by h(1) cancels: l_1 + l_3 sigmoid(l_2 l_1) with
positive weights. Eq. 3 does not cancel, so that gamma keeps its digits near t = 0. Training moves
the shape (w, b, c) and, where they are learnt, the ends (p, q): gamma rises whatever their values
are, and the tens of Eq. 4 let one learning rate serve both.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sde.base import as_float, as_time
from scoresde.types import NO_SETTING, Scalar, Time, pytree_dataclass

Parameters = dict[str, dict[str, Array]]
"""What training may change of a schedule: its "ends", its "shape", or both, as it says."""


@runtime_checkable
class Schedule(Protocol):
    """gamma(t) = -log SNR(t), elementwise and rising. One that trains offers the other two."""

    def __call__(self, t: Time) -> Array: ...

    def parameters(self) -> Parameters:
        """Returns the parameters that training may change."""
        ...

    def with_parameters(self, parameters: Parameters) -> Schedule:
        """Returns the schedule with these parameters in place of its own."""
        ...


@pytree_dataclass("learn_ends")
class LinearGamma:
    """-log SNR rises linearly (Eq. 1).

    Raises:
        ValueError: if an end is not finite, or low >= high.
    """

    low: Scalar = -13.3
    """-log SNR at t = 0: of the paper, for 256 levels."""
    high: Scalar = 5.0
    """-log SNR at t = 1."""
    _: dataclasses.KW_ONLY
    learn_ends: bool = False
    """Whether training by the variational bound moves the ends."""

    def __post_init__(self):
        _check_ends(self.low, self.high)

    def __call__(self, t: Time) -> Array:
        """Returns gamma(t); like t."""
        return self.low + (self.high - self.low) * as_time(t)

    def between(self, s: Array, t: Array) -> Array:
        """Returns gamma(t) - gamma(s); like t."""
        return (self.high - self.low) * (t - s)

    def inverse(self, gamma: Time) -> Array:
        """Returns the time at which gamma has this value; like it."""
        return (as_float(gamma) - self.low) / (self.high - self.low)

    def parameters(self) -> Parameters:
        """Returns the ends (Eq. 4), if they are learnt."""
        return _ends(self.low, self.high) if self.learn_ends else {}

    def with_parameters(self, parameters: Parameters) -> LinearGamma:
        """Returns the schedule with these parameters."""
        low, high = _between_ends(self, parameters)
        return rebuilt(self, low=low, high=high)


@pytree_dataclass("learn_ends", "hidden")
class MonotoneGamma:
    """-log SNR rises between its ends as a monotone network does (Eq. 2), at first nearly linearly.

    Training by the variational bound changes its shape.

    Raises:
        ValueError: if an end is not finite, low >= high, or the weights are not those of Eq. 2.
    """

    low: Scalar = -13.3
    """-log SNR at t = 0."""
    high: Scalar = 5.0
    """-log SNR at t = 1."""
    _: dataclasses.KW_ONLY
    learn_ends: bool = False
    """Whether training by the variational bound moves the ends."""
    hidden: int = 1024
    """The number of sigmoids."""
    weights: dict[str, Array | np.ndarray] | None = dataclasses.field(
        default=None, metadata=NO_SETTING
    )
    """{"w", "b", "c": (hidden,)} of Eq. 2; None for `initial_weights(hidden)`."""

    def __post_init__(self):
        _check_ends(self.low, self.high)
        checks.count("hidden", self.hidden, at_most=2**20)
        if self.weights is not None:
            _check_weights(self.weights, self.hidden)

    def __call__(self, t: Time) -> Array:
        """Returns gamma(t); like t."""
        t = as_time(t)
        return self.low + self.between(jnp.zeros_like(t), t)

    def between(self, s: Array, t: Array) -> Array:
        """Returns gamma(t) - gamma(s); like t."""
        zero = jnp.zeros((), t.dtype)
        share = self._rise(s, t) / self._rise(zero, jnp.ones((), t.dtype))
        return (self.high - self.low) * share

    def _rise(self, s: Array, t: Array) -> Array:
        """Returns h(t) - h(s) of Eq. 2; like t."""
        per_unit = (1,) * t.ndim + (-1,)
        weights = self._weights_or_initial()
        w, b, c = (jnp.asarray(weights[name], t.dtype).reshape(per_unit) for name in "wbc")
        start = b + jnp.abs(w) * s[..., None]
        d = jnp.abs(w) * (t - s)[..., None]
        steps = jax.nn.sigmoid(start + d) * jax.nn.sigmoid(-start) * -jnp.expm1(-d)  # Eq. 3
        return (t - s) + jnp.mean(jnp.abs(c) * steps, axis=-1)

    def parameters(self) -> Parameters:
        """Returns the shape (w, b, c), and the ends (Eq. 4) if they are learnt."""
        dtype = jnp.result_type(float)
        weights = self._weights_or_initial()
        shape = {name: jnp.asarray(value, dtype) for name, value in weights.items()}
        return {"shape": shape} | (_ends(self.low, self.high) if self.learn_ends else {})

    def with_parameters(self, parameters: Parameters) -> MonotoneGamma:
        """Returns the schedule with these parameters."""
        low, high = _between_ends(self, parameters)
        return rebuilt(self, low=low, high=high, weights=parameters["shape"])

    def _weights_or_initial(self) -> dict[str, Any]:
        return initial_weights(self.hidden) if self.weights is None else self.weights


def initial_weights(hidden: int = 1024, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns weights of Eq. 2 whose sigmoids step at even times, so that their sum is nearly
    linear."""
    rng = np.random.default_rng(seed)
    w = rng.uniform(5.0, 50.0, hidden)
    centres = rng.permutation((np.arange(hidden) + 0.5) / hidden)
    weights = {"w": w, "b": -w * centres, "c": np.ones(hidden)}
    return {name: value.astype(np.float32) for name, value in weights.items()}


# --- Parameters ---

TENS = 10.0
LEAST_SPAN = 0.1


def _ends(low: Scalar, high: Scalar) -> Parameters:
    """Returns p and q of Eq. 4."""
    dtype = jnp.result_type(float)
    softplus = jnp.asarray((high - low - LEAST_SPAN) / TENS, dtype)
    q = softplus + jnp.log(-jnp.expm1(-softplus))
    return {"ends": {"p": jnp.asarray(low, dtype) / TENS, "q": q}}


def _between_ends(schedule: Any, parameters: Parameters) -> tuple[Scalar, Scalar]:
    """Returns the ends that the parameters say (Eq. 4), or the schedule's own."""
    ends = parameters.get("ends")
    if ends is None:
        return schedule.low, schedule.high
    low = TENS * ends["p"]
    return low, low + LEAST_SPAN + TENS * jax.nn.softplus(ends["q"])


def rebuilt(settings: Any, **values: Any) -> Any:
    """Returns frozen settings with other values, which are not checked: training may move the ends
    so far that float32 does not tell them apart."""
    new = copy.copy(settings)
    for name, value in values.items():
        object.__setattr__(new, name, value)
    return new


# --- Checks ---


def _check_ends(low: Scalar, high: Scalar) -> None:
    checks.setting("low", low, "(-inf, inf)")
    checks.setting("high", high, "(-inf, inf)")
    if is_concrete(low, high) and not low < high:
        raise ValueError(
            f"low = {low} is not below high = {high}: gamma = -log SNR rises from data to noise. "
            f"Write low={high}, high={low}."
        )
    if is_concrete(low, high) and high - low <= LEAST_SPAN:
        raise ValueError(
            f"low = {low} and high = {high} are less than {LEAST_SPAN} apart: a process adds noise "
            f"over a range of log SNR. Write low=-13.3, high=5.0."
        )


def _check_weights(weights: Any, hidden: int) -> None:
    known = weights if isinstance(weights, dict) else {}
    shapes = {name: np.shape(value) for name, value in known.items()}
    if shapes != dict.fromkeys("wbc", (hidden,)):
        raise ValueError(
            f"weights has shapes {shapes}: wanted w, b and c of length hidden = {hidden}, as in "
            f"scoresde.sde.schedule.initial_weights({hidden})."
        )
