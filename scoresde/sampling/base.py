"""What every sampler takes and returns."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.core
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from scoresde import checks
from scoresde.keys import example_keys
from scoresde.sde.base import SDE, check_sde, denoise
from scoresde.types import Cond, Key, ScoreFn, pytree_dataclass


@pytree_dataclass()
class Path:
    """States on the way from prior to data, before the last denoising, and the data that each lets expect.

    denoised: E[x_0 | x] at each state; None on a path that has no noise level (`Langevin`).
    """

    t: Float[Array, "batch points"]
    x: Float[Array, " batch points *data"]
    denoised: Float[Array, " batch points *data"] | None = None


@pytree_dataclass()
class Sample:
    """A sampler's result. nfe counts score evaluations per example; success is False where the end was not reached."""

    x: Float[Array, " batch *data"]
    nfe: int | Int[Array, " batch"]
    path: Path | None
    success: Bool[Array, " batch"]


@runtime_checkable
class Sampler(Protocol):
    """Settings with one method: integrate x1 at t = 1 down to t_min. key: one, or one per example.

    A sampler with a setting `start` takes x1 at that time.
    """

    def __call__(
        self, key: Key, sde: SDE, score: ScoreFn, x1: Array, cond: Cond = None
    ) -> Sample: ...


def all_finite(x: Float[Array, " batch *data"]) -> Bool[Array, " batch"]:
    """Whether each example is finite throughout."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))


def traced(settings: Any) -> tuple[Any, ...]:
    """The sampler's settings that are tracers: eta under vmap, or to be differentiated with respect to."""
    return tuple(
        value
        for value in getattr(settings, "__dict__", {}).values()
        if isinstance(value, jax.core.Tracer)
    )


def check_times(t_min: float, start: float = 1.0) -> None:
    """0 <= t_min < start <= 1."""
    for name, value in (("t_min", t_min), ("start", start)):
        if isinstance(value, jax.core.Tracer):
            raise TypeError(
                f"{name} is traced: the grid is laid before the trace. Wanted a number, e.g. {name}=0.5."
            )
    checks.setting("start", start, "(0, 1]")
    checks.setting("t_min", t_min, "[0, 1)")
    if not t_min < start:
        raise ValueError(
            f"t_min = {t_min} is not below start = {start}: sampling runs from start down to t_min."
        )


def check_sampler_input(key: Key, sde: SDE, x1: Array, cond: Cond) -> tuple[Array, Array]:
    """The checks every sampler makes on its arguments; returns x1 as a JAX array and one key per example."""
    check_sde(sde)
    checks.batch(x1, "x1")
    checks.condition(cond, x1.shape[0])
    return jnp.asarray(x1), example_keys(key, x1.shape[0])


@dataclasses.dataclass(frozen=True)
class NarrowScore:
    """A score that is handed x in its own dtype, by a sampler that carries times and states in float32."""

    score: ScoreFn
    dtype: Any

    def __call__(self, x: Array, t: Array, *cond: Any) -> Array:
        return self.score(x.astype(self.dtype), t, *cond)

    @property
    def denoise(self) -> Any:
        """The score's own, where it has one."""
        offered = getattr(self.score, "denoise", None)
        return (
            None if offered is None else lambda x, t, *cond: offered(x.astype(self.dtype), t, *cond)
        )


def widen(x: Array, score: ScoreFn) -> tuple[Array, ScoreFn]:
    """x in float32 or better, and a score on such states that is called on x's dtype.

    Thousands of small steps, and times near 0 and 1, do not fit the 8 bits of bfloat16; one evaluation does.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return x.astype(wide), (score if wide == x.dtype else NarrowScore(score, x.dtype))


def path_of(sde: SDE, score: ScoreFn, t: Array, x: Array, cond: Cond) -> tuple[Path, Array]:
    """A path, and E[x_0 | x] at its end; an evaluation a state. t: (points, ...); x: (points, batch, *data)."""
    t = jnp.broadcast_to(t.reshape(t.shape[0], -1), x.shape[:2])
    denoised = jax.lax.map(lambda state: denoise(sde, score, state[0], state[1], cond), (x, t))
    return Path(t.T, jnp.moveaxis(x, 0, 1), jnp.moveaxis(denoised, 0, 1)), denoised[-1]


def finish(
    x: Array, success: Array, nfe: int | Array, path: Path | None, dtype: Any = None
) -> Sample:
    """A Sample, cast to dtype, whose failed rows are NaN: a failed sample is never returned as a good one."""
    if dtype is not None:
        x = x.astype(dtype)
        states = (
            None
            if path is None
            else jax.tree.map(lambda a: a.astype(dtype), (path.x, path.denoised))
        )
        path = None if states is None or path is None else Path(path.t, *states)
    success = success & all_finite(x)
    mask = success.reshape(success.shape + (1,) * (x.ndim - 1))
    return Sample(x=jnp.where(mask, x, jnp.nan), nfe=nfe, path=path, success=success)
