"""NCSN, the discretisation of VE."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from scoresde import checks
from scoresde.discrete.base import Chain, check_from_sde, shifted, table_of
from scoresde.sde.base import SDE
from scoresde.sde.ve import VE


@dataclasses.dataclass(frozen=True, eq=False)
class NCSN(Chain):
    """Noise-conditional score networks, SMLD (Song & Ermon 2019, arXiv:1907.05600), the discretisation of VE:

        q(x_i | x_0) = N(x_0, sigma_i^2 I),   q(x_i | x_{i-1}) = N(x_{i-1}, (sigma_i^2 - sigma_{i-1}^2) I)

    with sigma_{-1} = 0. Scales rise with i; the paper's fall.

    Raises:
        ValueError: if the scales do not rise from above 0.
    """

    sigmas: np.ndarray
    """sigma_i, (N,), rising."""

    def __post_init__(self):
        object.__setattr__(self, "sigmas", table_of("sigmas", self.sigmas))
        if not (self.sigmas[0] > 0.0 and np.all(np.diff(self.sigmas) > 0.0)):
            raise ValueError(
                f"sigmas run {self.sigmas[0]:g} … {self.sigmas[-1]:g}: wanted scales that rise from above 0, e.g. "
                f"NCSN.geometric(10, 0.01, 1.0)."
            )

    @classmethod
    def from_sde(cls, sde: SDE, num_steps: int = 1000) -> NCSN:
        """sigma_i = sigma(i / (N - 1)), i = 0 … N - 1: geometric for VE (Song et al. 2021, arXiv:2011.13456, App. B).

        Raises:
            ValueError: if the SDE is not variance-exploding, or N < 2.
        """
        check_from_sde(sde, num_steps)
        if num_steps < 2:
            raise ValueError(
                "num_steps is 1: the scales run from sigma(0) to sigma(1), two at least."
            )
        times = sde.level_times(num_steps)
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            if not (sde.noisy_at_zero and np.allclose(np.asarray(sde.alpha(times)), 1.0)):
                raise ValueError(
                    f"the signal of {sde} shrinks: NCSN discretises VE. For VP: DDPM.from_sde."
                )
            return cls(np.asarray(sde.sigma(times)))

    @classmethod
    def geometric(
        cls, num_steps: int = 10, sigma_min: float = 0.01, sigma_max: float = 1.0
    ) -> NCSN:
        """Geometric from sigma_min to sigma_max: NCSN's 10 from 0.01 to 1, NCSNv2's 232 to 50 (data in [0, 1])."""
        checks.count("num_steps", num_steps)
        if num_steps < 2:
            raise ValueError(
                "num_steps is 1: the scales run from sigma_min to sigma_max, two at least."
            )
        checks.setting("sigma_min", sigma_min, "(0, inf)")
        checks.setting("sigma_max", sigma_max, "(0, inf)")
        return cls(np.geomspace(sigma_min, sigma_max, num_steps))

    @property
    def coefficients(self) -> np.ndarray:
        return np.ones_like(self.sigmas)

    @property
    def variances(self) -> np.ndarray:
        before = shifted(self.sigmas, 0.0)
        return (self.sigmas - before) * (self.sigmas + before)

    @property
    def signal(self) -> np.ndarray:
        return np.ones_like(self.sigmas)

    @property
    def marginal_variances(self) -> np.ndarray:
        return self.sigmas**2

    def to_sde(self, exact: bool = False) -> VE:
        """The VE SDE whose marginals at t = i / (N - 1) are this chain's, exactly in any case.

        Raises:
            ValueError: if the scales are not geometric, to 1e-6 of each, or there is one alone.
        """
        if self.num_steps < 2:
            raise ValueError(
                f"the chain has one scale, {self.sigmas[0]:g}: a VE runs from one to another."
            )
        logs = np.log(self.sigmas)
        if not np.allclose(
            logs, np.linspace(logs[0], logs[-1], self.num_steps), rtol=0.0, atol=1e-6
        ):
            raise ValueError(
                "the scales are not geometric: no VE has them. NCSN.geometric makes such as are."
            )
        return VE(sigma_min=float(self.sigmas[0]), sigma_max=float(self.sigmas[-1]))
