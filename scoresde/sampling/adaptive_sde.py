"""The reverse-time SDE with adaptive steps, each example its own, on Brownian paths that rejections do not bend."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde.calls import full_precision
from scoresde.sampling.base import Sample, check_sampler_input, check_times, finish, path_of
from scoresde.sde.base import SDE, check_sde, denoise, reverse_drift
from scoresde.types import Cond, Key, ScoreFn, check_count, check_setting

PIECES = 8
"""Rejected intervals that an example remembers; with as many, a step is accepted as it is."""


@dataclasses.dataclass(frozen=True)
class AdaptiveSDE:
    """dx = [f x - g^2 score] dt + g dw with step control (Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, Alg. 1):

        x' = x - h F(x, t) + g(t) dw,   x~ = x - h F(x', t - h) + g(t - h) dw,   x'' = (x' + x~) / 2
        E = |(x' - x'') / delta| / sqrt(D),   delta = max(atol, rtol max(|x'|, |x'_prev|))
        accept x'' if E <= 1;   h ← safety h E^{-power}

    Unlike the paper's, a rejected step keeps its Brownian increment: the shorter one is drawn by the bridge within it
    and the rest is kept for later (Rackauckas & Nie 2017, "rejection sampling with memory"). Drawing anew would prefer
    quiet paths. Evaluations, per example: 2 an attempted step, one more with `denoise`.

    Raises:
        ValueError: if a tolerance is not positive, or not 0 <= t_min < start <= 1.
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
    """Of the next step's length."""
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
    """Keep `path_points` states, evenly spaced in t, and their E[x_0 | x]; steps end there."""
    path_points: int = 101

    def __post_init__(self):
        check_times(self.t_min, self.start)
        for name in ("rtol", "atol", "first_step", "safety", "power"):
            check_setting(name, getattr(self, name), 0.0, inclusive=False)
        check_count("max_steps", self.max_steps)
        check_count("path_points", self.path_points, 2)
        if self.solver is not None:
            stages(self.solver)

    def __call__(
        self, key: Key, sde: SDE, score: ScoreFn, x1: Float[Array, " batch *data"], cond: Cond = None
    ) -> Sample:
        """Integrate x1 at t = start down to t_min. key: one, or one per example; cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """
        check_sde(sde)
        x1, keys = check_sampler_input(key, sde, x1, cond)
        points = self.path_points if self.save_path else 2
        stops = jnp.linspace(self.start, self.t_min, points, dtype=x1.dtype)

        def one(key, x, cond):
            cond = jax.tree.map(lambda leaf: leaf[None], cond)
            drift = lambda x, t: reverse_drift(sde, score, x[None], t, cond, weight=1.0)[0]  # noqa: E731
            return (_pair if self.solver is None else _diffrax)(self, key, sde, drift, x, stops)

        with full_precision():
            states, attempts, success = jax.vmap(one)(keys, x1, cond)
            x, path = states[:, -1], None
            if self.save_path:
                path, last = path_of(sde, score, stops, jnp.moveaxis(states, 0, 1), cond)
                x = last if self.denoise else x
            elif self.denoise:
                x = denoise(sde, score, x, jnp.full(x.shape[:1], self.t_min, x.dtype), cond)
        evaluations = 2 if self.solver is None else stages(self.solver)
        nfe = attempts * evaluations + (points if self.save_path else self.denoise)
        return finish(x, success, nfe, path)


# --- The paper's pair, for one example ---


class _Walk(NamedTuple):
    """One example on its way: the step to attempt, and the Brownian path's known pieces ahead, nearest last."""

    t: Array
    x: Array
    before: Array
    step: Array
    stop: Array
    states: Array
    lengths: Array
    increments: Array
    pieces: Array
    attempts: Array


def _pair(
    settings: AdaptiveSDE, key: Array, sde: SDE, drift: Any, x: Array, stops: Array
) -> tuple[Array, Array, Array]:
    """States at the stops, attempted steps, success. A while loop; under vmap it runs until the slowest is done."""
    dtype, last = x.dtype, len(stops) - 1
    least = 4.0 * jnp.finfo(dtype).eps  # a step that t would not feel

    def goes_on(walk):
        return (walk.stop <= last) & (walk.attempts < settings.max_steps) & jnp.all(jnp.isfinite(walk.x))

    def attempt(walk):
        z = jax.random.normal(jax.random.fold_in(key, walk.attempts), x.shape, dtype)
        top = jnp.maximum(walk.pieces - 1, 0)
        ahead = jnp.where(walk.pieces > 0, walk.lengths[top], jnp.inf)  # nothing is known beyond the pieces
        room = walk.t - stops[walk.stop]
        h = jnp.minimum(jnp.minimum(jnp.maximum(walk.step, least), room), ahead)
        whole, known = h >= ahead, walk.pieces > 0
        # The increment over h: the piece itself, a bridge within it, or new.
        length, increment = jnp.where(known, walk.lengths[top], h), walk.increments[top]
        share = h / length
        bridge = share * increment + jnp.sqrt(h * (1.0 - share)) * z
        dw = jnp.where(known, jnp.where(whole, increment, bridge), jnp.sqrt(h) * z)
        # What is left of the piece stays on top, unless it was used whole.
        lengths = walk.lengths.at[top].set(jnp.where(known, length - h, walk.lengths[top]))
        increments = walk.increments.at[top].set(jnp.where(known, increment - dw, increment))
        pieces = walk.pieces - (known & whole)

        t_next = jnp.where(h >= room, stops[walk.stop], walk.t - h)
        euler = walk.x - h * drift(walk.x, walk.t) + sde.diffusion(walk.t) * dw
        second = walk.x - h * drift(euler, t_next) + sde.diffusion(t_next) * dw
        improved = 0.5 * (euler + second)
        scale = jnp.maximum(settings.atol, settings.rtol * jnp.maximum(jnp.abs(euler), jnp.abs(walk.before)))
        error = jnp.sqrt(jnp.mean(((euler - improved) / scale) ** 2))
        accepted = (error <= 1.0) | (pieces >= PIECES) | (h <= least) | ~jnp.isfinite(error)
        factor = settings.safety * jnp.maximum(error, 1e-6) ** -settings.power
        arrived = accepted & (h >= room)

        pushed = jnp.minimum(pieces, PIECES - 1)  # a rejected step's increment is remembered
        return _Walk(
            t=jnp.where(accepted, t_next, walk.t),
            x=jnp.where(accepted, improved, walk.x),
            before=jnp.where(accepted, euler, walk.before),
            step=jnp.where(jnp.isfinite(factor), h * jnp.where(accepted, factor, jnp.minimum(factor, 0.9)), h),
            stop=walk.stop + arrived,
            states=walk.states.at[walk.stop].set(jnp.where(arrived, improved, walk.states[walk.stop])),
            lengths=jnp.where(accepted, lengths, lengths.at[pushed].set(h)),
            increments=jnp.where(accepted, increments, increments.at[pushed].set(dw)),
            pieces=jnp.where(accepted, pieces, pieces + 1),
            attempts=walk.attempts + 1,
        )

    walk = _Walk(
        t=stops[0],
        x=x,
        before=x,
        step=jnp.asarray(settings.first_step, dtype),
        stop=jnp.asarray(1),
        states=jnp.zeros((len(stops), *x.shape), dtype).at[0].set(x),
        lengths=jnp.zeros(PIECES, dtype),
        increments=jnp.zeros((PIECES, *x.shape), dtype),
        pieces=jnp.asarray(0),
        attempts=jnp.asarray(0),
    )
    walk = jax.lax.while_loop(goes_on, attempt, walk)
    return walk.states, walk.attempts, (walk.stop > last) & jnp.all(jnp.isfinite(walk.x))


# --- diffrax's solvers ---


def stages(solver: Any) -> int:
    """Score evaluations of an attempted step.

    Raises:
        TypeError: if the solver is not a stochastic Runge-Kutta method for additive noise with an error estimate.
    """
    tableau: Any = getattr(solver, "tableau", None)
    additive = isinstance(solver, diffrax.AbstractSRK) and isinstance(tableau.coeffs_w.a, np.ndarray)  # no matrix
    if not additive or tableau.b_error is None:
        raise TypeError(
            f"solver is {solver!r}: wanted an adaptive stochastic Runge-Kutta method of diffrax for additive noise, "
            f"e.g. diffrax.ShARK() or diffrax.SRA1()."
        )
    ignored = 0 if tableau.ignore_stage_f is None else int(tableau.ignore_stage_f.sum())
    return len(tableau.b_sol) - ignored


def _diffrax(
    settings: AdaptiveSDE, key: Array, sde: SDE, drift: Any, x: Array, stops: Array
) -> tuple[Array, Array, Array]:
    """In u = start - t, which rises; the diffusion is g times the identity. Solvers for additive noise want dw and its
    time integral over a step, no more."""
    shape, span = x.shape, settings.start - settings.t_min
    brownian = diffrax.VirtualBrownianTree(
        0.0, span, tol=1e-6 * span, shape=(x.size,), key=key, levy_area=diffrax.SpaceTimeLevyArea
    )
    time = lambda u: jnp.clip(settings.start - u, settings.t_min, settings.start).astype(x.dtype)  # noqa: E731
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(
            diffrax.ODETerm(lambda u, y, args: -drift(y.reshape(shape), time(u)).reshape(-1)),
            diffrax.ControlTerm(
                lambda u, y, args: lineax.DiagonalLinearOperator(jnp.full(x.size, sde.diffusion(time(u)), x.dtype)),
                brownian,
            ),
        ),
        settings.solver,
        t0=0.0,
        t1=span,
        dt0=settings.first_step * span,
        y0=x.reshape(-1),
        stepsize_controller=diffrax.PIDController(rtol=settings.rtol, atol=settings.atol, dtmin=1e-6 * span),
        saveat=diffrax.SaveAt(ts=jnp.minimum(settings.start - stops, span)),
        max_steps=settings.max_steps,
        throw=False,
    )
    states = jnp.asarray(solution.ys).reshape(len(stops), *shape)
    success = (solution.result == diffrax.RESULTS.successful) & jnp.all(jnp.isfinite(states))
    return states, solution.stats["num_steps"], success
