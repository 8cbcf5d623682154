"""Euler-Maruyama for the reverse-time SDE.

    dx = [f x - g^2 score(x, t)] dt + g dw                                           (Eq. 1)
    x_{i+1} = x_i + [f x_i - g^2 score(x_i, t_i)] dt_i + g sqrt(-dt_i) z_i           (Eq. 2)
    dt_i = t_{i+1} - t_i < 0

Song et al. 2021 (arXiv:2011.13456), Eq. 6. Weak order 1.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from scoresde.sampling.grid_sampler import GridSampler
from scoresde.sampling.linear_step import LinearStep
from scoresde.sde.base import SDE


@dataclasses.dataclass(frozen=True)
class EulerMaruyama(GridSampler):
    """The reverse-time SDE by Euler-Maruyama (Eq. 2), for any score.

    Evaluations: num_steps, and one more with `denoise`.

    Raises:
        ValueError: if num_steps < 1 or not 0 <= t_min < start <= 1.
    """

    num_steps: int = 1000
    """Steps from start to t_min."""

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> LinearStep:
        """Returns what multiplies x, the score and the noise in Eq. 2."""
        return euler_maruyama_step(sde, t, t_next)


def euler_maruyama_step(sde: SDE, t: Array, t_next: Array) -> LinearStep:
    """Returns the coefficients of Eq. 2: 1 + f dt, -g^2 dt and g sqrt(-dt)."""
    dt = t_next - t
    g2 = sde.squared_diffusion(t)
    return LinearStep(
        x_coef=1.0 + sde.drift_rate(t) * dt,
        score_coef=-g2 * dt,
        noise_std=jnp.sqrt(-g2 * dt),
    )
