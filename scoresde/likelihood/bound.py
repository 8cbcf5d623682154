"""The variational bound of the SDE as a generative model, term by term, with its error."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.data.real_valued import check_real_valued
from scoresde.keys import example_keys, normal_like
from scoresde.parallel.arguments import as_argument
from scoresde.parallel.per_example import check_score, in_chunks
from scoresde.precision import at_least_float32, full_precision
from scoresde.sde.base import SDE, check_sde, denoise
from scoresde.types import (
    Cond,
    Key,
    ScoreFn,
    call_score,
    data_dim,
    pytree_dataclass,
    right_pad,
    sum_data,
)


@pytree_dataclass()
class Bound:
    """nll >= -log p(x0) in expectation over its draws, in nats: the sum of its three terms; stderr over the draws."""

    nll: Float[Array, " batch"]
    stderr: Float[Array, " batch"]
    prior: Float[Array, " batch"]
    diffusion: Float[Array, " batch"]
    reconstruction: Float[Array, " batch"]


def variational_bound(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array, " batch *data"],
    cond: Cond = None,
    num_times: int = 100,
    t_min: float = 1e-5,
    *,
    batch_size: int | None = None,
    progress: bool = False,
) -> Bound:
    """Upper bound of -log p(x0) under the reverse SDE from the prior down to t_min, and a Gaussian step to data:

        KL(q(x_1 | x0) || prior) + 1/2 ∫ g^2 E|score - grad log q(x_t | x0)|^2 dt + E[-log N(x0; D, (sigma/alpha)^2 I)]

    (Song et al. 2021b, arXiv:2101.09258, Thm 3; Kingma et al. 2021, arXiv:2107.00630, Eq. 11.) The integral runs over
    [t_min, 1]; it is 1/2 E|sigma score + noise|^2 times the span of log SNR, at times uniform in log SNR, one of
    `num_times` in each part of equal length. D = E[x_0 | x_{t_min}], by one draw a time too: this last term is the
    offset at t_min, so that the whole bounds the density of x0 itself. On average over data the bound is tight for the
    exact score; for one x0 it need not be. Example i's draws depend on (key, i) alone.

    cond: leaves (batch, ...). stderr: over draws, as if the times were independent, so rather too large. batch_size:
    examples a chunk. Evaluations: 2 num_times.

    Raises:
        ValueError: if x0 has no batch axis, num_times < 2, or t_min lies outside (0, 1) (0 for VE).
        TypeError: if x0 does not hold floating-point numbers.
    """
    check_sde(sde)
    checks.batch(x0, "x0")
    checks.condition(cond, x0.shape[0])
    check_score(sde, score, cond)
    checks.count("num_times", num_times, 2)
    check_real_valued(x0, "x0")
    checks.setting("t_min", t_min, "[0, 1)" if sde.noisy_at_zero else "(0, 1)")
    prior, diffusion, reconstruction, stderr = in_chunks(
        lambda shared, rows: _bound_chunk(shared, rows, num_times, t_min),
        (sde, as_argument(score)),
        (example_keys(key, x0.shape[0]), at_least_float32(x0), cond),
        x0.shape[0],
        batch_size,
        "bound" if progress else None,
    )
    return Bound(prior + diffusion + reconstruction, stderr, prior, diffusion, reconstruction)


@eqx.filter_jit
def _bound_chunk(
    shared: tuple[SDE, ScoreFn], rows: tuple[Key, Array, Cond], num_times: int, t_min: float
) -> tuple[Array, ...]:
    (sde, score), (keys, x0, cond) = shared, rows
    dim, batch = data_dim(x0), x0.shape[0]
    first, last = (sde.log_snr(jnp.asarray(t, x0.dtype)) for t in (t_min, 1.0))
    lowest = jnp.full(batch, t_min, x0.dtype)
    mean, std = sde.marginal_prob(x0, lowest)
    decoder = (sde.sigma(lowest) / sde.alpha(lowest)) ** 2

    def draw(_, i):
        key_time, key_noise, key_end = (
            jax.vmap(jax.random.fold_in, (0, None))(keys, 3 * i + j) for j in range(3)
        )
        u = (i + jax.vmap(jax.random.uniform)(key_time)) / num_times
        t = jnp.clip(sde.time_from_log_snr(first + (last - first) * u), t_min, 1.0).astype(x0.dtype)
        noise = normal_like(key_noise, x0)
        at, sigma = sde.marginal_prob(x0, t)
        sigma = right_pad(sigma, x0)
        residual = sigma * call_score(score, at + sigma * noise, t, cond) + noise
        diffusion = 0.5 * (first - last) * sum_data(residual**2)
        end = mean + right_pad(std, x0) * normal_like(key_end, x0)
        error = sum_data((x0 - denoise(sde, score, end, lowest, cond)) ** 2)
        return None, (diffusion, 0.5 * (error / decoder + dim * jnp.log(2.0 * math.pi * decoder)))

    with full_precision():
        _, (diffusion, reconstruction) = jax.lax.scan(draw, None, jnp.arange(num_times))
    stderr = jnp.std(diffusion + reconstruction, axis=0, ddof=1) / np.sqrt(num_times)
    return sde.prior_kl(x0), diffusion.mean(axis=0), reconstruction.mean(axis=0), stderr
