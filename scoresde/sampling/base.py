"""What every sampler takes and returns, and `sample`: many examples, compiled once per shape, in chunks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from scoresde.calls import as_argument, in_chunks
from scoresde.sde.base import SDE, check_sde
from scoresde.types import (
    Cond,
    Key,
    ScoreFn,
    check_batch,
    check_cond,
    check_setting,
    example_keys,
    is_concrete,
    pytree_dataclass,
    split_examples,
)


@pytree_dataclass()
class Path:
    """States on the way from prior to data, before the last denoising."""

    t: Float[Array, "batch points"]
    x: Float[Array, " batch points *data"]


@pytree_dataclass()
class Sample:
    """A sampler's result. nfe counts score evaluations per example; success is False where the end was not reached."""

    x: Float[Array, " batch *data"]
    nfe: int | Int[Array, " batch"]
    path: Path | None
    success: Bool[Array, " batch"]


@runtime_checkable
class Sampler(Protocol):
    """Settings with one method: integrate x1 at t = 1 down to t_min. key: one, or one per example."""

    def __call__(self, key: Key, sde: SDE, score: ScoreFn, x1: Array, cond: Cond = None) -> Sample: ...


def all_finite(x: Float[Array, " batch *data"]) -> Bool[Array, " batch"]:
    """Whether each example is finite throughout."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))


def check_t_min(t_min: float) -> None:
    """0 <= t_min < 1."""
    check_setting("t_min", t_min, 0.0, 1.0)


def check_sampler_input(key: Key, sde: SDE, x1: Array, cond: Cond) -> tuple[Array, Array]:
    """The checks every sampler makes on its arguments; returns x1 as a JAX array and one key per example."""
    check_sde(sde)
    check_batch(x1, "x1")
    check_cond(cond, x1.shape[0])
    return jnp.asarray(x1), example_keys(key, x1.shape[0])


def sample(
    key: Key,
    sampler: Sampler,
    sde: SDE,
    score: ScoreFn,
    shape: Sequence[int],
    cond: Cond = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Sample:
    """Draw shape[0] examples of shape shape[1:] from the prior and integrate them to data.

    Example i uses fold_in(key, i) for its start and its noise, whatever the chunking. Compiled once per chunk shape,
    with the score's weights as arguments; a plain function is static, so hand over the same object again.
    cond: leaves (shape[0], ...). batch_size: examples a chunk, all at once if None. progress: a bar over chunks.

    Raises:
        ValueError: if shape is empty, or a condition does not have one row per example.
    """
    check_sde(sde)
    if not callable(sampler) or isinstance(sampler, type):
        raise TypeError(f"sampler is {sampler!r}: wanted settings such as sd.EulerMaruyama(num_steps=1000).")
    shape = tuple(int(n) for n in np.atleast_1d(shape))
    if len(shape) < 1 or min(shape) < 1:
        raise ValueError(f"shape is {shape}: wanted (batch, *data), each at least 1, e.g. (64, 8, 8, 1).")
    check_cond(cond, shape[0])
    out = in_chunks(
        lambda shared, rows: _sample_chunk(shared, rows, sampler, shape[1:]),
        (sde, as_argument(score)),
        (example_keys(key, shape[0]), cond),
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


@eqx.filter_jit
def _sample_chunk(
    shared: tuple[SDE, ScoreFn], rows: tuple[Key, Cond], sampler: Sampler, data: tuple[int, ...]
) -> Sample:
    (sde, score), (keys, cond) = shared, rows
    key_prior, key_sampler = split_examples(keys)
    x1 = sde.prior_sample(key_prior, (keys.shape[0], *data))
    return sampler(key_sampler, sde, score, x1, cond)


def finish(x: Array, success: Array, nfe: int | Array, path: Path | None) -> Sample:
    """A Sample whose failed rows are NaN: a failed sample is never returned as a good one."""
    success = success & all_finite(x)
    mask = success.reshape(success.shape + (1,) * (x.ndim - 1))
    return Sample(x=jnp.where(mask, x, jnp.nan), nfe=nfe, path=path, success=success)
