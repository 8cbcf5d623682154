"""Ancestral sampling, DDPM's and NCSN's: the reverse of each step's own kernel, on any SDE."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jax import Array
from jaxtyping import Float

from scoresde.keys import normal_like
from scoresde.sampling.base import Sample
from scoresde.sampling.grid_sampler import GridSettings, check_levels, integrate, level_times
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn, call_score


@dataclasses.dataclass(frozen=True)
class Ancestral(GridSettings):
    """Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, Alg. 2; Song et al. 2021, arXiv:2011.13456, App. F):

        x_s = (x_t + v score) / c + sqrt(variance) z,   p(x_t | x_s) = N(c x_s, v I) the SDE's exact transition
        posterior   variance = v sigma_s^2 / sigma_t^2, that of q(x_s | x_t, x_0)
        beta        variance = v

    For VP, c = sqrt(1 - beta_i) and v = beta_i of `DDPM.from_sde(sde, num_steps, exact=True)`; for VE, c = 1 and v =
    sigma_i^2 - sigma_{i-1}^2 of `NCSN.from_sde(sde, num_steps)`. num_steps levels, so num_steps - 1 steps between them,
    and the last from the lowest level to data, which is Tweedie's denoising: one evaluation a level.

    Raises:
        ValueError: if num_steps < 1, not 0 <= t_min < start <= 1, variance is neither, or a single level has a t_min or
            no denoising.
    """

    num_steps: int = 1000
    """Noise levels, an evaluation each."""
    variance: Literal["posterior", "beta"] = "posterior"
    """Of a step: right for data at a single point, or for data of unit variance (VP)."""
    t_min: float | None = dataclasses.field(default=None, kw_only=True)
    """The lowest level; by default the process's own, 1 / num_steps, or 0 for VE."""

    def __post_init__(self):
        super().__post_init__()
        check_levels(self)
        if self.num_steps == 1 and not self.denoise:
            raise ValueError(
                "num_steps is 1 and denoise is False: no step is left, x1 would be the sample. Take two."
            )
        if self.variance not in ("posterior", "beta"):
            raise ValueError(f"variance is {self.variance!r}: wanted 'posterior' or 'beta'.")

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

        def coefficients(t, s):
            c, std = sde.transition(s, t)
            spread = std if self.variance == "beta" else std * sde.sigma(s) / sde.sigma(t)
            return 1.0 / c, std**2 / c, spread

        def step(score, keys, x, t, s, row):
            keep, pull, spread = row
            return keep * x + pull * call_score(score, x, t, cond) + spread * normal_like(keys, x)

        times = level_times(self, sde)
        return integrate(self, key, sde, score, x1, cond, coefficients, step, 1, times)
