"""Denoising score matching."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import example_keys, normal_like
from scoresde.loss import weighting as weightings
from scoresde.loss.weighting import Weighting
from scoresde.sde.base import SDE, check_sde
from scoresde.types import Cond, Key, ScoreFn, call_score, right_pad, sum_data

# --- The loss ---


def dsm_loss(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array, " batch *data"],
    t: Float[Array, " batch"],
    weighting: Weighting = weightings.Variance(),
    cond: Cond = None,
) -> Float[Array, " batch"]:
    """Denoising score matching (Vincent 2011; Song et al. 2021, arXiv:2011.13456, Eq. 7):

        lambda(t) |score(x_t, t) + noise / sigma|^2,   x_t = alpha x_0 + sigma noise

    One value per example, summed over data dimensions. Its minimiser is the score, its minimum is not 0. key: one, or
    one per example; t: in (0, 1], one per example.

    Raises:
        ValueError: if t does not hold exactly one time per example in (0, 1], or cond one row.
    """
    check_sde(sde)
    checks.batch(x0, "x0")
    if jnp.shape(t) != x0.shape[:1]:
        raise ValueError(
            f"t has shape {jnp.shape(t)}, x0 has {x0.shape}: dsm_loss wants one time per example. "
            f"For a single time use jnp.full({x0.shape[:1]}, t)."
        )
    checks.times(t)
    if not sde.noisy_at_zero and is_concrete(t) and not bool(jnp.all(t > 0)):
        raise ValueError(
            "t holds 0, the data themselves, where the conditional score is infinite: draw t in [1e-5, 1]."
        )
    checks.condition(cond, x0.shape[0])
    noise = normal_like(example_keys(key, x0.shape[0]), x0)
    mean, std = sde.marginal_prob(x0, t)
    std = right_pad(std, x0)
    residual = std * call_score(score, mean + std * noise, t, cond) + noise
    return weighting(sde, t) * sum_data(residual**2)
