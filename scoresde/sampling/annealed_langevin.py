"""Annealed Langevin dynamics, NCSN's sampler: Langevin steps at falling noise levels."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.keys import fold_in_examples, normal_like
from scoresde.sampling.base import Sample
from scoresde.sampling.grid_sampler import (
    GridSettings,
    check_levels,
    check_log_snr,
    integrate,
    level_times,
)
from scoresde.sampling.langevin import langevin_step
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn, call_score


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(GridSettings):
    """Annealed Langevin dynamics (Song & Ermon 2019, arXiv:1907.05600, Alg. 1): at each noise level, high to low,

        x ← x + a_i score(x, t_i) + sqrt(2 a_i) z,   a_i = step_size sigma_i^2 / sigma_0^2,   steps_per_level times

    sigma_0 the smallest scale. This is the official code's step, with the published step_size: 2e-5 for NCSN (10 levels
    of 100 steps, sigma 0.01 … 1, no denoising), 6.2e-6 for NCSNv2 (Song & Ermon 2020, arXiv:2006.09011: 232 levels of 5
    steps, 0.01 … 50, denoising), for data in [0, 1]; the paper's text writes half of a_i. At every level the ratio of
    drift to noise is the same; stable for step_size < 2 sigma_0^2.

    Raises:
        ValueError: if a count is < 1, step_size is not positive, not 0 <= t_min < start <= 1, or a single level has a
            t_min.
    """

    num_steps: int = 10
    """Noise levels."""
    steps_per_level: int = 100
    """Langevin steps at each, an evaluation each."""
    step_size: float = 2e-5
    """a at the lowest level, in squared units of the data."""
    t_min: float | None = dataclasses.field(default=None, kw_only=True)
    """The lowest level; by default the process's own, 0 for VE, or 1 / num_steps."""

    def __post_init__(self):
        super().__post_init__()
        check_levels(self)
        checks.count("steps_per_level", self.steps_per_level)
        checks.setting("step_size", self.step_size, "(0, inf)")

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """From x1 at t = start to data. key: one, or one per example; cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """
        check_log_snr(self, sde)
        levels = level_times(self, sde)
        xp = np if isinstance(levels, np.ndarray) else jnp
        times = xp.concatenate(
            [xp.full(1, self.start), levels]
        )  # step i corrects at times[i + 1], the first at start

        def coefficients(_, t):
            return self.step_size * sde.variance(t) / sde.variance(t[-1])

        def step(score, keys, x, _, t, size):
            def body(x, i):
                noise = normal_like(fold_in_examples(keys, i), x)
                return langevin_step(x, call_score(score, x, t, cond), noise, size), None

            return jax.lax.scan(body, x, jnp.arange(self.steps_per_level))[0]

        return integrate(
            self, key, sde, score, x1, cond, coefficients, step, self.steps_per_level, times
        )
