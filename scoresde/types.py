"""What every module shares: the score interface, shape helpers, and immutable settings that JAX can see through."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast, dataclass_transform

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree, Shaped

Scalar = float | Array
"""A setting: a Python number when a person writes it, possibly a tracer when JAX rebuilds the object."""
Time = float | int | Float[Array, "..."] | Float[np.ndarray, "..."]
"""A time in [0, 1], 0 = data and 1 = prior: one, or one per example."""
Key = Shaped[Array, "..."]
"""A JAX random key: one, or one per example. Typed (`jax.random.key`) or raw (`jax.random.PRNGKey`)."""
Cond = PyTree[Array | np.ndarray] | None
"""A condition: any pytree whose leaves have a leading batch axis (labels, masks, observations)."""
T = TypeVar("T")


ScoreFn = Callable[..., Array]
"""Any callable `score(x, t)` or `score(x, t, cond)` that returns the gradient of log p_t at x, shaped like x.

x: (batch, *data), t: (batch,). It may also offer `denoise(x, t, cond)`, E[x0 | x_t = x].
"""


# The shape aliases are written out where they are used (`Float[Array, " batch *data"]`), so a signature reads alone.


def call_score(
    score: Callable[..., Array], x: Array, t: Array, cond: Cond = None, name: str = "the score"
) -> Array:
    """score(x, t), or score(x, t, cond) where there is a condition; its shape must be x's; cast to its dtype."""
    value = score(x, t) if cond is None else score(x, t, cond)
    shape = jnp.shape(value)
    if shape != x.shape:
        raise ValueError(
            f"{name} returned shape {shape} for x of shape {x.shape}: a score is a gradient with respect to x, and "
            f"E[x_0 | x] is data: both have its shape. Return one value per entry of x, e.g. out.reshape(x.shape)."
        )
    return value.astype(x.dtype)


def right_pad(a: Array, x: Array) -> Array:
    """(batch,) → (batch, 1, ...) with the rank of x, so that it multiplies x example by example; a scalar stays."""
    a = jnp.asarray(a)
    return a if a.ndim == 0 else a.reshape(a.shape + (1,) * (x.ndim - a.ndim))


def sum_data(x: Float[Array, " batch *data"]) -> Float[Array, " batch"]:
    """Sum over all data dimensions: one value per example."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def data_dim(x: Array) -> int:
    """The number of data dimensions of one example, D."""
    return math.prod(x.shape[1:])


# --- Immutable settings that are JAX pytrees ---


@dataclass_transform(frozen_default=True)
def pytree_dataclass(*static: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: a frozen dataclass that is also a pytree; the fields named are static (hashable metadata).

    Unlike `jax.tree_util.register_dataclass`, rebuilding never runs `__init__`, so range checks in
    `__post_init__` see what a person writes and never a tracer's stand-in, a gradient or a mapped value.
    """

    def decorate(cls: type[T]) -> type[T]:
        cls = dataclasses.dataclass(frozen=True)(cls)
        names = [field.name for field in dataclasses.fields(cast(Any, cls))]
        children = tuple(name for name in names if name not in static)

        def flatten_with_keys(obj):
            keyed = tuple((jax.tree_util.GetAttrKey(name), getattr(obj, name)) for name in children)
            return keyed, tuple(getattr(obj, name) for name in static)

        def flatten(obj):
            return tuple(getattr(obj, name) for name in children), tuple(
                getattr(obj, name) for name in static
            )

        def unflatten(aux, values):
            obj = object.__new__(cls)
            for name, value in zip(children + static, tuple(values) + tuple(aux), strict=True):
                object.__setattr__(obj, name, value)
            return obj

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
        return cls

    return decorate
