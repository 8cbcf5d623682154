"""What every module shares: the score interface, shapes, per-example keys, immutable settings JAX can see through."""

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


# --- Random keys: example i depends on (key, i) alone ---


def as_typed_key(key: Array) -> Array:
    """A typed key array; raw uint32 keys of `jax.random.PRNGKey` are wrapped."""
    if not isinstance(key, jax.Array):
        raise TypeError(
            f"key is of type {type(key).__name__}: wanted a JAX random key. Write jax.random.key(0)."
        )
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if key.dtype == jnp.uint32 and key.ndim in (1, 2):
        return jax.random.wrap_key_data(key)
    raise TypeError(
        f"key has dtype {key.dtype} and shape {key.shape}: wanted a JAX random key, jax.random.key(0)."
    )


def example_keys(key: Array, batch: int, start: int = 0) -> Array:
    """One key per example, (batch,): fold_in(key, start + i); keys that are already one per example pass through.

    Raises:
        ValueError: if there are several keys, but not one per example.
    """
    key = as_typed_key(key)
    if key.ndim == 0:
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(start, start + batch))
    if key.shape != (batch,):
        raise ValueError(
            f"key has shape {key.shape} for {batch} examples: wanted one key, or one per example."
        )
    return key


def split_examples(keys: Array, num: int = 2) -> Array:
    """Split each example's key: (batch,) → (num, batch)."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, num))(keys), 1, 0)


def fold_in_examples(keys: Array, data: Array | int) -> Array:
    """fold_in the same number into every example's key, e.g. the step of a sampler: (batch,) → (batch,)."""
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def normal_like(keys: Array, x: Float[Array, " batch *data"]) -> Float[Array, " batch *data"]:
    """Standard normal noise shaped like x, example i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


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


# --- Checks at the public edge: they run while tracing and cost nothing afterwards ---


def is_concrete(*values: Any) -> bool:
    """Whether every value can be read now: none is a tracer, or one of JAX's structural stand-ins."""
    return all(
        isinstance(value, (int, float, np.generic, np.ndarray, jax.Array))
        and not isinstance(value, jax.core.Tracer)
        for value in values
    )


def check_setting(
    name: str, value: Any, low: float, high: float = math.inf, inclusive: bool = True
) -> None:
    """A number in [low, high) (or (low, high)); tracers and traced structures pass."""
    if isinstance(value, (str, bytes, bool)) or value is None:
        raise TypeError(f"{name} is {value!r}: wanted a number.")
    if not is_concrete(value):
        return
    value = np.asarray(value)
    if not np.all(
        np.isfinite(value) & ((value >= low) if inclusive else (value > low)) & (value < high)
    ):
        bound = f"finite and {'≥' if inclusive else '>'} {low:g}" + (
            "" if high == math.inf else f" and < {high:g}"
        )
        raise ValueError(f"{name} = {value} is out of range: it must be {bound}.")


def check_count(name: str, value: Any, low: int = 1) -> None:
    """A whole number, at least `low`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"{name} = {value!r}: wanted a whole number, at least {low}.")


def check_time(t: Any, name: str = "t") -> None:
    """Times lie in [0, 1], 0 = data and 1 = prior; read only where the value is known now."""
    if is_concrete(t):
        value = np.asarray(t)
        if not np.all((value >= 0.0) & (value <= 1.0)):
            raise ValueError(
                f"{name} holds {value.min():g} … {value.max():g}: times lie in [0, 1], 0 = data and 1 = prior. "
                f"For a table's index i of N write (i + 1) / N."
            )


def check_x_t(x: Array, t: Time, name: str = "x") -> None:
    """x: (batch, *data) of floats, t: a scalar or one time per example."""
    check_batch(x, name)
    if jnp.ndim(t) != 0 and jnp.shape(t) != x.shape[:1]:
        raise ValueError(
            f"t has shape {jnp.shape(t)}, {name} has {x.shape}: wanted one time, or one per example. "
            f"For a single time use jnp.full({x.shape[:1]}, t)."
        )
    check_time(t)


def check_batch(x: Array, name: str = "x") -> None:
    """x has a batch axis and holds floating-point numbers."""
    if not hasattr(x, "shape"):
        raise TypeError(
            f"{name} is a {type(x).__name__}: wanted an array (batch, *data). Write jnp.asarray({name})."
        )
    if len(x.shape) < 1:
        raise ValueError(
            f"{name} is a scalar: wanted (batch, *data). For one example write {name}[None]."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {x.dtype}: wanted floating-point numbers. Write {name}.astype(jnp.float32); "
            f"integer images go through sd.UniformDequantization(levels=256) first."
        )


def check_numbers(array: np.ndarray, name: str) -> None:
    """Finite whole or real numbers, one example a row.

    Raises:
        ValueError: if they are of another type, or one is NaN or infinite.
    """
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"{name} has dtype {array.dtype}: wanted numbers. Write {name}.astype(np.float32)."
        )
    if not np.all(np.isfinite(array)):
        bad = int(np.sum(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
        raise ValueError(
            f"{name} holds NaN or infinity in {bad} of {len(array)} examples: drop or mend them first."
        )


def check_cond(cond: Cond, batch: int) -> None:
    """Every leaf of a condition has the leading batch axis."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        if jnp.ndim(leaf) < 1 or jnp.shape(leaf)[0] != batch:
            raise ValueError(
                f"cond{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)} for {batch} examples: conditions are "
                f"per example. For one condition on all write jnp.broadcast_to(c, ({batch},) + c.shape)."
            )
