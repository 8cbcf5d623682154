"""The variational bound of the SDE as a generative model, term by term, with its error.

    -log p(x_0) <= KL(p(x_1 | x_0) || prior)                                           (Eq. 1)
                   + 1/2 ∫ g^2 E|score - grad log p(x_t | x_0)|^2 dt over [t_min, 1]   (Eq. 2)
                   + E[-log N(x_0; D, (sigma / alpha)^2 I)]                            (Eq. 3)

D = E[x_0 | x_{t_min}]; sigma and alpha at t_min. Eq. 2 is the span of log SNR times 1/2 E|sigma
score + noise|^2 at times uniform in log SNR; where alpha(1) = 0 and the span is infinite,
importance sampling by another density takes its place (sde/pure_noise.py). Eq. 3 is the offset at
t_min, so that the whole bounds the density of x_0 itself. Song et al. 2021b (arXiv:2101.09258), Thm
3; Kingma et al. 2021 (arXiv:2107.00630), Eq. 11.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from scoresde import checks
from scoresde.data.real_valued import check_real_valued
from scoresde.keys import fold_in_examples, normal_like
from scoresde.parallel.per_example import per_example
from scoresde.precision import full_precision, precision_of
from scoresde.sde.base import SDE, check_sde
from scoresde.sde.bound_score import bind
from scoresde.sde.pure_noise import even, evenness, log_snr_of_even
from scoresde.standardization import log_volume, to_model_units
from scoresde.types import (
    Cond,
    Key,
    ScoreFn,
    data_dim,
    pytree_dataclass,
    right_pad,
    sum_data,
)


@pytree_dataclass()
class Bound:
    """nll >= -log p(x_0) on average over its draws, in nats, one per example: the sum of three
    terms."""

    nll: Float[Array, " batch"]
    stderr: Float[Array, " batch"]
    """Standard error of nll over the draws."""
    prior: Float[Array, " batch"]
    """Eq. 1."""
    diffusion: Float[Array, " batch"]
    """Eq. 2."""
    reconstruction: Float[Array, " batch"]
    """Eq. 3."""
    success: Bool[Array, " batch"]
    """Whether nll is a number: infinity is a bound, and NaN is none."""


def variational_bound(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array | np.ndarray, " batch *data"],
    cond: Cond = None,
    num_times: int = 100,
    t_min: float = 1e-5,
    *,
    float64: bool = False,
    batch_size: int | None = None,
    progress: bool = False,
) -> Bound:
    """Returns an upper bound of -log p(x_0) (Eq. 1 to 3) under the reverse SDE from the prior to
    t_min, and a Gaussian step from there to the data.

    Times are uniform in log SNR, one in each of `num_times` parts of equal length, with one draw of
    the noise each; Eq. 3 has as many draws. On average over data the bound is tight for the exact
    score; for one x0 it need not be. Example i's draws depend on (key, i) alone. stderr: as if the
    times were independent, so rather too large. Evaluations: 2 num_times.

    cond: leaves (batch, ...). float64: whether to compute in it, with the weights cast. batch_size:
    examples a chunk.

    Raises:
        ValueError: if x0 has no batch axis, num_times < 2, or t_min lies outside (0, 1) (0 for VE).
        TypeError: if x0 does not hold floating-point numbers.
    """
    check_sde(sde)
    t_min = checks.fixed("t_min", t_min)
    checks.batch(x0, "x0")
    check_real_valued(x0, "x0")
    checks.count("num_times", num_times, 2, at_most=checks.MOST_STEPS)
    checks.setting("t_min", t_min, "[0, 1)" if sde.noisy_at_zero else "(0, 1)")

    x0 = to_model_units(score, x0, float64)
    bound = per_example(
        _bound,
        Settings(int(num_times), t_min),
        key,
        sde,
        score,
        x0,
        cond,
        x0.shape[0],
        float64=float64,
        batch_size=batch_size,
        progress=progress,
        what="bounds",
        goal="a number",
        advice=checks.OF_BOUNDS,
    )

    # Eq. 3 is the density of x_0, so it is the term that units change.
    with precision_of(bound.nll):
        volume = log_volume(score, x0)
        return dataclasses.replace(
            bound, nll=bound.nll + volume, reconstruction=bound.reconstruction + volume
        )


class Settings(NamedTuple):
    """The static argument of the program."""

    num_times: int
    t_min: float


@eqx.filter_jit
def _bound(
    settings: Settings,
    sde: SDE,
    score: ScoreFn,
    keys: Array,
    x0: Float[Array, " batch *data"],
    cond: Cond,
) -> Bound:
    """Averages Eq. 2 and 3 over the draws."""
    bound = bind(sde, score, cond)
    num_times, t_min = settings
    dim = data_dim(x0)

    highest, lowest = even(sde, sde.log_snr(jnp.asarray([t_min, 1.0], x0.dtype)))
    span = highest - lowest

    end = jnp.full(x0.shape[0], t_min, x0.dtype)
    end_mean, end_std = sde.marginal_prob(x0, end)
    decoder_variance = (sde.sigma(end) / sde.alpha(end)) ** 2

    def uniform(key):
        return jax.random.uniform(key, dtype=x0.dtype)

    def draw(_, i):
        time_keys = fold_in_examples(keys, 3 * i)
        noise_keys = fold_in_examples(keys, 3 * i + 1)
        end_keys = fold_in_examples(keys, 3 * i + 2)

        # Eq. 2, at one time of the i-th part of the range of log SNR.
        u = (i.astype(x0.dtype) + jax.vmap(uniform)(time_keys)) / num_times
        log_snr = log_snr_of_even(sde, highest - span * u)
        t = sde.time_from_log_snr(log_snr)
        t = jnp.clip(t, t_min, 1.0).astype(x0.dtype)
        noise = normal_like(noise_keys, x0)
        mean, sigma = sde.marginal_prob(x0, t)
        sigma = right_pad(sigma, x0)
        residual = sigma * bound(mean + sigma * noise, t) + noise
        diffusion = 0.5 * span / evenness(sde, log_snr) * sum_data(residual**2)

        # Eq. 3.
        x_end = end_mean + right_pad(end_std, x0) * normal_like(end_keys, x0)
        error = sum_data((x0 - bound.denoise(x_end, end)) ** 2)
        log_normalizer = dim * jnp.log(2.0 * math.pi * decoder_variance)
        reconstruction = 0.5 * (error / decoder_variance + log_normalizer)
        return None, (diffusion, reconstruction)

    with full_precision():
        _, (diffusion, reconstruction) = jax.lax.scan(draw, None, jnp.arange(num_times))

    prior = sde.prior_kl(x0)  # Eq. 1
    stderr = jnp.std(diffusion + reconstruction, axis=0, ddof=1) / math.sqrt(num_times)
    diffusion = diffusion.mean(axis=0)
    reconstruction = reconstruction.mean(axis=0)
    nll = prior + diffusion + reconstruction
    return Bound(nll, stderr, prior, diffusion, reconstruction, ~jnp.isnan(nll))
