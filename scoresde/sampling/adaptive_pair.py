"""The walk of `AdaptiveSDE`: Euler and improved Euler on dyadic pieces of one Brownian path per
key.

A piece is node n of a binary tree: n = 1 is all of [start, t_min], its halves are 2n and 2n + 1.
Its increment is drawn from its parent's by a Brownian bridge (as in Rackauckas & Nie 2017):

    left half = increment / 2 + sqrt(length) / 2 z        (Eq. 1)

so the path is a function of its key alone. Rounding, which may turn a decision to accept, then
moves the result by the tolerance and no more. The equations of a step are those of adaptive_sde.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scoresde.keys import normal_like
from scoresde.sde.base import SDE, reverse_drift
from scoresde.types import right_pad

LEVELS = 20
"""Halvings of [t_min, start]; a step of the last level is accepted whatever its error."""


class Walk(NamedTuple):
    """Examples on their way: states, next attempts, and the pieces of their paths ahead, nearest
    last."""

    t: Array
    """(batch,)."""
    x: Array
    """(batch, *data)."""
    previous: Array
    """x' of the last accepted step, for the error's scale."""
    step: Array
    """Wanted length of the next step."""
    times: Array
    """When each stop was reached, (points, batch)."""
    states: Array
    """The states there, (points, batch, *data)."""
    nodes: Array
    """(LEVELS + 1, batch)."""
    increments: Array
    """(LEVELS + 1, batch, *data)."""
    pieces: Array
    """The number of pieces ahead."""
    attempts: Array


class Piece(NamedTuple):
    """The nearest piece of each example: its place on the stack, node, level and length."""

    top: Array
    node: Array
    level: Array
    length: Array


def walk_down(
    settings: Any, keys: Array, sde: SDE, score: Any, x: Array, stops: Array
) -> tuple[Array, Array, Array, Array]:
    """Walks from stops[0] = start down to stops[-1] = t_min; the batch is one while loop.

    Returns times and states at which the stops were reached, (points, batch) and (points, batch,
    *data), and per example the attempted steps and whether the end was reached.
    """
    batch = jnp.arange(x.shape[0])
    dtype = x.dtype
    span = settings.start - settings.t_min

    def pad(a):
        return right_pad(a, x)

    def normal(nodes):
        return normal_like(jax.vmap(jax.random.fold_in)(keys, nodes), x)

    def all_finite(x):
        return jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))

    def is_active(walk):
        return (walk.pieces > 0) & (walk.attempts < settings.max_steps) & all_finite(walk.x)

    def nearest(walk):
        top = jnp.maximum(walk.pieces - 1, 0)
        node = walk.nodes[top, batch]
        level = 31 - jax.lax.clz(node)
        length = jnp.ldexp(jnp.asarray(span, dtype), -level)  # exp2 would round the halves
        return Piece(top, node, level, length)

    # --- Halve the pieces that are longer than the wanted step (Eq. 1) ---

    def is_too_long(walk):
        piece = nearest(walk)
        return is_active(walk) & (piece.length > walk.step) & (piece.level < LEVELS)

    def halve(walk):
        halved = is_too_long(walk)
        piece = nearest(walk)
        above = jnp.minimum(piece.top + 1, LEVELS)

        increment = walk.increments[piece.top, batch]
        left = 0.5 * increment + pad(0.5 * jnp.sqrt(piece.length)) * normal(piece.node)

        def put(stack, place, value):
            mask = pad(halved) if value.ndim > 1 else halved
            return stack.at[place, batch].set(jnp.where(mask, value, stack[place, batch]))

        nodes = put(walk.nodes, piece.top, 2 * piece.node + 1)
        increments = put(walk.increments, piece.top, increment - left)
        return walk._replace(
            nodes=put(nodes, above, 2 * piece.node),
            increments=put(increments, above, left),
            pieces=walk.pieces + halved,
        )

    # --- Attempt one step of every example that is not at its end ---

    def attempt(walk):
        walk = jax.lax.while_loop(lambda walk: jnp.any(is_too_long(walk)), halve, walk)
        piece = nearest(walk)
        h = piece.length
        dw = walk.increments[piece.top, batch]

        # The end of the piece in units of the span is a dyadic number, and exact.
        end = jnp.ldexp((piece.node + 1 - 2**piece.level).astype(dtype), -piece.level)
        t_next = jnp.where(end == 1.0, stops[-1], settings.start - span * end)

        # x' by Euler's step (Eq. 2), and x'' - x' without cancellation (Eq. 3).
        slope = reverse_drift(sde, score, walk.x, walk.t, weight=1.0)
        g = sde.diffusion(walk.t)
        g_next = sde.diffusion(t_next)
        euler = walk.x - pad(h) * slope + pad(g) * dw
        slope_next = reverse_drift(sde, score, euler, t_next, weight=1.0)
        gap = 0.5 * (pad(h) * (slope - slope_next) + pad(g_next - g) * dw)
        x_new = euler + gap

        # The error (Eq. 4). A state that is not finite is accepted, and ends its example.
        largest = jnp.maximum(jnp.abs(euler), jnp.abs(walk.previous))
        scale = jnp.maximum(settings.atol, settings.rtol * largest)
        error = jnp.sqrt(jnp.mean((gap / scale) ** 2, axis=tuple(range(1, x.ndim))))
        passed = (error <= 1.0) | (piece.level >= LEVELS) | ~all_finite(x_new)

        # The next step (Eq. 5).
        wanted = settings.safety * h * jnp.maximum(error, 1e-4) ** -settings.power
        moving = is_active(walk)
        accepted = moving & passed
        shorter = jnp.where(moving, jnp.minimum(wanted, 0.5 * h), walk.step)

        reached = accepted & (stops[:, None] < walk.t) & (stops[:, None] >= t_next)
        reached_data = reached.reshape(*reached.shape, *(1,) * (x.ndim - 1))
        return walk._replace(
            t=jnp.where(accepted, t_next, walk.t),
            x=jnp.where(pad(accepted), x_new, walk.x),
            previous=jnp.where(pad(accepted), euler, walk.previous),
            step=jnp.where(accepted, wanted, shorter),
            times=jnp.where(reached, t_next, walk.times),
            states=jnp.where(reached_data, x_new, walk.states),
            pieces=walk.pieces - accepted,
            attempts=walk.attempts + moving,
        )

    zeros = jnp.zeros(x.shape[0], jnp.int32)
    ones = jnp.ones(x.shape[0], dtype)
    root_increment = jnp.sqrt(jnp.asarray(span, dtype)) * normal(zeros)
    walk = Walk(
        t=settings.start * ones,
        x=x,
        previous=x,
        step=settings.first_step * ones,
        times=jnp.broadcast_to(stops[:, None], (len(stops), x.shape[0])),
        states=jnp.full((len(stops), *x.shape), jnp.nan, dtype).at[0].set(x),
        nodes=jnp.ones((LEVELS + 1, x.shape[0]), jnp.int32),  # 31 - clz of 32 bits is the level
        increments=jnp.zeros((LEVELS + 1, *x.shape), dtype).at[0].set(root_increment),
        pieces=zeros + 1,
        attempts=zeros,
    )
    walk = jax.lax.while_loop(lambda walk: jnp.any(is_active(walk)), attempt, walk)
    return walk.times, walk.states, walk.attempts, walk.pieces == 0
