"""What fixed-grid samplers share: their settings, and one scan with its path, last denoising, count of evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from scoresde import checks
from scoresde.keys import fold_in_examples
from scoresde.precision import full_precision
from scoresde.sampling.base import (
    Sample,
    check_sampler_input,
    check_times,
    finish,
    path_of,
    traced,
    widen,
)
from scoresde.sampling.time_grid import (
    AnyGrid,
    GivenTimes,
    Times,
    Uniform,
    check_grid,
    grid_times,
    on_grid,
)
from scoresde.sde.base import SDE, check_sde, denoise
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridSettings:
    """The settings of every fixed-grid sampler beside num_steps, by keyword.

    Raises:
        ValueError: if num_steps < 1, or not 0 <= t_min < start <= 1.
    """

    t_min: float | None = 1e-3
    """Where to stop: on real data the score blows up as t → 0. None: num_steps' lowest level, 1/num_steps; 0 for VE."""
    start: float = 1.0
    """The time of x1: 1 for draws of the prior, less for data noised part-way."""
    grid: AnyGrid = Uniform()
    """Where the steps lie."""
    denoise: bool = True
    """End with one Tweedie denoising, E[x_0 | x_{t_min}]."""
    save_path: bool = False
    """Keep every state and its E[x_0 | x]: memory grows with num_steps, and each state takes one more evaluation."""

    def __post_init__(self):
        checks.count("num_steps", getattr(self, "num_steps", None))
        check_times(0.0 if self.t_min is None else self.t_min, self.start)
        check_grid(self.grid)


@runtime_checkable
class FixedGrid(Protocol):
    """`GridSettings` with its steps, as `integrate` reads them."""

    @property
    def num_steps(self) -> int: ...
    @property
    def t_min(self) -> float | None: ...
    @property
    def start(self) -> float: ...
    @property
    def grid(self) -> AnyGrid: ...
    @property
    def denoise(self) -> bool: ...
    @property
    def save_path(self) -> bool: ...


def lowest_time(settings: FixedGrid, sde: SDE) -> float:
    """t_min, or the lowest of the SDE's own num_steps levels."""
    return (
        float(sde.level_times(settings.num_steps)[0]) if settings.t_min is None else settings.t_min
    )


def end_time(settings: FixedGrid, sde: SDE) -> float:
    """`lowest_time`, which lies below start.

    Raises:
        ValueError: if it does not.
    """
    end = lowest_time(settings, sde)
    if not end < settings.start:
        raise ValueError(
            f"t_min = None with num_steps = {settings.num_steps} ends at the lowest of that many levels, t = {end:g}, "
            f"which is not below start = {settings.start:g}: write more num_steps, or a t_min, e.g. t_min=1e-3."
        )
    return end


def step_times(settings: FixedGrid, sde: SDE) -> Times:
    """num_steps + 1 times, falling from start to t_min."""
    return grid_times(
        settings.grid, sde, settings.num_steps, end_time(settings, sde), settings.start
    )


def check_levels(settings: FixedGrid) -> None:
    """A single level is x1's own, at `start`: there is no lower one for t_min."""
    if settings.num_steps == 1 and settings.t_min is not None:
        raise ValueError(
            f"num_steps is 1: the one level is start = {settings.start:g}, and t_min = {settings.t_min:g} would be "
            f"another. Write num_steps=2, or leave t_min out."
        )


def level_times(settings: FixedGrid, sde: SDE) -> Times:
    """num_steps times, falling from start to the lowest: the levels of a discretisation, by default the SDE's own."""
    if isinstance(settings.grid, GivenTimes) and len(settings.grid.times) != settings.num_steps:
        raise ValueError(
            f"the grid holds {len(settings.grid.times)} times and the sampler has {settings.num_steps} levels, a time "
            f"each: write num_steps={len(settings.grid.times)}."
        )
    if settings.num_steps == 1:
        return np.array([settings.start])
    return grid_times(
        settings.grid, sde, settings.num_steps - 1, end_time(settings, sde), settings.start
    )


def check_log_snr(settings: FixedGrid, sde: SDE) -> None:
    """Log SNR is finite at t_min, for samplers that step in it."""
    check_sde(sde)
    if lowest_time(settings, sde) == 0.0 and not sde.noisy_at_zero:
        raise ValueError(
            f"t_min = 0 has infinite log SNR under {sde}: write t_min=1e-3; the step from there to data is `denoise`."
        )


def integrate(
    settings: FixedGrid,
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x1: Array,
    cond: Cond,
    coefficients: Callable[[Array, Array], PyTree[Array]],
    step: Callable[[ScoreFn, Key, Any, Array, Array, Any], Any],
    evaluations: int,
    times: Times | None = None,
    memory: Callable[[Array], Any] | None = None,
) -> Sample:
    """x1 through the grid's steps from start down to t_min, or through `times` instead.

    coefficients: (t_i, t_{i+1}) → what depends on the grid alone, for all steps at once, in float64. step: (score,
    keys, x, t_i, t_{i+1}, row of the coefficients) → x, with one key per example and step; x is in float32 or better,
    whatever dtype x1 and the score have. evaluations: of the score, a step. memory: x1 → what a multistep method
    remembers beside x; its step takes and returns (x, memory).

    Raises:
        ValueError: if x1 has no batch axis, or a key or condition does not match it.
    """
    x1, keys = check_sampler_input(key, sde, x1, cond)
    given, (x1, score) = x1.dtype, widen(x1, score)
    batch, dtype = x1.shape[0], x1.dtype
    if times is None:
        times = step_times(settings, sde)
    steps = len(times) - 1
    table = on_grid(sde, coefficients, times[:-1], times[1:], traced=traced(settings))

    def body(state, inputs):
        i, t, t_next, row = inputs
        t, t_next = jnp.full(batch, t), jnp.full(batch, t_next)
        state = step(score, fold_in_examples(keys, i), state, t, t_next, row)
        x = state if memory is None else state[0]
        return state, (x if settings.save_path else None)

    with full_precision():
        rows = jax.tree.map(lambda a: jnp.asarray(a, dtype), (times[:-1], times[1:], table))
        start = x1 if memory is None else (x1, memory(x1))
        state, states = jax.lax.scan(body, start, (jnp.arange(steps), *rows))
        x, path = state if memory is None else state[0], None
        if states is not None:
            path, last = path_of(
                sde, score, jnp.asarray(times, dtype), jnp.concatenate([x1[None], states]), cond
            )
            x = last if settings.denoise else x
        elif settings.denoise:
            x = denoise(sde, score, x, jnp.full(batch, times[-1], dtype), cond)
    nfe = steps * evaluations + (steps + 1 if settings.save_path else settings.denoise)
    return finish(x, jnp.ones(batch, bool), nfe, path, given)
