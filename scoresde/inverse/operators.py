"""What is measured of an image or a vector: y = A(x) + noise, A linear.

    Mask         A = diag(m), m in {0, 1}        A Aᵀ = diag(m)
    Downsample   means of blocks of n pixels     A Aᵀ = I / n
    Gray         sum over channels of w_c x_c    A Aᵀ = |w|² I
    Blur         convolution with a kernel k     A Aᵀ = F⁻¹ |k^|² F, where the image wraps around
    Projection   A x = M x                       A Aᵀ = U diag(e) Uᵀ

What a linear A offers beside A(x) is in linear_operator.py; any function, linear or not, is in
function_operator.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.inverse.linear_operator import LinearOperator, Spectrum
from scoresde.parallel.held import held, rows_for
from scoresde.types import pytree_dataclass


def _images(x: Any, name: str) -> None:
    if len(x.shape) < 3:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: {name} wants images (batch, height, width, channels), "
            f"or signals (batch, length, channels). For vectors write "
            f"sd.inverse.Projection(matrix)."
        )


# --- Operators ---


@pytree_dataclass()
class Mask(LinearOperator):
    """A(x) = m x: some entries are known, the others are not. Inpainting.

    What y holds where the mask is 0 or False is never read.

    Raises:
        ValueError: if the mask holds anything but 0 and 1, or no entry is known.
    """

    mask: Any
    """1 or True where x is known: (1, *data) for all examples, or one per example, (batch,
    *data)."""

    def __post_init__(self):
        values = checks.unmasked(self.mask, "mask")
        values = values if isinstance(values, Array) else np.asarray(values)
        if values.ndim < 2:
            raise ValueError(
                f"mask has shape {values.shape}: wanted one for all examples, (1, *data), or one "
                f"per example. For one mask write mask[None]."
            )
        if is_concrete(values):
            _check_mask(np.asarray(values))
        object.__setattr__(self, "mask", held(values.astype(np.float32), "mask"))

    def apply(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """Returns x where it is known, and 0 elsewhere."""
        return self._rows(x) * x

    def of_gram(
        self, function: Spectrum, y: Float[Array, " batch *data"], data_shape: Sequence[int]
    ) -> Float[Array, " batch *data"]:
        """Returns function(m) y."""
        return function(self._rows(y)) * y

    def observed(self, y: Float[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """Returns y where it is known, and 0 elsewhere, whatever it holds there."""
        return jnp.where(self._rows(y) > 0.0, y, jnp.zeros((), y.dtype))

    def num_observed(self, y: Float[Array, " batch *data"]) -> Array:
        """Returns the number of known entries of each example."""
        return jnp.sum(self._rows(y), axis=tuple(range(1, y.ndim)))

    def check_rows(self, batch: int) -> None:
        """Refuses masks of another batch.

        Raises:
            ValueError: if there are.
        """
        rows_for(self.mask, batch, "mask")

    @property
    def _shape(self) -> tuple[int, ...]:
        (mask,) = jax.tree.leaves(self.mask)
        return tuple(mask.shape)

    def _rows(self, x: Any) -> Array:
        mask = rows_for(self.mask, len(x), "mask")
        if mask.shape != x.shape:
            raise ValueError(
                f"the mask has shape {mask.shape[1:]}, and an example {x.shape[1:]}: wanted the "
                f"shape of the data. {_how_to_fit(self._shape, x.shape[1:])}"
            )
        return mask.astype(x.dtype)


def _how_to_fit(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Returns the line that makes a mask of an example's shape, where there is one."""
    lines = {
        "mask[None]": (1, *shape),
        "mask": shape,
        "mask[..., None]": (*shape, 1),
        "mask[None, ..., None]": (1, *shape, 1),
    }
    for line, (rows, *given) in lines.items():
        fits = [m in (1, n) for m, n in zip(given, wanted, strict=False)]
        if len(given) == len(wanted) and all(fits):
            return f"Write np.broadcast_to({line}, {(rows, *wanted)})."
    return f"Write one of shape {(1, *wanted)} for all examples."


def _check_mask(values: np.ndarray) -> None:
    """Refuses masks of other values, or without any known entry."""
    if not np.all((values == 0) | (values == 1)):
        raise ValueError(
            f"mask holds {values.min():g} … {values.max():g}: wanted 1 or True where x is known, "
            f"and 0 or False elsewhere. Of a gray picture write mask > 127."
        )
    empty = np.all(values.reshape(len(values), -1) == 0, axis=1)
    if np.all(empty):
        raise ValueError("mask is 0 everywhere, so that nothing is known: wanted 1 where x is.")
    if np.any(empty):
        raise ValueError(
            f"mask has shape {values.shape}, which is that of {len(values)} examples, and is 0 "
            f"everywhere in row {int(np.argmax(empty))}: wanted something known of every "
            f"example. For one mask of all examples write mask[None]."
        )


