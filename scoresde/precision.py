"""The precision of a solve: float32 or better, and float64 on request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from scoresde.checks import is_concrete
from scoresde.types import wider


@contextmanager
def full_precision() -> Iterator[None]:
    """Computes float32 matrix products in full. Accelerators round them to bf16 or tf32 by default,
    which is far above the error of a solver."""
    with jax.default_matmul_precision("float32"):
        yield


def in_float64(tree: Any) -> Any:
    """Casts every floating-point array of a tree to float64, which must be enabled where it is
    called."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a, tree
    )


def at_least_float32(x: Any, float64: bool = False) -> Array:
    """Returns a JAX array in float32 or better: what a small step adds does not fit half precision.

    float64: whether float64 was asked for, so that x keeps it.
    """
    with jax.enable_x64(True) if float64 else nullcontext():
        x = jnp.asarray(x)
        return x.astype(wider(x.dtype, jnp.float32))


def precision_of(array: Any) -> AbstractContextManager[Any]:
    """Enables float64 where the array has it, so that a result that was asked for in float64 keeps
    it."""
    return jax.enable_x64(True) if getattr(array, "dtype", None) == jnp.float64 else nullcontext()


def check_float64(score: Any, x: Any) -> None:
    """Checks that float64=True is possible here.

    Raises:
        ValueError: while jit or vmap traces, where the precision was decided outside; for a network
            that computes in bfloat16.
    """
    if not is_concrete(x):
        raise ValueError(
            "float64=True does not work inside jit, where the precision is already fixed. Write "
            "`with jax.enable_x64(True):` around the whole program, and pass float64 arrays."
        )
    config = getattr(getattr(score, "net", score), "config", None)
    if getattr(config, "dtype", "float32") == "bfloat16":
        raise ValueError(
            "float64=True, but the network computes in bfloat16: build it with "
            "dtype='float32', and load the weights of a run with sd.load(run, model=...)."
        )
