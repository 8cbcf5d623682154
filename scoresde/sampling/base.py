"""What every sampler takes and returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import example_keys
from scoresde.parallel.held import move_out
from scoresde.sde.base import SDE, check_sde
from scoresde.sde.bound_score import bind
from scoresde.standardization import standardization_of, to_data_units
from scoresde.types import Cond, Key, ScoreFn, pytree_dataclass, right_pad, wider


@pytree_dataclass()
class SamplePath:
    """States on the way from prior to data, before the last denoising.

    denoised: E[x_0 | x] at each state; None on a path that has no noise level (`Langevin`).
    """

    t: Float[Array, "batch points"]
    x: Float[Array, " batch points *data"]
    denoised: Float[Array, " batch points *data"] | None = None


@pytree_dataclass()
class Sample:
    """The result of a sampler. A row that did not reach the end is NaN, and its success is
    False."""

    x: Float[Array, " batch *data"]
    nfe: int | Int[Array, " batch"]
    """Evaluations of the score, per example; -1 where a solver does not count them."""
    path: SamplePath | None
    success: Bool[Array, " batch"]

    def __repr__(self) -> str:
        parts = [f"x={self.x.dtype}{list(self.x.shape)}"]
        if is_concrete(self.nfe, self.success):
            failures = int(np.sum(~np.asarray(self.success)))
            parts.append(f"{np.mean(self.nfe):g} evaluations each")
            parts.append(f"{failures} failed" if failures else "none failed")
        if self.path is not None:
            parts.append(f"path of {self.path.t.shape[1]} points")
        return f"Sample({', '.join(parts)})"


@runtime_checkable
class Sampler(Protocol):
    """Settings with one method, which integrates x1 at t = 1 down to t_min.

    key: one, or one per example. A sampler with a setting `start` takes x1 at that time.
    """

    def __call__(
        self, key: Key, sde: SDE, score: ScoreFn, x1: Array, cond: Cond = None
    ) -> Sample: ...


class Inputs(NamedTuple):
    """What a sampler works with: one key per example, states in float32 or better, and the score as
    a function of (x, t) on such states."""

    keys: Array
    x: Array
    score: Any
    dtype: Any
    """The precision of x1, which the result has too."""
    unbound: ScoreFn
    """The score as a function of (x, t, cond), for solvers that map over examples."""
    cond: Cond
    """Its condition: leaves (batch, ...), those that the score held itself among them."""


def sampler_inputs(key: Key, sde: SDE, score: ScoreFn, x1: Array, cond: Cond) -> Inputs:
    """Checks the arguments of a sampler.

    Thousands of small steps, and times near 0 and 1, do not fit the 8 bits of bfloat16, while one
    evaluation does: states are float32 or better, and the score sees x in the precision of x1.

    Raises:
        TypeError: if sde is not an SDE, or x1 not an array of floating-point numbers.
        ValueError: if x1 has no batch axis, or a key or condition does not match it.
    """
    check_sde(sde)
    checks.batch(x1, "x1")
    checks.condition(cond, x1.shape[0])

    x1 = jnp.asarray(x1)
    wide = wider(x1.dtype, jnp.float32)
    narrow = None if wide == x1.dtype else x1.dtype
    keys = example_keys(key, x1.shape[0])
    score, cond = move_out(score, cond, x1.shape[0])
    bound = bind(sde, score, cond, dtype=narrow)
    return Inputs(keys, x1.astype(wide), bound, x1.dtype, score, cond)


def check_times(t_min: float, start: float = 1.0) -> None:
    """Checks 0 <= t_min < start <= 1.

    Raises:
        TypeError: if one is a tracer.
        ValueError: if they are out of order or range.
    """
    for name, value in (("t_min", t_min), ("start", start)):
        checks.fixed(name, value)
    checks.setting("start", start, "(0, 1]")
    checks.setting("t_min", t_min, "[0, 1)")
    if not t_min < start:
        raise ValueError(
            f"t_min = {t_min} is not below start = {start}: sampling runs from start down to t_min."
        )


# --- The end of a sampler ---


def path_of(
    score: Any, t: Array, x: Float[Array, " points batch *data"]
) -> tuple[SamplePath, Float[Array, " batch *data"]]:
    """Returns a path, and E[x_0 | x] at its end, with one evaluation per state.

    t: (points,) or (points, batch).
    """
    t = jnp.broadcast_to(t.reshape(t.shape[0], -1), x.shape[:2])
    denoised = jax.lax.map(lambda state: score.denoise(*state), (x, t))
    path = SamplePath(t.T, jnp.moveaxis(x, 0, 1), jnp.moveaxis(denoised, 0, 1))
    return path, denoised[-1]


def finish(
    x: Array,
    success: Array,
    nfe: int | Array,
    path: SamplePath | None,
    dtype: Any = None,
    score: Any = None,
) -> Sample:
    """Returns a `Sample` in this precision and in the units of the score's data, whose failed rows
    are NaN: a failed sample is never returned as a good one."""
    success = success & all_finite(x)
    x = jnp.where(right_pad(success, x), x, jnp.nan)
    out = in_data_units(score, Sample(x, nfe, path, success))
    return out if dtype is None else _map_states(lambda a: a.astype(dtype), out)


def in_data_units(score: Any, out: Sample) -> Sample:
    """Returns a sample, and the states of its path, in the units of the score's data."""
    if standardization_of(score) is None:
        return out
    return _map_states(lambda x: to_data_units(score, x), out)


def _map_states(function: Callable[[Array], Array], out: Sample) -> Sample:
    """Applies a function to the sample and to every state of its path."""
    path = out.path
    if path is not None:
        states = jax.tree.map(function, (path.x, path.denoised))
        path = SamplePath(path.t, *states)
    return dataclasses.replace(out, x=function(out.x), path=path)


def all_finite(x: Float[Array, " batch *data"]) -> Bool[Array, " batch"]:
    """Whether each example is finite throughout."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))
