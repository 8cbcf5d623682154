"""The step that Euler-Maruyama, ancestral sampling and the predictors share.

    x ← x_coef x + score_coef score(x, t) + noise_std z,   z ~ N(0, I)        (Eq. 1)

The coefficients depend on the grid alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array

from scoresde.keys import normal_like
from scoresde.types import Scalar


class LinearStep(NamedTuple):
    """The coefficients of Eq. 1; None leaves a term out, and saves its evaluation or its draw."""

    x_coef: Scalar | None
    score_coef: Scalar | None
    noise_std: Scalar | None


def linear_step(
    self: Any, sde: Any, score: Any, keys: Array, x: Array, t: Array, t_next: Array, c: LinearStep
) -> Array:
    """Takes one step (Eq. 1), as a method of a `GridSampler` whose coefficients are a
    `LinearStep`."""
    moved = x if c.x_coef is None else c.x_coef * x
    if c.score_coef is not None:
        moved = moved + c.score_coef * score(x, t)
    if c.noise_std is not None:
        moved = moved + c.noise_std * normal_like(keys, x)
    return moved
