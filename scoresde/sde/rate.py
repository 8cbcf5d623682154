"""Noise rates beta(t) and their integrals B(t), from which VP and sub-VP are built.

    linear      beta(t) = beta_min + (beta_max - beta_min) t                        (Eq. 1)
                B(t) = beta_min t + (beta_max - beta_min) t^2 / 2                   (Eq. 2)
                B(t) - B(s) = (t - s) (beta_min + (beta_max - beta_min) (s + t) / 2)  (Eq. 3)
                t = 2 B / (beta_min + sqrt(beta_min^2 + 2 (beta_max - beta_min) B))   (Eq. 4)
    by a table  B(i / N) = table[i], i = 0 … N, and beta constant in between        (Eq. 5)

Eq. 3 and Eq. 4 are the forms that do not cancel.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sde.base import as_time
from scoresde.types import Scalar, Time, pytree_dataclass


@pytree_dataclass()
class LinearRate:
    """A noise rate that rises linearly in time."""

    beta_min: Scalar
    beta_max: Scalar

    def beta(self, t: Time) -> Array:
        """Returns the rate at t (Eq. 1); like t."""
        return self.beta_min + as_time(t) * (self.beta_max - self.beta_min)

    def integral(self, t: Time) -> Array:
        """Returns B(t) (Eq. 2); like t."""
        t = as_time(t)
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def integral_between(self, s: Array, t: Array) -> Array:
        """Returns B(t) - B(s) (Eq. 3)."""
        return (t - s) * (self.beta_min + 0.5 * (s + t) * (self.beta_max - self.beta_min))

    def time_of_integral(self, integral: Array) -> Array:
        """Returns the time at which B has this value (Eq. 4)."""
        slope = self.beta_max - self.beta_min
        root = jnp.sqrt(self.beta_min**2 + 2.0 * slope * integral)
        return 2.0 * integral / (self.beta_min + root)


@pytree_dataclass()
class TabulatedRate:
    """A noise rate that is constant between the entries of a table of its integral (Eq. 5)."""

    table: Array | np.ndarray | tuple[float, ...]

    def beta(self, t: Time) -> Array:
        """Returns the rate at t; like t."""
        _, rate, _ = self._cell(as_time(t))
        return rate

    def integral(self, t: Time) -> Array:
        """Returns B(t); like t."""
        start, rate, past = self._cell(as_time(t))
        return start + rate * past

    def integral_between(self, s: Array, t: Array) -> Array:
        """Returns B(t) - B(s); within one cell it is the rate times the gap, which does not
        cancel."""
        start_s, rate_s, past_s = self._cell(s)
        start_t, rate_t, past_t = self._cell(t)
        across_cells = (start_t - start_s) + rate_t * past_t - rate_s * past_s
        return jnp.where(start_s == start_t, rate_t * (t - s), across_cells)

    def time_of_integral(self, integral: Array) -> Array:
        """Returns the time at which B has this value."""
        table = jnp.asarray(self.table, integral.dtype)
        times = jnp.linspace(0.0, 1.0, len(table), dtype=integral.dtype)
        return jnp.interp(integral, table, times)

    def _cell(self, t: Array) -> tuple[Array, Array, Array]:
        """Returns, for the cell that holds t, B at its lower end, its rate, and t past that end."""
        table = jnp.asarray(self.table, t.dtype)
        n = len(table) - 1
        i = jnp.clip(jnp.floor(t * n).astype(int), 0, n - 1)
        return table[i], n * jnp.diff(table)[i], t - i.astype(t.dtype) / n


def check_betas(beta_min: Scalar, beta_max: Scalar) -> None:
    """Checks 0 <= beta_min <= beta_max and beta_max > 0; both are rates per unit of time.

    Raises:
        ValueError: if they are not.
    """
    checks.setting("beta_min", beta_min, "[0, inf)")
    checks.setting("beta_max", beta_max, "(0, inf)")
    if is_concrete(beta_min, beta_max) and beta_min > beta_max:
        raise ValueError(
            f"beta_min = {beta_min} is above beta_max = {beta_max}: the rate rises from data to "
            f"prior. Write beta_min={beta_max}, beta_max={beta_min}."
        )
