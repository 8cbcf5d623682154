"""Where a fixed-grid sampler stops on its way from `start` to t_min, and float64 coefficients on that grid."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sde.base import SDE

Times = np.ndarray | Array


@runtime_checkable
class TimeGrid(Protocol):
    """(sde, num_steps, t_min, start) → num_steps + 1 decreasing times from start to t_min.

    A function of your own with three arguments serves samplers that start at 1.
    """

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times: ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Equal steps in t."""

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times:
        return np.linspace(start, t_min, num_steps + 1)


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """Equal steps in the square root of t: DDIM's quadratic subsequence (Song et al. 2021, arXiv:2010.02502, D.2)."""

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times:
        times = np.linspace(np.sqrt(start), np.sqrt(t_min), num_steps + 1) ** 2
        times[[0, -1]] = start, t_min  # the ends exactly, not to rounding
        return times


@dataclasses.dataclass(frozen=True)
class UniformLogSNR:
    """Equal steps in log SNR: finer near the data, where the score varies fastest. Needs sigma(t_min) > 0."""

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times:
        return _in_log_snr(
            sde,
            t_min,
            start,
            lambda first, last: first + (last - first) * np.linspace(0.0, 1.0, num_steps + 1),
        )


@dataclasses.dataclass(frozen=True)
class Karras:
    """Equal steps in (sigma / alpha)^(1 / rho) (Karras et al. 2022, arXiv:2206.00364, Eq. 5). Needs sigma(t_min) > 0.

    EDM's own sigmas, .002 … 80 in 18 levels: 17 steps under VE(.002, 80) with t_min = 0; its last step, to sigma = 0,
    is `denoise`.

    Raises:
        ValueError: if rho is not positive.
    """

    rho: float = 7.0
    """1: equal steps of sigma / alpha; the larger, the finer near the data; infinity would be UniformLogSNR."""

    def __post_init__(self):
        checks.setting("rho", self.rho, "(0, inf)")

    def __call__(self, sde: SDE, num_steps: int, t_min: float, start: float = 1.0) -> Times:
        def log_snr(first, last):
            high, low = (jnp.exp(-0.5 * end / self.rho) for end in (first, last))
            return (
                -2.0
                * self.rho
                * jnp.log(high + (low - high) * np.linspace(0.0, 1.0, num_steps + 1))
            )

        return _in_log_snr(sde, t_min, start, log_snr)


@dataclasses.dataclass(frozen=True)
class GivenTimes:
    """Times of your own, any array of them: from the sampler's start down to its t_min, num_steps + 1 of them.

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
        if len(times) != num_steps + 1 or not np.allclose(
            times[[0, -1]], [start, t_min], rtol=1e-6, atol=0.0
        ):
            raise ValueError(
                f"the grid holds {len(times)} times from {times[0]:g} to {times[-1]:g}, and the sampler wants "
                f"{num_steps} steps from {start:g} to {t_min:g}: write num_steps={len(times) - 1}, "
                f"start={times[0]:g}, t_min={times[-1]:g}."
            )
        return times


AnyGrid = Uniform | UniformLogSNR | Quadratic | Karras | GivenTimes
"""The grids that settings choose from."""


def _in_log_snr(sde: SDE, t_min: float, start: float, log_snrs: Callable[..., Any]) -> Times:
    """Times whose log SNRs are log_snrs(that of start, that of t_min)."""

    def times(ends):
        grid = sde.time_from_log_snr(log_snrs(*sde.log_snr(ends)))
        return grid.at[0].set(ends[0]).at[-1].set(ends[1])  # the ends exactly, not to rounding

    grid = on_grid(sde, times, np.array([start, t_min]))
    if isinstance(grid, np.ndarray) and not np.all(np.isfinite(grid)):
        raise ValueError(
            f"t_min = {t_min} has infinite log SNR under {sde}: take t_min > 0, e.g. 1e-3."
        )
    return grid


def check_grid(grid: Any) -> None:
    """A grid, or a function that serves as one.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(grid, (list, tuple, np.ndarray, jax.Array)):
        times = np.asarray(grid).reshape(-1) if is_concrete(*grid) and len(grid) else np.ones(1)
        raise TypeError(
            f"grid is a {type(grid).__name__} of times: write grid=sd.grids.GivenTimes(times), with "
            f"num_steps={len(times) - 1}, start={times[0]:g}, t_min={times[-1]:g}."
        )
    if isinstance(grid, type) or not callable(grid):
        raise TypeError(
            f"grid is {grid!r}: wanted a grid such as sd.grids.Uniform() or sd.grids.GivenTimes(array), or a function (sde, "
            f"num_steps, t_min, start)."
        )


def grid_times(
    grid: Callable[..., Any], sde: SDE, num_steps: int, t_min: float, start: float = 1.0
) -> Times:
    """The grid's times, checked: num_steps + 1 of them, falling from start to t_min.

    Raises:
        TypeError: if the grid is not callable.
        ValueError: if its times are not such.
    """
    check_grid(grid)
    arguments = (sde, num_steps, t_min, start)
    if len(inspect.signature(grid).parameters) < 4:
        if start != 1.0:
            raise TypeError(
                f"the grid takes (sde, num_steps, t_min), and sampling starts at {start:g}: add `start`."
            )
        arguments = arguments[:3]
    times: Times = on_grid(sde, lambda: _as_times(grid(*arguments)))
    if np.shape(times) != (num_steps + 1,):
        raise ValueError(
            f"the grid gave times of shape {np.shape(times)}: {num_steps} steps need {num_steps + 1} times."
        )
    if is_concrete(times):
        t = np.asarray(times, np.float64)
        if not (
            np.all(np.diff(t) < 0) and np.allclose(t[[0, -1]], [start, t_min], rtol=1e-5, atol=1e-9)
        ):
            raise ValueError(
                f"the grid runs {t[0]:g}, {t[1]:g}, … {t[-1]:g}: wanted times falling from {start:g} to {t_min:g}."
            )
    return times


def _as_times(times: Any) -> Times:
    return times if hasattr(times, "shape") else np.asarray(times, np.float64)


def on_grid(
    sde: SDE, function: Callable[..., Any], *times: Times, traced: tuple[Any, ...] = ()
) -> Any:
    """`function(*times)` in float64 on the host if the SDE's settings are concrete, else in the trace.

    Differences of times and cancelling coefficients keep their digits although samplers run in float32; settings
    that are traced (learnt schedules, gradients with respect to them) stay differentiable. traced: those of the
    sampler, which the function reads.
    """
    if traced or not is_concrete(*jax.tree.leaves(sde), *times):
        return function(*(jnp.asarray(t) for t in times))
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), jax.default_device(cpu):
        return jax.tree.map(np.asarray, function(*(jnp.asarray(t, jnp.float64) for t in times)))
