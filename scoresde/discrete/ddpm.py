"""DDPM, the discretisation of VP.

    q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I)                      (Eq. 1)
    q(x_i | x0) = N(sqrt(alphas_bar_i) x0, (1 - alphas_bar_i) I)                  (Eq. 2)
        alphas_bar_i = prod_{j <= i} alpha_j,   alpha_i = 1 - beta_i

    first order    beta_i = beta(i / (N - 1)) / N                                 (Eq. 3)
    exact          beta_i = 1 - alpha(t_i)^2 / alpha(t_{i-1})^2                   (Eq. 4)
    cosine         alphas_bar_i = f(t_i) / f(0),
                   f(t) = cos^2((t + s) / (1 + s) pi / 2)                         (Eq. 5)

Ho et al. 2020 (arXiv:2006.11239), Eq. 2 and 4; Song et al. 2021 (arXiv:2011.13456), App. B; Nichol
& Dhariwal 2021 (arXiv:2102.09672), Eq. 17. Here i = 0 … N - 1, alpha(t) and beta(t) are the SDE's,
and alpha(t_{-1}) = 1. t_i = (i + 1) / N, but i / (N - 1) where t = 0 is a noise level
(`sd.LearntVP`), whose first step adds the noise of t = 0, so that its betas are exact ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Real

from scoresde import checks
from scoresde.data.pixel_range import PixelRange, whole_numbers
from scoresde.discrete.base import Chain, check_choice, check_from_sde
from scoresde.discrete.bound import DDPMBound, ddpm_bound
from scoresde.discrete.table import table_of
from scoresde.keys import example_keys
from scoresde.sde.base import SDE
from scoresde.sde.vp import VP, TabulatedVP
from scoresde.types import Cond, Key, right_pad


@dataclasses.dataclass(frozen=True, eq=False)
class DDPM(Chain):
    """Denoising diffusion probabilistic model, a table of betas (Eq. 1).

    Raises:
        ValueError: if the betas are not (N,), or one does not lie in (0, 1).
    """

    betas: np.ndarray
    """beta_i, the variance that step i adds: (N,), in (0, 1)."""

    def __post_init__(self):
        object.__setattr__(self, "betas", table_of("betas", self.betas))
        smallest = self.betas.min()
        largest = self.betas.max()

        if smallest <= 0.0:
            raise ValueError(
                f"betas hold {smallest:g}: each is the variance that a step adds, above 0. For a "
                f"rate that starts at 0 write DDPM.from_sde(sde, num_steps, exact=True)."
            )
        if largest == 1.0:
            raise ValueError(
                "betas hold 1: that step leaves nothing of the data (a terminal SNR of zero, Lin "
                "et al. 2024), where log SNR is infinite, and a score or a noise says nothing of "
                "x_0. Write DDPM(np.minimum(betas, 0.999)), as the cosine schedule does."
            )
        if largest > 1.0:
            raise ValueError(
                f"betas hold {largest:g}: each is the share of the variance that a step replaces, "
                f"below 1. Take more steps, or write DDPM.from_sde(sde, num_steps, exact=True), "
                f"which allows few."
            )

    # --- Ways to make one ---

    @classmethod
    def from_sde(cls, sde: SDE, num_steps: int = 1000, exact: bool = False) -> DDPM:
        """Returns the chain of N = num_steps steps of a variance-preserving SDE.

        By default it is right to first order in 1 / N (Eq. 3); for N = 1000 these are the betas of
        Ho et al., 1e-4 … 0.02. With `exact`, its marginals are the SDE's (Eq. 4), as they always
        are where t = 0 is a noise level of the SDE.

        Raises:
            TypeError: if the SDE is not one, or has traced settings.
            ValueError: if the SDE is not variance-preserving, or ends in pure noise, or so few
                steps make a beta of 1 or more; with `exact`, one that rounds to 1.
        """
        check_from_sde(sde, num_steps)
        _check_variance_preserving(sde)
        if sde.ends_in_noise:
            raise ValueError(
                f"{sde} ends in pure noise, so the last beta would be 1: write "
                f"sd.DDPM.cosine({num_steps}), the published chain, which clips it."
            )
        exact = exact or sde.noisy_at_zero
        return cls(_exact_betas(sde, num_steps) if exact else _first_order_betas(sde, num_steps))

    @classmethod
    def linear(cls, num_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> DDPM:
        """Returns the chain whose betas run from first to last in equal steps (Ho et al. 2020).

        Raises:
            ValueError: if num_steps is not a whole number, at least 1, or a beta is not in (0, 1).
        """
        checks.count("num_steps", num_steps, at_most=checks.MOST_STEPS)
        return cls(np.linspace(first, last, num_steps))

    @classmethod
    def cosine(cls, num_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> DDPM:
        """Returns the chain of the cosine schedule (Eq. 5), with each beta at most max_beta.

        offset: s of Eq. 5, which keeps the first betas from being too small.

        Raises:
            ValueError: if num_steps is not a whole number, at least 1, the offset is negative, or
                max_beta leaves a beta outside (0, 1).
        """
        checks.count("num_steps", num_steps, at_most=checks.MOST_STEPS)
        checks.setting("offset", offset, "[0, inf)")

        times = np.arange(num_steps + 1) / num_steps
        alphas_bar = np.cos((times + offset) / (1.0 + offset) * np.pi / 2.0) ** 2  # Eq. 5, f
        return cls(np.minimum(1.0 - alphas_bar[1:] / alphas_bar[:-1], max_beta))

    # --- Tables ---

    @property
    def alphas(self) -> np.ndarray:
        """alpha_i = 1 - beta_i, (N,); not the SDE's alpha."""
        return 1.0 - self.betas

    @property
    def alphas_bar(self) -> np.ndarray:
        """alphas_bar_i, the product of the first alphas (Eq. 2), (N,): the SDE's alpha^2."""
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
        return -np.expm1(self._log_alphas_bar)  # 1 - exp(.) loses digits where alphas_bar is near 1

    # --- The bound ---

    def bound(
        self,
        key: Key,
        network: Callable[..., Array],
        x: Real[Array | np.ndarray, " batch *data"],
        levels: int = 256,
        variance: Literal["posterior", "beta"] = "posterior",
        predicts: Literal["noise", "score"] = "noise",
        cond: Cond = None,
        low: float = -1.0,
        high: float = 1.0,
    ) -> DDPMBound:
        """Returns the variational bound on -log P(x) of whole numbers x in nats (bound.py).

        It draws the noise once at each level, and evaluates the network N times.

        key: one, or one per example. network: (x, i) or (x, i, cond) → noise or score, as
        `predicts` says; that of a score is `ddpm.noise(sde, score)`. levels: the number of values
        of x, 0 … levels - 1, whose bins divide [low, high]. variance: that of p(x_{i-1} | x_i).

        Raises:
            ValueError: if x are not whole numbers 0 … levels - 1, `variance` or `predicts` is
                neither choice, or the network returns another shape.
        """
        check_choice("variance", variance, ("posterior", "beta"))
        check_choice("predicts", predicts, ("noise", "score"))
        pixels = PixelRange(levels, low, high)
        x = whole_numbers(x, levels, f"Scale them to 0 … {levels - 1}.")
        checks.condition(cond, x.shape[0])

        k = jnp.asarray(x, jnp.result_type(float))
        std = jnp.asarray(np.sqrt(self.marginal_variances), k.dtype)

        def noise(state: Array, i: Array) -> Array:
            output = network(state, i) if cond is None else network(state, i, cond)
            checks.same_shape(output, state, "the network")
            output = output.astype(state.dtype)
            return output if predicts == "noise" else -right_pad(std[i], state) * output

        variances = np.array(self.posterior_variances if variance == "posterior" else self.betas)
        variances[0] = self.betas[0]
        keys = example_keys(key, k.shape[0])
        return ddpm_bound(self, keys, noise, k, pixels, variances)

    # --- To the SDE ---

    def to_sde(self, exact: bool = False) -> VP | TabulatedVP:
        """Returns the VP SDE that this chain discretises.

        By default a linear table gives its limit of many steps, the VP with beta_min = N beta_0 and
        beta_max = N beta_{N-1}. With `exact`, and for any other table, the result is the SDE whose
        marginals at t = (i + 1) / N are the chain's.
        """
        if self._is_linear and not exact:
            first, last = self.betas[[0, -1]]
            return VP(beta_min=float(self.num_steps * first), beta_max=float(self.num_steps * last))
        return TabulatedVP(np.concatenate([[0.0], -self._log_alphas_bar]))

    @property
    def _is_linear(self) -> bool:
        """Whether the betas rise in equal steps, to the rounding of a table stored in float32."""
        first, last = self.betas[[0, -1]]
        linear = np.linspace(first, last, self.num_steps)
        rises = self.num_steps > 1 and first <= last
        return bool(rises and np.allclose(self.betas, linear, rtol=1e-6, atol=0.0))


