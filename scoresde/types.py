"""What every module shares: the score interface, shape helpers, and settings that are JAX
pytrees."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree, Shaped

Scalar = float | Array
"""A setting: a Python number when a person writes it, possibly a tracer when JAX rebuilds it."""

Time = float | int | Float[Array, "..."] | Float[np.ndarray, "..."]
"""A time in [0, 1], where 0 is the data and 1 the prior: one time, or one per example."""

Key = Shaped[Array, "..."]
"""A JAX random key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`): one, or one per
example."""

Cond = PyTree[Array | np.ndarray] | None
"""A condition: any pytree whose leaves have a leading batch axis (labels, masks, observations)."""

Classes = int | tuple[int, ...] | None
"""The classes of the label that conditions a network, or of several labels; None without."""

ScoreFn = Callable[..., Array]
"""Any callable `score(x, t)` or `score(x, t, cond)` that returns grad_x log p_t(x), shaped like x.

x: (batch, *data); t: (batch,). It may also offer `denoise(x, t, cond)`, which returns E[x_0 | x_t =
x].
"""

NO_SETTING = {"setting": False}
"""Metadata of a field that is not a setting: files and the command line leave it at its default."""

T = TypeVar("T")


# --- Shapes: aliases such as Float[Array, " batch *data"] are written out where they are used ---


def right_pad(a: Array, x: Array) -> Array:
    """Reshapes (batch,) to (batch, 1, …, 1) with the rank of x, so that it multiplies x example by
    example. A scalar stays a scalar."""
    a = jnp.asarray(a)
    return a if a.ndim == 0 else a.reshape(a.shape + (1,) * (x.ndim - a.ndim))


def sum_data(x: Float[Array, " batch *data"]) -> Float[Array, " batch"]:
    """Sums over all data dimensions: one value per example."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def wider(*dtypes: Any) -> Any:
    """Returns the floating-point type with the most bits, under strict promotion too."""
    return jnp.dtype(max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits))


def data_dim(x: Array) -> int:
    """The number of data dimensions of one example, D."""
    return math.prod(x.shape[1:])


# --- Immutable settings that are JAX pytrees ---


MOST_SHOWN = 16
"""Entries of an array that `ShownShort` shows by their values."""


class ShownShort:
    """A pytree dataclass whose representation has large arrays as their type and shape.

    Not for what a run's description holds, which tells settings apart by their representation.
    """

    def __repr__(self) -> str:
        fields = dataclasses.fields(cast(Any, self))
        parts = [f"{field.name}={_shown(getattr(self, field.name))}" for field in fields]
        return f"{type(self).__qualname__}({', '.join(parts)})"


def _shown(value: Any) -> str:
    if isinstance(value, (Array, np.ndarray)) and value.size > MOST_SHOWN:
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return repr(value)


@dataclass_transform(frozen_default=True)
def pytree_dataclass(*static: str) -> Callable[[type[T]], type[T]]:
    """Class decorator for a frozen dataclass that is also a pytree.

    The fields named in `static` are hashable metadata; all others are children. Unlike
    `jax.tree_util.register_dataclass`, rebuilding never runs `__init__`, so range checks in
    `__post_init__` see what a person writes, and never a tracer, a gradient or a mapped value.
    """

    def decorate(cls: type[T]) -> type[T]:
        cls = dataclasses.dataclass(frozen=True, repr=not issubclass(cls, ShownShort))(cls)
        names = [field.name for field in dataclasses.fields(cast(Any, cls))]
        children = tuple(name for name in names if name not in static)

        def metadata(obj):
            return tuple(getattr(obj, name) for name in static)

        def flatten(obj):
            return tuple(getattr(obj, name) for name in children), metadata(obj)

        def flatten_with_keys(obj):
            keyed = tuple((jax.tree_util.GetAttrKey(name), getattr(obj, name)) for name in children)
            return keyed, metadata(obj)

        def unflatten(aux, values):
            obj = object.__new__(cls)
            for name, value in zip(children + static, tuple(values) + tuple(aux), strict=True):
                object.__setattr__(obj, name, value)
            return obj

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
        return cls

    return decorate
