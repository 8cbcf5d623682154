"""`FlowSolver`: how the probability-flow ODE is integrated, adaptively, for a batch of examples.

    dy/dt = F(y, t);   in another variable u(t):   dy/du = F(y, t(u)) dt/du        (Eq. 1)

diffrax integrates Eq. 1. Each example has its own step control, or the batch has one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array
from jaxtyping import Bool, Int, PyTree

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.parallel.batched import called_for_batch
from scoresde.sampling.variables import InNoiseToSignal, Variable
from scoresde.sde.base import SDE
from scoresde.types import ScoreFn

MAX_STEPS = 4096

Field = Callable[[SDE, ScoreFn, PyTree, PyTree, Array], PyTree]
"""(sde, score, rows, y, t) → dy/dt for the whole batch: y and rows (batch, ...), t (batch,)."""


class Solution(NamedTuple):
    """The end of a solve, per example; nfe is -1 for an implicit solver, which counts no
    evaluations."""

    y: PyTree[Array]
    """States at the end, (batch, ...)."""
    path: PyTree[Array] | None
    """States at the saved times, (batch, times, ...)."""
    nfe: Int[Array, " batch"]
    """Evaluations of the field."""
    success: Bool[Array, " batch"]
    """Whether the end was reached with a finite state."""


@dataclasses.dataclass(frozen=True)
class FlowSolver:
    """Solver, tolerances and variable of an adaptive solve; an object of settings.

    Raises:
        TypeError: if solver or controller is not one of diffrax's, the solver estimates no error
            for step control, the variable is none of sd.variables, or a tolerance is a tracer.
        ValueError: if a tolerance is not positive, or max_steps < 1.
    """

    solver: Any = None
    """A solver of diffrax; None means Dopri5."""
    rtol: float = 1e-5
    """Relative tolerance of a step."""
    atol: float = 1e-5
    """Absolute tolerance of a step, in units of the state."""
    variable: Variable = InNoiseToSignal()
    """What the solver steps in."""
    controller: Any = dataclasses.field(default=None, hash=False)  # may hold arrays
    """A step-size controller of diffrax, in the variable; None means PIDController(rtol, atol)."""
    max_steps: int = MAX_STEPS
    """Attempted steps after which an example counts as failed."""

    def __post_init__(self):
        if self.solver is None:
            object.__setattr__(self, "solver", diffrax.Dopri5())
        for name in ("rtol", "atol"):
            object.__setattr__(self, name, checks.fixed(name, getattr(self, name)))
        checks.setting("rtol", self.rtol, "(0, 1)")
        checks.setting("atol", self.atol, "(0, inf)")
        checks.count("max_steps", self.max_steps)
        _check_pieces(self.solver, self.controller, self.variable)

    def check_start(self, sde: SDE, t_min: float, start: float = 1.0) -> None:
        """Checks that the variable and its derivative are finite at both ends, where that is known
        now.

        Raises:
            ValueError: if log SNR is infinite there.
        """
        if not is_concrete(*jax.tree.leaves(sde)):
            return
        with jax.ensure_compile_time_eval():
            u = self.variable.at(sde, jnp.asarray([t_min, start]))
            _, dt_du = self.variable.time(sde, u)
            finite = np.asarray(jnp.isfinite(u) & jnp.isfinite(dt_du))
        if not finite[0]:
            raise ValueError(
                f"t_min = {t_min} has infinite log SNR under {sde}: write t_min=1e-5, or "
                f"variable=sd.variables.InTime()."
            )
        if not finite[1]:
            raise ValueError(
                f"{sde} has infinite log SNR at t = {start:g}, which {self.variable} cannot step "
                f"from: write variable=sd.variables.InNoiseToSignal()."
            )

    def solve(
        self,
        field: Field,
        sde: SDE,
        score: ScoreFn,
        rows: PyTree,
        y0: PyTree[Array],
        start: float,
        end: float,
        *,
        joint: bool = False,
        save_at: Array | None = None,
        norm: Callable[[PyTree], Array] = optx.rms_norm,
    ) -> Solution:
        """Integrates dy/dt = field(sde, score, rows, y, t) from t = start to end.

        y0: (batch, ...). rows: what the field needs of each example beside its state. joint: one
        step size for the whole batch, or each example its own. save_at: times, in the order of
        integration, at which to keep y as well. norm: of the error estimate, each entry divided by
        atol + rtol |y|, of the batch or of one example; a step is accepted where it is below 1.
        """
        arrays, static = eqx.partition((sde, score), eqx.is_array)
        batch = jax.tree.leaves(y0)[0].shape[0]

        def on_batch(arrays, inputs):
            sde, score = eqx.combine(arrays, static)
            rows, y, t = inputs
            return field(sde, score, rows, y, t)

        if joint:

            def together(t, y):
                return on_batch(arrays, (rows, y, jnp.full(batch, t)))

            one = self._solve_one(together, sde, y0, start, end, save_at, norm)
            path = one.path
            if path is not None:
                path = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), path)
            return Solution(
                one.y, path, jnp.full(batch, one.nfe), jnp.broadcast_to(one.success, batch)
            )

        times = jnp.zeros(batch, jnp.result_type(*jax.tree.leaves(y0)))
        of_one_example = called_for_batch(on_batch, arrays, (rows, y0, times))

        def alone(y0, rows):
            def of_state(t, y):
                return of_one_example((rows, y, t))

            return self._solve_one(of_state, sde, y0, start, end, save_at, norm)

        return jax.vmap(alone)(y0, rows)

    def _solve_one(
        self,
        field: Callable[[Array, PyTree], PyTree],
        sde: SDE,
        y0: PyTree[Array],
        start: float,
        end: float,
        save_at: Array | None,
        norm: Callable[[PyTree], Array],
    ) -> Solution:
        """Integrates one state, with one step size, in the variable u."""
        dtype = jnp.result_type(*jax.tree.leaves(y0))
        u_start = self.variable.at(sde, jnp.asarray(start, dtype)).astype(dtype)
        u_end = self.variable.at(sde, jnp.asarray(end, dtype)).astype(dtype)
        u_saved = None if save_at is None else self.variable.at(sde, save_at).astype(dtype)

        def vector_field(u, y, args):
            t, dt_du = self.variable.time(sde, u)
            dy_dt = field(t.astype(dtype), y)
            return jax.tree.map(lambda dy: (dt_du * dy).astype(dy.dtype), dy_dt)  # Eq. 1

        controller = self.controller
        if controller is None:
            # A step that small means NaN in the field or a singularity: stop, and report it.
            smallest = 4.0 * jnp.finfo(dtype).eps * jnp.maximum(jnp.abs(u_start), jnp.abs(u_end))
            controller = diffrax.PIDController(
                rtol=self.rtol, atol=self.atol, norm=norm, dtmin=smallest, force_dtmin=False
            )

        controller = jax.tree.map(
            lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, controller
        )

        # diffrax's own guess of the first step would cost evaluations.
        first_step = None if isinstance(controller, diffrax.StepTo) else (u_end - u_start) * 1e-2

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),  # pyright: ignore[reportArgumentType]
            self.solver,
            t0=u_start,
            t1=u_end,
            dt0=first_step,
            y0=y0,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(ts=u_saved, t1=True),
            max_steps=self.max_steps,
            throw=False,
        )
        return _checked(solution, self.solver, u_end, saved=save_at is not None)


def _checked(solution: diffrax.Solution, solver: Any, u_end: Array, saved: bool) -> Solution:
    """Reads diffrax's solution; a state that is finite but from the wrong time counts as failed."""
    ts = solution.ts
    assert ts is not None  # t1=True saves at least the end
    end = jax.tree.map(lambda y: y[-1], solution.ys)
    path = jax.tree.map(lambda y: y[:-1], solution.ys) if saved else None

    finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(end)]).all()
    reached = ts[-1] == u_end
    success = (solution.result == diffrax.RESULTS.successful) & finite & reached

    steps = solution.stats["num_steps"]
    counted = evaluations(solver)
    nfe = jnp.full_like(steps, -1) if counted is None else counted[0] + counted[1] * steps
    return Solution(end, path, nfe, success)


