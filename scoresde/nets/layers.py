"""The layers that the networks are made of; the precision and the memory that blocks run with."""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde.nets.convolution import channel_last_conv
from scoresde.nets.initializers import Keys, lecun_normal
from scoresde.types import wider

# --- Layers ---


def linear(
    c_in: int, c_out: int, *, kernel_init=lecun_normal, rngs: nnx.Rngs | Keys, **options
) -> nnx.Linear:
    """Returns the layer W h + b over the last axis; on images it is a convolution 1 wide."""
    return nnx.Linear(
        c_in,
        c_out,
        kernel_init=kernel_init,
        promote_dtype=promoted,
        rngs=cast(Any, rngs),
        **options,
    )


def dot_product_attention(
    query: Float[Array, "batch n heads d"],
    key: Float[Array, "batch m heads d"],
    value: Float[Array, "batch m heads d"],
) -> Float[Array, "batch n heads d"]:
    """Returns softmax(query key^T / sqrt(d)) value for each head (Vaswani et al. 2017, Eq. 1).

    JAX's function takes the softmax in float32 whatever its inputs are, which is noise of 3e-7 in a
    field that a solver integrates in float64. So float64 inputs have a softmax in float64 here.
    """
    if query.dtype != jnp.float64:
        # JAX's function itself widens bfloat16 by implicit promotion.
        with jax.numpy_dtype_promotion("standard"):
            return jax.nn.dot_product_attention(query, key, value)

    logits = jnp.einsum("bnhd,bmhd->bhnm", query, key) / math.sqrt(query.shape[-1])
    return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(logits, axis=-1), value)


def conv(
    c_in: int, c_out: int, dims: int, *, kernel_init=lecun_normal, rngs: nnx.Rngs | Keys, **options
) -> nnx.Conv:
    """Returns a convolution 3 wide in each of `dims` dimensions, padded with zeros.

    Without strides it keeps the size.
    """
    return nnx.Conv(
        c_in,
        c_out,
        (3,) * dims,
        kernel_init=kernel_init,
        conv_general_dilated=channel_last_conv,
        promote_dtype=promoted,
        rngs=cast(Any, rngs),
        **options,
    )


def group_norm(
    channels: int, group_size: int = 4, *, rngs: nnx.Rngs | Keys, **options
) -> nnx.GroupNorm:
    """Returns a group norm of at most 32 groups, each of at least `group_size` channels."""
    most = max(1, min(channels // group_size, 32))
    groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return GroupNorm(channels, num_groups=groups, rngs=cast(Any, rngs), **options)


class GroupNorm(nnx.GroupNorm):
    """The layer of flax, under strict promotion too."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        # flax computes the statistics in float32 or better by implicit promotion.
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x, mask=mask)


class LayerNorm(nnx.LayerNorm):
    """The layer of flax, under strict promotion too."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        with jax.numpy_dtype_promotion("standard"):  # as in `GroupNorm`
            return super().__call__(x, mask=mask)


# --- Precision ---


def promoted(arrays: tuple[Any, ...], /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Returns a layer's input and weights in `dtype`, or in the widest of theirs if it is None:
    flax's own promotion, spelled out for strict promotion."""
    common = dtype or wider(*(a.dtype for a in arrays if a is not None))
    return tuple(None if a is None else jnp.asarray(a, common) for a in arrays)


Precision = Literal["float32", "bfloat16"]
"""The type that a network's layers compute in; its parameters are float32 in both cases."""


def compute_dtype(precision: Precision) -> Any:
    """Returns the dtype that layers cast to, or None where they keep the dtype of their input."""
    return jnp.bfloat16 if precision == "bfloat16" else None


# --- Memory ---


def run_block(block: nnx.Module, *args: Array, remat: bool) -> Array:
    """Returns block(*args); with remat, its gradient recomputes what is inside."""
    if not remat:
        return cast(Any, block)(*args)

    # A pure function of the block's arrays, which is what jax.checkpoint takes.
    graph, streams, rest = nnx.split(block, nnx.RngState, ...)

    def pure(streams, rest, *args):
        copy = nnx.merge(graph, streams, rest)
        out = cast(Any, copy)(*args)
        return out, nnx.state(copy, nnx.RngState)

    out, streams = jax.checkpoint(pure)(streams, rest, *args)

    # Only training writes the streams back. Elsewhere the block may belong to an outer trace, as in
    # a likelihood's solver, and may not be written to.
    if _drops(block):
        nnx.update(block, streams)
    return out


def _drops(block: nnx.Module) -> bool:
    """Returns whether the block contains a dropout layer that is switched on."""
    return any(
        isinstance(module, nnx.Dropout) and not module.deterministic
        for _, module in nnx.iter_modules(block)
    )


# --- Settings ---


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuses a setting that is not one of a Literal's values.

    Raises:
        ValueError: if it is another value.
    """
    if value not in get_args(choices):
        wanted = ", ".join(map(repr, get_args(choices)))
        raise ValueError(f"{name} = {value!r}: wanted one of {wanted}.")