# --- The betas of an SDE ---


def _check_variance_preserving(sde: SDE) -> None:
    times = np.linspace(0.0, 1.0, 5)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        total = np.asarray(sde.alpha(times) ** 2 + sde.variance(times))
    if not np.allclose(total, 1.0, atol=1e-6):
        raise ValueError(
            f"alpha^2 + sigma^2 is not 1 under {sde}: DDPM discretises VP. For VE write "
            f"NCSN.from_sde(sde, num_steps)."
        )


def _exact_betas(sde: SDE, num_steps: int) -> np.ndarray:
    """Returns the betas of Eq. 4, (N,)."""
    times = sde.level_times(num_steps)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        log_alpha = np.asarray(sde.log_alpha(times))

    betas = -np.expm1(2.0 * np.diff(log_alpha, prepend=0.0))
    if betas.max() >= 1.0:
        raise ValueError(
            f"num_steps is {num_steps}: a step keeps so little of x that its exact beta rounds to "
            f"1. Take more steps."
        )
    return betas


def _first_order_betas(sde: SDE, num_steps: int) -> np.ndarray:
    """Returns the betas of Eq. 3, (N,)."""
    if num_steps < 2:
        raise ValueError(
            "num_steps is 1: beta(i / (N - 1)) needs at least two. For one step write exact=True."
        )

    times = np.linspace(0.0, 1.0, num_steps)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        betas = np.asarray(sde.squared_diffusion(times)) / num_steps

    if betas.max() >= 1.0:
        raise ValueError(
            f"num_steps is {num_steps}: beta(t) / N reaches {betas.max():.3g}, but must stay below "
            f"1. Take more than {math.floor(betas.max() * num_steps)} steps, or exact=True, which "
            f"allows few."
        )
    return betas
