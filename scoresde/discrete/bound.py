"""The variational bound of DDPM on the probability of integers, term by term.

    -log P(k) <= L_T + sum_{i=1}^{N-1} L_i + L_0                                  (Eq. 1)
    L_T = KL(q(x_{N-1} | x0) || N(0, I))
        = 1/2 sum_d [a^2 x0^2 + sigma^2 - 1 - log sigma^2]   at i = N - 1         (Eq. 2)
    L_i = KL(q(x_{i-1} | x_i, x0) || p(x_{i-1} | x_i))
        = D/2 (r - 1 - log r) + (v_i / (c_i sigma_i))^2 |eps - noise|^2 / (2 u_i),
          r = w_i / u_i                                                           (Eq. 3)
    L_0 = -log of the integral of N(mean, v_0 I) over the bins of k               (Eq. 4)
        mean = (x_0 - v_0 / sigma_0 noise) / c_0

with the tables of base.py; u_i is the variance of p, w_i ("posterior") or v_i ("beta"), and x0 the
centres of the bins. The outermost bins reach to infinity. Ho et al. 2020 (arXiv:2006.11239), Eq. 5
and 13, who count levels from 1 and scale 0 … 255 to [-1, 1] without half bins at the ends: low =
-256/255, high = 256/255. Of a chain from an `sd.LearntVP`, with "posterior", L_T and L_i are the
terms of `sd.elbo` in N - 1 steps, whose last term asks a softmax and no network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm
from jaxtyping import Bool, Float

from scoresde import checks
from scoresde.data.pixel_range import PixelRange
from scoresde.keys import fold_in_examples, normal_like
from scoresde.types import data_dim, pytree_dataclass, sum_data

if TYPE_CHECKING:
    from scoresde.discrete.ddpm import DDPM

Noise = Callable[[Array, Array], Array]
"""(x, i) → the network's estimate of the noise in x at level i, one per example."""


@pytree_dataclass()
class DDPMBound:
    """nll >= -log P(k) on average over its draws, in nats, one per example (Eq. 1)."""

    nll: Float[Array, " batch"]
    prior: Float[Array, " batch"]
    """L_T (Eq. 2)."""
    steps: Float[Array, " steps batch"]
    """L_i of i = 1 … N - 1 (Eq. 3)."""
    decoder: Float[Array, " batch"]
    """L_0 (Eq. 4)."""
    success: Bool[Array, " batch"]
    """Whether nll is a number: infinity is a bound, and NaN is none."""

    def bits_per_dim(self, dim: int) -> Float[Array, " batch"]:
        """Returns nll / (D ln 2), with no offset: it bounds a probability, not a density."""
        return self.nll / (dim * math.log(2.0))


def ddpm_bound(
    ddpm: DDPM, keys: Array, noise: Noise, k: Array, pixels: PixelRange, variances: np.ndarray
) -> DDPMBound:
    """Returns the terms of Eq. 1, with one draw of the noise at each level.

    noise: (x, i) → the network's estimate of the noise in x. k: whole numbers, as floats.
    variances: u_i, and v_0 at i = 0.
    """
    x0 = pixels.centre(k)
    a = jnp.asarray(ddpm.signal, x0.dtype)
    sigma = jnp.asarray(np.sqrt(ddpm.marginal_variances), x0.dtype)

    def error(i: Array) -> tuple[Array, Array, Array]:
        """Returns x_i, the noise in it, and the network's estimate."""
        eps = normal_like(fold_in_examples(keys, i), x0)
        x = a[i] * x0 + sigma[i] * eps
        return x, eps, noise(x, jnp.full(len(x0), i))

    # L_i, level by level.
    scale = ddpm.variances / (ddpm.coefficients * np.sqrt(ddpm.marginal_variances))
    weights = jnp.asarray(scale**2 / (2.0 * variances), x0.dtype)
    ratio = ddpm.posterior_variances / variances
    ratio[0] = 1.0  # L_0 has no such term
    constant = jnp.asarray(0.5 * data_dim(x0) * (ratio - 1.0 - np.log(ratio)), x0.dtype)

    def step(_, i):
        _, eps, predicted = error(i)
        return None, constant[i] + weights[i] * sum_data((eps - predicted) ** 2)  # Eq. 3

    _, steps = jax.lax.scan(step, None, jnp.arange(1, ddpm.num_steps))

    # L_0
    x, _, predicted = error(jnp.asarray(0))
    mean = (x - float(scale[0] * ddpm.coefficients[0]) * predicted) / float(ddpm.coefficients[0])
    std = float(np.sqrt(ddpm.variances[0]))
    lower = jnp.where(k == 0, -jnp.inf, (pixels.lower_edge(k) - mean) / std)
    upper = jnp.where(k == pixels.levels - 1, jnp.inf, (pixels.lower_edge(k + 1) - mean) / std)
    decoder = -sum_data(_log_normal_between(lower, upper))  # Eq. 4

    variance = ddpm.marginal_variances[-1]
    of_variance = data_dim(x0) * float(variance - 1.0 - np.log(variance))
    prior = 0.5 * (sum_data((a[-1] * x0) ** 2) + of_variance)  # Eq. 2
    nll = prior + steps.sum(axis=0) + decoder
    success = ~jnp.isnan(nll)
    checks.warn_of_failures(success, "bounds", "a number", "Look for NaN in the network.")
    return DDPMBound(nll, prior, steps, decoder, success)


def _log_normal_between(lower: Array, upper: Array) -> Array:
    """Returns log(Phi(upper) - Phi(lower)), from the tail in which it does not cancel."""
    right = lower > 0.0
    near = jnp.where(right, -lower, upper)
    far = jnp.where(right, -upper, lower)
    log_near = norm.logcdf(near)
    gap = norm.logcdf(jnp.where(jnp.isinf(far), 0.0, far)) - log_near
    return log_near + jnp.where(jnp.isinf(far), 0.0, jnp.log(-jnp.expm1(gap)))
