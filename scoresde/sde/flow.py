"""The probability flow of an SDE, also where signal or noise vanishes.

    dx/dt = f x - 1/2 g^2 score                                                      (Eq. 1)
          = (alpha' / alpha) x + (omega / alpha) E[noise | x]                        (Eq. 2)
          = (sigma' / sigma) x - (omega / sigma) E[x_0 | x]                          (Eq. 3)
    omega = alpha sigma' - sigma alpha' = g^2 alpha / (2 sigma)                      (Eq. 4)
    n = sqrt(alpha^2 + sigma^2): for data N(0, I) it is dx/dt = (log n)' x           (Eq. 5)

Song et al. 2021 (arXiv:2011.13456), Eq. 13; Lipman et al. 2023 (arXiv:2210.02747). Where alpha(1) =
0, f and g are infinite at t = 1, and a score alone says nothing of x_0 there: Eq. 3 is finite.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde.sde.calculus import derivative
from scoresde.types import right_pad


def flow(
    sde: Any, score: Any, x: Float[Array, " batch *data"], t: Float[Array, " batch"]
) -> Float[Array, " batch *data"]:
    """Returns dx/dt of the probability flow, for a score bound to its condition."""
    if not sde.ends_in_noise:
        f = right_pad(sde.drift_rate(t), x)
        g2 = right_pad(sde.squared_diffusion(t), x)
        return f * x - 0.5 * g2 * score(x, t)  # Eq. 1

    x0, noise = score.data_and_noise(x, t)
    is_noise = sde.sigma(t) > sde.alpha(t)

    # Each form at times where it is finite; the other's entries are not used.
    early = jnp.where(is_noise, 0.5, t)
    f = right_pad(sde.drift_rate(early), x)
    of_noise = right_pad(sde.rotation(early) / sde.alpha(early), x)

    late = jnp.where(is_noise, t, 1.0)
    sigma = sde.sigma(late)
    growth = right_pad(sde.sigma_rate(late) / sigma, x)
    of_data = right_pad(sde.rotation(late) / sigma, x)

    by_noise = f * x + of_noise * noise  # Eq. 2
    by_data = growth * x - of_data * x0  # Eq. 3
    return jnp.where(right_pad(is_noise, x), by_data, by_noise)


def log_norm(sde: Any, t: Array) -> Array:
    """Returns log n, n^2 = alpha^2 + sigma^2 (Eq. 5); like t."""
    return 0.5 * jnp.log(sde.alpha(t) ** 2 + sde.variance(t))


def norm_growth(sde: Any, t: Array) -> Array:
    """Returns d log n / dt (Eq. 5); like t."""
    return derivative(lambda t: log_norm(sde, t), t)
