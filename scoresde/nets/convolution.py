"""Convolution whose derivatives, of any order and mode, are channel-last convolutions again.

XLA on CPU is fast with convolutions in a loop only in the layout (batch, *space, channels), which the derivatives of
`jax.lax.conv_general_dilated` have not: a training step in a `lax.scan` takes 20 times as long (jax issue 12868).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def channel_last_conv(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """y[n, j, o] = Σ_{i, c} x[n, s j + r i − low, c] k[i, c, o], x zero outside and, if dilated, between its entries.

    x = lhs (n, *space, c), k = rhs (*window, c, o), s = window_strides, r = rhs_dilation; one to three dimensions of
    space. Called like `jax.lax.conv_general_dilated`, so it fits `nnx.Conv(..., conv_general_dilated=...)`.

    Raises:
        ValueError: if the layout is another one, or channels are grouped.
    """
    dims = lhs.ndim - 2
    if dims not in (1, 2, 3) or rhs.ndim != lhs.ndim:
        raise ValueError(
            f"x has shape {lhs.shape}, the kernel {rhs.shape}: wanted (n, *space, c) and (*window, c, o)."
        )
    given, ours = (
        jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, d)
        for d in (dimension_numbers, _layout(dims))
    )
    if given != ours or feature_group_count != 1 or out_sharding is not None:
        raise ValueError(
            f"got dimension_numbers = {dimension_numbers}, feature_group_count = {feature_group_count}, out_sharding = "
            f"{out_sharding}; wanted {_layout(dims)}, 1, None. For others: jax.lax.conv_general_dilated."
        )
    strides, a, b = (tuple(n or (1,) * dims) for n in (window_strides, lhs_dilation, rhs_dilation))
    sizes, windows = _dilated(lhs.shape[1:-1], a), _dilated(rhs.shape[:-2], b)
    if isinstance(padding, str) and max(a) > 1:
        raise ValueError(
            f"padding = {padding!r} and lhs_dilation = {a}: write the padding as pairs (low, high)."
        )
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(sizes, windows, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    if any(n + low + high < k for n, k, (low, high) in zip(sizes, windows, pads, strict=True)):
        raise ValueError(
            f"the window {windows} is larger than x with its padding, {sizes} and {pads}: pad more."
        )
    if precision is None:  # read now, as JAX does: the context manager may end before lowering
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    dtype = jnp.dtype(
        jnp.result_type(lhs, rhs) if preferred_element_type is None else preferred_element_type
    )
    convolve = (
        _plain if jax.sharding.get_abstract_mesh().manual_axes else _conv.bind
    )  # in shard_map: JAX's own rules
    return convolve(
        lhs, rhs, strides=strides, pads=pads, a=a, b=b, precision=precision, dtype=dtype
    )


def _layout(dims: int) -> tuple[str, str, str]:
    space = "DHW"[-dims:]
    return f"N{space}C", f"{space}IO", f"N{space}C"


def _dilated(shape: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(0, (n - 1) * d + 1) for n, d in zip(shape, dilation, strict=True))


# --- The primitive: strides s, pads (low, high), dilation a of x and b of the kernel ---


def _plain(x: Array, kernel: Array, *, strides, pads, a, b, precision, dtype) -> Array:
    common = jnp.promote_types(
        x.dtype, kernel.dtype
    )  # a gradient may be wider than what it belongs to
    out = jax.lax.conv_general_dilated(
        x.astype(common),
        kernel.astype(common),
        strides,
        pads,
        a,
        b,
        _layout(x.ndim - 2),
        precision=precision,
        preferred_element_type=jnp.promote_types(common, dtype),
    )
    return out.astype(dtype)


def _abstract(x, kernel, **settings):
    out = jax.eval_shape(
        partial(_plain, **settings), *(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (x, kernel))
    )
    return jax.core.ShapedArray(out.shape, out.dtype)


def _transpose_x(g, x, kernel, *, strides, pads, a, b, precision, dtype):
    """dL/dx[p] = Σ_i g[(p + low − b i) / s] k[i]^T: g spread out by s, the kernel flipped, its channels swapped."""
    flipped = jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-1, -2)
    sizes = (
        _dilated(v, by)
        for v, by in ((x.aval.shape[1:-1], a), (kernel.shape[:-2], b), (g.shape[1:-1], strides))
    )
    pads = tuple((k - 1 - low, n + low - m) for n, k, m, (low, _) in zip(*sizes, pads, strict=True))
    return _conv.bind(
        g, flipped, strides=a, pads=pads, a=strides, b=b, precision=precision, dtype=x.aval.dtype
    )


def _transpose_kernel(g, x, kernel, *, strides, pads, a, b, precision, dtype):
    """dL/dk[i, c, o] = Σ_{n, j} x[n, s j + b i − low, c] g[j, n, o]: c stands for the batch, n for the channels."""
    sizes = (
        _dilated(v, by)
        for v, by in ((x.shape[1:-1], a), (kernel.aval.shape[:-2], b), (g.shape[1:-1], strides))
    )
    pads = tuple((low, k - 1 + m - n - low) for n, k, m, (low, _) in zip(*sizes, pads, strict=True))
    x, g = x.swapaxes(0, -1), jnp.moveaxis(g, 0, -2)
    out = _conv.bind(
        x, g, strides=b, pads=pads, a=a, b=strides, precision=precision, dtype=kernel.aval.dtype
    )
    return jnp.moveaxis(out, 0, -2)


def _batch(operands, axes, **settings):
    """Many x fold into the batch, many kernels into the output channels; both at once: JAX's own convolution."""
    (x, kernel), (of_x, of_kernel) = operands, axes
    if of_kernel is None:
        x = jnp.moveaxis(x, of_x, 0)
        out = _conv.bind(jax.lax.collapse(x, 0, 2), kernel, **settings)
        return out.reshape(*x.shape[:2], *out.shape[1:]), 0
    if of_x is None:
        kernel = jnp.moveaxis(kernel, of_kernel, -2)
        out = _conv.bind(x, jax.lax.collapse(kernel, kernel.ndim - 2), **settings)
        return out.reshape(*out.shape[:-1], *kernel.shape[-2:]), out.ndim - 1
    return jax.vmap(partial(_plain, **settings), tuple(axes))(x, kernel), 0


_conv = Primitive("channel_last_conv")
_conv.def_impl(_plain)
_conv.def_abstract_eval(_abstract)
ad.defbilinear(_conv, _transpose_x, _transpose_kernel)
batching.primitive_batchers[_conv] = _batch
mlir.register_lowering(_conv, mlir.lower_fun(_plain, multiple_results=False))
