"""Correctors: Langevin steps at a fixed t, which pull the states of a sampler back to p_t.

    x ← x + eps score(x, t) + sqrt(2 eps) z                                            (Eq. 1)
    noise level    eps = 2 a snr^2 (sigma(t)^2 + alpha(t)^2 data_std^2)                (Eq. 2)
    batch means    eps = 2 a (snr mean|z| / mean|score|)^2                             (Eq. 3)
    a = (alpha_t / alpha_s)^2 over the sampler's step s → t                            (Eq. 4)

Song et al. 2021 (arXiv:2011.13456), Alg. 4 and 5, App. G. For VP, a is the paper's 1 - beta_i; for
VE it is 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sampling.langevin import langevin_step
from scoresde.sde.base import SDE
from scoresde.sde.bound_score import bind
from scoresde.types import Cond, Key, Scalar, ScoreFn, Time, sum_data

# --- Step sizes ---


@dataclasses.dataclass(frozen=True)
class NoiseLevelStep:
    """The step size of Eq. 2, a function of t alone, so that examples stay independent.

    On N(0, v I), where v is the bracket of Eq. 2, the drift's expected norm is snr times the
    noise's, and the stationary variance is v / (1 - snr^2) for a = 1.

    Raises:
        ValueError: if snr does not lie in (0, 1), or data_std is negative.
    """

    snr: float = 0.16
    """Ratio of the drift's norm to that of the noise."""
    data_std: float = 0.0
    """Scale below which the data are known to be smooth: steps are longer where sigma is smaller
    still."""

    def __post_init__(self):
        checks.setting("snr", self.snr, "(0, 1)")
        checks.setting("data_std", self.data_std, "[0, inf)")

    def __call__(self, sde: SDE, t: Array, score: Array, noise: Array) -> Array:
        """Returns eps / a, one per example."""
        variance = sde.variance(t) + (sde.alpha(t) * self.data_std) ** 2
        return 2.0 * self.snr**2 * variance


@dataclasses.dataclass(frozen=True)
class BatchMeanStep:
    """The step size of Eq. 3, with means over the batch: the rule of Song et al. 2021 and its code.

    It is here for parity: through it examples depend on their neighbours in a chunk. Dividing by an
    example's own |score| is not an alternative: eps then depends on x, which biases the law (in 8
    dimensions with snr .4, variance 2.07 sigma^2). On N(0, sigma^2 I) and a large batch the
    stationary variance is sigma^2 (1 + snr^2) for a = 1.

    Raises:
        ValueError: if snr does not lie in (0, 1).
    """

    snr: float = 0.16
    """Ratio of the drift's norm to that of the noise."""

    def __post_init__(self):
        checks.setting("snr", self.snr, "(0, 1)")

    def __call__(self, sde: SDE, t: Array, score: Array, noise: Array) -> Array:
        """Returns eps / a, one per example."""
        ratio = _mean_norm(noise) / _mean_norm(score)
        return jnp.full(t.shape, 2.0 * (self.snr * ratio) ** 2)


def _mean_norm(value: Float[Array, " batch *data"]) -> Array:
    """Returns the mean norm of the examples that are finite: one that failed does not spoil the
    others."""
    norms = jnp.sqrt(sum_data(value**2))
    return jnp.mean(norms, where=jnp.isfinite(norms))


# --- Correctors ---


@dataclasses.dataclass(frozen=True)
class Langevin:
    """num_steps Langevin steps (Eq. 1) at a fixed t, under any SDE.

    Raises:
        ValueError: if num_steps < 1.
        TypeError: if the rule is not callable.
    """

    num_steps: int = 1
    """Langevin steps, with one evaluation each."""
    rule: NoiseLevelStep | BatchMeanStep = NoiseLevelStep()
    """How long a step is."""

    def __post_init__(self):
        checks.count("num_steps", self.num_steps, at_most=checks.MOST_STEPS)
        if not callable(self.rule) or isinstance(self.rule, type):
            raise TypeError(
                f"rule is {self.rule!r}: wanted one such as sd.correctors.NoiseLevelStep(snr=0.16)."
            )

    @property
    def evaluations(self) -> int:
        """Evaluations of the score in one call."""
        return self.num_steps

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x: Float[Array, " batch *data"],
        t: Time,
        cond: Cond = None,
        a: Scalar = 1.0,
    ) -> Float[Array, " batch *data"]:
        """Returns x corrected, where x are draws from about p_t. key: one, or one per example."""
        keys = example_keys(key, x.shape[0])
        t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
        return self.correct(keys, sde, bind(sde, score, cond), x, t, a)

    def correct(self, keys: Array, sde: SDE, score: Any, x: Array, t: Array, a: Scalar) -> Array:
        """Takes the steps inside a sampler."""

        def body(x, i):
            noise = normal_like(fold_in_examples(keys, i), x)
            s = score(x, t)
            return langevin_step(x, s, noise, a * self.rule(sde, t, s, noise)), None

        if self.num_steps == 1:
            return body(x, 0)[0]
        return jax.lax.scan(body, x, jnp.arange(self.num_steps))[0]


@dataclasses.dataclass(frozen=True)
class Identity:
    """Leaves x as it is."""

    @property
    def evaluations(self) -> int:
        """Evaluations of the score in one call."""
        return 0

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x: Float[Array, " batch *data"],
        t: Time,
        cond: Cond = None,
        a: Scalar = 1.0,
    ) -> Float[Array, " batch *data"]:
        """Returns x."""
        return x

    def correct(self, keys: Array, sde: SDE, score: Any, x: Array, t: Array, a: Scalar) -> Array:
        """Returns x."""
        return x


AnyCorrector = Langevin | Identity
"""The correctors that settings choose from."""
