"""What is measured of an image or a vector, y = A(x) + noise: what every linear A offers.

    f(A Aᵀ) y                by the eigenvalues of A Aᵀ                              (Eq. 1)
    A⁺ y = Aᵀ (A Aᵀ)⁺ y                                                              (Eq. 2)

Aᵀ is JAX's own transpose of A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.parallel.held import held, rows_for
from scoresde.types import ShownShort, sum_data

Numbers = Array | np.ndarray

Spectrum = Callable[[Array], Array]
"""A function of the eigenvalues of A Aᵀ, such as e ↦ 1 / (e + 1). They have the rank of y, with an
axis of the batch or of 1 first."""


def _floating(values: Any, name: str) -> Array:
    """Returns a batch of floating-point numbers as JAX's."""
    values = checks.unmasked(values, name)
    checks.batch(values, name)
    return jnp.asarray(values)


class LinearOperator(ShownShort):
    """A linear map of each example: A(x), its transpose, and functions of A Aᵀ where its
    eigenvalues are known.

    A new operator is a frozen pytree dataclass that defines `apply`, linear in x, and, where A Aᵀ
    has known eigenvalues, `of_gram`.
    """

    ill_posed = False
    """Whether the pseudo-inverse magnifies noise and rounding without bound, as that of a blur."""

    def __call__(self, x: Float[Numbers, " batch *data"]) -> Float[Array, " batch *measured"]:
        """Returns A(x) of each example.

        Raises:
            ValueError: if x has no batch axis, or is not of the operator's shape.
        """
        return self.apply(_floating(x, "x"))

    def apply(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch *measured"]:
        """Returns A(x) of each example."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(self, x), A(x).")

    def transpose(
        self, y: Float[Numbers, " batch *measured"], data_shape: Sequence[int]
    ) -> Float[Array, " batch *data"]:
        """Returns Aᵀ y of each example; data_shape is that of one x.

        Raises:
            ValueError: if A is not linear, or y is not of the shape of A(x).
        """
        y = _floating(y, "y")
        x = jax.ShapeDtypeStruct((len(y), *data_shape), y.dtype)
        self.check_linear(x)
        check_measured(y, jax.eval_shape(self.apply, x))
        (x,) = jax.linear_transpose(self.apply, x)(y)
        return x

    def pseudo_inverse(
        self, y: Float[Numbers, " batch *measured"], data_shape: Sequence[int]
    ) -> Float[Array, " batch *data"]:
        """Returns A⁺ y, the smallest x of those whose A(x) is nearest to y (Eq. 2).

        Raises:
            ValueError: if the eigenvalues of A Aᵀ are not known, or y is not of the shape of A(x).
        """
        if not self.knows_gram:
            raise ValueError(
                f"{self} has no pseudo-inverse, since the eigenvalues of A Aᵀ are not known: write "
                f"sd.inverse.Projection(matrix), or a class with `of_gram`."
            )
        y = self.observed(_floating(y, "y"))
        return self.transpose(self.of_gram(inverse_or_zero, y, data_shape), data_shape)

    @property
    def knows_gram(self) -> bool:
        """Whether `of_gram` is defined."""
        return type(self).of_gram is not LinearOperator.of_gram

    def of_gram(
        self, function: Spectrum, y: Float[Array, " batch *measured"], data_shape: Sequence[int]
    ) -> Float[Array, " batch *measured"]:
        """Returns function(A Aᵀ) y (Eq. 1); data_shape is that of one x."""
        raise NotImplementedError(f"{type(self).__name__} does not define of_gram.")

    def observed(self, y: Float[Array, " batch *measured"]) -> Float[Array, " batch *measured"]:
        """Returns y without the entries that A does not measure: as it is, unless overridden."""
        return y

    def num_observed(self, y: Float[Array, " batch *measured"]) -> Array:
        """Returns how many numbers are measured of each example, (batch,)."""
        return jnp.full(y.shape[:1], float(math.prod(y.shape[1:])))

    def misfit(
        self, x: Float[Numbers, " batch *data"], y: Float[Numbers, " rows *measured"]
    ) -> Float[Array, " batch"]:
        """Returns the root mean square of y - A(x) over what is measured of each example, in the
        units of y.

        Over draws of p(x | y) its square is noise_std² on average. y: one for all examples, (1,
        *measured), or one per example.

        Raises:
            ValueError: if y is not of the shape of A(x).
        """
        measured = self(x)
        rows = rows_for(held(_floating(y, "y"), "y"), len(measured), "y")
        check_measured(rows, measured)
        gap = self.observed(rows) - self.observed(measured)
        return jnp.sqrt(sum_data(gap**2) / self.num_observed(measured))

    def check_linear(self, x: Any) -> None:
        """Refuses a function that is not linear; x: an array or a shape.

        Raises:
            ValueError: if it is not.
        """

    def check_differentiable(self, x: Any) -> None:
        """Refuses a function without a derivative; x: an array or a shape.

        Raises:
            ValueError: if it has none.
        """

    def check_rows(self, batch: int) -> None:
        """Refuses rows of another batch.

        Raises:
            ValueError: if it holds some.
        """


ROUNDING = 30.0
"""In units of the machine's: below this share of the largest, an eigenvalue is taken for 0."""


def inverse_or_zero(eigenvalues: Array) -> Array:
    """Returns 1 / e, and 0 where e is zero to rounding."""
    largest = jnp.max(jnp.abs(eigenvalues))
    positive = eigenvalues > ROUNDING * jnp.finfo(eigenvalues.dtype).eps * largest
    return jnp.where(positive, 1.0 / jnp.where(positive, eigenvalues, 1.0), 0.0)


def check_operator(operator: Any) -> None:
    """Refuses what is no operator.

    Raises:
        TypeError: if it is not one.
    """
    wanted = "one such as sd.inverse.Mask(mask), or of a function sd.inverse.Operator(function)."
    checks.instance("operator", operator, LinearOperator, wanted)


def check_measured(y: Any, measured: Any) -> None:
    """Refuses a measurement of another shape than A(x).

    Raises:
        ValueError: if it is.
    """
    if jnp.shape(y) != measured.shape:
        raise ValueError(
            f"y has shape {jnp.shape(y)}, and A(x) has {measured.shape}: wanted one measurement "
            f"per example, or one for all of them, (1, {', '.join(map(str, measured.shape[1:]))})."
        )
