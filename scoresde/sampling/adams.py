"""Weights of the exponential Adams method: integrals over a step, of every step at once."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def adams_weights(
    start: Array, end: Array, rate: Array, order: int, new: Array | None = None
) -> Array:
    """c_j = int_start^end rate e^{-rate (end - u)} l_j(u) du of every step, (steps, order), by Gauss-Legendre.

    start, end, rate: (steps,), lambda at a step's ends and 1 + eta. Nodes: lambda at the last `order` starts, newest
    first; as many as there are, the other weights zero. new: one more node, before them.
    """
    steps, extra = len(start), 0 if new is None else 1
    u = 0.5 * (
        _NODES + 1.0
    )  # on [0, 1]; the quadrature keeps every digit, closed forms cancel for short steps
    h = end - start
    kernel = 0.5 * _WEIGHTS * (rate * h)[:, None] * jnp.exp(-(rate * h)[:, None] * (1.0 - u))
    places = start[:, None] + h[:, None] * u
    rows = []
    for count in range(
        1, order + 1
    ):  # steps that have `count` nodes: the first ones fewer than order
        of = np.arange(count - 1, min(count, steps) if count < order else steps)
        nodes = [start[of - j] for j in range(count)]
        nodes = nodes if new is None else [new[of], *nodes]
        found = []
        for j, node in enumerate(nodes):
            others = [other for m, other in enumerate(nodes) if m != j]
            basis = jnp.ones_like(places[of])
            for other in others:
                basis = basis * (places[of] - other[:, None]) / (node - other)[:, None]
            found.append(jnp.sum(kernel[of] * basis, axis=1))
        row = jnp.stack(found, axis=1)
        rows.append(jnp.pad(row, ((0, 0), (0, order + extra - row.shape[1]))))
    return jnp.concatenate(rows)


def midpoint_weights(start: Array, end: Array, rate: Array, order: int) -> Array:
    """Of order 2: D_t + (D_t - D_prev) / (2 r), r = h_prev / h, times 1 - e^{-rate h}; the first step has D_t alone."""
    h = end - start
    ratio = jnp.concatenate([jnp.zeros(1), h[1:] / h[:-1]])
    total = -jnp.expm1(-rate * h)
    return jnp.stack([total * (1.0 + 0.5 * ratio), -0.5 * total * ratio], axis=1)
