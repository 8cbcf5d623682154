"""Denoising score matching.

    x_t = alpha x_0 + sigma noise,   noise ~ N(0, I)                                    (Eq. 1)
    loss = lambda(t) |score(x_t, t) + noise / sigma|^2 = w(t) |sigma score + noise|^2   (Eq. 2)

Vincent 2011; Song et al. 2021 (arXiv:2011.13456), Eq. 7. Its minimiser is the score of p_t; its
minimum is not 0. loss/weighting.py has the weights w.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import example_keys, normal_like
from scoresde.loss import weighting as weightings
from scoresde.sde.base import SDE, check_sde
from scoresde.sde.bound_score import bind
from scoresde.standardization import standardization_of, to_model_units
from scoresde.types import Cond, Key, ScoreFn, right_pad, sum_data


def dsm_loss(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array, " batch *data"],
    t: Float[Array, " batch"],
    weighting: weightings.Weighting = weightings.Variance(),
    cond: Cond = None,
) -> Float[Array, " batch"]:
    """Returns the denoising score matching loss (Eq. 2): one value per example, summed over the
    data.

    key: one, or one per example. x0: about in [-1, 1], or in the data's units where the score is a
    model of standardised data. t: in (0, 1], one per example.

    Raises:
        ValueError: if t does not hold exactly one time per example in (0, 1], cond not one row, or
            the weighting does not return one value per example.
    """
    keys, score, t = _training_batch(key, sde, score, x0, t, cond)
    if standardization_of(score) is not None:
        x0 = to_model_units(score, x0)

    noise = normal_like(keys, x0)
    mean, std = sde.marginal_prob(x0, t)
    std = right_pad(std, x0)
    residual = std * score(mean + std * noise, t) + noise  # Eq. 1 within Eq. 2
    weight = weighting(sde, t)
    checks.one_per_example(weight, x0, "weighting")
    return weight * sum_data(residual**2)  # Eq. 2


def _training_batch(key, sde, score, x0, t, cond):
    """Checks a batch, and returns one key per example, the score with its condition bound, and the
    times in the precision of x0."""
    check_sde(sde)
    checks.batch(x0, "x0")
    checks.condition(cond, x0.shape[0])
    if jnp.shape(t) != x0.shape[:1]:
        raise ValueError(
            f"t has shape {jnp.shape(t)}, x0 has {x0.shape}: dsm_loss wants one time per example. "
            f"For a single time use jnp.full({x0.shape[:1]}, t)."
        )
    checks.times(t)
    if not sde.noisy_at_zero and is_concrete(t) and not bool(jnp.all(t > 0)):
        raise ValueError(
            "t holds 0, which is the data, where the conditional score is infinite: draw t in "
            "[1e-5, 1]."
        )
    return example_keys(key, x0.shape[0]), bind(sde, score, cond), jnp.asarray(t, x0.dtype)
