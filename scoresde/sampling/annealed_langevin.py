"""Annealed Langevin dynamics, the sampler of NCSN: Langevin steps at falling noise levels.

    x ← x + a_i score(x, t_i) + sqrt(2 a_i) z,   a_i = step_size sigma_i^2 / sigma_0^2    (Eq. 1)

sigma_0 is the smallest scale. Song & Ermon 2019 (arXiv:1907.05600), Alg. 1, with the step of the
official code; the paper's text writes half of a_i.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.keys import fold_in_examples, normal_like
from scoresde.sampling.grid_sampler import GridSampler, check_levels, check_log_snr, level_times
from scoresde.sampling.langevin import langevin_step
from scoresde.sampling.on_grid import Times
from scoresde.sde.base import SDE


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(GridSampler):
    """At each noise level, from high to low, steps_per_level Langevin steps (Eq. 1).

    Published step sizes, for data in [0, 1]: 2e-5 for NCSN (10 levels of 100 steps, sigma 0.01 … 1,
    no denoising), 6.2e-6 for NCSNv2 (Song & Ermon 2020, arXiv:2006.09011: 232 levels of 5 steps,
    0.01 … 50, denoising). At every level the ratio of drift to noise is the same; stable for
    step_size < 2 sigma_0^2.

    Raises:
        ValueError: if a count is < 1, step_size is not positive, not 0 <= t_min < start <= 1, or a
            single level has a t_min.
    """

    num_steps: int = 10
    """Noise levels."""
    steps_per_level: int = 100
    """Langevin steps at each, with one evaluation each."""
    step_size: float = 2e-5
    """a at the lowest level, in squared units of the data."""
    t_min: float | None = dataclasses.field(default=None, kw_only=True)
    """The lowest level; by default the SDE's own, 0 for VE, or 1 / num_steps."""

    def __post_init__(self):
        super().__post_init__()
        check_levels(self)
        checks.count("steps_per_level", self.steps_per_level)
        checks.setting("step_size", self.step_size, "(0, inf)")

    @property
    def evaluations(self) -> int:
        return self.steps_per_level

    def check_start(self, sde: SDE, score: Any) -> None:
        """Langevin steps need neither f nor g, so every start is one."""

    def times(self, sde: SDE) -> Times:
        """Returns start, and the levels: step i corrects at times[i + 1], the first one at
        start."""
        check_log_snr(self, sde)
        levels = level_times(self, sde)
        xp = np if isinstance(levels, np.ndarray) else jnp
        return xp.concatenate([xp.full(1, self.start), levels])

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> Array:
        """Returns a_i of Eq. 1."""
        return self.step_size * sde.variance(t_next) / sde.variance(t_next[-1])

    def step(
        self,
        sde: SDE,
        score: Any,
        keys: Array,
        x: Array,
        t: Array,
        t_next: Array,
        coefficients: Any,
    ) -> Array:
        """Takes the Langevin steps of one level (Eq. 1)."""

        def body(x, i):
            noise = normal_like(fold_in_examples(keys, i), x)
            return langevin_step(x, score(x, t_next), noise, coefficients), None

        return jax.lax.scan(body, x, jnp.arange(self.steps_per_level))[0]
