"""Correctors: Langevin steps that pull the states of a sampler back to p_t."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sampling.langevin import langevin_step
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, Scalar, ScoreFn, Time, call_score, sum_data

# --- Step sizes ---


@dataclasses.dataclass(frozen=True)
class NoiseLevelStep:
    """eps = 2 a snr^2 (sigma(t)^2 + alpha(t)^2 data_std^2): a function of t alone, so examples stay independent.

    On N(0, v I), v the bracket, the drift's expected norm is snr times the noise's, and the stationary variance is
    v / (1 - snr^2) for a = 1.

    Raises:
        ValueError: if snr does not lie in (0, 1), or data_std is negative.
    """

    snr: float = 0.16
    """Ratio of the drift's to the noise's norm."""
    data_std: float = 0.0
    """Scale below which the data are known to be smooth: longer steps where sigma is smaller still."""

    def __post_init__(self):
        checks.setting("snr", self.snr, "(0, 1)")
        checks.setting("data_std", self.data_std, "[0, inf)")

    def __call__(self, sde: SDE, t: Array, score: Array, noise: Array) -> Array:
        """eps / a, one per example."""
        return 2.0 * self.snr**2 * (sde.variance(t) + (sde.alpha(t) * self.data_std) ** 2)


@dataclasses.dataclass(frozen=True)
class BatchMeanStep:
    """eps = 2 a (snr mean|z| / mean|score|)^2, means over the batch: the rule of Song et al. 2021 (App. G, and code).

    For parity: examples depend on their neighbours in a chunk through it. Dividing by an example's own |score| would
    not do: eps then depends on x, which biases the law (8 dimensions, snr .4: variance 2.07 sigma^2). On N(0, sigma^2
    I) and a large batch the stationary variance is sigma^2 (1 + snr^2) for a = 1.

    Raises:
        ValueError: if snr does not lie in (0, 1).
    """

    snr: float = 0.16
    """Ratio of the drift's to the noise's norm."""

    def __post_init__(self):
        checks.setting("snr", self.snr, "(0, 1)")

    def __call__(self, sde: SDE, t: Array, score: Array, noise: Array) -> Array:
        """eps / a, one per example."""
        noise_norm, score_norm = (_mean_norm(value) for value in (noise, score))
        return jnp.full(t.shape, 2.0 * (self.snr * noise_norm / score_norm) ** 2)


def _mean_norm(value: Float[Array, " batch *data"]) -> Array:
    """Mean over the examples that are finite: one that failed does not take the others along."""
    norms = jnp.sqrt(sum_data(value**2))
    return jnp.mean(norms, where=jnp.isfinite(norms))


# --- The corrector ---


@dataclasses.dataclass(frozen=True)
class Langevin:
    """num_steps Langevin steps at a fixed t (Song et al. 2021, arXiv:2011.13456, Alg. 4 and 5), under any SDE.

        x ← x + eps score(x, t) + sqrt(2 eps) z,   eps by `rule`, with a = (alpha_t / alpha_s)^2 over the step s → t

    For VP a is the paper's 1 - beta_i; for VE it is 1.

    Raises:
        ValueError: if num_steps < 1.
    """

    num_steps: int = 1
    """Langevin steps, an evaluation each."""
    rule: NoiseLevelStep | BatchMeanStep = NoiseLevelStep()
    """How long a step is."""

    def __post_init__(self):
        checks.count("num_steps", self.num_steps)
        if not callable(self.rule) or isinstance(self.rule, type):
            raise TypeError(
                f"rule is {self.rule!r}: wanted one such as sd.correctors.NoiseLevelStep(snr=0.16)."
            )

    @property
    def evaluations(self) -> int:
        """Of the score, a call."""
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
        """Correct x, taken as draws of about p_t. key: one, or one per example."""
        keys = example_keys(key, x.shape[0])
        t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])

        def body(x, i):
            noise = normal_like(fold_in_examples(keys, i), x)
            value = call_score(score, x, t, cond)
            return langevin_step(x, value, noise, a * self.rule(sde, t, value, noise)), None

        if self.num_steps == 1:
            return body(x, 0)[0]
        return jax.lax.scan(body, x, jnp.arange(self.num_steps))[0]


@dataclasses.dataclass(frozen=True)
class Identity:
    """Leaves x as it is."""

    evaluations = 0

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x: Array,
        t: Time,
        cond: Cond = None,
        a: Scalar = 1.0,
    ) -> Array:
        return x
