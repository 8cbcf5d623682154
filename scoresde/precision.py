"""The precision of a solve: float32 and better, float64 on request in a process whose default is float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from scoresde.checks import is_concrete


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 matrix products in full: accelerators round them to bf16 or tf32 by default, far above solver error."""
    with jax.default_matmul_precision("float32"):
        yield


def in_float64(tree: Any) -> Any:
    """Every floating-point array of a tree in float64; call it where that is enabled."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a, tree
    )


def at_least_float32(x: Any) -> Array:
    """As a JAX array: what an adaptive step adds does not fit half precision."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def precision_of(array: Any) -> AbstractContextManager[Any]:
    """Where arithmetic with a float64 array stays in it: a result that was asked for in float64 does not lose it."""
    return jax.enable_x64(True) if getattr(array, "dtype", None) == jnp.float64 else nullcontext()


def check_float64(score: Any, x: Any) -> None:
    """float64=True can be had here.

    Raises:
        ValueError: while jit or vmap traces, whose precision is decided outside; for a network that computes in less.
    """
    if not is_concrete(x):
        raise ValueError(
            "float64=True is for a call outside jit: within, write with jax.enable_x64(True) around it "
            "all, and hand over float64."
        )
    config = getattr(getattr(score, "net", score), "config", None)
    if getattr(config, "dtype", "float32") == "bfloat16":
        raise ValueError(
            "float64=True, and the network computes in bfloat16: build it with dtype='float32', and load "
            "a run's weights by sd.load(run, model=...)."
        )
