"""Functions of a sampler's grid, computed once, in float64 on the host where that is possible."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde.checks import is_concrete
from scoresde.sde.base import SDE

Times = np.ndarray | Array


def on_grid(
    sde: SDE, function: Callable[..., Any], *times: Times, traced: tuple[Any, ...] = ()
) -> Any:
    """Returns `function(*times)`, in float64 on the host if the SDE's settings are known now.

    Differences of times and coefficients that cancel keep their digits although samplers run in
    float32. Where a setting is a tracer (learnt schedules, gradients with respect to settings) the
    function is computed in the trace, and stays differentiable. traced: tracers among the sampler's
    settings that the function reads.
    """
    if traced or not is_concrete(*jax.tree.leaves(sde), *times):
        return function(*(jnp.asarray(t) for t in times))

    cpu = jax.local_devices(backend="cpu")[0]
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), jax.default_device(cpu):
        out = function(*(jnp.asarray(t, jnp.float64) for t in times))
        return jax.tree.map(np.asarray, out)


def traced_settings(settings: Any) -> tuple[Any, ...]:
    """Returns the settings of a sampler that are tracers, such as eta under vmap."""
    values = getattr(settings, "__dict__", {}).values()
    return tuple(value for value in values if isinstance(value, jax.core.Tracer))


def grid_times(
    grid: Callable[..., Any], sde: SDE, num_steps: int, t_min: float, start: float = 1.0
) -> Times:
    """Returns the grid's times: num_steps + 1 of them, falling from start to t_min.

    Raises:
        TypeError: if the grid is not callable, or does not take the `start` that it needs.
        ValueError: if its times do not fall from start to t_min, or are not as many.
    """
    check_grid(grid)
    arguments = (sde, num_steps, t_min, start)
    if len(inspect.signature(grid).parameters) < 4:
        if start != 1.0:
            raise TypeError(
                f"the grid takes (sde, num_steps, t_min), and sampling starts at {start:g}: "
                f"add `start`."
            )
        arguments = arguments[:3]

    times: Times = on_grid(sde, lambda: _as_times(grid(*arguments)))
    _check_times(times, num_steps, t_min, start)
    return times


def _as_times(times: Any) -> Times:
    return times if hasattr(times, "shape") else np.asarray(times, np.float64)


def _check_times(times: Times, num_steps: int, t_min: float, start: float) -> None:
    if np.shape(times) != (num_steps + 1,):
        raise ValueError(
            f"the grid gave times of shape {np.shape(times)}: {num_steps} steps need "
            f"{num_steps + 1} times."
        )
    if not is_concrete(times):
        return
    t = np.asarray(times, np.float64)
    ends_fit = np.allclose(t[[0, -1]], [start, t_min], rtol=1e-5, atol=1e-9)
    if not (np.all(np.diff(t) < 0) and ends_fit):
        raise ValueError(
            f"the grid runs {t[0]:g}, {t[1]:g}, … {t[-1]:g}: wanted times falling from {start:g} "
            f"to {t_min:g}."
        )


def check_grid(grid: Any) -> None:
    """Checks that a grid is one, or a function that serves as one.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(grid, (list, tuple, np.ndarray, jax.Array)):
        times = np.asarray(grid).reshape(-1) if is_concrete(*grid) and len(grid) else np.ones(1)
        raise TypeError(
            f"grid is a {type(grid).__name__} of times: write grid=sd.grids.GivenTimes(times), "
            f"with num_steps={len(times) - 1}, start={times[0]:g}, t_min={times[-1]:g} "
            f"(num_steps={len(times)} where steps are levels, as in sd.Ancestral)."
        )
    if isinstance(grid, type) or not callable(grid):
        raise TypeError(
            f"grid is {grid!r}: wanted a grid such as sd.grids.Uniform() or "
            f"sd.grids.GivenTimes(array), or a function (sde, num_steps, t_min, start)."
        )
