"""A measurement y = A(x_0) + noise_std n of each example, in the units of a score's model.

x_data = mean + std x_model                     (standardization.py)
L = A diag(std)                                 A in the model's units                  (Eq. 1)
r = y - A(mean + std x_0)                       what an estimate of x_0 leaves of y     (Eq. 2)
(scale L Lᵀ + noise I)⁻¹ r                      by the eigenvalues of A Aᵀ where they are
                                                known and std is one number, else by
                                                conjugate gradients                     (Eq. 3)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.inverse.conjugate_gradients import conjugate_gradients
from scoresde.inverse.linear_operator import LinearOperator, check_measured, inverse_or_zero
from scoresde.parallel.held import held, rows_for
from scoresde.standardization import Standardization
from scoresde.types import pytree_dataclass, right_pad

MOST_ITERATIONS = 2000
"""The most conjugate gradients of Eq. 3, each an evaluation of A and of its transpose."""


def held_measurement(y: Any) -> Any:
    """Returns y as a score holds it: one measurement for all examples, (1, *measured), or one per
    example.

    Raises:
        TypeError: if it is not an array of floating-point numbers.
        ValueError: if it has no batch axis.
    """
    y = checks.unmasked(y, "y")
    checks.batch(y, "y")
    return held(y if isinstance(y, Array) else np.asarray(y), "y")


def held_noise_std(noise_std: Any, positive: bool = False) -> Any:
    """Returns the standard deviation of the noise as a score holds it, an array, so that another
    one compiles nothing.

    Raises:
        ValueError: if it is not finite, or negative, or, where it must be positive, zero.
    """
    if is_concrete(noise_std) or isinstance(noise_std, (list, tuple)):
        values = np.asarray(noise_std, np.float64)
        low = np.min(values, initial=np.inf)
        if values.ndim > 1 or not np.all(np.isfinite(values)) or low < 0.0:
            raise ValueError(
                f"noise_std = {noise_std!r}: wanted the standard deviation of the noise in y, one "
                f"number that is not negative, or one per example."
            )
        if positive and low == 0.0:
            raise ValueError(
                "noise_std = 0: DPS divides by the variance of the noise in y: wanted a positive "
                "number, e.g. noise_std=0.01; sd.inverse.PiGDM and MMPS take 0."
            )
        noise_std = values
    return held(noise_std, "noise_std")


@pytree_dataclass()
class Measurement:
    """The operator, y and the noise, in the units of a score's model."""

    operator: LinearOperator
    y: Any
    """As `held_measurement` returns it."""
    standardization: Standardization | None = None

    def __call__(self, x0: Float[Array, " batch *data"]) -> Float[Array, " batch *measured"]:
        """Returns A(x_0) of states in the model's units."""
        if self.standardization is not None:
            x0 = self.standardization.to_data(x0)
        return self.operator(x0)

    def residual(self, measured: Float[Array, " batch *measured"]) -> Array:
        """Returns y - A(x_0) (Eq. 2), 0 where nothing is measured.

        Raises:
            ValueError: if y is not of the shape of A(x_0).
        """
        y = rows_for(self.y, len(measured), "y").astype(measured.dtype)
        check_measured(y, measured)
        return self.operator.observed(y) - self.operator.observed(measured)

    def solve(
        self, r: Float[Array, " batch *measured"], scale: Any, noise: Any, data_shape: Any
    ) -> Float[Array, " batch *measured"]:
        """Returns (scale L Lᵀ + noise I)⁻¹ r (Eq. 3), the pseudo-inverse where noise is 0.

        scale, noise: one number, or one per example.
        """
        scale = jnp.broadcast_to(jnp.asarray(scale, r.dtype), r.shape[:1])
        noise = jnp.broadcast_to(jnp.asarray(noise, r.dtype), r.shape[:1])
        std = np.unique(1.0 if self.standardization is None else self.standardization.std)

        if len(std) == 1 and self.operator.knows_gram:
            scale = scale * float(std[0]) ** 2

            def inverse(e: Array) -> Array:
                total = right_pad(scale, e) * e + right_pad(noise, e)
                is_zero = (inverse_or_zero(e) == 0.0) & (right_pad(noise, e) == 0.0)
                return jnp.where(is_zero, 0.0, 1.0 / jnp.where(is_zero, 1.0, total))

            return self.operator.of_gram(inverse, r, data_shape)

        def gram(v: Array) -> Array:
            product = self.linear_part(self.transposed(v, data_shape))
            return right_pad(scale, v) * product + right_pad(noise, v) * v

        return conjugate_gradients(gram, r, MOST_ITERATIONS, 10 * float(jnp.finfo(r.dtype).eps))

    def pseudo_inverse(self, r: Float[Array, " batch *measured"], data_shape: Any) -> Array:
        """Returns L⁺ r = Lᵀ (L Lᵀ)⁺ r."""
        return self.transposed(self.solve(r, 1.0, 0.0, data_shape), data_shape)

    def linear_part(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch *measured"]:
        """Returns L x (Eq. 1)."""
        return jax.jvp(self.__call__, (jnp.zeros_like(x),), (x,))[1]

    def transposed(self, v: Float[Array, " batch *measured"], data_shape: Any) -> Array:
        """Returns Lᵀ v."""
        _, back = jax.vjp(self.__call__, jnp.zeros((len(v), *data_shape), v.dtype))
        return back(v)[0]
