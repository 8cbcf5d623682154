"""`sample`: many examples, compiled once per shape, in chunks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.keys import example_keys, normal_like, split_examples
from scoresde.parallel.arguments import ByIdentity, as_argument
from scoresde.parallel.per_example import check_score, in_chunks
from scoresde.sampling.base import Sample, Sampler, traced
from scoresde.sde.base import SDE, check_sde, plain_settings
from scoresde.types import Cond, Key, ScoreFn


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
    checks.condition(cond, shape[0])
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
            checks.batch(x, name)
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
