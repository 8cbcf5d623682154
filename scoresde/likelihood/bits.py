"""Bits per dimension, for real-valued data and for integers.

    bits/dim = -log p(x) / (D ln 2) - log2 w,   w = (high - low) / levels                (Eq. 1)
    bits/dim = -log2( 1/K sum_i p(z_i) / q(z_i | k) ) / D                                (Eq. 2)

Eq. 1 is for data x dequantised uniformly, with bins of width w; Eq. 2 is for integers k and K
draws z_i of any dequantisation q. Both are upper bounds on the bits of k in expectation, and Eq.
2 tightens as K grows (Burda et al. 2016, arXiv:1509.00519).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.data.pixel_range import PixelRange
from scoresde.precision import precision_of


def bits_per_dim(
    log_prob: Float[Array, ...],
    dim: int,
    levels: int | None = 256,
    low: float = -1.0,
    high: float = 1.0,
) -> Float[Array, ...]:
    """-log p / (D ln 2) - log2((high - low) / levels), for uniformly dequantised data (Eq. 1).

    The data are scaled to [low, high]. The second term is +7 for 8-bit images in [-1, 1], and +8
    in [0, 1].

    Args:
        log_prob: log p in nats, of any shape; the result has the same.
        dim: D, the number of data dimensions of one example, channels included.
        levels: the number of values before dequantisation; None for real-valued data, which have no
            second term.
        low: the lower end of the range of the data.
        high: the upper end of the range of the data.

    Raises:
        ValueError: if dim < 1 or levels < 2, either is not whole, or low >= high.
    """
    checks.count("dim", dim)
    pixels = PixelRange(2 if levels is None else levels, low, high)

    offset = 0.0 if levels is None else -math.log2(pixels.bin_width)
    with precision_of(log_prob):
        return -jnp.asarray(log_prob) / (dim * math.log(2.0)) + offset


def discrete_bits_per_dim(
    log_prob: Float[Array, " draws batch"],
    log_q: Float[Array, " draws batch"],
    dim: int,
    stderr: Float[Array, " draws batch"] | None = None,
) -> Float[Array, " batch"]:
    """-log2[1/K sum_i p(z_i) / q(z_i | k)] / D, for integers k and K draws z_i (Eq. 2).

    For K = 1 this is the plain bound -(log p - log q), which has the same mean as -(log p + D
    H). For K > 1, log_prob must be free of probe noise (`divergence=ExactDivergence()`): the
    exponential of a noisy value is too large on average, by half its variance in nats, and the
    result would be no bound.

    Args:
        log_prob: log p of each draw in nats.
        log_q: log q of each draw in nats, from the `log_prob` of the dequantisation.
        dim: D, the number of data dimensions of one example, channels included.
        stderr: the standard error of log_prob, as `log_likelihood` returns it; required for K > 1.

    Raises:
        ValueError: if dim is not a positive whole number, the shapes differ, or K > 1 and stderr is
            missing or not zero.
    """
    checks.count("dim", dim)
    _check_draws(log_prob, log_q, stderr)

    with precision_of(log_prob):
        num_draws = log_prob.shape[0]
        log_mean = jax.scipy.special.logsumexp(log_prob - log_q, axis=0) - math.log(num_draws)
        return -log_mean / (dim * math.log(2.0))


def _check_draws(log_prob: Array, log_q: Array, stderr: Array | None) -> None:
    if jnp.shape(log_prob) != jnp.shape(log_q) or jnp.ndim(log_prob) != 2:
        raise ValueError(
            f"log_prob has shape {jnp.shape(log_prob)}, log_q has {jnp.shape(log_q)}: wanted "
            f"(draws, batch) for both. For one draw write log_prob[None] and log_q[None]."
        )

    if len(log_prob) == 1:
        return
    if stderr is None:
        raise ValueError(
            f"log_prob has {len(log_prob)} draws, and no stderr came with it: wanted the standard "
            f"error of the likelihoods, which shows whether they contain probe noise. Write "
            f"stderr=likelihood.stderr (None with one probe: take divergence="
            f"sd.ExactDivergence()), or zeros if log_prob is known in closed form."
        )
    if is_concrete(stderr) and np.any(np.asarray(stderr) != 0.0):
        raise ValueError(
            "log_prob contains probe noise, which the mean over several draws would count as "
            "likelihood: compute it with divergence=sd.ExactDivergence(), or average the bits of "
            "single draws."
        )
