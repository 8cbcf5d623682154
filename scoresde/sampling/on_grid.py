"""Functions of a sampler's grid, computed once, in float64 on the host where that is possible."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde.checks import is_concrete
from scoresde.parallel.arguments import is_hashable
from scoresde.sde.base import SDE, plain_settings
from scoresde.types import wider

Times = np.ndarray | Array


def on_grid(
    function: Callable[..., Any], settings: tuple[Any, ...], sde: SDE, *times: Times
) -> Any:
    """Returns `function(*settings, sde, *times)`, in float64 on the host if all settings are known.

    Differences of times and coefficients that cancel keep their digits although samplers run in
    float32. Where a setting is a tracer (learnt schedules, gradients with respect to settings) the
    function is computed in the trace, and stays differentiable.

    It is one compiled program for each number of times, where the settings can be hashed: so
    `function` is one of a module or a class, and not made anew at each call.
    """
    known = jax.tree.leaves(sde)
    traced = [tracer for setting in settings for tracer in traced_settings(setting)]
    if traced or not is_concrete(*known, *times):
        dtype = _precision_of_settings((*known, *traced))
        return function(*settings, sde, *(jnp.asarray(t, dtype) for t in times))

    sde = plain_settings(sde)
    times = tuple(np.asarray(t, np.float64) for t in times)
    with _on_host():
        program = None
        if is_hashable((settings, sde)):
            program = _program(function, settings, sde, tuple(t.shape for t in times))

        with jax.ensure_compile_time_eval():
            if program is None:
                out = function(*settings, sde, *(jnp.asarray(t) for t in times))
            else:
                out = program(*times)
            return jax.tree.map(np.asarray, out)


@functools.lru_cache(maxsize=1024)
def _program(
    function: Callable[..., Any],
    settings: tuple[Any, ...],
    sde: SDE,
    shapes: tuple[tuple[int, ...], ...],
) -> Callable[..., Any] | None:
    """Returns the function of times of these shapes, compiled; None if it reads values with
    Python's control flow, as a custom sampler may."""

    def of_times(*times: Array) -> Any:
        return function(*settings, sde, *times)

    arguments = [jax.ShapeDtypeStruct(shape, jnp.float64) for shape in shapes]
    try:
        return jax.jit(of_times).lower(*arguments).compile()
    except jax.errors.JAXTypeError:
        return None


@contextmanager
def _on_host() -> Iterator[None]:
    """Computes in float64 on the CPU."""
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu):
        yield


def _precision_of_settings(settings: tuple[Any, ...]) -> Any:
    """Returns the precision of the settings that are arrays, or None where none is."""
    arrays = [a.dtype for a in settings if eqx.is_inexact_array(a)]
    return wider(*arrays) if arrays else None


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

    times = _as_times(_in_float64(grid, arguments))
    _check_times(times, num_steps, t_min, start)
    return times


def _in_float64(grid: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Returns grid(*arguments), in which a custom grid may use Python's control flow."""
    if not is_concrete(*jax.tree.leaves(arguments[0])):
        return grid(*arguments)

    with jax.ensure_compile_time_eval(), _on_host():
        times = grid(*arguments)
        return np.asarray(times) if is_concrete(times) else times


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
