"""The bound of a diffusion as a hierarchical VAE, in the two decompositions of Luo 2022.

The latents are the states x_0, …, x_T at times t_0 < … < t_T = 1, all with noise; x is the data,
which takes the place of x_{-1}.

    -log p(x) <= E[-log p(x | x_0)]                                            reconstruction
      + E KL(q(x_T | x_{T-1}) || prior)                                        prior
      + sum_{i=1}^{T} E[log q(x_{i-1} | x_{i-2}) - log p(x_{i-1} | x_i)]       consistency   (Eq. 1)

    -log p(x) <= E[-log p(x | x_0)]
      + KL(q(x_T | x) || prior)                                                prior
      + sum_{i=1}^{T} E KL(q(x_{i-1} | x_i, x) || p(x_{i-1} | x_i))            matching      (Eq. 2)

The expectations are over q, whose states are drawn together, one after another. Both are equal;
their estimates are not: the terms of Eq. 2 hold an expectation in closed form. (Luo prints the
consistency term as a KL divergence over x_{i-1}; that is not equal, since x_i depends on x_{i-1}.)

    p(x_s | x_t) = q(x_s | x_t, x = E[x | x_t]),   p(x | x_0) = N(x_0 / alpha, (sigma / alpha)^2 I)
    q(x_s | x_t, x) = N(c sigma_s^2 / sigma_t^2 x_t + alpha_s v / sigma_t^2 x, w I)          (Eq. 3)
        (c, sqrt v) of p(x_t | x_s),   w = v sigma_s^2 / sigma_t^2

Luo 2022 (arXiv:2208.11970), Eq. 43 to 45 and 58; Kingma et al. 2021 (arXiv:2107.00630).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from scoresde import checks
from scoresde.data.real_valued import check_real_valued
from scoresde.keys import fold_in_examples, normal_like
from scoresde.loss import bound_terms
from scoresde.parallel.per_example import per_example
from scoresde.precision import full_precision, precision_of
from scoresde.sde.base import SDE, check_sde
from scoresde.sde.bound_score import bind
from scoresde.standardization import log_volume, to_model_units
from scoresde.types import Cond, Key, ScoreFn, pytree_dataclass, right_pad, sum_data


@pytree_dataclass()
class HierarchicalBound:
    """The terms of both decompositions in nats, on the same draws of the states."""

    reconstruction: Float[Array, " batch draws"]
    """-log p(x | x_0)."""
    consistency: Float[Array, " batch draws steps"]
    """The terms of Eq. 1, i = 1 … T."""
    consistency_prior: Float[Array, " batch draws"]
    matching: Float[Array, " batch draws steps"]
    """The terms of Eq. 2, i = 1 … T."""
    matching_prior: Float[Array, " batch draws"]
    success: Bool[Array, " batch"]
    """Whether both bounds are numbers in every draw."""

    @property
    def by_consistency(self) -> Float[Array, " batch draws"]:
        """The bound by Eq. 1, one per draw of the trajectory."""
        with precision_of(self.consistency):
            terms = self.consistency.sum(axis=-1)
            return self.reconstruction + self.consistency_prior + terms

    @property
    def by_matching(self) -> Float[Array, " batch draws"]:
        """The bound by Eq. 2, one per draw of the trajectory."""
        with precision_of(self.matching):
            return self.reconstruction + self.matching_prior + self.matching.sum(axis=-1)


def hierarchical_bound(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x: Float[Array | np.ndarray, " batch *data"],
    num_steps: int = 100,
    num_draws: int = 1,
    cond: Cond = None,
    *,
    t_min: float = 1e-3,
    float64: bool = False,
    batch_size: int | None = None,
) -> HierarchicalBound:
    """Returns the terms of the bound on -log p(x) in nats, decomposed both ways (Eq. 1 and 2).

    num_steps: T, the number of steps between the T + 1 latents, of equal length in t. num_draws:
    trajectories of the latents per example; example i's depend on (key, i) alone. t_min: the time
    of the first latent, unless t = 0 is a noise level of the SDE. Evaluations: T per trajectory.

    Raises:
        ValueError: if x has no batch axis, a count is below 1, t_min lies outside (0, 1), or the
            SDE ends in pure noise.
        TypeError: if x does not hold floating-point numbers.
    """
    check_sde(sde)
    checks.batch(x, "x")
    check_real_valued(x, "x")
    checks.count("num_steps", num_steps, at_most=checks.MOST_STEPS)
    checks.count("num_draws", num_draws)
    t_min = 0.0 if sde.noisy_at_zero else checks.fixed("t_min", t_min)
    checks.setting("t_min", t_min, "[0, 1)" if sde.noisy_at_zero else "(0, 1)")
    if sde.ends_in_noise:
        raise ValueError(
            f"{sde} ends in pure noise, so the last of num_steps = {num_steps} steps has an "
            f"infinite weight: take sd.variational_bound, in continuous time."
        )

    x = to_model_units(score, x, float64)
    bound = per_example(
        _hierarchical_bound,
        Settings(int(num_steps), int(num_draws), t_min),
        key,
        sde,
        score,
        x,
        cond,
        x.shape[0],
        float64=float64,
        batch_size=batch_size,
        what="bounds",
        goal="a number",
        advice=checks.OF_BOUNDS,
    )
    with precision_of(bound.reconstruction):
        reconstruction = bound.reconstruction + log_volume(score, x)
        return dataclasses.replace(bound, reconstruction=reconstruction)


class Settings(NamedTuple):
    """The static argument of the program."""

    num_steps: int
    num_draws: int
    t_min: float


@eqx.filter_jit
def _hierarchical_bound(
    settings: Settings,
    sde: SDE,
    score: ScoreFn,
    keys: Array,
    x: Float[Array, " batch *data"],
    cond: Cond,
) -> HierarchicalBound:
    """Draws the states of each trajectory one after another, with the terms that end in each."""
    num_steps, num_draws, t_min = settings
    bound = bind(sde, score, cond)
    times = jnp.linspace(t_min, 1.0, num_steps + 1, dtype=x.dtype)

    def trajectory(_, draw):
        own = fold_in_examples(keys, draw)
        first = times[0]
        mean, std = sde.marginal_prob(x, jnp.full(len(x), first))
        noise = normal_like(fold_in_examples(own, 0), x)
        x_0 = mean + right_pad(std, x) * noise
        log_q = _log_normal(x_0, mean, sde.sigma(first))  # of x_0 given x
        decoder_std = sde.sigma(first) / sde.alpha(first)
        reconstruction = -_log_normal(x, x_0 / sde.alpha(first), decoder_std)

        def step(state, i):
            x_s, log_q, _ = state
            s = times[i - 1]
            t = times[i]
            c, std = sde.transition(s, t)
            x_t = c * x_s + std * normal_like(fold_in_examples(own, i), x)

            t_all = jnp.full(len(x), t)
            x_hat, noise_hat = bound.data_and_noise(x_t, t_all)
            mean, reverse_std = _reverse(sde, s, t, x_t, x_hat)
            consistency = log_q - _log_normal(x_s, mean, reverse_std)  # Eq. 1

            noise = (x_t - sde.alpha(t) * x) / sde.sigma(t)
            error = sum_data((noise - noise_hat) ** 2)
            matching = bound_terms.step_weight(sde, s, t) * error  # Eq. 2
            return (x_t, _log_normal(x_t, c * x_s, std), x_s), (consistency, matching)

        steps = jnp.arange(1, num_steps + 1)
        (_, _, before_last), (consistency, matching) = jax.lax.scan(step, (x_0, log_q, x_0), steps)
        prior = _kl_to_prior(sde, times[-2], before_last)
        return None, (reconstruction, consistency, prior, matching)

    with full_precision():
        _, (reconstruction, consistency, prior, matching) = jax.lax.scan(
            trajectory, None, jnp.arange(num_draws)
        )

    kl = jnp.broadcast_to(sde.prior_kl(x)[:, None], (len(x), num_draws))
    by_consistency = reconstruction + prior + consistency.sum(axis=1)
    by_matching = reconstruction + kl.T + matching.sum(axis=1)
    failed = jnp.isnan(by_consistency) | jnp.isnan(by_matching)
    return HierarchicalBound(
        reconstruction=reconstruction.T,
        consistency=jnp.moveaxis(consistency, -1, 0),
        consistency_prior=prior.T,
        matching=jnp.moveaxis(matching, -1, 0),
        matching_prior=kl,
        success=~failed.any(axis=0),
    )


def _reverse(sde: SDE, s: Array, t: Array, x_t: Array, x: Array) -> tuple[Array, Array]:
    """Returns mean and standard deviation of q(x_s | x_t, x) (Eq. 3)."""
    c, std = sde.transition(s, t)
    ratio = sde.variance(s) / sde.variance(t)
    mean = c * ratio * x_t + sde.alpha(s) * std**2 / sde.variance(t) * x
    return mean, std * jnp.sqrt(ratio)


def _kl_to_prior(sde: SDE, s: Array, x_s: Array) -> Array:
    """Returns KL(q(x_1 | x_s) || prior), one per example."""
    c, std = sde.transition(s, jnp.ones_like(s))
    prior_std = sde.prior_std()
    ratio = (std / prior_std) ** 2
    dim = math.prod(x_s.shape[1:])
    return 0.5 * (sum_data((c * x_s / prior_std) ** 2) + dim * (ratio - 1.0 - jnp.log(ratio)))


def _log_normal(x: Array, mean: Array, std: Any) -> Array:
    """Returns log N(x; mean, std^2 I), one per example."""
    dim = math.prod(x.shape[1:])
    return -0.5 * sum_data(((x - mean) / std) ** 2) - dim * (
        jnp.log(std) + 0.5 * math.log(2.0 * math.pi)
    )
