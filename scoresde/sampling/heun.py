"""EDM's second-order sampler: Heun's rule in sigma / alpha, with churn.

In y = x / alpha and v = sigma / alpha, under any SDE, from level i to i + 1:

    v^ = (1 + gamma) v_i,   y^ = y_i + S_noise sqrt(v^^2 - v_i^2) z                    (Eq. 1)
    d  = (y^ - D(y^, v^)) / v^,   y' = y^ + (v_{i+1} - v^) d                           (Eq. 2)
    d' = (y' - D(y', v_{i+1})) / v_{i+1},   y_{i+1} = y^ + (v_{i+1} - v^) (d + d') / 2   (Eq. 3)

    gamma = min(churn / N, sqrt(2) - 1) where churn_min <= v_i <= churn_max, else 0    (Eq. 4)

Karras et al. 2022 (arXiv:2206.00364), Alg. 2, with N = num_steps + 1 levels.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.keys import normal_like
from scoresde.sampling.grid_sampler import GridSampler, check_log_snr
from scoresde.sampling.on_grid import Times
from scoresde.sampling.time_grid import AnyGrid, Karras
from scoresde.sde.base import SDE


class Jump(NamedTuple):
    """The exact noise that leads from a level up to another one (Eq. 1)."""

    time: Array
    x_coef: Array
    noise_std: Array


class Row(NamedTuple):
    """What a step from one level to the next needs; the jump before it is None where no step has
    one."""

    jump: Jump | None
    v: Array
    v_next: Array
    alpha: Array
    alpha_next: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeunSampler(GridSampler):
    """Heun's steps (Eq. 2 and 3) for samplers that say where noise leads up first."""

    grid: AnyGrid = Karras()
    """Where the steps lie."""

    @property
    def evaluations(self) -> int:
        return 2

    @property
    def _noise_scale(self) -> float:
        """S_noise of Eq. 1."""
        return 1.0

    def _jumps(self, sde: SDE, t: Array) -> Array | None:
        """Returns the times >= t to which noise leads up before each step, or None for nowhere."""
        return None

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> Row:
        """Returns the levels of Eq. 1 to 3, and the jumps."""
        up = self._jumps(sde, t)
        jump = None
        if up is not None:
            coefficient, std = sde.transition(t, up)
            jump = Jump(up, coefficient, self._noise_scale * std)

        begin = t if up is None else up
        return Row(
            jump=jump,
            v=sigma_over_alpha(sde, begin),
            v_next=sigma_over_alpha(sde, t_next),
            alpha=sde.alpha(begin),
            alpha_next=sde.alpha(t_next),
        )

    def step(
        self,
        sde: SDE,
        score: Any,
        keys: Array,
        x: Array,
        t: Array,
        t_next: Array,
        coefficients: Row,
    ) -> Array:
        """Takes one step of Heun's rule, after noise."""
        c = coefficients
        if c.jump is not None:
            t = jnp.full_like(t, c.jump.time)
            x = c.jump.x_coef * x + c.jump.noise_std * normal_like(keys, x)  # Eq. 1

        y = x / c.alpha
        slope = (y - score.denoise(x, t)) / c.v  # Eq. 2
        y_euler = y + (c.v_next - c.v) * slope

        slope_next = (y_euler - score.denoise(c.alpha_next * y_euler, t_next)) / c.v_next  # Eq. 3
        return c.alpha_next * (y + 0.5 * (c.v_next - c.v) * (slope + slope_next))


@dataclasses.dataclass(frozen=True)
class Heun(HeunSampler):
    """The probability flow by Heun's rule in sigma / alpha, with churn (Eq. 1 to 4), under any SDE.

    The last step, from the lowest level to the data, is `denoise`, and is never churned. Churn
    raises no level above that of t = 1. Order 2. Evaluations: 2 num_steps, and one more with
    `denoise`: EDM's 35 for its 18 levels with num_steps = 17.

    Raises:
        ValueError: if churn, noise_scale or a bound is negative, num_steps < 1, not
            0 <= t_min < start <= 1, or log SNR is infinite at t_min.
        TypeError: if churn or a bound is a tracer.
    """

    num_steps: int = 17
    """Steps from start to t_min, with two evaluations each."""
    churn: float = 0.0
    """S_churn: 0 for the ODE; up to (sqrt(2) - 1) N."""
    churn_min: float = 0.0
    """S_min, the lowest sigma / alpha that is churned."""
    churn_max: float = math.inf
    """S_max, the highest."""
    noise_scale: float = 1.0
    """S_noise, a factor on the noise that churn adds: 1 leaves the law unchanged."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("churn", "churn_min", "noise_scale"):
            checks.setting(name, getattr(self, name), "[0, inf)")
        for name in ("churn", "churn_min", "churn_max"):
            checks.fixed(name, getattr(self, name))
        if not self.churn_min <= self.churn_max:
            raise ValueError(
                f"churn_min = {self.churn_min} lies above churn_max = {self.churn_max}: wanted "
                f"churn_min <= churn_max."
            )

    def times(self, sde: SDE) -> Times:
        check_log_snr(self, sde)
        return super().times(sde)

    @property
    def _noise_scale(self) -> float:
        return self.noise_scale

    def _jumps(self, sde: SDE, t: Array) -> Array | None:
        gamma = min(self.churn / (self.num_steps + 1), math.sqrt(2.0) - 1.0)  # Eq. 4
        if gamma == 0.0:
            return None

        level = sigma_over_alpha(sde, t)
        raised = level * (1.0 + gamma)
        churned = (level >= self.churn_min) & (level <= self.churn_max)
        possible = raised < sigma_over_alpha(sde, 1.0)
        return jnp.where(churned & possible, time_of_level(sde, raised), t)


def sigma_over_alpha(sde: SDE, t: Array | float) -> Array:
    """Returns sigma / alpha, the sigma of EDM; like t."""
    return jnp.exp(-0.5 * sde.log_snr(t))


def time_of_level(sde: SDE, level: Array) -> Array:
    """Returns the time at which sigma / alpha is `level`."""
    return sde.time_from_log_snr(-2.0 * jnp.log(level))
