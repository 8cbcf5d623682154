"""Euler-Maruyama for the reverse-time SDE."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde.calls import full_precision
from scoresde.sampling.base import Path, Sample, check_sampler_input, check_t_min, finish
from scoresde.sampling.time_grid import Uniform, UniformLogSNR, grid_times, on_grid
from scoresde.sde.base import SDE, denoise
from scoresde.types import Cond, Key, ScoreFn, call_score, check_count, fold_in_examples, normal_like


@dataclasses.dataclass(frozen=True)
class EulerMaruyama:
    """The reverse-time SDE (Song et al. 2021, arXiv:2011.13456, Eq. 6) by Euler-Maruyama, for any score.

        x_{i+1} = x_i + [f x_i - g^2 score(x_i, t_i)] dt_i + g sqrt(-dt_i) z_i,   dt_i = t_{i+1} - t_i < 0

    Weak order 1. Evaluations: num_steps, one more with `denoise`.

    Raises:
        ValueError: if num_steps < 1 or t_min lies outside [0, 1).
    """

    num_steps: int = 1000
    """Steps from t = 1 to t_min."""
    t_min: float = 1e-3
    """Where to stop: on real data the score blows up as t → 0."""
    grid: Uniform | UniformLogSNR = Uniform()
    """Where the steps lie."""
    denoise: bool = True
    """End with one Tweedie denoising, E[x_0 | x_{t_min}]."""
    save_path: bool = False
    """Keep every state; memory grows with num_steps."""

    def __post_init__(self):
        check_count("num_steps", self.num_steps)
        check_t_min(self.t_min)

    def __call__(
        self, key: Key, sde: SDE, score: ScoreFn, x1: Float[Array, " batch *data"], cond: Cond = None
    ) -> Sample:
        """Integrate x1 at t = 1 down to t_min. key: one, or one per example; cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """
        x1, keys = check_sampler_input(key, sde, x1, cond)
        times = grid_times(self.grid, sde, self.num_steps, self.t_min)

        def coefficients(t, t_next):  # of x, score and noise: they depend on the grid alone
            dt, g2 = t_next - t, sde.squared_diffusion(t)
            return 1.0 + sde.drift_rate(t) * dt, -g2 * dt, jnp.sqrt(-g2 * dt)

        table = on_grid(sde, coefficients, times[:-1], times[1:])

        def step(x, inputs):
            i, t, (keep, pull, spread) = inputs
            noise = normal_like(fold_in_examples(keys, i), x)
            s = call_score(score, x, jnp.full(x.shape[:1], t), cond)
            x = keep * x + pull * s + spread * noise
            return x, (x if self.save_path else None)

        with full_precision():
            inputs = jnp.arange(self.num_steps), *_cast((times[:-1], table), x1.dtype)
            x, states = jax.lax.scan(step, x1, inputs)
            path = None
            if states is not None:
                t = jnp.broadcast_to(jnp.asarray(times, x1.dtype), (x1.shape[0], self.num_steps + 1))
                path = Path(t, jnp.moveaxis(jnp.concatenate([x1[None], states]), 0, 1))
            if self.denoise:
                x = denoise(sde, score, x, jnp.full(x.shape[:1], self.t_min, x.dtype), cond)
        return finish(x, jnp.ones(x.shape[:1], bool), self.num_steps + self.denoise, path)


def _cast(tree, dtype):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)