def evaluations(solver: Any) -> tuple[int, int] | None:
    """Returns an explicit solver's evaluations of the field before the first step and per attempted
    step; None where they are not fixed."""
    if isinstance(solver, (diffrax.Euler, diffrax.LeapfrogMidpoint)):
        return 0, 1
    if isinstance(solver, diffrax.ReversibleHeun):
        return 1, 1
    if isinstance(solver, diffrax.AbstractERK) and isinstance(
        solver.tableau, diffrax.ButcherTableau
    ):
        stages = solver.tableau.num_stages
        return (1, stages - 1) if solver.tableau.fsal else (0, stages)
    return None


def _check_pieces(solver: Any, controller: Any, variable: Any) -> None:
    """Checks that solver and controller are diffrax's and go together.

    Raises:
        TypeError: if they do not.
    """
    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(f"solver is {solver!r}: wanted one of diffrax's, e.g. diffrax.Dopri5().")
    if controller is not None and not isinstance(controller, diffrax.AbstractStepSizeController):
        raise TypeError(
            f"controller is {controller!r}: wanted one of diffrax's, e.g. "
            f"diffrax.PIDController(1e-5, 1e-5)."
        )
    adaptive = controller is None or isinstance(controller, diffrax.PIDController)
    if adaptive and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise TypeError(
            f"{type(solver).__name__}() estimates no error: give steps, e.g. "
            f"controller=diffrax.StepTo(ts)."
        )
    if not isinstance(variable, Variable):
        raise TypeError(
            f"variable is {variable!r}: wanted one of sd.variables, e.g. sd.variables.InTime()."
        )
