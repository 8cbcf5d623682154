"""A function of a batch, called for one example inside a solve, and still computed for the batch.

Adaptive solvers with a step size per example are written for one example and mapped over the batch
by `jax.vmap`. A user's score called there would see (1, *data), once for every example's program.
Here the vmap calls the function once, on the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def called_for_batch(
    function: Callable[[PyTree, PyTree], PyTree], shared: PyTree, rows: PyTree
) -> Callable[[PyTree], PyTree]:
    """Returns `function(shared, rows)` for one example, which under vmap is one call on the batch.

    shared: arrays that the examples share, such as weights. rows: arrays with a batch axis, of
    which the shapes and dtypes matter; what is returned takes them without that axis. The function
    may capture arrays, traced ones too. Derivatives are those of the plain form.
    """
    # Both shapes are traced here, because custom_vmap and custom_jvp see no captured tracers.
    one_row = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), rows)
    for_batch, captured_for_batch = _without_captures(function, shared, rows)
    for_one, captured_for_one = _without_captures(function, shared, one_row)
    shared = (shared, captured_for_batch, captured_for_one)

    def plain(shared, rows):
        shared, _, captured = shared
        out = for_one(captured, shared, jax.tree.map(lambda a: a[None], rows))
        return jax.tree.map(lambda a: a[0], out)

    @jax.custom_batching.custom_vmap
    def mapped(shared, rows):
        return plain(shared, rows)

    @mapped.def_vmap
    def call_on_batch(size, is_mapped, shared, rows):
        shared_is_mapped, rows_are_mapped = is_mapped
        if any(jax.tree.leaves(shared_is_mapped)):  # an outer vmap over weights
            axes = jax.tree.map(lambda mapped: 0 if mapped else None, is_mapped)
            out = jax.vmap(plain, in_axes=axes)(shared, rows)
            return out, jax.tree.map(lambda _: True, out)

        def with_batch_axis(a: Any, is_mapped: bool) -> Any:
            return a if is_mapped else jnp.broadcast_to(a, (size, *jnp.shape(a)))

        shared, captured, _ = shared
        out = for_batch(captured, shared, jax.tree.map(with_batch_axis, rows, rows_are_mapped))
        return out, jax.tree.map(lambda _: True, out)

    # custom_vmap has no reverse mode, so the derivative is that of the plain form.
    @jax.custom_jvp
    def call(shared: PyTree, rows: PyTree) -> PyTree:
        return mapped(shared, rows)

    @call.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        return jax.jvp(plain, primals, tangents)

    return lambda rows: call(shared, rows)


def _without_captures(
    function: Callable[[PyTree, PyTree], PyTree], shared: PyTree, rows: PyTree
) -> tuple[Callable[[PyTree, PyTree, PyTree], PyTree], PyTree]:
    """Returns `function` at these shapes as (captured, shared, rows) → out, and what it
    captures."""
    closed = eqx.filter_closure_convert(function, shared, rows)
    captured, static = eqx.partition(closed, eqx.is_array)

    def function_of_captured(captured, shared, rows):
        return eqx.combine(captured, static)(shared, rows)

    return function_of_captured, captured
