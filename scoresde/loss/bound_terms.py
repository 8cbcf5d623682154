"""The terms of the variational bound on integers, for one draw of the noise, under any linear SDE.

    x_t = alpha x + sigma noise,   gamma = -log SNR,   error(t) = |noise - E[noise | x_t]|^2

    prior            KL(p(x_1 | x) || prior), in closed form: SDE.prior_kl              (Eq. 1)
    diffusion        1/2 ∫ gamma'(t) error(t) dt                                        (Eq. 2)
      in T steps     1/2 sum_i expm1(gamma(t_i) - gamma(t_{i-1})) error(t_i)            (Eq. 3)
                     expm1(gamma(t) - gamma(s)) = std^2 / (c sigma(s))^2,
                     (c, std) of p(x_t | x_s)                                           (Eq. 4)
    reconstruction   -log P(k | x_0) = -log softmax_k(-1/2 (noise + d_v)^2)             (Eq. 5)
                     d_v = alpha / sigma (c(k) - c(v)),   c: the centres of the bins
    for real x       -log N(x; x_0 / alpha, (sigma / alpha)^2), on average over noise
                     D / 2 (1 + log(2 pi) + gamma)                                      (Eq. 6)

Kingma et al. 2021 (arXiv:2107.00630), Eq. 8, 11, 13 to 15 and 17; they write them for VP, where
alpha^2 = sigmoid(-gamma). Eq. 3 is the KL divergence of p(x_s | x_t, x) from the same with
E[x | x_t] in place of x. Eq. 4 and 5 do not cancel.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde.keys import normal_like
from scoresde.sde.base import SDE
from scoresde.sde.calculus import derivative
from scoresde.types import right_pad, sum_data


def noise_error(keys: Array, sde: SDE, score: Any, x: Array, t: Array) -> Float[Array, " batch"]:
    """Returns error(t) for one draw of the noise, one per example.

    score: bound to its condition (sde/bound_score.py). t: (batch,).
    """
    noise = normal_like(keys, x)
    mean, std = sde.marginal_prob(x, t)
    _, predicted = score.data_and_noise(mean + right_pad(std, x) * noise, t)
    return sum_data((noise - predicted) ** 2)


def continuous_weight(sde: SDE, t: Array) -> Array:
    """Returns gamma'(t) / 2 of Eq. 2; like t."""
    return -0.5 * derivative(sde.log_snr, t)


def step_weight(sde: SDE, s: Array, t: Array) -> Array:
    """Returns expm1(gamma(t) - gamma(s)) / 2 of Eq. 3; like t."""
    coefficient, std = sde.transition(s, t)
    return 0.5 * (std / (coefficient * sde.sigma(s))) ** 2  # Eq. 4


def reconstruction(
    keys: Array, sde: SDE, position: Array, width: Array | float, levels: int, t: Array
) -> Float[Array, " batch"]:
    """Returns -log P(k | x_0) in nats for one draw of the noise, one per example (Eq. 5).

    position: the data in units of bins, k at the centre of bin k. width: that of a bin, in the
    model's units. t: the time of x_0, (batch,).
    """
    noise = normal_like(keys, position)
    scale = right_pad(sde.alpha(t) / sde.sigma(t), position) * width
    bins = jnp.arange(levels, dtype=position.dtype)
    k = jnp.round(position)

    def logit(v: Array) -> Array:
        return -0.5 * (noise + scale * (position - v)) ** 2

    logits = jax.vmap(logit, out_axes=-1)(bins)
    return sum_data(jax.nn.logsumexp(logits, axis=-1) - logit(k))


def gaussian_reconstruction(sde: SDE, dim: int, t: Array) -> Float[Array, " batch"]:
    """Returns the mean of -log p(x | x_0) in nats, one per example (Eq. 6)."""
    return 0.5 * dim * (1.0 + math.log(2.0 * math.pi) - sde.log_snr(t))
