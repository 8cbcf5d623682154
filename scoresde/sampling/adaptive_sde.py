"""The reverse-time SDE with adaptive steps, each example its own, on Brownian paths that do not
depend on the steps.

    dx = F dt + g dw,   F = f x - g^2 score(x, t)                                          (Eq. 1)

    x' = x - h F(x, t) + g(t) dw                                                           (Eq. 2)
    x~ = x - h F(x', t - h) + g(t - h) dw,   x'' = (x' + x~) / 2                           (Eq. 3)
    E = |(x' - x'') / delta| / sqrt(D),   delta = max(atol, rtol max(|x'|, |x'_prev|))     (Eq. 4)
    accept x'' if E <= 1;   h ← safety h E^{-power}                                        (Eq. 5)

Jolicoeur-Martineau et al. 2021 (arXiv:2105.14080), Alg. 1. Unlike the paper's, steps are dyadic
parts of [t_min, start], and dw is the increment of one path per key (adaptive_pair.py): drawing
again after a rejection prefers quiet paths, and biases the law.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.parallel.batched import called_for_batch
from scoresde.precision import full_precision
from scoresde.sampling.adaptive_pair import walk_down
from scoresde.sampling.base import Sample, check_times, finish, path_of, sampler_inputs
from scoresde.sde.base import SDE, reverse_drift
from scoresde.sde.bound_score import bind
from scoresde.sde.pure_noise import check_coefficients
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True)
class AdaptiveSDE:
    """The reverse-time SDE with step control (Eq. 2 to 5), or by a stochastic solver of diffrax.

    Evaluations, per example: 2 an attempted step, and one more with `denoise`. Its loop has no
    reverse-mode derivative. Memory: 21 increments an example beside its state.

    Raises:
        ValueError: if a tolerance is not positive, safety not in (0, 1], power not in [0.5, 1], or
            not 0 <= t_min < start <= 1.
        TypeError: if the solver is not one of diffrax's stochastic Runge-Kutta methods with an
            error estimate.
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
    """Factor on the next step's length, in (0, 1]."""
    power: float = 0.9
    """How fast a step's length follows the error, r in [0.5, 1]."""
    solver: Any = None
    """None for the pair above, or a solver of diffrax for additive noise, e.g. diffrax.ShARK(),
    which sees one reproducible Brownian path whatever the tolerance. Its virtual tree costs tens of
    times the noise of a scan."""
    denoise: bool = True
    """Whether to end with one denoising, E[x_0 | x_{t_min}]."""
    max_steps: int = 10_000
    """Attempted steps after which an example counts as failed."""
    save_path: bool = False
    """Whether to keep `path_points` states, each the first at or past evenly spaced times, and
    their E[x_0 | x]."""
    path_points: int = 101
    """States of a path, both ends included."""

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
        """Integrates x1 at t = start down to t_min. key: one, or one per example; cond: leaves
        (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """
        keys, x1, bound, dtype, unbound, cond = sampler_inputs(key, sde, score, x1, cond)
        check_coefficients(sde, type(self).__name__, self.start)
        points = self.path_points if self.save_path else 2
        stops = jnp.linspace(self.start, self.t_min, points, dtype=x1.dtype)

        with full_precision():
            if self.solver is None:
                times, states, attempts, success = walk_down(self, keys, sde, bound, x1, stops)
            else:
                narrow = None if dtype == x1.dtype else dtype
                states, attempts, success = _by_diffrax(
                    self, keys, sde, unbound, cond, x1, stops, narrow
                )
                times = stops

            x = states[-1]
            path = None
            if self.save_path:
                path, denoised = path_of(bound, times, states)
                x = denoised if self.denoise else x
            elif self.denoise:
                x = bound.denoise(x, jnp.full(x.shape[:1], self.t_min, x.dtype))

        per_attempt = 2 if self.solver is None else stages(self.solver)
        nfe = attempts * per_attempt + (points if self.save_path else int(self.denoise))
        return finish(x, success, nfe, path, dtype, score)


# --- The solvers of diffrax ---


def stages(solver: Any) -> int:
    """Returns the evaluations of the score in an attempted step.

    Raises:
        TypeError: if the solver is not a stochastic Runge-Kutta method for additive noise with an
            error estimate.
    """
    tableau: Any = getattr(solver, "tableau", None)
    is_srk = isinstance(solver, diffrax.AbstractSRK)
    additive = is_srk and isinstance(tableau.coeffs_w.a, np.ndarray)  # otherwise a matrix
    if not additive or tableau.b_error is None:
        raise TypeError(
            f"solver is {solver!r}: wanted an adaptive stochastic Runge-Kutta method of "
            "diffrax for additive noise, e.g. diffrax.ShARK() or diffrax.SRA1()."
        )
    ignored = 0 if tableau.ignore_stage_f is None else int(tableau.ignore_stage_f.sum())
    return len(tableau.b_sol) - ignored


def _by_diffrax(
    settings: AdaptiveSDE,
    keys: Array,
    sde: SDE,
    score: ScoreFn,
    cond: Cond,
    x: Array,
    stops: Array,
    narrow: Any,
) -> tuple[Array, Array, Array]:
    """Returns states at the stops (points, batch, *data), attempted steps and success.

    Each example is integrated in u = start - t, which rises. The diffusion is g times the identity,
    and solvers for additive noise need only dw and its time integral over a step.
    """
    arrays, static = eqx.partition((sde, score), eqx.is_array)
    shape = x.shape[1:]
    size = int(np.prod(shape))
    span = settings.start - settings.t_min
    ends = jnp.asarray([0.0, span], x.dtype)  # with float64 enabled, numbers would be float64

    def drift_of_batch(arrays, rows):
        sde, score = eqx.combine(arrays, static)
        x, t, cond = rows
        return reverse_drift(sde, bind(sde, score, cond, narrow), x, t)

    times = jnp.zeros(x.shape[0], x.dtype)
    drift_of_one = called_for_batch(drift_of_batch, arrays, (x, times, cond))

    def time(u):
        t = jnp.clip(settings.start - u, settings.t_min, settings.start)
        return t.astype(x.dtype)

    def one(key, x, cond):
        def drift(u, y, args):
            return -drift_of_one((y.reshape(shape), time(u), cond)).reshape(-1)

        def diffusion(u, y, args):
            g = sde.diffusion(time(u))
            return lineax.DiagonalLinearOperator(jnp.full(size, g, x.dtype))

        path = diffrax.VirtualBrownianTree(
            ends[0],
            ends[1],
            tol=1e-6 * span,
            shape=jax.ShapeDtypeStruct((size,), x.dtype),
            key=key,
            levy_area=diffrax.SpaceTimeLevyArea,
        )
        solution = diffrax.diffeqsolve(
            diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)),
            settings.solver,
            t0=ends[0],
            t1=ends[1],
            dt0=jnp.asarray(min(settings.first_step, span), x.dtype),
            y0=x.reshape(-1),
            stepsize_controller=diffrax.PIDController(
                rtol=settings.rtol, atol=settings.atol, dtmin=1e-6 * span
            ),
            saveat=diffrax.SaveAt(ts=jnp.minimum(settings.start - stops, span)),
            max_steps=settings.max_steps,
            throw=False,
        )
        states = jnp.asarray(solution.ys).reshape(len(stops), *shape)
        finite = jnp.all(jnp.isfinite(states))
        success = (solution.result == diffrax.RESULTS.successful) & finite
        return states, solution.stats["num_steps"], success

    states, attempts, success = jax.vmap(one)(keys, x, cond)
    return jnp.moveaxis(states, 0, 1), attempts, success
