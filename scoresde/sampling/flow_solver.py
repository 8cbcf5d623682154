"""One adaptive ODE solve along the probability flow, for one example: shared by the sampler and the likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import optimistix as optx
from jax import Array
from jaxtyping import Bool, Int, PyTree

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sampling.variables import InLogSNR, InTime
from scoresde.sde.base import SDE

MAX_STEPS = 4096


class Solution(NamedTuple):
    """End state, states at the saved times, evaluations of the field, and whether the end was reached.

    nfe is -1 for an implicit solver, whose evaluations nobody counts.
    """

    y: PyTree[Array]
    path: PyTree[Array] | None
    nfe: Int[Array, ""]
    success: Bool[Array, ""]


def evaluations(solver: Any) -> tuple[int, int] | None:
    """Field evaluations of an explicit solver: (before the first step, per attempted step); None if not fixed."""
    if isinstance(solver, (diffrax.Euler, diffrax.LeapfrogMidpoint)):
        return 0, 1
    if isinstance(solver, diffrax.ReversibleHeun):
        return 1, 1
    if isinstance(solver, diffrax.AbstractERK) and isinstance(
        solver.tableau, diffrax.ButcherTableau
    ):
        stages, reuse = solver.tableau.num_stages, solver.tableau.fsal
        return (1, stages - 1) if reuse else (0, stages)
    return None


def check_solver(solver: Any, rtol: float, atol: float, controller: Any = None) -> Any:
    """The solver, Dopri5 if None, with its settings checked.

    Raises:
        TypeError: if solver or controller is none of diffrax's, or the solver has no error estimate for it.
        ValueError: if a tolerance is not positive.
    """
    solver = diffrax.Dopri5() if solver is None else solver
    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(f"solver is {solver!r}: wanted one of diffrax's, e.g. diffrax.Dopri5().")
    if controller is not None and not isinstance(controller, diffrax.AbstractStepSizeController):
        raise TypeError(
            f"controller is {controller!r}: wanted one of diffrax's, e.g. diffrax.PIDController(1e-5, 1e-5)."
        )
    adaptive = controller is None or isinstance(controller, diffrax.PIDController)
    if adaptive and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise TypeError(
            f"{type(solver).__name__}() estimates no error: give steps, e.g. controller=diffrax.StepTo(ts)."
        )
    checks.setting("rtol", rtol, "(0, 1)")
    checks.setting("atol", atol, "(0, inf)")
    return solver


def check_variable(variable: Any, sde: SDE, t_min: float) -> None:
    """The variable is finite at t_min, where that can be read now.

    Raises:
        ValueError: if log SNR is infinite there.
    """
    if not isinstance(variable, (InTime, InLogSNR)):
        raise TypeError(
            f"variable is {variable!r}: wanted sd.variables.InTime() or sd.variables.InLogSNR()."
        )
    if is_concrete(*jax.tree.leaves(sde)):
        with jax.ensure_compile_time_eval():
            finite = bool(jnp.isfinite(variable.at(sde, jnp.asarray(t_min))))
        if not finite:
            raise ValueError(
                f"t_min = {t_min} has infinite log SNR under {sde}: write t_min=1e-5, or variable=sd.variables.InTime()."
            )


def solve(
    field: Callable[[Array, PyTree], PyTree],
    y0: PyTree[Array],
    sde: SDE,
    start: float,
    end: float,
    *,
    solver: Any,
    variable: InTime | InLogSNR,
    rtol: float,
    atol: float,
    max_steps: int = MAX_STEPS,
    save_at: Array | None = None,
    controller: Any = None,
    norm: Callable[[PyTree], Array] = optx.rms_norm,
) -> Solution:
    """Integrate dy/dt = field(t, y) from t = start to end with step control on this one state.

    controller: None for a PIDController of the tolerances; its times are those of the variable, as diffrax sees it.
    norm: of the error estimate, each entry divided by atol + rtol |y|; a step is kept where it is below 1.
    save_at: times in the order of integration at which to keep y as well (interpolated).
    """
    checks.count("max_steps", max_steps)
    dtype = jnp.result_type(*jax.tree.leaves(y0))
    u0, u1 = (variable.at(sde, jnp.asarray(t, dtype)).astype(dtype) for t in (start, end))

    def vector_field(u, y, args):
        t, dt_du = variable.time(sde, u)
        return jax.tree.map(lambda dy: (dt_du * dy).astype(dy.dtype), field(t.astype(dtype), y))

    between = None if save_at is None else variable.at(sde, save_at).astype(dtype)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),  # pyright: ignore[reportArgumentType]
        solver,
        t0=u0,
        t1=u1,
        dt0=None
        if isinstance(controller, diffrax.StepTo)
        else (u1 - u0) * 1e-2,  # a guess would cost evaluations
        y0=y0,
        stepsize_controller=controller
        or diffrax.PIDController(
            rtol=rtol,
            atol=atol,
            dtmin=4.0 * jnp.finfo(dtype).eps * jnp.maximum(jnp.abs(u0), jnp.abs(u1)),
            force_dtmin=False,  # a step that small means a NaN field or a singularity: stop and say so
            norm=norm,
        ),
        saveat=diffrax.SaveAt(ts=between, t1=True),
        max_steps=max_steps,
        throw=False,
    )
    ys, ts = solution.ys, solution.ts
    assert ts is not None  # t1=True saves at least the end
    last = jax.tree.map(lambda y: y[-1], ys)
    path = None if save_at is None else jax.tree.map(lambda y: y[:-1], ys)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(last)]))
    reached = ts[-1] == u1
    counted, steps = evaluations(solver), solution.stats["num_steps"]
    return Solution(
        y=last,
        path=path,
        nfe=jnp.full_like(steps, -1) if counted is None else counted[0] + counted[1] * steps,
        success=(solution.result == diffrax.RESULTS.successful) & finite & reached,
    )
