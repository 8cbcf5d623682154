"""Where a fixed-grid sampler stops on its way from t = 1 to t_min, and float64 coefficients on that grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde.sde.base import SDE
from scoresde.types import is_concrete

Times = np.ndarray | Array


@runtime_checkable
class TimeGrid(Protocol):
    """(sde, num_steps, t_min) → num_steps + 1 decreasing times from 1 to t_min."""

    def __call__(self, sde: SDE, num_steps: int, t_min: float) -> Times: ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Equal steps in t."""

    def __call__(self, sde: SDE, num_steps: int, t_min: float) -> Times:
        return np.linspace(1.0, t_min, num_steps + 1)


@dataclasses.dataclass(frozen=True)
class UniformLogSNR:
    """Equal steps in log SNR: finer near the data, where the score varies fastest. Needs sigma(t_min) > 0."""

    def __call__(self, sde: SDE, num_steps: int, t_min: float) -> Times:
        def times(ends):
            log_snr = sde.log_snr(ends)
            grid = sde.time_from_log_snr(jnp.linspace(log_snr[0], log_snr[1], num_steps + 1))
            return grid.at[0].set(ends[0]).at[-1].set(ends[1])  # the ends exactly, not to rounding

        grid = on_grid(sde, times, np.array([1.0, t_min]))
        if isinstance(grid, np.ndarray) and not np.all(np.isfinite(grid)):
            raise ValueError(f"t_min = {t_min} has infinite log SNR under {sde}: take t_min > 0, e.g. 1e-3.")
        return grid


def grid_times(grid: Callable[..., Any], sde: SDE, num_steps: int, t_min: float) -> Times:
    """The grid's times, checked: num_steps + 1 of them, falling from 1 to t_min.

    Raises:
        TypeError: if the grid is not callable.
        ValueError: if its times are not such.
    """
    if isinstance(grid, type) or not callable(grid):
        raise TypeError(f"grid is {grid!r}: wanted a grid such as sd.Uniform(), or a function (sde, num_steps, t_min).")
    times: Times = grid(sde, num_steps, t_min)
    if np.shape(times) != (num_steps + 1,):
        raise ValueError(
            f"the grid gave times of shape {np.shape(times)}: {num_steps} steps need {num_steps + 1} times."
        )
    if is_concrete(times):
        t = np.asarray(times, np.float64)
        if not (np.all(np.diff(t) < 0) and np.allclose(t[[0, -1]], [1.0, t_min], rtol=1e-5, atol=1e-9)):
            raise ValueError(
                f"the grid runs {t[0]:g}, {t[1]:g}, … {t[-1]:g}: wanted times falling from 1 to {t_min:g}."
            )
    return times


def on_grid(sde: SDE, function: Callable[..., Any], *times: Times) -> Any:
    """`function(*times)` in float64 on the host if the SDE's settings are concrete, else in the trace.

    Differences of times and cancelling coefficients keep their digits although samplers run in float32; settings
    that are traced (learnt schedules, gradients with respect to them) stay differentiable.
    """
    if not is_concrete(*jax.tree.leaves(sde), *times):
        return function(*(jnp.asarray(t) for t in times))
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), jax.default_device(cpu):
        return jax.tree.map(np.asarray, function(*(jnp.asarray(t, jnp.float64) for t in times)))
