"""The scan that every fixed-grid sampler shares: its path, its last denoising, its count of evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from scoresde.calls import full_precision
from scoresde.sampling.base import Path, Sample, check_sampler_input, check_t_min, finish
from scoresde.sampling.time_grid import TimeGrid, Times, grid_times, on_grid
from scoresde.sde.base import SDE, denoise
from scoresde.types import Cond, Key, ScoreFn, check_count, fold_in_examples


@runtime_checkable
class FixedGrid(Protocol):
    """The settings every fixed-grid sampler has. t_min None: the lowest noise level of num_steps."""

    @property
    def num_steps(self) -> int: ...
    @property
    def t_min(self) -> float | None: ...
    @property
    def grid(self) -> TimeGrid: ...
    @property
    def denoise(self) -> bool: ...
    @property
    def save_path(self) -> bool: ...


def check_fixed_grid(settings: FixedGrid) -> None:
    """At least one step, and 0 <= t_min < 1."""
    check_count("num_steps", settings.num_steps)
    if settings.t_min is not None:
        check_t_min(settings.t_min)


def level_times(settings: FixedGrid, sde: SDE) -> Times:
    """num_steps times, falling from 1 to the lowest: the levels of a discretisation, by default the SDE's own."""
    t_min = settings.t_min
    if t_min is None:
        t_min = float(sde.level_times(settings.num_steps)[0])
    if settings.num_steps == 1:
        return np.array([1.0])
    return grid_times(settings.grid, sde, settings.num_steps - 1, t_min)


def integrate(
    settings: FixedGrid,
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x1: Array,
    cond: Cond,
    coefficients: Callable[[Array, Array], PyTree[Array]],
    step: Callable[[Key, Array, Array, Array, Any], Array],
    evaluations: int,
    times: Times | None = None,
) -> Sample:
    """x1 at t = 1 through the grid's steps down to t_min, or through `times` instead.

    coefficients: (t_i, t_{i+1}) → what depends on the grid alone, for all steps at once, in float64. step: (keys, x,
    t_i, t_{i+1}, row of the coefficients) → x, with one key per example and step. evaluations: of the score, a step.

    Raises:
        ValueError: if x1 has no batch axis, or a key or condition does not match it.
    """
    x1, keys = check_sampler_input(key, sde, x1, cond)
    batch, dtype = x1.shape[0], x1.dtype
    if times is None:
        times = grid_times(settings.grid, sde, settings.num_steps, settings.t_min or 0.0)
    steps = len(times) - 1
    table = on_grid(sde, coefficients, times[:-1], times[1:])

    def body(x, inputs):
        i, t, t_next, row = inputs
        t, t_next = jnp.full(batch, t), jnp.full(batch, t_next)
        x = step(fold_in_examples(keys, i), x, t, t_next, row)
        return x, (x if settings.save_path else None)

    with full_precision():
        rows = jax.tree.map(lambda a: jnp.asarray(a, dtype), (times[:-1], times[1:], table))
        x, states = jax.lax.scan(body, x1, (jnp.arange(steps), *rows))
        path = None
        if states is not None:
            t = jnp.broadcast_to(jnp.asarray(times, dtype), (batch, steps + 1))
            path = Path(t, jnp.moveaxis(jnp.concatenate([x1[None], states]), 0, 1))
        if settings.denoise:
            x = denoise(sde, score, x, jnp.full(batch, times[-1], dtype), cond)
    nfe = steps * evaluations + settings.denoise
    return finish(x, jnp.ones(batch, bool), nfe, path)
