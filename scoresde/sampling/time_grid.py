"""Time grids: where a fixed-grid sampler steps on its way from `start` down to t_min."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.sampling.on_grid import Times, on_grid
from scoresde.sde.base import SDE
from scoresde.sde.pure_noise import LITTLE_SIGNAL, finite_log_snr


@runtime_checkable
class TimeGrid(Protocol):
    """(sde, num_steps, t_min, start) → num_steps + 1 decreasing times from start to t_min.

    A custom function with three arguments works for samplers that start at 1.
    """

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times: ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Equal steps in t."""

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times:
        return np.linspace(start, t_min, num_steps + 1)


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """Equal steps in the square root of t: the quadratic subsequence of DDIM (Song et al. 2021,
    arXiv:2010.02502, App. D.2)."""

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times:
        times = np.linspace(np.sqrt(start), np.sqrt(t_min), num_steps + 1) ** 2
        times[[0, -1]] = start, t_min  # the ends exactly, not to rounding
        return times


@dataclasses.dataclass(frozen=True)
class UniformLogSNR:
    """Equal steps in log SNR: finer near the data, where the score varies fastest.

    It needs sigma(t_min) > 0. From pure noise, whose log SNR is -infinity, the first step leads to
    where steps that begin at log SNR -10 would.
    """

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times:
        return _in_log_snr(self, sde, num_steps, t_min, start)

    def log_snrs(self, first: Array, last: Array, num_steps: int) -> Array:
        """Returns the log SNRs of the times, between those of start and t_min."""
        return first + (last - first) * _even(num_steps, first)


@dataclasses.dataclass(frozen=True)
class Karras:
    """Equal steps in (sigma / alpha)^(1 / rho) (Karras et al. 2022, arXiv:2206.00364, Eq. 5).

    It needs sigma(t_min) > 0. EDM's own sigmas, .002 … 80 in 18 levels, are 17 steps under
    VE(.002, 80) with t_min = 0; EDM's last step, to sigma = 0, is `denoise`.

    Raises:
        ValueError: if rho is not positive.
    """

    rho: float = 7.0
    """1 gives equal steps of sigma / alpha; larger values are finer near the data, and infinity
    would be UniformLogSNR."""

    def __post_init__(self):
        checks.setting("rho", self.rho, "(0, inf)")

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times:
        return _in_log_snr(self, sde, num_steps, t_min, start)

    def log_snrs(self, first: Array, last: Array, num_steps: int) -> Array:
        """Returns the log SNRs of the times, between those of start and t_min."""
        high = jnp.exp(-0.5 * first / self.rho)
        low = jnp.exp(-0.5 * last / self.rho)
        levels = high + (low - high) * _even(num_steps, first)
        return -2.0 * self.rho * jnp.log(levels)


@dataclasses.dataclass(frozen=True)
class GivenTimes:
    """Times from any array: num_steps + 1 of them, from the sampler's start down to its t_min.

    Raises:
        ValueError: if they do not fall, or leave [0, 1].
    """

    times: tuple[float, ...] = (1.0, 0.5, 1e-3)
    """Falling, within [0, 1]."""

    def __post_init__(self):
        times = np.asarray(self.times, np.float64)
        if times.ndim != 1 or len(times) < 2 or not np.all(np.diff(times) < 0.0):
            raise ValueError(
                f"times are {self.times}: wanted at least two, falling, e.g. (1.0, 0.5, 0.1, 1e-3)."
            )
        checks.times(times, "a grid")
        object.__setattr__(self, "times", tuple(times.tolist()))  # settings are hashable

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times:
        times = np.asarray(self.times)
        ends_fit = np.allclose(times[[0, -1]], [start, t_min], rtol=1e-6, atol=0.0)
        if len(times) != num_steps + 1 or not ends_fit:
            raise ValueError(
                f"the grid holds {len(times)} times from {times[0]:g} to {times[-1]:g}, but the "
                f"sampler wants {num_steps} steps from {start:g} to {t_min:g}: write "
                f"num_steps={len(times) - 1}, start={times[0]:g}, t_min={times[-1]:g}."
            )
        return times


if TYPE_CHECKING:
    AnyGrid = TimeGrid  # Python takes custom ones
else:
    AnyGrid = Uniform | UniformLogSNR | Quadratic | Karras | GivenTimes
    """The grids that settings files and the command line choose from."""


def _even(num_steps: int, like: Array) -> Array:
    """Returns num_steps + 1 numbers evenly spaced from 0 to 1, in the precision of `like`."""
    return jnp.asarray(np.linspace(0.0, 1.0, num_steps + 1), like.dtype)


def _in_log_snr(
    grid: UniformLogSNR | Karras, sde: SDE, num_steps: int, t_min: float, start: float
) -> Times:
    """Returns the times whose log SNRs are the grid's, between those of start and t_min."""
    times = on_grid(_times_of_log_snrs, (grid, num_steps), sde, np.array([start, t_min]))
    if isinstance(times, np.ndarray) and not np.all(np.isfinite(times)):
        raise ValueError(
            f"t_min = {t_min} has infinite log SNR under {sde}: take t_min > 0, e.g. 1e-3."
        )
    return times


def _times_of_log_snrs(
    grid: UniformLogSNR | Karras, num_steps: int, sde: SDE, ends: Array
) -> Array:
    first, last = finite_log_snr(sde, ends, LITTLE_SIGNAL)
    times = sde.time_from_log_snr(grid.log_snrs(first, last, num_steps))
    return times.at[0].set(ends[0]).at[-1].set(ends[1])  # the ends exactly, not to rounding
