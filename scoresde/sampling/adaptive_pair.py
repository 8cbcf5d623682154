"""The walk of `AdaptiveSDE`: Euler and improved Euler on dyadic pieces of one Brownian path per
key.

A piece is node n of a binary tree: n = 1 is all of [start, t_min], its halves are 2n and 2n + 1.
Its increment is drawn from its parent's by a Brownian bridge (as in Rackauckas & Nie 2017):

    left half = increment / 2 + sqrt(length) / 2 z        (Eq. 1)

so the path is a function of its key alone. Rounding, which may turn a decision to accept, then
moves the result by the tolerance and no more. The equations of a step are those of adaptive_sde.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scoresde.keys import normal_like
from scoresde.sampling.base import all_finite
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
    walker = Walker(settings, keys, sde, score, stops)
    walk = jax.lax.while_loop(
        lambda walk: jnp.any(walker.is_active(walk)), walker.attempt, walker.start(x)
    )
    reached = jnp.isfinite(walk.states)  # infinite at the start of the walk
    states = jnp.where(reached, walk.states, jnp.nan)
    return walk.times, states, walk.attempts, walk.pieces == 0


@dataclasses.dataclass(frozen=True)
class Walker:
    """The settings of a walk, its keys, one per example, and the steps that it takes."""

    settings: Any
    keys: Array
    sde: SDE
    score: Any
    stops: Array

    @property
    def span(self) -> float:
        """The length of [t_min, start]."""
        return self.settings.start - self.settings.t_min

    def start(self, x: Array) -> Walk:
        """Returns the walk at its start, with one piece ahead: all of the path."""
        num = x.shape[0]
        stops = self.stops
        zeros = jnp.zeros(num, jnp.int32)
        ones = jnp.ones(num, x.dtype)
        root_increment = jnp.sqrt(jnp.asarray(self.span, x.dtype)) * self.normal(zeros, x)
        return Walk(
            t=self.settings.start * ones,
            x=x,
            previous=x,
            step=self.settings.first_step * ones,
            times=jnp.broadcast_to(stops[:, None], (len(stops), num)),
            states=jnp.full((len(stops), *x.shape), jnp.inf, x.dtype).at[0].set(x),
            nodes=jnp.ones((LEVELS + 1, num), jnp.int32),  # 31 - clz of 32 bits is the level
            increments=jnp.zeros((LEVELS + 1, *x.shape), x.dtype).at[0].set(root_increment),
            pieces=zeros + 1,
            attempts=zeros,
        )

    def is_active(self, walk: Walk) -> Array:
        """Whether each example has a piece ahead, attempts left, and a finite state."""
        can_go_on = (walk.pieces > 0) & (walk.attempts < self.settings.max_steps)
        return can_go_on & all_finite(walk.x)

    # --- Pieces ---

    def normal(self, nodes: Array, x: Array) -> Array:
        """Draws the noise of one node per example, like x."""
        return normal_like(jax.vmap(jax.random.fold_in)(self.keys, nodes), x)

    def nearest(self, walk: Walk) -> Piece:
        """Returns the nearest piece of each example."""
        top = jnp.maximum(walk.pieces - 1, 0)
        node = walk.nodes[top, jnp.arange(len(top))]
        level = 31 - jax.lax.clz(node)
        length = jnp.ldexp(jnp.asarray(self.span, walk.x.dtype), -level)  # exp2 would round halves
        return Piece(top, node, level, length)

    def is_too_long(self, walk: Walk) -> Array:
        """Whether each example's nearest piece is longer than its wanted step."""
        piece = self.nearest(walk)
        return self.is_active(walk) & (piece.length > walk.step) & (piece.level < LEVELS)

    def halve(self, walk: Walk) -> Walk:
        """Halves the pieces that are too long (Eq. 1)."""
        batch = jnp.arange(walk.x.shape[0])
        halved = self.is_too_long(walk)
        piece = self.nearest(walk)
        above = jnp.minimum(piece.top + 1, LEVELS)

        increment = walk.increments[piece.top, batch]
        noise = self.normal(piece.node, walk.x)
        left = 0.5 * increment + right_pad(0.5 * jnp.sqrt(piece.length), noise) * noise

        def put(stack, place, value):
            mask = right_pad(halved, value)
            return stack.at[place, batch].set(jnp.where(mask, value, stack[place, batch]))

        nodes = put(walk.nodes, piece.top, 2 * piece.node + 1)
        increments = put(walk.increments, piece.top, increment - left)
        return walk._replace(
            nodes=put(nodes, above, 2 * piece.node),
            increments=put(increments, above, left),
            pieces=walk.pieces + halved.astype(jnp.int32),
        )

    # --- Steps ---

    def attempt(self, walk: Walk) -> Walk:
        """Attempts one step of every example that is not at its end."""
        walk = jax.lax.while_loop(lambda walk: jnp.any(self.is_too_long(walk)), self.halve, walk)
        piece = self.nearest(walk)
        dw = walk.increments[piece.top, jnp.arange(walk.x.shape[0])]
        t_next = self.end_of(piece)
        euler, gap = self.pair(walk, piece.length, t_next, dw)
        return self.accept_or_shorten(walk, piece, t_next, euler, gap)

    def end_of(self, piece: Piece) -> Array:
        """Returns the time at which a piece ends; in units of the span it is dyadic, and exact."""
        dtype = piece.length.dtype
        end = jnp.ldexp((piece.node + 1 - 2**piece.level).astype(dtype), -piece.level)
        return jnp.where(end == 1.0, self.stops[-1], self.settings.start - self.span * end)

    def pair(self, walk: Walk, h: Array, t_next: Array, dw: Array) -> tuple[Array, Array]:
        """Returns x' by Euler's step (Eq. 2), and x'' - x' without cancellation (Eq. 3)."""
        x = walk.x
        slope = reverse_drift(self.sde, self.score, x, walk.t)
        g = self.sde.diffusion(walk.t)
        g_next = self.sde.diffusion(t_next)
        euler = x - right_pad(h, x) * slope + right_pad(g, x) * dw

        slope_next = reverse_drift(self.sde, self.score, euler, t_next)
        gap = 0.5 * (right_pad(h, x) * (slope - slope_next) + right_pad(g_next - g, x) * dw)
        return euler, gap

    def accept_or_shorten(
        self, walk: Walk, piece: Piece, t_next: Array, euler: Array, gap: Array
    ) -> Walk:
        """Moves the examples whose error is small (Eq. 4), and sets the next steps (Eq. 5)."""
        settings = self.settings
        x_new = euler + gap

        # The error. A state that is not finite is accepted, and ends its example.
        largest = jnp.maximum(jnp.abs(euler), jnp.abs(walk.previous))
        scale = jnp.maximum(settings.atol, settings.rtol * largest)
        error = jnp.sqrt(jnp.mean((gap / scale) ** 2, axis=tuple(range(1, gap.ndim))))
        passed = (error <= 1.0) | (piece.level >= LEVELS) | ~all_finite(x_new)

        wanted = settings.safety * piece.length * jnp.maximum(error, 1e-4) ** -settings.power
        moving = self.is_active(walk)
        accepted = moving & passed
        shorter = jnp.where(moving, jnp.minimum(wanted, 0.5 * piece.length), walk.step)

        stops = self.stops[:, None]
        reached = accepted[None] & (stops < walk.t[None]) & (stops >= t_next[None])
        reached_data = right_pad(reached, walk.states)
        return walk._replace(
            t=jnp.where(accepted, t_next, walk.t),
            x=jnp.where(right_pad(accepted, x_new), x_new, walk.x),
            previous=jnp.where(right_pad(accepted, x_new), euler, walk.previous),
            step=jnp.where(accepted, wanted, shorter),
            times=jnp.where(reached, t_next[None], walk.times),
            states=jnp.where(reached_data, x_new[None], walk.states),
            pieces=walk.pieces - accepted.astype(jnp.int32),
            attempts=walk.attempts + moving.astype(jnp.int32),
        )
