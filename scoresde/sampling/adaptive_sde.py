"""The reverse-time SDE with adaptive steps, each example its own, on Brownian paths that the steps do not bend."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.keys import normal_like
from scoresde.precision import full_precision
from scoresde.sampling.base import Sample, check_sampler_input, check_times, finish, path_of, widen
from scoresde.sde.base import SDE, check_sde, denoise, reverse_drift
from scoresde.types import Cond, Key, ScoreFn, right_pad

LEVELS = 20
"""Halvings of [t_min, start]; a step of the last level is accepted as it is."""


@dataclasses.dataclass(frozen=True)
class AdaptiveSDE:
    """dx = [f x - g^2 score] dt + g dw with step control (Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, Alg. 1):

        x' = x - h F(x, t) + g(t) dw,   x~ = x - h F(x', t - h) + g(t - h) dw,   x'' = (x' + x~) / 2
        E = |(x' - x'') / delta| / sqrt(D),   delta = max(atol, rtol max(|x'|, |x'_prev|))
        accept x'' if E <= 1;   h ← safety h E^{-power}

    Unlike the paper's, steps are halves of halves of [t_min, start], and dw is that interval's increment, drawn by
    Brownian bridges from one path for each key (as in Rackauckas & Nie 2017). Drawing anew after a rejection prefers
    quiet paths and biases the law. Evaluations, per example: 2 an attempted step, one more with `denoise`. There is no
    reverse-mode derivative through its loop. Memory: 21 increments an example beside its state.

    Raises:
        ValueError: if a tolerance is not positive, safety not in (0, 1], power not in [0.5, 1], or not
            0 <= t_min < start <= 1.
        TypeError: if the solver is not one of diffrax's stochastic Runge-Kutta methods with an error estimate.
    """

    rtol: float = 0.02
    """Relative tolerance of a step."""
    atol: float = 0.0078
    """Absolute tolerance of a step, in units of x: a grey level of 256 on [-1, 1]."""
    t_min: float = 1e-3
    """Where to stop: on real data the score blows up as t → 0."""
    start: float = 1.0
    """The time of x1: 1 for draws of the prior, less for data noised part-way."""
    first_step: float = 0.01
    """Length of the first attempt."""
    safety: float = 0.9
    """Of the next step's length, in (0, 1]."""
    power: float = 0.9
    """How fast a step's length follows the error, r in [0.5, 1]."""
    solver: Any = None
    """None: the pair above. Or a diffrax solver for additive noise, e.g. diffrax.ShARK(), which sees one reproducible
    Brownian path whatever the tolerance; a virtual tree costs tens of times the noise of a scan."""
    denoise: bool = True
    """End with one Tweedie denoising, E[x_0 | x_{t_min}]."""
    max_steps: int = 10_000
    """Attempted steps after which an example counts as failed."""
    save_path: bool = False
    """Keep `path_points` states, each the first at or past evenly spaced times, and their E[x_0 | x]."""
    path_points: int = 101

    def __post_init__(self):
        check_times(self.t_min, self.start)
        for name in ("rtol", "atol", "first_step"):
            checks.setting(name, getattr(self, name), "(0, inf)")
        checks.setting("safety", self.safety, "(0, 1]")
        checks.setting("power", self.power, "[0.5, 1]")
        checks.count("max_steps", self.max_steps)
        checks.count("path_points", self.path_points, 2)
        if self.solver is not None:
            stages(self.solver)

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrate x1 at t = start down to t_min. key: one, or one per example; cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """
        check_sde(sde)
        x1, keys = check_sampler_input(key, sde, x1, cond)
        given, (x1, score) = x1.dtype, widen(x1, score)
        points = self.path_points if self.save_path else 2
        stops = jnp.linspace(self.start, self.t_min, points, dtype=x1.dtype)
        drift = lambda x, t, cond: reverse_drift(sde, score, x, t, cond, weight=1.0)  # noqa: E731
        with full_precision():
            if self.solver is None:
                times, states, attempts, success = _pair(
                    self, keys, sde, partial(drift, cond=cond), x1, stops
                )
            else:
                states, attempts, success = jax.vmap(partial(_diffrax, self, sde, drift, stops))(
                    keys, x1, cond
                )
                times, states = stops, jnp.moveaxis(states, 0, 1)
            x, path = states[-1], None
            if self.save_path:
                path, last = path_of(sde, score, times, states, cond)
                x = last if self.denoise else x
            elif self.denoise:
                x = denoise(sde, score, x, jnp.full(x.shape[:1], self.t_min, x.dtype), cond)
        evaluations = 2 if self.solver is None else stages(self.solver)
        nfe = attempts * evaluations + (points if self.save_path else self.denoise)
        return finish(x, success, nfe, path, given)


# --- The paper's pair ---


class _Walk(NamedTuple):
    """Examples on their way: states, steps to attempt, and the pieces of their Brownian paths ahead, nearest last.

    A piece is a dyadic interval, node n of a binary tree: n = 1 is all of [start, t_min], its halves are 2n and 2n + 1.
    """

    t: Array  # (batch,)
    x: Array  # (batch, *data)
    before: Array
    step: Array
    times: Array  # (points, batch)
    states: Array  # (points, batch, *data)
    nodes: Array  # (LEVELS + 1, batch)
    increments: Array  # (LEVELS + 1, batch, *data)
    pieces: Array
    attempts: Array


def _pair(
    settings: AdaptiveSDE, keys: Array, sde: SDE, drift: Any, x: Array, stops: Array
) -> tuple[Array, ...]:
    """Times and states at which the stops were reached, attempted steps, success: (points, batch), …, (batch,).

    The batch in one while loop, in which finished examples rest. A path is a function of its key alone, so that
    rounding, which may turn a decision, moves the result by the tolerance and no more.
    """
    batch, dtype, span = jnp.arange(x.shape[0]), x.dtype, settings.start - settings.t_min
    pad = lambda a: right_pad(a, x)  # noqa: E731

    def normal(nodes):
        return normal_like(jax.vmap(jax.random.fold_in)(keys, nodes), x)

    def active(walk):
        finite = jnp.all(jnp.isfinite(walk.x), axis=tuple(range(1, x.ndim)))
        return (walk.pieces > 0) & (walk.attempts < settings.max_steps) & finite

    def nearest(
        walk,
    ):  # the piece ahead: its place, node, level and length, of which exp2 would round the half
        top = jnp.maximum(walk.pieces - 1, 0)
        node = walk.nodes[top, batch]
        level = 31 - jax.lax.clz(node)
        return top, node, level, jnp.ldexp(jnp.asarray(span, dtype), -level)

    def too_long(walk):
        _, _, level, length = nearest(walk)
        return active(walk) & (length > walk.step) & (level < LEVELS)

    def halve(
        walk,
    ):  # the Brownian bridge: half the increment, and an independent normal of variance length / 4
        halved, (top, node, _, length) = too_long(walk), nearest(walk)
        whole, above = walk.increments[top, batch], jnp.minimum(top + 1, LEVELS)
        left = 0.5 * whole + pad(0.5 * jnp.sqrt(length)) * normal(node)

        def put(stack, place, value):
            return stack.at[place, batch].set(
                jnp.where(pad(halved) if value.ndim > 1 else halved, value, stack[place, batch])
            )

        return walk._replace(
            nodes=put(put(walk.nodes, top, 2 * node + 1), above, 2 * node),
            increments=put(put(walk.increments, top, whole - left), above, left),
            pieces=walk.pieces + halved,
        )

    def attempt(walk):
        walk = jax.lax.while_loop(lambda walk: jnp.any(too_long(walk)), halve, walk)
        top, node, level, h = nearest(walk)
        dw = walk.increments[top, batch]
        ends = jnp.ldexp(
            (node + 1 - 2**level).astype(dtype), -level
        )  # in units of the span, exactly
        t_next = jnp.where(ends == 1.0, stops[-1], settings.start - span * ends)

        slope, g, g_next = drift(walk.x, walk.t), sde.diffusion(walk.t), sde.diffusion(t_next)
        euler = walk.x - pad(h) * slope + pad(g) * dw
        gap = 0.5 * (
            pad(h) * (slope - drift(euler, t_next)) + pad(g_next - g) * dw
        )  # x'' - x', without cancellation
        scale = jnp.maximum(
            settings.atol, settings.rtol * jnp.maximum(jnp.abs(euler), jnp.abs(walk.before))
        )
        state = euler + gap
        finite = jnp.all(
            jnp.isfinite(state), axis=tuple(range(1, x.ndim))
        )  # NaN is taken, and ends the example
        error = jnp.sqrt(jnp.mean((gap / scale) ** 2, axis=tuple(range(1, x.ndim))))
        passed = (error <= 1.0) | (level >= LEVELS) | ~finite
        wanted = settings.safety * h * jnp.maximum(error, 1e-4) ** -settings.power
        moving = active(walk)
        accepted = moving & passed
        reached = accepted & (stops[:, None] < walk.t) & (stops[:, None] >= t_next)
        return walk._replace(
            t=jnp.where(accepted, t_next, walk.t),
            x=jnp.where(pad(accepted), state, walk.x),
            before=jnp.where(pad(accepted), euler, walk.before),
            step=jnp.where(
                accepted, wanted, jnp.where(moving, jnp.minimum(wanted, 0.5 * h), walk.step)
            ),
            times=jnp.where(reached, t_next, walk.times),
            states=jnp.where(
                reached.reshape(*reached.shape, *(1,) * (x.ndim - 1)), state, walk.states
            ),
            pieces=walk.pieces - accepted,
            attempts=walk.attempts + moving,
        )

    zeros, ones = jnp.zeros(x.shape[0], jnp.int32), jnp.ones(x.shape[0], dtype)
    root = jnp.sqrt(jnp.asarray(span, dtype)) * normal(zeros)
    walk = _Walk(
        t=settings.start * ones,
        x=x,
        before=x,
        step=settings.first_step * ones,
        times=jnp.broadcast_to(stops[:, None], (len(stops), x.shape[0])),
        states=jnp.full((len(stops), *x.shape), jnp.nan, dtype).at[0].set(x),
        nodes=jnp.ones((LEVELS + 1, x.shape[0]), jnp.int32),  # 31 - clz of 32 bits is the level
        increments=jnp.zeros((LEVELS + 1, *x.shape), dtype).at[0].set(root),
        pieces=zeros + 1,
        attempts=zeros,
    )
    walk = jax.lax.while_loop(lambda walk: jnp.any(active(walk)), attempt, walk)
    return walk.times, walk.states, walk.attempts, walk.pieces == 0


# --- diffrax's solvers ---


def stages(solver: Any) -> int:
    """Score evaluations of an attempted step.

    Raises:
        TypeError: if the solver is not a stochastic Runge-Kutta method for additive noise with an error estimate.
    """
    tableau: Any = getattr(solver, "tableau", None)
    additive = isinstance(solver, diffrax.AbstractSRK) and isinstance(
        tableau.coeffs_w.a, np.ndarray
    )  # no matrix
    if not additive or tableau.b_error is None:
        raise TypeError(
            f"solver is {solver!r}: wanted an adaptive stochastic Runge-Kutta method of diffrax for additive noise, "
            f"e.g. diffrax.ShARK() or diffrax.SRA1()."
        )
    ignored = 0 if tableau.ignore_stage_f is None else int(tableau.ignore_stage_f.sum())
    return len(tableau.b_sol) - ignored


def _diffrax(
    settings: AdaptiveSDE, sde: SDE, drift: Any, stops: Array, key: Array, x: Array, cond: Cond
) -> tuple[Array, Array, Array]:
    """One example, in u = start - t, which rises; the diffusion is g times the identity. Solvers for additive noise
    want dw and its time integral over a step, no more.
    """
    cond = jax.tree.map(lambda leaf: leaf[None], cond)
    shape, span = x.shape, settings.start - settings.t_min
    brownian = diffrax.VirtualBrownianTree(
        0.0, span, tol=1e-6 * span, shape=(x.size,), key=key, levy_area=diffrax.SpaceTimeLevyArea
    )
    time = lambda u: jnp.clip(settings.start - u, settings.t_min, settings.start).astype(x.dtype)  # noqa: E731
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(
            diffrax.ODETerm(
                lambda u, y, args: -drift(y.reshape(1, *shape), time(u), cond).reshape(-1)
            ),
            diffrax.ControlTerm(
                lambda u, y, args: lineax.DiagonalLinearOperator(
                    jnp.full(x.size, sde.diffusion(time(u)), x.dtype)
                ),
                brownian,
            ),
        ),
        settings.solver,
        t0=0.0,
        t1=span,
        dt0=min(settings.first_step, span),
        y0=x.reshape(-1),
        stepsize_controller=diffrax.PIDController(
            rtol=settings.rtol, atol=settings.atol, dtmin=1e-6 * span
        ),
        saveat=diffrax.SaveAt(ts=jnp.minimum(settings.start - stops, span)),
        max_steps=settings.max_steps,
        throw=False,
    )
    states = jnp.asarray(solution.ys).reshape(len(stops), *shape)
    success = (solution.result == diffrax.RESULTS.successful) & jnp.all(jnp.isfinite(states))
    return states, solution.stats["num_steps"], success
