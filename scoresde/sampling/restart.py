"""Restart sampling: Heun's steps down, and jumps of exact noise back up.

On reaching an interval's lower end t_low, K times:

    x gets the exact noise from t_low up to t_high; Heun's steps lead down to t_low again   (Eq. 1)

The noise forgets errors made above; the law is unchanged as steps shrink. Xu et al. 2023
(arXiv:2306.14878), Alg. 1.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sampling.grid_sampler import check_log_snr
from scoresde.sampling.heun import HeunSampler, sigma_over_alpha, time_of_level
from scoresde.sampling.on_grid import Times, on_grid
from scoresde.sampling.time_grid import Karras
from scoresde.sde.base import SDE


@dataclasses.dataclass(frozen=True)
class Interval:
    """Where Restart goes back: from sigma / alpha = low up to high, `repeats` times.

    Raises:
        ValueError: if not 0 < low < high, or a count is < 1.
    """

    low: float = 0.06
    """sigma / alpha to go back from; the nearest level of the sampler's grid is taken."""
    high: float = 0.3
    """sigma / alpha to go back to; at most that of the sampler's start."""
    num_steps: int = 3
    """Heun steps down, with two evaluations each."""
    repeats: int = 5
    """K, how often to go back."""

    def __post_init__(self):
        checks.setting("low", self.low, "(0, inf)")
        checks.setting("high", self.high, "(0, inf)")
        if not self.low < self.high:
            raise ValueError(
                f"an interval from low = {self.low} up to high = {self.high}: wanted low < high."
            )
        checks.count("num_steps", self.num_steps, at_most=checks.MOST_STEPS)
        checks.count("repeats", self.repeats)


@dataclasses.dataclass(frozen=True)
class Restart(HeunSampler):
    """Restart sampling (Eq. 1) on Heun's steps, under any SDE.

    Evaluations: 2 (num_steps + sum of repeats × interval steps), and one more with `denoise`.

    Raises:
        ValueError: as `Heun`; when it is called, if an interval does not fit the grid.
        TypeError: when it is called, if the SDE's settings or the grid's times are tracers.
    """

    num_steps: int = 17
    """Steps from start to t_min, with two evaluations each."""
    intervals: tuple[Interval, ...] = (Interval(),)
    """Where to go back."""

    def __post_init__(self):
        super().__post_init__()
        intervals = self.intervals
        if isinstance(intervals, Interval):
            intervals = (intervals,)
        elif isinstance(intervals, list):
            intervals = tuple(intervals)
        object.__setattr__(self, "intervals", intervals)  # settings are hashable

        if not intervals or not all(isinstance(interval, Interval) for interval in intervals):
            raise ValueError(
                f"intervals are {self.intervals}: wanted at least one, e.g. (sd.Interval(0.06, "
                "0.3),)."
            )

    def times(self, sde: SDE) -> Times:
        return self._visits(sde)[0]

    def _jumps(self, sde: SDE, t: Array) -> Array | None:
        return jnp.asarray(self._visits(sde)[1], t.dtype)

    def _visits(self, sde: SDE) -> tuple[np.ndarray, np.ndarray]:
        """Returns the times in the order of visit, (steps + 1,), and the time up to which each step
        first goes back: its own start, or the upper end of an interval."""
        check_log_snr(self, sde)
        times = super().times(sde)
        if not isinstance(times, np.ndarray) or not is_concrete(times):
            raise TypeError(
                "Restart's intervals are placed on the grid before the trace: the SDE's "
                "settings must be numbers."
            )

        detours = self._detours(sde, times)
        visited = [times[:1]]
        jumps = []
        for place in range(1, len(times)):
            visited.append(times[place : place + 1])
            jumps.append(times[place - 1 : place])
            for interval in detours.get(place, []):
                down = self._way_down(sde, interval, float(times[place]))
                visited += [down[1:]] * interval.repeats
                jumps += [down[:-1]] * interval.repeats
        return np.concatenate(visited), np.concatenate(jumps)

    def _detours(self, sde: SDE, times: np.ndarray) -> dict[int, list[Interval]]:
        """Returns the intervals by the place of their lower end on the grid.

        Raises:
            ValueError: if an interval does not fit the grid.
        """
        levels = on_grid(sigma_over_alpha, (), sde, times)
        detours: dict[int, list[Interval]] = {}
        for interval in self.intervals:
            place = int(np.argmin(np.abs(levels - interval.low)))
            near = 0.5 < levels[place] / interval.low < 2.0
            within = levels[place] < interval.high <= levels[0] * (1.0 + 1e-6)
            if not (near and within):
                raise ValueError(
                    f"{interval} does not fit the grid, whose sigma / alpha falls from "
                    f"{levels[0]:.3g} to {levels[-1]:.3g} (the level nearest its low is "
                    f"{levels[place]:.3g}): wanted low and high within it, low below high, and a "
                    f"level within a factor of two of low. Take more steps."
                )
            detours.setdefault(place, []).append(interval)
        return detours

    def _way_down(self, sde: SDE, interval: Interval, low_time: float) -> np.ndarray:
        """Returns the times from the interval's upper end down to its lower end."""
        up = on_grid(time_of_level, (), sde, np.array([interval.high]))
        high_time = min(float(up[0]), self.start)
        return np.asarray(Karras()(sde, interval.num_steps, low_time, high_time))