@pytree_dataclass("factor")
class Downsample(LinearOperator):
    """A(x): means over blocks of factor pixels along each axis of space. Super-resolution.

    Raises:
        ValueError: if factor is not a whole number, at least 2.
    """

    factor: int
    """Pixels of a block along each axis; it divides every axis of space."""

    def __post_init__(self):
        checks.count("factor", self.factor, at_least=2)

    def apply(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch *measured"]:
        """Returns the mean of every block.

        Raises:
            ValueError: if x is not of images or signals, or factor does not divide an axis.
        """
        _images(x, "Downsample")
        batch, *space, channels = x.shape
        if any(size % self.factor for size in space):
            raise ValueError(
                f"factor = {self.factor} does not divide {' × '.join(map(str, space))}: wanted a "
                f"divisor of every axis of space."
            )
        blocks = [part for size in space for part in (size // self.factor, self.factor)]
        inside = tuple(range(2, 2 + 2 * len(space), 2))
        return jnp.mean(x.reshape(batch, *blocks, channels), axis=inside)

    def of_gram(
        self, function: Spectrum, y: Float[Array, " batch *measured"], data_shape: Sequence[int]
    ) -> Float[Array, " batch *measured"]:
        """Returns function(1 / n) y, n the pixels of a block."""
        pixels = self.factor ** (y.ndim - 2)
        return function(jnp.full((1,) * y.ndim, 1.0 / pixels, y.dtype)) * y


@pytree_dataclass("weights")
class Gray(LinearOperator):
    """A(x): the weighted sum of the channels, (…, 1). Colourisation.

    Raises:
        ValueError: if a weight is not finite, or all are 0.
    """

    weights: tuple[float, ...] | None = None
    """One per channel; None for their mean. (0.299, 0.587, 0.114) is the luma of a photograph."""

    def __post_init__(self):
        if self.weights is None:
            return
        weights = tuple(float(weight) for weight in self.weights)
        if not all(map(math.isfinite, weights)) or not any(weights):
            raise ValueError(f"weights = {weights}: wanted one finite number per channel.")
        object.__setattr__(self, "weights", weights)

    def apply(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch *measured"]:
        """Returns the weighted sum of the channels.

        Raises:
            ValueError: if x has another number of channels.
        """
        _images(x, "Gray")
        return jnp.sum(x * self._weights(x.shape[-1], x.dtype), axis=-1, keepdims=True)

    def of_gram(
        self, function: Spectrum, y: Float[Array, " batch *measured"], data_shape: Sequence[int]
    ) -> Float[Array, " batch *measured"]:
        """Returns function(|w|^2) y."""
        weights = self._weights(data_shape[-1], y.dtype)
        return function(jnp.full((1,) * y.ndim, jnp.sum(weights**2))) * y

    def _weights(self, channels: int, dtype: Any) -> Array:
        weights = (1.0 / channels,) * channels if self.weights is None else self.weights
        if len(weights) != channels:
            raise ValueError(
                f"weights are {weights}, and x has {channels} channels: wanted one per channel."
            )
        return jnp.asarray(weights, dtype)


Boundary = Literal["wrap", "reflect", "zero"]


@pytree_dataclass("boundary")
class Blur(LinearOperator):
    """A(x): the convolution of every channel with a kernel. Deblurring.

    Raises:
        ValueError: if the kernel is not of finite numbers, or boundary is none of the three.
    """

    ill_posed = True

    kernel: Any
    """(height, width) for images, (length,) for signals; its centre is entry size // 2."""
    boundary: Boundary = "wrap"
    """What lies beyond the edge: the other side of the image, where the pseudo-inverse is known,
    its mirror image, or zeros."""

    def __post_init__(self):
        kernel = checks.unmasked(self.kernel, "kernel")
        kernel = kernel if isinstance(kernel, Array) else np.asarray(kernel, np.float32)
        if kernel.ndim not in (1, 2) or kernel.size == 0:
            raise ValueError(
                f"kernel has shape {kernel.shape}: wanted (height, width), or (length,) of signals."
            )
        if is_concrete(kernel) and not np.all(np.isfinite(kernel)):
            raise ValueError("kernel holds NaN or infinity: wanted finite numbers.")
        if self.boundary not in ("wrap", "reflect", "zero"):
            raise ValueError(f"boundary is {self.boundary!r}: wanted 'wrap', 'reflect' or 'zero'.")
        object.__setattr__(self, "kernel", kernel)

    @classmethod
    def gaussian(cls, std: float, size: int, boundary: Boundary = "wrap") -> Blur:
        """Returns the blur by a Gaussian of this standard deviation in pixels, on size × size
        pixels.

        Raises:
            ValueError: if std is not positive, or size is not a whole number.
        """
        checks.setting("std", std, "(0, inf)")
        checks.count("size", size)
        line = np.exp(-0.5 * ((np.arange(size) - size // 2) / std) ** 2)
        kernel = np.outer(line, line)
        return cls(kernel / kernel.sum(), boundary)

    def apply(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch *data"]:
        """Returns the convolution of every channel.

        Raises:
            ValueError: if x is not of images, or smaller than the kernel.
        """
        self._check_size(x)
        channels = x.shape[-1]
        padding = [(0, 0), *((size - 1 - size // 2, size // 2) for size in self._size), (0, 0)]
        mode = {"wrap": "wrap", "reflect": "reflect", "zero": "constant"}[self.boundary]
        padded = jnp.pad(x, padding, mode=mode)

        # lax correlates, so the kernel is turned round; every channel is a group of its own.
        kernel = jnp.flip(jnp.asarray(self.kernel, x.dtype))
        kernel = jnp.broadcast_to(kernel[..., None, None], (*kernel.shape, 1, channels))
        layout = ("NHWC", "HWIO", "NHWC") if len(self._size) == 2 else ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            padded,
            kernel,
            window_strides=(1,) * len(self._size),
            padding="VALID",
            dimension_numbers=layout,
            feature_group_count=channels,
            precision="highest",
        )

    def of_gram(
        self, function: Spectrum, y: Float[Array, " batch *data"], data_shape: Sequence[int]
    ) -> Float[Array, " batch *data"]:
        """Returns function(A Aᵀ) y by the Fourier transform of the kernel, where the image wraps
        around."""
        self._check_size(y)
        axes = tuple(range(1, y.ndim - 1))
        space = tuple(y.shape[axis] for axis in axes)

        spectrum = jnp.fft.rfftn(jnp.asarray(self.kernel, y.dtype), space)
        factor = function(jnp.abs(spectrum[None, ..., None]) ** 2)
        return jnp.fft.irfftn(factor * jnp.fft.rfftn(y, axes=axes), space, axes=axes)

    @property
    def knows_gram(self) -> bool:
        """Whether the image wraps around, so that the Fourier transform diagonalises A."""
        return self.boundary == "wrap"

    @property
    def _size(self) -> tuple[int, ...]:
        return tuple(self.kernel.shape)

    def _check_size(self, x: Any) -> None:
        _images(x, "Blur")
        space = tuple(x.shape[1:-1])
        fits = len(space) == len(self._size)
        if not fits or any(k > n for k, n in zip(self._size, space, strict=True)):
            raise ValueError(
                f"the kernel has shape {self._size}, and x has {' × '.join(map(str, space))} "
                f"pixels: wanted a kernel of as many axes, none of them longer."
            )


@pytree_dataclass()
class Projection(LinearOperator):
    """A(x) = M x, for a matrix M and x as one vector.

    Raises:
        ValueError: if M is not (m, d), or not of finite numbers.
    """

    matrix: Any
    """M: (m, d), d the number of entries of an example."""
    eigenvalues: Any = dataclasses.field(init=False)
    """e of A Aᵀ: (m,)."""
    basis: Any = dataclasses.field(init=False)
    """U of A Aᵀ: (m, m)."""

    def __post_init__(self):
        matrix = checks.unmasked(self.matrix, "matrix")
        matrix = matrix if isinstance(matrix, Array) else np.asarray(matrix)
        if matrix.ndim != 2 or matrix.size == 0:
            raise ValueError(
                f"matrix has shape {matrix.shape}: wanted (m, d). For one row write matrix[None]."
            )
        if is_concrete(matrix):
            values = np.asarray(matrix, np.float64)
            if not np.all(np.isfinite(values)):
                raise ValueError("matrix holds NaN or infinity: wanted finite numbers.")
            eigenvalues, basis = np.linalg.eigh(values @ values.T)
        else:
            eigenvalues, basis = jnp.linalg.eigh(matrix @ matrix.T)
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "eigenvalues", eigenvalues)
        object.__setattr__(self, "basis", basis)

    def apply(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch m"]:
        """Returns M x of each example.

        Raises:
            ValueError: if an example has another number of entries than M has columns.
        """
        dim = math.prod(x.shape[1:])
        if dim != self.matrix.shape[1]:
            raise ValueError(
                f"matrix has shape {self.matrix.shape}, and an example {tuple(x.shape[1:])}, "
                f"{dim} entries: wanted as many columns."
            )
        matrix = jnp.asarray(self.matrix, x.dtype)
        return jnp.einsum("md,bd->bm", matrix, x.reshape(len(x), dim), precision="highest")

    def of_gram(
        self, function: Spectrum, y: Float[Array, " batch m"], data_shape: Sequence[int]
    ) -> Float[Array, " batch m"]:
        """Returns U function(e) Uᵀ y."""
        basis = jnp.asarray(self.basis, y.dtype)
        factor = function(jnp.asarray(self.eigenvalues, y.dtype)[None])
        inside = jnp.einsum("mk,bm->bk", basis, y, precision="highest")
        return jnp.einsum("mk,bk->bm", basis, factor * inside, precision="highest")
