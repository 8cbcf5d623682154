"""NCSN, the discretisation of VE.

    q(x_i | x0) = N(x0, sigma_i^2 I)                                              (Eq. 1)
    q(x_i | x_{i-1}) = N(x_{i-1}, (sigma_i^2 - sigma_{i-1}^2) I),   sigma_{-1} = 0     (Eq. 2)
    sigma_i = sigma(t_i),   t_i = i / (N - 1)                                     (Eq. 3)

Song & Ermon 2019 (arXiv:1907.05600), also called SMLD; Song et al. 2021 (arXiv:2011.13456), App. B.
Here the scales rise with i = 0 … N - 1; in the first paper they fall.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from scoresde import checks
from scoresde.discrete.base import Chain, check_from_sde
from scoresde.discrete.table import shifted, table_of
from scoresde.sde.base import SDE
from scoresde.sde.ve import VE


@dataclasses.dataclass(frozen=True, eq=False)
class NCSN(Chain):
    """Noise-conditional score network, a table of noise scales (Eq. 1).

    Raises:
        ValueError: if the scales are not (N,), or do not rise from above 0.
    """

    sigmas: np.ndarray
    """sigma_i, the noise scale of level i: (N,), rising from above 0."""

    def __post_init__(self):
        object.__setattr__(self, "sigmas", table_of("sigmas", self.sigmas))
        if not (self.sigmas[0] > 0.0 and np.all(np.diff(self.sigmas) > 0.0)):
            raise ValueError(
                f"sigmas run {self.sigmas[0]:g} … {self.sigmas[-1]:g}: wanted scales that rise "
                f"from above 0, e.g. NCSN.geometric(10, 0.01, 1.0)."
            )

    # --- Ways to make one ---

    @classmethod
    def from_sde(cls, sde: SDE, num_steps: int = 1000) -> NCSN:
        """Returns the chain of N = num_steps scales of a variance-exploding SDE (Eq. 3).

        Its marginals are the SDE's; for VE the scales are geometric.

        Raises:
            TypeError: if the SDE is not one, or has traced settings.
            ValueError: if the SDE is not variance-exploding, or N < 2.
        """
        check_from_sde(sde, num_steps)
        _check_two_scales(num_steps, "sigma(0) to sigma(1)")

        times = sde.level_times(num_steps)
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            if not (sde.noisy_at_zero and np.allclose(np.asarray(sde.alpha(times)), 1.0)):
                raise ValueError(
                    f"{sde} lacks alpha(t) = 1 or noise at t = 0: NCSN discretises VE. For "
                    f"VP write DDPM.from_sde(sde, num_steps)."
                )
            return cls(np.asarray(sde.sigma(times)))

    @classmethod
    def geometric(
        cls, num_steps: int = 10, sigma_min: float = 0.01, sigma_max: float = 1.0
    ) -> NCSN:
        """Returns the chain whose scales run from sigma_min to sigma_max in equal ratios.

        NCSN has 10 from 0.01 to 1, and NCSNv2 has 232 from 0.01 to 50, both for data in [0, 1].

        Raises:
            ValueError: if num_steps < 2, or a scale is not positive, or they do not rise.
        """
        checks.count("num_steps", num_steps, at_most=checks.MOST_STEPS)
        _check_two_scales(num_steps, "sigma_min to sigma_max")
        checks.setting("sigma_min", sigma_min, "(0, inf)")
        checks.setting("sigma_max", sigma_max, "(0, inf)")
        return cls(np.geomspace(sigma_min, sigma_max, num_steps))

    # --- Tables ---

    @property
    def coefficients(self) -> np.ndarray:
        return np.ones_like(self.sigmas)

    @property
    def variances(self) -> np.ndarray:
        before = shifted(self.sigmas, 0.0)
        return (self.sigmas - before) * (
            self.sigmas + before
        )  # a difference of squares loses digits

    @property
    def signal(self) -> np.ndarray:
        return np.ones_like(self.sigmas)

    @property
    def marginal_variances(self) -> np.ndarray:
        return self.sigmas**2

    # --- To the SDE ---

    def to_sde(self, exact: bool = False) -> VE:
        """Returns the VE SDE whose marginals at t = i / (N - 1) are this chain's (Eq. 3).

        It is exact in any case, so `exact` changes nothing.

        Raises:
            ValueError: if the scales are not geometric to a relative 1e-6, or there is only one.
        """
        if self.num_steps < 2:
            raise ValueError(
                f"the chain has one scale, {self.sigmas[0]:g}: a VE runs from one to another, so "
                f"wanted at least two. Write e.g. NCSN.geometric(10, 0.01, 1.0)."
            )

        logs = np.log(self.sigmas)
        geometric = np.linspace(logs[0], logs[-1], self.num_steps)
        if not np.allclose(logs, geometric, rtol=0.0, atol=1e-6):
            raise ValueError(
                "the scales are not geometric, so they are not those of a VE: wanted equal ratios. "
                "Write e.g. NCSN.geometric(10, 0.01, 1.0)."
            )
        return VE(sigma_min=float(self.sigmas[0]), sigma_max=float(self.sigmas[-1]))


def _check_two_scales(num_steps: int, ends: str) -> None:
    if num_steps < 2:
        raise ValueError(
            f"num_steps is {num_steps}: the scales run from {ends}, so there are two at least."
        )
