"""Random keys: example i depends on (key, i) alone, whatever the batch size or its neighbours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def as_typed_key(key: Array) -> Array:
    """Returns a typed array of threefry keys; raw uint32 keys of `jax.random.PRNGKey` are wrapped.

    Keys of other implementations, such as "rbg", are hashed to threefry ones: under `jax.vmap`,
    which every draw of one example is, their draws depend on the other examples.

    Raises:
        TypeError: if it is not a random key.
    """
    if not isinstance(key, jax.Array):
        raise TypeError(
            f"key is of type {type(key).__name__}: wanted a JAX random key. "
            f"Write jax.random.key(0)."
        )
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if jax.random.key_impl(key) == "threefry2x32":
            return key
        return _threefry_of(jax.random.key_data(key))
    if key.dtype == jnp.uint32 and key.ndim in (1, 2) and key.shape[-1] in (2, 4):
        return _threefry_of(key)
    raise TypeError(
        f"key has dtype {key.dtype} and shape {key.shape}: wanted a JAX random key. "
        f"Write jax.random.key(0)."
    )


def _threefry_of(data: Array) -> Array:
    """Returns the threefry keys of raw keys (..., words): two words as they are, more folded in."""
    keys = jax.random.wrap_key_data(data[..., :2], impl="threefry2x32")
    fold_in = jax.random.fold_in if keys.ndim == 0 else jax.vmap(jax.random.fold_in)
    for word in range(2, data.shape[-1]):
        keys = fold_in(keys, data[..., word])
    return keys


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
