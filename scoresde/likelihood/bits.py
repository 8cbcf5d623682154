"""Bits per dimension, of real numbers and of integers."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.precision import precision_of


def bits_per_dim(
    log_prob: Float[Array, ...],
    dim: int,
    levels: int | None = 256,
    low: float = -1.0,
    high: float = 1.0,
) -> Float[Array, ...]:
    """-log p / (D ln 2) + log2(levels |du/dx|), u the data on [0, 1], x = low + (high - low) u.

    For uniformly dequantised data with `levels` values scaled to [low, high]: +7 for 8-bit images in [-1, 1], +8 in
    [0, 1]. levels=None: real-valued data, no offset. log_prob: nats; dim: D, all data dimensions, channels included.

    Raises:
        ValueError: if dim or levels is not a whole number large enough, or low >= high.
    """
    checks.count("dim", dim)
    if low >= high:
        raise ValueError(
            f"low = {low} is not below high = {high}: they are the ends of the data's range."
        )
    if levels is not None:
        checks.count("levels", levels, 2)
    offset = 0.0 if levels is None else math.log2(levels / (high - low))
    with precision_of(log_prob):
        return -jnp.asarray(log_prob) / (dim * math.log(2.0)) + offset


def discrete_bits_per_dim(
    log_prob: Float[Array, " draws batch"],
    log_q: Float[Array, " draws batch"],
    dim: int,
    stderr: Float[Array, " draws batch"] | None = None,
) -> Float[Array, " batch"]:
    """Bits per dimension of integers k, -log2[1/K sum_i p(z_i) / q(z_i | k)] / D, from K draws of a dequantisation.

    In expectation an upper bound, the tighter the more draws (Burda et al. 2016, arXiv:1509.00519). K = 1 is the plain
    bound -(log p - log q), of the same mean as -(log p + D H). log_prob: nats of each draw; log_q: `log_prob` of the
    dequantisation; dim: D; stderr: of log_prob, as `log_likelihood` gives it, wanted for K > 1. For these log_prob must
    have no noise of probes, so `divergence=ExactDivergence()`: the exponential of a noisy one is too large on average,
    by half its variance in nats, and the result no bound.

    Raises:
        ValueError: if dim is not a whole number, the shapes differ, or K > 1 and stderr is missing or says that there
            were probes.
    """
    checks.count("dim", dim)
    if jnp.shape(log_prob) != jnp.shape(log_q) or jnp.ndim(log_prob) != 2:
        raise ValueError(
            f"log_prob has shape {jnp.shape(log_prob)}, log_q {jnp.shape(log_q)}: wanted (draws, batch) both; for one "
            f"draw log_prob[None]."
        )
    if len(log_prob) > 1 and stderr is None:
        raise ValueError(
            "several draws, and no stderr: hand over that of the likelihoods, which tells whether they "
            "have the noise of probes; zeros where log_prob is known in closed form."
        )
    if len(log_prob) > 1 and is_concrete(stderr) and np.any(np.asarray(stderr) != 0.0):
        raise ValueError(
            "log_prob has the noise of probes, which the mean over several draws takes for likelihood: compute it with "
            "divergence=sd.ExactDivergence(), or average the bits of single draws."
        )
    with precision_of(log_prob):
        mean = jax.scipy.special.logsumexp(log_prob - log_q, axis=0) - math.log(log_prob.shape[0])
        return -mean / (dim * math.log(2.0))
