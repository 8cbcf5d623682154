"""Ancestral sampling, that of DDPM and NCSN: the reverse of each step's own kernel, on any SDE.

    p(x_t | x_s) = N(c x_s, v I), the SDE's exact transition                       (Eq. 1)
    x_s = (x_t + v score(x_t, t)) / c + sqrt(variance) z                           (Eq. 2)
    posterior    variance = v sigma_s^2 / sigma_t^2, that of q(x_s | x_t, x_0)     (Eq. 3)
    beta         variance = v                                                      (Eq. 4)

Ho et al. 2020 (arXiv:2006.11239), Alg. 2; Song et al. 2021 (arXiv:2011.13456), App. F. For VP, c =
sqrt(1 - beta_i) and v = beta_i of `DDPM.from_sde(sde, num_steps, exact=True)`; for VE, c = 1 and v
= sigma_i^2 - sigma_{i-1}^2 of `NCSN.from_sde(sde, num_steps)`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from jax import Array

from scoresde.sampling.grid_sampler import GridSampler, check_levels, level_times
from scoresde.sampling.linear_step import LinearStep
from scoresde.sampling.on_grid import Times
from scoresde.sde.base import SDE


@dataclasses.dataclass(frozen=True)
class Ancestral(GridSampler):
    """Ancestral sampling (Eq. 2) through num_steps noise levels.

    There are num_steps - 1 steps between the levels, and the step from the lowest level to the data
    is the last denoising. Evaluations: one a level.

    Raises:
        ValueError: if num_steps < 1, not 0 <= t_min < start <= 1, variance is neither, or a single
            level has a t_min or no denoising.
    """

    num_steps: int = 1000
    """Noise levels, with one evaluation each."""
    variance: Literal["posterior", "beta"] = "posterior"
    """Variance of a step: right for data at a single point (Eq. 3), or for data of unit variance
    under VP (Eq. 4)."""
    t_min: float | None = dataclasses.field(default=None, kw_only=True)
    """The lowest level; by default the SDE's own, 1 / num_steps, or 0 for VE."""

    def __post_init__(self):
        super().__post_init__()
        check_levels(self)
        if self.num_steps == 1 and not self.denoise:
            raise ValueError(
                "num_steps is 1 and denoise is False: no step is left, so x1 would be the sample. "
                "Write num_steps=2."
            )
        if self.variance not in ("posterior", "beta"):
            raise ValueError(f"variance is {self.variance!r}: wanted 'posterior' or 'beta'.")

    def times(self, sde: SDE) -> Times:
        return level_times(self, sde)

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> LinearStep:
        """Returns what multiplies x, the score and the noise in Eq. 2."""
        c, std = sde.transition(t_next, t)
        posterior_std = std * sde.sigma(t_next) / sde.sigma(t)  # Eq. 3
        return LinearStep(
            x_coef=1.0 / c,
            score_coef=std**2 / c,
            noise_std=std if self.variance == "beta" else posterior_std,
        )
