"""Random keys: example i depends on (key, i) alone, whatever the batch size or its neighbours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def as_typed_key(key: Array) -> Array:
    """Returns a typed key array; raw uint32 keys of `jax.random.PRNGKey` are wrapped.

    Raises:
        TypeError: if it is not a random key.
    """
    if not isinstance(key, jax.Array):
        raise TypeError(
            f"key is of type {type(key).__name__}: wanted a JAX random key. "
            f"Write jax.random.key(0)."
        )
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if key.dtype == jnp.uint32 and key.ndim in (1, 2):
        return jax.random.wrap_key_data(key)
    raise TypeError(
        f"key has dtype {key.dtype} and shape {key.shape}: wanted a JAX random key. "
        f"Write jax.random.key(0)."
    )


def example_keys(key: Array, batch: int, start: int = 0) -> Array:
    """Returns one key per example, (batch,): fold_in(key, start + i). Keys that are already one per
    example pass through.

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
    """Splits each example's key: (batch,) → (num, batch)."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, num))(keys), 1, 0)


def fold_in_examples(keys: Array, data: Array | int) -> Array:
    """Folds the same number, such as a sampler's step, into every example's key: (batch,) →
    (batch,)."""
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def normal_like(keys: Array, x: Float[Array, " batch *data"]) -> Float[Array, " batch *data"]:
    """Draws standard normal noise shaped like x, example i from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
