"""Conjugate gradients for a batch of systems S_i u_i = b_i, S symmetric and positive.

    u ← u + a p,   r ← r - a S p,   a = rᵀ z / pᵀ S p,   z = M⁻¹ r                   (Eq. 1)
    p ← z + b p,   b = (rᵀ z)_new / rᵀ z                                              (Eq. 2)

Each example has its own a and b, so it does not depend on its neighbours. It stops moving once |r|
<= tolerance |b|, and at a direction with pᵀ S p < least pᵀ p, which S cannot have: the Jacobian of
a network is no covariance, and there its sum with the noise can be near 0 or negative.
Hestenes & Stiefel 1952; Rozet et al. 2024 (arXiv:2405.13712), Alg. 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from scoresde.types import right_pad, sum_data

Linear = Callable[[Array], Array]
"""A linear map of each example of a batch."""


ROUNDED = 0.99
"""What rounding may take of a curvature that is the least one."""


class _State(NamedTuple):
    iteration: Array
    u: Array
    r: Array
    p: Array
    rz: Array
    moving: Array


def conjugate_gradients(
    product: Linear,
    b: Float[Array, " batch *measured"],
    iterations: int,
    tolerance: float,
    preconditioner: Linear | None = None,
    least: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch *measured"]:
    """Returns u with S u = b, after at most this many iterations, one product each.

    product: v ↦ S v. preconditioner: v ↦ M⁻¹ v, M near S. least: what no eigenvalue of S is below;
    0 if None. The derivative is that of the solution, by another solve.
    """
    floor = jnp.zeros(len(b), b.dtype) if least is None else least

    def solve(product: Linear, b: Array) -> Array:
        return _iterate(product, b, iterations, tolerance, preconditioner, floor)

    return jax.lax.custom_linear_solve(product, b, solve, solve, symmetric=True)


def _iterate(
    product: Linear, b: Array, iterations: int, tolerance: float, preconditioner: Any, least: Array
) -> Array:
    """Runs Eq. 1 and 2 until every example has stopped."""
    precondition = (lambda v: v) if preconditioner is None else preconditioner
    target = tolerance**2 * sum_data(b**2)

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.iteration < iterations) & jnp.any(state.moving)

    def improve(state: _State) -> _State:
        image = product(state.p)
        curvature = sum_data(state.p * image)
        possible = (curvature > 0.0) & (curvature >= ROUNDED * least * sum_data(state.p**2))
        moving = state.moving & (possible | jnp.isnan(curvature))

        a = right_pad(jnp.where(moving, state.rz / jnp.where(moving, curvature, 1.0), 0.0), b)
        u = state.u + a * state.p  # Eq. 1
        r = state.r - a * image

        z = precondition(r)
        rz = sum_data(r * z)
        ratio = jnp.where(moving, rz / jnp.where(state.rz > 0.0, state.rz, 1.0), 0.0)
        p = z + right_pad(ratio, b) * state.p  # Eq. 2
        moving = moving & (sum_data(r**2) > target)
        return _State(state.iteration + 1, u, r, p, rz, moving)

    z = precondition(b)
    moving = ~(sum_data(b**2) == 0.0)  # where b holds NaN, so will u
    start = _State(jnp.zeros((), int), jnp.zeros_like(b), b, z, sum_data(b * z), moving)
    return jax.lax.while_loop(unfinished, improve, start).u
