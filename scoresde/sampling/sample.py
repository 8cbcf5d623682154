"""`sample`: many examples from a sampler, compiled once per shape, in chunks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.keys import normal_like, split_examples
from scoresde.parallel.arguments import ByIdentity, is_hashable
from scoresde.parallel.held import moved_back
from scoresde.parallel.per_example import per_example
from scoresde.sampling.base import Sample, Sampler, in_data_units
from scoresde.sde.base import SDE, plain_settings
from scoresde.standardization import in_model_units, to_model_units
from scoresde.types import Cond, Key, ScoreFn, pytree_dataclass


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
    """Draws shape[0] examples of shape shape[1:] from the prior, and integrates them to data.

    Example i uses fold_in(key, i) for its start and its noise, whatever the chunks. The program is
    compiled once per chunk shape, with the score's weights as arguments; a plain function is
    static, so pass the same object again. The samples of a model of standardised data are in the
    data's own units.

    cond: leaves (shape[0], ...). batch_size: examples a chunk, all at once if None. progress:
    whether to show a bar over chunks. x1: states at the sampler's `start` to begin from, instead of
    draws from the prior, in the model's units. x0: data to begin from, noised to `start` first:
    image to image (SDEdit, Meng et al. 2022, arXiv:2108.01073).

    Raises:
        TypeError: if the sampler is not one, or sde is not an SDE.
        ValueError: if shape is empty, a condition does not have one row per example, x1 or x0 is
            not of that shape, or the sampler starts below t = 1 and has neither.
    """
    shape = _checked_shape(sampler, shape, x1, x0)
    if x0 is not None:
        x0 = to_model_units(score, x0).astype(jnp.result_type(x0))
    start = (None if x1 is None else jnp.asarray(x1), x0)

    # Units are converted here, so that a custom sampler need not know of them.
    out = per_example(
        _draw,
        shape[1:],
        key,
        plain_settings(sde),
        SamplerAndScore(_as_leaves(sampler), in_model_units(score)),
        start,
        cond,
        shape[0],
        batch_size=batch_size,
        progress=progress,
        what="samples",
        goal="t_min",
    )
    return in_data_units(score, out)


@pytree_dataclass()
class SamplerAndScore:
    """What a program is compiled for: a sampler may hold arrays too, one row per example."""

    sampler: Any
    score: Any

    def __getattr__(self, name: str) -> Any:
        """Offers what the score offers: its `sde`, its check of a condition and the others."""
        if name == "score":  # not set yet, while JAX rebuilds the pytree
            raise AttributeError(name)
        return getattr(self.score, name)


@eqx.filter_jit
def _draw(
    data_shape: tuple[int, ...], sde: SDE, both: Any, keys: Array, start: tuple, cond: Cond
) -> Sample:
    """Draws the start of each example, and runs the sampler."""
    both, cond = moved_back(both, cond)
    x1, x0 = start
    start_keys, sampler_keys = split_examples(keys)

    if x0 is not None:
        mean, std = sde.marginal_prob(x0, start_time(both.sampler))
        x1 = mean + std * normal_like(start_keys, x0)
    elif x1 is None:
        x1 = sde.prior_sample(start_keys, (keys.shape[0], *data_shape))
    return both.sampler(sampler_keys, sde, both.score, x1, cond)


def start_time(sampler: Any) -> float:
    """Returns the time at which a sampler takes x1."""
    return getattr(sampler, "start", 1.0)


def _as_leaves(sampler: Sampler) -> Sampler:
    """Returns the sampler with its arrays as leaves, if it is a pytree; else one leaf, which is
    static: by its identity where a setting is an array, as in some controllers of diffrax."""
    is_leaf = jax.tree.structure(sampler) == jax.tree.structure(0)
    by_identity = is_leaf and (inspect.isfunction(sampler) or not is_hashable(sampler))
    return cast(Sampler, ByIdentity(sampler)) if by_identity else sampler


def _checked_shape(sampler: Any, shape: Sequence[int], x1: Any, x0: Any) -> tuple[int, ...]:
    """Checks what only `sample` knows, and returns the shape as whole numbers."""
    if not callable(sampler) or isinstance(sampler, type):
        raise TypeError(
            f"sampler is {sampler!r}: wanted settings such as sd.EulerMaruyama(num_steps=1000)."
        )
    shape = tuple(int(n) for n in np.atleast_1d(shape))
    if len(shape) < 1 or min(shape) < 1:
        raise ValueError(
            f"shape is {shape}: wanted (batch, *data), each at least 1, e.g. (64, 8, 8, 1)."
        )
    for name, x in (("x1", x1), ("x0", x0)):
        if x is not None:
            checks.batch(x, name)
            if x.shape != shape:
                raise ValueError(f"{name} has shape {x.shape}: wanted one row per sample, {shape}.")

    if x1 is not None and x0 is not None:
        raise ValueError(
            "x1 and x0 were both given: give states at the sampler's start, or data to be "
            "noised to it."
        )
    start = start_time(sampler)
    if start < 1.0 and x1 is None and x0 is None:
        raise ValueError(
            f"the sampler starts at t = {start:g}, where the prior is not the law of x: give "
            "x1, states at that time, or x0, data to be noised to it; or write start=1.0."
        )
    return shape
