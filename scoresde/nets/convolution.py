"""A convolution whose derivatives, of any order and mode, are channel-last convolutions again.

With x (n, *space, c), kernel k (*window, c, o), stride s, dilation b of k, padding low, g = dL/dy:

    y[n, j, o]     = Σ_{i, c} x[n, s j + b i - low, c] k[i, c, o]                    (Eq. 1)
    dL/dx[p]       = Σ_i g[(p + low - b i) / s] k[i]^T                               (Eq. 2)
    dL/dk[i, c, o] = Σ_{n, j} x[n, s j + b i - low, c] g[n, j, o]                    (Eq. 3)

Outside, x is zero; a dilation a of x puts a - 1 zeros between its entries first. Eq. 2 convolves g,
spread out by s, with the flipped kernel, whose input and output channels are swapped. Eq. 3
convolves x with g, where channels take the place of the batch and the batch that of channels.

In a loop, XLA on CPU is fast only with convolutions in the layout (batch, *space, channels). The
derivatives of `jax.lax.conv_general_dilated` have other layouts, and a training step in a
`lax.scan` takes 20 times as long (jax issue 12868).
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

from scoresde.types import wider


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
    """Returns the convolution of x = lhs (n, *space, c) with k = rhs (*window, c, o) (Eq. 1).

    Space has one to three dimensions. The arguments are those of `jax.lax.conv_general_dilated`, so
    that the function fits `nnx.Conv(..., conv_general_dilated=channel_last_conv)`.

    Raises:
        ValueError: if the layout is another one, channels are grouped, or the window is larger than
            the padded x.
    """
    # Layout
    dims = lhs.ndim - 2
    if dims not in (1, 2, 3) or rhs.ndim != lhs.ndim:
        raise ValueError(
            f"x has shape {lhs.shape}, the kernel {rhs.shape}: wanted (n, *space, c) and "
            f"(*window, c, o)."
        )
    given = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    ours = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, _layout(dims))
    if given != ours or feature_group_count != 1 or out_sharding is not None:
        raise ValueError(
            f"got dimension_numbers = {dimension_numbers}, feature_group_count = "
            f"{feature_group_count}, out_sharding = {out_sharding}; wanted {_layout(dims)}, 1, "
            f"None. For other convolutions write jax.lax.conv_general_dilated."
        )

    # Strides, dilations and padding
    ones = (1,) * dims
    strides = tuple(window_strides or ones)
    a = tuple(lhs_dilation or ones)
    b = tuple(rhs_dilation or ones)
    sizes = _dilated(lhs.shape[1:-1], a)
    windows = _dilated(rhs.shape[:-2], b)
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

    # Precision: read now, as JAX does, since its context manager may end before lowering.
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if preferred_element_type is None:
        preferred_element_type = jnp.result_type(lhs, rhs)
    dtype = jnp.dtype(preferred_element_type)

    # Inside shard_map, JAX's own rules apply.
    in_shard_map = jax.sharding.get_abstract_mesh().manual_axes
    convolve = _plain if in_shard_map else _conv.bind
    return convolve(
        lhs, rhs, strides=strides, pads=pads, a=a, b=b, precision=precision, dtype=dtype
    )


def _layout(dims: int) -> tuple[str, str, str]:
    """Returns the dimension numbers of x, the kernel and the output."""
    space = "DHW"[-dims:]
    return f"N{space}C", f"{space}IO", f"N{space}C"


def _dilated(shape: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Returns the sizes with dilation - 1 zeros between any two entries."""
    return tuple(max(0, (n - 1) * d + 1) for n, d in zip(shape, dilation, strict=True))


# --- The primitive: strides s, pads (low, high), dilation a of x and b of the kernel ---


def _plain(x: Array, kernel: Array, *, strides, pads, a, b, precision, dtype) -> Array:
    """Returns Eq. 1 by JAX's own convolution."""
    # A gradient may have a wider type than the array that it belongs to.
    common = wider(x.dtype, kernel.dtype)

    out = jax.lax.conv_general_dilated(
        x.astype(common),
        kernel.astype(common),
        strides,
        pads,
        a,
        b,
        _layout(x.ndim - 2),
        precision=precision,
        preferred_element_type=wider(common, dtype),
    )
    return out.astype(dtype)


def _abstract(x, kernel, **settings):
    """Returns the shape and dtype of Eq. 1."""
    x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    kernel = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
    out = jax.eval_shape(partial(_plain, **settings), x, kernel)
    return jax.core.ShapedArray(out.shape, out.dtype)


def _transpose_x(g, x, kernel, *, strides, pads, a, b, precision, dtype):
    """Returns the gradient with respect to x (Eq. 2)."""
    flipped = jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-1, -2)

    n_x = _dilated(x.aval.shape[1:-1], a)
    n_k = _dilated(kernel.shape[:-2], b)
    n_g = _dilated(g.shape[1:-1], strides)
    pads = tuple(
        (k - 1 - low, n + low - m) for n, k, m, (low, _) in zip(n_x, n_k, n_g, pads, strict=True)
    )
    return _conv.bind(
        g, flipped, strides=a, pads=pads, a=strides, b=b, precision=precision, dtype=x.aval.dtype
    )


def _transpose_kernel(g, x, kernel, *, strides, pads, a, b, precision, dtype):
    """Returns the gradient with respect to the kernel (Eq. 3)."""
    n_x = _dilated(x.shape[1:-1], a)
    n_k = _dilated(kernel.aval.shape[:-2], b)
    n_g = _dilated(g.shape[1:-1], strides)
    pads = tuple(
        (low, k - 1 + m - n - low) for n, k, m, (low, _) in zip(n_x, n_k, n_g, pads, strict=True)
    )

    x = x.swapaxes(0, -1)  # channels as the batch
    g = jnp.moveaxis(g, 0, -2)  # the batch as input channels
    out = _conv.bind(
        x, g, strides=b, pads=pads, a=a, b=strides, precision=precision, dtype=kernel.aval.dtype
    )
    return jnp.moveaxis(out, 0, -2)


def _batch(operands, axes, **settings):
    """Returns the convolution under vmap, and the axis that its output is mapped over.

    Mapped x fold into the batch, mapped kernels into the output channels. If both are mapped, JAX's
    own convolution answers.
    """
    x, kernel = operands
    of_x, of_kernel = axes

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
