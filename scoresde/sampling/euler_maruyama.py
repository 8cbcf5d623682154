"""Euler-Maruyama for the reverse-time SDE."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde.keys import normal_like
from scoresde.sampling.base import Sample
from scoresde.sampling.grid_sampler import GridSettings, integrate
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn, call_score


@dataclasses.dataclass(frozen=True)
class EulerMaruyama(GridSettings):
    """The reverse-time SDE (Song et al. 2021, arXiv:2011.13456, Eq. 6) by Euler-Maruyama, for any score.

        x_{i+1} = x_i + [f x_i - g^2 score(x_i, t_i)] dt_i + g sqrt(-dt_i) z_i,   dt_i = t_{i+1} - t_i < 0

    Weak order 1. Evaluations: num_steps, one more with `denoise`.

    Raises:
        ValueError: if num_steps < 1 or not 0 <= t_min < start <= 1.
    """

    num_steps: int = 1000
    """Steps from start to t_min."""

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrate x1 at t = start down to t_min. key: one, or one per example; cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """

        def step(score, keys, x, t, t_next, row):
            keep, pull, spread = row
            return keep * x + pull * call_score(score, x, t, cond) + spread * normal_like(keys, x)

        coefficients = lambda t, t_next: euler_maruyama_step(sde, t, t_next)  # noqa: E731
        return integrate(self, key, sde, score, x1, cond, coefficients, step, evaluations=1)


def euler_maruyama_step(sde: SDE, t: Array, t_next: Array) -> tuple[Array, Array, Array]:
    """What multiplies x, the score and the noise in one step: 1 + f dt, -g^2 dt, g sqrt(-dt)."""
    dt, g2 = t_next - t, sde.squared_diffusion(t)
    return 1.0 + sde.drift_rate(t) * dt, -g2 * dt, jnp.sqrt(-g2 * dt)
