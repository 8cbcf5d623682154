"""Weights of the exponential Adams method: integrals over a step, for every step at once.

    c_j = ∫ rate e^{-rate (end - u)} l_j(u) du over [start, end],   rate = 1 + eta        (Eq. 1)

l_j are the Lagrange polynomials through the nodes: lambda = log(alpha / sigma) at the starts of the
last `order` steps, newest first.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def adams_weights(
    start: Array, end: Array, rate: Array, order: int, new: Array | None = None
) -> Array:
    """Returns c_j (Eq. 1) of every step, (steps, order), by Gauss-Legendre quadrature.

    start, end, rate: (steps,), lambda at a step's ends and 1 + eta. The first steps have as many
    nodes as there are; their other weights are zero. new: one more node, before the others.
    """
    steps = len(start)
    width = order + (0 if new is None else 1)

    # Quadrature keeps every digit, where closed forms cancel for short steps.
    u = jnp.asarray(0.5 * (_NODES + 1.0), start.dtype)[None]  # on [0, 1]
    weights = jnp.asarray(0.5 * _WEIGHTS, start.dtype)[None]
    h = end - start
    rate_h = (rate * h)[:, None]
    kernel = weights * rate_h * jnp.exp(-rate_h * (1.0 - u))
    places = start[:, None] + h[:, None] * u

    rows = []
    for count in range(1, order + 1):
        # The steps that have `count` nodes: the first ones have fewer than `order`.
        last = min(count, steps) if count < order else steps
        these = np.arange(count - 1, last)
        nodes = [start[these - j] for j in range(count)]
        if new is not None:
            nodes = [new[these], *nodes]

        bases = [_lagrange(j, nodes, places[these]) for j in range(len(nodes))]
        row = jnp.stack([jnp.sum(kernel[these] * basis, axis=1) for basis in bases], axis=1)
        rows.append(jnp.pad(row, ((0, 0), (0, width - row.shape[1]))))
    return jnp.concatenate(rows)


def _lagrange(j: int, nodes: list[Array], places: Array) -> Array:
    """Returns the Lagrange polynomial l_j at the places, (steps, quadrature points)."""
    basis = jnp.ones_like(places)
    for m, other in enumerate(nodes):
        if m != j:
            basis = basis * (places - other[:, None]) / (nodes[j] - other)[:, None]
    return basis


def midpoint_weights(start: Array, end: Array, rate: Array, order: int) -> Array:
    """Returns the weights of the official DPM-Solver++(2M), (steps, 2).

        (1 - e^{-rate h}) (D_t + (D_t - D_prev) / (2 r)),   r = h_prev / h

    The first step has D_t alone.
    """
    h = end - start
    inverse_ratio = jnp.concatenate([jnp.zeros(1, h.dtype), h[1:] / h[:-1]])
    total = -jnp.expm1(-rate * h)
    newest = total * (1.0 + 0.5 * inverse_ratio)
    previous = -0.5 * total * inverse_ratio
    return jnp.stack([newest, previous], axis=1)
