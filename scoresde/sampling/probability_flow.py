"""The probability-flow ODE, solved adaptively: deterministic samples, given the draw from the
prior.

    dx/dt = f x - 1/2 g^2 score(x, t)        (Eq. 1)

Song et al. 2021 (arXiv:2011.13456), Eq. 13.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.precision import full_precision
from scoresde.sampling.base import Sample, check_times, finish, path_of, sampler_inputs
from scoresde.sampling.flow_solver import MAX_STEPS, FlowSolver
from scoresde.sampling.variables import InTime, Variable
from scoresde.sde.base import SDE
from scoresde.sde.bound_score import bind
from scoresde.sde.flow import flow
from scoresde.sde.pure_noise import check_denoises_noise
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow:
    """The probability flow (Eq. 1) by a solver of diffrax, each example with its own steps.

    It is deterministic given x1, and the inverse of `log_likelihood`'s latent. Evaluations differ
    between examples: `nfe` counts those of accepted and rejected steps, the first one and the
    denoising.

    Raises:
        ValueError: if a tolerance is not positive, or not 0 <= t_min < start <= 1.
        TypeError: if solver or controller is not one of diffrax's, or the solver estimates no
            error.
    """

    solver: Any = None
    """A solver of diffrax; None means Dopri5."""
    rtol: float = 1e-5
    """Relative tolerance of a step."""
    atol: float = 1e-5
    """Absolute tolerance of a step, in units of x."""
    t_min: float = 1e-3
    """Where to stop: on real data the score blows up as t → 0."""
    start: float = 1.0
    """The time of x1: 1 for draws of the prior, less for data noised part-way."""
    denoise: bool = True
    """Whether to end with one denoising, E[x_0 | x_{t_min}]."""
    variable: Variable = InTime()
    """What the solver steps in."""
    max_steps: int = MAX_STEPS
    """Attempted steps after which an example counts as failed."""
    save_path: bool = False
    """Whether to keep `path_points` states, evenly spaced in t, and their E[x_0 | x], which is one
    evaluation each."""
    path_points: int = 101
    """States of a path, both ends included."""
    controller: Any = None
    """A step-size controller of diffrax; None means PIDController(rtol, atol) on each example's
    error."""

    def __post_init__(self):
        _ = self.flow_solver
        check_times(self.t_min, self.start)
        checks.count("path_points", self.path_points, 2, at_most=checks.MOST_STEPS)

    @property
    def flow_solver(self) -> FlowSolver:
        """The solver, with its tolerances and variable."""
        return FlowSolver(
            self.solver, self.rtol, self.atol, self.variable, self.controller, self.max_steps
        )

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrates x1 at t = start down to t_min. The key is not used. cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a condition does not match it.
        """
        inputs = sampler_inputs(key, sde, score, x1, cond)
        self.flow_solver.check_start(sde, self.t_min, self.start)
        check_denoises_noise(sde, score, self.start)
        times = None
        if self.save_path:
            times = jnp.linspace(self.start, self.t_min, self.path_points, dtype=inputs.x.dtype)

        # The condition is a row of each example, so the score is bound to it inside the solve.
        narrow = None if inputs.dtype == inputs.x.dtype else inputs.dtype

        def field(sde, score, cond, x, t):
            score = bind(sde, score, cond, narrow)
            return flow(sde, score, x, t)  # Eq. 1

        with full_precision():
            solution = self.flow_solver.solve(
                field,
                sde,
                inputs.unbound,
                inputs.cond,
                inputs.x,
                self.start,
                self.t_min,
                save_at=times,
            )
            x, path = self._end(inputs.score, solution, times)

        more = self.path_points if self.save_path else int(self.denoise)
        nfe = jnp.where(solution.nfe < 0, -1, solution.nfe + more)
        return finish(x, solution.success, nfe, path, inputs.dtype, score)

    def _end(self, score: Any, solution: Any, times: Array | None) -> Any:
        """Returns the last state, denoised if so set, and the path if it is kept."""
        x = solution.y
        if times is not None:
            path, denoised = path_of(score, times, jnp.moveaxis(solution.path, 0, 1))
            return denoised if self.denoise else x, path
        if self.denoise:
            x = score.denoise(x, jnp.full(x.shape[:1], self.t_min, x.dtype))
        return x, None
