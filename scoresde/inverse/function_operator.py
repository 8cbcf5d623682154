"""Any function as an operator, refused by what it does where it does not serve.

    A(x + u) - A(x) = A'(x) u        of a linear function, up to a constant             (Eq. 1)

A function may have a transpose in JAX and yet another slope than its derivative: where numbers are
rounded, or a gradient is stopped. Both sides of Eq. 1 are computed at one x, along a u that moves
the first example alone, so that one that mixes the examples of a batch is seen too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde.checks import is_concrete
from scoresde.inverse.linear_operator import LinearOperator
from scoresde.types import pytree_dataclass

SAME = 1e-2
"""The share of the largest change that rounding may take from a slope, in bfloat16 too."""


@pytree_dataclass()
class Operator(LinearOperator):
    """Any function as A, of a batch: (batch, *data) → (batch, *measured).

    Linear methods want it linear, up to a constant: its transpose is then JAX's own. `DPS` takes
    any function that has a derivative.
    """

    function: Callable[[Array], Array]
    """x ↦ A(x), each example by itself."""

    def apply(self, x: Float[Array, " batch *data"]) -> Float[Array, " batch *measured"]:
        """Returns function(x).

        Raises:
            ValueError: if it does not return floating-point numbers, or drops the batch axis.
        """
        try:
            measured = self.function(x)
        except Exception as error:
            error.add_note(f"The operator's function was given a batch of examples, {x.shape}.")
            raise
        if not isinstance(measured, Array) or not jnp.issubdtype(measured.dtype, jnp.floating):
            kind = getattr(measured, "dtype", type(measured).__name__)
            raise ValueError(
                f"the operator's function returned {kind}: wanted an array of floating-point "
                f"numbers. Of complex ones z write jnp.stack([z.real, z.imag], axis=-1)."
            )
        if jnp.ndim(measured) < 1 or len(measured) != len(x):
            raise ValueError(
                f"the operator's function returned shape {jnp.shape(measured)} for {len(x)} "
                f"examples: wanted one measurement per example, ({len(x)}, …)."
            )
        return measured

    def check_linear(self, x: Any) -> None:
        """Refuses a function that JAX cannot transpose, or whose derivative is not its slope.

        Raises:
            ValueError: if it is not linear, or mixes the examples of a batch.
        """
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        measured = jax.eval_shape(self.apply, shape)
        try:
            jax.eval_shape(jax.linear_transpose(self.apply, shape), measured)
        except Exception as error:
            raise ValueError(
                "the operator's function is not linear, since JAX has no transpose of it: wanted a "
                "linear one. sd.inverse.DPS takes any function with a derivative."
            ) from error

        moved, derivative = self._both_sides(shape)
        _check_separate(moved)
        if not np.allclose(moved, derivative, rtol=0.0, atol=_rounding(moved)):
            raise ValueError(
                "the operator's function is not linear, since its derivative is not its slope, as "
                "where numbers are rounded: wanted a linear one. sd.inverse.DPS takes any function "
                "with a derivative."
            )

    def check_differentiable(self, x: Any) -> None:
        """Refuses a function without a derivative, as where numbers are rounded.

        Raises:
            ValueError: if its derivative is 0 and it is not constant, or it mixes the examples of a
                batch.
        """
        moved, derivative = self._both_sides(jax.ShapeDtypeStruct(x.shape, x.dtype))
        _check_separate(moved)
        if np.any(moved) and not np.any(derivative):
            raise ValueError(
                "the derivative of the operator's function is 0, as where numbers are rounded, so "
                "y says nothing: wanted a function with a derivative. To round without losing it "
                "write x + jax.lax.stop_gradient(jnp.round(x) - x)."
            )

    def _both_sides(self, shape: jax.ShapeDtypeStruct) -> tuple[np.ndarray, np.ndarray]:
        """Returns both sides of Eq. 1; zeros where the function holds tracers, and says nothing."""
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=shape.shape), shape.dtype)
        u = jnp.asarray(rng.normal(size=shape.shape), shape.dtype).at[1:].set(0.0)
        with jax.ensure_compile_time_eval():
            moved = self.apply(x + u) - self.apply(x)
            _, derivative = jax.jvp(self.apply, (x,), (u,))
        if not is_concrete(moved, derivative):
            return np.zeros(1), np.zeros(1)
        return np.asarray(moved, np.float64), np.asarray(derivative, np.float64)


def _rounding(moved: np.ndarray) -> float:
    return SAME * float(np.max(np.abs(moved), initial=0.0))


def _check_separate(moved: np.ndarray) -> None:
    """Refuses a function that moved other examples than the first.

    Raises:
        ValueError: if it did.
    """
    if np.any(np.abs(moved[1:]) > _rounding(moved)):
        raise ValueError(
            "the operator's function mixes the examples of a batch: wanted one that measures each "
            "by itself, such as jax.vmap of a function of one example."
        )
