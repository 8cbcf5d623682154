"""The probability-flow ODE, solved adaptively: deterministic samples from the prior's draw."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.precision import full_precision
from scoresde.sampling.base import Sample, check_sampler_input, check_times, finish, path_of, widen
from scoresde.sampling.flow_solver import (
    MAX_STEPS,
    InLogSNR,
    InTime,
    check_solver,
    check_variable,
    solve,
)
from scoresde.sde.base import SDE, denoise, reverse_drift
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow:
    """dx/dt = f x - 1/2 g^2 score(x, t) (Song et al. 2021, arXiv:2011.13456, Eq. 13), each example with its own steps.

    Deterministic given x1, and the inverse of `log_likelihood`'s latent. Evaluations differ between examples: `nfe`
    counts those of accepted and rejected steps, the first one and the denoising.

    Raises:
        ValueError: if a tolerance is not positive, or not 0 <= t_min < start <= 1.
        TypeError: if solver or controller is none of diffrax's, or the solver has no error estimate for it.
    """

    solver: Any = None
    """A diffrax solver; None means Dopri5."""
    rtol: float = 1e-5
    """Relative tolerance of a step."""
    atol: float = 1e-5
    """Absolute tolerance of a step, in units of x."""
    t_min: float = 1e-3
    """Where to stop: on real data the score blows up as t → 0."""
    start: float = 1.0
    """The time of x1: 1 for draws of the prior, less for data noised part-way."""
    denoise: bool = True
    """End with one Tweedie denoising, E[x_0 | x_{t_min}]."""
    variable: InTime | InLogSNR = InTime()
    """What the solver steps in."""
    max_steps: int = MAX_STEPS
    """Steps after which an example counts as failed."""
    save_path: bool = False
    """Keep `path_points` states, evenly spaced in t, and their E[x_0 | x], an evaluation each."""
    path_points: int = 101
    controller: Any = None
    """A diffrax step-size controller; None means PIDController(rtol, atol) on each example's own error."""

    def __post_init__(self):
        check_solver(self.solver, self.rtol, self.atol, self.controller)
        check_times(self.t_min, self.start)
        checks.count("max_steps", self.max_steps)
        checks.count("path_points", self.path_points, 2)

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrate x1 at t = start down to t_min; the key is not used. cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a condition does not match it.
        """
        x1, _ = check_sampler_input(key, sde, x1, cond)
        given, (x1, score) = x1.dtype, widen(x1, score)
        check_variable(self.variable, sde, self.t_min)
        solver = check_solver(self.solver, self.rtol, self.atol, self.controller)
        times = (
            jnp.linspace(self.start, self.t_min, self.path_points, dtype=x1.dtype)
            if self.save_path
            else None
        )

        def one(x, c):
            c = None if c is None else jax.tree.map(lambda leaf: leaf[None], c)

            def field(t, x):
                return reverse_drift(sde, score, x[None], t, c, weight=0.5)[0]

            return solve(
                field,
                x,
                sde,
                self.start,
                self.t_min,
                solver=solver,
                variable=self.variable,
                rtol=self.rtol,
                atol=self.atol,
                max_steps=self.max_steps,
                save_at=times,
                controller=self.controller,
            )

        with full_precision():
            solution = jax.vmap(one)(x1, cond)
            x, path = solution.y, None
            if times is not None:
                path, last = path_of(
                    sde, score, times, jnp.moveaxis(jnp.asarray(solution.path), 0, 1), cond
                )
                x = last if self.denoise else x
            elif self.denoise:
                x = denoise(sde, score, x, jnp.full(x.shape[:1], self.t_min, x.dtype), cond)
        more = self.path_points if self.save_path else self.denoise
        nfe = jnp.where(
            solution.nfe < 0, -1, solution.nfe + more
        )  # an implicit solver's are not counted
        return finish(x, solution.success, nfe, path, given)
