"""DDPM, the discretisation of VP."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from scoresde import checks
from scoresde.discrete.base import Chain, check_from_sde, table_of
from scoresde.sde.base import SDE
from scoresde.sde.vp import VP, TabulatedVP


@dataclasses.dataclass(frozen=True, eq=False)
class DDPM(Chain):
    """Denoising diffusion (Ho et al. 2020, arXiv:2006.11239), the discretisation of VP:

        q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I),   alphas_bar_i = prod_{j <= i} (1 - beta_j)

    Raises:
        ValueError: if a beta does not lie in (0, 1).
    """

    betas: np.ndarray
    """beta_i, (N,)."""

    def __post_init__(self):
        object.__setattr__(self, "betas", table_of("betas", self.betas))
        low, high = self.betas.min(), self.betas.max()
        if low <= 0.0:
            raise ValueError(
                f"betas hold {low:g}: each is the variance that a step adds, above 0. For a rate that starts at 0: "
                f"DDPM.from_sde(sde, num_steps, exact=True)."
            )
        if high >= 1.0:
            raise ValueError(
                f"betas hold {high:g}: each is the share of the variance that a step replaces, below 1. Take more "
                f"steps, or DDPM.from_sde(sde, num_steps, exact=True), valid for few."
            )

    @classmethod
    def from_sde(cls, sde: SDE, num_steps: int = 1000, exact: bool = False) -> DDPM:
        """N steps of a variance-preserving SDE.

        By default beta_i = beta(i / (N - 1)) / N (Song et al. 2021, arXiv:2011.13456, App. B), Ho et al.'s 1e-4 … 0.02
        for N = 1000: right to first order in 1 / N. exact: beta_i = 1 - alpha(t_i)^2 / alpha(t_{i-1})^2 at t_i =
        (i + 1) / N, whose marginals are the SDE's.

        Raises:
            ValueError: if the SDE is not variance-preserving, or so few steps make a beta >= 1; exact: round to 1.
        """
        check_from_sde(sde, num_steps)
        probe = np.linspace(0.0, 1.0, 5)
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            total = np.asarray(sde.alpha(probe) ** 2 + sde.variance(probe))
            if not np.allclose(total, 1.0, atol=1e-6):
                raise ValueError(
                    f"alpha^2 + sigma^2 is not 1 under {sde}: DDPM discretises VP. For VE: NCSN.from_sde."
                )
            if exact:
                times = np.arange(num_steps + 1) / num_steps
                betas = -np.expm1(2.0 * np.diff(np.asarray(sde.log_alpha(times))))
                if betas.max() >= 1.0:
                    raise ValueError(
                        f"num_steps is {num_steps}: a step keeps so little of x that its exact beta rounds to 1. Take "
                        f"more steps."
                    )
                return cls(betas)
            if num_steps < 2:
                raise ValueError(
                    "num_steps is 1: beta(i / (N - 1)) needs two. One step: exact=True."
                )
            betas = np.asarray(sde.squared_diffusion(np.linspace(0.0, 1.0, num_steps))) / num_steps
        if betas.max() >= 1.0:
            raise ValueError(
                f"num_steps is {num_steps}: beta(t) / N reaches {betas.max():.3g}, but must stay below 1. Take more "
                f"than {math.floor(betas.max() * num_steps)} steps, or exact=True, valid for few."
            )
        return cls(betas)

    @classmethod
    def linear(cls, num_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> DDPM:
        """beta_i from first to last in equal steps (Ho et al. 2020)."""
        checks.count("num_steps", num_steps)
        return cls(np.linspace(first, last, num_steps))

    @classmethod
    def cosine(cls, num_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> DDPM:
        """alphas_bar = cos^2((t + s) / (1 + s) pi / 2) at t = (i + 1) / N over its value at t = 0; s is the offset.

        Each beta_i is at most max_beta (Nichol & Dhariwal 2021, arXiv:2102.09672, Eq. 17).
        """
        checks.count("num_steps", num_steps)
        checks.setting("offset", offset, "[0, inf)")
        times = np.arange(num_steps + 1) / num_steps
        alphas_bar = np.cos((times + offset) / (1.0 + offset) * np.pi / 2.0) ** 2
        return cls(np.minimum(1.0 - alphas_bar[1:] / alphas_bar[:-1], max_beta))

    @property
    def alphas(self) -> np.ndarray:
        """alpha_i = 1 - beta_i (not the SDE's alpha)."""
        return 1.0 - self.betas

    @property
    def alphas_bar(self) -> np.ndarray:
        """prod_{j <= i} alpha_j, the SDE's alpha^2."""
        return np.exp(self._log_alphas_bar)

    @property
    def _log_alphas_bar(self) -> np.ndarray:
        return np.cumsum(np.log1p(-self.betas))

    @property
    def coefficients(self) -> np.ndarray:
        return np.sqrt(self.alphas)

    @property
    def variances(self) -> np.ndarray:
        return self.betas

    @property
    def signal(self) -> np.ndarray:
        return np.exp(0.5 * self._log_alphas_bar)

    @property
    def marginal_variances(self) -> np.ndarray:
        return -np.expm1(self._log_alphas_bar)  # 1 - alphas_bar, with its digits

    def to_sde(self, exact: bool = False) -> VP | TabulatedVP:
        """The VP SDE that this chain discretises.

        By default, the limit of many steps where there is one: a linear table's VP, beta_min = N beta_0 and beta_max =
        N beta_{N-1}. exact, and for any other table: the SDE whose marginals at t = (i + 1) / N are the chain's.
        """
        first, last = self.betas[[0, -1]]
        linear = np.linspace(
            first, last, self.num_steps
        )  # rtol 1e-6: tables that were stored in float32 too
        if (
            not exact
            and self.num_steps > 1
            and first <= last
            and np.allclose(self.betas, linear, rtol=1e-6, atol=0.0)
        ):
            return VP(beta_min=float(self.num_steps * first), beta_max=float(self.num_steps * last))
        return TabulatedVP(np.concatenate([[0.0], -self._log_alphas_bar]))
