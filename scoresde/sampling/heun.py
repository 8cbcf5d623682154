"""EDM's second-order sampler, with churn."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import normal_like
from scoresde.sampling.base import Sample
from scoresde.sampling.grid_sampler import (
    FixedGrid,
    GridSettings,
    check_log_snr,
    integrate,
    step_times,
)
from scoresde.sampling.time_grid import AnyGrid, Karras, Times, on_grid
from scoresde.sde.base import SDE, denoise
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class KarrasSettings(GridSettings):
    """The settings of samplers that step in sigma / alpha."""

    grid: AnyGrid = Karras()
    """Where the steps lie."""


@dataclasses.dataclass(frozen=True)
class Heun(KarrasSettings):
    """The probability flow by Heun's rule in sigma / alpha, with churn (Karras et al. 2022, arXiv:2206.00364, Alg. 2).

    In y = x / alpha and v = sigma / alpha, under any SDE, from level i to i + 1:

        v^ = (1 + gamma) v_i,   y^ = y_i + S_noise sqrt(v^^2 - v_i^2) z      gamma = min(churn / N, sqrt(2) - 1) in
        d  = (y^ - D(y^, v^)) / v^,   y' = y^ + (v_{i+1} - v^) d              [churn_min, churn_max], else 0
        d' = (y' - D(y', v_{i+1})) / v_{i+1},   y_{i+1} = y^ + (v_{i+1} - v^) (d + d') / 2

    N = num_steps + 1 levels: the last step, from the lowest to data, is `denoise`, never churned. Churn
    raises no level above the one of t = 1. Order 2. Evaluations: 2 num_steps, one more with `denoise`: EDM's 35 for its
    18 levels, num_steps = 17.

    Raises:
        ValueError: if churn, noise_scale or a bound is negative, num_steps < 1, or not 0 <= t_min < start <= 1, or
            log SNR is infinite at t_min.
    """

    num_steps: int = 17
    """Steps from start to t_min, two evaluations each."""
    churn: float = 0.0
    """S_churn: 0 for the ODE; up to (sqrt(2) - 1) N."""
    churn_min: float = 0.0
    """S_min, the lowest sigma / alpha that is churned."""
    churn_max: float = math.inf
    """S_max, the highest."""
    noise_scale: float = 1.0
    """S_noise, of the noise that churn adds: 1 leaves the law unchanged."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("churn", "churn_min", "noise_scale"):
            checks.setting(name, getattr(self, name), "[0, inf)")
        for name in ("churn", "churn_min", "churn_max"):
            if not is_concrete(getattr(self, name)):
                raise TypeError(
                    f"{name} is traced: where to churn is laid out before the trace. Wanted a number."
                )
        if not self.churn_min <= self.churn_max:
            raise ValueError(
                f"churn_min = {self.churn_min} lies above churn_max = {self.churn_max}."
            )

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrate x1 at t = start down to t_min. key: one, or one per example; cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """
        check_log_snr(self, sde)
        times = step_times(self, sde)
        gamma = min(self.churn / (self.num_steps + 1), math.sqrt(2.0) - 1.0)

        def raised(t):
            level = sigma_over_alpha(sde, t)
            churned = (level >= self.churn_min) & (level <= self.churn_max)
            up = sde.time_from_log_snr(-2.0 * jnp.log(level * (1.0 + gamma)))
            return jnp.where(churned & (level * (1.0 + gamma) < sigma_over_alpha(sde, 1.0)), up, t)

        jumps = None if gamma == 0.0 else on_grid(sde, raised, times[:-1])
        return heun(self, key, sde, score, x1, cond, times, jumps, self.noise_scale)


# --- The solver ---


def sigma_over_alpha(sde: SDE, t: Array | float) -> Array:
    """sigma / alpha, EDM's sigma; like t."""
    return jnp.exp(-0.5 * sde.log_snr(t))


def heun(
    settings: FixedGrid,
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x1: Array,
    cond: Cond,
    times: Times,
    jumps: Times | None,
    noise_scale: float = 1.0,
) -> Sample:
    """Heun's steps t_i → t_{i+1}; jumps: the times t^_i >= t_i to which noise leads up first, None for nowhere."""

    def coefficients(t, s):
        up, jump = t, None
        if jumps is not None:
            up = jnp.asarray(jumps, t.dtype)
            keep, std = sde.transition(t, up)
            jump = up, keep, noise_scale * std
        return (
            jump,
            (sigma_over_alpha(sde, up), sigma_over_alpha(sde, s)),
            (sde.alpha(up), sde.alpha(s)),
        )

    def step(score, keys, x, t, s, row):
        jump, (v, v_next), (alpha, alpha_next) = row
        if jump is not None:
            up, keep, spread = jump
            t, x = jnp.full_like(t, up), keep * x + spread * normal_like(keys, x)
        y = x / alpha
        slope = (y - denoise(sde, score, x, t, cond)) / v
        moved = y + (v_next - v) * slope
        slope_next = (moved - denoise(sde, score, alpha_next * moved, s, cond)) / v_next
        return alpha_next * (y + 0.5 * (v_next - v) * (slope + slope_next))

    return integrate(settings, key, sde, score, x1, cond, coefficients, step, 2, times)
