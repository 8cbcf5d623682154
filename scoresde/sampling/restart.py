"""Restart sampling: Heun's steps down, jumps of exact noise up."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sampling.base import Sample
from scoresde.sampling.grid_sampler import check_log_snr, step_times
from scoresde.sampling.heun import KarrasSettings, heun, sigma_over_alpha
from scoresde.sampling.time_grid import Karras, on_grid
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True)
class Interval:
    """Where Restart goes back: from sigma / alpha = low up to high, `repeats` times, num_steps Heun steps down each.

    Raises:
        ValueError: if not 0 < low < high, or a count is < 1.
    """

    low: float = 0.06
    """sigma / alpha to go back from; the nearest level of the sampler's grid is taken."""
    high: float = 0.3
    """sigma / alpha to go back to; at most that of the sampler's start."""
    num_steps: int = 3
    """Steps down, two evaluations each."""
    repeats: int = 5
    """K."""

    def __post_init__(self):
        checks.setting("low", self.low, "(0, inf)")
        checks.setting("high", self.high, "(0, inf)")
        if not self.low < self.high:
            raise ValueError(
                f"an interval from low = {self.low} up to high = {self.high}: wanted low < high."
            )
        checks.count("num_steps", self.num_steps)
        checks.count("repeats", self.repeats)


@dataclasses.dataclass(frozen=True)
class Restart(KarrasSettings):
    """Restart sampling (Xu et al. 2023, arXiv:2306.14878, Alg. 1) on Heun's steps, under any SDE.

    Down the grid as `Heun`; on reaching an interval's low, K times: x gets the exact noise from there up to high, and
    Heun's steps lead down to low again. The noise forgets errors made above; the law is unchanged as steps shrink.
    Evaluations: 2 (num_steps + sum of repeats × interval steps), one more with `denoise`.

    Raises:
        ValueError: as `Heun`; if an interval does not fit the grid, when the sampler is called.
        TypeError: if the SDE's settings or the grid's times are traced, when the sampler is called.
    """

    num_steps: int = 17
    """Steps from start to t_min, two evaluations each."""
    intervals: tuple[Interval, ...] = (Interval(),)
    """Where to go back."""

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.intervals, (list, Interval)):
            own = (
                (self.intervals,) if isinstance(self.intervals, Interval) else tuple(self.intervals)
            )
            object.__setattr__(self, "intervals", own)  # settings are hashable
        if not self.intervals or not all(
            isinstance(interval, Interval) for interval in self.intervals
        ):
            raise ValueError(
                f"intervals are {self.intervals}: wanted some, e.g. (sd.Interval(0.06, 0.3),)."
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
            ValueError: if x1 has no batch axis, a key or condition does not match it, or an interval not the grid.
            TypeError: if the SDE's settings or the grid's times are traced.
        """
        check_log_snr(self, sde)
        times, jumps = restart_times(self, sde)
        return heun(self, key, sde, score, x1, cond, times, jumps)


def restart_times(settings: Restart, sde: SDE) -> tuple[np.ndarray, np.ndarray]:
    """Times in the order of visit, (steps + 1,), and to where each step first goes back up: its own start, or high."""
    times = step_times(settings, sde)
    if not isinstance(times, np.ndarray) or not is_concrete(times):
        raise TypeError(
            "Restart's intervals are laid on the grid before the trace: the SDE's settings must be numbers."
        )
    levels = on_grid(sde, lambda t: sigma_over_alpha(sde, t), times)
    visited, jumps = [times[:1]], []
    detours: dict[int, list[Interval]] = {}
    for interval in settings.intervals:
        place = int(np.argmin(np.abs(levels - interval.low)))
        near = 0.5 < levels[place] / interval.low < 2.0
        if not (near and levels[place] < interval.high <= levels[0] * (1.0 + 1e-6)):
            raise ValueError(
                f"{interval} does not fit the grid, whose sigma / alpha falls from {levels[0]:.3g} to {levels[-1]:.3g} "
                f"(the level nearest its low is {levels[place]:.3g}): wanted low and high within it, low below high, "
                f"and a level within a factor of two of low: take more steps."
            )
        detours.setdefault(place, []).append(interval)
    for place in range(1, len(times)):
        visited.append(times[place : place + 1])
        jumps.append(times[place - 1 : place])
        for interval in detours.get(place, []):
            up = on_grid(
                sde, lambda v: sde.time_from_log_snr(-2.0 * jnp.log(v)), np.array([interval.high])
            )
            high = min(float(up[0]), settings.start)
            down = np.asarray(Karras()(sde, interval.num_steps, float(times[place]), high))
            visited += [down[1:]] * interval.repeats
            jumps += [down[:-1]] * interval.repeats
    return np.concatenate(visited), np.concatenate(jumps)
