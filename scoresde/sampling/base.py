"""What every sampler takes and returns, and `sample`: many examples, compiled once per shape, in chunks."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from scoresde.calls import ByIdentity, as_argument, check_score, in_chunks
from scoresde.sde.base import SDE, check_sde, denoise, plain_settings
from scoresde.types import (
    Cond,
    Key,
    ScoreFn,
    check_batch,
    check_cond,
    check_setting,
    example_keys,
    is_concrete,
    normal_like,
    pytree_dataclass,
    split_examples,
)


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
    check_setting("start", start, 0.0, inclusive=False)
    if start > 1.0:
        raise ValueError(
            f"start = {start} lies beyond the prior, t = 1: write start=1.0, or a time below it."
        )
    check_setting("t_min", t_min, 0.0, 1.0)
    if not t_min < start:
        raise ValueError(
            f"t_min = {t_min} is not below start = {start}: sampling runs from start down to t_min."
        )


def check_sampler_input(key: Key, sde: SDE, x1: Array, cond: Cond) -> tuple[Array, Array]:
    """The checks every sampler makes on its arguments; returns x1 as a JAX array and one key per example."""
    check_sde(sde)
    check_batch(x1, "x1")
    check_cond(cond, x1.shape[0])
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


def sample(
    key: Key,
    sampler: Sampler,
    sde: SDE,
    score: ScoreFn,
    shape: Sequence[int],
    cond: Cond = None,
    batch_size: int | None = None,
    progress: bool = False,
    x1: Array | np.ndarray | None = None,
    x0: Array | np.ndarray | None = None,
) -> Sample:
    """Draw shape[0] examples of shape shape[1:] from the prior and integrate them to data.

    Example i uses fold_in(key, i) for its start and its noise, whatever the chunking. Compiled once per chunk shape,
    with the score's weights as arguments; a plain function is static, so hand over the same object again.
    cond: leaves (shape[0], ...). batch_size: examples a chunk, all at once if None. progress: a bar over chunks.
    x1: states at the sampler's `start` to begin from, instead of the prior's draws. x0: data to begin from, noised to
    `start` first: image to image (SDEdit, Meng et al. 2022, arXiv:2108.01073).

    Raises:
        ValueError: if shape is empty, a condition does not have one row per example, x1 or x0 is not of that shape,
            or the sampler starts below t = 1 and has neither.
    """
    check_sde(sde)
    if not callable(sampler) or isinstance(sampler, type):
        raise TypeError(
            f"sampler is {sampler!r}: wanted settings such as sd.EulerMaruyama(num_steps=1000)."
        )
    shape = tuple(int(n) for n in np.atleast_1d(shape))
    if len(shape) < 1 or min(shape) < 1:
        raise ValueError(
            f"shape is {shape}: wanted (batch, *data), each at least 1, e.g. (64, 8, 8, 1)."
        )
    check_cond(cond, shape[0])
    check_score(sde, score, cond)
    sde, start, held = plain_settings(sde), getattr(sampler, "start", 1.0), traced(sampler)
    try:
        hash(sampler)
    except (
        TypeError
    ):  # a setting is an array, a diffrax controller holds one: the object itself is the constant
        sampler = cast(Sampler, ByIdentity(sampler))
    x1, x0 = (jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in (x1, x0))
    _check_begin(x1, x0, shape, start)
    out = in_chunks(
        lambda shared, rows: _sample_chunk(shared[:2], rows, sampler, shape[1:], start),
        (sde, as_argument(score), held),
        (example_keys(key, shape[0]), cond, x1, x0),
        shape[0],
        batch_size,
        "sampling" if progress else None,
    )
    failed = int(np.sum(~np.asarray(out.success))) if is_concrete(out.success) else 0
    if failed:
        warnings.warn(
            f"{failed} of {shape[0]} samples did not reach t_min: their rows of x are NaN and success is False. Try "
            f"more steps or tolerance, a larger t_min, or check the score for NaN.",
            stacklevel=2,
        )
    return out


def _check_begin(x1: Array | None, x0: Array | None, shape: tuple[int, ...], start: float) -> None:
    for name, x in (("x1", x1), ("x0", x0)):
        if x is not None:
            check_batch(x, name)
            if x.shape != shape:
                raise ValueError(f"{name} has shape {x.shape}: wanted one row per sample, {shape}.")
    if x1 is not None and x0 is not None:
        raise ValueError(
            "x1 and x0: give states at the sampler's start, or data to be noised to it, not both."
        )
    if start < 1.0 and x1 is None and x0 is None:
        raise ValueError(
            f"the sampler starts at t = {start:g}, where the prior is not the law of x: give x1, states of that time, "
            f"or x0, data to be noised to it; or write start=1.0."
        )


@eqx.filter_jit
def _sample_chunk(
    shared: tuple[SDE, ScoreFn],
    rows: tuple[Key, Cond, Array | None, Array | None],
    sampler: Sampler,
    data: tuple[int, ...],
    start: float,
) -> Sample:
    (sde, score), (keys, cond, x1, x0) = shared, rows
    key_start, key_sampler = split_examples(keys)
    if x0 is not None:
        mean, std = sde.marginal_prob(x0, start)
        x1 = mean + std * normal_like(key_start, x0)
    elif x1 is None:
        x1 = sde.prior_sample(key_start, (keys.shape[0], *data))
    return sampler(key_sampler, sde, score, x1, cond)


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
